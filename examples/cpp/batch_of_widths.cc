/* batch_of_widths MODEL - several timelines, each with a width of its own, moved on together: each part of the weights is
 * read once, for the timelines whose view reaches it. */
#include <algorithm>
#include <cstdint>
#include <exception>
#include <iostream>
#include <iterator>
#include <matformer.hpp>
#include <string>
#include <vector>

namespace
{

struct timeline {
    std::string width;
    matformer::submodel view;
    matformer::session session;
    std::vector<std::int32_t> next; /* the tokens that are not yet in the session */
    std::vector<float> logits;
};

/* Appends `next` to every timeline, and chooses what follows. */
void step(matformer::executor &executor, std::vector<timeline> &timelines)
{
    std::vector<mf_request> requests;
    for (auto &t : timelines) {
        mf_request request{};
        request.session = t.session.get();
        request.submodel = t.view.get();
        request.tokens = t.next.data();
        request.n_token = t.next.size();
        request.logits = t.logits.data();
        request.logits_capacity = t.logits.size();
        requests.push_back(request);
    }
    executor.forward(requests);
    for (auto &t : timelines) {
        const auto best = std::max_element(t.logits.begin(), t.logits.end());
        t.next = { static_cast<std::int32_t>(std::distance(t.logits.begin(), best)) };
    }
}

} // namespace

int main(int argc, char **argv)
try {
    if (argc != 2) {
        std::cerr << "usage: " << argv[0] << " MODEL\n";
        return 2;
    }
    const auto model = matformer::model::open(argv[1]);
    matformer::executor executor(model);
    const auto prompt = model.tokenize("In the middle of the forest there stood");
    std::vector<timeline> timelines;
    for (const auto &width : model.granularities())
        timelines.push_back({ width, model.extract(width), matformer::session(model), prompt,
                              std::vector<float>(model.info().n_vocab) });
    for (int i = 0; i < 32; i++)
        step(executor, timelines);
    for (const auto &t : timelines)
        std::cout << '[' << t.width << "] " << model.detokenize(t.session.tokens()) << '\n';
    return 0;
} catch (const std::exception &error) {
    std::cerr << error.what() << '\n';
    return 1;
}
