/* cli_image.c - see cli_image.h */
#include "cli_image.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>

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
static mf_status read_ppm(const mf_model_info *model, const char *path, const char *file, size_t bytes, float *pixels,
                          mf_error *error)
{
    const char *at = file + 2, *end = file + bytes;
    const long size = (long)model->image_size;
    const long width = header_number(&at, end), height = header_number(&at, end), most = header_number(&at, end);
    if (width != size || height != size || most < 1 || most > 255 || model->n_channel != 3) {
        snprintf(error->detail, sizeof(error->detail),
                 "%s: %ld x %ld pixels up to %ld; the model takes %u channels of %ld x %ld, as bytes", path, width,
                 height, most, model->n_channel, size, size);
        return error->status = MF_E_INVALID;
    }
    const size_t n = (size_t)size * (size_t)size;
    if (at == end || (size_t)(end - at - 1) < 3 * n) {
        snprintf(error->detail, sizeof(error->detail), "%s: the file ends early", path);
        return error->status = MF_E_FORMAT;
    }
    at++;
    for (size_t i = 0; i < 3 * n; i++)
        pixels[i % 3 * n + i / 3] = 2 * (float)(unsigned char)at[i] / (float)most - 1;
    return MF_OK;
}

mf_status cli_read_pixels(const mf_model_info *model, const char *path, float *pixels, mf_error *error)
{
    size_t bytes;
    const size_t wanted = cli_pixels_bytes(model);
    char *file = cli_read_file(path, &bytes, error);
    if (!file) return error->status;
    mf_status status = MF_OK;
    if (bytes > 2 && memcmp(file, "P6", 2) == 0 && bytes != wanted) {
        status = read_ppm(model, path, file, bytes, pixels, error);
    } else if (bytes == wanted) {
        memcpy(pixels, file, wanted);
    } else {
        snprintf(error->detail, sizeof(error->detail),
                 "%s: %zu bytes; wanted is a binary PPM (P6), or %u planes of %u x %u f32: %zu bytes", path, bytes,
                 model->n_channel, model->image_size, model->image_size, wanted);
        status = error->status = MF_E_INVALID;
    }
    free(file);
    return status;
}
