/* Attention of a batch, however it is cut into tiles and spans for the threads, against the kernel over each row by
 * itself. Positions are many and pages few: the tables name the same pages again and again. */
#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

#include "cpu.h"
#include "defs.h"
#include "executor.h"
#include "run_model.h"

enum { N_PAGE = 7, MAX_REQUEST = 3, MAX_ROW = 6, MAX_POSITION = 40000, MAX_HEAD = 12, D_MAX = 64 };

typedef struct stage {
    mf_model model;
    mf_submodel *view;
    size_t n_head, d_head, n_kv;
    uint32_t window;
    uint16_t q, out;
    unsigned char *pages[N_PAGE];
    void **table; /* [pages of MAX_POSITION] */
    uint32_t n_request, position[MAX_REQUEST], n_row[MAX_REQUEST];
    mfk_type type;
    size_t block_bytes;
} stage;

static float random_float(rng *r)
{
    return (float)(int32_t)rng_next(r) * 0x1p-30f;
}

static void make_program(stage *s, uint32_t group)
{
    const mfi_program_sizes sizes = { 1, 1, 2, 2, 1 };
    mfi_program *p;
    cr_assert_eq(mfi_program_create(&p, &s->model.allocator, &sizes, NULL), MF_OK);
    s->model.program = p;
    p->d_head = (uint32_t)s->d_head;
    p->head_group = group;
    p->layer[0] = (mfi_layer){ MFI_QUANTUM, (uint32_t)s->n_head, false };
    s->model.config =
        (mfi_config){ .n_layer = 1, .n_granularity = 1, .d_head = (uint32_t)s->d_head, .head_group = group };
    cr_assert_eq(mfi_config_alloc(&s->model.config, &s->model.allocator, NULL), MF_OK);
    s->model.config.granularity[0].ffn[0] = MFI_QUANTUM;
    s->model.config.granularity[0].heads[0] = (uint32_t)s->n_head;
    p->shell_bound[0] = MFI_QUANTUM;
    s->q = mfi_program_buffer(p, MFI_ROWS_ATTN, (uint32_t)(s->n_head * s->d_head));
    s->out = mfi_program_buffer(p, MFI_ROWS_ATTN, (uint32_t)(s->n_head * s->d_head));
    mfi_program_attend(p, 0, 0, s->q, s->out, 0.3f, s->window);
    cr_assert_eq(mfi_program_finish(p, NULL), MF_OK);
}

static void fill_pages(stage *s, rng *r)
{
    float row[D_MAX];
    for (size_t p = 0; p < N_PAGE; p++) {
        unsigned char *block = s->pages[p] = aligned_alloc(64, 2 * s->n_kv * s->block_bytes);
        cr_assert(block != NULL);
        for (size_t i = 0; i < 2 * s->n_kv; i++, block += s->block_bytes)
            for (size_t slot = 0; slot < MFK_PAGE; slot++) {
                for (size_t d = 0; d < s->d_head; d++)
                    row[d] = random_float(r);
                (i < s->n_kv ? s->model.kernels.store_key : s->model.kernels.store_value)(s->type, s->d_head, row,
                                                                                          block, slot);
            }
    }
    s->table = calloc(mfi_round_up(MAX_POSITION, MFK_PAGE) / MFK_PAGE, sizeof *s->table);
    for (size_t p = 0; p * MFK_PAGE < MAX_POSITION; p++)
        s->table[p] = s->pages[rng_below(r, N_PAGE)];
}

static void open_stage(stage *s, uint32_t round, rng *r)
{
    static const mfk_type types[] = { MFK_F32, MFK_BF16, MFK_Q8 };
    static const uint32_t lengths[] = { 900, 1024, 1030, 5000, 17000, MAX_POSITION - MAX_ROW };
    mf_submodel_spec spec = { .struct_size = sizeof spec, .ratio = 1 };
    *s = (stage){ .type = types[round % 3], .n_request = rng_between(r, 1, MAX_REQUEST) };
    s->model.allocator = mfi_allocator(NULL);
    atomic_init(&s->model.references, 1);
    mfk_table_init(&s->model.kernels, mfk_cpu_detect());
    s->n_head = rng_between(r, 1, MAX_HEAD / 2) * 2;
    s->d_head = 16 * rng_between(r, 1, D_MAX / 16);
    s->window = rng_below(r, 2) ? rng_between(r, 1, 30000) : 0;
    const uint32_t group = rng_between(r, 1, (uint32_t)s->n_head);
    s->n_kv = mfi_kv_heads((uint32_t)s->n_head, group);
    s->block_bytes = mfk_cache_block_bytes(s->type, s->d_head);
    make_program(s, group);
    cr_assert_eq(mfi_submodel_create(&s->view, &s->model, &spec, NULL), MF_OK);
    fill_pages(s, r);
    for (uint32_t i = 0; i < s->n_request; i++) {
        s->position[i] = rng_between(r, 0, lengths[rng_below(r, 6)]);
        s->n_row[i] = rng_between(r, 1, MAX_ROW);
    }
}

