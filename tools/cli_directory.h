/* cli_directory.h - the directory of a .mf file: regions and tensors. The library's interface does not show
 * these, so this part alone stands on the container reader. */
#ifndef CLI_DIRECTORY_H
#define CLI_DIRECTORY_H

#include "cli.h"
#include "matformer_tools.h"

/* Whether `path` is a Hugging Face folder or a GGUF file, which have no such directory: cli_source.h describes these. */
bool cli_is_checkpoint(const char *path);

mf_status cli_directory_print(const char *path, mf_error *error);
/* {"content_hash", "regions": [...], "tensors": [...]}; NULL when it fails. */
json_t *cli_directory_json(const char *path, mf_error *error);

/* For each role the types that its matrices have, as in mf_source_role; 0: it has none. */
mf_status cli_directory_types(const char *path, uint32_t types[MF_N_ROLE], mf_error *error);

/* The tokenizer's stored bytes, to be freed. */
mf_status cli_directory_tokenizer(const char *path, void **blob, size_t *bytes, mf_error *error);

#endif
