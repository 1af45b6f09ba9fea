/* test_model_save.c - configurations are checked, and weights come back from the file that was saved. */
#define _GNU_SOURCE
#include <criterion/criterion.h>
#include <math.h>

#include "container_fixture.h"
#include "counting_allocator.h"
#include "matlm_fixture.h"
#include "pack.h"

/* ---- Weights, gathered from shells and panels ---- */

/* The stored tensor that holds matrix `name`, and which of its interleaved matrices that is. */
static void stored_name(const char *name, bool gated, char stored[64], size_t *which, size_t *count)
{
    const char *last = strrchr(name, '.');
    bool gate = last && strcmp(last, ".gate") == 0, up = last && strcmp(last, ".up") == 0;
    *count = gated && (gate || up) ? 2 : 1;
    *which = *count == 2 && up;
    if (*count == 2)
        snprintf(stored, 64, "%.*s.gate_up", (int)(last - name), name);
    else
        snprintf(stored, 64, "%s", name);
}

static void unpack_table(const mfi_tensor *tensor, float *out)
{
    const size_t k = (size_t)tensor->k, row_bytes = mfk_row_bytes(tensor->type, k);
    for (size_t i = 0; i < tensor->n; i++)
        mfk_unpack_table_row(tensor->type, mfi_tensor_table(tensor), k, mfi_tensor_body(tensor) + i * row_bytes,
                             out + i * k);
}

/* Of weights that are below 1 and have 8 bits: most types hold them exactly, the others to half a step. */
static float tolerance_of(mfk_type type)
{
    return type == MFK_Q8 ? 0.565f / 127 : type == MFK_Q4 ? 0.25f : 0;
}

typedef struct comparison {
    const mfi_container *container;
    bool gated;
    size_t tensors; /* that were visited */
} comparison;

static void compare(void *user, const char *name, size_t rows, size_t columns)
{
    comparison *c = user;
    char stored[64];
    size_t which, count, row = 0, column = 0;
    stored_name(name, c->gated, stored, &which, &count);
    float *out = calloc(rows * columns, sizeof *out);
    cr_assert_not_null(out);
    float tolerance = 0;
    for (uint32_t shell = 0; shell < FIXTURE_GRANULARITIES; shell++) {
        const mfi_tensor *tensor = mfi_container_find(c->container, stored, shell);
        if (!tensor) continue;
        size_t n = (size_t)tensor->n, k = (size_t)tensor->k, panel = mfk_panel_bytes(tensor->type, k);
        c->tensors += which == 0;
        tolerance = tolerance_of(tensor->type);
        cr_assert(row + (tensor->kind == MFI_PLAIN ? 1 : n) <= rows || column + k <= columns, "%s", stored);
        if (tensor->kind == MFI_PLAIN)
            memcpy(out, tensor->data, (size_t)tensor->bytes);
        else if (tensor->kind == MFI_TABLE)
            unpack_table(tensor, out);
        else
            mfk_unpack(tensor->type, mfi_tensor_table(tensor), n, k, mfi_tensor_body(tensor) + which * panel,
                       count * panel, out + row * columns + column, columns);
        if (strstr(name, ".ffn.down"))
            column += k;
        else
            row += tensor->kind == MFI_PLAIN ? 1 : n;
    }
    cr_assert_eq(strstr(name, ".ffn.down") ? column : row, strstr(name, ".ffn.down") ? columns : rows, "%s", name);
    for (size_t i = 0; i < rows * columns; i++) {
        float error = fabsf(out[i] - fixture_weight(name, i / columns, i % columns));
        cr_assert(error <= tolerance, "%s: element %zu is off by %g", name, i, (double)error);
    }
    free(out);
}

Test(matlm_save, every_weight_comes_back_from_every_variant)
{
    mf_allocator allocator = mfi_allocator(NULL);
    static const mfk_type types[] = { MFK_F32, MFK_BF16, MFK_F16, MFK_Q8, MFK_Q4 };
    for (int i = 0; i < 16 * 5; i++) {
        fixture_variant v = { i & 1, i & 2, i & 4, types[i / 16], i & 8 ? MFI_ZSTD : MFI_RAW };
        mf_error error = MF_ERROR_INIT;
        char *path = fixture_path();
        cr_assert_eq(fixture_save(&v, &allocator, path, &error), MF_OK, "%s", error.detail);

        mfi_container *c = fixture_open(path);
        mfi_config config;
        comparison seen = { c, !v.plain, 0 };
        cr_assert_eq(fixture_config(&config, v.plain, v.tied, &allocator), MF_OK);
        fixture_visit(&config, compare, &seen);
        size_t others = v.plain ? 0 : 2; /* rope.freqs and tokenizer */
        cr_assert_eq(mfi_container_tensor_count(c), seen.tensors + others);
        uint32_t regions = (v.one_shell ? 1u : 3u) + !v.tied;
        cr_assert_eq(mfi_container_region_count(c), regions);
        mfi_config_free(&config, &allocator);
        mfi_container_close(c);
        fixture_remove(path);
    }
}

