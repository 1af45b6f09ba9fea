/* make_model.c - writes random models of real shapes, for benches and experiments:
 *
 *     make_model [--type TYPE] [--zstd] [--one-shell] [--seed N] [--layers N] [--d-model N] [--heads N]
 *                [--group N] [--d-head N] [--d-ff N] [--vocab N] SHAPE OUT.mf
 *
 * SHAPE is one of those in random_model.c; the other options change it. Granularities halve the width.
 * The weights are computed as they are written, so memory holds one tensor. */
#define _POSIX_C_SOURCE 200809L /* isatty */
#include "arena.h"
#include "defs.h"
#include "random_model.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef struct request {
    const char *path;
    random_shape shape;
    uint64_t seed;
    mfi_save_options save;
} request;

static int usage(void)
{
    fprintf(stderr, "usage: make_model [options] SHAPE OUT.mf\n\nshapes:");
    for (size_t i = 0; random_shape_at(i); i++)
        fprintf(stderr, " %s", random_shape_at(i)->name);
    fprintf(stderr, "\noptions: --type f32|bf16|f16|q8|q4 (bf16), --zstd, --one-shell, --seed N (1),\n"
                    "  --layers --d-model --heads --group --d-head --d-ff --vocab N (the shape's)\n");
    return 2;
}

/* Numbers that change the shape; they are set after SHAPE is known. */
static bool set_number(random_shape *shape, const char *name, const char *value)
{
    struct {
        const char *name;
        uint32_t *number;
    } options[] = { { "--layers", &shape->n_layer },   { "--d-model", &shape->d_model }, { "--heads", &shape->n_head },
                    { "--group", &shape->head_group }, { "--d-head", &shape->d_head },   { "--d-ff", &shape->d_ff },
                    { "--vocab", &shape->n_vocab } };
    char *end = NULL;
    unsigned long number = strtoul(value, &end, 10);
    if (*end || number == 0 || number >= 1u << 24) return false;
    for (size_t i = 0; i < MFI_COUNT(options); i++)
        if (strcmp(options[i].name, name) == 0) {
            *options[i].number = (uint32_t)number;
            return true;
        }
    return false;
}

/* The first walk finds the flags and SHAPE, the second applies what changes it. */
static bool parse(request *r, int argc, char **argv)
{
    const random_shape *shape = NULL;
    for (int i = 1; i < argc; i++) {
        const char *next = i + 1 < argc ? argv[i + 1] : NULL;
        if (strcmp(argv[i], "--zstd") == 0)
            r->save.storage = MFI_ZSTD;
        else if (strcmp(argv[i], "--one-shell") == 0)
            r->save.one_shell = true;
        else if (strcmp(argv[i], "--type") == 0 && next)
            r->save.type = mfk_type_named(argv[++i]);
        else if (strcmp(argv[i], "--seed") == 0 && next)
            r->seed = strtoull(argv[++i], NULL, 10);
        else if (argv[i][0] == '-' && next)
            i++;
        else if (argv[i][0] == '-' || r->path)
            return false;
        else if (shape)
            r->path = argv[i];
        else if (!(shape = random_shape_find(argv[i])))
            return false;
    }
    if (!r->path || r->save.type == 0) return false;
    r->shape = *shape;
    for (int i = 1; i < argc; i++) {
        bool flag = strcmp(argv[i], "--zstd") == 0 || strcmp(argv[i], "--one-shell") == 0;
        bool known = strcmp(argv[i], "--type") == 0 || strcmp(argv[i], "--seed") == 0;
        if (argv[i][0] != '-' || flag) continue;
        if (!known && !set_number(&r->shape, argv[i], argv[i + 1])) return false;
        i++;
    }
    return true;
}

/* Progress: the elements handed out so far, of those that the config has. */
typedef struct progress {
    mfi_weights weights;
    uint64_t done, total;
    unsigned percent;
} progress;

static mf_status read_and_show(void *user, const char *name, size_t row, size_t n_row, size_t column, size_t n_column,
                               float *out, mf_error *error)
{
    progress *p = user;
    p->done += (uint64_t)n_row * n_column;
    unsigned percent = (unsigned)(p->done * 100 / p->total);
    if (percent > p->percent && isatty(2)) {
        p->percent = percent;
        fprintf(stderr, "\r%3u %%", percent < 100 ? percent : 100);
    }
    return p->weights.read(p->weights.user, name, row, n_row, column, n_column, out, error);
}

static uint64_t count_weights(const mfi_config *c)
{
    const mfi_granularity *full = &c->granularity[c->n_granularity - 1];
    uint64_t total = (uint64_t)c->n_vocab * c->d_model * (c->tied ? 1 : 2);
    for (uint32_t l = 0; l < c->n_layer; l++) {
        uint64_t heads = 2 * (full->heads[l] + (uint64_t)mfi_kv_heads(full->heads[l], c->head_group));
        total += c->d_model * (heads * c->d_head + (c->ffn == MFI_FFN_GATED ? 3u : 2u) * (uint64_t)full->ffn[l]);
    }
    return total;
}

static mf_status make(const request *r, mf_error *error)
{
    random_model model;
    mf_status status = random_model_init_shape(&model, &r->shape, r->seed);
    if (status != MF_OK) return status;
    progress p = { .weights = random_model_weights(&model), .total = count_weights(&model.config) };
    mfi_weights weights = { read_and_show, &p };
    mf_allocator c_library = mfi_allocator(NULL);
    status = mfi_save(&model.config, &weights, &r->save, &c_library, r->path, error);
    if (status == MF_OK)
        fprintf(stderr, "%s%s: %.1f M parameters\n", isatty(2) ? "\r" : "", r->path, (double)p.total / 1e6);
    random_model_free(&model);
    return status;
}

int main(int argc, char **argv)
{
    request r = { .seed = 1, .save = { .type = MFK_BF16 } };
    mf_error error = MF_ERROR_INIT;
    if (!parse(&r, argc, argv)) return usage();
    mf_status status = make(&r, &error);
    if (status != MF_OK) fprintf(stderr, "make_model: %s\n", error.status ? error.detail : mf_status_text(status));
    return status != MF_OK;
}
