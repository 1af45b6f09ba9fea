/* test_laws.c - what the library promises of its outputs, over random shapes and widths, for every element type, at
 * every processor level: a view is a slice, nothing but the row, the weights, the view and the cache matters, weights
 * outside the view are not read, a forward allocates nothing, and any bytes are met with a status.
 * MF_TEST_ROUNDS runs more shapes. A failure names the round, which reproduces it. */
#define _DEFAULT_SOURCE /* MAP_ANONYMOUS */
#include "run_model.h"
#include "arena.h"
#include "defs.h"
#include "counting_allocator.h"
#include "fp_control.h"

#include <criterion/criterion.h>
#include <fenv.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#include <xxhash.h>
#if defined(__GLIBC__)
#include <malloc.h>
#endif

static const mfk_type types[] = { MFK_F32, MFK_Q4, MFK_BF16, MFK_Q8, MFK_F16 };

/* BF16 for the fast arithmetic, which has kernels for it. */
static mfk_type type_of(uint32_t round)
{
    return test_arithmetic() == MF_ARITHMETIC_FAST ? MFK_BF16 : types[round % MFI_COUNT(types)];
}

/* Every third has a type of its own for each role. */
static random_model model_of(uint32_t round)
{
    random_model random;
    cr_assert(random_model_init(&random, 1000 + round) == MF_OK);
    rng r = { round };
    for (uint32_t role = 0; round % 3 == 2 && role < (uint32_t)MFI_N_ROLE; role++)
        random.role_type[role] = types[rng_below(&r, MFI_COUNT(types))];
    return random;
}

/* Granularities first, then any widths. */
static widths view_of(const mfi_config *config, uint32_t i, rng *r)
{
    return i < config->n_granularity ? granularity_widths(config, i) : random_widths(config, r);
}

/* ---- View = slice ---- */

static outputs run_with_cache(const model_file *file, const char *level, const widths *w, mf_cache_type cache_type,
                              const int32_t *tokens, size_t n)
{
    mf_model *model = open_file(file, level);
    mf_submodel *view = take_view(model, w);
    mf_executor *executor = new_executor(model, 1, 0);
    mf_session *session = new_session_of(model, cache_type, 0);
    outputs out = new_outputs(model, n);
    run_more(executor, session, view, tokens, n, &out);
    mf_session_close(session);
    mf_executor_close(executor);
    mf_submodel_close(view);
    mf_model_close(model);
    return out;
}

static outputs run_file(const model_file *file, const char *level, const widths *w, const int32_t *tokens, size_t n)
{
    return run_with_cache(file, level, w, MF_CACHE_F32, tokens, n);
}

Test(laws, view_equals_a_file_that_was_physically_cut_to_it)
{
    enum { TOKENS = 21, VIEWS = 7 };
    for (uint32_t round = 0; round < test_rounds(5); round++) {
        rng r = { round };
        random_model random = model_of(round);
        model_file file = make_random_file(&random, type_of(round), MFI_RAW, false);
        for (uint32_t i = 0; i < VIEWS; i++) {
            widths w = view_of(&random.config, i, &r);
            random_model slice;
            cr_assert(random_model_slice(&slice, &random, &w) == MF_OK);
            model_file cut = make_random_file(&slice, type_of(round), MFI_RAW, false);
            widths whole = granularity_widths(&slice.config, 0);
            const char *level;
            for (uint32_t l = 0; (level = cpu_level(&file, l)); l++) {
                mf_model *model = open_file(&cut, level);
                int32_t *tokens = new_tokens(model, TOKENS, &r);
                mf_model_close(model);
                outputs viewed = run_file(&file, level, &w, tokens, TOKENS);
                outputs sliced = run_file(&cut, level, &whole, tokens, TOKENS);
                cr_assert(same_bits(&viewed, &sliced), "round %u, view %u, %s", round, i, level);
                drop_outputs(&viewed);
                drop_outputs(&sliced);
                free(tokens);
            }
            drop_file(&cut);
            random_model_free(&slice);
        }
        drop_file(&file);
        random_model_free(&random);
    }
}

Test(laws, many_shells_one_shell_and_compressed_give_the_same_bits)
{
    enum { TOKENS = 9, VIEWS = 6, FILES = 4 };
    for (uint32_t round = 0; round < test_rounds(5); round++) {
        rng r = { round };
        random_model random = model_of(100 + round);
        model_file files[FILES];
        for (uint32_t f = 0; f < FILES; f++)
            files[f] = make_random_file(&random, type_of(round), f & 1 ? MFI_ZSTD : MFI_RAW, f & 2);
        for (uint32_t i = 0; i < VIEWS; i++) {
            widths w = view_of(&random.config, i, &r);
            int32_t tokens[TOKENS];
            for (uint32_t t = 0; t < TOKENS; t++)
                tokens[t] = (int32_t)rng_below(&r, random.config.n_vocab);
            outputs out[FILES];
            for (uint32_t f = 0; f < FILES; f++) {
                out[f] = run_file(&files[f], NULL, &w, tokens, TOKENS);
                cr_assert(same_bits(&out[0], &out[f]), "round %u, view %u, file %u", round, i, f);
            }
            for (uint32_t f = 0; f < FILES; f++)
                drop_outputs(&out[f]);
        }
        for (uint32_t f = 0; f < FILES; f++)
            drop_file(&files[f]);
        random_model_free(&random);
    }
}

