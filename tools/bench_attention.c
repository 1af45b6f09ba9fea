/* bench_attention.c - attention by itself: one layer, one sequence, through the executor that models run on, whose
 * program here has that one operation. Queries, keys and values are random. */
#include <stdlib.h>
#include <string.h>

#include "bench.h"
#include "bench_product.h"
#include "defs.h"
#include "executor.h"

enum { MAX_ROUND = 100, PREFILL_ROWS = 512, N_TYPE = MFI_N_CACHE_TYPE, N_TEAM = 2 };
static const uint32_t lengths[] = { 512, 4096, 32768 };
enum { N_LENGTH = 3, LONGEST = 32768, N_PAGE = LONGEST / MFK_PAGE };
static const char *const type_names[N_TYPE] = { "f32", "bf16", "q8" };

/* Keys and values of LONGEST positions. */
typedef struct cache {
    mfk_type type;
    size_t block_bytes;
    mfi_page_pool *pool;
    void *page[N_PAGE];
} cache;

/* Threads, and what they can do. */
typedef struct team {
    uint32_t n_thread;
    mf_executor *executor;
    bench_roof *roof;
} team;

typedef struct samples {
    double prefill[MAX_ROUND], peak[MAX_ROUND], decode[MAX_ROUND], read[BENCH_READS][MAX_ROUND];
} samples;

typedef struct runner {
    const bench *b;
    uint32_t n_kv;
    int n_length;   /* of `lengths`, that are measured */
    mf_model model; /* no more of one than a program needs */
    mf_submodel *view;
    int32_t tokens[PREFILL_ROWS]; /* an executor looks whether a row has one */
    cache cache[N_TYPE];
    team team[N_TEAM];
    uint32_t n_team;
    samples *samples; /* [n_team][N_TYPE][N_LENGTH] */
} runner;

/* ---- What is measured ---- */

static double cache_bytes(const runner *r, int type, uint32_t positions)
{
    return 2.0 * r->n_kv * (double)r->cache[type].block_bytes * positions / MFK_PAGE;
}

/* Multiply-adds count as two: a score and a weighted value for every number of a head and every key seen. */
static double operations(const runner *r, uint32_t first, uint32_t n_row)
{
    const double keys = (double)n_row * first + 0.5 * n_row * (n_row + 1.0);
    return 4.0 * r->b->attention.n_head * r->b->attention.d_head * keys;
}

/* Seconds for the rows at positions [first, first + n_row). */
static double attend(const runner *r, const team *t, int type, uint32_t first, uint32_t n_row)
{
    static const atomic_bool cancel = false;
    const cache *c = &r->cache[type];
    void *const *const slot = c->page;
    mf_executor *e = t->executor;
    e->n_request = 1;
    e->request[0] = (mfi_run_request){ .view = r->view,
                                       .position = first,
                                       .n_row = n_row,
                                       .tokens = r->tokens,
                                       .cache_type = c->type,
                                       .value_offset_bytes = r->n_kv * c->block_bytes,
                                       .pages = &slot,
                                       .out_begin = n_row,
                                       .cancel = &cancel };
    const double began = cli_now();
    mfi_batch_lay_out(e);
    mfi_run(e);
    return cli_now() - began;
}

/* The last rows of a prompt of so many positions, and the token behind it; each once before it counts, as the roof. */
static void measure(const runner *r, const team *t, int type, uint32_t positions, samples *s, uint32_t round)
{
    const size_t bytes = (size_t)cache_bytes(r, type, positions);
    s->peak[round] = bench_roof_fma(t->roof);
    s->prefill[round] = attend(r, t, type, positions - PREFILL_ROWS, PREFILL_ROWS);
    for (int i = 0; i < 2; i++)
        s->decode[round] = attend(r, t, type, positions - 1, 1);
    for (int i = 0; i < BENCH_READS; i++) {
        bench_roof_read(t->roof, bytes, bench_reads[i]);
        s->read[i][round] = bench_roof_read(t->roof, bytes, bench_reads[i]);
    }
}

/* ---- Making it ---- */

static float next_random(uint64_t *state)
{
    *state = *state * 6364136223846793005U + 1442695040888963407U;
    return (float)(int32_t)(*state >> 32) * 0x1p-31F;
}

static mf_status fill_cache(runner *r, int type, mf_error *error)
{
    cache *c = &r->cache[type];
    const size_t d_head = r->b->attention.d_head;
    uint64_t state = 1;
    float row[512];
    c->type = mfi_cache_element((mf_cache_type)type);
    c->block_bytes = mfk_cache_block_bytes(c->type, d_head);
    mf_status status = mfi_page_pool_create(&c->pool, &r->model.allocator, 2 * r->n_kv * c->block_bytes, 0);
    const uint32_t n_page = lengths[r->n_length - 1] / MFK_PAGE;
    if (status == MF_OK) status = mfi_page_pool_reserve(c->pool, n_page);
    if (status != MF_OK) return error->status = status;
    for (size_t p = 0; p < n_page; p++) {
        unsigned char *block = c->page[p] = mfi_page_pool_data(c->pool, mfi_page_pool_take(c->pool));
        for (uint32_t i = 0; i < 2 * r->n_kv; i++, block += c->block_bytes)
            for (size_t slot = 0; slot < MFK_PAGE; slot++) {
                for (size_t d = 0; d < d_head; d++)
                    row[d] = next_random(&state);
                (i < r->n_kv ? r->model.kernels.store_key : r->model.kernels.store_value)(c->type, d_head, row, block,
                                                                                          slot);
            }
    }
    return MF_OK;
}

