/* A family that exists nowhere else: four residual streams that predict and correct each other around a nested
 * FFN, as AltUp does. It compiles to the same operations and runs on the same executor as the others, so that
 * such a family needs no executor of its own. Checked against a plain evaluation in double precision. */
#include <criterion/criterion.h>
#include <math.h>
#include <string.h>

#include "cpu.h"
#include "executor.h"
#include "pack.h"

enum { N_LAYER = 2, D_MODEL = 64, D_FF = 96, SHELL_0 = 32, N_STREAM = 4, N_VOCAB = 40, N_ROW = 7 };

typedef struct matrix {
    float value[N_STREAM * N_STREAM > D_FF ? N_STREAM *N_STREAM : D_FF][D_FF > D_MODEL ? D_FF : D_MODEL];
} matrix;

static struct {
    matrix embed, predict[N_LAYER], correct[N_LAYER], gate[N_LAYER], up[N_LAYER], down[N_LAYER];
    float ones[D_MODEL];
} w;

static uint32_t seed = 1;

static void fill(matrix *m)
{
    for (size_t i = 0; i < sizeof m->value / sizeof m->value[0]; i++)
        for (size_t j = 0; j < sizeof m->value[0] / sizeof m->value[0][0]; j++) {
            seed = seed * 1664525u + 1013904223u;
            m->value[i][j] = ((float)(seed >> 8) / (float)(1 << 24) - 0.5f) * 0.6f;
        }
}

/* ---- The family ---- */

static mf_allocator allocator;
static mfi_tensor tensors[64];
static uint32_t n_tensor;

/* Rows [0, n) and columns [k0, k0 + k) of `m`, packed; with `other`, panels of the two in turn. */
static const mfi_tensor *pack(const matrix *m, const matrix *other, size_t n0, size_t n, size_t k0, size_t k)
{
    const size_t panel = mfk_panel_bytes(MFK_F32, k), step = other != NULL ? 2 : 1;
    const size_t bytes = mfk_panels_bytes(MFK_F32, n, k) * step;
    unsigned char *data = mfi_alloc(&allocator, bytes);
    mfk_pack(MFK_F32, NULL, n, k, &m->value[n0][k0], sizeof m->value[0] / sizeof(float), data, panel * step);
    if (other != NULL)
        mfk_pack(MFK_F32, NULL, n, k, &other->value[n0][k0], sizeof m->value[0] / sizeof(float), data + panel,
                 panel * step);
    mfi_tensor *t = &tensors[n_tensor++];
    *t = (mfi_tensor){
        .kind = MFI_PANEL, .type = MFK_F32, .n = n, .k = k, .panels = (n + 15) / 16 * step, .bytes = bytes, .data = data
    };
    return t;
}

static const mfi_tensor ones = { .kind = MFI_PLAIN, .type = MFK_F32, .n = D_MODEL, .k = 1, .data = w.ones };

static void add_norm(mfi_program *p, mfi_rows rows, uint32_t layer, uint16_t src, uint16_t dst)
{
    mfi_op *op = mfi_program_op(p, MFI_OP_NORM, rows, layer, src, dst);
    op->weight = &ones;
    op->eps = 1e-6f;
}

static void add_router(mfi_program *p, uint32_t layer, uint16_t src, uint16_t dst, const matrix *m, size_t n)
{
    const mfi_tensor *piece = pack(m, NULL, 0, n, 0, D_MODEL);
    mfi_op *op = mfi_program_op(p, MFI_OP_GEMM, MFI_ROWS_ALL, layer, src, dst);
    op->activated = true;
    op->activation = MFK_TANH;
    mfi_program_part(p, op, &piece, 1, dst, MFI_EXTENT_FULL);
}

/* dst = src + sum of coefficients times streams */
static void add_combine(mfi_program *p, uint32_t layer, uint16_t src, uint16_t dst, uint16_t coefficient, uint32_t at,
                        const uint16_t *stream, uint16_t n)
{
    mfi_op *op = mfi_program_op(p, MFI_OP_COMBINE, MFI_ROWS_ALL, layer, src, dst);
    op->coefficient = coefficient;
    op->coefficient_at = (uint16_t)at;
    op->n_stream = n;
    memcpy(op->stream, stream, n * sizeof *stream);
}

typedef struct streams {
    uint16_t x[N_STREAM], predicted[N_STREAM], normed, coefficients, ffn_in, hidden, y, z, difference, out;
} streams;

