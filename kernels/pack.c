/* pack.c - into the panel layout and back. */
#include "pack.h"

#include <stdbool.h>
#include <string.h>

#include "quantize.h"

static const char *const type_names[] = {
    [MFK_F32] = "f32", [MFK_BF16] = "bf16", [MFK_F16] = "f16", [MFK_Q8] = "q8", [MFK_Q4] = "q4", [MFK_U8] = "u8"
};

const char *mfk_type_name(mfk_type type)
{
    return (size_t)type < sizeof type_names / sizeof *type_names ? type_names[type] : NULL;
}

mfk_type mfk_type_named(const char *name)
{
    for (mfk_type type = MFK_F32; type <= MFK_U8; type++)
        if (strcmp(type_names[type], name) == 0) return type;
    return (mfk_type)0;
}

static size_t element_bytes(mfk_type type)
{
    return type == MFK_F32 ? 4 : type == MFK_BF16 || type == MFK_F16 ? 2 : 0;
}

static size_t block_bytes(mfk_type type)
{
    return type == MFK_Q8 ? MFK_Q8_BLOCK_BYTES : MFK_Q4_BLOCK_BYTES;
}

size_t mfk_head_bytes(mfk_type type)
{
    return type == MFK_Q4 ? MFK_LINE : 0;
}

size_t mfk_panel_bytes(mfk_type type, size_t k)
{
    size_t blocks = k / MFK_BLOCK + (k % MFK_BLOCK != 0);
    size_t most = MFK_BLOCK * MFK_NR * sizeof(float); /* of a block */
    if (blocks > SIZE_MAX / most) return 0;
    if (mfk_type_quantized(type)) return (blocks + 1) / 2 * MFK_LINE + blocks * block_bytes(type);
    return blocks * MFK_BLOCK * MFK_NR * element_bytes(type);
}

size_t mfk_panels_bytes(mfk_type type, size_t n, size_t k)
{
    size_t panel = mfk_panel_bytes(type, k), head = mfk_head_bytes(type);
    size_t n_panel = n / MFK_NR + (n % MFK_NR != 0);
    return panel == 0 || n_panel > (SIZE_MAX - head) / panel ? 0 : n_panel * panel + head;
}

uint64_t mfk_weights_bytes(mfk_type type, uint64_t n, uint64_t k)
{
    uint64_t blocks = k / MFK_BLOCK + (k % MFK_BLOCK != 0);
    if (mfk_type_quantized(type)) return n * blocks * (block_bytes(type) / MFK_NR + sizeof(uint16_t));
    return n * k * element_bytes(type);
}

/* ---- F32, BF16, F16 ---- */

