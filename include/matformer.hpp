/* matformer.hpp - matformer.h for C++17: objects that close themselves, exceptions, containers. Header only; what it calls
 * is the C library, so a program may be built with another compiler than that was, and exceptions never cross it.
 *
 *     #include <iostream>
 *     #include <matformer.hpp>
 *
 *     int main()
 *     {
 *         auto model = matformer::model::open("model.mf");
 *         matformer::session session(model);
 *         auto options = matformer::generate_options();
 *         options.prompt = "Once upon a time";
 *         matformer::generate(session, model.extract("M"), options, [](const mf_token_event &event) {
 *             std::cout.write(event.text, static_cast<std::streamsize>(event.text_bytes));
 *             return true;
 *         });
 *     }
 *
 * Every object owns its handle, may be moved and not copied, and keeps alive what it was made from. get() is the handle, for
 * functions of matformer.h that have no form here; it stays the object's. Threads, ownership of arguments and errors are
 * as there. Each function throws matformer::error where its C function returns a status, and
 * std::bad_alloc for MF_E_NOMEM. What was moved from holds NULL, as mf_..._close() takes it: it may be assigned to and
 * destroyed, and other functions throw MF_E_INVALID or return zero.
 *
 * No cost is added: an object is its handle, options go through by address, and nothing is allocated but what is returned
 * as a std::string or std::vector.
 *
 * Left to matformer.h: mf_tokenize(), which is model::tokenize() without options. */
#ifndef MATFORMER_HPP
#define MATFORMER_HPP

#include <cstddef>
#include <cstdint>
#include <exception>
#include <memory>
#include <new>
#include <stdexcept>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>
#if defined(__has_include)
#if __has_include(<version>)
#include <version>
#endif
#endif
#if defined(__cpp_lib_span)
#include <span>
#endif

#include "matformer.h"

namespace matformer
{

/* Of the library that is running: major << 16 | minor << 8 | patch. */
inline std::uint32_t version() noexcept
{
    return mf_version();
}

/* ---- Errors ---- */

class error : public std::runtime_error
{
  public:
    error(mf_status status, const char *detail)
        : std::runtime_error(detail[0] != '\0' ? detail : mf_status_text(status)), status_(status)
    {
    }
    mf_status status() const noexcept
    {
        return status_;
    }
    /* "MF_E_RANGE" */
    const char *name() const noexcept
    {
        return mf_status_name(status_);
    }

