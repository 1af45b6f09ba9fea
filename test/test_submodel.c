/* test_submodel.c - views: every form of a specification, what is refused and why, and what the numbers say. */
#define _POSIX_C_SOURCE 200809L /* posix_memalign */
#include "run_model.h"
#include "arena.h"
#include "counting_allocator.h"

#include <criterion/criterion.h>
#include <criterion/logging.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

/* tiny: 3 layers of width 256 with 4 heads of 32 in groups of 2; S, M, L = 64, 128, 256; layer 1 may be skipped */
typedef struct stage {
    random_model random;
    model_file file;
    mf_model *model;
} stage;

static stage open_stage(void)
{
    stage s;
    cr_assert(random_model_init_shape(&s.random, random_shape_find("tiny"), 1) == MF_OK);
    s.file = make_random_file(&s.random, MFK_BF16, MFI_RAW, false);
    s.model = open_file(&s.file, NULL);
    return s;
}

static void close_stage(stage *s)
{
    mf_model_close(s->model);
    drop_file(&s->file);
    random_model_free(&s->random);
}

static widths widths_of(const mf_submodel *view, uint32_t n_layer)
{
    widths w = { .n_layer = n_layer };
    for (uint32_t l = 0; l < n_layer; l++) {
        int kept;
        cr_assert(mf_submodel_layer(view, l, &w.ffn[l], &w.heads[l], &kept) == MF_OK);
        cr_assert(kept == (w.ffn[l] > 0) && kept == (w.heads[l] > 0));
    }
    cr_assert(mf_submodel_layer(view, n_layer, NULL, NULL, NULL) == MF_E_RANGE);
    return w;
}

static bool same_widths(const widths *a, const widths *b)
{
    return a->n_layer == b->n_layer && memcmp(a->ffn, b->ffn, a->n_layer * sizeof(uint32_t)) == 0 &&
           memcmp(a->heads, b->heads, a->n_layer * sizeof(uint32_t)) == 0;
}

static void expect_widths(const stage *s, const mf_submodel_spec *spec, const widths *wanted, const char *what)
{
    mf_error error = MF_ERROR_INIT;
    mf_submodel *view = NULL;
    mf_status status = mf_extract_submodel(&view, s->model, spec, &error);
    cr_assert(status == MF_OK, "%s: %s", what, error.detail);
    widths w = widths_of(view, s->random.config.n_layer);
    cr_expect(same_widths(&w, wanted), "%s", what);
    mf_submodel_close(view);
}

/* ---- What is accepted ---- */

Test(submodel, every_form_of_a_specification_gives_the_widths_that_it_names)
{
    stage s = open_stage();
    static const struct {
        const char *text;
        widths wanted;
    } forms[] = {
        { "S", { 3, { 64, 64, 64 }, { 4, 4, 4 } } },
        { "L", { 3, { 256, 256, 256 }, { 4, 4, 4 } } },
        { "0.5", { 3, { 128, 128, 128 }, { 4, 4, 4 } } },
        { "0.3", { 3, { 96, 96, 96 }, { 4, 4, 4 } } },
        { "1", { 3, { 256, 256, 256 }, { 4, 4, 4 } } },
        { "0.001", { 3, { 32, 32, 32 }, { 4, 4, 4 } } },
        { "5e-1", { 3, { 128, 128, 128 }, { 4, 4, 4 } } },
        { "ffn=64x3", { 3, { 64, 64, 64 }, { 4, 4, 4 } } },
        { "ffn=64,96x2", { 3, { 64, 96, 96 }, { 4, 4, 4 } } },
        { "ffn=64,96,256", { 3, { 64, 96, 256 }, { 4, 4, 4 } } },
        { "heads=2x3", { 3, { 256, 256, 256 }, { 2, 2, 2 } } },
        { "M;heads=1,2,3", { 3, { 128, 128, 128 }, { 1, 2, 3 } } },
        { "skip=1", { 3, { 256, 0, 256 }, { 4, 0, 4 } } },
        { "skip=1-1", { 3, { 256, 0, 256 }, { 4, 0, 4 } } },
        { "S skip=1", { 3, { 64, 0, 64 }, { 4, 0, 4 } } },
        { "  S ;; skip=1 ; ", { 3, { 64, 0, 64 }, { 4, 0, 4 } } },
        { "ffn=32,64;skip=1", { 3, { 32, 0, 64 }, { 4, 0, 4 } } },
        { "ffn=32,96,64;skip=1;heads=3x2", { 3, { 32, 0, 64 }, { 3, 0, 3 } } },
        { "skip=1;heads=3,1,2;0.25", { 3, { 64, 0, 64 }, { 3, 0, 2 } } },
    };
    for (size_t i = 0; i < sizeof(forms) / sizeof(forms[0]); i++) {
        mf_submodel_spec spec = MF_SUBMODEL_SPEC_INIT;
        spec.text = forms[i].text;
        expect_widths(&s, &spec, &forms[i].wanted, forms[i].text);
        mf_submodel *view = take_named(s.model, forms[i].text);
        widths w = widths_of(view, 3);
        cr_expect(same_widths(&w, &forms[i].wanted), "%s by mf_extract_submodel_text", forms[i].text);
        mf_submodel_close(view);
    }
    close_stage(&s);
}

