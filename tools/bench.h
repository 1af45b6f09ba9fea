/* bench.h - what the benchmarks share. Each measures the two sides of a ratio in turn, several times, and
 * reports medians, so that a machine that slows down slows both. */
#ifndef BENCH_H
#define BENCH_H

#include "cli_model.h"

typedef struct bench_attention_shape {
    uint32_t n_head, n_kv_head, d_head;
    uint32_t n_position; /* most that are measured, at least 512 */
} bench_attention_shape;

typedef struct bench_shape {
    uint32_t n_layer, d_model, n_head, head_group, d_head, d_ff, n_vocab;
    const char *type; /* of the matrices, "bf16" */
} bench_shape;

/* What `kernels` measures. */
typedef struct bench_products {
    const bench_shape *shapes; /* [n_shape]; of each the two matrices of the FFN */
    size_t n_shape;
    const char *type; /* NULL: in turn */
    uint32_t rows;    /* 0: in turn */
    bool quick;
    cli_list peers; /* NAME=PATH[:OPTION] */
} bench_products;

enum { BENCH_MOST_WIDTHS = 64 };

typedef struct bench {
    const char *path;  /* of the model; NULL until one is made */
    uint32_t n_thread; /* at least 1 */
    uint32_t rounds;   /* measurements of each point */
    uint32_t n_width;  /* of decode and prefill: 1/n to n/n of d_ff; at most BENCH_MOST_WIDTHS */
    bool copy;         /* load the weights to memory rather than map them */
    bool json;
    int arithmetic; /* mf_arithmetic to open the model for */
    bench_attention_shape attention;
    bench_products products;
    double target, phase_seconds; /* of governor: tokens per second of a session, 0: found out; of each load */
    cli_list drafts,
        texts; /* of `speculate`: sizes and files; none: all that are narrower, and beginnings of its own */
    const char *draft_tokens; /* "1,2,4"; NULL: the usual */
    double temperature;
    mf_model *model; /* NULL for the kernels */
    mf_model_info info;
} bench;

/* Each prints a table, or adds to the object `out`. */
mf_status bench_views(const bench *b, json_t *out, mf_error *error);
mf_status bench_decode(const bench *b, json_t *out, mf_error *error);
mf_status bench_prefill(const bench *b, json_t *out, mf_error *error);
mf_status bench_mixed(const bench *b, json_t *out, mf_error *error);
mf_status bench_switch(const bench *b, json_t *out, mf_error *error);
mf_status bench_speculate(const bench *b, json_t *out, mf_error *error);
mf_status bench_attention(const bench *b, json_t *out, mf_error *error);
mf_status bench_governor(const bench *b, json_t *out, mf_error *error);
mf_status bench_kernels(const bench *b, json_t *out, mf_error *error);
mf_status bench_train(const bench *b, json_t *out, mf_error *error);

/* Sorts `values`. */
double bench_median(double *values, size_t n);
/* The least of the medians of `rows` rows of n values, `stride` apart. */
double bench_least_median(double *values, size_t rows, size_t stride, size_t n);
void bench_title(const bench *b, const char *format, ...) CLI_PRINTF(2, 3);

/* ---- A model to measure ---- */

/* Writes a random model with granularities at 1/8, 1/4, 1/2 and 1 of d_ff. MF_E_CANCELLED, and no file, after a
 * signal that cli_interrupt_begin() receives. */
mf_status bench_model_write(const bench_shape *shape, const char *path, mf_error *error);

/* ---- What the machine can do: threads that run a plain loop at once ---- */

typedef struct bench_roof bench_roof;

/* `bytes`: the largest buffer to be read, in 2 MiB pages where granted. NULL: no memory. */
bench_roof *bench_roof_create(uint32_t n_thread, size_t bytes);
void bench_roof_free(bench_roof *roof);
/* Ways to read. What is best differs between processors, sizes and hours. */
typedef struct bench_read {
    int n_stream;
    size_t ahead; /* bytes ahead that are prefetched; 0: none */
} bench_read;
enum { BENCH_READS = 6 };
static const bench_read bench_reads[BENCH_READS] = {
    { 1, 0 }, { 4, 0 }, { 8, 0 }, { 1, 2048 }, { 4, 2048 }, { 8, 2048 }
};

/* Seconds to read the first `bytes` bytes once, each thread its part. */
double bench_roof_read(bench_roof *roof, size_t bytes, bench_read how);
/* Operations per second of all threads together, a multiply-add counting as two: in f32, of bytes summed exactly, and of
 * bf16 pairs; 0 where there is no instruction for these. */
double bench_roof_fma(bench_roof *roof);
double bench_roof_dot(bench_roof *roof);
double bench_roof_pairs(bench_roof *roof);
const char *bench_roof_cpu(void); /* the instructions that they use */

#endif