/* ---- Invariance ---- */

enum { LONG = 150 }; /* positions: beyond two pages of the cache */

/* A model, a view and a timeline, and what the view says when it is alone. */
typedef struct scene {
    random_model random;
    model_file file;
    mf_model *model;
    widths widths;
    mf_submodel *view;
    int32_t *tokens; /* [LONG] */
    outputs expected;
    rng r;
} scene;

static scene open_scene(uint32_t round, const char *level)
{
    scene s = { .random = model_of(200 + round), .r = { round } };
    s.file = make_random_file(&s.random, type_of(round), MFI_RAW, false);
    s.model = open_file(&s.file, level);
    s.widths = random_widths(&s.random.config, &s.r);
    s.view = take_view(s.model, &s.widths);
    s.tokens = new_tokens(s.model, LONG, &s.r);
    s.expected = run_alone(s.model, s.view, s.tokens, LONG);
    return s;
}

static void close_scene(scene *s)
{
    mf_submodel_close(s->view);
    mf_model_close(s->model);
    drop_outputs(&s->expected);
    drop_file(&s->file);
    free(s->tokens);
    random_model_free(&s->random);
}

/* Random pieces of at most `most` tokens, until the timeline is full. */
static void run_in_pieces(scene *s, mf_executor *executor, mf_cache_type type, uint32_t most, outputs *out)
{
    mf_session *session = new_session_of(s->model, type, 0);
    for (uint32_t at = 0; at < LONG; at = mf_session_position(session)) {
        uint32_t n = rng_between(&s->r, 1, most);
        run_more(executor, session, s->view, s->tokens, n < LONG - at ? n : LONG - at, out);
    }
    mf_session_close(session);
}

Test(laws, outputs_do_not_depend_on_threads_prompt_cuts_or_executor_size)
{
    static const uint32_t max_tokens[] = { 0, 1, 7, 64, 100 }, pieces[] = { LONG, 1, 3, 40, 90 };
    for (uint32_t round = 0; round < test_rounds(3); round++) {
        scene s = open_scene(round, NULL);
        mf_cache_type type = (mf_cache_type)(round % N_CACHE_TYPE);
        outputs out = new_outputs(s.model, LONG),
                expected = run_with_cache(&s.file, NULL, &s.widths, type, s.tokens, LONG);
        for (uint32_t i = 0; i < 5; i++) {
            uint32_t n_thread = 1 + (i + round) % 4;
            mf_executor *executor = new_executor(s.model, n_thread, max_tokens[i]);
            for (uint32_t j = i % 2; j < 5; j += 2) {
                run_in_pieces(&s, executor, type, pieces[j], &out);
                cr_assert(same_bits(&out, &expected), "round %u: %u threads, %u rows, pieces of %u", round, n_thread,
                          max_tokens[i], pieces[j]);
            }
            mf_executor_close(executor);
        }
        drop_outputs(&out);
        drop_outputs(&expected);
        close_scene(&s);
    }
}

Test(laws, outputs_do_not_depend_on_the_processor_level)
{
    for (uint32_t round = 0; round < test_rounds(5); round++) {
        scene s = open_scene(round, "scalar");
        for (int type = 0; type < N_CACHE_TYPE; type++) {
            outputs scalar = run_with_cache(&s.file, "scalar", &s.widths, (mf_cache_type)type, s.tokens, LONG);
            cr_assert(same_bits(&scalar, &s.expected) == (type == MF_CACHE_F32), "round %u: the cache rounds nothing",
                      round);
            const char *level;
            for (uint32_t l = 1; (level = cpu_level(&s.file, l)); l++) {
                outputs out = run_with_cache(&s.file, level, &s.widths, (mf_cache_type)type, s.tokens, LONG);
                bool fast = is_fast(&s.file, level); /* the one law that it need not keep */
                cr_assert(same_bits(&out, &scalar) == !fast, "round %u: %s and scalar, cache %d", round, level, type);
                drop_outputs(&out);
            }
            drop_outputs(&scalar);
        }
        close_scene(&s);
    }
}

