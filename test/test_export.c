/* test_export.c - a view that was exported and opened again computes what the view did: folders and GGUF, whole, sliced,
 * of every type. What a format cannot say is refused. */
#define _GNU_SOURCE
#include <math.h>

#include "export_fixture.h"
#include "tensor_file.h"

#define N_TOKEN 40

/* ---- Running ---- */

static mf_model *open_model(const char *path)
{
    mf_error error = MF_ERROR_INIT;
    mf_model_options options = test_options(NULL);
    mf_model *model;
    cr_assert_eq(mf_model_open(&model, path, &options, &error), MF_OK, "%s: %s", path, error.detail);
    return model;
}

static mf_submodel *view_of(mf_model *model, const char *text)
{
    mf_error error = MF_ERROR_INIT;
    mf_submodel *view;
    const mf_status status = text && text[0] ? mf_extract_submodel_text(&view, model, text, &error)
                                             : mf_extract_submodel(&view, model, NULL, &error);
    cr_assert_eq(status, MF_OK, "%s", error.detail);
    return view;
}

/* One image; of logits and pooled what the model has. */
static outputs run_image(mf_model *model, const mf_submodel *view)
{
    mf_model_info info = MF_MODEL_INFO_INIT;
    cr_assert_eq(mf_model_info_get(model, &info), MF_OK);
    const size_t n = (size_t)info.n_channel * info.image_size * info.image_size;
    const size_t side = info.image_size / info.patch_size, rows = 1 + side * side;
    outputs out = { .n_token = rows, .n_vocab = 1, .d_model = info.d_model };
    float *pixels = malloc(n * sizeof *pixels);
    out.logits = calloc(rows, sizeof *out.logits); /* the pooled row's or the classes' sum is enough */
    out.hidden = malloc(rows * info.d_model * sizeof *out.hidden);
    float *classes = calloc((size_t)info.n_class + info.d_model, sizeof *classes);
    const bool pools = info.n_class == 0;
    for (size_t i = 0; i < n; i++)
        pixels[i] = (float)(i * 7919 % 1000) / 500 - 1;
    mf_session *session = new_session(model);
    mf_executor *executor = new_executor(model, 1, (uint32_t)rows);
    mf_request request = { .session = session,
                           .submodel = view,
                           .pixels = pixels,
                           .logits_of = MF_LOGITS_ALL,
                           .hidden = out.hidden,
                           .hidden_capacity = rows * info.d_model };
    if (pools) {
        request.pooled = classes;
        request.pooled_capacity = info.d_model;
    } else {
        request.logits = classes;
        request.logits_capacity = info.n_class;
    }
    cr_assert_eq(mf_forward(executor, &request, 1, sizeof request, NULL), MF_OK);
    for (uint32_t i = 0; i < info.n_class + info.d_model; i++)
        out.logits[i % rows] += classes[i];
    mf_executor_close(executor);
    mf_session_close(session);
    free(classes);
    free(pixels);
    return out;
}

static outputs run_model(const char *path, const char *text)
{
    mf_model *model = open_model(path);
    mf_submodel *view = view_of(model, text);
    mf_model_info info = MF_MODEL_INFO_INIT;
    rng r = { 11 };
    outputs out;
    cr_assert_eq(mf_model_info_get(model, &info), MF_OK);
    if (info.image_size > 0) {
        out = run_image(model, view);
    } else {
        int32_t *tokens = new_tokens(model, N_TOKEN, &r);
        tokens[3] = (int32_t)info.n_token - 1;
        out = run_alone(model, view, tokens, N_TOKEN);
        free(tokens);
    }
    mf_submodel_close(view);
    mf_model_close(model);
    return out;
}

static double difference(const outputs *a, const outputs *b)
{
    double largest = 0, worst = 0;
    cr_assert_eq(a->n_token * a->n_vocab, b->n_token * b->n_vocab);
    for (size_t i = 0; i < a->n_token * a->n_vocab; i++) {
        largest = fmax(largest, fabs((double)a->logits[i]));
        worst = fmax(worst, fabs((double)a->logits[i] - (double)b->logits[i]));
    }
    return worst == 0 ? 0 : worst / largest;
}

