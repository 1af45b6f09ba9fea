/* test_train_gradient.c - losses, gradients and the optimizer's step, against PyTorch (the fixtures) and
 * against the loss itself (finite differences). */
#include "train_fixture.h"

#include "cpu.h"

static const char *const cases[] = {
    "rms_silu_multi_query_skip", "layer_gelu_multi_head_untied",  "rms_erf_grouped_nested_heads",
    "layer_relu_no_rotation",    "layer_tanh_gated_ragged_group",
};

static float largest(const float *x, size_t n)
{
    float most = 0;
    for (size_t i = 0; i < n; i++)
        most = fmaxf(most, fabsf(x[i]));
    return most;
}

/* Every element of a tensor within `tolerance` of the tensor's largest. */
static void expect_tensor(const mf_trainer *t, float *array, const golden_tensor *tensor, const float *expected,
                          float tolerance, const char *what)
{
    size_t n = tensor->rows * tensor->columns;
    float bound = tolerance * largest(expected, n);
    for (size_t i = 0; i < n; i++) {
        float got = *element(t, array, tensor->name, i / tensor->columns, i % tensor->columns);
        cr_assert(fabsf(got - expected[i]) <= bound, "%s, %s [%zu]: %g instead of %g", what, tensor->name, i,
                  (double)got, (double)expected[i]);
    }
}

/* `kernel`: of matrix products; NULL for BLIS. */
static void compare_with_pytorch(mfk_gemm_fn kernel, const mfi_train_vec *vec)
{
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        golden_case *c = golden_open(cases[i]);
        mf_trainer *t = golden_trainer(c);
        t->tasks.kernel = kernel;
        t->vec = vec;
        for (uint32_t g = 0; g < c->model.n_granularity; g++) {
            double loss = run_pass(t, g, c->input, c->target, c->n_sequence, c->length, true);
            cr_assert_float_eq(loss, c->loss[g], 2e-6 * c->loss[g], "%s: loss %.9f instead of %.9f", cases[i], loss,
                               c->loss[g]);
            for (size_t j = 0; j < c->n_tensor; j++)
                expect_tensor(t, t->gradient, &c->tensors[j], c->tensors[j].gradient[g], 2e-5f, cases[i]);
        }
        mf_trainer_close(t);
        golden_close(c);
    }
}

Test(train_gradient, losses_and_gradients_of_every_granularity_equal_pytorchs)
{
    compare_with_pytorch(NULL, mfi_train_vec_select());
}

Test(train_gradient, they_do_with_the_kernels_of_inference_too)
{
    mfk_table table;
    mfk_table_init(&table, mfk_cpu_detect());
    compare_with_pytorch(table.gemm_f32, mfi_train_vec_select());
}

Test(train_gradient, they_do_with_the_loops_of_lesser_processors_too)
{
    compare_with_pytorch(NULL, &mfi_train_vec_baseline);
#if defined(MFI_TRAIN_HAVE_AVX2)
    if (mfk_cpu_detect() & MFK_CPU_AVX2) compare_with_pytorch(NULL, &mfi_train_vec_avx2);
#endif
}

typedef struct shape {
    size_t m, n, k;
} shape;

/* c = from + a b by `kind`: bits 0 and 1 say which of a and b lie by columns; 8, 16: begin with c, with `from`. */
static mfi_train_gemm product_of(shape s, unsigned kind, const float *a, const float *b, float *c, const float *from)
{
    bool a_across = kind & 1, b_across = kind & 2;
    return (mfi_train_gemm){ s.m,
                             s.n,
                             s.k,
                             a,
                             a_across ? 1 : s.k,
                             a_across ? s.m : 1,
                             b,
                             b_across ? 1 : s.n,
                             b_across ? s.k : 1,
                             c,
                             s.n,
                             kind / 8 == 0   ? NULL
                             : kind / 8 == 1 ? c
                                             : from };
}

static void expect_product(const mfi_train_gemm *g, const float *from, unsigned kind)
{
    for (size_t i = 0; i < g->m; i += 13)
        for (size_t j = 0; j < g->n; j++) {
            double sum = g->from ? (double)from[i * g->n + j] : 0;
            for (size_t k = 0; k < g->k; k++)
                sum += (double)g->a[i * g->a_row + k * g->a_column] * (double)g->b[k * g->b_row + j * g->b_column];
            cr_assert_float_eq((double)g->c[i * g->n + j], sum, 1e-4, "kind %u at %zu, %zu", kind, i, j);
        }
}

static float *random_floats(size_t n, uint64_t stream)
{
    float *x = malloc(n * sizeof(float));
    for (size_t i = 0; i < n; i++)
        x[i] = (float)mfi_random_unit(1, stream, i) - 0.5f;
    return x;
}

/* Every layout that a pass asks for, extents that fill no slab, block or panel, and all ways to begin. */
Test(train_gradient, both_backends_give_the_matrix_product)
{
    const shape shapes[] = { { 530, 523, 300 }, { 40, 33, 1077 }, { 27, 4117, 45 }, { 1, 1, 1 } };
    golden_case *golden = golden_open(cases[0]);
    mf_trainer *t = golden_trainer(golden);
    mfk_table table;
    mfk_table_init(&table, mfk_cpu_detect());
    for (size_t i = 0; i < sizeof(shapes) / sizeof(shapes[0]); i++) {
        shape s = shapes[i];
        float *a = random_floats(s.m * s.k, 1), *b = random_floats(s.k * s.n, 2), *from = random_floats(s.m * s.n, 3);
        float *c = malloc(s.m * s.n * sizeof(float));
        for (unsigned kind = 0; kind < 24; kind++) {
            t->tasks.kernel = kind & 4 ? table.gemm_f32 : NULL;
            memcpy(c, from, s.m * s.n * sizeof(float));
            mfi_train_gemm product = product_of(s, kind, a, b, c, from);
            mfi_train_gemm_run(&t->tasks, &product);
            expect_product(&product, from, kind);
        }
        free(a), free(b), free(c), free(from);
    }
    mf_trainer_close(t);
    golden_close(golden);
}