static void add_layer(mfi_program *p, uint32_t layer, const streams *b)
{
    add_norm(p, MFI_ROWS_ALL, layer, b->x[0], b->normed);
    add_router(p, layer, b->normed, b->coefficients, &w.predict[layer], N_STREAM * N_STREAM);
    for (uint32_t i = 0; i < N_STREAM; i++)
        add_combine(p, layer, b->x[i], b->predicted[i], b->coefficients, i * N_STREAM, b->x, N_STREAM);

    const mfi_tensor *gate_up[2] = { pack(&w.gate[layer], &w.up[layer], 0, SHELL_0, 0, D_MODEL),
                                     pack(&w.gate[layer], &w.up[layer], SHELL_0, D_FF - SHELL_0, 0, D_MODEL) };
    const mfi_tensor *down[2] = { pack(&w.down[layer], NULL, 0, D_MODEL, 0, SHELL_0),
                                  pack(&w.down[layer], NULL, 0, D_MODEL, SHELL_0, D_FF - SHELL_0) };
    add_norm(p, MFI_ROWS_FFN, layer, b->predicted[0], b->ffn_in);
    mfi_op *glu = mfi_program_op(p, MFI_OP_GLU, MFI_ROWS_FFN, layer, b->ffn_in, b->hidden);
    glu->activation = MFK_GELU_TANH;
    mfi_program_part(p, glu, gate_up, 2, b->hidden, MFI_EXTENT_FFN);
    mfi_op *gemm = mfi_program_op(p, MFI_OP_GEMM, MFI_ROWS_FFN, layer, b->hidden, b->y);
    gemm->k_of = MFI_EXTENT_FFN;
    mfi_program_part(p, gemm, down, 2, b->y, MFI_EXTENT_FULL);
    mfi_program_op(p, MFI_OP_COPY, MFI_ROWS_ALL, layer, b->predicted[0], b->z);
    mfi_program_op(p, MFI_OP_ADD, MFI_ROWS_FFN, layer, b->y, b->z);

    add_norm(p, MFI_ROWS_ALL, layer, b->z, b->normed);
    add_router(p, layer, b->normed, b->coefficients, &w.correct[layer], N_STREAM);
    mfi_program_op(p, MFI_OP_COPY, MFI_ROWS_ALL, layer, b->z, b->difference);
    mfi_program_op(p, MFI_OP_ADD, MFI_ROWS_ALL, layer, b->predicted[0], b->difference)->scale = -1;
    for (uint32_t i = 0; i < N_STREAM; i++)
        add_combine(p, layer, b->predicted[i], b->x[i], b->coefficients, i, &b->difference, 1);
}

static mfi_program *compile(void)
{
    mfi_program *p;
    const mfi_program_sizes sizes = { N_LAYER, 2, 100, 32, 32 };
    cr_assert_eq(mfi_program_create(&p, &allocator, &sizes, NULL), MF_OK);
    p->d_model = D_MODEL;
    p->d_head = 32;
    p->head_group = 1;
    p->n_vocab = N_VOCAB;
    streams b;
    for (uint32_t i = 0; i < N_STREAM; i++) {
        b.x[i] = mfi_program_buffer(p, MFI_ROWS_ALL, D_MODEL);
        b.predicted[i] = mfi_program_buffer(p, MFI_ROWS_ALL, D_MODEL);
    }
    b.normed = mfi_program_buffer(p, MFI_ROWS_ALL, D_MODEL);
    b.coefficients = mfi_program_buffer(p, MFI_ROWS_ALL, N_STREAM * N_STREAM);
    b.ffn_in = mfi_program_buffer(p, MFI_ROWS_FFN, D_MODEL);
    b.hidden = mfi_program_buffer(p, MFI_ROWS_FFN, D_FF);
    b.y = mfi_program_buffer(p, MFI_ROWS_FFN, D_MODEL);
    b.z = mfi_program_buffer(p, MFI_ROWS_ALL, D_MODEL);
    b.difference = mfi_program_buffer(p, MFI_ROWS_ALL, D_MODEL);
    b.out = mfi_program_buffer(p, MFI_ROWS_OUT, D_MODEL);

    const mfi_tensor *table = pack(&w.embed, NULL, 0, N_VOCAB, 0, D_MODEL);
    mfi_program_op(p, MFI_OP_EMBED, MFI_ROWS_ALL, 0, b.x[0], b.x[0])->table = table;
    for (uint32_t i = 1; i < N_STREAM; i++)
        mfi_program_op(p, MFI_OP_COPY, MFI_ROWS_ALL, 0, b.x[0], b.x[i])->scale = 1.0f / (float)(i + 1);
    for (uint32_t layer = 0; layer < N_LAYER; layer++) {
        p->layer[layer] = (mfi_layer){ D_FF, 1, true, layer };
        p->slot_layer[layer] = layer;
        p->shell_bound[layer] = SHELL_0;
        p->shell_bound[N_LAYER + layer] = D_FF;
        add_layer(p, layer, &b);
    }
    for (uint32_t i = 1; i < N_STREAM; i++)
        mfi_program_op(p, MFI_OP_ADD, MFI_ROWS_ALL, N_LAYER, b.x[i], b.x[0]);
    add_norm(p, MFI_ROWS_OUT, N_LAYER, b.x[0], b.out);
    mfi_op *output = mfi_program_op(p, MFI_OP_OUTPUT, MFI_ROWS_OUT, N_LAYER, b.out, b.out);
    mfi_program_part(p, output, &table, 1, b.out, MFI_EXTENT_FULL);
    cr_assert_eq(mfi_program_finish(p, NULL), MF_OK);
    return p;
}

