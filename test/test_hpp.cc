/* The C++ header from a C++ program: what it owns, throws and returns, as C++17 and (test_hpp_20) as C++20. */
#include "matformer.hpp"

#include <cstdio>
#include <cstdlib>

static int n_check;
static std::size_t n_new, n_alloc; /* calls of operator new, and of the library's allocator */

void *operator new(std::size_t bytes)
{
    n_new++;
    if (void *memory = std::malloc(bytes > 0 ? bytes : 1)) return memory;
    throw std::bad_alloc();
}
void operator delete(void *memory) noexcept
{
    std::free(memory);
}
void operator delete(void *memory, std::size_t) noexcept
{
    std::free(memory);
}

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
    auto again = session.fork();
    auto options = matformer::generate_options();
    options.prompt = prompt;
    options.max_tokens = 12;
    options.ignore_eos = 1;
    const auto result = matformer::generate(session, view, options, [&text](const mf_token_event &event) {
        text.append(event.text, event.text_bytes);
        return true;
    });
    CHECK(result.n_generated == 12 && result.finish == MF_FINISH_LENGTH);

    /* Asked for, the same text. */
    std::string asked;
    matformer::generation moved(nullptr, again, view, options), generation = std::move(moved);
    for (auto batch = generation.next(); batch.n_event > 0; batch = generation.next())
        asked.append(batch.events->text, batch.events->text_bytes);
    CHECK(asked == text && generation.result().n_generated == 12);
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

/* ---- No cost over C: the same loops in both allocate the same, and C++ nothing of its own. ---- */

static void *counted_alloc(void *, std::size_t bytes, std::size_t align)
{
    n_alloc++;
    return std::aligned_alloc(align, (bytes + align - 1) / align * align);
}
static void counted_free(void *, void *memory, std::size_t)
{
    std::free(memory);
}

enum { N_STEP = 20 };

struct counts {
    std::size_t of_new, of_library;
    std::int32_t last; /* the last token: both loops did the same */
};

template <class Loop> static counts counted(Loop &&loop)
{
    const std::size_t new_before = n_new, alloc_before = n_alloc;
    const std::int32_t last = loop();
    return { n_new - new_before, n_alloc - alloc_before, last };
}

static std::int32_t loop_in_c(mf_executor *executor, mf_session *session, const mf_submodel *view, mf_sampler *sampler,
                              float *logits, std::size_t n_vocab)
{
    mf_error error = MF_ERROR_INIT;
    mf_generate_options options = MF_GENERATE_OPTIONS_INIT;
    std::int32_t token = 1;
    for (int step = 0; step < N_STEP; step++) {
        mf_request request{};
        mf_token_logprob chosen{};
        request.session = session;
        request.submodel = view;
        request.tokens = &token;
        request.n_token = 1;
        request.logits = logits;
        request.logits_capacity = n_vocab;
        CHECK(mf_forward(executor, &request, 1, sizeof request, &error) == MF_OK);
        CHECK(mf_sampler_sample(sampler, mf_session_tokens(session), mf_session_position(session), logits, &chosen,
                                nullptr, 0) == MF_OK);
        token = chosen.token;
    }
    options.max_tokens = N_STEP;
    options.ignore_eos = 1;
    options.user = &token;
    options.on_token = [](void *user, const mf_token_event *event) {
        *static_cast<std::int32_t *>(user) = event->token;
        return 0;
    };
    CHECK(mf_generate(executor, session, view, &options, nullptr, &error) == MF_OK);
    return token;
}

static std::int32_t loop_in_cpp(matformer::executor &executor, matformer::session &session,
                                const matformer::submodel &view, matformer::sampler &sampler,
                                matformer::span<float> logits)
{
    auto options = matformer::generate_options();
    std::int32_t token = 1;
    for (int step = 0; step < N_STEP; step++) {
        mf_request request[1]{};
        request[0].session = session.get();
        request[0].submodel = view.get();
        request[0].tokens = &token;
        request[0].n_token = 1;
        request[0].logits = logits.data();
        request[0].logits_capacity = logits.size();
        executor.forward(request);
        token = sampler.sample(session.tokens(), matformer::span<const float>(logits.data(), logits.size())).token;
    }
    options.max_tokens = N_STEP;
    options.ignore_eos = 1;
    matformer::generate(&executor, session, view, options, [&token](const mf_token_event &event) {
        token = event.token;
        return true;
    });
    return token;
}

static void costs(const char *path)
{
    auto options = matformer::model_options();
    options.allocator = { counted_alloc, counted_free, nullptr };
    const auto model = matformer::model::open(path, options);
    const auto view = model.extract();
    matformer::executor executor(model);
    matformer::session warm(model), first(model), second(model);
    matformer::sampler sampler(model);
    std::vector<float> logits(model.info().n_vocab);
    loop_in_cpp(executor, warm, view, sampler, logits); /* what is allocated once is */
    const counts c = counted([&] {
        return loop_in_c(executor.get(), first.get(), view.get(), sampler.get(), logits.data(), logits.size());
    });
    const counts cpp = counted([&] { return loop_in_cpp(executor, second, view, sampler, logits); });
    CHECK(n_alloc > 0 && n_new > 0); /* both are counted */
    CHECK(c.last == cpp.last && first.position() == second.position());
    CHECK(cpp.of_library == c.of_library);
    CHECK(c.of_new == 0 && cpp.of_new == 0);
}

