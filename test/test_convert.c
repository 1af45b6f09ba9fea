/* test_convert.c - a converted file is, to the byte, the one that the saver makes from the weights themselves; what
 * cannot be converted is refused; any bytes give a status. MF_TEST_ROUNDS runs more shapes. */
#define _GNU_SOURCE
#include <criterion/criterion.h>
#include <float.h>
#include <math.h>

#include "container_fixture.h"
#include "counting_allocator.h"
#include "defs.h"
#include "hostile.h"
#include "matformer_tools.h"
#include "matlm_fixture.h"
#include "run_model.h"

static const mfk_type types[] = { MFK_F32, MFK_BF16, MFK_F16, MFK_Q8, MFK_Q4 };

/* ---- Files ---- */

static mf_convert_options options_of(mfk_type type, mf_storage storage, mf_shells shells)
{
    mf_convert_options options = MF_CONVERT_OPTIONS_INIT;
    options.type = (mf_weight_type)type;
    options.storage = storage;
    options.shells = shells;
    return options;
}

static mf_source *open_source(const char *path)
{
    mf_error error = MF_ERROR_INIT;
    mf_source *source;
    cr_assert_eq(mf_source_open(&source, path, NULL, &error), MF_OK, "%s", error.detail);
    return source;
}

static mf_convert_report convert(const char *from, const char *to, const mf_convert_options *options)
{
    mf_error error = MF_ERROR_INIT;
    mf_convert_report report = MF_CONVERT_REPORT_INIT;
    mf_source *source = open_source(from);
    cr_assert_eq(mf_convert(source, to, options, &report, &error), MF_OK, "%s", error.detail);
    mf_source_close(source);
    return report;
}

static bool same_file(const char *a, const char *b)
{
    size_t a_bytes, b_bytes;
    unsigned char *a_data = fixture_read(a, &a_bytes), *b_data = fixture_read(b, &b_bytes);
    bool same = a_bytes == b_bytes && memcmp(a_data, b_data, a_bytes) == 0;
    free(a_data);
    free(b_data);
    return same;
}

static void write_file(const char *path, const unsigned char *data, size_t bytes)
{
    FILE *file = fopen(path, "wb");
    cr_assert(file && fwrite(data, 1, bytes, file) == bytes && fclose(file) == 0);
}

/* The weights of a stored matrix, n * k for each that it interleaves; to be freed. */
static float *unpack(const mfi_tensor *tensor, size_t *n_weight)
{
    size_t n = (size_t)tensor->n, k = (size_t)tensor->k, matrices = (size_t)mfi_tensor_matrices(tensor);
    float *out = malloc(matrices * n * k * sizeof *out);
    cr_assert_not_null(out);
    *n_weight = matrices * n * k;
    for (size_t m = 0; tensor->kind == MFI_PANEL && m < matrices; m++) {
        size_t panel = mfk_panel_bytes(tensor->type, k);
        mfk_unpack(tensor->type, mfi_tensor_table(tensor), n, k, mfi_tensor_body(tensor) + m * panel, matrices * panel,
                   out + m * n * k, k);
    }
    for (size_t i = 0; tensor->kind == MFI_TABLE && i < n; i++)
        mfk_unpack_table_row(tensor->type, mfi_tensor_table(tensor), k,
                             mfi_tensor_body(tensor) + i * mfk_row_bytes(tensor->type, k), out + i * k);
    return out;
}

typedef struct paths {
    temporary_path from, to, expected;
} paths;

static paths new_paths(void)
{
    return (paths){ new_path(), new_path(), new_path() };
}

static void remove_paths(const paths *p)
{
    remove(p->from.text);
    remove(p->to.text);
    remove(p->expected.text);
}

/* ---- Equal to what the saver makes ---- */

static void save_random(const random_model *random, mfk_type type, mf_storage storage, mf_shells shells,
                        const char *path)
{
    mf_error error = MF_ERROR_INIT;
    cr_assert_eq(random_model_save(random, type, storage == MF_STORAGE_ZSTD ? MFI_ZSTD : MFI_RAW,
                                   shells == MF_SHELLS_SINGLE, path, &error),
                 MF_OK, "%s", error.detail);
}

static mf_storage any_storage(rng *r)
{
    return rng_below(r, 2) ? MF_STORAGE_ZSTD : MF_STORAGE_RAW;
}

static mf_shells any_shells(rng *r)
{
    return rng_below(r, 2) ? MF_SHELLS_SINGLE : MF_SHELLS_NESTED;
}

