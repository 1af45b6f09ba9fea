/* cli_model.c - see cli_model.h. */
#include <stdlib.h>
#include <string.h>

#include "cli_model.h"

const char *cli_arithmetic_name(mf_arithmetic arithmetic)
{
    return arithmetic == MF_ARITHMETIC_FAST ? "fast" : "exact";
}

static int show_progress(void *user, uint64_t done, uint64_t total)
{
    cli_progress(user, (double)done, (double)total);
    return 0;
}

static unsigned n_warning;

static void show_line(void *user, int level, const char *line)
{
    (void)user;
    if (level > 1) return;
    cli_progress_end();
    fprintf(stderr, "matformer: warning: %s\n", line);
    n_warning++;
}

unsigned cli_model_warnings(void)
{
    return n_warning;
}

mf_status cli_model_open(mf_model **out, const char *path, mf_model_options *options, mf_error *error)
{
    char what[] = "opening";
    options->progress = show_progress;
    options->progress_user = what;
    options->log = show_line;
    mf_status status = mf_model_open(out, path, options, error);
    cli_progress_end();
    return status;
}

mf_status cli_tokenize(const mf_model *model, const char *text, size_t bytes, int32_t **tokens, size_t *n_token,
                       mf_error *error)
{
    /* A token stands for at least one byte. */
    *tokens = malloc((bytes + 1) * sizeof(**tokens));
    mf_status status = *tokens ? mf_tokenize(model, text, bytes, *tokens, bytes, n_token) : MF_E_NOMEM;
    if (status == MF_OK) return MF_OK;
    free(*tokens);
    *tokens = NULL;
    error->status = status;
    snprintf(error->detail, sizeof(error->detail), "the text could not be turned into tokens: %s",
             status == MF_E_UNSUPPORTED ? "the model has no tokenizer" : mf_status_text(status));
    return status;
}

int32_t cli_start_token(const mf_model *model)
{
    mf_model_info info = MF_MODEL_INFO_INIT;
    mf_model_info_get(model, &info);
    return info.bos_token >= 0 ? info.bos_token : info.eos_token;
}

/* ---- Shapes ---- */

void cli_shape_print(const mf_model_info *i, bool tokenizer)
{
    printf("  shape       %u layers, d_model %u, d_ff %u in steps of %u, %u heads of %u (%u key/value)\n", i->n_layer,
           i->d_model, i->d_ff, i->quantum, i->n_head, i->d_head, i->n_kv_head);
    if (i->image_size > 0)
        printf("  images      %u channels of %u x %u in patches of %u; %u classes\n", i->n_channel, i->image_size,
               i->image_size, i->patch_size, i->n_class);
    else
        printf("  vocabulary  %u tokens, %s; trained for %u positions\n", i->n_vocab,
               tokenizer ? "tokenizer in the file" : "no tokenizer in the file", i->max_positions);
}

json_t *cli_shape_json(const mf_model_info *i)
{
    json_t *shape = json_pack("{s:i, s:i, s:i, s:i, s:i, s:i, s:i, s:i, s:i}", "layers", (int)i->n_layer, "d_model",
                              (int)i->d_model, "d_ff", (int)i->d_ff, "heads", (int)i->n_head, "kv_heads",
                              (int)i->n_kv_head, "d_head", (int)i->d_head, "vocabulary", (int)i->n_vocab,
                              "max_positions", (int)i->max_positions, "quantum", (int)i->quantum);
    if (i->image_size == 0) return shape;
    json_object_set_new(shape, "image_size", json_integer(i->image_size));
    json_object_set_new(shape, "patch_size", json_integer(i->patch_size));
    json_object_set_new(shape, "channels", json_integer(i->n_channel));
    json_object_set_new(shape, "classes", json_integer(i->n_class));
    return shape;
}

/* ---- Types ---- */