Test(submodel, the_struct_form_says_the_same_as_the_text)
{
    stage s = open_stage();
    static const uint32_t ffn[] = { 32, 64, 96 }, heads[] = { 1, 2, 3 }, skip[] = { 1, 1 };
    widths widest = granularity_widths(&s.random.config, 2), wanted = widest;
    expect_widths(&s, NULL, &widest, "no specification");
    mf_submodel_spec spec = MF_SUBMODEL_SPEC_INIT;
    expect_widths(&s, &spec, &widest, "an empty specification");
    spec.ffn = ffn;
    spec.n_ffn = 3;
    spec.heads = heads;
    spec.n_heads = 3;
    expect_widths(&s, &spec, &(widths){ 3, { 32, 64, 96 }, { 1, 2, 3 } }, "lists");
    spec.skip = skip;
    spec.n_skip = 2;
    expect_widths(&s, &spec, &(widths){ 3, { 32, 0, 96 }, { 1, 0, 3 } }, "lists for all layers, one skipped");
    spec.n_ffn = spec.n_heads = 2;
    expect_widths(&s, &spec, &(widths){ 3, { 32, 0, 64 }, { 1, 0, 2 } }, "lists for the kept layers");
    spec = (mf_submodel_spec)MF_SUBMODEL_SPEC_INIT;
    for (spec.ratio = 0.01; spec.ratio <= 1; spec.ratio += 0.01) {
        for (uint32_t l = 0; l < 3; l++)
            wanted.ffn[l] = 32 * (uint32_t)ceil(spec.ratio * 256 / 32 - 1e-9);
        expect_widths(&s, &spec, &wanted, "a ratio");
    }
    spec.ratio = 0;
    spec.granularity = "M";
    wanted = granularity_widths(&s.random.config, 1);
    expect_widths(&s, &spec, &wanted, "a name");
    close_stage(&s);
}