Test(convert, f32_becomes_what_the_saver_makes_of_it_in_every_type)
{
    for (uint32_t round = 0; round < test_rounds(20); round++) {
        random_model random;
        rng r = { round };
        paths p = new_paths();
        cr_assert_eq(random_model_init(&random, 4000 + round), MF_OK);
        save_random(&random, MFK_F32, any_storage(&r), round & 1 ? MF_SHELLS_SINGLE : MF_SHELLS_NESTED, p.from.text);
        mf_convert_options options = options_of(types[round % MFI_COUNT(types)], any_storage(&r),
                                                round & 2 ? MF_SHELLS_SINGLE : MF_SHELLS_NESTED);
        for (mf_role role = 0; round % 3 && role < (random.config.tied ? MF_ROLE_OUTPUT : MF_N_ROLE); role++)
            options.role_type[role] = (mf_weight_type)(random.role_type[role] = types[rng_below(&r, MFI_COUNT(types))]);
        convert(p.from.text, p.to.text, &options);
        save_random(&random, (mfk_type)options.type, options.storage, options.shells, p.expected.text);
        cr_assert(same_file(p.to.text, p.expected.text), "round %u", round);
        remove_paths(&p);
        random_model_free(&random);
    }
}

/* Also when shells are joined or cut anew, which moves the blocks of down and the panels of gate and up. */
Test(convert, a_type_that_stays_keeps_every_bit)
{
    for (uint32_t round = 0; round < test_rounds(20); round++) {
        random_model random;
        rng r = { round };
        paths p = new_paths();
        const mfk_type type = types[round % MFI_COUNT(types)]; /* with each way of cutting in twenty rounds */
        cr_assert_eq(random_model_init(&random, 5000 + round), MF_OK);
        save_random(&random, type, any_storage(&r), round & 1 ? MF_SHELLS_SINGLE : MF_SHELLS_NESTED, p.from.text);
        mf_convert_options options =
            options_of(rng_below(&r, 2) ? type : 0, any_storage(&r), round & 2 ? MF_SHELLS_SINGLE : MF_SHELLS_NESTED);
        mf_convert_report report = convert(p.from.text, p.to.text, &options);
        for (mf_role role = 0; role < MF_N_ROLE; role++)
            cr_assert(report.role[role].n_rounded == 0 && report.role[role].error == 0, "round %u", round);
        save_random(&random, type, options.storage, options.shells, p.expected.text);
        cr_assert(same_file(p.to.text, p.expected.text), "round %u", round);

        convert(p.from.text, p.to.text, NULL); /* by default everything stays */
        cr_assert(same_file(p.to.text, p.from.text), "round %u", round);
        remove_paths(&p);
        random_model_free(&random);
    }
}

Test(convert, bf16_and_f16_come_back_from_f32)
{
    for (uint32_t round = 0; round < test_rounds(6); round++) {
        random_model random;
        paths p = new_paths();
        const mfk_type type = round % 2 ? MFK_BF16 : MFK_F16;
        mf_convert_options wide = options_of(MFK_F32, MF_STORAGE_RAW, MF_SHELLS_SINGLE);
        mf_convert_options back = options_of(type, MF_STORAGE_ZSTD, MF_SHELLS_NESTED);
        cr_assert_eq(random_model_init(&random, 6000 + round), MF_OK);
        save_random(&random, type, MF_STORAGE_ZSTD, MF_SHELLS_NESTED, p.from.text);
        convert(p.from.text, p.expected.text, &wide);
        mf_convert_report report = convert(p.expected.text, p.to.text, &back);
        cr_assert(report.role[MF_ROLE_FFN].n_rounded > 0 && report.role[MF_ROLE_FFN].error == 0);
        cr_assert(same_file(p.to.text, p.from.text), "round %u", round);
        remove_paths(&p);
        random_model_free(&random);
    }
}

/* ---- Of codes ---- */

/* Square sums of a role's weights and of their differences in another file with the same tensors. */
static void compare(const mfi_container *a, const mfi_container *b, mfi_role role, double *squares, double *errors)
{
    *squares = *errors = 0;
    for (uint32_t i = 0; i < mfi_container_tensor_count(a); i++) {
        const mfi_tensor *x = mfi_container_tensor(a, i), *y = mfi_container_find(b, x->name, x->shell);
        if (mfi_role_of(x->name) != role) continue;
        size_t n, m;
        cr_assert_not_null(y, "%s", x->name);
        float *from = unpack(x, &n), *to = unpack(y, &m);
        cr_assert_eq(n, m);
        for (size_t j = 0; j < n; j++) {
            *squares += (double)from[j] * (double)from[j];
            *errors += ((double)to[j] - (double)from[j]) * ((double)to[j] - (double)from[j]);
        }
        free(from);
        free(to);
    }
}

