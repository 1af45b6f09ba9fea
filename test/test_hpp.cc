/* The C++ header from a C++ program: what it owns, throws and returns, as C++17 and (test_hpp_20) as C++20. */
#include "matformer.hpp"

#include <cstdio>
#include <cstdlib>

static int n_check;

#define CHECK(condition)                                                         \
    do {                                                                         \
        n_check++;                                                               \
        if (!(condition)) {                                                      \
            std::fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #condition); \
            std::exit(1);                                                        \
        }                                                                        \
    } while (0)

template <class Function> static mf_status status_of(Function &&function)
{
    try {
        function();
    } catch (const matformer::error &error) {
        CHECK(error.what()[0] != '\0');
        return error.status();
    }
    return MF_OK;
}

static_assert(!std::is_copy_constructible_v<matformer::model> &&
              std::is_nothrow_move_constructible_v<matformer::model>);
static_assert(!std::is_copy_constructible_v<matformer::session>);
static_assert(sizeof(matformer::model) == sizeof(void *) && sizeof(matformer::session) == sizeof(void *));

static std::string written(matformer::session &session, const matformer::submodel &view, const char *prompt)
{
    std::string text;
    auto options = matformer::generate_options();
    options.prompt = prompt;
    options.max_tokens = 12;
    options.ignore_eos = 1;
    const auto result = matformer::generate(session, view, options, [&text](const mf_token_event &event) {
        text.append(event.text, event.text_bytes);
        return true;
    });
    CHECK(result.n_generated == 12 && result.finish == MF_FINISH_LENGTH);
    return text;
}

static void views(const matformer::model &model)
{
    const auto names = model.granularities();
    CHECK(names.size() == model.info().n_granularity && names.size() > 1);
    const auto narrow = model.extract(names.front()), widest = model.extract();
    CHECK(narrow.text() == names.front() && narrow.info().n_param < widest.info().n_param);
    CHECK(narrow.layer(0).kept && narrow.layer(0).ffn < widest.layer(0).ffn);
    auto spec = matformer::submodel_spec();
    spec.ratio = 1;
    CHECK(model.extract(spec).text() == widest.text());
    CHECK(status_of([&] { model.extract("no such size"); }) != MF_OK);
    CHECK(status_of([&] { narrow.layer(99); }) == MF_E_RANGE);
    CHECK(model.metadata("no such key") == nullptr && model.configurations().empty());
}

static void timelines(const matformer::model &model)
{
    const auto view = model.extract();
    matformer::session session(model);
    const std::string text = written(session, view, "Once upon");
    CHECK(session.position() == 12 + model.tokenize("Once upon").size());
    CHECK(model.detokenize(session.tokens()) == "Once upon" + text);
    matformer::session other = session.fork();
    other.rewind(3);
    CHECK(other.position() == 3 && session.position() > 3);
    CHECK(status_of([&] { other.rewind(4); }) == MF_E_RANGE);
    matformer::session fresh(model);
    CHECK(written(fresh, view, "Once upon") == text);
    fresh = std::move(other);
    CHECK(fresh.position() == 3);
}

/* A callback's own exception comes out, and the session holds what had an event. */
static void exceptions(const matformer::model &model)
{
    matformer::session session(model);
    matformer::executor executor(model);
    auto options = matformer::generate_options();
    options.prompt = "a";
    unsigned n_event = 0;
    bool caught = false;
    try {
        matformer::generate(&executor, session, model.extract(), options, [&n_event](const mf_token_event &) -> bool {
            if (++n_event == 3) throw std::string("enough");
            return true;
        });
    } catch (const std::string &thrown) {
        caught = thrown == "enough";
    }
    CHECK(caught && n_event == 3 && session.position() == 4);
    CHECK(status_of([] { matformer::model::open("/no/such/file"); }) == MF_E_NOT_FOUND);
}

/* A batch of two, and the token that follows. */
static void batches(const matformer::model &model)
{
    matformer::session first(model), second(model);
    matformer::executor executor(model);
    matformer::sampler sampler(model);
    const auto narrow = model.extract(model.granularities().front()), wide = model.extract();
    const std::vector<std::int32_t> tokens = model.tokenize("The bell");
    std::vector<float> logits(2 * model.info().n_vocab);
    std::vector<mf_request> requests(2);
    for (std::size_t i = 0; i < 2; i++) {
        requests[i].session = (i == 0 ? first : second).get();
        requests[i].submodel = (i == 0 ? narrow : wide).get();
        requests[i].tokens = tokens.data();
        requests[i].n_token = tokens.size();
        requests[i].logits = logits.data() + i * model.info().n_vocab;
        requests[i].logits_capacity = model.info().n_vocab;
    }
    executor.forward(requests);
    const matformer::span<const float> row(logits.data(), model.info().n_vocab);
    const mf_token_logprob chosen = sampler.sample(first.tokens(), row);
    CHECK(chosen.logprob < 0);
    for (float logit : row)
        CHECK(logit <= row[static_cast<std::size_t>(chosen.token)]);
    requests[1] = requests[0];
    CHECK(status_of([&] { executor.forward(requests); }) == MF_E_INVALID); /* a session twice */
}

int main(int argc, char **argv)
{
    if (argc != 2) return 2;
    const auto model = matformer::model::open(argv[1]);
    views(model);
    timelines(model);
    exceptions(model);
    batches(model);
    model.trim();
    CHECK(model.info().n_shell_resident < model.info().n_shell || model.info().n_shell == 1);
    model.grow();
    CHECK(model.info().n_shell_resident == model.info().n_shell);
    std::printf("%d checks\n", n_check);
    return 0;
}