Test(submodel, the_text_of_a_view_gives_the_view_again)
{
    for (uint32_t round = 0; round < test_rounds(40); round++) {
        rng r = { round };
        stage s;
        cr_assert(random_model_init(&s.random, 500 + round) == MF_OK);
        s.file = make_random_file(&s.random, MFK_BF16, MFI_RAW, false);
        s.model = open_file(&s.file, NULL);
        for (uint32_t i = 0; i < 20; i++) {
            const mfi_config *c = &s.random.config;
            widths w = i < c->n_granularity ? granularity_widths(c, i) : random_widths(c, &r);
            mf_submodel *view = take_view(s.model, &w);
            char text[256], small[256];
            size_t bytes = 0;
            cr_assert(mf_submodel_text(view, text, sizeof(text), &bytes) == MF_OK && bytes == strlen(text) + 1);
            mf_submodel *again = take_named(s.model, text);
            widths w_again = widths_of(again, c->n_layer);
            cr_assert(same_widths(&w, &w_again), "round %u: %s", round, text);
            cr_assert(i >= c->n_granularity || same_widths(&w, &w_again), "%s is not a name", text);

            size_t needed = 0;
            cr_assert(mf_submodel_text(view, NULL, 0, &needed) == MF_E_CAPACITY && needed == bytes);
            memset(small, 'x', sizeof(small));
            cr_assert(mf_submodel_text(view, small, bytes - 1, NULL) == MF_E_CAPACITY);
            cr_assert(memchr(small, 0, bytes - 1) && small[bytes - 1] == 'x');
            cr_assert(mf_submodel_text(view, small, bytes, NULL) == MF_OK && strcmp(small, text) == 0);
            mf_submodel_close(view);
            mf_submodel_close(again);
        }
        close_stage(&s);
    }
}

/* ---- What is refused ---- */

Test(submodel, what_the_model_does_not_offer_is_refused_with_the_reason)
{
    stage s = open_stage();
    static const struct {
        const char *text;
        mf_status wanted;
        const char *reason; /* a part of the sentence */
    } refused[] = {
        { "ffn=250x3", MF_E_WIDTH, "32" },
        { "ffn=288x3", MF_E_WIDTH, "256" },
        { "ffn=0x3", MF_E_WIDTH, "0" },
        { "ffn=64x2", MF_E_WIDTH, "3" },
        { "ffn=64x4", MF_E_WIDTH, "3" },
        { "ffn=64;skip=1", MF_E_WIDTH, "2" },
        { "heads=5x3", MF_E_WIDTH, "4" },
        { "heads=0x3", MF_E_WIDTH, "0" },
        { "heads=2", MF_E_WIDTH, "3" },
        { "skip=0", MF_E_WIDTH, "0" },
        { "skip=1-2", MF_E_WIDTH, "2" },
        { "skip=3", MF_E_WIDTH, "3" },
        { "XL", MF_E_NOT_FOUND, "XL" },
        { "s", MF_E_NOT_FOUND, "s" },
        { "params<=1e9", MF_E_UNSUPPORTED, "plan" },
        { "ms<=20", MF_E_UNSUPPORTED, "plan" },
        { "", MF_E_INVALID, "" },
        { " ; ", MF_E_INVALID, "" },
        { "S M", MF_E_INVALID, "M" },
        { "S;0.5", MF_E_INVALID, "0.5" },
        { "1.5", MF_E_INVALID, "1.5" },
        { "0", MF_E_INVALID, "0" },
        { "-0.5", MF_E_NOT_FOUND, "-0.5" },
        { "ffn=", MF_E_INVALID, "ffn=" },
        { "ffn=64x", MF_E_INVALID, "ffn=64x" },
        { "ffn=64x3,", MF_E_INVALID, "ffn=64x3," },
        { "ffn=64y3", MF_E_INVALID, "ffn=64y3" },
        { "ffn=-64x3", MF_E_INVALID, "ffn=-64x3" },
        { "ffn=64.0x3", MF_E_INVALID, "ffn=64.0x3" },
        { "ffn=99999999999x3", MF_E_INVALID, "ffn=99999999999x3" },
        { "ffn=4294967328x3", MF_E_INVALID, "ffn=4294967328x3" }, /* 2^32 + 32 */
        { "ffn=64x4000000000", MF_E_INVALID, "ffn=64x4000000000" },
        { "skip=0-4294967295", MF_E_INVALID, "skip=" },
        { "skip=2-1", MF_E_INVALID, "skip=2-1" },
        { "widths=64x3", MF_E_INVALID, "widths=64x3" },
        { "params<=-1", MF_E_INVALID, "params<=-1" },
        { "params<=nan", MF_E_INVALID, "params<=nan" },
        { "ffn=64x3;ffn=32x3", MF_E_INVALID, "ffn=32x3" },
    };
    for (size_t i = 0; i < sizeof(refused) / sizeof(refused[0]); i++) {
        mf_error error = MF_ERROR_INIT;
        mf_submodel *view = (mf_submodel *)&error;
        mf_status status = mf_extract_submodel_text(&view, s.model, refused[i].text, &error);
        cr_expect(status == refused[i].wanted && error.status == status, "\"%s\": %s, %s", refused[i].text,
                  mf_status_name(status), error.detail);
        cr_expect(view == NULL && error.detail[0] && strstr(error.detail, refused[i].reason), "\"%s\": %s",
                  refused[i].text, error.detail);
    }
    close_stage(&s);
}