  private:
    mf_status status_;
};

namespace detail
{

inline void check(mf_status status, const char *sentence = "")
{
    if (status == MF_E_NOMEM) throw std::bad_alloc();
    if (status != MF_OK) throw error(status, sentence);
}

/* Throws what `function(&error)` says. */
template <class Function> void call(Function &&function)
{
    mf_error error = MF_ERROR_INIT;
    const mf_status status = function(&error);
    check(status, error.detail);
}

/* What a C function writes to an array that it first measures: function(array, capacity, &needed). */
template <class Container, class Function> Container measured(Function &&function)
{
    Container out;
    std::size_t needed = 0;
    mf_status status = function(out.data(), std::size_t{ 0 }, &needed);
    while (status == MF_E_CAPACITY) {
        out.resize(needed);
        status = function(out.data(), out.size(), &needed);
    }
    check(status);
    out.resize(needed);
    return out;
}

template <class T, void (*close)(T *)> struct closer {
    void operator()(T *handle) const noexcept
    {
        close(handle);
    }
};
template <class T, void (*close)(T *)> using handle = std::unique_ptr<T, closer<T, close>>;

} // namespace detail

/* ---- Arrays of a caller's ---- */

#if defined(__cpp_lib_span)
template <class T> using span = std::span<T>;
#else
/* As much of std::span as is of use here: a pointer and a length, from anything that has data() and size(). */
template <class T> class span
{
  public:
    constexpr span() noexcept = default;
    constexpr span(T *data, std::size_t size) noexcept : data_(data), size_(size)
    {
    }
    template <std::size_t N> constexpr span(T (&array)[N]) noexcept : data_(array), size_(N)
    {
    }
    template <class Container,
              class = std::enable_if_t<std::is_convertible_v<decltype(std::declval<Container &>().data()), T *>>>
    constexpr span(Container &&container) noexcept : data_(container.data()), size_(container.size())
    {
    }
    constexpr T *data() const noexcept
    {
        return data_;
    }
    constexpr std::size_t size() const noexcept
    {
        return size_;
    }
    constexpr T *begin() const noexcept
    {
        return data_;
    }
    constexpr T *end() const noexcept
    {
        return data_ + size_;
    }
    constexpr T &operator[](std::size_t index) const noexcept
    {
        return data_[index];
    }

  private:
    T *data_ = nullptr;
    std::size_t size_ = 0;
};
#endif

/* ---- Options, filled with their defaults ---- */

inline mf_model_options model_options() noexcept
{
    return MF_MODEL_OPTIONS_INIT;
}
inline mf_submodel_spec submodel_spec() noexcept
{
    return MF_SUBMODEL_SPEC_INIT;
}
inline mf_executor_options executor_options() noexcept
{
    return MF_EXECUTOR_OPTIONS_INIT;
}
inline mf_session_options session_options() noexcept
{
    return MF_SESSION_OPTIONS_INIT;
}
inline mf_sampler_options sampler_options() noexcept
{
    return MF_SAMPLER_OPTIONS_INIT;
}
inline mf_generate_options generate_options() noexcept
{
    return MF_GENERATE_OPTIONS_INIT;
}
inline mf_governor_options governor_options() noexcept
{
    return MF_GOVERNOR_OPTIONS_INIT;
}
inline mf_governor_member governor_member() noexcept
{
    return MF_GOVERNOR_MEMBER_INIT;
}
inline mf_governor_step governor_step() noexcept
{
    return MF_GOVERNOR_STEP_INIT;
}
inline mf_governor_signals governor_signals() noexcept
{
    return MF_GOVERNOR_SIGNALS_INIT;
}

/* ---- Submodel ---- */

/* One layer of a view. */
struct layer_use {
    std::uint32_t ffn, heads;
    bool kept;
};

class submodel
{
  public:
    explicit submodel(mf_submodel *owned) noexcept : handle_(owned)
    {
    }
    mf_submodel *get() const noexcept
    {
        return handle_.get();
    }
    mf_submodel_info info() const
    {
        mf_submodel_info info = MF_SUBMODEL_INFO_INIT;
        detail::check(mf_submodel_info_get(get(), &info));
        return info;
    }
    layer_use layer(std::uint32_t index) const
    {
        layer_use use{};
        int kept = 0;
        detail::check(mf_submodel_layer(get(), index, &use.ffn, &use.heads, &kept));
        use.kept = kept != 0;
        return use;
    }
    /* The text form that gives the same view again. */
    std::string text() const
    {
        auto text = detail::measured<std::string>([this](char *out, std::size_t capacity, std::size_t *needed) {
            return mf_submodel_text(get(), out, capacity, needed);
        });
        text.pop_back(); /* the terminator */
        return text;
    }

  private:
    detail::handle<mf_submodel, mf_submodel_close> handle_;
};

/* ---- Model ---- */

class model
{
  public:
    explicit model(mf_model *owned) noexcept : handle_(owned)
    {
    }
    static model open(const std::string &path, const mf_model_options &options = model_options())
    {
        mf_model *out = nullptr;
        detail::call([&](mf_error *error) { return mf_model_open(&out, path.c_str(), &options, error); });
        return model(out);
    }
    static model open_fd(int fd, std::uint64_t offset, std::uint64_t bytes,
                         const mf_model_options &options = model_options())
    {
        mf_model *out = nullptr;
        detail::call([&](mf_error *error) { return mf_model_open_fd(&out, fd, offset, bytes, &options, error); });
        return model(out);
    }
    static model open_memory(const void *data, std::size_t bytes, const mf_model_options &options = model_options())
    {
        mf_model *out = nullptr;
        detail::call([&](mf_error *error) { return mf_model_open_memory(&out, data, bytes, &options, error); });
        return model(out);
    }
    mf_model *get() const noexcept
    {
        return handle_.get();
    }
    /* Its texts live as long as the model. */
    mf_model_info info() const
    {
        mf_model_info info = MF_MODEL_INFO_INIT;
        detail::check(mf_model_info_get(get(), &info));
        return info;
    }
    /* Narrowest first. */
    std::vector<std::string> granularities() const
    {
        return names(mf_model_granularity);
    }
    std::vector<std::string> configurations() const
    {
        return names(mf_model_configuration);
    }
    /* NULL where there is no such key. */
    const char *metadata(const char *key) const noexcept
    {
        return mf_model_metadata(get(), key, 0);
    }