/* `bound` 0: the same bits. */
static void expect_same(const char *from, const char *view, const char *to, double bound, const char *where)
{
    outputs expected = run_model(from, view), found = run_model(to, NULL);
    if (bound == 0)
        cr_assert(same_bits(&expected, &found), "%s, %s: off by %g", where, view, difference(&expected, &found));
    cr_assert(difference(&expected, &found) <= bound, "%s, %s: off by %g", where, view, difference(&expected, &found));
    drop_outputs(&expected);
    drop_outputs(&found);
}

/* ---- Folders ---- */

typedef struct sized {
    const char *name, *view;
} sized;

static const sized folders[] = {
    { "llama_grouped_bf16_sharded", "" },
    { "llama_grouped_bf16_sharded", "ffn=96x2" },
    { "llama_linear_f16", "" },
    { "llama_linear_f16", "ffn=32x2" },
    { "llama_tied_biases_f32", "" },
    { "llama_tied_biases_f32", "ffn=32x2;heads=2x2" },
    { "gemma3n", "" },
    { "gemma3n", "ffn=128x12" },
    { "gemma3n", "ffn=256,128,96,224,32,64,160,192,32,256,96,64" },
    { "gemma3n", "ffn=128x9;skip=7,8,10" },
    { "gemma3n", "ffn=128,192,96,256,64,224,32,160;skip=1,2,5,9" },
    { "gemma3n_nested", "" },
    { "gemma3n_nested", "ffn=64,32,64;skip=0,3" },
    { "vit_classifier_f32", "" },
    { "vit_classifier_f32", "ffn=32x2" },
    { "vit_pooler_f32", "" },
    { "matvit_f32", "M" },
};

Test(export, a_view_and_its_folder_are_the_same_model)
{
    for (size_t i = 0; i < sizeof folders / sizeof *folders; i++) {
        const place p = new_place();
        const mf_export_options options = options_of(MF_EXPORT_HF, MF_WEIGHT_KEEP, folders[i].view);
        export(checkpoint(folders[i].name), p.out, &options);
        expect_same(checkpoint(folders[i].name), folders[i].view, p.out, 0, folders[i].name);
        remove_all(p.folder);
    }
}

Test(export, other_types_differ_by_their_rounding)
{
    static const struct {
        mf_weight_type type;
        double bound;
    } types[] = { { MF_WEIGHT_F32, 0 }, { MF_WEIGHT_BF16, 0.1 }, { MF_WEIGHT_F16, 0.01 } };
    for (size_t i = 0; i < sizeof types / sizeof *types; i++) {
        const place p = new_place();
        const mf_export_options options = options_of(MF_EXPORT_HF, types[i].type, "ffn=32x2");
        export(checkpoint("llama_tied_biases_f32"), p.out, &options);
        expect_same(checkpoint("llama_tied_biases_f32"), "ffn=32x2", p.out, types[i].bound, "types");
        remove_all(p.folder);
    }
}

Test(export, many_small_shards_are_the_same_model)
{
    for (size_t i = 0; i < sizeof folders / sizeof *folders; i += 3) {
        const place p = new_place();
        mf_export_options options = options_of(MF_EXPORT_HF, MF_WEIGHT_KEEP, folders[i].view);
        options.shard_bytes = 4096;
        export(checkpoint(folders[i].name), p.out, &options);
        cr_assert_gt(count_files(p.out), 5);
        expect_same(checkpoint(folders[i].name), folders[i].view, p.out, 0, folders[i].name);
        remove_all(p.folder);
    }
}

Test(export, a_folder_keeps_its_sources_settings)
{
    const place p = new_place();
    char from[600], to[256];
    const mf_export_options options = options_of(MF_EXPORT_HF, MF_WEIGHT_KEEP, "");
    export(checkpoint("gemma3n"), p.out, &options);
    snprintf(from, sizeof from, "%s/generation_config.json", checkpoint("gemma3n"));
    snprintf(to, sizeof to, "%s/generation_config.json", p.out);
    cr_assert(same_file(from, to));
    remove_all(p.folder);
}