/* Session 0 is the one looked at; the others have views, tokens and lengths of their own. */
Test(laws, outputs_do_not_depend_on_what_else_is_in_the_batch)
{
    enum { SESSIONS = 5 };
    for (uint32_t round = 0; round < test_rounds(3); round++) {
        scene s = open_scene(round, NULL);
        mf_executor *executor = new_executor(s.model, 2, round % 2 ? 0 : 33);
        mf_session *sessions[SESSIONS];
        mf_submodel *views[SESSIONS] = { s.view };
        outputs out[SESSIONS];
        for (uint32_t i = 0; i < SESSIONS; i++) {
            widths w = random_widths(&s.random.config, &s.r);
            if (i > 0) views[i] = take_view(s.model, &w);
            sessions[i] = new_session(s.model);
            out[i] = new_outputs(s.model, LONG);
        }
        while (mf_session_position(sessions[0]) < LONG) {
            mf_request requests[SESSIONS];
            size_t n_request = 0, first = rng_below(&s.r, SESSIONS); /* session 0 is not always the first row */
            for (size_t k = 0; k < SESSIONS; k++) {
                size_t i = (first + k) % SESSIONS;
                uint32_t at = mf_session_position(sessions[i]), n = rng_between(&s.r, 1, 30);
                if (n > LONG - at) n = LONG - at;
                if (n == 0 || (i > 0 && rng_below(&s.r, 3) == 0)) continue;
                requests[n_request++] = request_all(sessions[i], views[i], s.tokens + at, n, &out[i], at);
            }
            mf_error error = MF_ERROR_INIT;
            cr_assert(mf_forward(executor, requests, n_request, sizeof(mf_request), &error) == MF_OK, "%s",
                      error.detail);
        }
        cr_assert(same_bits(&out[0], &s.expected), "round %u", round);
        for (uint32_t i = 0; i < SESSIONS; i++) {
            outputs alone = run_alone(s.model, views[i], s.tokens, LONG);
            cr_assert(same_rows(&out[i], 0, &alone, 0, mf_session_position(sessions[i])), "round %u, session %u", round,
                      i);
            drop_outputs(&alone);
            drop_outputs(&out[i]);
            mf_session_close(sessions[i]);
            if (i > 0) mf_submodel_close(views[i]);
        }
        mf_executor_close(executor);
        close_scene(&s);
    }
}

/* More keys than one span of the attention: spans are merged the same way in prefill and decode. */
static void cut_across_spans(mf_cache_type type, uint32_t window)
{
    enum { TOKENS = 1100 };
    random_shape shape = *random_shape_find("tiny");
    shape.n_layer = 1;
    shape.n_head = shape.head_group; /* few, because scalar attention takes nearly all the time */
    shape.max_positions = TOKENS;
    random_model random;
    cr_assert(random_model_init_shape(&random, &shape, 1) == MF_OK);
    random.config.window[0] = window;
    model_file file = make_random_file(&random, MFK_F32, MFI_RAW, false);
    rng r = { 1 };
    outputs reference = { 0 };
    const char *level;
    for (uint32_t l = 0; (level = cpu_level(&file, l)); l++) {
        mf_model *model = open_file(&file, level);
        mf_submodel *view = take_named(model, "M");
        int32_t *tokens = new_tokens(model, TOKENS, &(rng){ 2 });
        outputs whole = new_outputs(model, TOKENS), cut = new_outputs(model, TOKENS);
        mf_executor *executor = new_executor(model, 2, 0);
        mf_session *session = new_session_of(model, type, 0);
        run_more(executor, session, view, tokens, TOKENS, &whole);
        cr_assert(mf_session_rewind(session, 0) == MF_OK);
        for (uint32_t at = 0; at < TOKENS; at = mf_session_position(session)) {
            uint32_t n = at > 1010 && at < 1040 ? 1 : rng_between(&r, 1, 200);
            run_more(executor, session, view, tokens, n < TOKENS - at ? n : TOKENS - at, &cut);
        }
        cr_assert(same_bits(&whole, &cut), "%s", level);
        if (l == 0)
            reference = cut;
        else {
            cr_assert(same_bits(&whole, &reference), "%s differs from scalar", level);
            drop_outputs(&cut);
        }
        drop_outputs(&whole);
        mf_session_close(session);
        mf_executor_close(executor);
        mf_submodel_close(view);
        mf_model_close(model);
        free(tokens);
    }
    drop_outputs(&reference);
    drop_file(&file);
    random_model_free(&random);
}

Test(laws, outputs_do_not_depend_on_cuts_across_attention_spans)
{
    for (int type = 0; type < N_CACHE_TYPE; type++)
        cut_across_spans((mf_cache_type)type, 0);
    cut_across_spans(MF_CACHE_Q8, 90);
    cut_across_spans(MF_CACHE_F32, 1030);
}

Test(laws, outputs_do_not_depend_on_the_hosts_floating_point_mode)
{
    static const int roundings[] = { FE_UPWARD, FE_DOWNWARD, FE_TOWARDZERO };
    for (uint32_t round = 0; round < test_rounds(5); round++) {
        scene s = open_scene(round, NULL);
        mf_executor *executor = new_executor(s.model, 1 + round % 3, 0);
        mf_session *session = new_session(s.model);
        outputs out = new_outputs(s.model, LONG);
        fenv_t usual;
        fegetenv(&usual);
        fesetround(roundings[round % 3]); /* everything that a host may have set */
        fp_set_control(fp_control() | FP_FLUSH);
        unsigned long mode = fp_control();
        mf_request request = request_all(session, s.view, s.tokens, LONG, &out, 0);
        mf_status status = mf_forward(executor, &request, 1, sizeof(request), NULL);
        bool kept = fp_control() == mode && fegetround() == roundings[round % 3];
        fesetenv(&usual);
        cr_assert(status == MF_OK);
        cr_assert(kept, "the host's mode was not restored");
        cr_assert(same_bits(&out, &s.expected), "round %u", round);
        drop_outputs(&out);
        mf_session_close(session);
        mf_executor_close(executor);
        close_scene(&s);
    }
}

