/* cli_model.h - what several commands do with a model: open it, describe a view, turn text into tokens. */
#ifndef CLI_MODEL_H
#define CLI_MODEL_H

#include "cli.h"
#include "matformer_tools.h"

#define CLI_CACHE_TYPES "f32|bf16|q8" /* of an option: the place of each is its mf_cache_type */

#define CLI_ARITHMETICS "exact|fast" /* likewise of its mf_arithmetic */
#define CLI_ARITHMETIC_HELP \
    "exact: the same bits on every processor; fast: instructions that round otherwise, where they pay (exact)"
const char *cli_arithmetic_name(mf_arithmetic arithmetic);

/* Opens `path` with a progress line, and warnings on standard error; of which there were so many. */
mf_status cli_model_open(mf_model **out, const char *path, mf_model_options *options, mf_error *error);
unsigned cli_model_warnings(void);

/* All tokens of `text`, in memory to be freed; at least room for one more is left behind them. */
mf_status cli_tokenize(const mf_model *model, const char *text, size_t bytes, int32_t **tokens, size_t *n_token,
                       mf_error *error);
/* The token that stands before a text: the model's beginning of text, else its end of text; -1: none. */
int32_t cli_start_token(const mf_model *model);

/* How many granularities can be used, narrowest first: all, unless the end of the file is missing. At least 1, the
 * narrowest, whose use then says what is missing. */
uint32_t cli_usable_granularities(mf_model *model);

/* The lines "shape" and "vocabulary", or "images". `tokenizer`: it has one. And {"layers", "d_model", ...}. */
void cli_shape_print(const mf_model_info *info, bool tokenizer);
json_t *cli_shape_json(const mf_model_info *info);

/* Element types, as mf_source_role has them: "bf16", or "bf16+q8" where the matrices of a role differ; a list. */
cli_text cli_types_text(uint32_t types);
json_t *cli_types_json(uint32_t types);

/* "512", or "256-1024" where layers differ; layers left out are not counted. */
cli_text cli_ffn_range(const mf_submodel *view);
cli_text cli_head_range(const mf_submodel *view);

/* {"size", "ffn": [...], "heads": [...], "skip": [...], "params", ...}; `size` is the name to give it. */
json_t *cli_view_json(const mf_submodel *view, const char *size);

#endif
