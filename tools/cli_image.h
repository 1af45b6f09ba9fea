/* cli_image.h - images as a model takes them. */
#ifndef CLI_IMAGE_H
#define CLI_IMAGE_H

#include "cli.h"

/* Of one image's pixels [n_channel][image_size][image_size]. */
static inline size_t cli_pixels_bytes(const mf_model_info *model)
{
    return (size_t)model->n_channel * model->image_size * model->image_size * sizeof(float);
}

/* Reads a binary PPM (P6), whose bytes become -1 to 1, or a file that has the pixels themselves, as f32. */
mf_status cli_read_pixels(const mf_model_info *model, const char *path, float *pixels, mf_error *error);

#endif