Test(submodel, a_text_longer_than_anything_sensible_is_refused)
{
    stage s = open_stage();
    char *text = malloc(1u << 20);
    cr_assert(text);
    memset(text, '7', 1u << 20);
    text[(1u << 20) - 1] = 0;
    mf_error error = MF_ERROR_INIT;
    mf_submodel *view = NULL;
    cr_assert(mf_extract_submodel_text(&view, s.model, text, &error) != MF_OK && !view && error.detail[0]);
    memcpy(text, "ffn=64", 6);
    for (size_t i = 6; i + 2 < 1u << 20; i += 2)
        memcpy(text + i, ",1", 2);
    cr_assert(mf_extract_submodel_text(&view, s.model, text, &error) != MF_OK && !view);
    free(text);
    close_stage(&s);
}

static void expect_spec_refused(const stage *s, const mf_submodel_spec *spec, mf_status wanted, const char *what)
{
    mf_error error = MF_ERROR_INIT;
    mf_submodel *view = NULL;
    mf_status status = mf_extract_submodel(&view, s->model, spec, &error);
    cr_expect(status == wanted && !view && error.detail[0], "%s: %s, %s", what, mf_status_name(status), error.detail);
}

Test(submodel, a_specification_that_contradicts_itself_is_refused)
{
    stage s = open_stage();
    static const uint32_t list[] = { 64, 64, 64 };
    const mf_submodel_spec none = MF_SUBMODEL_SPEC_INIT;
    mf_submodel_spec spec = none;
    spec.granularity = "S";
    spec.ratio = 0.5;
    expect_spec_refused(&s, &spec, MF_E_INVALID, "a name and a ratio");
    spec = none;
    spec.ratio = 1.5;
    expect_spec_refused(&s, &spec, MF_E_WIDTH, "a ratio above 1");
    spec.ratio = -0.5;
    expect_spec_refused(&s, &spec, MF_E_WIDTH, "a negative ratio");
    spec.ratio = (double)NAN;
    expect_spec_refused(&s, &spec, MF_E_WIDTH, "NaN");
    spec = none;
    spec.n_ffn = 3;
    expect_spec_refused(&s, &spec, MF_E_INVALID, "a list that is NULL");
    spec = none;
    spec.text = "S";
    spec.ffn = list;
    spec.n_ffn = 3;
    expect_spec_refused(&s, &spec, MF_E_INVALID, "text and a list");
    spec = none;
    spec.struct_size = 3;
    expect_spec_refused(&s, &spec, MF_E_STRUCT_SIZE, "a short struct");
    cr_expect(mf_extract_submodel(NULL, s.model, NULL, NULL) == MF_E_INVALID);
    mf_submodel *view = NULL;
    cr_expect(mf_extract_submodel(&view, NULL, NULL, NULL) == MF_E_INVALID && !view);
    cr_expect(mf_extract_submodel_text(&view, s.model, NULL, NULL) == MF_E_INVALID && !view);
    close_stage(&s);
}

