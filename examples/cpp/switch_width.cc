/* switch_width MODEL - one session, all widths of the file, one timeline: each view goes on where the one before stood. */
#include <exception>
#include <iostream>
#include <matformer.hpp>

int main(int argc, char **argv)
try {
    if (argc != 2) {
        std::cerr << "usage: " << argv[0] << " MODEL\n";
        return 2;
    }
    const auto model = matformer::model::open(argv[1]);
    matformer::executor executor(model);
    matformer::session session(model);
    auto options = matformer::generate_options();
    options.prompt = "Once upon a time there was a king"; /* of the first view; the others go on */
    options.max_tokens = 24;
    for (const auto &name : model.granularities()) {
        const auto view = model.extract(name);
        std::cout << "\n[" << name << ", " << view.info().n_param << " parameters, from position " << session.position()
                  << "] " << (options.prompt ? options.prompt : "");
        matformer::generate(&executor, session, view, options, [](const mf_token_event &event) {
            std::cout.write(event.text, static_cast<std::streamsize>(event.text_bytes)).flush();
            return true;
        });
        options.prompt = nullptr;
    }
    std::cout << '\n';
    return 0;
} catch (const std::exception &error) {
    std::cerr << error.what() << '\n';
    return 1;
}