/* ---- GGUF ---- */

static const struct {
    sized of;
    double bound; /* factors of a rotation round */
} llamas[] = { { { "llama_grouped_bf16_sharded", "" }, 1e-5 },
               { { "llama_grouped_bf16_sharded", "ffn=96x2" }, 1e-5 },
               { { "llama_linear_f16", "" }, 0 },
               { { "llama_linear_f16", "ffn=32x2" }, 0 },
               { { "llama_tied_biases_f32", "" }, 0 },
               { { "llama_tied_biases_f32", "heads=2x2" }, 0 } };

Test(export, a_view_and_its_gguf_file_are_the_same_model)
{
    for (size_t i = 0; i < sizeof llamas / sizeof *llamas; i++) {
        const place p = new_place();
        const sized *of = &llamas[i].of;
        mf_export_options options = options_of(MF_EXPORT_GGUF, MF_WEIGHT_KEEP, of->view);
        export(checkpoint(of->name), p.out, &options);
        expect_same(checkpoint(of->name), of->view, p.out, llamas[i].bound, of->name);
        options.submodel = NULL;
        export(p.out, p.other, &options);
        cr_assert(llamas[i].bound > 0 || same_file(p.out, p.other), "%s: not the same file again", of->name);
        expect_same(p.out, "", p.other, llamas[i].bound, of->name);
        remove_all(p.folder);
    }
}

Test(export, gguf_becomes_a_folder_unless_its_rotation_is_a_table)
{
    const place p = new_place();
    mf_error error = MF_ERROR_INIT;
    mf_export_options gguf = options_of(MF_EXPORT_GGUF, MF_WEIGHT_KEEP, ""), folder = gguf;
    folder.format = MF_EXPORT_HF;
    export(checkpoint("llama_linear_f16"), p.out, &gguf);
    export(p.out, p.other, &folder);
    expect_same(checkpoint("llama_linear_f16"), "", p.other, 0, "linear");
    remove_all(p.other);
    remove_all(p.out);
    export(checkpoint("llama_grouped_bf16_sharded"), p.out, &gguf);
    cr_assert_eq(try_export(p.out, p.other, &folder, &error), MF_E_UNSUPPORTED);
    cr_assert(strstr(error.detail, "config.json cannot say"), "%s", error.detail);
    remove_all(p.folder);
}

/* ---- Models of our own ---- */

static void save_own(const char *path, mfk_type type)
{
    mf_error error = MF_ERROR_INIT;
    random_model random;
    cr_assert_eq(random_model_init_shape(&random, &own_shape, 5), MF_OK);
    cr_assert_eq(random_model_save(&random, type, MFI_RAW, false, path, &error), MF_OK, "%s", error.detail);
    random_model_free(&random);
}

static const char *const own_views[] = { "", "ffn=64x3", "ffn=96x2;skip=1", "ffn=32x3;heads=2x3" };

/* Codes of Q8 are found again in the numbers, whatever was cut, and in whatever order rows go. */
Test(export, our_own_models_keep_their_bits_in_every_type)
{
    static const mfk_type types[] = { MFK_F32, MFK_BF16, MFK_F16, MFK_Q8 };
    for (size_t t = 0; t < sizeof types / sizeof *types; t++)
        for (size_t v = 0; v < sizeof own_views / sizeof *own_views; v++)
            for (int format = types[t] == MFK_Q8; format < 2; format++) {
                const place p = new_place();
                char file[128];
                snprintf(file, sizeof file, "%s/model.mf", p.folder);
                save_own(file, types[t]);
                const mf_export_options options = options_of((mf_export_format)format, MF_WEIGHT_KEEP, own_views[v]);
                export(file, p.out, &options);
                expect_same(file, own_views[v], p.out, 0, "own");
                remove_all(p.folder);
            }
}

