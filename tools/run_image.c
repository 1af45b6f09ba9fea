/* run_image.c - see run.h: an image through an encoder. */
#include <ctype.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "run.h"

#define DEFAULT_TOP 5u

typedef struct scored {
    uint32_t index;
    float logit;
    double probability;
} scored;

/* ---- Pixels ---- */

/* The next number of a PPM's header; comments run from '#' to the end of the line. -1: none. */
static long header_number(const char **at, const char *end)
{
    while (*at < end && (isspace((unsigned char)**at) || **at == '#')) {
        if (**at == '#')
            while (*at < end && **at != '\n')
                ++*at;
        else
            ++*at;
    }
    long value = -1;
    for (; *at < end && isdigit((unsigned char)**at) && value < 1000000; ++*at)
        value = 10 * (value < 0 ? 0 : value) + (**at - '0');
    return value;
}

/* Bytes of a binary PPM, in planes, from -1 to 1. */
static mf_status read_ppm(const run_state *run, const char *file, size_t bytes, float *pixels, mf_error *error)
{
    const char *at = file + 2, *end = file + bytes;
    const long size = (long)run->info.image_size;
    const long width = header_number(&at, end), height = header_number(&at, end), most = header_number(&at, end);
    if (width != size || height != size || most < 1 || most > 255 || run->info.n_channel != 3) {
        snprintf(error->detail, sizeof(error->detail),
                 "%s: %ld x %ld pixels up to %ld; the model takes %u channels of %ld x %ld, as bytes", run->image,
                 width, height, most, run->info.n_channel, size, size);
        return error->status = MF_E_INVALID;
    }
    const size_t n = (size_t)size * (size_t)size;
    if (at == end || (size_t)(end - at - 1) < 3 * n) {
        snprintf(error->detail, sizeof(error->detail), "%s: the file ends early", run->image);
        return error->status = MF_E_FORMAT;
    }
    at++;
    for (size_t i = 0; i < 3 * n; i++)
        pixels[i % 3 * n + i / 3] = 2 * (float)(unsigned char)at[i] / (float)most - 1;
    return MF_OK;
}

static mf_status read_pixels(const run_state *run, float **pixels, mf_error *error)
{
    size_t bytes;
    const size_t wanted = (size_t)run->info.n_channel * run->info.image_size * run->info.image_size * sizeof(**pixels);
    char *file = cli_read_file(run->image, &bytes, error);
    if (!file) return error->status;
    *pixels = malloc(wanted);
    if (!*pixels) {
        error->status = MF_E_NOMEM;
    } else if (bytes > 2 && memcmp(file, "P6", 2) == 0 && bytes != wanted) {
        read_ppm(run, file, bytes, *pixels, error);
    } else if (bytes == wanted) {
        memcpy(*pixels, file, wanted);
    } else {
        snprintf(error->detail, sizeof(error->detail),
                 "%s: %zu bytes; wanted is a binary PPM (P6), or %u planes of %u x %u f32: %zu bytes", run->image,
                 bytes, run->info.n_channel, run->info.image_size, run->info.image_size, wanted);
        error->status = MF_E_INVALID;
    }
    free(file);
    return error->status;
}

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
    float *pixels = NULL, *logits = malloc((n_class + 1) * sizeof(*logits));
    float *hidden = malloc(run->info.d_model * sizeof(*hidden));
    scored *classes = NULL;
    int exit_status = CLI_OK;
    mf_status status = logits && hidden ? read_pixels(run, &pixels, &error) : (error.status = MF_E_NOMEM);
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