Test(convert, codes_widen_exactly_and_the_error_of_rounding_is_reported)
{
    for (uint32_t round = 0; round < test_rounds(8); round++) {
        random_model random;
        paths p = new_paths();
        const mfk_type from = round % 2 ? MFK_Q8 : MFK_Q4, to = round % 4 < 2 ? MFK_F32 : MFK_BF16;
        mf_convert_options options = options_of(to, MF_STORAGE_RAW, MF_SHELLS_NESTED);
        cr_assert_eq(random_model_init(&random, 7000 + round), MF_OK);
        save_random(&random, from, MF_STORAGE_RAW, MF_SHELLS_NESTED, p.from.text);
        mf_convert_report report = convert(p.from.text, p.to.text, &options);
        mfi_container *before = fixture_open(p.from.text), *after = fixture_open(p.to.text);
        for (mf_role role = 0; role < MF_N_ROLE; role++) {
            const mf_converted_role *found = &report.role[role];
            double squares, errors;
            compare(before, after, (mfi_role)role, &squares, &errors);
            cr_assert_eq(found->type != MF_WEIGHT_KEEP, squares > 0);
            if (to == MFK_F32) cr_assert(found->n_rounded == 0 && errors == 0, "round %u", round);
            if (to == MFK_BF16 && squares > 0)
                cr_assert(found->n_rounded == found->n_weight &&
                              fabs(found->error - sqrt(errors / squares)) <= 1e-9 * found->error &&
                              found->error < 0x1p-8,
                          "round %u, role %d: %g, not %g", round, (int)role, found->error, sqrt(errors / squares));
        }
        mfi_container_close(before);
        mfi_container_close(after);
        remove_paths(&p);
        random_model_free(&random);
    }
}

/* ---- Files of others ---- */

/* The directory's entry of a tensor. */
static mfi_file_tensor *find_entry(unsigned char *data, const char *name, uint32_t shell)
{
    mfi_file_slot *slot = (mfi_file_slot *)(void *)(data + MFI_SLOT_BASE);
    unsigned char *at = (unsigned char *)(slot + 1);
    for (uint32_t i = 0; i < slot->entry_count; i++) {
        mfi_file_tensor *tensor = (mfi_file_tensor *)(void *)at;
        if (tensor->entry.kind == MFI_ENTRY_TENSOR && strcmp((char *)(tensor + 1), name) == 0 && tensor->shell == shell)
            return tensor;
        at += ((mfi_file_entry *)(void *)at)->entry_bytes;
    }
    cr_assert_fail("there is no %s", name);
    return NULL;
}

static void save_fixture(const fixture_variant *v, const char *path)
{
    mf_error error = MF_ERROR_INIT;
    mf_allocator allocator = mfi_allocator(NULL);
    cr_assert_eq(fixture_save(v, &allocator, path, &error), MF_OK, "%s", error.detail);
}

/* Gives the Q4 tensor of a raw file another table. */
static void change_table(unsigned char *data, const char *name, uint32_t shell)
{
    const mfi_file_tensor *entry = find_entry(data, name, shell);
    mfi_file_slot *slot = (mfi_file_slot *)(void *)(data + MFI_SLOT_BASE);
    uint32_t region = 0;
    for (unsigned char *at = (unsigned char *)(slot + 1); at < (unsigned char *)entry;
         at += ((mfi_file_entry *)(void *)at)->entry_bytes) {
        const mfi_file_region *found = (mfi_file_region *)(void *)at;
        if (found->entry.kind == MFI_ENTRY_REGION && region++ == entry->region)
            data[found->file_offset + entry->offset + 3] += 5; /* -61 becomes -56 */
    }
}

Test(convert, tables_of_q4_stay_where_shells_do_and_differing_ones_are_requantized_where_not)
{
    paths p = new_paths();
    size_t bytes;
    save_fixture(&(fixture_variant){ .tied = true, .type = MFK_Q4 }, p.from.text);
    unsigned char *data = fixture_read(p.from.text, &bytes);
    change_table(data, "layers.0.ffn.down", 1);
    change_table(data, "layers.1.attn.q", 0);
    fixup_checksums(data, bytes);
    write_file(p.from.text, data, bytes);
    free(data);

    mf_convert_report report = convert(p.from.text, p.to.text, NULL);
    cr_assert(same_file(p.from.text, p.to.text));
    cr_assert_eq(report.role[MF_ROLE_FFN].n_rounded, 0);

    mf_convert_options options = options_of(0, MF_STORAGE_RAW, MF_SHELLS_SINGLE);
    report = convert(p.from.text, p.to.text, &options);
    cr_assert_eq(report.role[MF_ROLE_ATTENTION].n_rounded, 0);
    cr_assert_eq(report.role[MF_ROLE_FFN].n_rounded, 32 * 160, "down of layer 0 alone");
    cr_assert(report.role[MF_ROLE_FFN].error > 0 && report.role[MF_ROLE_FFN].error < 0.1);
    remove_paths(&p);
}