cli_text cli_types_text(uint32_t types)
{
    cli_text text = { "" };
    for (mf_weight_type type = MF_WEIGHT_F32; type <= MF_WEIGHT_Q4; type++)
        if (types >> type & 1u)
            text = cli_format("%.24s%s%s", text.text, text.text[0] ? "+" : "", mf_weight_type_name(type));
    return text;
}

json_t *cli_types_json(uint32_t types)
{
    json_t *array = json_array();
    for (mf_weight_type type = MF_WEIGHT_F32; type <= MF_WEIGHT_Q4; type++)
        if (types >> type & 1u) json_array_append_new(array, json_string(mf_weight_type_name(type)));
    return array;
}

/* ---- Views ---- */

uint32_t cli_usable_granularities(mf_model *model)
{
    mf_model_info info = MF_MODEL_INFO_INIT;
    mf_model_info_get(model, &info);
    for (uint32_t n = info.n_granularity; n > 1; n--) {
        mf_submodel *view;
        mf_error error = MF_ERROR_INIT;
        mf_submodel_info about = MF_SUBMODEL_INFO_INIT;
        mf_submodel_spec spec = MF_SUBMODEL_SPEC_INIT;
        spec.granularity = mf_model_granularity(model, n - 1);
        bool usable = mf_extract_submodel(&view, model, &spec, &error) == MF_OK &&
                      mf_submodel_info_get(view, &about) == MF_OK && about.n_shell <= info.n_shell_resident;
        mf_submodel_close(view);
        if (usable) return n;
    }
    return 1;
}

typedef struct range {
    uint32_t least, most;
} range;

static void widen(range *r, uint32_t value)
{
    if (value < r->least) r->least = value;
    if (value > r->most) r->most = value;
}

static void find_ranges(const mf_submodel *view, range *ffn, range *heads)
{
    uint32_t width, head_count;
    int kept;
    *ffn = *heads = (range){ UINT32_MAX, 0 };
    for (uint32_t layer = 0; mf_submodel_layer(view, layer, &width, &head_count, &kept) == MF_OK; layer++) {
        if (!kept) continue;
        widen(ffn, width);
        widen(heads, head_count);
    }
}

static cli_text range_text(range r)
{
    return r.least >= r.most ? cli_format("%u", r.most) : cli_format("%u-%u", r.least, r.most);
}

cli_text cli_ffn_range(const mf_submodel *view)
{
    range ffn, heads;
    find_ranges(view, &ffn, &heads);
    return range_text(ffn);
}

cli_text cli_head_range(const mf_submodel *view)
{
    range ffn, heads;
    find_ranges(view, &ffn, &heads);
    return range_text(heads);
}

json_t *cli_view_json(const mf_submodel *view, const char *size)
{
    mf_submodel_info info = MF_SUBMODEL_INFO_INIT;
    mf_submodel_info_get(view, &info);
    json_t *ffn = json_array(), *heads = json_array(), *skip = json_array();
    uint32_t width, head_count;
    int kept;
    for (uint32_t layer = 0; mf_submodel_layer(view, layer, &width, &head_count, &kept) == MF_OK; layer++) {
        json_array_append_new(ffn, json_integer(kept ? width : 0));
        json_array_append_new(heads, json_integer(kept ? head_count : 0));
        if (!kept) json_array_append_new(skip, json_integer(layer));
    }
    return json_pack("{s:o, s:o, s:o, s:o, s:I, s:I, s:I, s:I, s:I, s:i, s:i}", "size", cli_json_string(size), "ffn",
                     ffn, "heads", heads, "skip", skip, "params", (json_int_t)info.n_param, "params_body",
                     (json_int_t)info.n_param_body, "bytes_per_token", (json_int_t)info.bytes_per_token,
                     "flops_per_token", (json_int_t)info.flops_per_token, "cache_bytes_per_position",
                     (json_int_t)info.cache_bytes_per_position, "shells", (int)info.n_shell, "view_bytes",
                     (int)info.view_bytes);
}
