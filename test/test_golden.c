/* test_golden.c - logits against PyTorch's. golden/make_matlm_golden.py made the fixtures and describes
 * their format. */
#include "run_model.h"
#include "arena.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define GOLDEN_MAGIC 0x4d4c4731u
#define GOLDEN_MAX_TENSOR 64

typedef struct golden_tensor {
    char name[48];
    size_t rows, columns;
    float *data;
} golden_tensor;

typedef struct golden {
    FILE *file;
    mfi_config config;
    size_t n_tensor;
    golden_tensor tensors[GOLDEN_MAX_TENSOR];
} golden;

/* ---- Reading a fixture ---- */

static void read_words(golden *g, void *out, size_t n)
{
    cr_assert(fread(out, 4, n, g->file) == n, "fixture ends early");
}

static uint32_t read_u32(golden *g)
{
    uint32_t value;
    read_words(g, &value, 1);
    return value;
}

static float read_f32(golden *g)
{
    float value;
    read_words(g, &value, 1);
    return value;
}

static void read_config(golden *g)
{
    mfi_config *c = &g->config;
    cr_assert(read_u32(g) == GOLDEN_MAGIC);
    uint32_t *fields[] = { &c->n_layer, &c->d_model, &c->d_head, &c->n_head, &c->head_group, &c->d_ff, &c->n_vocab };
    for (size_t i = 0; i < sizeof(fields) / sizeof(fields[0]); i++)
        *fields[i] = read_u32(g);
    c->norm = (mfi_norm)read_u32(g);
    c->ffn = (mfi_ffn)read_u32(g);
    c->activation = (mfk_activation)read_u32(g);
    c->tied = read_u32(g);
    c->norm_eps = read_f32(g);
    c->rope_theta = (double)read_f32(g);
    c->embed_scale = read_f32(g);
    c->attention_scale = read_f32(g);
    c->max_positions = 64;
    c->bos_token = c->eos_token = -1;
    c->n_granularity = read_u32(g);
    mf_allocator c_library = mfi_allocator(NULL);
    cr_assert(mfi_config_alloc(c, &c_library, NULL) == MF_OK);
    for (uint32_t i = 0; i < c->n_granularity; i++) {
        snprintf(c->granularity[i].name, sizeof(c->granularity[i].name), "G%u", i);
        read_words(g, c->granularity[i].ffn, c->n_layer);
        read_words(g, c->granularity[i].heads, c->n_layer);
    }
    for (uint32_t l = 0; l < c->n_layer; l++)
        c->may_skip[l] = (uint8_t)read_u32(g);
    read_words(g, c->window, c->n_layer);
}

static void read_tensor(golden *g, const char *prefix, const char *role, size_t rows, size_t columns)
{
    cr_assert(g->n_tensor < GOLDEN_MAX_TENSOR);
    golden_tensor *t = &g->tensors[g->n_tensor++];
    snprintf(t->name, sizeof(t->name), "%s%s", prefix, role);
    t->rows = rows;
    t->columns = columns;
    t->data = malloc(rows * columns * sizeof(float));
    cr_assert(t->data);
    read_words(g, t->data, rows * columns);
}

static void read_norm(golden *g, const char *prefix, const char *weight, const char *bias)
{
    read_tensor(g, prefix, weight, 1, g->config.d_model);
    if (g->config.norm == MFI_NORM_LAYER) read_tensor(g, prefix, bias, 1, g->config.d_model);
}

static void read_layer(golden *g, uint32_t layer)
{
    const mfi_config *c = &g->config;
    const mfi_granularity *full = &c->granularity[c->n_granularity - 1];
    size_t d = c->d_model, ffn = full->ffn[layer], q = (size_t)full->heads[layer] * c->d_head;
    size_t kv = (size_t)mfi_kv_heads(full->heads[layer], c->head_group) * c->d_head;
    char at[24];
    snprintf(at, sizeof(at), "layers.%u.", layer);
    read_norm(g, at, "attn_norm.weight", "attn_norm.bias");
    read_norm(g, at, "ffn_norm.weight", "ffn_norm.bias");
    read_tensor(g, at, "attn.q", q, d);
    read_tensor(g, at, "attn.k", kv, d);
    read_tensor(g, at, "attn.v", kv, d);
    read_tensor(g, at, "attn.o", d, q);
    if (c->ffn == MFI_FFN_GATED) read_tensor(g, at, "ffn.gate", ffn, d);
    read_tensor(g, at, "ffn.up", ffn, d);
    read_tensor(g, at, "ffn.down", d, ffn);
}