/* ---- Weights outside the view ---- */

Test(laws, weights_outside_the_view_do_not_change_a_bit)
{
    enum { TOKENS = 17, VIEWS = 7 };
    for (uint32_t round = 0; round < test_rounds(5); round++) {
        rng r = { round };
        random_model random = model_of(300 + round), poisoned = random;
        model_file file = make_random_file(&random, type_of(round), MFI_RAW, round % 3 == 0);
        for (uint32_t i = 0; i < VIEWS; i++) {
            widths w = view_of(&random.config, i, &r);
            poisoned.poison = &w;
            model_file nan_file = make_random_file(&poisoned, type_of(round), MFI_RAW, round % 3 == 0);
            int32_t tokens[TOKENS];
            for (uint32_t t = 0; t < TOKENS; t++)
                tokens[t] = (int32_t)rng_below(&r, random.config.n_vocab);
            const char *level;
            for (uint32_t l = 0; (level = cpu_level(&file, l)); l++) {
                outputs clean = run_file(&file, level, &w, tokens, TOKENS);
                outputs beside_nan = run_file(&nan_file, level, &w, tokens, TOKENS);
                cr_assert(same_bits(&clean, &beside_nan), "round %u, view %u, %s", round, i, level);
                drop_outputs(&clean);
                drop_outputs(&beside_nan);
            }
            drop_file(&nan_file);
        }
        drop_file(&file);
        random_model_free(&random);
    }
}

/* Takes the pages that lie wholly inside [from, to) of the file away (PROT_NONE), or gives them back. */
static size_t guard(const model_file *file, size_t from, size_t to, int protection)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    from = (from + page - 1) / page * page;
    to = to / page * page;
    if (from >= to) return 0;
    cr_assert(mprotect(file->data + from, to - from, protection) == 0);
    return to - from;
}

/* How many outputs and inputs of a tensor's piece the view uses. */
static void live_part(const mfi_config *c, const widths *w, const mfi_tensor *t, size_t *live_n, size_t *live_k)
{
    unsigned layer = 0;
    int used = 0;
    *live_n = t->n;
    *live_k = t->k;
    if (sscanf(t->name, "layers.%u.%n", &layer, &used) != 1 || used == 0) return;
    const char *role = t->name + used;
    size_t begin = t->shell ? c->granularity[t->shell - 1].ffn[layer] : 0, width = w->ffn[layer];
    size_t ffn = width < begin ? 0 : width - begin, heads = (size_t)w->heads[layer] * c->d_head;
    if (width == 0)
        *live_n = *live_k = 0;
    else if (strcmp(role, "ffn.gate_up") == 0 || strcmp(role, "ffn.up") == 0)
        *live_n = ffn < t->n ? ffn : t->n;
    else if (strcmp(role, "ffn.down") == 0)
        *live_k = ffn < t->k ? ffn : t->k;
    else if (strcmp(role, "attn.q") == 0)
        *live_n = heads;
    else if (strcmp(role, "attn.o") == 0)
        *live_k = heads;
    else if (strcmp(role, "attn.k") == 0 || strcmp(role, "attn.v") == 0)
        *live_n = (size_t)mfi_kv_heads(w->heads[layer], c->head_group) * c->d_head;
}

/* Takes away every page of the file that holds nothing but weights outside the view; returns the bytes. */
static size_t guard_outside(const model_file *file, const mfi_config *c, const widths *w, int protection)
{
    mf_model_options options = MF_MODEL_OPTIONS_INIT;
    options.allocator = mfi_allocator(NULL);
    mfi_container_source source = { .fd = -1, .memory = file->data, .memory_bytes = file->bytes };
    mfi_container *container = NULL;
    cr_assert(mfi_container_open(&container, &source, &options, NULL) == MF_OK);
    size_t guarded = 0;
    for (uint32_t i = 0; i < mfi_container_tensor_count(container); i++) {
        const mfi_tensor *t = mfi_container_tensor(container, i);
        size_t begin = mfi_container_region(container, t->region)->file_offset + t->offset, live_n, live_k;
        live_part(c, w, t, &live_n, &live_k);
        if (live_n == 0 || live_k == 0) guarded += guard(file, begin, begin + t->bytes, protection);
        if (live_n == 0 || live_k == 0 || t->kind != MFI_PANEL) continue;
        size_t panel_bytes = mfk_panel_bytes(t->type, t->k), live_bytes = mfk_panel_bytes(t->type, live_k);
        size_t live_panels = (live_n + 15) / 16 * (t->panels / ((t->n + 15) / 16));
        size_t body = begin + mfk_head_bytes(t->type), end = begin + t->bytes;
        for (size_t p = 0; live_k < t->k && p < live_panels; p++)
            guarded += guard(file, body + p * panel_bytes + live_bytes, body + (p + 1) * panel_bytes, protection);
        guarded += guard(file, body + live_panels * panel_bytes, end, protection);
    }
    mfi_container_close(container);
    return guarded;
}