/* Where output `j` of a panel keeps its element `k`, in elements. */
static size_t place(mfk_type type, size_t j, size_t k)
{
    switch (type) {
    case MFK_BF16:
        return (k / 2 * MFK_NR + j) * 2 + k % 2;
    default:
        return k * MFK_NR + j;
    }
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

static void pack_panel_f16(size_t live, size_t k, const float *rows, size_t row_floats, uint16_t *panel)
{
    for (size_t i = 0; i < k; i++)
        for (size_t j = 0; j < MFK_NR; j++)
            *panel++ = j < live ? mfk_f32_to_f16(rows[j * row_floats + i]) : 0;
}

/* ---- Q8, Q4 ---- */

/* The codes of output `j`, block at `codes`. */
static void place_codes(mfk_type type, const uint8_t code[MFK_BLOCK], unsigned char *codes, size_t j)
{
    for (size_t i = 0; i < MFK_BLOCK; i++) {
        if (type == MFK_Q8)
            codes[(i / 4 * MFK_NR + j) * 4 + i % 4] = code[i];
        else
            codes[(i / 8 * MFK_NR + j) * 4 + i % 4] |= (unsigned char)(code[i] << (i % 8 / 4 * 4));
    }
}

static void take_codes(mfk_type type, const unsigned char *codes, size_t j, uint8_t code[MFK_BLOCK])
{
    for (size_t i = 0; i < MFK_BLOCK; i++) {
        if (type == MFK_Q8)
            code[i] = codes[(i / 4 * MFK_NR + j) * 4 + i % 4];
        else
            code[i] = codes[(i / 8 * MFK_NR + j) * 4 + i % 4] >> (i % 8 / 4 * 4) & 15u;
    }
}

/* Scales of a panel's block: of Q8 an f16 for output `j`, of Q4 a byte for each half. */
static void pack_block(mfk_type type, const int8_t *table, const float x[MFK_BLOCK], unsigned char *scales,
                       unsigned char *codes, size_t j)
{
    uint8_t code[MFK_BLOCK];
    if (type == MFK_Q8) {
        mfk_quantize_q8(x, code, (uint16_t *)(void *)scales + j);
    } else {
        mfk_quantize_q4(table, x, code, scales + j);
        mfk_quantize_q4(table, x + MFK_Q4_BLOCK, code + MFK_Q4_BLOCK, scales + MFK_NR + j);
    }
    place_codes(type, code, codes, j);
}

static void unpack_block(mfk_type type, const int8_t *table, const unsigned char *scales, const unsigned char *codes,
                         size_t j, float x[MFK_BLOCK])
{
    uint8_t code[MFK_BLOCK];
    take_codes(type, codes, j, code);
    for (size_t i = 0; i < MFK_BLOCK; i++) {
        if (type == MFK_Q8)
            x[i] = mfk_f16_to_f32(((const uint16_t *)(const void *)scales)[j]) * (float)(code[i] - 128);
        else
            x[i] = mfk_q4_scale(scales[i / MFK_Q4_BLOCK * MFK_NR + j], table[MFK_Q4_BIAS_AT]) * (float)table[code[i]];
    }
}

static void pack_panel_quantized(mfk_type type, const int8_t *table, size_t live, size_t k, const float *rows,
                                 size_t row_floats, unsigned char *panel)
{
    memset(panel, 0, mfk_panel_bytes(type, k));
    for (size_t block = 0; block * MFK_BLOCK < k; block++) {
        size_t inputs = k - block * MFK_BLOCK < MFK_BLOCK ? k - block * MFK_BLOCK : MFK_BLOCK;
        for (size_t j = 0; j < MFK_NR; j++) {
            float x[MFK_BLOCK] = { 0 };
            if (j < live) memcpy(x, rows + j * row_floats + block * MFK_BLOCK, inputs * sizeof *x);
            pack_block(type, table, x, panel + mfk_scales_at(block_bytes(type), block),
                       panel + mfk_block_at(block_bytes(type), block), j);
        }
    }
}

static void unpack_quantized(mfk_type type, const int8_t *table, size_t j, size_t k, const unsigned char *panel,
                             float *row)
{
    for (size_t block = 0; block * MFK_BLOCK < k; block++) {
        size_t inputs = k - block * MFK_BLOCK < MFK_BLOCK ? k - block * MFK_BLOCK : MFK_BLOCK;
        float x[MFK_BLOCK];
        unpack_block(type, table, panel + mfk_scales_at(block_bytes(type), block),
                     panel + mfk_block_at(block_bytes(type), block), j, x);
        memcpy(row + block * MFK_BLOCK, x, inputs * sizeof *x);
    }
}

/* ---- All ---- */

void mfk_pack(mfk_type type, const int8_t *table, size_t n, size_t k, const float *b, size_t b_row_floats, void *panels,
              size_t stride_bytes)
{
    size_t bytes = mfk_panel_bytes(type, k), packed = type == MFK_F32 ? k * 64 : (k + 1) / 2 * 64;
    for (size_t first = 0; first < n; first += MFK_NR) {
        size_t live = n - first < MFK_NR ? n - first : MFK_NR;
        unsigned char *panel = (unsigned char *)panels + first / MFK_NR * stride_bytes;
        const float *rows = b + first * b_row_floats;
        if (mfk_type_quantized(type)) {
            pack_panel_quantized(type, table, live, k, rows, b_row_floats, panel);
            continue;
        }
        memset(panel + packed - MFK_LINE, 0, bytes - packed + MFK_LINE); /* an odd k leaves half a line */
        if (type == MFK_F32)
            pack_panel_f32(live, k, rows, b_row_floats, (float *)(void *)panel);
        else if (type == MFK_BF16)
            pack_panel_bf16(live, k, rows, b_row_floats, (uint16_t *)(void *)panel);
        else
            pack_panel_f16(live, k, rows, b_row_floats, (uint16_t *)(void *)panel);
    }
}

static float element(mfk_type type, const void *panel, size_t at)
{
    switch (type) {
    case MFK_BF16:
        return mfk_bf16_to_f32(((const uint16_t *)panel)[at]);
    case MFK_F16:
        return mfk_f16_to_f32(((const uint16_t *)panel)[at]);
    default:
        return ((const float *)panel)[at];
    }
}

void mfk_unpack_row(mfk_type type, const int8_t *table, size_t k, const void *panels, size_t stride_bytes, size_t index,
                    float *row)
{
    const void *panel = (const char *)panels + index / MFK_NR * stride_bytes;
    size_t j = index % MFK_NR;
    if (mfk_type_quantized(type)) {
        unpack_quantized(type, table, j, k, panel, row);
        return;
    }
    for (size_t i = 0; i < k; i++)
        row[i] = element(type, panel, place(type, j, i));
}

void mfk_unpack(mfk_type type, const int8_t *table, size_t n, size_t k, const void *panels, size_t stride_bytes,
                float *b, size_t b_row_floats)
{
    for (size_t j = 0; j < n; j++)
        mfk_unpack_row(type, table, k, panels, stride_bytes, j, b + j * b_row_floats);
}

/* ---- Rows ---- */

size_t mfk_row_bytes(mfk_type type, size_t k)
{
    size_t blocks = k / MFK_BLOCK + (k % MFK_BLOCK != 0), bytes;
    if (blocks > SIZE_MAX / (MFK_BLOCK * sizeof(float)) - 1) return 0;
    if (mfk_type_quantized(type))
        bytes = blocks * ((type == MFK_Q8 ? MFK_BLOCK : MFK_BLOCK / 2u) + sizeof(uint16_t));
    else
        bytes = k * element_bytes(type);
    return (bytes + MFK_LINE - 1) / MFK_LINE * MFK_LINE;
}

/* Of a block: its codes, and its scales, two bytes. */
static void pack_row_quantized(mfk_type type, const int8_t *table, size_t k, const float *x, unsigned char *row)
{
    size_t blocks = (k + MFK_BLOCK - 1) / MFK_BLOCK, code_bytes = type == MFK_Q8 ? MFK_BLOCK : MFK_BLOCK / 2;
    for (size_t block = 0; block < blocks; block++) {
        size_t inputs = k - block * MFK_BLOCK < MFK_BLOCK ? k - block * MFK_BLOCK : MFK_BLOCK;
        unsigned char *codes = row + block * code_bytes, *scales = row + blocks * code_bytes + block * 2;
        float part[MFK_BLOCK] = { 0 };
        uint8_t code[MFK_BLOCK];
        memcpy(part, x + block * MFK_BLOCK, inputs * sizeof *part);
        if (type == MFK_Q8) {
            mfk_quantize_q8(part, code, (uint16_t *)(void *)scales);
        } else {
            mfk_quantize_q4(table, part, code, scales);
            mfk_quantize_q4(table, part + MFK_Q4_BLOCK, code + MFK_Q4_BLOCK, scales + 1);
        }
        for (size_t i = 0; i < code_bytes; i++)
            codes[i] = type == MFK_Q8 ? code[i] : (unsigned char)(code[i] | code[i + code_bytes] << 4);
    }
}

static void unpack_row_quantized(mfk_type type, const int8_t *table, size_t k, const unsigned char *row, size_t column,
                                 size_t n, float *x)
{
    size_t blocks = (k + MFK_BLOCK - 1) / MFK_BLOCK, code_bytes = type == MFK_Q8 ? MFK_BLOCK : MFK_BLOCK / 2;
    const unsigned char *scales = row + blocks * code_bytes;
    for (size_t i = column; i < column + n; i++, x++) {
        size_t block = i / MFK_BLOCK, at = i % MFK_BLOCK;
        unsigned code = row[block * code_bytes + at % code_bytes];
        if (type == MFK_Q8)
            *x = mfk_f16_to_f32(((const uint16_t *)(const void *)scales)[block]) * (float)((int)code - 128);
        else
            *x = mfk_q4_scale(scales[block * 2 + at / MFK_Q4_BLOCK], table[MFK_Q4_BIAS_AT]) *
                 (float)table[at < code_bytes ? code & 15u : code >> 4];
    }
}

void mfk_pack_table_row(mfk_type type, const int8_t *table, size_t k, const float *x, void *row)
{
    memset(row, 0, mfk_row_bytes(type, k));
    if (mfk_type_quantized(type)) {
        pack_row_quantized(type, table, k, x, row);
        return;
    }
    for (size_t i = 0; i < k; i++) {
        if (type == MFK_F32)
            ((float *)row)[i] = x[i];
        else
            ((uint16_t *)row)[i] = type == MFK_BF16 ? mfk_f32_to_bf16(x[i]) : mfk_f32_to_f16(x[i]);
    }
}

void mfk_unpack_table_columns(mfk_type type, const int8_t *table, size_t k, const void *row, size_t column, size_t n,
                              float *x)
{
    if (mfk_type_quantized(type)) {
        unpack_row_quantized(type, table, k, row, column, n, x);
        return;
    }
    for (size_t i = 0; i < n; i++)
        x[i] = element(type, row, column + i);
}

void mfk_unpack_table_row(mfk_type type, const int8_t *table, size_t k, const void *row, float *x)
{
    mfk_unpack_table_columns(type, table, k, row, 0, k, x);
}

void mfk_place_q8(void *panel, size_t block, size_t j, const uint8_t code[MFK_BLOCK], uint16_t scale)
{
    unsigned char *bytes = panel;
    place_codes(MFK_Q8, code, bytes + mfk_block_at(MFK_Q8_BLOCK_BYTES, block), j);
    memcpy(bytes + mfk_scales_at(MFK_Q8_BLOCK_BYTES, block) + j * sizeof scale, &scale, sizeof scale);
}

void mfk_place_q8_row(void *row, size_t k, size_t block, const uint8_t code[MFK_BLOCK], uint16_t scale)
{
    unsigned char *bytes = row;
    const size_t blocks = (k + MFK_BLOCK - 1) / MFK_BLOCK;
    memcpy(bytes + block * MFK_BLOCK, code, MFK_BLOCK);
    memcpy(bytes + blocks * MFK_BLOCK + block * sizeof scale, &scale, sizeof scale);
}

void mfk_copy_blocks(mfk_type type, const void *from, size_t from_block, void *to, size_t to_block, size_t n_block)
{
    const unsigned char *source = from;
    unsigned char *target = to;
    if (!mfk_type_quantized(type)) {
        const size_t bytes = MFK_BLOCK * MFK_NR * element_bytes(type);
        memcpy(target + to_block * bytes, source + from_block * bytes, n_block * bytes);
        return;
    }
    const size_t bytes = block_bytes(type);
    for (size_t i = 0; i < n_block; i++) {
        memcpy(target + mfk_block_at(bytes, to_block + i), source + mfk_block_at(bytes, from_block + i), bytes);
        memcpy(target + mfk_scales_at(bytes, to_block + i), source + mfk_scales_at(bytes, from_block + i),
               MFK_LINE / 2);
    }
}