Test(export, fewer_bits_become_bf16_or_q8_0)
{
    static const mfk_type types[] = { MFK_Q8, MFK_Q4 };
    for (size_t t = 0; t < 2; t++)
        for (int format = 0; format < 2; format++) {
            const place p = new_place();
            char file[128];
            snprintf(file, sizeof file, "%s/model.mf", p.folder);
            save_own(file, types[t]);
            const mf_export_options options = options_of((mf_export_format)format, MF_WEIGHT_KEEP, "");
            export(file, p.out, &options);
            expect_same(file, "", p.out, 0.1, "own");
            remove_all(p.folder);
        }
}

/* Blocks of Q8_0 that others wrote: any codes under any scale, the same bytes again. */
Test(export, q8_0_is_the_same_file_again)
{
    const place p = new_place();
    const mf_export_options rounds = options_of(MF_EXPORT_GGUF, MF_WEIGHT_Q8, "");
    const mf_export_options keeps = options_of(MF_EXPORT_GGUF, MF_WEIGHT_KEEP, "");
    export(checkpoint("llama_tied_biases_f32"), p.out, &rounds);
    export(p.out, p.other, &keeps);
    cr_assert(same_file(p.out, p.other));
    remove_all(p.folder);
}

/* ---- Gemma 3n as llama.cpp has it: 22 layers, of which 20 own keys and values ---- */

enum { OWN_LAYERS = 22 };

static mf_status read_hashed(void *user, const char *name, size_t row, size_t n_row, size_t column, size_t n_column,
                             float *out, mf_error *error)
{
    uint64_t seed = 1469598103934665603u;
    (void)user;
    (void)error;
    for (const char *c = name; *c; c++)
        seed = (seed ^ (unsigned char)*c) * 1099511628211u;
    for (size_t i = 0; i < n_row * n_column; i++) {
        uint64_t hash = (seed ^ (row + i / n_column) * 65537 ^ (column + i % n_column)) * 0x9e3779b97f4a7c15u;
        hash = (hash ^ hash >> 29) * 0xbf58476d1ce4e5b9u;
        const float x = (float)(int32_t)(hash >> 32) * 0x1p-31f;
        const bool near_one = strstr(name, "norm.weight") || strstr(name, "correct_scale");
        out[i] = near_one ? 1 + 0.3f * x : strcmp(name, "embed") == 0 ? x : 0.2f * x;
    }
    return MF_OK;
}

static mfi_config released_config(void)
{
    const mf_allocator allocator = mfi_allocator(NULL);
    mfi_config c = { .family = MFI_FAMILY_GEMMA3N,
                     .n_layer = OWN_LAYERS,
                     .d_model = 64,
                     .d_head = 32,
                     .n_vocab = 84,
                     .max_positions = 200,
                     .head_group = 2,
                     .n_head = 4,
                     .d_ff = 64,
                     .norm_eps = 1e-6f,
                     .activation = MFK_GELU_TANH,
                     .rope_theta = 1e6,
                     .embed_scale = 8,
                     .attention_scale = 1,
                     .tied = true,
                     .logit_softcap = 30,
                     .gemma3n = { 4, 0, 64, 256, 70, 120, true, 1e4 },
                     .bos_token = 2,
                     .eos_token = 1,
                     .n_granularity = 1 };
    cr_assert_eq(mfi_config_alloc(&c, &allocator, NULL), MF_OK);
    snprintf(c.granularity[0].name, sizeof c.granularity[0].name, "XL");
    for (uint32_t l = 0; l < OWN_LAYERS; l++) {
        c.granularity[0].ffn[l] = 64;
        c.granularity[0].heads[l] = 4;
        c.window[l] = l % 5 != 4 ? 8 : 0;
        c.kv_layer[l] = l < 20 ? l : c.window[l] ? 18 : 19;
        c.sparsity[l] = l < 10 ? 1.6448533535003662f : 0;
        c.may_skip[l] = l >= 20;
    }
    return c;
}

static void save_gemma(const mfi_config *config, mfk_type type, const char *path)
{
    const mf_allocator allocator = mfi_allocator(NULL);
    const mfi_weights weights = { .read = read_hashed };
    const mfi_save_options save = { .type = type, .storage = MFI_RAW };
    mf_error error = MF_ERROR_INIT;
    cr_assert_eq(mfi_save(config, &weights, &save, &allocator, path, &error), MF_OK, "%s", error.detail);
}

