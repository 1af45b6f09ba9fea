/* 08_image_features MODEL [IMAGE.ppm] - what an image encoder sees, at several widths in one batch.
 *
 * A ViT takes pixels instead of tokens. Its features are the class row's state after the last norm; here each width's are
 * compared with the widest's, and the likeliest class is named where the model has a classifier. Without an image, which
 * must have the model's own size, a drawn one is taken. */
#include <math.h>
#include <matformer.h>
#include <stdio.h>
#include <stdlib.h>

enum { N_WIDTH = 4 };
static const char *const widths[N_WIDTH] = { "0.25", "0.5", "0.75", "1" };

typedef struct encoder {
    mf_model_info info;
    mf_executor *executor;
    mf_session *sessions[N_WIDTH];
    mf_submodel *views[N_WIDTH];
    float *pixels;   /* [n_channel][image_size][image_size], -1 to 1 */
    float *features; /* [N_WIDTH][d_model] */
    float *logits;   /* [N_WIDTH][n_class] */
} encoder;

/* A binary PPM (P6) of just the model's size; or, without a path, rings of three colours. */
static int read_pixels(encoder *e, const char *path)
{
    const size_t side = e->info.image_size, plane = side * side, n_channel = e->info.n_channel;
    unsigned long width = 0, height = 0;
    FILE *file = path ? fopen(path, "rb") : NULL;
    if (path && !file) return 0;
    if (file && (fscanf(file, "P6 %lu %lu 255", &width, &height) != 2 || width != side || height != side)) {
        fclose(file);
        return 0;
    }
    if (file) fgetc(file);
    for (size_t i = 0; i < plane; i++)
        for (size_t c = 0; c < n_channel; c++) {
            const double x = (double)(i % side) - (double)side / 2, y = (double)(i / side) - (double)side / 2;
            const double byte = file ? (double)fgetc(file) : 127.5 + 127.5 * sin(hypot(x, y) / (1.0 + (double)c));
            e->pixels[c * plane + i] = (float)(byte / 127.5 - 1);
        }
    if (file) fclose(file);
    return 1;
}

static mf_status open_encoder(encoder *e, mf_model *model, mf_error *error)
{
    e->pixels = calloc((size_t)e->info.n_channel * e->info.image_size * e->info.image_size, sizeof(float));
    e->features = calloc(N_WIDTH * (size_t)e->info.d_model, sizeof(float));
    e->logits = calloc(N_WIDTH * (size_t)e->info.n_class + 1, sizeof(float));
    if (!e->pixels || !e->features || !e->logits) return MF_E_NOMEM;
    mf_status status = mf_executor_create(&e->executor, model, NULL, error);
    for (int i = 0; status == MF_OK && i < N_WIDTH; i++) {
        status = mf_session_create(&e->sessions[i], model, NULL, error);
        if (status == MF_OK) status = mf_extract_submodel_text(&e->views[i], model, widths[i], error);
    }
    return status;
}

/* The same image at all widths, as one batch: every shell of the weights is read once. */
static mf_status encode(encoder *e, mf_error *error)
{
    mf_request requests[N_WIDTH] = { { 0 } };
    for (size_t i = 0; i < N_WIDTH; i++) {
        requests[i].session = e->sessions[i];
        requests[i].submodel = e->views[i];
        requests[i].pixels = e->pixels;
        requests[i].hidden = e->features + i * e->info.d_model;
        requests[i].hidden_capacity = e->info.d_model;
        requests[i].logits = e->info.n_class > 0 ? e->logits + i * e->info.n_class : NULL;
        requests[i].logits_capacity = e->info.n_class;
    }
    return mf_forward(e->executor, requests, N_WIDTH, sizeof *requests, error);
}

static double cosine(const float *a, const float *b, size_t n)
{
    double ab = 0, aa = 0, bb = 0;
    for (size_t i = 0; i < n; i++) {
        ab += (double)a[i] * (double)b[i];
        aa += (double)a[i] * (double)a[i];
        bb += (double)b[i] * (double)b[i];
    }
    return ab / sqrt(aa * bb);
}

static void print_features(const encoder *e)
{
    const float *widest = e->features + (N_WIDTH - 1) * (size_t)e->info.d_model;
    for (size_t i = 0; i < N_WIDTH; i++) {
        const float *logits = e->logits + i * e->info.n_class;
        uint32_t best = 0;
        for (uint32_t c = 1; c < e->info.n_class; c++)
            if (logits[c] > logits[best]) best = c;
        printf("width %-5s %u features, cosine to the widest's %.4f", widths[i], (unsigned)e->info.d_model,
               cosine(e->features + i * e->info.d_model, widest, e->info.d_model));
        if (e->info.n_class > 0) printf(", class %u", (unsigned)best);
        printf("\n");
    }
}

int main(int argc, char **argv)
{
    mf_error error = MF_ERROR_INIT;
    mf_model *model = NULL;
    encoder e = { .info = MF_MODEL_INFO_INIT };
    if (argc != 2 && argc != 3) {
        fprintf(stderr, "usage: %s MODEL [IMAGE.ppm]\n", argv[0]);
        return 2;
    }
    mf_status status = mf_model_open(&model, argv[1], NULL, &error);
    if (status == MF_OK) status = mf_model_info_get(model, &e.info);
    if (status == MF_OK && e.info.image_size == 0) status = MF_E_UNSUPPORTED; /* a model of text */
    if (status == MF_OK) status = open_encoder(&e, model, &error);
    if (status == MF_OK && !read_pixels(&e, argc == 3 ? argv[2] : NULL)) status = MF_E_IO;
    if (status == MF_OK) status = encode(&e, &error);
    if (status == MF_OK) print_features(&e);
    if (status != MF_OK) fprintf(stderr, "%s\n", error.detail[0] ? error.detail : mf_status_text(status));
    for (int i = 0; i < N_WIDTH; i++) {
        mf_session_close(e.sessions[i]);
        mf_submodel_close(e.views[i]);
    }
    mf_executor_close(e.executor);
    mf_model_close(model);
    free(e.pixels);
    free(e.features);
    free(e.logits);
    return status != MF_OK;
}