/* The file lies in this process's memory and is used in place, so a read outside the view is a fault. */
Test(laws, weights_outside_the_view_are_never_touched)
{
    enum { TOKENS = 9, VIEWS = 6 };
    random_shape shape = { "guarded",     2,        128,   64, 4, 2, 2048, 61, 256, 4, MFI_NORM_RMS,
                           MFI_FFN_GATED, MFK_SILU, false, 2 };
    for (uint32_t round = 0; round < test_rounds(5); round++) {
        rng r = { round };
        random_model random;
        shape.ffn = round & 2 ? MFI_FFN_PLAIN : MFI_FFN_GATED;
        cr_assert(random_model_init_shape(&random, &shape, round) == MF_OK);
        model_file file = make_random_file(&random, type_of(round), MFI_RAW, round & 4);
        const char *level;
        for (uint32_t l = 0; (level = cpu_level(&file, l)); l++) {
            mf_model *model = open_file(&file, level);
            int32_t *tokens = new_tokens(model, TOKENS, &r);
            for (uint32_t i = 0; i < VIEWS; i++) {
                widths w = view_of(&random.config, i, &r);
                mf_submodel *view = take_view(model, &w);
                outputs open = run_alone(model, view, tokens, TOKENS);
                size_t guarded = guard_outside(&file, &random.config, &w, PROT_NONE);
                if (i == 0) cr_assert(guarded > file.bytes / 2, "only %zu of %zu bytes guarded", guarded, file.bytes);
                outputs closed = run_alone(model, view, tokens, TOKENS);
                outputs decoded = new_outputs(model, TOKENS);
                mf_executor *executor = new_executor(model, 2, 0);
                mf_session *session = new_session(model);
                for (uint32_t t = 0; t < TOKENS; t++)
                    run_more(executor, session, view, tokens, 1, &decoded);
                guard(&file, 0, file.mapped_bytes, PROT_READ | PROT_WRITE);
                cr_assert(same_bits(&open, &closed) && same_bits(&open, &decoded));
                mf_session_close(session);
                mf_executor_close(executor);
                drop_outputs(&open);
                drop_outputs(&closed);
                drop_outputs(&decoded);
                mf_submodel_close(view);
            }
            free(tokens);
            mf_model_close(model);
        }
        drop_file(&file);
        random_model_free(&random);
    }
}

/* ---- Allocations ---- */

static size_t c_library_bytes(void)
{
#if defined(__GLIBC__) && (__GLIBC__ > 2 || __GLIBC_MINOR__ >= 33)
    struct mallinfo2 info = mallinfo2();
    return info.uordblks + info.hblkhd;
#else
    return 0;
#endif
}

Test(laws, forward_allocates_nothing)
{
    enum { TOKENS = 200 };
    random_model random;
    counting counts = { 0 };
    cr_assert(random_model_init_shape(&random, random_shape_find("tiny"), 1) == MF_OK);
    model_file file = make_random_file(&random, MFK_BF16, MFI_RAW, false);
    mf_model_options options = test_options(NULL);
    options.allocator = counting_allocator(&counts);
    mf_model *model = NULL;
    cr_assert(mf_model_open_memory(&model, file.data, file.bytes, &options, NULL) == MF_OK);
    mf_submodel *narrow = take_named(model, "S"), *wide = take_named(model, "L;skip=1");
    mf_executor *executor = new_executor(model, 3, 50);
    mf_session *sessions[] = { new_session(model), new_session(model) };
    mf_session *fork = NULL;
    int32_t *tokens = new_tokens(model, TOKENS, &(rng){ 1 });
    outputs out[] = { new_outputs(model, TOKENS), new_outputs(model, TOKENS) };

    size_t calls = counts.n_alloc, bytes = c_library_bytes();
    mf_request requests[] = { request_all(sessions[0], narrow, tokens, TOKENS, &out[0], 0),
                              request_all(sessions[1], wide, tokens, 70, &out[1], 0) };
    cr_assert(mf_forward(executor, requests, 2, sizeof(mf_request), NULL) == MF_OK);
    for (uint32_t t = 70; t < TOKENS; t++) {
        requests[1] = request_all(sessions[1], wide, tokens + t, 1, &out[1], t);
        cr_assert(mf_forward(executor, &requests[1], 1, sizeof(mf_request), NULL) == MF_OK);
    }
    cr_expect(counts.n_alloc == calls, "%zu calls of the allocator", counts.n_alloc - calls);
    cr_expect(c_library_bytes() == bytes, "%zu bytes from the C library", c_library_bytes() - bytes);

    /* The pages that a fork will have to copy are reserved when it is made. */
    cr_assert(mf_session_fork(&fork, sessions[0], NULL) == MF_OK);
    cr_assert(mf_session_rewind(fork, 130) == MF_OK);
    calls = counts.n_alloc;
    requests[0] = request_all(fork, narrow, tokens + 130, 20, &out[0], 130);
    cr_assert(mf_forward(executor, requests, 1, sizeof(mf_request), NULL) == MF_OK);
    cr_expect(counts.n_alloc == calls, "%zu calls of the allocator after a fork", counts.n_alloc - calls);

    drop_outputs(&out[0]);
    drop_outputs(&out[1]);
    free(tokens);
    mf_session_close(fork);
    mf_session_close(sessions[0]);
    mf_session_close(sessions[1]);
    mf_executor_close(executor);
    mf_submodel_close(narrow);
    mf_submodel_close(wide);
    mf_model_close(model);
    cr_expect(counts.live_bytes == 0, "%zu bytes leaked", counts.live_bytes);
    drop_file(&file);
    random_model_free(&random);
}

