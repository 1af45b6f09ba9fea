/* source.h - a model that is read to be written anew, wherever it comes from. A format is one file, whose function
 * fills an mf_source; what writes knows of this struct alone. */
#ifndef MFI_SOURCE_H
#define MFI_SOURCE_H

#include "import.h"
#include "matformer_tools.h"
#include "slice.h"

struct mf_source {
    mf_allocator allocator;
    const mfi_config *config;
    mfi_config own_config; /* what it points to, where names were added */
    mfi_weights weights;
    const void *tokenizer; /* blob of tokenizer.h, or NULL */
    size_t tokenizer_bytes;
    const char *folder;                 /* of Hugging Face, or NULL */
    const mfi_container *keys_of;       /* the maker's metadata, or NULL */
    const mfi_import *import;           /* NULL of a .mf file */
    const struct mfi_stored_plan *plan; /* of a .mf file, or NULL: */
    bool plan_refused;                  /* it has one that cannot be read */
    mfi_storage storage;                /* that KEEP means */
    bool one_shell;                     /* likewise */
    mf_source_info info;
    void *object; /* all of this belongs to it */
    void (*close)(void *object);
};

/* source_container.c: a .mf file. On failure the source is as it was, its allocator given. */
mf_status mfi_source_container(mf_source *source, const char *path, const mf_source_options *options, mf_error *error);
/* source_import.c: a Hugging Face folder or a GGUF file. */
mf_status mfi_source_import(mf_source *source, const char *path, mf_error *error);
/* The submodel `text` (NULL: all) of a source, which must outlive it. */
mf_status mfi_source_slice(mfi_slice **out, const mf_source *source, const char *text, mf_error *error);

#endif