/* Heads of 16 come in pairs: a prefix must fill whole quanta. */
Test(submodel, head_prefixes_off_the_quantum_are_refused)
{
    random_shape shape = *random_shape_find("tiny");
    stage s;
    shape.d_head = 16;
    cr_assert(random_model_init_shape(&s.random, &shape, 1) == MF_OK);
    s.file = make_random_file(&s.random, MFK_BF16, MFI_RAW, false);
    s.model = open_file(&s.file, NULL);
    mf_error error = MF_ERROR_INIT;
    mf_submodel *view = NULL;
    cr_assert(mf_extract_submodel_text(&view, s.model, "heads=3x3", &error) == MF_E_WIDTH && error.detail[0]);
    view = take_named(s.model, "heads=2x3");
    mf_submodel_close(view);
    close_stage(&s);
}

/* ---- Numbers ---- */

/* The same numbers from the formulas of the model, matrix by matrix. */
static mf_submodel_info count(const mfi_config *c, const widths *w, uint64_t block_bytes)
{
    mf_submodel_info info = MF_SUBMODEL_INFO_INIT;
    uint64_t d = c->d_model, vocabulary = c->n_vocab * d, norm = d * (c->norm == MFI_NORM_LAYER ? 2 : 1);
    uint64_t matrices = 0, vectors = norm, kv_floats = 0;
    for (uint32_t l = 0; l < w->n_layer; l++) {
        if (w->ffn[l] == 0) continue;
        uint64_t q = (uint64_t)w->heads[l] * c->d_head;
        uint64_t kv = (uint64_t)mfi_kv_heads(w->heads[l], c->head_group) * c->d_head;
        matrices += d * (2 * q + 2 * kv + (c->ffn == MFI_FFN_GATED ? 3u : 2u) * (uint64_t)w->ffn[l]);
        vectors += 2 * norm;
        kv_floats += 2 * kv;
        info.n_layer_kept++;
    }
    info.n_param_body = matrices + vectors;
    info.n_param = info.n_param_body + vocabulary * (c->tied ? 1 : 2);
    info.bytes_per_token = (matrices + vocabulary + d) / 32 * block_bytes + vectors * 4; /* one row of the embedding */
    info.flops_per_token = 2 * (matrices + vocabulary);
    info.cache_bytes_per_position = kv_floats * 4;
    return info;
}

Test(submodel, the_numbers_of_a_view_are_what_counting_gives)
{
    for (uint32_t round = 0; round < test_rounds(30); round++) {
        rng r = { round };
        random_model random;
        cr_assert(random_model_init(&random, 600 + round) == MF_OK);
        static const mfk_type types[] = { MFK_F32, MFK_BF16, MFK_F16, MFK_Q8, MFK_Q4 };
        static const uint64_t block_bytes[] = { 128, 64, 64, 34, 18 }; /* of 32 weights */
        mfk_type type = types[round % 5];
        model_file file = make_random_file(&random, type, MFI_RAW, round % 3 == 0);
        mf_model *model = open_file(&file, NULL);
        for (uint32_t i = 0; i < 10; i++) {
            const mfi_config *c = &random.config;
            widths w = i < c->n_granularity ? granularity_widths(c, i) : random_widths(c, &r);
            mf_submodel *view = take_view(model, &w);
            mf_submodel_info counted = count(c, &w, block_bytes[round % 5]), info = MF_SUBMODEL_INFO_INIT;
            cr_assert(mf_submodel_info_get(view, &info) == MF_OK);
            cr_expect(info.n_param == counted.n_param, "round %u: n_param", round);
            cr_expect(info.n_param_body == counted.n_param_body, "round %u: n_param_body", round);
            cr_expect(info.bytes_per_token == counted.bytes_per_token, "round %u: bytes_per_token", round);
            cr_expect(info.flops_per_token == counted.flops_per_token, "round %u: flops_per_token", round);
            cr_expect(info.cache_bytes_per_position == counted.cache_bytes_per_position, "round %u: cache", round);
            cr_expect(info.n_layer_kept == counted.n_layer_kept, "round %u: n_layer_kept", round);
            cr_expect(info.n_shell >= 1 && (round % 3 || info.n_shell == 1), "round %u: n_shell", round);
            if (i == c->n_granularity - 1) {
                mf_model_info whole = MF_MODEL_INFO_INIT;
                cr_assert(mf_model_info_get(model, &whole) == MF_OK && whole.n_param == info.n_param);
                cr_assert(whole.n_layer == c->n_layer && whole.d_model == c->d_model && whole.d_ff == c->d_ff);
                cr_assert(whole.n_head == c->n_head && whole.d_head == c->d_head && whole.n_vocab == c->n_vocab);
                cr_assert(whole.n_kv_head == mfi_kv_heads(c->n_head, c->head_group));
                cr_assert(whole.n_granularity == c->n_granularity && whole.quantum == MFI_QUANTUM);
                cr_assert(whole.max_positions == c->max_positions && whole.bos_token == -1 && whole.eos_token == -1);
                cr_assert(strcmp(whole.family, "matlm") == 0 && whole.file_bytes == file.bytes);
            }
            mf_submodel_close(view);
        }
        mf_model_close(model);
        drop_file(&file);
        random_model_free(&random);
    }
}

