/* bench_product.h - one of our matrix products as benchmarks see it: a matrix that is packed once as a file stores it,
 * and prefixes of it multiplied on several threads. */
#ifndef BENCH_PRODUCT_H
#define BENCH_PRODUCT_H

#include "kernel.h"
#include "matformer.h"

typedef struct bench_product bench_product;

/* The exact kernels of this processor, or of the lower level that MF_CPU names. */
mf_status bench_kernel_table(mfk_table *table, mf_error *error);

/* In huge pages where granted, as a model's weights; to be freed. NULL: no memory. */
void *bench_allocate(size_t count, size_t bytes);

/* W[n][k], rows w_row_floats apart; k is a multiple of 32. `type`: "f32", "bf16", "f16", "q8" or "q4". The panels have
 * the strides of w_row_floats inputs, as if W were a prefix of so many. `m` rows at most are multiplied. MF_CPU limits
 * the kernels. */
mf_status bench_product_create(bench_product **out, const char *type, uint32_t n_thread, size_t m, size_t n, size_t k,
                               const float *w, size_t w_row_floats, mf_error *error);
void bench_product_free(bench_product *product);

/* C[m][n] = A[m][k] * W[n][k]^T with the first n outputs and k inputs; rows of A are k apart, those of C n. Activations
 * are quantized where the weights are. */
void bench_product_run(bench_product *product, size_t m, size_t n, size_t k, const float *a, float *c);

const char *bench_product_cpu(const bench_product *product); /* the level of the kernels */
double bench_product_weight_bytes(const bench_product *product, size_t n, size_t k);

#endif
