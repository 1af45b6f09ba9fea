/* peer_cblas.c - OpenBLAS or BLIS, or another library with cblas_sgemm(). The option is "openblas", "blis" or the
 * library's file. Both read OPENBLAS_CORETYPE and BLIS_ARCH_TYPE, which choose their kernels, when they are loaded; one
 * that is older than the processor takes slow ones without. */
#include <dlfcn.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "peer.h"

enum { ROW_MAJOR = 101, NOT_TRANSPOSED = 111, TRANSPOSED = 112 }; /* of cblas.h */

typedef void (*cblas_sgemm_fn)(int order, int trans_a, int trans_b, int m, int n, int k, float alpha, const float *a,
                               int lda, const float *b, int ldb, float beta, float *c, int ldc);
/* BLIS's own; its dim_t and inc_t have 64 bits. */
typedef void (*bli_sgemm_fn)(int trans_a, int trans_b, int64_t m, int64_t n, int64_t k, const float *alpha,
                             const float *a, int64_t rs_a, int64_t cs_a, const float *b, int64_t rs_b, int64_t cs_b,
                             const float *beta, float *c, int64_t rs_c, int64_t cs_c);

typedef struct peer {
    void *library;
    cblas_sgemm_fn cblas_sgemm;
    bli_sgemm_fn bli_sgemm; /* goes before */
    const char *kernels;
    const float *w; /* [n][w_row_floats] */
    int m, n, k, w_row_floats;
} peer;

/* A function pointer out of an object pointer, which ISO C does not convert. */
static void load_symbol(const peer *p, const char *name, void *function)
{
    void *symbol = dlsym(p->library, name);
    memcpy(function, &symbol, sizeof(symbol));
}

/* It stays loaded, since its threads may outlast a product. */
static void load_library(peer *p, const char *option)
{
    static const struct {
        const char *name, *file;
    } known[] = {
        { "blis", "libblis.so.4" },
        { "blis", "libblis.so" },
        { "openblas", "libopenblas.so.0" },
        { "openblas", "libopenblas.so" },
    };
    const int mode = RTLD_NOW | RTLD_LOCAL;
    for (size_t i = 0; i < sizeof(known) / sizeof(known[0]) && !p->library; i++)
        if (strcmp(option, known[i].name) == 0) p->library = dlopen(known[i].file, mode);
    if (!p->library && strchr(option, '.')) p->library = dlopen(option, mode);
}

static void start_blis(peer *p, int n_thread)
{
    void (*initialize)(void);
    void (*set_threads)(int64_t);
    int (*architecture)(void);
    const char *(*name)(int);
    load_symbol(p, "bli_init", &initialize);
    load_symbol(p, "bli_thread_set_num_threads", &set_threads);
    load_symbol(p, "bli_arch_query_id", &architecture);
    load_symbol(p, "bli_arch_string", &name);
    if (initialize) initialize(); /* or a query aborts where BLIS_ARCH_TYPE is set */
    if (set_threads) set_threads(n_thread);
    if (architecture && name) p->kernels = name(architecture());
}

static void start_openblas(peer *p, int n_thread)
{
    void (*set_threads)(int);
    char *(*name)(void);
    load_symbol(p, "openblas_set_num_threads", &set_threads);
    load_symbol(p, "openblas_get_corename", &name);
    if (set_threads) set_threads(n_thread);
    if (name) p->kernels = name();
}

void *peer_open(const char *option, int n_thread, int m, int n, int k, const float *w, int w_row_floats)
{
    peer *p = calloc(1, sizeof(*p));
    if (!p) return NULL;
    load_library(p, option);
    if (p->library) {
        load_symbol(p, "bli_sgemm", &p->bli_sgemm);
        load_symbol(p, "cblas_sgemm", &p->cblas_sgemm);
    }
    if (!p->bli_sgemm && !p->cblas_sgemm) {
        free(p);
        return NULL;
    }
    p->m = m, p->n = n, p->k = k;
    p->w = w;
    p->w_row_floats = w_row_floats;
    if (p->bli_sgemm)
        start_blis(p, n_thread);
    else
        start_openblas(p, n_thread);
    return p;
}

void peer_run(void *handle, const float *a, float *c)
{
    const peer *p = handle;
    const float one = 1, zero = 0;
    if (p->bli_sgemm)
        p->bli_sgemm(0, 0, p->m, p->n, p->k, &one, a, p->k, 1, p->w, 1, p->w_row_floats, &zero, c, p->n, 1);
    else
        p->cblas_sgemm(ROW_MAJOR, NOT_TRANSPOSED, TRANSPOSED, p->m, p->n, p->k, one, a, p->k, p->w, p->w_row_floats,
                       zero, c, p->n);
}

const char *peer_kernels(void *handle)
{
    const peer *p = handle;
    return p->kernels;
}

void peer_close(void *handle)
{
    free(handle);
}