Test(train_gradient, a_joint_step_of_adamw_equals_pytorchs)
{
    for (size_t i = 0; i < 2; i++) {
        golden_case *c = golden_open(cases[i]);
        mf_trainer *t = golden_trainer(c);
        mf_train_report report = step(t);
        cr_assert_float_eq(report.grad_norm, c->gradient_norm, 1e-5 * c->gradient_norm);
        cr_assert(report.grad_norm > c->options.clip, "the fixture shall clip");
        for (size_t j = 0; j < c->n_tensor; j++)
            expect_tensor(t, t->weights, &c->tensors[j], c->tensors[j].after, 2e-5f, cases[i]);
        mf_trainer_close(t);
        golden_close(c);
    }
}

static void move(mf_trainer *t, const char *name, const mfi_train_place *place, const float *gradient, float distance)
{
    for (size_t i = 0; i < place->rows * place->columns; i++) {
        float *w = element(t, t->weights, name, i / place->columns, i % place->columns);
        float slope = gradient[w - t->weights];
        *w += slope > 0 ? distance : slope < 0 ? -distance : 0;
    }
}

/* The loss moves along the gradient of one tensor as the gradient says. The direction is the gradient's
 * sign, for which the change is largest beside the rounding of the loss; the distance makes it about 0.02,
 * near enough for third derivatives not to matter. */
static void check_direction(mf_trainer *t, const golden_case *c, uint32_t g, const char *name, const float *gradient,
                            const char *what)
{
    mfi_train_place place;
    if (!mfi_train_find(&t->layout, &t->config, name, &place)) return;
    double predicted = 0;
    for (size_t i = 0; i < place.rows * place.columns; i++)
        predicted +=
            fabs((double)gradient[element(t, t->weights, name, i / place.columns, i % place.columns) - t->weights]);
    if (predicted == 0) return;
    float distance = (float)fmin(2e-3, 0.01 / predicted);
    move(t, name, &place, gradient, distance);
    double ahead = run_pass(t, g, c->input, c->target, c->n_sequence, c->length, false);
    move(t, name, &place, gradient, -2 * distance);
    double behind = run_pass(t, g, c->input, c->target, c->n_sequence, c->length, false);
    move(t, name, &place, gradient, distance);
    double measured = (ahead - behind) / (2 * (double)distance);
    cr_assert(fabs(measured - predicted) <= 0.01 * predicted + 2e-4, "%s, granularity %u, %s: %g, differences say %g",
              what, g, name, predicted, measured);
}

Test(train_gradient, every_parameter_tensor_agrees_with_finite_differences)
{
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        golden_case *c = golden_open(cases[i]);
        mf_trainer *t = golden_trainer(c);
        float *gradient = malloc(t->layout.n_float * sizeof(float));
        for (uint32_t g = 0; g < c->model.n_granularity; g++) {
            run_pass(t, g, c->input, c->target, c->n_sequence, c->length, true);
            memcpy(gradient, t->gradient, t->layout.n_float * sizeof(float));
            char name[64];
            for (size_t k = 0; mfi_train_name(&t->config, k, name, sizeof(name)); k++)
                check_direction(t, c, g, name, gradient, cases[i]);
        }
        free(gradient);
        mf_trainer_close(t);
        golden_close(c);
    }
}

Test(train_gradient, nothing_beyond_a_granularity_gets_a_gradient)
{
    golden_case *c = golden_open("rms_erf_grouped_nested_heads");
    mf_trainer *t = golden_trainer(c);
    run_pass(t, 0, c->input, c->target, c->n_sequence, c->length, true);
    size_t head = t->config.d_head;
    for (size_t column = 0; column < t->config.d_model; column++) {
        for (size_t row = 32; row < 64; row++) {
            cr_assert_eq(*element(t, t->gradient, "layers.0.ffn.gate", row, column), 0.0f);
            cr_assert_eq(*element(t, t->gradient, "layers.0.ffn.up", row, column), 0.0f);
            cr_assert_eq(*element(t, t->gradient, "layers.0.ffn.down", column, row), 0.0f);
        }
        for (size_t row = 2 * head; row < 4 * head; row++)
            cr_assert_eq(*element(t, t->gradient, "layers.0.attn.q", row, column), 0.0f);
        for (size_t row = head; row < 2 * head; row++)
            cr_assert_eq(*element(t, t->gradient, "layers.0.attn.k", row, column), 0.0f);
    }
    mf_trainer_close(t);
    golden_close(c);
}

Test(train_gradient, weights_beyond_a_granularity_do_not_change_it)
{
    golden_case *c = golden_open("rms_erf_grouped_nested_heads");
    mf_trainer *t = golden_trainer(c);
    double before = run_pass(t, 0, c->input, c->target, c->n_sequence, c->length, true);
    for (size_t i = 0; i < t->layout.n_float; i++)
        if (t->gradient[i] == 0.0f && i < t->layout.n_matrix && i >= t->layout.layers[0].qkv) t->weights[i] = NAN;
    double after = run_pass(t, 0, c->input, c->target, c->n_sequence, c->length, true);
    cr_assert_eq(before, after, "%.17g, and %.17g with NaN beyond the width", before, after);
    mf_trainer_close(t);
    golden_close(c);
}