Test(export, gemma3n_of_the_released_shape_becomes_gguf)
{
    static const mfk_type types[] = { MFK_F32, MFK_BF16, MFK_Q8 };
    static const char *const views[] = { "", "ffn=32x22", "ffn=64x21;skip=20" };
    const mf_allocator allocator = mfi_allocator(NULL);
    mfi_config config = released_config();
    for (size_t t = 0; t < sizeof types / sizeof *types; t++) {
        const place p = new_place();
        char file[128];
        snprintf(file, sizeof file, "%s/model.mf", p.folder);
        save_gemma(&config, types[t], file);
        for (size_t v = 0; v < sizeof views / sizeof *views; v++) {
            const mf_export_options options = options_of(MF_EXPORT_GGUF, MF_WEIGHT_KEEP, views[v]);
            export(file, p.out, &options);
            expect_same(file, views[v], p.out, 0, "gemma3n");
            remove_all(p.out);
        }
        remove_all(p.folder);
    }
    mfi_config_free(&config, &allocator);
}

/* What llama.cpp would read as another model. */
Test(export, gemma3n_of_another_shape_is_no_gguf)
{
    const mf_allocator allocator = mfi_allocator(NULL);
    const place p = new_place();
    char file[128];
    snprintf(file, sizeof file, "%s/model.mf", p.folder);
    for (int change = 0; change < 7; change++) {
        mfi_config c = released_config();
        const char *says = change < 4 ? "4 streams" : change == 4 ? "sparse" : change == 5 ? "own keys" : "one width";
        if (change == 0) c.logit_softcap = 20;
        if (change == 1) c.gemma3n.correct_scale = false;
        if (change == 2) c.gemma3n.laurel_rank = 32;
        if (change == 3) c.gemma3n.coef_clip = 0;
        if (change == 4) c.sparsity[9] = 0;
        for (uint32_t l = 20; change == 5 && l < OWN_LAYERS; l++)
            c.kv_layer[l] = l;
        if (change == 6) c.granularity[0].ffn[3] = 32;
        mf_error error = MF_ERROR_INIT;
        const mf_export_options options = options_of(MF_EXPORT_GGUF, MF_WEIGHT_KEEP, "");
        save_gemma(&c, MFK_F32, file);
        cr_assert_eq(try_export(file, p.out, &options, &error), MF_E_UNSUPPORTED, "change %d", change);
        cr_assert(strstr(error.detail, says), "change %d: %s", change, error.detail);
        mfi_config_free(&c, &allocator);
    }
    remove_all(p.folder);
}

/* ---- Tokenizers ---- */

static void expect_same_tokens(const mfi_tokenizer *a, const mfi_tokenizer *b, const char *text, size_t bytes,
                               const char *where)
{
    enum { ROOM = 4096 };
    static int32_t first[ROOM], second[ROOM];
    static char back[2][ROOM];
    size_t n[2], n_byte[2];
    for (unsigned how = 0; how < 4; how++) {
        cr_assert_eq(mfi_tokenizer_encode(a, text, bytes, how, first, ROOM, &n[0]), MF_OK);
        cr_assert_eq(mfi_tokenizer_encode(b, text, bytes, how, second, ROOM, &n[1]), MF_OK);
        cr_assert(n[0] == n[1] && memcmp(first, second, n[0] * sizeof *first) == 0, "%s: \"%.*s\"", where, (int)bytes,
                  text);
        cr_assert_eq(mfi_tokenizer_decode(a, first, n[0], back[0], ROOM, &n_byte[0]), MF_OK);
        cr_assert_eq(mfi_tokenizer_decode(b, first, n[0], back[1], ROOM, &n_byte[1]), MF_OK);
        cr_assert(n_byte[0] == n_byte[1] && memcmp(back[0], back[1], n_byte[0]) == 0, "%s: \"%.*s\"", where, (int)bytes,
                  text);
    }
}

