/* Gemma 3n's decoder: against f64 by the book, and the laws of docs/architecture.md with all that this family has:
 * shared keys and values, skipped layers, embeddings of each layer, streams, gates with a statistic. */
#include <criterion/criterion.h>

#include "gemma3n_reference.h"

enum { N_TOKEN = 14 };

static const int32_t timeline[N_TOKEN] = { 2, 5, 83, 69, 70, 5, 5, 11, 40, 0, 77, 63, 1, 33 };
static const mfk_type types[] = { MFK_F32, MFK_BF16, MFK_F16, MFK_Q8, MFK_Q4, 0 };
enum { N_TYPE = sizeof types / sizeof *types };

/* Views of the whole model: XL, S, ragged widths and query heads, and skips of layers that own keys and values and that
 * do not. The first three share a cache. */
static const widths views[] = {
    { GEMMA_LAYERS, { 96, 128, 160, 96, 192, 128, 64, 96 }, { 4, 4, 4, 4, 4, 4, 4, 4 } },
    { GEMMA_LAYERS, { 32, 96, 64, 96, 0, 0, 32, 64 }, { 4, 4, 4, 4, 0, 0, 3, 4 } },
    { GEMMA_LAYERS, { 64, 32, 160, 32, 64, 96, 32, 0 }, { 3, 4, 4, 3, 2, 4, 1, 0 } },
    { GEMMA_LAYERS, { 96, 0, 96, 32, 0, 128, 0, 0 }, { 4, 0, 4, 4, 0, 3, 0, 0 } },
    { GEMMA_LAYERS, { 0, 64, 32, 32, 160, 0, 64, 32 }, { 0, 2, 2, 4, 1, 0, 2, 4 } },
};
enum { N_VIEW = sizeof views / sizeof *views, N_SAME_CACHE = 3 };

static void expect_near(const float *got, const double *want, size_t n, const char *what, size_t view, size_t row)
{
    double scale = 0;
    for (size_t i = 0; i < n; i++)
        scale = fmax(scale, fabs(want[i]));
    for (size_t i = 0; i < n; i++)
        cr_assert(fabs((double)got[i] - want[i]) <= 1e-4 * scale, "view %zu row %zu: %s %zu is %g, not %g", view, row,
                  what, i, (double)got[i], want[i]);
}

static void expect_reference(reference *r, const widths *view, size_t index, size_t row, int32_t token,
                             const float *embedding, const outputs *out)
{
    ref_step(r, view, token, embedding);
    expect_near(out->logits + row * out->n_vocab, r->logits, out->n_vocab, "logit", index, row);
    expect_near(out->hidden + row * out->d_model, r->hidden, out->d_model, "hidden number", index, row);
}

static reference *new_reference(const gemma *m)
{
    reference *r = calloc(1, sizeof *r);
    cr_assert(r != NULL);
    r->m = m;
    return r;
}

Test(gemma3n, every_view_is_what_the_book_says)
{
    for (int variant = 0; variant < 2; variant++) {
        gemma m = gemma_model(MFK_F32);
        if (variant == 1) { /* what a configuration may leave out */
            m.config.gemma3n.correct_scale = false;
            m.config.gemma3n.coef_clip = m.config.logit_softcap = 0;
        }
        model_file file = gemma_file(&m);
        mf_model *model = open_file(&file, NULL);
        for (size_t v = 0; v < N_VIEW; v++) {
            mf_submodel *view = take_view(model, &views[v]);
            outputs out = run_alone(model, view, timeline, N_TOKEN);
            reference *r = new_reference(&m);
            for (size_t row = 0; row < N_TOKEN; row++)
                expect_reference(r, &views[v], v, row, timeline[row], NULL, &out);
            free(r);
            drop_outputs(&out);
            mf_submodel_close(view);
        }
        mf_model_close(model);
        drop_file(&file);
        gemma_free(&m);
    }
}