/* Metadata of every kind that the family does not know, and frequencies that no formula gives. */
static void save_richly(const char *path, const char *keys_path)
{
    mf_allocator allocator = mfi_allocator(NULL);
    mfi_config config;
    void *blob = NULL;
    size_t bytes;
    cr_assert_eq(fixture_write(keys_path, &allocator, MFI_RAW, false, NULL), MF_OK);
    mfi_container *keys = fixture_open(keys_path);
    cr_assert_eq(fixture_config(&config, false, false, &allocator), MF_OK);
    cr_assert_eq(fixture_tokenizer(&blob, &bytes, &allocator, NULL), MF_OK);
    mfi_save_options options = { .type = MFK_BF16, .tokenizer = blob, .tokenizer_bytes = bytes, .keys_of = keys };
    cr_assert_eq(mfi_save(&config, &fixture_weights, &options, &allocator, path, NULL), MF_OK);
    mfi_free(&allocator, blob, bytes);
    mfi_config_free(&config, &allocator);
    mfi_container_close(keys);
}

Test(convert, everything_else_of_a_file_stays)
{
    paths p = new_paths();
    size_t bytes;
    save_richly(p.from.text, p.expected.text);
    unsigned char *data = fixture_read(p.from.text, &bytes);
    mfi_file_tensor *freqs = find_entry(data, "rope.freqs", 0);
    const mfi_file_header *header = (const mfi_file_header *)(void *)data;
    const float odd = 0.123f;
    memcpy(data + mfi_head_bytes(header->slot_bytes) + freqs->offset + 4, &odd, sizeof odd);
    fixup_checksums(data, bytes);
    write_file(p.from.text, data, bytes);
    free(data);

    mf_convert_options options = options_of(MFK_Q8, MF_STORAGE_ZSTD, MF_SHELLS_SINGLE);
    convert(p.from.text, p.to.text, &options);
    mfi_container *before = fixture_open(p.from.text), *after = fixture_open(p.to.text);
    const mfi_tensor *stored = mfi_container_find(after, "rope.freqs", 0);
    cr_assert_eq(((const float *)stored->data)[1], odd);
    const char *key, *text;
    mfi_value kind, kind_after;
    uint64_t integer;
    double real;
    const uint32_t *values;
    size_t count;
    for (uint32_t i = 0; mfi_container_key_at(before, i, &key, &kind); i++) {
        const char *key_after;
        cr_assert(mfi_container_key_at(after, i, &key_after, &kind_after) && kind == kind_after);
        cr_assert_str_eq(key_after, key);
    }
    cr_assert(mfi_container_u64(after, "a.number", &integer) && integer == UINT64_MAX);
    cr_assert(mfi_container_f64(after, "a.fraction", &real) && real == 0.1);
    cr_assert(mfi_container_text(after, "title", &text) && text[0] == '\0');
    cr_assert(mfi_container_u32s(after, "widths", &values, &count) && count == 3 && values[2] == 96);
    cr_assert(mfi_container_u32s(after, "none", &values, &count) && count == 0);
    for (uint32_t i = 0; i < mfi_container_tensor_count(before); i++) {
        const mfi_tensor *a = mfi_container_tensor(before, i), *b = mfi_container_find(after, a->name, 0);
        if (a->kind != MFI_PLAIN) continue;
        cr_assert(b && a->type == b->type && a->bytes == b->bytes && memcmp(a->data, b->data, a->bytes) == 0, "%s",
                  a->name);
    }
    mfi_container_close(before);
    mfi_container_close(after);

    /* And back to where it was, over the source itself: only the codes' loss is left. */
    convert(p.from.text, p.from.text, &options);
    cr_assert(same_file(p.from.text, p.to.text));
    remove_paths(&p);
}

/* ---- Views of what was converted ---- */