static void close_stage(stage *s)
{
    mfi_submodel_free(s->view);
    mfi_program_free(s->model.program);
    mfi_config_free(&s->model.config, &s->model.allocator);
    for (size_t p = 0; p < N_PAGE; p++)
        free(s->pages[p]);
    free(s->table);
}

/* One row and head by itself. */
static void alone(const stage *s, uint32_t position, size_t head, const float *q, float *out)
{
    static _Alignas(64) unsigned char scratch[MFK_SCRATCH_BYTES];
    const size_t kv_head = head / s->model.program->head_group;
    const uint32_t end = position + 1, begin = s->window != 0 && end > s->window ? end - s->window : 0;
    const mfk_attend_args args = { .n_row = 1,
                                   .d_head = s->d_head,
                                   .type = s->type,
                                   .scale = 0.3f,
                                   .q = &q,
                                   .out = &out,
                                   .key_begin = &begin,
                                   .key_end = &end,
                                   .pages = (const void *const *)s->table,
                                   .k_offset_bytes = kv_head * s->block_bytes,
                                   .v_offset_bytes = (s->n_kv + kv_head) * s->block_bytes,
                                   .scratch = scratch };
    s->model.kernels.attend(&args);
}

static void run_and_compare(stage *s, uint32_t n_thread, rng *r)
{
    const mf_executor_options options = { sizeof options, n_thread, MAX_REQUEST * MAX_ROW, MAX_REQUEST, 0, NULL, 0 };
    static const atomic_bool cancel = false;
    static const int32_t tokens[MAX_ROW];
    void *const *const pages = s->table;
    mf_executor *e;
    cr_assert_eq(mfi_executor_create(&e, &s->model, &options, NULL), MF_OK);
    for (uint32_t i = 0; i < s->n_request; i++)
        e->request[i] = (mfi_run_request){ .view = s->view,
                                           .position = s->position[i],
                                           .n_row = s->n_row[i],
                                           .tokens = tokens,
                                           .cache_type = s->type,
                                           .value_offset_bytes = s->n_kv * s->block_bytes,
                                           .pages = &pages,
                                           .cancel = &cancel };
    e->n_request = s->n_request;
    for (size_t row = 0; row < MAX_REQUEST * MAX_ROW; row++)
        for (size_t i = 0; i < s->n_head * s->d_head; i++)
            mfi_row(e, 0, s->q, row)[i] = random_float(r);
    mfi_batch_lay_out(e);
    mfi_run(e);
    for (uint32_t i = 0; i < s->n_request; i++)
        for (uint32_t row = 0; row < s->n_row[i]; row++)
            for (size_t head = 0; head < s->n_head; head++) {
                const size_t at = e->request[i].first_row + row;
                float expected[D_MAX];
                alone(s, s->position[i] + row, head, mfi_row(e, 0, s->q, at) + head * s->d_head, expected);
                cr_assert(memcmp(mfi_row(e, 0, s->out, at) + head * s->d_head, expected, s->d_head * sizeof(float)) ==
                              0,
                          "%u threads, type %d, window %u, request %u at %u, row %u, head %zu", n_thread, (int)s->type,
                          s->window, i, s->position[i], row, head);
            }
    mfi_executor_free(e);
}

Test(attend, a_row_is_the_same_however_positions_are_split)
{
    static const uint32_t threads[] = { 1, 2, 3, 8 };
    for (uint32_t round = 0; round < test_rounds(18); round++) {
        rng r = { 1000 + round };
        stage s;
        open_stage(&s, round, &r);
        for (size_t t = 0; t < sizeof threads / sizeof threads[0]; t++)
            run_and_compare(&s, threads[t], &r);
        close_stage(&s);
    }
}