Test(gemma3n, widths_and_skips_change_at_any_token)
{
    gemma m = gemma_model(MFK_F32);
    model_file file = gemma_file(&m);
    mf_model *model = open_file(&file, NULL);
    mf_submodel *view[N_SAME_CACHE];
    static const widths *same_cache[N_SAME_CACHE] = { &views[0], &views[1], &views[2] };
    for (size_t v = 0; v < N_SAME_CACHE; v++)
        view[v] = take_view(model, same_cache[v]);
    mf_executor *executor = new_executor(model, 2, 0);
    mf_session *session = new_session(model);
    outputs out = new_outputs(model, N_TOKEN);
    reference *r = new_reference(&m);
    for (size_t row = 0, n = 1; row < N_TOKEN; row += n, n = 1 + row % 3) {
        const size_t v = row % N_SAME_CACHE;
        n = n < N_TOKEN - row ? n : N_TOKEN - row;
        run_more(executor, session, view[v], timeline, n, &out);
        for (size_t i = row; i < row + n; i++)
            expect_reference(r, same_cache[v], v, i, timeline[i], NULL, &out);
    }
    free(r);
    drop_outputs(&out);
    mf_session_close(session);
    mf_executor_close(executor);
    for (size_t v = 0; v < N_SAME_CACHE; v++)
        mf_submodel_close(view[v]);
    mf_model_close(model);
    drop_file(&file);
    gemma_free(&m);
}

Test(gemma3n, embeddings_in_a_prompt_have_no_row_of_the_table)
{
    static const int32_t mixed[] = { 7, -1, -1, 30, -1 };
    enum { N = sizeof mixed / sizeof *mixed };
    gemma m = gemma_model(MFK_F32);
    model_file file = gemma_file(&m);
    mf_model *model = open_file(&file, NULL);
    mf_submodel *view = take_view(model, &views[2]);
    mf_executor *executor = new_executor(model, 2, 0);
    mf_session *session = new_session(model);
    outputs out = new_outputs(model, N);
    reference *r = new_reference(&m);
    float embeddings[3][64];
    for (size_t i = 0; i < 3 * 64; i++)
        embeddings[i / 64][i % 64] = 3 * gemma_weight(&m, "an embedding", i / 64, i % 64);
    mf_request request = request_all(session, view, mixed, N, &out, 0);
    request.embeddings = embeddings[0];
    mf_error error = MF_ERROR_INIT;
    cr_assert_eq(mf_forward(executor, &request, 1, sizeof request, &error), MF_OK, "%s", error.detail);
    const float *next = embeddings[0];
    for (size_t row = 0; row < N; row++) {
        expect_reference(r, &views[2], 2, row, mixed[row], next, &out);
        if (mixed[row] < 0) next += 64;
    }
    free(r);
    drop_outputs(&out);
    mf_session_close(session);
    mf_executor_close(executor);
    mf_submodel_close(view);
    mf_model_close(model);
    drop_file(&file);
    gemma_free(&m);
}

static outputs run_file(const model_file *file, const char *level, const widths *w)
{
    mf_model *model = open_file(file, level);
    mf_submodel *view = take_view(model, w);
    outputs out = run_alone(model, view, timeline, N_TOKEN);
    mf_submodel_close(view);
    mf_model_close(model);
    return out;
}

/* The whole of a model that was cut. */
static widths whole_of(const gemma *m)
{
    widths w = { .n_layer = m->config.n_layer };
    memcpy(w.ffn, m->config.granularity[0].ffn, w.n_layer * sizeof *w.ffn);
    memcpy(w.heads, m->config.granularity[0].heads, w.n_layer * sizeof *w.heads);
    return w;
}

Test(gemma3n, a_view_equals_a_file_that_was_cut_at_every_processor_level)
{
    for (size_t t = 0; t < N_TYPE; t++) {
        gemma m = gemma_model(types[t]);
        model_file file = gemma_file(&m);
        for (size_t v = 0; v < N_VIEW; v++) {
            gemma slice = gemma_slice(&m, &views[v]);
            const widths whole = whole_of(&slice);
            model_file cut = gemma_file(&slice);
            const char *level;
            outputs first = { 0 };
            for (uint32_t i = 0; (level = cpu_level(&file, i)) != NULL; i++) {
                outputs viewed = run_file(&file, level, &views[v]), sliced = run_file(&cut, level, &whole);
                cr_assert(same_bits(&viewed, &sliced), "type %zu view %zu %s: not the cut file's", t, v, level);
                cr_assert(i == 0 || same_bits(&viewed, &first), "type %zu view %zu %s: not the scalar bits", t, v,
                          level);
                drop_outputs(&sliced);
                if (i == 0)
                    first = viewed;
                else
                    drop_outputs(&viewed);
            }
            drop_outputs(&first);
            drop_file(&cut);
            gemma_free(&slice);
        }
        drop_file(&file);
        gemma_free(&m);
    }
}