/* ---- Hostile bytes ---- */

/* Opens the bytes and runs a few tokens through every granularity. Either the first complaint, which must be a
 * sentence, or MF_OK and the outputs of those that ran. */
static mf_status open_and_run(const unsigned char *data, size_t bytes, mf_verify verify, outputs *out, uint32_t *n_ran)
{
    mf_model_options options = test_options(NULL);
    mf_error error = MF_ERROR_INIT;
    mf_model *model = NULL;
    options.verify = verify;
    mf_status status = mf_model_open_memory(&model, data, bytes, &options, &error);
    if (status != MF_OK) {
        cr_assert(error.status == status && error.detail[0] && model == NULL);
        return status;
    }
    mf_executor *executor = new_executor(model, 1, 8);
    const int32_t tokens[] = { 1, 0, 2 };
    *n_ran = 0;
    for (uint32_t g = 0; mf_model_granularity(model, g); g++) {
        mf_submodel *view = take_named(model, mf_model_granularity(model, g));
        mf_session *session = new_session(model);
        outputs now = new_outputs(model, 3);
        mf_request request = request_all(session, view, tokens, 3, &now, 0);
        status = mf_forward(executor, &request, 1, sizeof(request), &error);
        cr_assert(status == MF_OK || (status == MF_E_NOT_RESIDENT && error.detail[0]));
        if (status == MF_OK && out)
            out[(*n_ran)++] = now;
        else
            drop_outputs(&now);
        mf_session_close(session);
        mf_submodel_close(view);
    }
    mf_executor_close(executor);
    mf_model_close(model);
    return MF_OK;
}

static void drop_all(outputs *out, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++)
        drop_outputs(&out[i]);
}

/* Page aligned, so that a copy can be used in place, with an end that faults. */
static model_file copy_before_guard(const model_file *file, size_t bytes)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE), whole = (bytes + page - 1) / page * page;
    model_file copy = { .bytes = bytes, .mapped_bytes = whole + page };
    void *memory = mmap(NULL, copy.mapped_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    cr_assert(memory != MAP_FAILED);
    copy.data = memory;
    memcpy(copy.data, file->data, bytes);
    cr_assert(mprotect(copy.data + whole, page, PROT_NONE) == 0);
    return copy;
}

Test(laws, a_truncated_file_is_refused_or_runs_what_is_whole)
{
    random_model random;
    cr_assert(random_model_init_shape(&random, random_shape_find("tiny"), 1) == MF_OK);
    rng r = { 1 };
    for (int storage = MFI_RAW; storage <= MFI_ZSTD; storage++) {
        model_file file = make_random_file(&random, MFK_BF16, (mfi_storage)storage, false);
        outputs whole[MFI_MAX_GRANULARITY], part[MFI_MAX_GRANULARITY];
        uint32_t n_whole = 0, n_part = 0;
        cr_assert(open_and_run(file.data, file.bytes, MF_VERIFY_DEFAULT, whole, &n_whole) == MF_OK);
        cr_assert(n_whole == random.config.n_granularity);
        for (uint32_t i = 0; i < test_rounds(300); i++) {
            model_file cut = copy_before_guard(&file, i < 70 ? i : rng_below(&r, (uint32_t)file.bytes));
            if (open_and_run(cut.data, cut.bytes, MF_VERIFY_DEFAULT, part, &n_part) == MF_OK) {
                for (uint32_t g = 0; g < n_part; g++)
                    cr_assert(same_bits(&whole[g], &part[g]), "cut at %zu", cut.bytes);
                drop_all(part, n_part);
            }
            drop_file(&cut);
        }
        drop_all(whole, n_whole);
        drop_file(&file);
    }
    random_model_free(&random);
}

/* What no specification asks for is the widest granularity that is there: `name`, and it says `expected`. Only who
 * asks for more gets more. */
