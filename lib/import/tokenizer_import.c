/* tokenizer_import.c - the tokenizer of a folder: its file, and the settings beside it. */
#define _POSIX_C_SOURCE 200809L
#include "tokenizer_import.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "defs.h"
#include "platform.h"
#include "status.h"
#include "vocab_builder.h"

#define MAX_TOKENIZER_JSON ((size_t)256 << 20)
#define MAX_MODEL ((size_t)64 << 20)
#define MAX_SETTINGS ((size_t)4 << 20)
#define MAX_PATH 4096

typedef struct path {
    char text[MAX_PATH];
} path;

static mf_status path_of(path *out, const char *folder, const char *file, mf_error *error)
{
    const int n = snprintf(out->text, sizeof out->text, "%s/%s", folder, file);
    if (n > 0 && (size_t)n < sizeof out->text) return MF_OK;
    return mfi_fail(error, MF_E_INVALID, "%.100s...: the path is too long", folder);
}

typedef struct whole_file {
    char *data;
    size_t bytes;
} whole_file;

static mf_status read_open(int fd, const char *name, size_t most, const mf_allocator *allocator, whole_file *out,
                           mf_error *error)
{
    struct stat stat;
    if (fstat(fd, &stat) != 0) return mfi_fail(error, MF_E_IO, "%s: %s", name, strerror(errno));
    if (!S_ISREG(stat.st_mode) || stat.st_size < 0 || (uint64_t)stat.st_size > most)
        return mfi_fail(error, MF_E_FORMAT, "%s: not a regular file of at most %zu bytes", name, most);
    out->bytes = (size_t)stat.st_size;
    out->data = mfi_alloc(allocator, out->bytes);
    if (!out->data) return mfi_fail(error, MF_E_NOMEM, "%s: no memory for %zu bytes", name, out->bytes);
    return mfi_read_at(fd, out->data, out->bytes, 0, name, error);
}

/* The data is to be freed also after a failure. */
static mf_status read_file(const char *name, size_t most, const mf_allocator *allocator, whole_file *out,
                           mf_error *error)
{
    *out = (whole_file){ NULL, 0 };
    const int fd = open(name, O_RDONLY | O_CLOEXEC | O_NONBLOCK); /* not to wait on a FIFO */
    if (fd < 0) return mfi_fail(error, errno == ENOENT ? MF_E_NOT_FOUND : MF_E_IO, "%s: %s", name, strerror(errno));
    const mf_status status = read_open(fd, name, most, allocator, out, error);
    close(fd);
    return status;
}

/* ---- Settings ---- */

/* A token by its text: "x" or { "content": "x" }. */
static int32_t named_token(const mfi_vocab_builder *b, const json_t *value)
{
    const json_t *content = json_is_object(value) ? json_object_get(value, "content") : value;
    const char *text = json_string_value(content);
    return text ? mfi_builder_find(b, text, strlen(text)) : -1;
}

static void set_flag(mfi_vocab_builder *b, const json_t *value, uint32_t flag, int32_t token)
{
    if (!json_is_boolean(value)) return;
    b->vocab.flags &= ~flag;
    if (json_is_true(value) && token >= 0) b->vocab.flags |= flag;
}

/* A template, or a list of named ones, of which the default counts. */
static void read_templates(mfi_vocab_builder *b, const json_t *value)
{
    for (size_t i = 0; i < json_array_size(value); i++) {
        const json_t *entry = json_array_get(value, i);
        const char *name = json_string_value(json_object_get(entry, "name"));
        if (name && strcmp(name, "default") == 0) value = json_object_get(entry, "template");
    }
    if (json_is_string(value)) mfi_builder_chat(b, json_string_value(value), json_string_length(value));
}

/* In tokenizer.json the post-processor says what is added at the ends; tokenizer.model says nothing. */
static void read_tokenizer_config(mfi_vocab_builder *b, const json_t *config, bool has_processor)
{
    const int32_t bos = named_token(b, json_object_get(config, "bos_token"));
    const int32_t eos = named_token(b, json_object_get(config, "eos_token"));
    if (bos >= 0 && !(b->vocab.flags & MFI_VOCAB_ADD_BOS && has_processor)) b->vocab.bos = bos;
    if (eos >= 0 && !(b->vocab.flags & MFI_VOCAB_ADD_EOS && has_processor)) b->vocab.eos = eos;
    if (!has_processor) {
        set_flag(b, json_object_get(config, "add_bos_token"), MFI_VOCAB_ADD_BOS, b->vocab.bos);
        set_flag(b, json_object_get(config, "add_eos_token"), MFI_VOCAB_ADD_EOS, b->vocab.eos);
    }
    read_templates(b, json_object_get(config, "chat_template"));
}