Test(gemma3n, weights_outside_the_view_are_never_used)
{
    for (size_t t = 0; t < N_TYPE; t++) {
        for (size_t v = 1; v < N_VIEW; v++) {
            gemma m = gemma_model(types[t]);
            model_file clean = gemma_file(&m);
            m.poison = &views[v];
            model_file poisoned = gemma_file(&m);
            outputs a = run_file(&clean, NULL, &views[v]), b = run_file(&poisoned, NULL, &views[v]);
            cr_assert(same_bits(&a, &b), "type %zu view %zu", t, v);
            drop_outputs(&a);
            drop_outputs(&b);
            drop_file(&clean);
            drop_file(&poisoned);
            gemma_free(&m);
        }
    }
}

/* All views in one batch, prompts cut into pieces, whatever the threads: the same bits as each by itself. */
static void expect_batch(const model_file *file, uint32_t n_thread, uint32_t max_tokens, size_t piece)
{
    mf_model *model = open_file(file, NULL);
    mf_executor *executor = new_executor(model, n_thread, max_tokens);
    mf_submodel *view[N_VIEW];
    mf_session *session[N_VIEW];
    outputs out[N_VIEW];
    for (size_t v = 0; v < N_VIEW; v++) {
        view[v] = take_view(model, &views[v]);
        session[v] = new_session(model);
        out[v] = new_outputs(model, N_TOKEN);
    }
    for (size_t row = 0; row < N_TOKEN; row += piece) {
        mf_request requests[N_VIEW];
        mf_error error = MF_ERROR_INIT;
        const size_t n = piece < N_TOKEN - row ? piece : N_TOKEN - row;
        for (size_t v = 0; v < N_VIEW; v++)
            requests[v] = request_all(session[v], view[v], timeline + row, n, &out[v], row);
        cr_assert_eq(mf_forward(executor, requests, N_VIEW, sizeof *requests, &error), MF_OK, "%s", error.detail);
    }
    for (size_t v = 0; v < N_VIEW; v++) {
        outputs alone = run_alone(model, view[v], timeline, N_TOKEN);
        cr_assert(same_bits(&out[v], &alone), "view %zu, %u threads, %u rows, pieces of %zu", v, n_thread, max_tokens,
                  piece);
        drop_outputs(&alone);
        drop_outputs(&out[v]);
        mf_session_close(session[v]);
        mf_submodel_close(view[v]);
    }
    mf_executor_close(executor);
    mf_model_close(model);
}

Test(gemma3n, batches_pieces_and_threads_change_no_bit)
{
    for (size_t t = 0; t < N_TYPE; t++) {
        gemma m = gemma_model(types[t]);
        model_file file = gemma_file(&m);
        for (uint32_t n_thread = 1; n_thread <= 3; n_thread++) {
            expect_batch(&file, n_thread, 0, 1);
            expect_batch(&file, n_thread, 0, 5);
            expect_batch(&file, n_thread, 7, N_TOKEN);
        }
        drop_file(&file);
        gemma_free(&m);
    }
}

