/* model_weights.c - the weights of an open model as savers and the trainer ask for them: by the names of
 * model_config.h, gathered from the shells and widened from the panels. Where a saver wants a tensor in the type that
 * the file has it in, its blocks move as they are. The model was compiled, so extents, kinds and types are those that
 * the configuration asks for. */
#include <stdio.h>
#include <string.h>

#include "defs.h"
#include "model.h"
#include "schema.h"
#include "status.h"

/* ---- Where a matrix lies ---- */

typedef struct place {
    char stored[64]; /* the name of its tensors */
    uint32_t layer, n_shell;
    bool ffn, along_k;       /* cut into shells; along the inputs */
    size_t matrix, n_matrix; /* which of so many that are interleaved */
} place;

static place find_place(const mf_model *model, const char *name)
{
    place p = { .n_shell = 1, .n_matrix = 1 };
    unsigned layer = 0;
    char part[16] = "";
    const bool in_ffn = sscanf(name, "layers.%u.ffn.%15s", &layer, part) == 2 && layer < model->config.n_layer;
    const bool up = strcmp(part, "up") == 0, gate = strcmp(part, "gate") == 0;
    p.ffn = in_ffn && (up || gate || strcmp(part, "down") == 0);
    snprintf(p.stored, sizeof p.stored, "%s", name);
    if (!p.ffn) return p;
    p.layer = layer;
    p.n_shell = model->residency.n_shell;
    p.along_k = strcmp(part, "down") == 0;
    if (model->config.ffn == MFI_FFN_GATED && (up || gate)) {
        p.n_matrix = 2;
        p.matrix = up;
        snprintf(p.stored, sizeof p.stored, "layers.%u.ffn.gate_up", layer);
    }
    return p;
}

static size_t row_count(const mfi_tensor *tensor)
{
    return tensor->kind == MFI_PLAIN ? 1 : (size_t)tensor->n;
}

static size_t column_count(const mfi_tensor *tensor)
{
    return (size_t)(tensor->kind == MFI_PLAIN ? tensor->n : tensor->k);
}

/* What one shell holds of a range of hidden units (or of rows, where there are no shells). */
typedef struct share {
    const mfi_tensor *tensor;
    size_t at;     /* from there on in the tensor */
    size_t offset; /* in the range */
    size_t count;  /* 0: nothing */
} share;

static share find_share(const mf_model *model, const place *p, uint32_t shell, size_t first, size_t count)
{
    share s = { .tensor = mfi_container_find(model->container, p->stored, shell) };
    if (!s.tensor) return s;
    const uint32_t *bound = model->program->shell_bound + p->layer;
    const size_t begin = shell > 0 ? bound[(shell - 1) * model->program->n_layer] : 0;
    const size_t end = p->ffn ? bound[shell * model->program->n_layer] : row_count(s.tensor);
    const size_t from = mfi_max(first, begin), to = mfi_min(first + count, end);
    if (from >= to) return s;
    s.at = from - begin;
    s.offset = from - first;
    s.count = to - from;
    return s;
}

/* ---- Widened to f32 ---- */

typedef struct window { /* of a tensor */
    size_t row, n_row, column, n_column;
} window;

static void read_panels(const mfi_tensor *tensor, const place *p, window w, float *out, size_t out_floats)
{
    enum { CHUNK = 256 }; /* inputs: whole pairs of blocks, at which a panel can be entered */
    float chunk[CHUNK];
    const size_t panel = mfk_panel_bytes(tensor->type, (size_t)tensor->k), end = w.column + w.n_column;
    const unsigned char *panels = mfi_tensor_body(tensor) + p->matrix * panel;
    for (size_t k = w.column / CHUNK * CHUNK; k < end; k += CHUNK) {
        const size_t from = mfi_max(k, w.column), to = mfi_min(k + CHUNK, end);
        for (size_t i = 0; i < w.n_row; i++) {
            mfk_unpack_row(tensor->type, mfi_tensor_table(tensor), to - k, panels + mfk_panel_bytes(tensor->type, k),
                           p->n_matrix * panel, w.row + i, chunk);
            memcpy(out + i * out_floats + (from - w.column), chunk + (from - k), (to - from) * sizeof *chunk);
        }
    }
}

static void read_table(const mfi_tensor *tensor, window w, float *out, size_t out_floats)
{
    const size_t k = (size_t)tensor->k, row_bytes = mfk_row_bytes(tensor->type, k);
    for (size_t i = 0; i < w.n_row; i++)
        mfk_unpack_table_columns(tensor->type, mfi_tensor_table(tensor), k,
                                 mfi_tensor_body(tensor) + (w.row + i) * row_bytes, w.column, w.n_column,
                                 out + i * out_floats);
}

/* False where the tensor has no such window. */
static bool read_window(const mfi_tensor *tensor, const place *p, window w, float *out, size_t out_floats)
{
    const size_t rows = row_count(tensor), columns = column_count(tensor);
    if (w.n_row > rows || w.row > rows - w.n_row || w.n_column > columns || w.column > columns - w.n_column)
        return false;
    if (tensor->kind == MFI_PANEL) {
        read_panels(tensor, p, w, out, out_floats);
        return true;
    }
    if (tensor->kind == MFI_TABLE) {
        read_table(tensor, w, out, out_floats);
        return true;
    }
    if (tensor->kind != MFI_PLAIN || tensor->type != MFK_F32) return false;
    memcpy(out, (const float *)tensor->data + w.column, w.n_column * sizeof *out);
    return true;
}