/* What views are chosen from. */
static mf_status make_config(runner *r, mf_error *error)
{
    mfi_config *config = &r->model.config;
    *config = (mfi_config){
        .n_layer = 1, .n_granularity = 1, .d_head = r->model.program->d_head, .head_group = r->model.program->head_group
    };
    const mf_status status = mfi_config_alloc(config, &r->model.allocator, error);
    if (status != MF_OK) return status;
    config->granularity[0].ffn[0] = MFI_QUANTUM;
    config->granularity[0].heads[0] = r->b->attention.n_head;
    return MF_OK;
}

/* The program of one operation: queries in buffer 0 to results in buffer 1. */
static mf_status make_program(runner *r, mf_error *error)
{
    const bench_attention_shape *shape = &r->b->attention;
    const mfi_program_sizes sizes = { 1, 1, 2, 2, 1 };
    mfi_program *p;
    mf_status status = mfi_program_create(&p, &r->model.allocator, &sizes, error);
    if (status != MF_OK) return status;
    r->model.program = p;
    p->d_head = shape->d_head;
    p->head_group = shape->n_head / shape->n_kv_head;
    p->layer[0] = (mfi_layer){ MFI_QUANTUM, shape->n_head, false };
    p->shell_bound[0] = MFI_QUANTUM;
    const uint16_t q = mfi_program_buffer(p, MFI_ROWS_ATTN, shape->n_head * shape->d_head);
    const uint16_t out = mfi_program_buffer(p, MFI_ROWS_ATTN, shape->n_head * shape->d_head);
    mfi_program_attend(p, 0, 0, q, out, 0.125F, 0);
    status = mfi_program_finish(p, error);
    return status == MF_OK ? make_config(r, error) : status;
}

static mf_status make_team(runner *r, uint32_t n_thread, mf_error *error)
{
    const mf_executor_options options = { sizeof options, n_thread, PREFILL_ROWS, 1, 0, NULL, 0 };
    team *t = &r->team[r->n_team++];
    uint64_t state = 2;
    t->n_thread = n_thread;
    t->roof = bench_roof_create(n_thread, (size_t)cache_bytes(r, MF_CACHE_F32, lengths[r->n_length - 1]));
    if (!t->roof) return error->status = MF_E_NOMEM;
    mf_status status = mfi_executor_create(&t->executor, &r->model, &options, error);
    for (uint32_t row = 0; status == MF_OK && row < PREFILL_ROWS; row++)
        for (uint32_t i = 0; i < r->b->attention.n_head * r->b->attention.d_head; i++)
            mfi_row(t->executor, 0, 0, row)[i] = next_random(&state);
    return status;
}

static mf_status open_runner(runner *r, mf_error *error)
{
    mf_submodel_spec spec = MF_SUBMODEL_SPEC_INIT;
    spec.ratio = 1;
    r->n_kv = r->b->attention.n_kv_head;
    while (r->n_length < N_LENGTH && lengths[r->n_length] <= r->b->attention.n_position)
        r->n_length++;
    r->model.allocator = mfi_allocator(NULL);
    atomic_init(&r->model.references, 1);
    mf_status status = bench_kernel_table(&r->model.kernels, error);
    if (status != MF_OK) return status;
    r->samples = calloc((size_t)N_TEAM * N_TYPE * N_LENGTH, sizeof(*r->samples));
    if (!r->samples) return error->status = MF_E_NOMEM;
    status = make_program(r, error);
    if (status == MF_OK) status = mfi_submodel_create(&r->view, &r->model, &spec, error);
    for (int type = 0; type < N_TYPE && status == MF_OK; type++)
        status = fill_cache(r, type, error);
    if (status == MF_OK) status = make_team(r, 1, error);
    if (status == MF_OK && r->b->n_thread > 1) status = make_team(r, r->b->n_thread, error);
    return status;
}

static void close_runner(runner *r)
{
    for (uint32_t t = 0; t < r->n_team; t++) {
        mfi_executor_free(r->team[t].executor);
        bench_roof_free(r->team[t].roof);
    }
    mfi_submodel_free(r->view);
    for (int type = 0; type < N_TYPE; type++)
        mfi_page_pool_destroy(r->cache[type].pool);
    mfi_program_free(r->model.program);
    mfi_config_free(&r->model.config, &r->model.allocator);
    free(r->samples);
}

/* ---- The report ---- */