Test(matlm_save, rotation_frequencies_and_tokenizer_are_stored)
{
    mf_allocator allocator = mfi_allocator(NULL);
    mf_error error = MF_ERROR_INIT;
    fixture_variant v = { .tied = true, .type = MFK_BF16, .storage = MFI_ZSTD };
    char *path = fixture_path();
    cr_assert_eq(fixture_save(&v, &allocator, path, &error), MF_OK, "%s", error.detail);
    mfi_container *c = fixture_open(path);
    const mfi_tensor *freqs = mfi_container_find(c, "rope.freqs", 0), *blob = mfi_container_find(c, "tokenizer", 0);
    void *expected;
    size_t bytes;
    cr_assert_eq(fixture_tokenizer(&expected, &bytes, &allocator, &error), MF_OK);
    cr_assert(freqs && freqs->n == 8 && blob && blob->n == bytes);
    for (int j = 0; j < 8; j++)
        cr_assert_eq(((const float *)freqs->data)[j], (float)pow(10000, -2.0 * j / 16));
    cr_assert_arr_eq(blob->data, expected, bytes);
    mfi_free(&allocator, expected, bytes);
    const char *title = NULL;
    cr_assert(mfi_container_text(c, "title", &title));
    cr_assert_str_eq(title, "a test");
    mfi_container_close(c);
    fixture_remove(path);
}

Test(matlm_save, every_failing_allocation_is_reported_and_leaks_nothing)
{
    fixture_variant v = { .tied = false, .type = MFK_BF16, .storage = MFI_ZSTD };
    char *path = fixture_path();
    mf_status status = MF_E_NOMEM;
    for (size_t n = 1; status != MF_OK; n++) {
        counting c = { .fail_at = n, .mutex = PTHREAD_MUTEX_INITIALIZER };
        mf_allocator allocator = counting_allocator(&c);
        mf_error error = MF_ERROR_INIT;
        status = fixture_save(&v, &allocator, path, &error);
        cr_assert_eq(c.live_bytes, 0);
        cr_assert(status == MF_OK || status == MF_E_NOMEM);
        cr_assert_eq(status == MF_OK, access(path, F_OK) == 0);
    }
    fixture_remove(path); /* which fails to remove the folder if a temporary file were left */
}

static mf_status failing_read(void *user, const char *name, size_t row, size_t n_row, size_t column, size_t n_column,
                              float *out, mf_error *error)
{
    int *calls = user;
    if (--*calls > 0) return fixture_read_weights(NULL, name, row, n_row, column, n_column, out, error);
    return MF_E_IO;
}

Test(matlm_save, a_failing_source_leaves_no_file)
{
    mf_allocator allocator = mfi_allocator(NULL);
    char *path = fixture_path(), folder[64];
    int calls = 30;
    mfi_weights weights = { failing_read, &calls };
    mfi_config config;
    mfi_save_options options = { .type = MFK_F32 };
    cr_assert_eq(fixture_config(&config, false, true, &allocator), MF_OK);
    cr_assert_eq(mfi_save(&config, &weights, &options, &allocator, path, NULL), MF_E_IO);
    mfi_config_free(&config, &allocator);
    snprintf(folder, sizeof folder, "%s", path);
    *strrchr(folder, '/') = '\0';
    cr_assert_eq(rmdir(folder), 0, "something was left behind");
    free(path);
}

static mf_status large_read(void *user, const char *name, size_t row, size_t n_row, size_t column, size_t n_column,
                            float *out, mf_error *error)
{
    mf_status status = fixture_read_weights(NULL, name, row, n_row, column, n_column, out, error);
    if (strcmp(name, "layers.2.ffn.down") == 0) out[n_column - 1] = *(const float *)user;
    return status;
}