    /* The widest that is loaded. */
    submodel extract() const
    {
        return extract(submodel_spec());
    }
    submodel extract(const mf_submodel_spec &spec) const
    {
        mf_submodel *out = nullptr;
        detail::call([&](mf_error *error) { return mf_extract_submodel(&out, get(), &spec, error); });
        return submodel(out);
    }
    /* "M", "0.5", "ffn=1024x4,512x4", "ms<=20" ... */
    submodel extract(const std::string &text) const
    {
        mf_submodel *out = nullptr;
        detail::call([&](mf_error *error) { return mf_extract_submodel_text(&out, get(), text.c_str(), error); });
        return submodel(out);
    }

    /* Shells that come and go while others run; see mf_model_grow() and its siblings. */
    void grow(const char *granularity = nullptr, const mf_grow_options *options = nullptr) const
    {
        detail::call([&](mf_error *error) { return mf_model_grow(get(), granularity, options, error); });
    }
    void trim(const char *granularity = nullptr, const mf_trim_options *options = nullptr) const
    {
        detail::call([&](mf_error *error) { return mf_model_trim(get(), granularity, options, error); });
    }
    void attach(const std::string &path) const
    {
        detail::call([&](mf_error *error) { return mf_model_attach(get(), path.c_str(), error); });
    }
    void attach_fd(int fd, std::uint64_t offset = 0, std::uint64_t bytes = 0) const
    {
        detail::call([&](mf_error *error) { return mf_model_attach_fd(get(), fd, offset, bytes, error); });
    }
    /* `data` NULL forgets what was fed. */
    void feed(std::uint32_t shell, const void *data, std::size_t bytes) const
    {
        detail::call([&](mf_error *error) { return mf_model_feed(get(), shell, data, bytes, error); });
    }
    mf_shell_info shell(std::uint32_t index) const
    {
        mf_shell_info info = MF_SHELL_INFO_INIT;
        detail::check(mf_model_shell_info_get(get(), index, &info));
        return info;
    }

    /* The stored plan; throws MF_E_NOT_FOUND where the file has none. */
    mf_plan_info plan() const
    {
        mf_plan_info info = MF_PLAN_INFO_INIT;
        detail::check(mf_model_plan_info(get(), &info));
        return info;
    }
    /* An entry's `values.text` is in `text`, and NULL itself. */
    struct plan_entry {
        mf_plan_entry values;
        std::string text;
    };
    plan_entry planned(std::uint32_t index) const
    {
        plan_entry entry{ MF_PLAN_ENTRY_INIT, {} };
        detail::check(mf_model_plan_entry(get(), index, &entry.values));
        entry.text.resize(entry.values.text_bytes);
        entry.values.text = &entry.text[0];
        entry.values.text_capacity = entry.text.size();
        const mf_status status = mf_model_plan_entry(get(), index, &entry.values);
        entry.values.text = nullptr;
        entry.values.text_capacity = 0;
        detail::check(status);
        entry.text.pop_back(); /* the terminator */
        return entry;
    }
    mf_plan_draft plan_draft(bool greedy) const
    {
        mf_plan_draft draft = MF_PLAN_DRAFT_INIT;
        detail::check(mf_model_plan_draft(get(), greedy, &draft));
        return draft;
    }

    std::vector<std::int32_t> tokenize(std::string_view text, const mf_tokenize_options *options = nullptr) const
    {
        return detail::measured<std::vector<std::int32_t>>(
            [&](std::int32_t *out, std::size_t capacity, std::size_t *needed) {
                return mf_tokenize_with(get(), options, text.data(), text.size(), out, capacity, needed);
            });
    }
    std::string detokenize(span<const std::int32_t> tokens) const
    {
        return detail::measured<std::string>([&](char *out, std::size_t capacity, std::size_t *needed) {
            return mf_detokenize(get(), tokens.data(), tokens.size(), out, capacity, needed);
        });
    }
    mf_chat_format chat_format() const noexcept
    {
        return mf_model_chat_format(get());
    }
    /* In the format of the model, or in one that the caller names. */
    std::vector<std::int32_t> render_chat(span<const mf_chat_message> messages, bool add_generation_prompt = true) const
    {
        return detail::measured<std::vector<std::int32_t>>(
            [&](std::int32_t *out, std::size_t capacity, std::size_t *needed) {
                return mf_chat_render(get(), messages.data(), messages.size(), add_generation_prompt, out, capacity,
                                      needed);
            });
    }
    std::vector<std::int32_t> render_chat(mf_chat_format format, span<const mf_chat_message> messages,
                                          bool add_generation_prompt = true) const
    {
        return detail::measured<std::vector<std::int32_t>>(
            [&](std::int32_t *out, std::size_t capacity, std::size_t *needed) {
                return mf_chat_render_as(get(), format, messages.data(), messages.size(), add_generation_prompt, out,
                                         capacity, needed);
            });
    }