static void expect_default(const model_file *file, const char *widest, const char *name, const outputs *expected)
{
    mf_model_options options = test_options(NULL);
    const mf_submodel_spec nothing = MF_SUBMODEL_SPEC_INIT;
    const int32_t tokens[] = { 1, 0, 2 };
    mf_model *model = NULL;
    options.widest = widest;
    cr_assert(mf_model_open_memory(&model, file->data, file->bytes, &options, NULL) == MF_OK);
    for (int i = 0; i < 2; i++) {
        char text[64];
        mf_submodel *view = NULL;
        cr_assert(mf_extract_submodel(&view, model, i ? &nothing : NULL, NULL) == MF_OK);
        cr_assert(mf_submodel_text(view, text, sizeof text, NULL) == MF_OK);
        cr_assert_str_eq(text, name);
        outputs out = run_alone(model, view, tokens, 3);
        cr_assert(same_bits(&out, expected));
        drop_outputs(&out);
        mf_submodel_close(view);
    }
    mf_model_info info = MF_MODEL_INFO_INIT;
    mf_submodel_info asked = MF_SUBMODEL_INFO_INIT;
    mf_submodel *all = take_named(model, "1");
    cr_assert(mf_model_info_get(model, &info) == MF_OK && mf_submodel_info_get(all, &asked) == MF_OK);
    cr_assert_eq(asked.n_shell, info.n_shell);
    mf_submodel_close(all);
    mf_model_close(model);
}

Test(laws, a_prefix_that_ends_with_a_region_runs_the_widths_that_are_there)
{
    random_model random;
    cr_assert(random_model_init_shape(&random, random_shape_find("tiny"), 1) == MF_OK);
    model_file file = make_random_file(&random, MFK_F32, MFI_RAW, false);
    mf_model_options options = MF_MODEL_OPTIONS_INIT;
    options.allocator = mfi_allocator(NULL);
    mfi_container_source source = { .fd = -1, .memory = file.data, .memory_bytes = file.bytes };
    mfi_container *container = NULL;
    cr_assert(mfi_container_open(&container, &source, &options, NULL) == MF_OK);
    cr_assert(mfi_container_region_count(container) == random.config.n_granularity);
    outputs whole[MFI_MAX_GRANULARITY], part[MFI_MAX_GRANULARITY];
    uint32_t n_whole = 0, n_part = 0;
    cr_assert(open_and_run(file.data, file.bytes, MF_VERIFY_DEFAULT, whole, &n_whole) == MF_OK);
    for (uint32_t i = 0; i < mfi_container_region_count(container); i++) {
        const mfi_region *region = mfi_container_region(container, i);
        model_file cut = copy_before_guard(&file, region->file_offset + region->stored_bytes);
        cr_assert(open_and_run(cut.data, cut.bytes, MF_VERIFY_DEFAULT, part, &n_part) == MF_OK);
        cr_assert(n_part == i + 1, "%u regions run %u granularities", i + 1, n_part);
        for (uint32_t g = 0; g < n_part; g++)
            cr_assert(same_bits(&whole[g], &part[g]));
        const char *name = random.config.granularity[i].name;
        expect_default(&cut, NULL, name, &whole[i]);
        expect_default(&file, name, name, &whole[i]);
        drop_all(part, n_part);
        drop_file(&cut);
    }
    mfi_container_close(container);
    drop_all(whole, n_whole);
    drop_file(&file);
    random_model_free(&random);
}

Test(laws, an_altered_file_is_refused_or_gives_the_same_bits)
{
    random_model random;
    cr_assert(random_model_init_shape(&random, random_shape_find("tiny"), 1) == MF_OK);
    rng r = { 1 };
    for (int storage = MFI_RAW; storage <= MFI_ZSTD; storage++) {
        model_file file = make_random_file(&random, MFK_BF16, (mfi_storage)storage, false);
        outputs whole[MFI_MAX_GRANULARITY], now[MFI_MAX_GRANULARITY];
        uint32_t n_whole = 0, n_now = 0;
        cr_assert(open_and_run(file.data, file.bytes, MF_VERIFY_FULL, whole, &n_whole) == MF_OK);
        for (uint32_t i = 0; i < test_rounds(150); i++) {
            uint32_t at = rng_below(&r, (uint32_t)(i % 2 ? file.bytes : file.bytes < 8192 ? file.bytes : 8192));
            unsigned char flip = (unsigned char)(1u << rng_below(&r, 8));
            file.data[at] ^= flip;
            if (open_and_run(file.data, file.bytes, MF_VERIFY_FULL, now, &n_now) == MF_OK) {
                cr_assert(n_now == n_whole, "byte %u", at);
                for (uint32_t g = 0; g < n_now; g++)
                    cr_assert(same_bits(&whole[g], &now[g]), "byte %u", at);
                drop_all(now, n_now);
            }
            /* Unverified, damaged weights run: to any numbers, but to an end. */
            if (open_and_run(file.data, file.bytes, MF_VERIFY_NONE, now, &n_now) == MF_OK) drop_all(now, n_now);
            file.data[at] ^= flip;
        }
        drop_all(whole, n_whole);
        drop_file(&file);
    }
    random_model_free(&random);
}