static outputs run_path(const char *path, const widths *w, const int32_t *tokens, size_t n)
{
    mf_error error = MF_ERROR_INIT;
    mf_model *model;
    cr_assert_eq(mf_model_open(&model, path, NULL, &error), MF_OK, "%s", error.detail);
    mf_submodel *view = take_view(model, w);
    outputs out = run_alone(model, view, tokens, n);
    mf_submodel_close(view);
    mf_model_close(model);
    return out;
}

Test(convert, a_view_of_a_converted_file_equals_a_cut_file_that_was_saved_so)
{
    enum { TOKENS = 9 };
    for (uint32_t round = 0; round < test_rounds(10); round++) {
        random_model random, slice;
        rng r = { round };
        paths p = new_paths();
        int32_t tokens[TOKENS];
        const mfk_type type = types[round % MFI_COUNT(types)];
        cr_assert_eq(random_model_init(&random, 8000 + round), MF_OK);
        for (size_t i = 0; i < TOKENS; i++)
            tokens[i] = (int32_t)rng_below(&r, random.config.n_vocab);
        save_random(&random, MFK_F32, any_storage(&r), any_shells(&r), p.from.text);
        mf_convert_options options = options_of(type, any_storage(&r), any_shells(&r));
        options.role_type[MF_ROLE_FFN] = (mf_weight_type)(random.role_type[MFI_ROLE_FFN] = types[rng_below(&r, 5)]);
        convert(p.from.text, p.to.text, &options);

        widths w = random_widths(&random.config, &r);
        cr_assert_eq(random_model_slice(&slice, &random, &w), MF_OK);
        widths whole = granularity_widths(&slice.config, 0);
        save_random(&slice, type, MF_STORAGE_RAW, MF_SHELLS_NESTED, p.expected.text);
        outputs viewed = run_path(p.to.text, &w, tokens, TOKENS);
        outputs sliced = run_path(p.expected.text, &whole, tokens, TOKENS);
        cr_assert(same_bits(&viewed, &sliced), "round %u", round);
        drop_outputs(&viewed);
        drop_outputs(&sliced);
        remove_paths(&p);
        random_model_free(&slice);
        random_model_free(&random);
    }
}

/* ---- Refusals ---- */

static void expect_refused(const char *path, const mf_convert_options *options, mf_status status, const char *part)
{
    char *to = fixture_path();
    mf_error error = MF_ERROR_INIT;
    mf_source *source;
    mf_status found = mf_source_open(&source, path, NULL, &error);
    if (found == MF_OK) found = mf_convert(source, to, options, NULL, &error);
    cr_assert(found == status && error.status == status, "%s instead of %s: %s", mf_status_name(found),
              mf_status_name(status), error.detail);
    cr_assert(strstr(error.detail, part), "\"%s\" does not say %s", error.detail, part);
    mf_source_close(source);
    fixture_remove(to); /* which finds a file that was left there */
}

/* `user`: the weight. */
static mf_status large_read(void *user, const char *name, size_t row, size_t n_row, size_t column, size_t n_column,
                            float *out, mf_error *error)
{
    mf_status status = fixture_read_weights(NULL, name, row, n_row, column, n_column, out, error);
    if (strcmp(name, "layers.2.attn.o") == 0 && row == 0) out[0] = *(const float *)user;
    return status;
}

static void save_large(const char *path, float weight)
{
    mf_allocator allocator = mfi_allocator(NULL);
    mfi_config config;
    mfi_save_options save = { .type = MFK_F32 };
    cr_assert_eq(fixture_config(&config, false, true, &allocator), MF_OK);
    cr_assert_eq(
        mfi_save(&config, &(mfi_weights){ .read = large_read, .user = &weight }, &save, &allocator, path, NULL), MF_OK);
    mfi_config_free(&config, &allocator);
}

Test(convert, a_weight_that_a_type_does_not_hold_is_refused_by_name)
{
    char *path = fixture_path();
    save_large(path, 1e6f);
    mf_convert_options options = options_of(MFK_F16, 0, 0);
    expect_refused(path, &options, MF_E_RANGE, "layers.2.attn.o");
    options.type = MF_WEIGHT_Q4;
    expect_refused(path, &options, MF_E_RANGE, "layers.2.attn.o");
    options.role_type[MF_ROLE_ATTENTION] = MF_WEIGHT_BF16;
    convert(path, path, &options); /* that role alone did not fit */
    save_large(path, FLT_MAX);     /* which BF16 would round to infinity */
    options = options_of(MFK_BF16, 0, 0);
    expect_refused(path, &options, MF_E_RANGE, "layers.2.attn.o");
    fixture_remove(path);
}