static golden open_golden(const char *name)
{
    golden g = { 0 };
    char path[512];
    snprintf(path, sizeof(path), "%s/%s.golden", GOLDEN_DIR, name);
    g.file = fopen(path, "rb");
    cr_assert(g.file, "cannot open %s", path);
    read_config(&g);
    read_tensor(&g, "", "embed", g.config.n_vocab, g.config.d_model);
    if (!g.config.tied) read_tensor(&g, "", "output", g.config.n_vocab, g.config.d_model);
    read_norm(&g, "", "final_norm.weight", "final_norm.bias");
    for (uint32_t l = 0; l < g.config.n_layer; l++)
        read_layer(&g, l);
    return g;
}

static void close_golden(golden *g)
{
    mf_allocator c_library = mfi_allocator(NULL);
    for (size_t i = 0; i < g->n_tensor; i++)
        free(g->tensors[i].data);
    mfi_config_free(&g->config, &c_library);
    fclose(g->file);
}

static mf_status give_weights(void *user, const char *name, size_t row, size_t n_row, size_t column, size_t n_column,
                              float *out, mf_error *error)
{
    const golden *g = user;
    (void)error;
    for (size_t i = 0; i < g->n_tensor; i++) {
        const golden_tensor *t = &g->tensors[i];
        if (strcmp(t->name, name) != 0) continue;
        cr_assert(row + n_row <= t->rows && column + n_column <= t->columns, "%s", name);
        for (size_t r = 0; r < n_row; r++)
            memcpy(out + r * n_column, t->data + (row + r) * t->columns + column, n_column * sizeof(float));
        return MF_OK;
    }
    cr_assert(false, "the saver asked for %s", name);
    return MF_E_NOT_FOUND;
}

/* ---- Comparing ---- */

/* max |ours - theirs| / max |theirs| over all positions */
static double relative_error(const float *ours, const float *theirs, size_t n)
{
    double worst = 0, largest = 0;
    for (size_t i = 0; i < n; i++) {
        double difference = fabs((double)ours[i] - (double)theirs[i]);
        if (!(difference <= worst)) worst = difference; /* also when it is NaN */
        largest = fmax(largest, fabs((double)theirs[i]));
    }
    return worst / largest;
}

static void check_case(golden *g, mf_model *model, const char *name)
{
    const mfi_config *c = &g->config;
    widths w = { .n_layer = c->n_layer };
    read_words(g, w.ffn, c->n_layer);
    read_words(g, w.heads, c->n_layer);
    uint32_t n = read_u32(g);
    int32_t *tokens = malloc(n * sizeof(int32_t));
    float *expected = malloc((size_t)n * c->n_vocab * sizeof(float));
    cr_assert(tokens && expected);
    read_words(g, tokens, n);
    read_words(g, expected, (size_t)n * c->n_vocab);

    mf_submodel *view = take_view(model, &w);
    outputs prefill = run_alone(model, view, tokens, n), stepped = new_outputs(model, n);
    mf_executor *executor = new_executor(model, 2, 0);
    mf_session *session = new_session(model);
    for (uint32_t i = 0; i < n; i++)
        run_more(executor, session, view, tokens, 1, &stepped);

    double error = relative_error(prefill.logits, expected, (size_t)n * c->n_vocab);
    cr_expect(error < 1e-4, "%s: relative error %g", name, error);
    cr_expect(same_bits(&prefill, &stepped), "%s: token by token differs from prefill", name);
    mf_session_close(session);
    mf_executor_close(executor);
    mf_submodel_close(view);
    drop_outputs(&prefill);
    drop_outputs(&stepped);
    free(tokens);
    free(expected);
}

static void check_model(const char *name)
{
    golden g = open_golden(name);
    mfi_save_options options = { .type = MFK_F32 };
    model_file file = make_file(&g.config, (mfi_weights){ give_weights, &g }, &options);
    long cases_at = ftell(g.file);
    const char *level;
    for (uint32_t i = 0; (level = cpu_level(&file, i)); i++) {
        fseek(g.file, cases_at, SEEK_SET);
        mf_model *model = open_file(&file, level);
        uint32_t n_case = read_u32(&g);
        cr_assert(n_case >= 5);
        for (uint32_t j = 0; j < n_case; j++)
            check_case(&g, model, name);
        mf_model_close(model);
    }
    drop_file(&file);
    close_golden(&g);
}

Test(golden, one_key_value_head_gated_silu_tied_with_skips)
{
    check_model("mqa_gated_silu");
}

Test(golden, grouped_heads_plain_gelu_tanh_layer_norm_no_rotation)
{
    check_model("gqa_plain_gelu_tanh_layernorm");
}

Test(golden, every_head_its_own_gated_gelu_erf_scaled_embedding)
{
    check_model("mha_gated_gelu_erf_scaled");
}

Test(golden, one_granularity_is_still_cut_at_any_width)
{
    check_model("one_width_layernorm_gated");
}

Test(golden, layers_with_windows_of_their_own)
{
    check_model("windows");
}