/* From layer 4 on nothing is stored, and most rows of a prompt are not computed. */
Test(gemma3n, rows_that_nobody_wants_change_no_other)
{
    gemma m = gemma_model(MFK_F32);
    model_file file = gemma_file(&m);
    mf_model *model = open_file(&file, NULL);
    mf_submodel *view[N_VIEW];
    outputs alone[N_VIEW], out = new_outputs(model, N_VIEW);
    for (size_t v = 0; v < N_VIEW; v++) {
        view[v] = take_view(model, &views[v]);
        alone[v] = run_alone(model, view[v], timeline, N_TOKEN);
    }
    for (uint32_t n_thread = 1; n_thread <= 3; n_thread++) {
        for (size_t piece = 1; piece <= N_TOKEN; piece += 4) {
            mf_executor *executor = new_executor(model, n_thread, 0);
            mf_session *session[N_VIEW];
            for (size_t v = 0; v < N_VIEW; v++)
                session[v] = new_session(model);
            for (size_t row = 0, n = piece; row < N_TOKEN; row += n) {
                mf_request requests[N_VIEW];
                n = piece < N_TOKEN - row ? piece : N_TOKEN - row;
                for (size_t v = 0; v < N_VIEW; v++) {
                    requests[v] = request_all(session[v], view[v], timeline + row, 1, &out, v);
                    requests[v].n_token = n;
                    requests[v].logits_of = (row + v) % 3 == 0 ? MF_LOGITS_NONE : MF_LOGITS_LAST;
                }
                cr_assert_eq(mf_forward(executor, requests, N_VIEW, sizeof *requests, NULL), MF_OK);
                for (size_t v = 0; v < N_VIEW; v++)
                    cr_assert(requests[v].logits_of == MF_LOGITS_NONE || same_rows(&out, v, &alone[v], row + n - 1, 1),
                              "view %zu row %zu, %u threads, pieces of %zu", v, row, n_thread, piece);
            }
            for (size_t v = 0; v < N_VIEW; v++)
                mf_session_close(session[v]);
            mf_executor_close(executor);
        }
    }
    for (size_t v = 0; v < N_VIEW; v++) {
        drop_outputs(&alone[v]);
        mf_submodel_close(view[v]);
    }
    drop_outputs(&out);
    mf_model_close(model);
    drop_file(&file);
    gemma_free(&m);
}

/* With one request the rows of a batch are few, and threads share the key/value heads where these divide. */
Test(gemma3n, one_request_on_any_number_of_threads)
{
    for (size_t t = 0; t < N_TYPE; t++) {
        gemma m = gemma_model(types[t]);
        model_file file = gemma_file(&m);
        mf_model *model = open_file(&file, NULL);
        for (size_t v = 0; v < N_VIEW; v++) {
            mf_submodel *view = take_view(model, &views[v]);
            outputs alone = run_alone(model, view, timeline, N_TOKEN);
            for (uint32_t n_thread = 1; n_thread <= 3; n_thread++) {
                mf_executor *executor = new_executor(model, n_thread, 0);
                mf_session *session = new_session(model);
                outputs out = new_outputs(model, N_TOKEN);
                run_more(executor, session, view, timeline, 10, &out);
                for (size_t row = 10; row < N_TOKEN; row++)
                    run_more(executor, session, view, timeline, 1, &out);
                cr_assert(same_bits(&out, &alone), "type %zu view %zu, %u threads", t, v, n_thread);
                drop_outputs(&out);
                mf_session_close(session);
                mf_executor_close(executor);
            }
            drop_outputs(&alone);
            mf_submodel_close(view);
        }
        mf_model_close(model);
        drop_file(&file);
        gemma_free(&m);
    }
}

Test(gemma3n, quantized_weights_say_nearly_the_same)
{
    static const double bounds[N_TYPE] = { 0, 0.02, 0.004, 0.05, 0.4, 0.4 };
    gemma m = gemma_model(MFK_F32);
    model_file file = gemma_file(&m);
    outputs exact = run_file(&file, NULL, &views[0]);
    for (size_t t = 1; t < N_TYPE; t++) {
        m.type = types[t];
        model_file other = gemma_file(&m);
        outputs out = run_file(&other, NULL, &views[0]);
        double error = 0, square = 0;
        for (size_t i = 0; i < N_TOKEN * out.n_vocab; i++) {
            const double want = (double)exact.logits[i], off = (double)out.logits[i] - want;
            error += off * off;
            square += want * want;
        }
        cr_assert(sqrt(error / square) < bounds[t], "type %zu is off by %g", t, sqrt(error / square));
        drop_outputs(&out);
        drop_file(&other);
    }
    drop_outputs(&exact);
    drop_file(&file);
    gemma_free(&m);
}

static void expect_refused(mf_model *model, const char *text)
{
    mf_submodel *view = NULL;
    mf_error error = MF_ERROR_INIT;
    cr_assert_eq(mf_extract_submodel_text(&view, model, text, &error), MF_E_WIDTH, "%s", text);
    cr_assert(view == NULL && error.detail[0] != '\0');
}