/* ---- The same in double precision ---- */

static void product(const matrix *m, size_t n, size_t k, const double *x, double *y)
{
    for (size_t i = 0; i < n; i++) {
        y[i] = 0;
        for (size_t j = 0; j < k; j++)
            y[i] += (double)m->value[i][j] * x[j];
    }
}

static void norm(const double *x, double *y)
{
    double sum = 0;
    for (size_t i = 0; i < D_MODEL; i++)
        sum += x[i] * x[i];
    for (size_t i = 0; i < D_MODEL; i++)
        y[i] = x[i] / sqrt(sum / D_MODEL + 1e-6);
}

static double gelu(double x)
{
    return 0.5 * x * (1 + tanh(0.7978845608028654 * (x + 0.044715 * x * x * x)));
}

/* What the FFN of `width` adds to `x`. */
static void ffn(uint32_t layer, size_t width, const double *x, double *y)
{
    double in[D_MODEL], gate[D_FF], up[D_FF];
    norm(x, in);
    product(&w.gate[layer], width, D_MODEL, in, gate);
    product(&w.up[layer], width, D_MODEL, in, up);
    for (size_t i = 0; i < width; i++)
        up[i] *= gelu(gate[i]);
    product(&w.down[layer], D_MODEL, width, up, y);
}

static void reference(int32_t token, const size_t *width, double *logits)
{
    double x[N_STREAM][D_MODEL], predicted[N_STREAM][D_MODEL], in[D_MODEL], c[N_STREAM * N_STREAM], y[D_MODEL],
        z[D_MODEL];
    for (size_t i = 0; i < N_STREAM; i++)
        for (size_t d = 0; d < D_MODEL; d++)
            x[i][d] = (double)w.embed.value[token][d] / (double)(i + 1);
    for (uint32_t layer = 0; layer < N_LAYER; layer++) {
        norm(x[0], in);
        product(&w.predict[layer], N_STREAM * N_STREAM, D_MODEL, in, c);
        for (size_t i = 0; i < N_STREAM; i++)
            for (size_t d = 0; d < D_MODEL; d++) {
                predicted[i][d] = x[i][d];
                for (size_t j = 0; j < N_STREAM; j++)
                    predicted[i][d] += tanh(c[i * N_STREAM + j]) * x[j][d];
            }
        if (width[layer] > 0) ffn(layer, width[layer], predicted[0], y);
        for (size_t d = 0; d < D_MODEL; d++)
            z[d] = predicted[0][d] + (width[layer] > 0 ? y[d] : 0);
        norm(z, in);
        product(&w.correct[layer], N_STREAM, D_MODEL, in, c);
        for (size_t i = 0; i < N_STREAM; i++)
            for (size_t d = 0; d < D_MODEL; d++)
                x[i][d] = predicted[i][d] + tanh(c[i]) * (z[d] - predicted[0][d]);
    }
    for (size_t d = 0; d < D_MODEL; d++)
        x[0][d] += x[1][d] + x[2][d] + x[3][d];
    norm(x[0], in);
    product(&w.embed, N_VOCAB, D_MODEL, in, logits);
}

/* ---- Test ---- */