Test(convert, options_that_make_no_sense_are_refused)
{
    char *path = fixture_path();
    save_fixture(&(fixture_variant){ .tied = true, .type = MFK_BF16 }, path);
    mf_convert_options options = options_of(MFK_U8, 0, 0);
    expect_refused(path, &options, MF_E_INVALID, "does not exist");
    options = options_of(MFK_F32, (mf_storage)3, 0);
    expect_refused(path, &options, MF_E_INVALID, "does not exist");
    options = options_of(MFK_F32, 0, (mf_shells)3);
    expect_refused(path, &options, MF_E_INVALID, "does not exist");
    options = options_of(0, 0, 0);
    options.role_type[MF_ROLE_ATTENTION] = (mf_weight_type)77;
    expect_refused(path, &options, MF_E_INVALID, "does not exist");
    options = options_of(0, 0, 0);
    options.role_type[MF_ROLE_OUTPUT] = MF_WEIGHT_Q8;
    expect_refused(path, &options, MF_E_INVALID, "its output matrix is the embedding");
    options = options_of(0, 0, 0);
    options.struct_size = 8;
    expect_refused(path, &options, MF_E_STRUCT_SIZE, "mf_convert_options");
    expect_refused("/nonexistent.mf", NULL, MF_E_NOT_FOUND, "/nonexistent.mf");
    fixture_remove(path);
}

Test(convert, files_that_would_lose_something_are_refused)
{
    char *path = fixture_path();
    size_t bytes;
    save_fixture(&(fixture_variant){ .tied = true, .type = MFK_BF16 }, path);
    unsigned char *whole = fixture_read(path, &bytes), *data = fixture_read(path, &bytes);
    mf_convert_options ffn = options_of(0, 0, 0);

    /* One matrix of another type: f16 takes the room of bf16. */
    find_entry(data, "layers.1.ffn.down", 1)->type = MFK_F16;
    fixup_checksums(data, bytes);
    write_file(path, data, bytes);
    expect_refused(path, &ffn, MF_E_UNSUPPORTED, "layers.1.ffn.down is of several types");
    ffn.role_type[MF_ROLE_FFN] = MF_WEIGHT_BF16;
    convert(path, path, &ffn);

    /* Of a role, though, matrices may be of several, and each keeps its own. */
    memcpy(data, whole, bytes);
    find_entry(data, "layers.1.attn.q", 0)->type = MFK_F16;
    fixup_checksums(data, bytes);
    write_file(path, data, bytes);
    char *to = fixture_path();
    mf_convert_report report = convert(path, to, NULL);
    cr_assert_eq(report.role[MF_ROLE_ATTENTION].types, 1u << MFK_F16 | 1u << MFK_BF16);
    cr_assert_eq(report.role[MF_ROLE_ATTENTION].type, MF_WEIGHT_KEEP);
    cr_assert_eq(report.role[MF_ROLE_ATTENTION].n_rounded, 0);
    cr_assert(same_file(path, to));
    fixture_remove(to);
    memcpy(data, whole, bytes);

    /* A tensor that the family does not have. */
    memcpy(data, whole, bytes);
    mfi_file_tensor *entry = find_entry(data, "tokenizer", 0);
    memcpy(entry + 1, "extension", 9);
    fixup_checksums(data, bytes);
    write_file(path, data, bytes);
    expect_refused(path, NULL, MF_E_UNSUPPORTED, "extension");

    /* The beginning of a file. */
    mfi_container *c = fixture_open(path);
    const mfi_region *narrower = mfi_container_region(c, mfi_container_region_count(c) - 2);
    write_file(path, whole, (size_t)(narrower->file_offset + narrower->stored_bytes));
    mfi_container_close(c);
    expect_refused(path, NULL, MF_E_FORMAT, "ends before shell 2 of 3");

    /* Weights that do not match their checksum, in a file of any size. */
    memcpy(data, whole, bytes);
    data[bytes - 1000] ^= 1;
    write_file(path, data, bytes);
    expect_refused(path, NULL, MF_E_CHECKSUM, "damaged");
    free(whole);
    free(data);
    fixture_remove(path);
}

