/* peer_dnnl.c - oneDNN 2.x's matmul. The option is a type:
 *
 *     f32     all f32
 *     bf16    A and W bf16, C f32
 *     s8      A u8, W s8, C s32, no scales: its dot products by themselves, more than a product of Q8 or Q4 can be
 *
 * W is brought once to the format that oneDNN likes best for these extents. Of bf16 and s8 A is the plugin's own, so
 * converting the caller's costs nothing. */
#include <dnnl.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "peer.h"

typedef struct peer_types {
    const char *option;
    dnnl_data_type_t a, w, c;
    float w_scale; /* of W in [-1, 1] */
} peer_types;

static const peer_types known_types[] = {
    { "f32", dnnl_f32, dnnl_f32, dnnl_f32, 1 },
    { "bf16", dnnl_bf16, dnnl_bf16, dnnl_f32, 1 },
    { "s8", dnnl_u8, dnnl_s8, dnnl_s32, 127 },
};

typedef struct peer {
    const peer_types *types;
    dnnl_engine_t engine;
    dnnl_stream_t stream;
    dnnl_primitive_desc_t description;
    dnnl_primitive_t matmul;
    dnnl_memory_t a, w, c;
    const char *kernels;
} peer;

/* Of OpenMP, which oneDNN may be built without. */
extern void omp_set_num_threads(int n) __attribute__((weak));

static bool describe(peer *p, const dnnl_memory_desc_t *a, const dnnl_memory_desc_t *c, int n, int k)
{
    const dnnl_dims_t extents = { k, n };
    dnnl_memory_desc_t w;
    dnnl_matmul_desc_t matmul;
    return dnnl_memory_desc_init_by_tag(&w, 2, extents, p->types->w, dnnl_format_tag_any) == dnnl_success &&
           dnnl_matmul_desc_init(&matmul, a, &w, NULL, c) == dnnl_success &&
           dnnl_primitive_desc_create(&p->description, &matmul, NULL, p->engine, NULL) == dnnl_success &&
           dnnl_primitive_desc_query(p->description, dnnl_query_impl_info_str, 0, &p->kernels) == dnnl_success &&
           dnnl_primitive_create(&p->matmul, p->description) == dnnl_success;
}

/* W[n][k], which is a matrix of k rows with strides. `memory` is the caller's floats. */
static bool reorder(const peer *p, const dnnl_memory_desc_t *from, dnnl_memory_t memory)
{
    const dnnl_memory_desc_t *to = dnnl_primitive_desc_query_md(p->description, dnnl_query_weights_md, 0);
    dnnl_primitive_attr_t scale = NULL;
    dnnl_primitive_desc_t description = NULL;
    dnnl_primitive_t primitive = NULL;
    const dnnl_exec_arg_t arguments[] = { { DNNL_ARG_FROM, memory }, { DNNL_ARG_TO, p->w } };
    const bool ok =
        dnnl_primitive_attr_create(&scale) == dnnl_success &&
        dnnl_primitive_attr_set_output_scales(scale, 1, 0, &p->types->w_scale) == dnnl_success &&
        dnnl_reorder_primitive_desc_create(&description, from, p->engine, to, p->engine, scale) == dnnl_success &&
        dnnl_primitive_create(&primitive, description) == dnnl_success &&
        dnnl_primitive_execute(primitive, p->stream, 2, arguments) == dnnl_success &&
        dnnl_stream_wait(p->stream) == dnnl_success;
    dnnl_primitive_destroy(primitive);
    dnnl_primitive_desc_destroy(description);
    dnnl_primitive_attr_destroy(scale);
    return ok;
}

