/* source_import.c - a Hugging Face folder or a GGUF file as a source. */
#include "import.h"
#include "schema.h"
#include "source.h"

typedef struct counting {
    mf_source_info *info;
    const mfi_weights *weights;
} counting;

static void count_tensor(void *user, const mfi_schema_tensor *is)
{
    counting *c = user;
    if (is->kind == MFI_PLAIN) return;
    mf_source_role *role = &c->info->role[is->role];
    const mfk_type type = c->weights->type_of(c->weights->user, is);
    role->n_weight += is->n_matrix * is->n * is->k;
    role->bytes += is->n_matrix * mfk_weights_bytes(type, is->n, is->k);
    role->types |= 1u << type;
}

static void close_import(void *object)
{
    mfi_import_close(object);
}

mf_status mfi_source_import(mf_source *source, const char *path, mf_error *error)
{
    mfi_import *in;
    mf_status status = mfi_import_open(&in, path, &source->allocator, error);
    if (status != MF_OK) return status;
    source->config = mfi_import_config(in);
    source->weights = mfi_import_weights(in);
    source->tokenizer = mfi_import_tokenizer(in, &source->tokenizer_bytes);
    source->storage = MFI_RAW;
    source->import = in;
    source->info.format = mfi_import_format(in);
    source->folder = mfi_import_folder(in);
    source->info.n_tensor = mfi_tensor_file_count(mfi_import_file(in));
    source->info.has_tokenizer = source->tokenizer != NULL;
    counting c = { &source->info, &source->weights };
    mfi_schema_each(source->config, count_tensor, &c);
    source->object = in;
    source->close = close_import;
    return MF_OK;
}