static const char *const texts[] = { "",
                                     "Hello, world!",
                                     " two  spaces   and\n\n\nlines\t\ttabs",
                                     "Grüße, 你好, مرحبا \xf0\x9f\x98\x80",
                                     "a\xff\xfe broken \xc3",
                                     "1234567 it's we'll DON'T",
                                     "<start_of_turn>user\nx<end_of_turn><|eot_id|></s><s>",
                                     "                          far" };

Test(export, a_tokenizer_says_the_same_from_gguf)
{
    static const char *const names[] = { "gemma.json", "gemma.model", "llama2.json", "llama2.model", "llama3.json" };
    const mf_allocator allocator = mfi_allocator(NULL);
    model_file story = read_file(STORY);
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        const place p = new_place();
        mf_error error = MF_ERROR_INIT;
        mfi_tokenizer *ours, *theirs;
        mfi_tensor_file *file;
        void *blob, *other;
        size_t bytes, other_bytes;
        load_file(names[i], &ours, &blob, &bytes);
        export_with_tokenizer(p.out, blob, bytes, mfi_tokenizer_vocab(ours));
        cr_assert_eq(mfi_gguf_open(&file, p.out, &allocator, &error), MF_OK, "%s", error.detail);
        cr_assert_eq(mfi_tokenizer_from_gguf(&other, &other_bytes, &allocator, file, &error), MF_OK, "%s: %s", names[i],
                     error.detail);
        cr_assert_eq(mfi_tokenizer_load(&theirs, &allocator, other, other_bytes, &error), MF_OK, "%s", error.detail);
        cr_assert_eq(mfi_tokenizer_vocab(theirs), mfi_tokenizer_vocab(ours) + 5);
        cr_assert_eq(mfi_tokenizer_chat(theirs), mfi_tokenizer_chat(ours), "%s", names[i]);
        for (size_t t = 0; t < sizeof texts / sizeof *texts; t++)
            expect_same_tokens(ours, theirs, texts[t], strlen(texts[t]), names[i]);
        for (size_t at = 0; at < story.bytes; at += 1000)
            expect_same_tokens(ours, theirs, (char *)story.data + at, story.bytes - at < 1000 ? story.bytes - at : 1000,
                               names[i]);
        mfi_tokenizer_free(ours);
        mfi_tokenizer_free(theirs);
        mfi_tensor_file_close(file);
        mfi_free(&allocator, blob, bytes);
        mfi_free(&allocator, other, other_bytes);
        remove_all(p.folder);
    }
    drop_file(&story);
}

Test(export, a_tokenizer_that_gguf_has_not_is_left_out)
{
    static const char *const names[] = { "neox.json", "unigram.model", NULL };
    const mf_allocator allocator = mfi_allocator(NULL);
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        const place p = new_place();
        mfi_gguf_text model;
        mfi_tokenizer *tokenizer = NULL;
        mfi_tensor_file *file;
        void *blob = NULL;
        size_t bytes = 0;
        if (names[i])
            load_file(names[i], &tokenizer, &blob, &bytes);
        else
            cr_assert_eq(mfi_tokenizer_store(&blob, &bytes, &allocator, NULL, 0, 1, NULL), MF_OK);
        export_with_tokenizer(p.out, blob, bytes, tokenizer ? mfi_tokenizer_vocab(tokenizer) : 257);
        cr_assert_eq(mfi_gguf_open(&file, p.out, &allocator, NULL), MF_OK);
        cr_assert(mfi_gguf_text_of(file, "tokenizer.ggml.model", &model));
        cr_assert(model.bytes == 8 && memcmp(model.at, "no_vocab", 8) == 0);
        mf_model_close(open_model(p.out));
        mfi_tensor_file_close(file);
        mfi_tokenizer_free(tokenizer);
        mfi_free(&allocator, blob, bytes);
        remove_all(p.folder);
    }
}

/* ---- Refused ---- */