static void report_point(const runner *r, const team *t, int type, uint32_t positions, samples *s, cli_table *table,
                         json_t *list)
{
    const uint32_t rounds = r->b->rounds;
    const double prefill = bench_median(s->prefill, rounds), decode = bench_median(s->decode, rounds);
    const double rate = operations(r, positions - PREFILL_ROWS, PREFILL_ROWS) / prefill;
    const double peak = bench_median(s->peak, rounds), bytes = cache_bytes(r, type, positions);
    const double read = bench_least_median(s->read[0], BENCH_READS, MAX_ROUND, rounds), roof = bytes / read;
    const double arithmetic = operations(r, positions - 1, 1) / peak, bound = read > arithmetic ? read : arithmetic;
    cli_table_cell(table, "%u", t->n_thread);
    cli_table_cell(table, "%s", type_names[type]);
    cli_table_cell(table, "%u", positions);
    cli_table_cell(table, "%s", cli_seconds(prefill).text);
    cli_table_cell(table, "%.1f", 1e-9 * rate);
    cli_table_cell(table, "%.0f %%", 100 * rate / peak);
    cli_table_cell(table, "%s", cli_seconds(decode).text);
    cli_table_cell(table, "%.1f", 1e-9 * bytes / decode);
    cli_table_cell(table, "%.0f %%", 100 * bytes / decode / roof);
    cli_table_cell(table, "%.0f %%", 100 * bound / decode);
    json_array_append_new(list, json_pack("{s:i, s:s, s:i, s:f, s:f, s:f, s:f, s:f, s:f, s:f, s:f, s:f}", "threads",
                                          (int)t->n_thread, "cache", type_names[type], "positions", (int)positions,
                                          "prefill_seconds", prefill, "flops_per_second", rate, "peak_flops_per_second",
                                          peak, "share_of_peak", rate / peak, "decode_seconds", decode,
                                          "bytes_per_second", bytes / decode, "roof_bytes_per_second", roof,
                                          "share_of_roof", bytes / decode / roof, "share_of_bound", bound / decode));
}

static samples *samples_of(const runner *r, uint32_t t, int type, int length)
{
    return &r->samples[(t * N_TYPE + (uint32_t)type) * N_LENGTH + (uint32_t)length];
}

static void report(const runner *r, json_t *out)
{
    const bench_attention_shape *shape = &r->b->attention;
    cli_table *table = cli_table_create("threads|cache|positions|prefill|GFLOP/s|of peak|decode|GB/s|of roof|of bound");
    json_t *list = json_array(), *workspace = json_array();
    for (uint32_t t = 0; t < r->n_team; t++) {
        json_array_append_new(workspace, json_integer((json_int_t)r->team[t].executor->workspace_bytes));
        for (int type = 0; type < N_TYPE; type++)
            for (int l = 0; l < r->n_length; l++)
                report_point(r, &r->team[t], type, lengths[l], samples_of(r, t, type, l), table, list);
    }
    if (!r->b->json) {
        cli_table_print(table, stdout);
        printf("Workspace, at every length:");
        for (uint32_t t = 0; t < r->n_team; t++)
            printf(" %s with %u thread%s%s", cli_bytes((double)r->team[t].executor->workspace_bytes).text,
                   r->team[t].n_thread, r->team[t].n_thread == 1 ? "" : "s", t + 1 < r->n_team ? "," : ".\n");
    }
    cli_table_free(table);
    json_object_set_new(out, "attention",
                        json_pack("{s:i, s:i, s:i, s:i, s:o, s:o}", "heads", (int)shape->n_head, "kv_heads",
                                  (int)shape->n_kv_head, "d_head", (int)shape->d_head, "prefill_rows", PREFILL_ROWS,
                                  "workspace_bytes", workspace, "points", list));
}

mf_status bench_attention(const bench *b, json_t *out, mf_error *error)
{
    const uint32_t rounds = b->rounds;
    runner *r = calloc(1, sizeof(*r));
    if (!r) return error->status = MF_E_NOMEM;
    r->b = b;
    bench_title(b,
                "Attention: %u heads of %u, %u of keys and values. Prefill: the last %d rows of so many positions, "
                "against f32 multiply-adds; decode: one more, against reading the cache and against the slower of "
                "reading it and its own multiply-adds; with %s",
                b->attention.n_head, b->attention.d_head, b->attention.n_kv_head, PREFILL_ROWS, bench_roof_cpu());
    mf_status status = open_runner(r, error);
    for (uint32_t round = 0; round < rounds && status == MF_OK; round++)
        for (uint32_t t = 0; t < r->n_team; t++)
            for (int type = 0; type < N_TYPE; type++) {
                cli_progress("attention", (round * r->n_team + t) * N_TYPE + (uint32_t)type,
                             rounds * r->n_team * N_TYPE);
                for (int l = 0; l < r->n_length; l++)
                    measure(r, &r->team[t], type, lengths[l], samples_of(r, t, type, l), round);
            }
    cli_progress_end();
    if (status == MF_OK) report(r, out);
    close_runner(r);
    free(r);
    return status;
}