Test(convert, null_is_refused_or_stands_for_what_the_header_says)
{
    char *path = fixture_path();
    save_fixture(&(fixture_variant){ .tied = true, .type = MFK_F32 }, path);
    mf_source *source = (void *)path;
    mf_source_info info = MF_SOURCE_INFO_INIT;
    mf_convert_report report = MF_CONVERT_REPORT_INIT;
    cr_assert_eq(mf_source_open(NULL, path, NULL, NULL), MF_E_INVALID);
    cr_assert(mf_source_open(&source, NULL, NULL, NULL) == MF_E_INVALID && !source);
    source = open_source(path);
    cr_assert_eq(mf_source_info_get(NULL, &info), MF_E_INVALID);
    cr_assert_eq(mf_source_info_get(source, NULL), MF_E_INVALID);
    cr_assert_eq(mf_convert(NULL, path, NULL, &report, NULL), MF_E_INVALID);
    cr_assert_eq(mf_convert(source, NULL, NULL, &report, NULL), MF_E_INVALID);
    cr_assert_eq(mf_convert(source, path, NULL, NULL, NULL), MF_OK);
    cr_assert_eq(mf_source_info_get(source, &info), MF_OK);
    cr_assert_str_eq(info.format, "mf");
    cr_assert(info.role[MF_ROLE_EMBEDDING].n_weight == 263 * 32 && info.role[MF_ROLE_OUTPUT].n_weight == 0);
    cr_assert_eq(info.role[MF_ROLE_FFN].types, 1u << MF_WEIGHT_F32);
    cr_assert(!mf_role_name((mf_role)MF_N_ROLE) && !mf_weight_type_name(MF_WEIGHT_KEEP) &&
              !mf_weight_type_name((mf_weight_type)MFK_U8));
    cr_assert_eq(mf_tools_version(), 1);
    mf_source_close(source);
    mf_source_close(NULL);
    fixture_remove(path);
}

/* ---- Interruption and memory ---- */

typedef struct watch {
    size_t calls, stop_at; /* the call that cancels; 0: none */
    uint64_t done, total;
} watch;

static int watch_progress(void *user, uint64_t done, uint64_t total)
{
    watch *w = user;
    cr_assert(done >= w->done && done <= total && (w->total == 0 || w->total == total));
    w->done = done;
    w->total = total;
    return ++w->calls == w->stop_at;
}

Test(convert, it_can_be_cancelled_at_any_call_of_progress_and_leaves_the_old_file)
{
    char *path = fixture_path();
    save_fixture(&(fixture_variant){ .type = MFK_F32, .storage = MFI_ZSTD }, path);
    size_t bytes;
    unsigned char *before = fixture_read(path, &bytes);
    mf_status status = MF_E_CANCELLED;
    size_t cancelled = 0;
    for (size_t n = 1; status != MF_OK; n++) {
        watch opening = { .stop_at = n }, writing = { 0 };
        mf_source_options open = MF_SOURCE_OPTIONS_INIT;
        mf_convert_options options = options_of(n % 2 ? MFK_Q4 : MFK_F32, MF_STORAGE_RAW, MF_SHELLS_SINGLE);
        mf_source *source;
        open.progress = options.progress = watch_progress;
        open.progress_user = &opening;
        options.progress_user = &writing;
        status = mf_source_open(&source, path, &open, NULL);
        if (status == MF_OK) {
            writing.stop_at = n - opening.calls;
            status = mf_convert(source, path, &options, NULL, NULL);
        }
        mf_source_close(source);
        cancelled += status == MF_E_CANCELLED;
        cr_assert(status == MF_E_CANCELLED || (writing.done == writing.total && writing.calls < n), "call %zu", n);
        if (status == MF_OK) break;
        size_t now;
        unsigned char *after = fixture_read(path, &now);
        cr_assert(now == bytes && memcmp(before, after, bytes) == 0, "call %zu", n);
        free(after);
    }
    cr_assert(cancelled > 20, "%zu", cancelled);
    free(before);
    fixture_remove(path); /* which finds a temporary file */
}

Test(convert, every_failing_allocation_is_reported_and_leaks_nothing)
{
    paths p = new_paths();
    char *to = fixture_path();
    for (int variant = 0; variant < 2; variant++) {
        save_fixture(&(fixture_variant){ .type = MFK_BF16, .storage = variant ? MFI_ZSTD : MFI_RAW }, p.from.text);
        mf_status status = MF_E_NOMEM;
        size_t refused = 0;
        for (size_t n = 1; status != MF_OK; n++) {
            counting counts = { .fail_at = n, .mutex = PTHREAD_MUTEX_INITIALIZER };
            mf_source_options open = MF_SOURCE_OPTIONS_INIT;
            mf_convert_options options = options_of(MFK_Q8, MF_STORAGE_ZSTD, MF_SHELLS_SINGLE);
            mf_error error = MF_ERROR_INIT;
            mf_source *source;
            open.allocator = counting_allocator(&counts);
            unlink(to);
            status = mf_source_open(&source, p.from.text, &open, &error);
            if (status == MF_OK) status = mf_convert(source, to, &options, NULL, &error);
            mf_source_close(source);
            cr_assert(status == MF_OK || (status == MF_E_NOMEM && error.detail[0]), "allocation %zu: %s", n,
                      error.detail);
            cr_assert_eq(counts.live_bytes, 0, "allocation %zu", n);
            cr_assert_eq(status == MF_OK, access(to, F_OK) == 0);
            refused += status != MF_OK;
        }
        cr_assert(refused > 50, "%zu", refused);
    }
    remove_paths(&p);
    fixture_remove(to);
}