/* One number, or a list of them. */
static mf_status read_generation_config(mfi_vocab_builder *b, const json_t *config)
{
    const json_t *eos = json_object_get(config, "eos_token_id");
    const size_t n = json_is_array(eos) ? json_array_size(eos) : json_is_integer(eos);
    mf_status status = MF_OK;
    for (size_t i = 0; i < n && status == MF_OK; i++) {
        const json_t *value = json_is_array(eos) ? json_array_get(eos, i) : eos;
        status = mfi_builder_stop(b, json_is_integer(value) ? json_integer_value(value) : -1);
    }
    if (status == MF_OK && b->vocab.eos < 0 && n > 0) b->vocab.eos = b->stops[0];
    return status;
}

/* *json is NULL inside where there is no such file. */
static mf_status load_settings(mfi_json *json, path *name, const char *folder, const char *file, mf_error *error)
{
    mf_status status = path_of(name, folder, file, error);
    *json = (mfi_json){ name->text, NULL };
    if (status == MF_OK) status = mfi_json_load(json, name->text, MAX_SETTINGS, NULL);
    if (status == MF_E_NOT_FOUND) return MF_OK;
    return status == MF_OK ? MF_OK : mfi_json_load(json, name->text, MAX_SETTINGS, error);
}

static mf_status read_settings(mfi_vocab_builder *b, const char *folder, bool has_processor, mf_error *error)
{
    path name;
    mfi_json json;
    whole_file chat;
    mf_status status = load_settings(&json, &name, folder, "tokenizer_config.json", error);
    if (status != MF_OK) return status;
    if (json.root) read_tokenizer_config(b, json.root, has_processor);
    mfi_json_free(&json);
    status = load_settings(&json, &name, folder, "generation_config.json", error);
    if (status != MF_OK) return status;
    if (json.root) status = read_generation_config(b, json.root);
    mfi_json_free(&json);
    if (status == MF_OK) status = path_of(&name, folder, "chat_template.jinja", error);
    if (status != MF_OK) return status;
    mf_error reason = MF_ERROR_INIT;
    status = read_file(name.text, MAX_SETTINGS, &b->allocator, &chat, &reason);
    if (status == MF_OK) mfi_builder_chat(b, chat.data, chat.bytes);
    mfi_free(&b->allocator, chat.data, chat.bytes);
    return status == MF_OK || status == MF_E_NOT_FOUND ? MF_OK : mfi_fail(error, status, "%s", reason.detail);
}

/* ---- The folder ---- */

static mf_status finish(mfi_vocab_builder *b, const char *folder, bool has_processor, mf_status status, void **blob,
                        size_t *bytes, mf_error *error)
{
    if (status == MF_OK) status = read_settings(b, folder, has_processor, error);
    if (status == MF_OK) status = mfi_builder_store(b, blob, bytes);
    mfi_builder_free(b);
    return status;
}

static mf_status from_model(void **blob, size_t *bytes, const mf_allocator *allocator, const char *folder,
                            mf_error *error)
{
    path name;
    whole_file model;
    mfi_vocab_builder b = { .allocator = *allocator };
    mf_status status = path_of(&name, folder, "tokenizer.model", error);
    if (status != MF_OK) return status;
    status = read_file(name.text, MAX_MODEL, allocator, &model, error);
    if (status == MF_E_NOT_FOUND)
        mfi_fail(error, MF_E_NOT_FOUND, "%s: neither tokenizer.json nor tokenizer.model", folder);
    if (status == MF_OK) status = mfi_build_spm(&b, allocator, name.text, model.data, model.bytes, error);
    status = finish(&b, folder, false, status, blob, bytes, error);
    mfi_free(allocator, model.data, model.bytes);
    return status;
}

mf_status mfi_tokenizer_from_folder(void **blob, size_t *bytes, const mf_allocator *allocator, const char *folder,
                                    mf_error *error)
{
    path name;
    mfi_json json;
    mfi_vocab_builder b;
    *blob = NULL;
    mf_status status = path_of(&name, folder, "tokenizer.json", error);
    if (status != MF_OK) return status;
    status = mfi_json_load(&json, name.text, MAX_TOKENIZER_JSON, error);
    if (status == MF_E_NOT_FOUND) return from_model(blob, bytes, allocator, folder, error);
    if (status != MF_OK) return status;
    status = mfi_build_json(&b, allocator, &json, error);
    status = finish(&b, folder, true, status, blob, bytes, error);
    mfi_json_free(&json);
    return status;
}
