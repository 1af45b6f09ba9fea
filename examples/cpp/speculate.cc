/* speculate MODEL [DRAFT] - a narrow view writes ahead and the widest verifies: the same tokens, which is checked here. */
#include <cstdint>
#include <exception>
#include <iostream>
#include <matformer.hpp>
#include <vector>

namespace
{

std::vector<std::int32_t> write_text(matformer::executor &executor, const matformer::model &model,
                                     const matformer::submodel &view, const mf_submodel *draft)
{
    matformer::session session(model);
    std::vector<std::int32_t> tokens;
    auto options = matformer::generate_options();
    options.prompt = "The old king had three daughters";
    options.max_tokens = 160;
    options.ignore_eos = 1;
    options.draft = draft;
    const auto result = matformer::generate(&executor, session, view, options, [&](const mf_token_event &event) {
        tokens.push_back(event.token);
        return true;
    });
    std::cout << result.n_generated << " tokens in " << static_cast<double>(result.generate_ns) / 1e6 << " ms";
    if (draft != nullptr)
        std::cout << "; " << result.n_accepted << " of " << result.n_drafted << " drafted ones accepted";
    std::cout << '\n';
    return tokens;
}

} // namespace

int main(int argc, char **argv)
try {
    if (argc != 2 && argc != 3) {
        std::cerr << "usage: " << argv[0] << " MODEL [DRAFT]\n";
        return 2;
    }
    const auto model = matformer::model::open(argv[1]);
    matformer::executor executor(model);
    const auto wide = model.extract();
    const auto draft = model.extract(argc == 3 ? argv[2] : model.granularities().front());
    const auto alone = write_text(executor, model, wide, nullptr);
    const auto together = write_text(executor, model, wide, draft.get());
    std::cout << model.detokenize(together) << '\n';
    if (alone == together) return 0;
    std::cerr << "the texts differ: a defect\n";
    return 1;
} catch (const std::exception &error) {
    std::cerr << error.what() << '\n';
    return 1;
}
