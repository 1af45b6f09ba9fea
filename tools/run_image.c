/* run_image.c - see run.h: an image through an encoder. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "cli_image.h"
#include "run.h"

#define DEFAULT_TOP 5u

typedef struct scored {
    uint32_t index;
    float logit;
    double probability;
} scored;

/* ---- Results ---- */

static int by_logit(const void *a, const void *b)
{
    const scored *x = a, *y = b;
    if (x->logit != y->logit) return x->logit < y->logit ? 1 : -1;
    return x->index < y->index ? -1 : 1;
}

/* [n_class] best first, to be freed. */
static scored *rank(const float *logits, uint32_t n_class)
{
    scored *classes = malloc((n_class + 1) * sizeof(*classes));
    double sum = 0;
    if (!classes) return NULL;
    for (uint32_t i = 0; i < n_class; i++)
        classes[i] = (scored){ i, logits[i], 0 };
    qsort(classes, n_class, sizeof(*classes), by_logit);
    for (uint32_t i = 0; i < n_class; i++)
        sum += exp((double)classes[i].logit - (double)classes[0].logit);
    for (uint32_t i = 0; i < n_class; i++)
        classes[i].probability = exp((double)classes[i].logit - (double)classes[0].logit) / sum;
    return classes;
}

static double norm_of(const float *x, uint32_t n)
{
    double sum = 0;
    for (uint32_t i = 0; i < n; i++)
        sum += (double)x[i] * (double)x[i];
    return sqrt(sum);
}

static int print_json(const run_state *run, const scored *classes, uint32_t n, double norm, double seconds)
{
    json_t *list = json_array();
    for (uint32_t i = 0; i < n; i++)
        json_array_append_new(list, json_pack("{s:i, s:f, s:f}", "class", (int)classes[i].index, "logit",
                                              (double)classes[i].logit, "probability", classes[i].probability));
    return cli_print_json(json_pack("{s:o, s:o, s:o, s:o, s:f, s:f}", "file", cli_json_string(run->path), "size",
                                    cli_json_string(run->size), "image", cli_json_string(run->image), "classes", list,
                                    "hidden_norm", norm, "seconds", seconds));
}

static void print_text(const run_state *run, const scored *classes, uint32_t n, double norm, double seconds)
{
    if (n > 0) {
        cli_table *table = cli_table_create("class|probability|logit");
        for (uint32_t i = 0; i < n; i++) {
            cli_table_cell(table, "%u", classes[i].index);
            cli_table_cell(table, "%.4f", classes[i].probability);
            cli_table_cell(table, "%.4f", (double)classes[i].logit);
        }
        cli_table_print(table, stdout);
        cli_table_free(table);
    } else {
        printf("no classes; the class row's state has the norm %.6g\n", norm);
    }
    if (!run->quiet) fprintf(stderr, "[%s]\n", cli_seconds(seconds).text);
}

/* ---- Running ---- */

static mf_status encode(run_state *run, const float *pixels, float *logits, float *hidden, double *seconds,
                        mf_error *error)
{
    mf_executor_options executor_options = MF_EXECUTOR_OPTIONS_INIT;
    mf_session_options session_options = MF_SESSION_OPTIONS_INIT;
    const uint32_t side = run->info.image_size / run->info.patch_size, rows = 1 + side * side;
    executor_options.n_thread = run->n_thread;
    executor_options.max_requests = 1;
    executor_options.max_tokens = session_options.max_positions = rows;
    session_options.cache_type = (mf_cache_type)run->cache_type;
    mf_status status = mf_session_create(&run->session, run->model, &session_options, error);
    if (status == MF_OK) status = mf_executor_create(&run->executor, run->model, &executor_options, error);
    if (status != MF_OK) return status;
    mf_request request = { .session = run->session,
                           .submodel = run->view,
                           .pixels = pixels,
                           .logits = run->info.n_class > 0 ? logits : NULL,
                           .logits_capacity = run->info.n_class,
                           .hidden = hidden,
                           .hidden_capacity = run->info.d_model };
    const double begin = cli_now();
    status = mf_forward(run->executor, &request, 1, sizeof(request), error);
    *seconds = cli_now() - begin;
    return status;
}

int run_image(run_state *run)
{
    mf_error error = MF_ERROR_INIT;
    const uint32_t n_class = run->info.n_class, top = run->top > 0 ? run->top : DEFAULT_TOP;
    const uint32_t n = top < n_class ? top : n_class;
    double seconds = 0;
    float *pixels = malloc(cli_pixels_bytes(&run->info)), *logits = malloc((n_class + 1) * sizeof(*logits));
    float *hidden = malloc(run->info.d_model * sizeof(*hidden));
    scored *classes = NULL;
    int exit_status = CLI_OK;
    mf_status status = pixels && logits && hidden ? MF_OK : (error.status = MF_E_NOMEM);
    if (status == MF_OK) status = cli_read_pixels(&run->info, run->image, pixels, &error);
    if (status == MF_OK) status = encode(run, pixels, logits, hidden, &seconds, &error);
    if (status == MF_OK && !(classes = rank(logits, n_class))) status = error.status = MF_E_NOMEM;
    if (status != MF_OK)
        exit_status = cli_fail(&error);
    else if (run->json)
        exit_status = print_json(run, classes, n, norm_of(hidden, run->info.d_model), seconds);
    else
        print_text(run, classes, n, norm_of(hidden, run->info.d_model), seconds);
    free(classes);
    free(pixels);
    free(logits);
    free(hidden);
    return exit_status;
}