/* What was moved from holds NULL, which the library refuses. */
static void moved_from(const char *path)
{
    auto model = matformer::model::open(path);
    matformer::session session(model);
    const matformer::model kept = std::move(model);
    const matformer::session running = std::move(session);
    CHECK(model.get() == nullptr && session.get() == nullptr && running.position() == 0);
    CHECK(status_of([&] { model.info(); }) == MF_E_INVALID && model.granularities().empty());
    CHECK(status_of([&] { model.extract("0.5"); }) == MF_E_INVALID);
    CHECK(status_of([&] { model.tokenize("a"); }) == MF_E_INVALID);
    CHECK(status_of([&] { session.rewind(0); }) == MF_E_INVALID);
    CHECK(session.position() == 0 && session.tokens().size() == 0);
    session.cancel();
    model = matformer::model::open(path);
    CHECK(model.info().n_layer == kept.info().n_layer);
}

static void residency(const matformer::model &model)
{
    model.trim();
    CHECK(model.info().n_shell_resident < model.info().n_shell || model.info().n_shell == 1);
    model.grow();
    CHECK(model.info().n_shell_resident == model.info().n_shell);
    const mf_shell_info shell = model.shell(0);
    CHECK(shell.resident && shell.memory_bytes > 0);
    CHECK(status_of([&] { model.shell(99); }) == MF_E_RANGE);
    CHECK(status_of([&] { model.feed(0, "x", 1); }) == MF_E_INVALID); /* it is resident */
    CHECK(status_of([&] { model.attach("/no/such/file"); }) == MF_E_NOT_FOUND);
    CHECK(status_of([&] { model.attach_fd(-1); }) != MF_OK);
}

/* Of a model that has a plan or a chat's format, and of one that has none. */
static void plans_and_chats(const matformer::model &model)
{
    const matformer::model &m = model;
    mf_plan_info none = MF_PLAN_INFO_INIT;
    if (mf_model_plan_info(m.get(), &none) == MF_E_NOT_FOUND) {
        CHECK(status_of([&] { m.plan(); }) == MF_E_NOT_FOUND);
        CHECK(status_of([&] { m.planned(0); }) == MF_E_NOT_FOUND);
        CHECK(status_of([&] { m.plan_draft(true); }) == MF_E_NOT_FOUND);
    } else {
        const auto last = m.planned(m.plan().n_entry - 1);
        CHECK(m.extract(last.text).info().n_param == last.values.n_param);
        CHECK(status_of([&] { m.planned(m.plan().n_entry); }) == MF_E_RANGE);
    }
    CHECK(m.chat_format() == MF_CHAT_NONE);
    const mf_chat_message messages[] = { { "user", "Hello", 5 } };
    CHECK(status_of([&] { m.render_chat(messages); }) == MF_E_UNSUPPORTED);
    CHECK(status_of([&] { m.render_chat(MF_CHAT_GEMMA, messages); }) == MF_E_UNSUPPORTED);
}

static void governors(const matformer::model &model)
{
    const auto narrow = model.extract(model.granularities().front()), wide = model.extract();
    const mf_submodel *const rungs[] = { narrow.get(), wide.get() };
    auto options = matformer::governor_options();
    CHECK(status_of([&] { matformer::governor refused(options); }) == MF_E_INVALID);
    options.rungs = rungs;
    options.n_rung = 2;
    options.queue_full = 4;
    matformer::governor governor(options);
    const std::uint32_t member = governor.join();
    CHECK(governor.choose(member) == wide.get() && governor.info().n_member == 1);
    auto signals = matformer::governor_signals();
    signals.n_queued = 4;
    governor.signal(signals);
    CHECK(governor.choose(member) == narrow.get());
    auto step = matformer::governor_step();
    step.members = &member;
    step.n_member = 1;
    step.elapsed_ns = 1000000;
    governor.report(step);
    CHECK(governor.predict(0) > 0);
    governor.leave(member);
    CHECK(status_of([&] { governor.choose(member); }) == MF_E_RANGE);
}

int main(int argc, char **argv)
{
    if (argc != 2) return 2;
    CHECK(matformer::version() == mf_version());
    costs(argv[1]);
    moved_from(argv[1]);
    const auto model = matformer::model::open(argv[1]);
    views(model);
    timelines(model);
    exceptions(model);
    batches(model);
    residency(model);
    plans_and_chats(model);
    governors(model);
    std::printf("%d checks\n", n_check);
    return 0;
}
