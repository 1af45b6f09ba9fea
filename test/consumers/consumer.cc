/* consumer.c in C++17. */
#include <cstdio>
#include <iostream>
#include <matformer.hpp>

int main(int argc, char **argv)
{
    try {
        const auto model = matformer::model::open(argc == 2 ? argv[1] : "");
        auto options = matformer::generate_options();
        options.prompt = "Once upon a time";
        options.max_tokens = 24;
        for (const char *size : { "S", "XL" }) {
            matformer::session session(model);
            std::cout << size << ": ";
            matformer::generate(session, model.extract(size), options, [](const mf_token_event &event) {
                std::cout.write(event.text, static_cast<std::streamsize>(event.text_bytes));
                return true;
            });
            std::cout << "\n";
        }
    } catch (const std::exception &error) {
        std::cerr << error.what() << "\n";
        return 1;
    }
    return 0;
}