static bool load_weights(peer *p, int n, int k, const float *w, int w_row_floats)
{
    const dnnl_dims_t extents = { k, n }, strides = { 1, w_row_floats };
    const dnnl_memory_desc_t *to = dnnl_primitive_desc_query_md(p->description, dnnl_query_weights_md, 0);
    dnnl_memory_desc_t from;
    dnnl_memory_t memory = NULL;
    union {
        const float *read;
        void *given; /* oneDNN takes what it only reads without const */
    } floats = { w };
    const bool ok = to && dnnl_memory_desc_init_by_strides(&from, 2, extents, dnnl_f32, strides) == dnnl_success &&
                    dnnl_memory_create(&memory, &from, p->engine, floats.given) == dnnl_success &&
                    dnnl_memory_create(&p->w, to, p->engine, DNNL_MEMORY_ALLOCATE) == dnnl_success &&
                    reorder(p, &from, memory);
    dnnl_memory_destroy(memory);
    return ok;
}

/* A of the plugin's own holds ordinary numbers: the byte 63 over and over is one in u8, and in bf16 0.746. */
static bool make_rows(peer *p, const dnnl_memory_desc_t *a, const dnnl_memory_desc_t *c)
{
    const bool own = p->types->a != dnnl_f32;
    void *data = NULL;
    if (dnnl_memory_create(&p->a, a, p->engine, own ? DNNL_MEMORY_ALLOCATE : DNNL_MEMORY_NONE) != dnnl_success ||
        dnnl_memory_create(&p->c, c, p->engine, DNNL_MEMORY_NONE) != dnnl_success)
        return false;
    if (own && dnnl_memory_get_data_handle(p->a, &data) != dnnl_success) return false;
    if (own) memset(data, 63, dnnl_memory_desc_get_size(a));
    return true;
}

static bool start(peer *p, int m, int n, int k, const float *w, int w_row_floats)
{
    const dnnl_dims_t a_extents = { m, k }, c_extents = { m, n };
    dnnl_memory_desc_t a, c;
    return dnnl_engine_create(&p->engine, dnnl_cpu, 0) == dnnl_success &&
           dnnl_stream_create(&p->stream, p->engine, dnnl_stream_default_flags) == dnnl_success &&
           dnnl_memory_desc_init_by_tag(&a, 2, a_extents, p->types->a, dnnl_ab) == dnnl_success &&
           dnnl_memory_desc_init_by_tag(&c, 2, c_extents, p->types->c, dnnl_ab) == dnnl_success &&
           describe(p, &a, &c, n, k) && load_weights(p, n, k, w, w_row_floats) && make_rows(p, &a, &c);
}

void *peer_open(const char *option, int n_thread, int m, int n, int k, const float *w, int w_row_floats)
{
    peer *p = calloc(1, sizeof(*p));
    for (size_t i = 0; p && i < sizeof(known_types) / sizeof(known_types[0]); i++)
        if (strcmp(option, known_types[i].option) == 0) p->types = &known_types[i];
    if (omp_set_num_threads) omp_set_num_threads(n_thread);
    if (p && p->types && start(p, m, n, k, w, w_row_floats)) return p;
    peer_close(p);
    return NULL;
}

void peer_run(void *handle, const float *a, float *c)
{
    const peer *p = handle;
    union {
        const float *read;
        void *given;
    } floats = { a };
    const dnnl_exec_arg_t arguments[] = { { DNNL_ARG_SRC, p->a }, { DNNL_ARG_WEIGHTS, p->w }, { DNNL_ARG_DST, p->c } };
    if (p->types->a == dnnl_f32) dnnl_memory_set_data_handle(p->a, floats.given);
    dnnl_memory_set_data_handle(p->c, c);
    dnnl_primitive_execute(p->matmul, p->stream, 3, arguments);
    dnnl_stream_wait(p->stream);
}

const char *peer_kernels(void *handle)
{
    const peer *p = handle;
    return p->kernels;
}

void peer_close(void *handle)
{
    peer *p = handle;
    if (!p) return;
    dnnl_memory_destroy(p->a);
    dnnl_memory_destroy(p->w);
    dnnl_memory_destroy(p->c);
    dnnl_primitive_destroy(p->matmul);
    dnnl_primitive_desc_destroy(p->description);
    dnnl_stream_destroy(p->stream);
    dnnl_engine_destroy(p->engine);
    free(p);
}