Test(export, what_a_format_cannot_say_is_refused)
{
    static const struct {
        const char *name, *view, *says;
        mf_export_format format;
    } cases[] = {
        { "olmo_parallel", "", "has no MatFormer-OLMo", MF_EXPORT_HF },
        { "olmo_sequential", "", "has no MatFormer-OLMo", MF_EXPORT_GGUF },
        { "vit_pooler_f32", "", "no convention for a ViT", MF_EXPORT_GGUF },
        { "matvit_f32", "ffn=32,192", "one width and as many heads", MF_EXPORT_HF },
        { "llama_linear_f16", "ffn=32,128", "one width for all layers", MF_EXPORT_HF },
        { "llama_linear_f16", "ffn=32,128", "one width for all layers", MF_EXPORT_GGUF },
        { "llama_tied_biases_f32", "heads=2,4", "as many heads in every layer", MF_EXPORT_GGUF },
        { "gemma3n", "", "20 layers that own", MF_EXPORT_GGUF },
        { "gemma3n", "heads=2,4x11", "as many heads in every layer", MF_EXPORT_HF },
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const place p = new_place();
        mf_error error = MF_ERROR_INIT;
        const mf_export_options options = options_of(cases[i].format, MF_WEIGHT_KEEP, cases[i].view);
        cr_assert_eq(try_export(checkpoint(cases[i].name), p.out, &options, &error), MF_E_UNSUPPORTED, "%s %s: %s",
                     cases[i].name, cases[i].view, error.detail);
        cr_assert(strstr(error.detail, cases[i].says) && strstr(error.detail, p.out), "%s", error.detail);
        cr_assert_eq(count_files(p.folder), 0);
        remove_all(p.folder);
    }
}

Test(export, arguments_are_checked)
{
    const place p = new_place();
    mf_error error = MF_ERROR_INIT;
    mf_export_options options = options_of(MF_EXPORT_HF, MF_WEIGHT_Q8, "");
    const char *from = checkpoint("llama_linear_f16");
    cr_assert_eq(try_export(from, p.out, &options, &error), MF_E_INVALID);
    cr_assert(strstr(error.detail, "no Q8"), "%s", error.detail);
    options.type = MF_WEIGHT_Q4;
    cr_assert_eq(try_export(from, p.out, &options, &error), MF_E_INVALID);
    options = options_of((mf_export_format)2, MF_WEIGHT_KEEP, "");
    cr_assert_eq(try_export(from, p.out, &options, &error), MF_E_INVALID);
    options = options_of(MF_EXPORT_HF, MF_WEIGHT_KEEP, "no such view");
    cr_assert_neq(try_export(from, p.out, &options, &error), MF_OK);
    cr_assert_eq(try_export(from, "", NULL, &error), MF_E_INVALID);
    cr_assert_eq(mf_export(NULL, p.out, NULL, &error), MF_E_INVALID);
    cr_assert_eq(count_files(p.folder), 0);
    remove_all(p.folder);
}

static mf_status read_large(void *user, const char *name, size_t row, size_t n_row, size_t column, size_t n_column,
                            float *out, mf_error *error)
{
    const mf_status status = read_hashed(user, name, row, n_row, column, n_column, out, error);
    if (strcmp(name, "layers.4.ffn.up") == 0) out[0] = 1e6f;
    return status;
}

Test(export, weights_beyond_the_type_are_refused_by_name)
{
    const mf_allocator allocator = mfi_allocator(NULL);
    const mfi_weights weights = { .read = read_large };
    const mfi_save_options save = { .type = MFK_F32, .storage = MFI_RAW };
    const place p = new_place();
    char file[128];
    mf_error error = MF_ERROR_INIT;
    mfi_config config = released_config();
    snprintf(file, sizeof file, "%s/model.mf", p.folder);
    cr_assert_eq(mfi_save(&config, &weights, &save, &allocator, file, &error), MF_OK, "%s", error.detail);
    for (int format = 0; format < 2; format++) {
        const mf_export_options options = options_of((mf_export_format)format, MF_WEIGHT_F16, "");
        cr_assert_eq(try_export(file, p.out, &options, &error), MF_E_RANGE);
        cr_assert(strstr(error.detail, format ? "blk.4.ffn_up.weight" : "layers.4.mlp.up_proj.weight"), "%s",
                  error.detail);
    }
    cr_assert_eq(count_files(p.folder), 1);
    mfi_config_free(&config, &allocator);
    remove_all(p.folder);
}