static mf_status read_weights(void *user, const char *name, size_t row, size_t n_row, size_t column, size_t n_column,
                              float *out, mf_error *error)
{
    const mf_model *model = user;
    const place p = find_place(model, name);
    const size_t first = p.along_k ? column : row, count = p.along_k ? n_column : n_row;
    size_t found = 0;
    for (uint32_t shell = 0; shell < p.n_shell; shell++) {
        const share s = find_share(model, &p, shell, first, count);
        if (s.count == 0) continue;
        if (!s.tensor->data)
            return mfi_fail(error, MF_E_FORMAT, "%s: the file ends before shell %u, which %s needs",
                            mfi_container_name(model->container), shell, name);
        const window w =
            p.along_k ? (window){ row, n_row, s.at, s.count } : (window){ s.at, s.count, column, n_column };
        if (!read_window(s.tensor, &p, w, out + s.offset * (p.along_k ? 1 : n_column), n_column)) break;
        found += s.count;
    }
    if (found == count) return MF_OK;
    return mfi_fail(error, MF_E_NOT_FOUND, "%s: it has no %s of that size", mfi_container_name(model->container), name);
}

/* ---- As they are ---- */

static place place_of(const mf_model *model, const mfi_schema_tensor *is)
{
    return find_place(model, is->matrix[0]);
}

static bool same_layout(const mfi_tensor *a, const mfi_tensor *b)
{
    return a->kind == b->kind && a->n == b->n && a->k == b->k && a->panels == b->panels;
}

/* The FFN's tensors may be cut into other shells than the file's; those that meet in one must have one type and table. */
static bool has_tensor(void *user, const mfi_schema_tensor *is, const mfi_tensor *tensor, size_t first,
                       unsigned char head[MFK_LINE])
{
    const mf_model *model = user;
    const place p = place_of(model, is);
    const size_t head_bytes = mfk_head_bytes(tensor->type), width = (size_t)(p.along_k ? tensor->k : tensor->n);
    const void *table = NULL;
    for (uint32_t shell = 0; shell < p.n_shell; shell++) {
        const share s = find_share(model, &p, shell, first, width);
        if (s.count == 0) continue;
        if (s.tensor->type != tensor->type || !s.tensor->data) return false;
        if (!p.ffn && !same_layout(s.tensor, tensor)) return false;
        if (table && memcmp(table, s.tensor->data, head_bytes) != 0) return false;
        table = s.tensor->data;
    }
    if (table) memcpy(head, table, head_bytes);
    return table != NULL;
}

/* Inputs of one panel, from every shell that has some. */
static void copy_along_k(const mf_model *model, const place *p, const mfi_tensor *tensor, size_t first, size_t group,
                         unsigned char *panel)
{
    for (uint32_t shell = 0; shell < p->n_shell; shell++) {
        const share s = find_share(model, p, shell, first, (size_t)tensor->k);
        if (s.count == 0) continue;
        const unsigned char *from =
            mfi_tensor_body(s.tensor) + group * mfk_panel_bytes(s.tensor->type, (size_t)s.tensor->k);
        mfk_copy_blocks(tensor->type, from, s.at / MFK_BLOCK, panel, s.offset / MFK_BLOCK, s.count / MFK_BLOCK);
    }
}

/* Widths are whole blocks and whole groups. */
static mf_status copy_group(void *user, const mfi_schema_tensor *is, const mfi_tensor *tensor, size_t first,
                            size_t group, unsigned char *bytes, mf_error *error)
{
    (void)error;
    const mf_model *model = user;
    const place p = place_of(model, is);
    const size_t k = (size_t)tensor->k, panel = mfk_panel_bytes(tensor->type, k), group_bytes = is->n_matrix * panel;
    if (tensor->kind == MFI_TABLE) {
        const size_t rows = mfi_min((size_t)tensor->n - group * MFK_NR, MFK_NR);
        const size_t row_bytes = mfk_row_bytes(tensor->type, k);
        const mfi_tensor *from = mfi_container_find(model->container, tensor->name, 0);
        memcpy(bytes, mfi_tensor_body(from) + group * MFK_NR * row_bytes, rows * row_bytes);
    } else if (p.along_k) {
        memset(bytes, 0, panel);
        copy_along_k(model, &p, tensor, first, group, bytes);
    } else {
        const size_t row = (p.ffn ? first : 0) + group * MFK_NR;
        uint32_t shell = 0;
        share s = find_share(model, &p, shell, row, 1);
        while (s.count == 0)
            s = find_share(model, &p, ++shell, row, 1);
        memcpy(bytes, mfi_tensor_body(s.tensor) + s.at / MFK_NR * group_bytes, group_bytes);
    }
    return MF_OK;
}

/* 0 where its shells are of several types. */
static mfk_type type_of(void *user, const mfi_schema_tensor *is)
{
    const mf_model *model = user;
    mfk_type type = 0;
    for (uint32_t shell = 0; shell < model->residency.n_shell; shell++) {
        const mfi_tensor *tensor = mfi_container_find(model->container, is->name, shell);
        if (!tensor) continue;
        if (type != 0 && tensor->type != type) return 0;
        type = tensor->type;
    }
    return type;
}

mfi_weights mfi_model_weights(const mf_model *model)
{
    return (mfi_weights){ read_weights, (void *)(uintptr_t)model, type_of, has_tensor, copy_group };
}
