/* peer_matformer.c - our own kernels as a plugin, for programs that measure others'. The option is a type: f32, bf16,
 * f16, q8 or q4. k must be a multiple of 32. */
#include <stdlib.h>

#include "bench_product.h"
#include "peer.h"

typedef struct peer {
    bench_product *product;
    size_t m, n, k;
} peer;

void *peer_open(const char *option, int n_thread, int m, int n, int k, const float *w, int w_row_floats)
{
    mf_error error = MF_ERROR_INIT;
    peer *p = calloc(1, sizeof(*p));
    if (!p) return NULL;
    p->m = (size_t)m, p->n = (size_t)n, p->k = (size_t)k;
    if (bench_product_create(&p->product, option, (uint32_t)n_thread, p->m, p->n, p->k, w, (size_t)w_row_floats,
                             &error) == MF_OK)
        return p;
    peer_close(p);
    return NULL;
}

void peer_run(void *handle, const float *a, float *c)
{
    const peer *p = handle;
    bench_product_run(p->product, p->m, p->n, p->k, a, c);
}

const char *peer_kernels(void *handle)
{
    const peer *p = handle;
    return bench_product_cpu(p->product);
}

void peer_close(void *handle)
{
    peer *p = handle;
    if (!p) return;
    bench_product_free(p->product);
    free(p);
}