Test(gemma3n, owners_that_others_read_stay)
{
    gemma m = gemma_model(MFK_F32);
    m.config.may_skip[2] = m.config.may_skip[3] = 1;
    model_file file = gemma_file(&m);
    mf_model *model = open_file(&file, NULL);
    expect_refused(model, "skip=2");
    expect_refused(model, "skip=3");
    expect_refused(model, "heads=4,4,2,4,4,4,4,4"); /* layer 4 reads two heads of layer 2 */
    mf_submodel_close(take_named(model, "skip=2,4,6"));
    mf_submodel_close(take_named(model, "heads=4,4,2,4,2,4,1,4"));
    mf_submodel_close(take_named(model, "S"));
    mf_model_close(model);
    drop_file(&file);
    gemma_free(&m);
}

Test(gemma3n, a_cache_is_of_the_owners_alone)
{
    gemma m = gemma_model(MFK_F32);
    model_file file = gemma_file(&m);
    mf_model *model = open_file(&file, NULL);
    mf_submodel *full = take_view(model, &views[0]), *no_sharer = take_named(model, "skip=4,5,6,7"),
                *no_owner = take_named(model, "skip=0");
    mf_executor *executor = new_executor(model, 1, 0);
    mf_session *session = new_session(model), *loaded = new_session(model);
    outputs out = new_outputs(model, N_TOKEN), again = new_outputs(model, N_TOKEN);
    run_more(executor, session, full, timeline, 4, &out);
    run_more(executor, session, no_sharer, timeline, 3, &out);
    mf_request request = request_all(session, no_owner, timeline, 1, &again, 0);
    cr_assert_eq(mf_forward(executor, &request, 1, sizeof request, NULL), MF_E_REBUILD_NEEDED);

    temporary_path path = new_path();
    mf_error error = MF_ERROR_INIT;
    cr_assert_eq(mf_session_save(session, path.text, &error), MF_OK, "%s", error.detail);
    cr_assert_eq(mf_session_load(loaded, path.text, &error), MF_OK, "%s", error.detail);
    remove(path.text);
    run_more(executor, session, full, timeline, 3, &out);
    run_more(executor, loaded, full, timeline, 3, &again);
    cr_assert(same_rows(&out, 7, &again, 7, 3));
    drop_outputs(&out);
    drop_outputs(&again);
    mf_session_close(session);
    mf_session_close(loaded);
    mf_executor_close(executor);
    mf_submodel_close(full);
    mf_submodel_close(no_sharer);
    mf_submodel_close(no_owner);
    mf_model_close(model);
    drop_file(&file);
    gemma_free(&m);
}

Test(gemma3n, sizes_of_a_view_are_those_of_the_file_cut_to_it)
{
    gemma m = gemma_model(MFK_F32);
    model_file file = gemma_file(&m);
    mf_model *model = open_file(&file, NULL);
    for (size_t v = 0; v < N_VIEW; v++) {
        gemma slice = gemma_slice(&m, &views[v]);
        model_file cut = gemma_file(&slice);
        mf_model *cut_model = open_file(&cut, NULL);
        mf_model_info whole = MF_MODEL_INFO_INIT;
        mf_submodel_info info = MF_SUBMODEL_INFO_INIT;
        mf_submodel *view = take_view(model, &views[v]);
        cr_assert_eq(mf_model_info_get(cut_model, &whole), MF_OK);
        cr_assert_eq(mf_submodel_info_get(view, &info), MF_OK);
        cr_assert_eq(info.n_param, whole.n_param, "view %zu: %llu, not %llu", v, (unsigned long long)info.n_param,
                     (unsigned long long)whole.n_param);
        uint64_t kv_heads = 0;
        for (uint32_t l = 0; l < 4; l++)
            kv_heads += (views[v].heads[l] + 1) / 2;
        cr_assert_eq(info.cache_bytes_per_position, 2 * sizeof(float) * m.config.d_head * kv_heads);
        mf_submodel_close(view);
        mf_model_close(cut_model);
        drop_file(&cut);
        gemma_free(&slice);
    }
    mf_model_close(model);
    drop_file(&file);
    gemma_free(&m);
}

static void expect_config_refused(gemma *m, const char *what)
{
    mf_error error = MF_ERROR_INIT;
    cr_assert_eq(mfi_config_check(&m->config, &error), MF_E_INVALID, "%s", what);
    gemma_free(m);
    *m = gemma_model(MFK_F32);
    cr_assert_eq(mfi_config_check(&m->config, &error), MF_OK, "%s", error.detail);
}

