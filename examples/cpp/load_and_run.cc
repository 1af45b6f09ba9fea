/* load_and_run MODEL [VIEW] [PROMPT] - opens a model, takes a view of it, and lets it write. */
#include <exception>
#include <iostream>
#include <matformer.hpp>
#include <string>

int main(int argc, char **argv)
try {
    if (argc < 2) {
        std::cerr << "usage: " << argv[0] << " MODEL [VIEW] [PROMPT]\n";
        return 2;
    }
    const std::string prompt = argc > 3 ? argv[3] : "Once upon a time";
    const auto model = matformer::model::open(argv[1]);
    matformer::session session(model);
    auto options = matformer::generate_options();
    options.prompt = prompt.c_str();
    options.max_tokens = 64;
    std::cout << prompt;
    matformer::generate(session, model.extract(argc > 2 ? argv[2] : "1"), options, [](const mf_token_event &event) {
        std::cout.write(event.text, static_cast<std::streamsize>(event.text_bytes)).flush();
        return true;
    });
    std::cout << '\n';
    return 0;
} catch (const std::exception &error) {
    std::cerr << error.what() << '\n';
    return 1;
}