  private:
    std::vector<std::string> names(const char *(*name)(const mf_model *, std::uint32_t)) const
    {
        std::vector<std::string> all;
        for (std::uint32_t i = 0; const char *one = name(get(), i); i++)
            all.emplace_back(one);
        return all;
    }
    detail::handle<mf_model, mf_model_close> handle_;
};

/* ---- Running ---- */

class executor
{
  public:
    explicit executor(const model &model, const mf_executor_options &options = executor_options())
    {
        mf_executor *out = nullptr;
        detail::call([&](mf_error *error) { return mf_executor_create(&out, model.get(), &options, error); });
        handle_.reset(out);
    }
    mf_executor *get() const noexcept
    {
        return handle_.get();
    }
    /* Runs all as one batch. Throws the first failure among them, after all have run: each has its own `status`. */
    void forward(span<mf_request> requests)
    {
        detail::call([&](mf_error *error) {
            return mf_forward(get(), requests.data(), requests.size(), sizeof(mf_request), error);
        });
    }

  private:
    detail::handle<mf_executor, mf_executor_close> handle_;
};

class session
{
  public:
    explicit session(const model &model, const mf_session_options &options = session_options())
    {
        mf_session *out = nullptr;
        detail::call([&](mf_error *error) { return mf_session_create(&out, model.get(), &options, error); });
        handle_.reset(out);
    }
    mf_session *get() const noexcept
    {
        return handle_.get();
    }
    std::uint32_t position() const noexcept
    {
        return mf_session_position(get());
    }
    /* Valid until the session changes. */
    span<const std::int32_t> tokens() const noexcept
    {
        return { mf_session_tokens(get()), position() };
    }
    void rewind(std::uint32_t position)
    {
        detail::check(mf_session_rewind(get(), position));
    }
    session fork() const
    {
        mf_session *out = nullptr;
        detail::call([&](mf_error *error) { return mf_session_fork(&out, get(), error); });
        return session(out);
    }
    void save(const std::string &path) const
    {
        detail::call([&](mf_error *error) { return mf_session_save(get(), path.c_str(), error); });
    }
    void load(const std::string &path)
    {
        detail::call([&](mf_error *error) { return mf_session_load(get(), path.c_str(), error); });
    }
    /* From any thread. */
    void cancel() noexcept
    {
        mf_session_cancel(get());
    }

  private:
    explicit session(mf_session *owned) noexcept : handle_(owned)
    {
    }
    detail::handle<mf_session, mf_session_close> handle_;
};

class sampler
{
  public:
    explicit sampler(const model &model, const mf_sampler_options &options = sampler_options())
    {
        mf_sampler *out = nullptr;
        detail::call([&](mf_error *error) { return mf_sampler_create(&out, model.get(), &options, error); });
        handle_.reset(out);
    }
    mf_sampler *get() const noexcept
    {
        return handle_.get();
    }
    mf_token_logprob sample(span<const std::int32_t> timeline, span<const float> logits)
    {
        mf_token_logprob chosen{};
        detail::check(mf_sampler_sample(get(), timeline.data(), timeline.size(), logits.data(), &chosen, nullptr, 0));
        return chosen;
    }