Test(submodel, a_view_outlives_the_callers_reference_to_its_model)
{
    stage s = open_stage();
    mf_submodel *view = take_named(s.model, "S");
    mf_model_close(s.model);
    widths w = widths_of(view, 3), wanted = granularity_widths(&s.random.config, 0);
    cr_assert(same_widths(&w, &wanted));
    mf_submodel_close(view);
    mf_submodel_close(NULL);
    mf_model_close(NULL);
    s.model = NULL;
    close_stage(&s);
}

Test(submodel, a_million_views_of_one_model_stay_below_a_kilobyte_each)
{
    enum { MILLION = 1000000 };
    random_shape shape = *random_shape_find("tiny");
    counting counts = { 0 };
    random_model random;
    shape.n_layer = 60; /* deeper than any model that this kind of machine runs */
    cr_assert(random_model_init_shape(&random, &shape, 1) == MF_OK);
    model_file file = make_random_file(&random, MFK_BF16, MFI_RAW, false);
    mf_model_options options = MF_MODEL_OPTIONS_INIT;
    options.allocator = counting_allocator(&counts);
    mf_model *model = NULL;
    cr_assert(mf_model_open_memory(&model, file.data, file.bytes, &options, NULL) == MF_OK);
    mf_submodel **views = calloc(MILLION, sizeof(mf_submodel *));
    uint32_t ffn[60];
    mf_submodel_spec spec = MF_SUBMODEL_SPEC_INIT;
    cr_assert(views);
    spec.ffn = ffn;
    spec.n_ffn = 60;
    size_t before = counts.live_bytes;
    clock_t start = clock();
    for (uint32_t i = 0; i < MILLION; i++) {
        for (uint32_t l = 0; l < 60; l++)
            ffn[l] = 32 * (1 + (i >> l % 20) % 8);
        cr_assert(mf_extract_submodel(&views[i], model, &spec, NULL) == MF_OK);
    }
    double seconds = (double)(clock() - start) / CLOCKS_PER_SEC;
    size_t bytes = counts.live_bytes - before;
    mf_submodel_info info = MF_SUBMODEL_INFO_INIT;
    cr_assert(mf_submodel_info_get(views[MILLION - 1], &info) == MF_OK);
    cr_assert(info.view_bytes <= 1024 && bytes <= (size_t)MILLION * 1024);
    cr_log_info("a million views of 60 layers: %.0f bytes and %.0f ns each", (double)bytes / MILLION,
                seconds * 1e9 / MILLION);
    for (uint32_t i = 0; i < MILLION; i++)
        mf_submodel_close(views[i]);
    cr_assert(counts.live_bytes == before);
    free(views);
    mf_model_close(model);
    cr_assert(counts.live_bytes == 0);
    drop_file(&file);
    random_model_free(&random);
}