static mf_model model;

static void set_up(void)
{
    fill(&w.embed);
    for (uint32_t layer = 0; layer < N_LAYER; layer++) {
        fill(&w.predict[layer]);
        fill(&w.correct[layer]);
        fill(&w.gate[layer]);
        fill(&w.up[layer]);
        fill(&w.down[layer]);
    }
    for (size_t d = 0; d < D_MODEL; d++)
        w.ones[d] = 1;
    allocator = mfi_allocator(NULL);
    model.allocator = allocator;
    atomic_init(&model.references, 1);
    mfk_table_init(&model.kernels, mfk_cpu_detect());
    model.program = compile();
    model.config = (mfi_config){ .n_layer = N_LAYER, .n_granularity = 1, .d_head = 32, .head_group = 1 };
    cr_assert_eq(mfi_config_alloc(&model.config, &allocator, NULL), MF_OK);
    for (uint32_t layer = 0; layer < N_LAYER; layer++) {
        model.config.granularity[0].ffn[layer] = D_FF;
        model.config.granularity[0].heads[layer] = model.config.may_skip[layer] = 1;
    }
}

static void tear_down(void)
{
    for (uint32_t i = 0; i < n_tensor; i++)
        mfi_free(&allocator, (void *)tensors[i].data, (size_t)tensors[i].bytes);
    mfi_program_free(model.program);
    mfi_config_free(&model.config, &allocator);
}

Test(program, four_residual_streams_run_on_the_same_executor, .init = set_up, .fini = tear_down)
{
    static const char *texts[] = { "1", "ffn=32,64", "ffn=96;skip=0", "ffn=64,32" };
    static const size_t width[][N_LAYER] = { { 96, 96 }, { 32, 64 }, { 0, 96 }, { 64, 32 } };
    enum { N_VIEW = 4 };
    static float logits[N_VIEW][N_ROW][N_VOCAB];
    int32_t tokens[N_ROW];
    const atomic_bool cancel = false;
    const mf_executor_options options = { sizeof options, 2, 32, 8, 0, NULL, 0 };
    mf_executor *executor;
    mf_submodel *view[N_VIEW];
    cr_assert_eq(mfi_executor_create(&executor, &model, &options, NULL), MF_OK);
    for (int32_t r = 0; r < N_ROW; r++)
        tokens[r] = (r * 11 + 3) % N_VOCAB;
    for (size_t v = 0; v < N_VIEW; v++) {
        mf_submodel_spec spec;
        mfi_spec_storage storage;
        cr_assert_eq(mfi_submodel_parse(&spec, &storage, texts[v], NULL), MF_OK);
        cr_assert_eq(mfi_submodel_create(&view[v], &model, &spec, NULL), MF_OK);
        executor->request[v] = (mfi_run_request){ .view = view[v],
                                                  .n_row = N_ROW,
                                                  .tokens = tokens,
                                                  .out_end = N_ROW,
                                                  .logits = logits[v][0],
                                                  .logits_stride = N_VOCAB,
                                                  .cancel = &cancel };
    }
    executor->n_request = N_VIEW;
    mfi_batch_lay_out(executor);
    mfi_run(executor);
    for (size_t v = 0; v < N_VIEW; v++)
        for (size_t r = 0; r < N_ROW; r++) {
            double expected[N_VOCAB];
            reference(tokens[r], width[v], expected);
            for (size_t i = 0; i < N_VOCAB; i++)
                cr_assert(fabs((double)logits[v][r][i] - expected[i]) < 1e-4, "view %s row %zu logit %zu: %g, not %g",
                          texts[v], r, i, (double)logits[v][r][i], expected[i]);
        }
    for (size_t v = 0; v < N_VIEW; v++)
        mfi_submodel_free(view[v]);
    mfi_executor_free(executor);
}

Test(program, a_family_that_outgrows_its_bounds_is_refused)
{
    mfi_program *p;
    const mfi_program_sizes sizes = { 1, 1, 2, 1, 1 };
    allocator = mfi_allocator(NULL);
    cr_assert_eq(mfi_program_create(&p, &allocator, &sizes, NULL), MF_OK);
    for (uint32_t i = 0; i < 3; i++)
        mfi_program_op(p, MFI_OP_COPY, MFI_ROWS_ALL, 0, 0, 0);
    cr_assert_eq(mfi_program_finish(p, NULL), MF_E_FORMAT);
    mfi_program_free(p);
}