  private:
    detail::handle<mf_sampler, mf_sampler_close> handle_;
};

/* ---- Generation ---- */

namespace detail
{

/* Carries what a callback throws past the C library. */
template <class OnToken> struct listener {
    OnToken &on_token;
    std::exception_ptr thrown;

    static int call(void *user, const mf_token_event *event) noexcept
    {
        auto *self = static_cast<listener *>(user);
        try {
            return self->on_token(*event) ? 0 : 1;
        } catch (...) {
            self->thrown = std::current_exception();
            return 1;
        }
    }
};

} // namespace detail

/* mf_generate() with on_token(const mf_token_event &), which returns whether to go on. What it throws ends the generation
 * and comes out here, when the session holds all tokens that had an event. `user` and `on_token` of the options are not
 * used. `executor` may be NULL: one is made for the call. */
template <class OnToken>
mf_generate_result generate(executor *executor, session &session, const submodel &submodel, mf_generate_options options,
                            OnToken &&on_token)
{
    detail::listener<std::remove_reference_t<OnToken>> listener{ on_token, nullptr };
    mf_generate_result result = MF_GENERATE_RESULT_INIT;
    options.on_token = listener.call;
    options.user = &listener;
    detail::call([&](mf_error *error) {
        return mf_generate(executor != nullptr ? executor->get() : nullptr, session.get(), submodel.get(), &options,
                           &result, error);
    });
    if (listener.thrown) std::rethrow_exception(listener.thrown);
    return result;
}

template <class OnToken>
mf_generate_result generate(session &session, const submodel &submodel, const mf_generate_options &options,
                            OnToken &&on_token)
{
    return generate(nullptr, session, submodel, options, on_token);
}

/* Generation by asking. Executor, session, view and what the options point to, but for the prompt, must outlive it. */
class generation
{
  public:
    /* `executor` may be NULL: one is made for it. */
    generation(executor *executor, session &session, const submodel &submodel, const mf_generate_options &options)
        : result_(new mf_generate_result MF_GENERATE_RESULT_INIT)
    {
        mf_generation *out = nullptr;
        detail::call([&](mf_error *error) {
            return mf_generation_create(&out, executor != nullptr ? executor->get() : nullptr, session.get(),
                                        submodel.get(), &options, result_.get(), error);
        });
        handle_.reset(out);
    }
    mf_generation *get() const noexcept
    {
        return handle_.get();
    }
    /* The next token, or as many as come within max_ns; none: it has ended. They are valid until the next call. What fails
     * after some had come is thrown by the next call. */
    mf_token_batch next(std::uint64_t max_ns = 0)
    {
        if (failure_) std::rethrow_exception(std::exchange(failure_, nullptr));
        mf_token_batch batch = MF_TOKEN_BATCH_INIT;
        try {
            detail::call([&](mf_error *error) { return mf_generation_next(get(), max_ns, &batch, error); });
        } catch (...) {
            if (batch.n_event == 0) throw;
            failure_ = std::current_exception();
        }
        return batch;
    }
    /* What it did, once it has ended. */
    const mf_generate_result &result() const noexcept
    {
        return *result_;
    }

  private:
    std::unique_ptr<mf_generate_result> result_; /* where the library writes it, also after a move */
    detail::handle<mf_generation, mf_generation_close> handle_;
    std::exception_ptr failure_;
};

/* ---- Governor ---- */

class governor
{
  public:
    /* The views of options.rungs must outlive it. */
    explicit governor(const mf_governor_options &options)
    {
        mf_governor *out = nullptr;
        detail::call([&](mf_error *error) { return mf_governor_create(&out, &options, error); });
        handle_.reset(out);
    }
    mf_governor *get() const noexcept
    {
        return handle_.get();
    }
    std::uint32_t join(const mf_governor_member &options = governor_member())
    {
        std::uint32_t member = 0;
        detail::call([&](mf_error *error) { return mf_governor_join(get(), &options, &member, error); });
        return member;
    }
    void leave(std::uint32_t member)
    {
        detail::check(mf_governor_leave(get(), member));
    }
    /* The view for the member's next tokens, of the ladder: for mf_request.submodel. From any thread. */
    const mf_submodel *choose(std::uint32_t member) const
    {
        const mf_submodel *view = nullptr;
        detail::check(mf_governor_choose(get(), member, &view));
        return view;
    }
    void report(const mf_governor_step &step)
    {
        detail::check(mf_governor_report(get(), &step));
    }
    void signal(const mf_governor_signals &signals)
    {
        detail::check(mf_governor_signal(get(), &signals));
    }
    mf_governor_info info() const
    {
        mf_governor_info info = MF_GOVERNOR_INFO_INIT;
        detail::check(mf_governor_info_get(get(), &info));
        return info;
    }
    double predict(std::uint32_t rung) const noexcept
    {
        return mf_governor_predict(get(), rung);
    }

  private:
    detail::handle<mf_governor, mf_governor_close> handle_;
};

} // namespace matformer

#endif
