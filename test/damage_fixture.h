/* damage_fixture.h - copies of the small checkpoints that tests damage: their JSON, the headers and the values of their
 * tensors; and a GGUF file of every type. */
#ifndef DAMAGE_FIXTURE_H
#define DAMAGE_FIXTURE_H

#include <jansson.h>
#include <sys/stat.h>

#include "gguf_header.h"
#include "matformer_tools.h"
#include "tensor_fixture.h"

#define TENSORS "model.safetensors"

static inline bytes read_bytes(const char *path)
{
    bytes b = { NULL, 0, 0 };
    unsigned char piece[4096];
    FILE *file = fopen(path, "rb");
    cr_assert_not_null(file, "%s", path);
    for (size_t n; (n = fread(piece, 1, sizeof piece, file)) > 0;)
        put(&b, piece, n);
    fclose(file);
    return b;
}

static inline folder copy_checkpoint(const char *name)
{
    folder f = folder_make();
    char from[1024], path[512];
    snprintf(path, sizeof path, "%s/checkpoints/%s", GOLDEN_DIR, name);
    DIR *d = opendir(path);
    cr_assert_not_null(d, "%s", path);
    for (const struct dirent *entry; (entry = readdir(d));) {
        if (entry->d_name[0] == '.' || strcmp(entry->d_name, "expected.bin") == 0) continue;
        snprintf(from, sizeof from, "%s/%s", path, entry->d_name);
        folder_put(&f, entry->d_name, read_bytes(from));
    }
    closedir(d);
    return f;
}

/* ---- JSON ---- */

static inline void put_json(folder *f, const char *name, json_t *json)
{
    char *text = json_dumps(json, JSON_COMPACT);
    folder_write(f, name, text, strlen(text));
    free(text);
    json_decref(json);
}

/* Sets `key` ("text_config/head_dim") to the value that `text` is, or removes it. */
static inline void edit_json(folder *f, const char *name, const char *key, const char *text)
{
    json_t *root = json_load_file(folder_file(f, name), 0, NULL), *at = root;
    cr_assert_not_null(root, "%s", name);
    const char *slash = strchr(key, '/');
    if (slash) {
        char outer[64];
        snprintf(outer, sizeof outer, "%.*s", (int)(slash - key), key);
        at = json_object_get(root, outer);
        key = slash + 1;
    }
    if (text)
        cr_assert_eq(json_object_set_new(at, key, json_loads(text, JSON_DECODE_ANY, NULL)), 0, "%s: %s", key, text);
    else
        cr_assert_eq(json_object_del(at, key), 0, "%s", key);
    put_json(f, name, root);
}

/* ---- Tensors of a safetensors file ---- */

typedef struct open_tensors {
    bytes file;
    json_t *header;
    size_t data_at;
} open_tensors;

static inline open_tensors read_tensors(folder *f, const char *name)
{
    open_tensors t = { read_bytes(folder_file(f, name)), NULL, 0 };
    uint64_t length;
    memcpy(&length, t.file.at, sizeof length);
    t.data_at = 8 + (size_t)length;
    t.header = json_loadb((const char *)t.file.at + 8, (size_t)length, 0, NULL);
    cr_assert_not_null(t.header);
    return t;
}

/* Frees it. */
static inline void write_tensors(folder *f, const char *name, open_tensors *t)
{
    char *text = json_dumps(t->header, JSON_COMPACT);
    bytes b = { NULL, 0, 0 };
    emit(&b, "s", text);
    put(&b, t->file.at + t->data_at, t->file.n - t->data_at);
    folder_put(f, name, b);
    free(text);
    free(t->file.at);
    json_decref(t->header);
}

static inline json_t *tensor_entry(const open_tensors *t, const char *tensor)
{
    json_t *entry = json_object_get(t->header, tensor);
    cr_assert_not_null(entry, "%s", tensor);
    return entry;
}

/* One field of a tensor's entry; "name" is what it is called. */
static inline void edit_tensor(folder *f, const char *tensor, const char *field, const char *text)
{
    open_tensors t = read_tensors(f, TENSORS);
    json_t *entry = tensor_entry(&t, tensor);
    if (strcmp(field, "name") == 0) {
        json_object_set(t.header, text, entry);
        json_object_del(t.header, tensor);
    } else {
        json_object_set_new(entry, field, json_loads(text, JSON_DECODE_ANY, NULL));
    }
    write_tensors(f, TENSORS, &t);
}

/* Element `index` of a tensor gets the value of these bits, of as many bytes as its type has. */
static inline void poke_tensor(folder *f, const char *tensor, size_t index, const void *value, size_t bytes_each)
{
    open_tensors t = read_tensors(f, TENSORS);
    const json_t *offsets = json_object_get(tensor_entry(&t, tensor), "data_offsets");
    const size_t begin = (size_t)json_integer_value(json_array_get(offsets, 0));
    cr_assert_lt(begin + index * bytes_each, (size_t)json_integer_value(json_array_get(offsets, 1)));
    memcpy(t.file.at + t.data_at + begin + index * bytes_each, value, bytes_each);
    write_tensors(f, TENSORS, &t);
}

/* ---- A GGUF file: a Llama of one layer ---- */

enum { GGUF_D = 256, GGUF_VOCAB = 32 };

typedef struct gguf_type {
    const char *name;
    uint32_t id, block, block_bytes, scale_at; /* scale_at: an f16 of the block */
} gguf_type;