Test(matlm_save, weights_that_a_type_does_not_hold_are_refused_by_name)
{
    static const struct {
        mfk_type type;
        float held, refused;
    } cases[] = { { MFK_Q4, 59.0f, -60.0f }, { MFK_F16, -65504.0f, 65505.0f }, { MFK_Q8, 8.3e6f, 8.4e6f } };
    mf_allocator allocator = mfi_allocator(NULL);
    mfi_config config;
    cr_assert_eq(fixture_config(&config, false, true, &allocator), MF_OK);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char *path = fixture_path();
        mf_error error = MF_ERROR_INIT;
        float weight = cases[i].refused;
        mfi_weights weights = { large_read, &weight };
        mfi_save_options options = { .type = cases[i].type };
        cr_assert_eq(mfi_save(&config, &weights, &options, &allocator, path, &error), MF_E_RANGE);
        cr_assert(strstr(error.detail, "layers.2.ffn.down"), "%s", error.detail);
        cr_assert(access(path, F_OK) != 0);
        weight = cases[i].held;
        cr_assert_eq(mfi_save(&config, &weights, &options, &allocator, path, &error), MF_OK, "%s", error.detail);
        fixture_remove(path);
    }
    mfi_config_free(&config, &allocator);
}

/* ---- Rules ---- */

static void expect_refused(const mfi_config *config, const char *part)
{
    mf_error error = MF_ERROR_INIT;
    cr_assert_eq(mfi_config_check(config, &error), MF_E_INVALID, "%s", part);
    cr_assert(strstr(error.detail, part), "\"%s\" does not name %s", error.detail, part);
}

#define EXPECT_REFUSED(change, part)                                           \
    do {                                                                       \
        mfi_config config;                                                     \
        cr_assert_eq(fixture_config(&config, false, true, &allocator), MF_OK); \
        cr_assert_eq(mfi_config_check(&config, NULL), MF_OK);                  \
        change;                                                                \
        expect_refused(&config, part);                                         \
        config.n_layer = FIXTURE_LAYERS;                                       \
        config.n_granularity = FIXTURE_GRANULARITIES;                          \
        mfi_config_free(&config, &allocator);                                  \
    } while (0)

static void skip_in_all(mfi_config *config, uint32_t layer)
{
    for (uint32_t g = 0; g < config->n_granularity; g++)
        config->granularity[g].ffn[layer] = config->granularity[g].heads[layer] = 0;
}

Test(matlm_config, each_rule_refuses_its_breach)
{
    mf_allocator allocator = mfi_allocator(NULL);
    EXPECT_REFUSED(config.n_layer = 0, "n_layer");
    EXPECT_REFUSED(config.n_granularity = MFI_MAX_GRANULARITY + 1, "n_granularity");
    EXPECT_REFUSED(config.d_model = 48, "d_model");
    EXPECT_REFUSED(config.d_head = 24, "d_head");
    EXPECT_REFUSED(config.d_head = 528, "d_head");
    EXPECT_REFUSED(config.head_group = 0, "head_group");
    EXPECT_REFUSED(config.n_vocab = 0, "n_vocab");
    EXPECT_REFUSED(config.max_positions = 0, "max_positions");
    EXPECT_REFUSED(config.activation = (mfk_activation)9, "activation");
    EXPECT_REFUSED(config.norm_eps = NAN, "norm_eps");
    EXPECT_REFUSED(config.rope_theta = 0.5, "rope_theta");
    EXPECT_REFUSED(config.attention_scale = INFINITY, "scale");
    EXPECT_REFUSED(config.eos_token = 263, "263");
    EXPECT_REFUSED(config.granularity[1].name[0] = '0', "granularity 1");
    EXPECT_REFUSED(config.granularity[1].name[0] = 'S', "two granularities");
    EXPECT_REFUSED(memset(config.granularity[1].name, 'a', 16), "granularity 1");
    EXPECT_REFUSED(config.granularity[0].ffn[0] = 48, "layer 0");
    EXPECT_REFUSED(config.granularity[0].ffn[0] = 96, "wider than in M");
    EXPECT_REFUSED(config.granularity[0].heads[0] = 4, "wider than in M");
    EXPECT_REFUSED(config.granularity[0].heads[0] = 1, "layer 0");
    EXPECT_REFUSED(config.granularity[0].heads[0] = 0, "layer 0");
    EXPECT_REFUSED(config.may_skip[1] = 0, "layer 1");
    EXPECT_REFUSED(config.window[1] = (1u << 24) + 1, "layer 1 has a window");
    EXPECT_REFUSED(skip_in_all(&config, 1), "XL skips layer 1");
    EXPECT_REFUSED(config.d_ff = 192, "d_ff");
    EXPECT_REFUSED(config.n_head = 8, "n_head");
}