Test(gemma3n, configurations_that_make_no_sense_are_refused)
{
    gemma m = gemma_model(MFK_F32);
    m.config.kv_layer[4] = 5;
    expect_config_refused(&m, "a layer reads one after it");
    m.config.kv_layer[6] = 4;
    expect_config_refused(&m, "a layer reads one that owns nothing");
    m.config.kv_layer[4] = 3;
    expect_config_refused(&m, "a layer reads one with another window");
    m.config.kv_layer[0] = UINT32_MAX;
    expect_config_refused(&m, "no such layer");
    m.config.sparsity[1] = NAN;
    expect_config_refused(&m, "sparsity");
    m.config.gemma3n.n_stream = MFI_MAX_STREAM + 1;
    expect_config_refused(&m, "too many streams");
    m.config.gemma3n.active = GEMMA_STREAMS;
    expect_config_refused(&m, "no such stream");
    m.config.gemma3n.laurel_rank = 33;
    expect_config_refused(&m, "rank");
    m.config.gemma3n.d_ple = 0;
    expect_config_refused(&m, "embedding of a layer");
    m.config.gemma3n.rope_theta_local = 0;
    expect_config_refused(&m, "rotation");
    m.config.tied = false;
    expect_config_refused(&m, "output of its own");
    m.config.family = MFI_FAMILY_LLAMA;
    expect_config_refused(&m, "another family");
    gemma_free(&m);
}

/* A few tokens through the widest view, if the file opens; whatever becomes of them. */
static void run_if_it_opens(const model_file *file)
{
    mf_model_options options = MF_MODEL_OPTIONS_INIT;
    mf_session_options short_session = MF_SESSION_OPTIONS_INIT;
    mf_executor_options one_thread = MF_EXECUTOR_OPTIONS_INIT;
    mf_error error = MF_ERROR_INIT;
    mf_model *model = NULL;
    mf_submodel *view = NULL;
    mf_session *session = NULL;
    mf_executor *executor = NULL;
    short_session.max_positions = 8;
    one_thread.n_thread = one_thread.max_requests = 1;
    one_thread.max_tokens = 8;
    if (mf_model_open_memory(&model, file->data, file->bytes, &options, &error) != MF_OK) {
        cr_assert(error.detail[0] != '\0');
        return;
    }
    if (mf_extract_submodel_text(&view, model, "1", NULL) == MF_OK &&
        mf_session_create(&session, model, &short_session, NULL) == MF_OK &&
        mf_executor_create(&executor, model, &one_thread, NULL) == MF_OK) {
        outputs out = new_outputs(model, 4);
        mf_request request = request_all(session, view, timeline, 4, &out, 0);
        mf_forward(executor, &request, 1, sizeof request, NULL);
        drop_outputs(&out);
    }
    mf_executor_close(executor);
    mf_session_close(session);
    mf_submodel_close(view);
    mf_model_close(model);
}

Test(gemma3n, a_file_that_claims_another_configuration_is_refused_or_runs)
{
    static const uint32_t values[] = { 0, 1, 2, 3, 8, 16, 31, 32, 64, 96, 128, 4096, INT32_MAX };
    for (uint32_t round = 0; round < test_rounds(100); round++) {
        gemma m = gemma_model(MFK_Q8), other = gemma_model(MFK_Q8);
        mfi_config *c = &other.config;
        rng r = { round };
        const uint32_t layer = rng_below(&r, GEMMA_LAYERS);
        uint32_t *const fields[] = {
            &c->d_model,
            &c->d_head,
            &c->head_group,
            &c->n_head,
            &c->d_ff,
            &c->n_vocab,
            &c->gemma3n.n_stream,
            &c->gemma3n.active,
            &c->gemma3n.d_ple,
            &c->gemma3n.laurel_rank,
            &c->window[layer],
            &c->gemma3n.n_vocab_ple,
            &c->kv_layer[layer],
            &c->granularity[rng_below(&r, 2)].ffn[layer],
            &c->kv_layer[layer],
            &c->granularity[rng_below(&r, 2)].heads[layer],
        };
        for (uint32_t i = 1 + rng_below(&r, 2); i > 0; i--)
            *fields[rng_below(&r, sizeof fields / sizeof *fields)] =
                values[rng_below(&r, sizeof values / sizeof *values)];
        m.claimed = c;
        model_file file = gemma_file(&m);
        run_if_it_opens(&file);
        drop_file(&file);
        gemma_free(&m);
        gemma_free(&other);
    }
}