static const gguf_type gguf_types[] = {
    { "F32", 0, 1, 4, 2 },       { "F16", 1, 1, 2, 0 },       { "BF16", 30, 1, 2, 0 },      { "Q8_0", 8, 32, 34, 0 },
    { "Q4_0", 2, 32, 18, 0 },    { "Q4_1", 3, 32, 20, 2 },    { "Q5_0", 6, 32, 22, 0 },     { "Q5_1", 7, 32, 24, 0 },
    { "Q4_K", 12, 256, 144, 2 }, { "Q5_K", 13, 256, 176, 0 }, { "Q6_K", 14, 256, 210, 208 }
};

typedef struct gguf_tensor {
    const char *name;
    uint32_t rows; /* 0: a vector, which is of f32 */
} gguf_tensor;

static const gguf_tensor gguf_tensors[] = {
    { "token_embd.weight", GGUF_VOCAB },   { "output_norm.weight", 0 },
    { "blk.0.attn_norm.weight", 0 },       { "blk.0.ffn_norm.weight", 0 },
    { "blk.0.attn_q.weight", GGUF_D },     { "blk.0.attn_k.weight", GGUF_D / 2 },
    { "blk.0.attn_v.weight", GGUF_D / 2 }, { "blk.0.attn_output.weight", GGUF_D },
    { "blk.0.ffn_gate.weight", GGUF_D },   { "blk.0.ffn_up.weight", GGUF_D },
    { "blk.0.ffn_down.weight", GGUF_D },   { "rope_freqs.weight", 0 }
};
enum { N_GGUF_TENSOR = sizeof gguf_tensors / sizeof *gguf_tensors };

/* Metadata that is added, or stands for one of the usual; an empty key is none. */
typedef struct gguf_extra {
    const char *key;
    uint32_t type;
    const char *text; /* of a text */
    double number;    /* of a number: U32 or F32 */
} gguf_extra;

static inline void put_number_key(bytes *b, const gguf_extra *extra, const char *key, uint32_t type, double value)
{
    if (extra && strcmp(extra->key, key) == 0) return;
    if (type == MFI_GGUF_F32)
        emit(b, "kf", key, type, value);
    else
        emit(b, "ki", key, type, (uint32_t)value);
}

/* Elements of a tensor: d_model, but half a head of the frequencies. */
static inline size_t gguf_columns(size_t index)
{
    return index + 1 == N_GGUF_TENSOR ? 32 : GGUF_D;
}

static inline size_t gguf_bytes(size_t index, const gguf_type *type)
{
    const gguf_tensor *t = &gguf_tensors[index];
    return t->rows == 0 ? gguf_columns(index) * 4 : (size_t)t->rows * GGUF_D / type->block * type->block_bytes;
}

/* Where in the file a tensor begins, counted from the end. */
static inline size_t gguf_from_end(size_t index, const gguf_type *type)
{
    size_t n = 0;
    for (size_t i = index; i < N_GGUF_TENSOR; i++)
        n += gguf_bytes(i, type);
    return n;
}

/* All matrices of one type and 0, vectors 1. */
static inline bytes gguf_llama(const gguf_type *type, const gguf_extra *extra)
{
    bytes b = { NULL, 0, 0 };
    static const char *const usual[] = { "llama.block_count",
                                         "llama.embedding_length",
                                         "llama.feed_forward_length",
                                         "llama.attention.head_count",
                                         "llama.attention.head_count_kv",
                                         "llama.context_length",
                                         "llama.attention.layer_norm_rms_epsilon",
                                         "llama.rope.freq_base" };
    static const double value[] = { 1, GGUF_D, GGUF_D, 4, 2, 128, 1e-5, 1e4 };
    size_t count = 1 + 8 + (extra != NULL), offset = 0;
    for (size_t i = 0; extra && i < 8; i++)
        count -= strcmp(usual[i], extra->key) == 0;
    if (extra && strcmp(extra->key, "general.architecture") == 0) count--;
    if (extra && extra->type == UINT32_MAX) count--; /* only away */
    emit(&b, "Gk", (unsigned long long)N_GGUF_TENSOR, (unsigned long long)count, "", 0u);
    b.n -= 12;
    if (!extra || strcmp(extra->key, "general.architecture") != 0)
        emit(&b, "ks", "general.architecture", MFI_GGUF_STRING, "llama");
    for (size_t i = 0; i < 8; i++)
        put_number_key(&b, extra, usual[i], i < 6 ? MFI_GGUF_U32 : MFI_GGUF_F32, value[i]);
    if (extra && extra->type == MFI_GGUF_STRING) emit(&b, "ks", extra->key, MFI_GGUF_STRING, extra->text);
    if (extra && extra->type != MFI_GGUF_STRING && extra->type != UINT32_MAX)
        put_number_key(&b, NULL, extra->key, extra->type, extra->number);
    for (size_t i = 0; i < N_GGUF_TENSOR; i++) {
        const gguf_tensor *t = &gguf_tensors[i];
        emit(&b, "siq", t->name, t->rows > 0 ? 2u : 1u, (unsigned long long)gguf_columns(i));
        if (t->rows > 0) put_number(&b, t->rows, 8);
        emit(&b, "iq", t->rows > 0 ? type->id : 0u, (unsigned long long)offset);
        offset += gguf_bytes(i, type);
    }
    emit(&b, "a");
    for (size_t i = 0; i < N_GGUF_TENSOR; i++) {
        for (size_t j = 0; gguf_tensors[i].rows == 0 && j < gguf_columns(i); j++)
            emit(&b, "f", 1.0);
        for (size_t left = gguf_tensors[i].rows > 0 ? gguf_bytes(i, type) : 0, n; left > 0; left -= n) {
            n = left < 4096 ? left : 4096;
            emit(&b, "z", (unsigned)n);
        }
    }
    return b;
}

#endif
