/* cli_directory.h - the directory of a .mf file: regions and tensors. The library's interface does not show
 * these, so this part alone stands on the container reader. */
#ifndef CLI_DIRECTORY_H
#define CLI_DIRECTORY_H

#include "cli.h"

mf_status cli_directory_print(const char *path, mf_error *error);
/* {"content_hash", "regions": [...], "tensors": [...]}; NULL when it fails. */
json_t *cli_directory_json(const char *path, mf_error *error);

/* The tokenizer's stored bytes, to be freed. */
mf_status cli_directory_tokenizer(const char *path, void **blob, size_t *bytes, mf_error *error);

#endif
