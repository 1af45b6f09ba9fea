/* bench_kernels.h - a contest of matrix products: what bench_kernels.c measures and bench_kernels_report.c prints. */
#ifndef BENCH_KERNELS_H
#define BENCH_KERNELS_H

#include "bench.h"
#include "bench_peers.h"
#include "bench_product.h"

enum { MAX_ROUND = 100, MAX_SIDE = 1 + BENCH_MAX_PEER };

/* Ours, or a peer. */
typedef struct side {
    void *peer;       /* of one point */
    bool takes_part;  /* a peer may not know a product, or lack its library */
    char kernels[64]; /* "": it did not say */
    int repeats;      /* in a turn */
    double seconds[MAX_ROUND];
    double ratio[MAX_ROUND]; /* its seconds to ours */
} side;

typedef struct contest {
    const bench *b;
    const char *type, *cpu; /* cpu: whose kernels are ours */
    bool in_bytes;          /* the type computes with bytes, others in f32 */
    bench_peers peers;
    bench_roof *roof;
    bench_product *product; /* the matrix at full width */
    float *w, *a, *c, *c_peer;
    side sides[MAX_SIDE]; /* ours is the first */
    double peak[MAX_ROUND], share[MAX_ROUND];
    cli_table *table;
    json_t *list;
} contest;

typedef struct point {
    const char *matrix; /* "2048x5632 up" */
    uint32_t divisor;   /* of the width */
    size_t m, n, k, w_row_floats;
} point;

/* The table of one shape, its line of one point, which also goes to the list, and printing it. */
cli_table *bench_kernels_table(const contest *t);
void bench_kernels_report(contest *t, const point *p);
void bench_kernels_print(contest *t);

#endif