/* ---- Any bytes ---- */

/* True when they were converted; what was written opens. */
static bool convert_bytes(const unsigned char *data, size_t bytes, const char *from, const char *to,
                          const mf_convert_options *options)
{
    hostile_memory memory = { 0, ((size_t)16 << 20) + 300 * bytes };
    mf_source_options open = MF_SOURCE_OPTIONS_INIT;
    mf_error error = MF_ERROR_INIT;
    mf_source *source;
    write_file(from, data, bytes);
    open.allocator = (mf_allocator){ hostile_alloc, hostile_free, &memory };
    mf_status status = mf_source_open(&source, from, &open, &error);
    if (status == MF_OK) status = mf_convert(source, to, options, NULL, &error);
    cr_assert(status == error.status && (status == MF_OK) == (error.detail[0] == '\0'));
    mf_source_close(source);
    cr_assert_eq(memory.live_bytes, 0);
    if (status == MF_OK) mf_source_close(open_source(to));
    return status == MF_OK;
}

Test(convert, damaged_files_give_a_status_or_a_file_that_opens)
{
    enum { MUTATIONS = 25 };
    paths p = new_paths();
    size_t converted = 0, refused = 0;
    for (uint32_t round = 0; round < test_rounds(10); round++) {
        size_t bytes;
        fixture_variant v = { round & 1, round & 2, round & 4, types[round % 5], round & 8 ? MFI_ZSTD : MFI_RAW };
        save_fixture(&v, p.from.text);
        unsigned char *whole = fixture_read(p.from.text, &bytes), *data = fixture_read(p.from.text, &bytes);
        for (uint32_t n = 0; n < MUTATIONS; n++) {
            uint64_t state = round * MUTATIONS + n;
            memcpy(data, whole, bytes);
            size_t length = hostile_mutate(&state, data, bytes);
            fixup_checksums(data, length);
            mf_convert_options options = options_of(types[n % 5], n & 1 ? MF_STORAGE_ZSTD : MF_STORAGE_RAW,
                                                    n & 2 ? MF_SHELLS_SINGLE : MF_SHELLS_NESTED);
            bool good = convert_bytes(data, length, p.from.text, p.to.text, &options);
            converted += good;
            refused += !good;
        }
        free(whole);
        free(data);
    }
    cr_assert(converted > 0 && refused > 0, "%zu converted, %zu refused", converted, refused);
    remove_paths(&p);
}

/* ---- Slices ---- */

static outputs run_text(const char *path, const char *text, uint64_t seed)
{
    mf_error error = MF_ERROR_INIT;
    mf_model *model = NULL;
    mf_submodel *view = NULL;
    rng r = { seed };
    cr_assert_eq(mf_model_open(&model, path, NULL, &error), MF_OK, "%s", error.detail);
    cr_assert_eq(mf_extract_submodel_text(&view, model, text, &error), MF_OK, "%s", error.detail);
    int32_t *tokens = new_tokens(model, 9, &r);
    outputs out = run_alone(model, view, tokens, 9);
    free(tokens);
    mf_submodel_close(view);
    mf_model_close(model);
    return out;
}

/* head_group was larger than the number of heads then, and the slice refused. */
Test(convert, a_slice_of_fewer_heads_than_share_keys_equals_the_view)
{
    static const char whole[] = GOLDEN_DIR "/checkpoints/llama_linear_f16";
    static const char *const views[] = { "XL;heads=2x2", "XL;heads=2x1,4x1", "XL" };
    for (size_t i = 0; i < MFI_COUNT(views); i++) {
        const temporary_path to = new_path();
        mf_convert_options options = MF_CONVERT_OPTIONS_INIT;
        options.submodel = views[i];
        convert(whole, to.text, &options);
        outputs expected = run_text(whole, views[i], 3), found = run_text(to.text, "XL", 3);
        cr_assert(same_bits(&expected, &found), "%s", views[i]);
        drop_outputs(&expected);
        drop_outputs(&found);
        remove(to.text);
    }
}