/* ---- Hostile makers: what the checksums cannot see ---- */

#define SLOT_BYTE 4096 /* of the first slot; the numbers are those of docs/container-format.md */

static uint64_t get_u64(const unsigned char *at)
{
    uint64_t value;
    memcpy(&value, at, sizeof(value));
    return value;
}

/* Makes the checksums of header and directory right again. */
static void seal(unsigned char *data)
{
    unsigned char *slot = data + SLOT_BYTE;
    uint64_t bytes = get_u64(slot + 16), hash = XXH64(data, 56, 0);
    memcpy(data + 56, &hash, sizeof(hash));
    if (bytes < 64 || bytes > 60000) return; /* refused in any case */
    hash = XXH64(slot + 8, (size_t)bytes - 8, 0);
    memcpy(slot, &hash, sizeof(hash));
}

/* One to three changes inside the directory: a flipped bit, or a word that is small, huge or nearly what it was. */
static void alter_directory(unsigned char *data, size_t directory_bytes, rng *r)
{
    for (uint32_t i = rng_between(r, 1, 3); i > 0; i--) {
        unsigned char *at = data + SLOT_BYTE + 8 + rng_below(r, (uint32_t)directory_bytes - 16);
        const uint32_t words[] = { 0, 1, 32, UINT32_MAX, 0x80000000u, 0x7fffffffu, 1u << 20, 7 };
        uint32_t word;
        if (rng_below(r, 2)) at -= (size_t)(at - data) % 4;
        memcpy(&word, at, sizeof(word));
        switch (rng_below(r, 4)) {
        case 0:
            word ^= 1u << rng_below(r, 32);
            break;
        case 1:
            word = words[rng_below(r, 8)];
            break;
        case 2:
            word += rng_below(r, 3) - 1;
            break;
        default:
            word += 32 * (rng_below(r, 3) - 1);
            break;
        }
        memcpy(at, &word, sizeof(word));
    }
}

/* Goes as far as the file lets it; every refusal has its sentence. */
static void go_on(mf_model *model, uint32_t granularity)
{
    mf_executor_options executor_options = MF_EXECUTOR_OPTIONS_INIT;
    mf_session_options session_options = MF_SESSION_OPTIONS_INIT;
    mf_error error = MF_ERROR_INIT;
    mf_executor *executor = NULL;
    mf_session *session = NULL;
    mf_submodel *view = NULL;
    mf_submodel_spec spec = MF_SUBMODEL_SPEC_INIT;
    const int32_t tokens[] = { 1, 0, 2 };
    spec.granularity = mf_model_granularity(model, granularity);
    executor_options.n_thread = 1;
    executor_options.max_tokens = session_options.max_positions = 4;
    if (mf_extract_submodel(&view, model, &spec, &error) == MF_OK &&
        mf_executor_create(&executor, model, &executor_options, &error) == MF_OK &&
        mf_session_create(&session, model, &session_options, &error) == MF_OK) {
        outputs out = new_outputs(model, 3);
        mf_request request = request_all(session, view, tokens, 3, &out, 0);
        mf_forward(executor, &request, 1, sizeof(request), &error);
        drop_outputs(&out);
    }
    cr_assert(error.status == MF_OK || error.detail[0]);
    mf_session_close(session);
    mf_executor_close(executor);
    mf_submodel_close(view);
}

Test(laws, a_directory_altered_by_its_maker_is_refused_or_runs_to_an_end)
{
    uint32_t opened = 0;
    for (uint32_t shape = 0; shape < 4; shape++) {
        rng r = { shape };
        random_model random = model_of(700 + shape);
        model_file file = make_random_file(&random, type_of(shape), MFI_RAW, false);
        size_t head = SLOT_BYTE + get_u64(file.data + SLOT_BYTE + 16);
        unsigned char *original = malloc(head);
        cr_assert(original);
        memcpy(original, file.data, head);
        for (uint32_t i = 0; i < test_rounds(1500); i++) {
            mf_model_options options = test_options(NULL);
            mf_error error = MF_ERROR_INIT;
            mf_model *model = NULL;
            alter_directory(file.data, head - SLOT_BYTE, &r);
            seal(file.data);
            options.verify = MF_VERIFY_NONE;
            if (mf_model_open_memory(&model, file.data, file.bytes, &options, &error) == MF_OK) {
                for (uint32_t g = 0; mf_model_granularity(model, g); g++)
                    go_on(model, g);
                opened++;
            } else {
                cr_assert(error.detail[0] && !model, "shape %u, round %u", shape, i);
            }
            mf_model_close(model);
            memcpy(file.data, original, head);
        }
        free(original);
        drop_file(&file);
        random_model_free(&random);
    }
    cr_assert(opened >= test_rounds(1500) / 15, "only %u altered files opened: the test hardly tests", opened);
}
