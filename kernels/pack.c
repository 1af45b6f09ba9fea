/* pack.c - into the panel layout and back. */
#include "pack.h"

#include <string.h>

static size_t element_bytes(mfk_type type)
{
    return type == MFK_F32 ? 4 : type == MFK_BF16 ? 2 : 0;
}

size_t mfk_panel_bytes(mfk_type type, size_t k)
{
    if (k > SIZE_MAX - MFK_K_ALIGN) return 0;
    size_t padded = (k + MFK_K_ALIGN - 1) / MFK_K_ALIGN * MFK_K_ALIGN;
    size_t row = MFK_NR * element_bytes(type);
    return row == 0 || padded > SIZE_MAX / row ? 0 : padded * row;
}

size_t mfk_panels_bytes(mfk_type type, size_t n, size_t k)
{
    size_t panel = mfk_panel_bytes(type, k);
    size_t n_panel = n / MFK_NR + (n % MFK_NR != 0);
    return panel == 0 || n_panel > SIZE_MAX / panel ? 0 : n_panel * panel;
}

/* Where output `j` of a panel keeps its element `k`. */
static size_t place(mfk_type type, size_t j, size_t k)
{
    return type == MFK_BF16 ? (k / 2 * MFK_NR + j) * 2 + k % 2 : k * MFK_NR + j;
}

/* One k after the other, so that the panel is written as it lies; outputs beyond `live` are zeros. */
static void pack_panel_f32(size_t live, size_t k, const float *rows, size_t row_floats, float *panel)
{
    for (size_t i = 0; i < k; i++)
        for (size_t j = 0; j < MFK_NR; j++)
            *panel++ = j < live ? rows[j * row_floats + i] : 0.0f;
}

static void pack_panel_bf16(size_t live, size_t k, const float *rows, size_t row_floats, uint16_t *panel)
{
    for (size_t i = 0; i < k; i += 2)
        for (size_t j = 0; j < MFK_NR; j++)
            for (size_t pair = i; pair < i + 2; pair++)
                *panel++ = j < live && pair < k ? mfk_f32_to_bf16(rows[j * row_floats + pair]) : 0;
}

void mfk_pack(mfk_type type, size_t n, size_t k, const float *b, size_t b_row_floats, void *panels, size_t stride_bytes)
{
    size_t bytes = mfk_panel_bytes(type, k), packed = type == MFK_BF16 ? (k + 1) / 2 * 64 : k * 64;
    for (size_t first = 0; first < n; first += MFK_NR) {
        size_t live = n - first < MFK_NR ? n - first : MFK_NR;
        char *panel = (char *)panels + first / MFK_NR * stride_bytes;
        if (type == MFK_BF16)
            pack_panel_bf16(live, k, b + first * b_row_floats, b_row_floats, (uint16_t *)(void *)panel);
        else
            pack_panel_f32(live, k, b + first * b_row_floats, b_row_floats, (float *)(void *)panel);
        memset(panel + packed, 0, bytes - packed);
    }
}

void mfk_unpack(mfk_type type, size_t n, size_t k, const void *panels, size_t stride_bytes, float *b,
                size_t b_row_floats)
{
    for (size_t j = 0; j < n; j++) {
        const void *panel = (const char *)panels + j / MFK_NR * stride_bytes;
        const float *f32 = panel;
        const uint16_t *bf16 = panel;
        for (size_t i = 0; i < k; i++) {
            size_t at = place(type, j % MFK_NR, i);
            b[j * b_row_floats + i] = type == MFK_BF16 ? mfk_bf16_to_f32(bf16[at]) : f32[at];
        }
    }
}
