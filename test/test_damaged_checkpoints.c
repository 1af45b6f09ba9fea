/* test_damaged_checkpoints.c - checkpoints that are damaged, or say what is not so: whoever opens or converts them gets
 * a status, and a sentence that names the file and what is wrong with what, and says what to do. */
#define _GNU_SOURCE
#include "damage_fixture.h"

#include <math.h>
#include <stdbool.h>

/* ---- Sentences ---- */

/* What a sentence says that tells what to do, or what would be right. */
static bool has_remedy(const char *sentence)
{
    static const char *const remedies[] = { "fetch",     "use ",      "must be",       "must have",         "choose",
                                            "name the",  "only ",     "supported",     "not read",          "read are",
                                            "open that", "remove it", "make the file", "not a regular file" };
    for (size_t i = 0; i < sizeof remedies / sizeof *remedies; i++)
        if (strstr(sentence, remedies[i])) return true;
    return false;
}

static void expect_sentence(const mf_error *error, mf_status status, const char *path, const char *says,
                            const char *what)
{
    cr_assert_eq(error->status, status, "%s: %s, %s", what, mf_status_name(error->status), error->detail);
    cr_assert(strstr(error->detail, path), "%s: \"%s\" does not name %s", what, error->detail, path);
    cr_assert(strstr(error->detail, says), "%s: \"%s\" and not \"%s\"", what, error->detail, says);
    cr_assert(status == MF_E_IO || has_remedy(error->detail), "%s: \"%s\" does not say what to do", what,
              error->detail);
}

static void expect_not_opened(const char *path, mf_status status, const char *says, const char *what)
{
    mf_error error = MF_ERROR_INIT;
    mf_model *model = NULL;
    cr_assert_neq(mf_model_open(&model, path, NULL, &error), MF_OK, "%s: it opened", what);
    cr_assert_null(model);
    expect_sentence(&error, status, path, says, what);
}

/* Refused when it is opened, or at the latest when it is converted; no file is left. */
static void expect_not_converted(const char *path, mf_status status, const char *says, const char *what)
{
    char out[128];
    mf_error error = MF_ERROR_INIT;
    mf_source *source = NULL;
    snprintf(out, sizeof out, "/tmp/mf-test-out-%ld.mf", (long)getpid());
    mf_status found = mf_source_open(&source, path, NULL, &error);
    if (found == MF_OK) found = mf_convert(source, out, NULL, NULL, &error);
    mf_source_close(source);
    cr_assert_neq(found, MF_OK, "%s: it was converted", what);
    expect_sentence(&error, status, path, says, what);
    cr_assert_neq(access(out, F_OK), 0, "%s: a file is left", what);
}

static void expect_refused_by_all(const char *path, mf_status status, const char *says, const char *what)
{
    expect_not_opened(path, status, says, what);
    expect_not_converted(path, status, says, what);
}

/* ---- config.json ---- */

typedef struct edit {
    const char *checkpoint, *key, *value; /* NULL: the key is removed */
    mf_status status;
    const char *says;
} edit;

#define LLAMA "llama_linear_f16"
#define BIASED "llama_tied_biases_f32"
#define GEMMA "gemma3n"
#define NESTED "gemma3n_nested"
#define OLMO "olmo_sequential"
#define PARALLEL "olmo_parallel"
#define VIT "vit_classifier_f32"

static const edit edits[] = {
    /* What a model is. */
    { LLAMA, "model_type", NULL, MF_E_FORMAT, "\"model_type\"" },
    { LLAMA, "model_type", "7", MF_E_FORMAT, "\"model_type\" must be a string" },
    { LLAMA, "model_type", "\"\"", MF_E_FORMAT, "\"model_type\"" },
    { LLAMA, "model_type", "\"mixtral\"", MF_E_UNSUPPORTED, "\"mixtral\"" },
    { LLAMA, "model_type", "\"lla\"", MF_E_UNSUPPORTED, "\"lla\"" },
    { LLAMA, "model_type", "\"llama gemma3n\"", MF_E_UNSUPPORTED, "\"llama gemma3n\"" },
    { LLAMA, "model_type", "\"gemma3n\"", MF_E_FORMAT, "embed_tokens_per_layer.weight" },
    { LLAMA, "quantization_config", "{\"quant_method\": \"gptq\"}", MF_E_UNSUPPORTED, "\"quantization_config\"" },
    { NESTED, "text_config", "[]", MF_E_FORMAT, "\"text_config\" must be an object" },
    { NESTED, "text_config", "\"gemma3n_text\"", MF_E_FORMAT, "\"text_config\" must be an object" },
    { NESTED, "text_config", "{}", MF_E_FORMAT, "text_config: \"num_hidden_layers\" is missing" },
    { NESTED, "text_config", NULL, MF_E_FORMAT, "\"num_hidden_layers\" is missing" },
    /* Numbers that are missing, of another kind, absurd, huge, negative. */
    { LLAMA, "num_hidden_layers", NULL, MF_E_FORMAT, "\"num_hidden_layers\" is missing" },
    { LLAMA, "num_hidden_layers", "null", MF_E_FORMAT, "\"num_hidden_layers\" is missing" },
    { LLAMA, "num_hidden_layers", "\"2\"", MF_E_FORMAT, "\"num_hidden_layers\" must be an integer" },
    { LLAMA, "num_hidden_layers", "0", MF_E_FORMAT, "\"num_hidden_layers\" must be an integer" },
    { LLAMA, "num_hidden_layers", "-1", MF_E_FORMAT, "\"num_hidden_layers\" must be an integer" },
    { LLAMA, "num_hidden_layers", "513", MF_E_FORMAT, "\"num_hidden_layers\" must be an integer" },
    { LLAMA, "num_hidden_layers", "9223372036854775807", MF_E_FORMAT, "\"num_hidden_layers\" must be an integer" },
    { LLAMA, "hidden_size", "64.5", MF_E_FORMAT, "\"hidden_size\" must be an integer" },
    { LLAMA, "hidden_size", "1e300", MF_E_FORMAT, "\"hidden_size\" must be an integer" },
    { LLAMA, "hidden_size", "63", MF_E_UNSUPPORTED, "d_model is 63" },
    { LLAMA, "num_attention_heads", "0", MF_E_FORMAT, "\"num_attention_heads\" must be an integer" },
    { LLAMA, "num_attention_heads", "[4]", MF_E_FORMAT, "\"num_attention_heads\" must be an integer" },
    { LLAMA, "num_key_value_heads", "0", MF_E_FORMAT, "\"num_key_value_heads\" must be an integer" },
    { LLAMA, "num_key_value_heads", "3", MF_E_UNSUPPORTED, "3 key/value heads" },
    { LLAMA, "num_key_value_heads", "8", MF_E_FORMAT, "\"num_key_value_heads\" must be an integer" },
    { LLAMA, "head_dim", "0", MF_E_FORMAT, "\"head_dim\" must be an integer" },
    { LLAMA, "head_dim", "20", MF_E_UNSUPPORTED, "d_head is 20" },
    { LLAMA, "head_dim", "513", MF_E_FORMAT, "\"head_dim\" must be an integer" },
    { LLAMA, "vocab_size", "16777217", MF_E_FORMAT, "\"vocab_size\" must be an integer" },
    { LLAMA, "vocab_size", "true", MF_E_FORMAT, "\"vocab_size\" must be an integer" },
    { LLAMA, "intermediate_size", NULL, MF_E_FORMAT, "\"intermediate_size\" is missing" },
    { LLAMA, "intermediate_size", "100", MF_E_UNSUPPORTED, "100" },
    { LLAMA, "intermediate_size", "2000000", MF_E_FORMAT, "\"intermediate_size\" must be an integer" },
    { LLAMA, "intermediate_size", "[128]", MF_E_FORMAT, "\"intermediate_size\" has no width for layer 1" },
    { LLAMA, "intermediate_size", "[128, \"128\"]", MF_E_FORMAT, "\"intermediate_size\" has no width for layer 1" },
    { LLAMA, "intermediate_size", "[128, -128]", MF_E_FORMAT, "\"intermediate_size\" has no width for layer 1" },
    { LLAMA, "intermediate_size", "[]", MF_E_FORMAT, "\"intermediate_size\" has no width for layer 0" },
    { LLAMA, "max_position_embeddings", "-5", MF_E_FORMAT, "\"max_position_embeddings\" must be an integer" },
    { LLAMA, "rms_norm_eps", "\"small\"", MF_E_FORMAT, "\"rms_norm_eps\" must be a number" },
    { LLAMA, "rms_norm_eps", "-1", MF_E_UNSUPPORTED, "norm_eps is -1" },
    { LLAMA, "rms_norm_eps", "1e300", MF_E_UNSUPPORTED, "norm_eps is inf" },
    { LLAMA, "hidden_act", "\"mish\"", MF_E_UNSUPPORTED, "\"hidden_act\" is \"mish\"" },
    { LLAMA, "hidden_act", "[]", MF_E_FORMAT, "\"hidden_act\" must be a string" },
    { LLAMA, "tie_word_embeddings", "1", MF_E_FORMAT, "\"tie_word_embeddings\" must be true or false" },
    { LLAMA, "bos_token_id", "128", MF_E_UNSUPPORTED, "token 128 is outside the vocabulary" },
    { LLAMA, "bos_token_id", "-7", MF_E_FORMAT, "\"bos_token_id\" must be a token" },
    { LLAMA, "eos_token_id", "\"</s>\"", MF_E_FORMAT, "\"eos_token_id\" must be a token" },
    { LLAMA, "eos_token_id", "[1.5]", MF_E_FORMAT, "\"eos_token_id\" must be a token" },
    /* Rotations. */
    { LLAMA, "rope_theta", "0", MF_E_FORMAT, "base of rotations is 0" },
    { LLAMA, "rope_theta", "-10000", MF_E_FORMAT, "base of rotations is -10000" },
    { LLAMA, "rope_theta", "\"10000\"", MF_E_FORMAT, "\"rope_theta\" must be a number" },
    { LLAMA, "rope_scaling", "{\"type\": \"yarn\", \"factor\": 4}", MF_E_UNSUPPORTED, "\"yarn\"" },
    { LLAMA, "rope_scaling", "{\"rope_type\": \"longrope\"}", MF_E_UNSUPPORTED, "\"longrope\"" },
    { LLAMA, "rope_scaling", "{\"rope_type\": 3}", MF_E_FORMAT, "\"rope_type\" must be a string" },
    { LLAMA, "rope_scaling", "{\"type\": \"linear\"}", MF_E_FORMAT, "\"factor\" is missing" },
    { LLAMA, "rope_scaling", "{\"type\": \"linear\", \"factor\": 0}", MF_E_UNSUPPORTED, "rope_scaling" },
    { LLAMA, "rope_scaling", "[4]", MF_E_FORMAT, "\"rope_scaling\" must be an object" },
    { LLAMA, "rope_scaling", "{\"type\": \"llama3\", \"factor\": 8, \"low_freq_factor\": 4, \"high_freq_factor\": 4}",
      MF_E_UNSUPPORTED, "rope_scaling" },
    /* What the tensors contradict. */
    { LLAMA, "num_hidden_layers", "3", MF_E_FORMAT, "tensor model.layers.2.input_layernorm.weight is missing" },
    { LLAMA, "hidden_size", "128", MF_E_FORMAT, "configuration asks for 1 x 128" },
    { LLAMA, "num_attention_heads", "8", MF_E_FORMAT, "self_attn.q_proj.weight is [64, 64]" },
    { LLAMA, "num_key_value_heads", "4", MF_E_FORMAT, "self_attn.k_proj.weight is [16, 64]" },
    { LLAMA, "vocab_size", "256", MF_E_FORMAT, "weight is [128, 64]" },
    { LLAMA, "vocab_size", "64", MF_E_FORMAT, "weight is [128, 64]" },
    { LLAMA, "intermediate_size", "64", MF_E_FORMAT, "gate_proj.weight is [128, 64]" },
    { LLAMA, "attention_bias", "true", MF_E_FORMAT, "self_attn.q_proj.bias is missing" },
    { BIASED, "tie_word_embeddings", "false", MF_E_FORMAT, "lm_head.weight is missing" },
    { BIASED, "head_dim", "32", MF_E_FORMAT, "is [64" },
    /* What it says of nesting. */
    { LLAMA, "matformer", "[]", MF_E_FORMAT, "\"matformer\" must be an object" },
    { LLAMA, "matformer", "{\"granularities\": {}}", MF_E_FORMAT, "matformer: \"granularities\" must be an array" },
    { LLAMA, "matformer", "{\"granularities\": []}", MF_E_FORMAT, "\"granularities\" must have 1 to 16" },
    { LLAMA, "matformer", "{\"granularities\": [128]}", MF_E_FORMAT, "\"granularities\" must be objects" },
    { LLAMA, "matformer", "{\"granularities\": [{\"name\": \"S\"}]}", MF_E_FORMAT, "\"intermediate_size\" is missing" },
    { LLAMA, "matformer", "{\"granularities\": [{\"intermediate_size\": 128}]}", MF_E_UNSUPPORTED, "must be a letter" },
    { LLAMA, "matformer", "{\"granularities\": [{\"name\": \"sixteen_letters_\", \"intermediate_size\": 128}]}",
      MF_E_FORMAT, "\"name\" of a granularity must have" },
    { LLAMA, "matformer", "{\"granularities\": [{\"name\": \"S\", \"intermediate_size\": 64}]}", MF_E_FORMAT,
      "must have the whole model last" },
    { LLAMA, "matformer",
      "{\"granularities\": [{\"name\": \"S\", \"intermediate_size\": 63}, {\"name\": \"L\", \"intermediate_size\": "
      "128}]}",
      MF_E_UNSUPPORTED, "width 63" },
    { LLAMA, "matformer",
      "{\"granularities\": [{\"name\": \"S\", \"intermediate_size\": 64, \"num_attention_heads\": 3},"
      "{\"name\": \"L\", \"intermediate_size\": 128}]}",
      MF_E_UNSUPPORTED, "and 3 heads" },
    { LLAMA, "matformer", "{\"norm\": \"batch\"}", MF_E_UNSUPPORTED, "\"norm\" must be rms or layer" },
    { LLAMA, "matformer", "{\"norm\": \"layer\"}", MF_E_FORMAT, "norm.bias is missing" },
    { LLAMA, "matformer", "{\"ffn\": 1}", MF_E_FORMAT, "\"ffn\" must be a string" },
    { GEMMA, "matformer", "{\"granularities\": [{\"name\": \"S\", \"intermediate_size\": 128}]}", MF_E_UNSUPPORTED,
      "of Gemma 3n are its own: remove it" },
    /* Gemma 3n. */
    { GEMMA, "num_kv_shared_layers", "12", MF_E_FORMAT, "12 of 12 layers share" },
    { GEMMA, "num_kv_shared_layers", "11", MF_E_FORMAT, "layer 4 shares keys and values" },
    { GEMMA, "num_kv_shared_layers", "-1", MF_E_FORMAT, "\"num_kv_shared_layers\" must be an integer" },
    { GEMMA, "num_kv_shared_layers", "0", MF_E_FORMAT, "is missing" },
    { GEMMA, "layer_types", "[\"full_attention\"]", MF_E_FORMAT, "for layer 1" },
    { GEMMA, "layer_types", "\"full_attention\"", MF_E_FORMAT, "\"layer_types\" must be an array" },
    { GEMMA, "layer_types", "[1, 2, 3]", MF_E_FORMAT, "for layer 0" },
    { GEMMA, "activation_sparsity_pattern", "[0.95]", MF_E_FORMAT, "for layer 1" },
    { GEMMA, "activation_sparsity_pattern", "1.0", MF_E_FORMAT, "\"activation_sparsity_pattern\"" },
    { GEMMA, "activation_sparsity_pattern", "\"dense\"", MF_E_FORMAT, "\"activation_sparsity_pattern\"" },
    { GEMMA, "altup_active_idx", "4", MF_E_UNSUPPORTED, "gemma3n.active is 4 of 4" },
    { GEMMA, "altup_active_idx", "8", MF_E_FORMAT, "\"altup_active_idx\" must be an integer" },
    { GEMMA, "altup_num_inputs", "8", MF_E_FORMAT, "configuration asks for" },
    { GEMMA, "altup_num_inputs", "9", MF_E_FORMAT, "\"altup_num_inputs\" must be an integer" },
    { GEMMA, "altup_coef_clip", "-1", MF_E_UNSUPPORTED, "coef_clip is -1" },
    { GEMMA, "laurel_rank", "33", MF_E_UNSUPPORTED, "laurel_rank is 33" },
    { GEMMA, "hidden_size_per_layer_input", "64", MF_E_FORMAT, "configuration asks for" },
    { GEMMA, "vocab_size_per_layer_input", "300", MF_E_FORMAT, "embed_tokens_per_layer.weight is [288, 384]" },
    { GEMMA, "sliding_window", "0", MF_E_FORMAT, "\"sliding_window\" must be an integer" },
    { GEMMA, "final_logit_softcapping", "-30", MF_E_UNSUPPORTED, "logit_softcap is -30" },
    { GEMMA, "hidden_activation", "\"relu\"", MF_E_UNSUPPORTED, "\"hidden_activation\" must be" },
    { GEMMA, "rope_parameters", "{\"full_attention\": 3}", MF_E_FORMAT, "\"full_attention\" must be an object" },
    { GEMMA, "rope_parameters", "{\"full_attention\": {\"rope_type\": \"linear\", \"factor\": 2}}", MF_E_UNSUPPORTED,
      "scaled rotations are not supported" },
    { NESTED, "text_config/head_dim", "\"32\"", MF_E_FORMAT, "text_config: \"head_dim\" must be an integer" },
    { NESTED, "text_config/intermediate_size", "[64, 96, 32, 64]", MF_E_FORMAT, "no width for layer 4" },
    /* MatFormer-OLMo. */
    { OLMO, "n_layers", NULL, MF_E_FORMAT, "\"n_layers\" is missing" },
    { OLMO, "block_type", "\"llama\"", MF_E_UNSUPPORTED, "\"block_type\" must be" },
    { OLMO, "activation_type", "\"swiglu\"", MF_E_UNSUPPORTED, "\"activation_type\" must be" },
    { OLMO, "alibi", "false", MF_E_UNSUPPORTED, "\"rope\" must be true" },
    { OLMO, "alibi_bias_max", "0", MF_E_UNSUPPORTED, "\"alibi_bias_max\" must be" },
    { OLMO, "alibi_bias_max", "65", MF_E_UNSUPPORTED, "alibi_max is 65" },
    { OLMO, "attention_layer_norm", "true", MF_E_UNSUPPORTED, "\"attention_layer_norm\"" },
    { OLMO, "multi_query_attention", "false", MF_E_FORMAT, "att_proj" },
    { OLMO, "embedding_size", "96", MF_E_FORMAT, "\"vocab_size\" must be an integer from 1 to 96" },
    { OLMO, "mlp_ratio", "65", MF_E_FORMAT, "\"mlp_ratio\" must be an integer" },
    { OLMO, "n_heads", "3", MF_E_UNSUPPORTED, "d_head is 21" },
    { OLMO, "block_type", "\"parallel\"", MF_E_FORMAT, "configuration asks for" },
    { PARALLEL, "mlp_ratio", "4", MF_E_FORMAT, "fused_attn_ff_proj" },
    { PARALLEL, "block_type", "\"sequential\"", MF_E_FORMAT, "is" },
    /* ViT. */
    { VIT, "image_size", "[32, 32]", MF_E_FORMAT, "\"image_size\" must be an integer" },
    { VIT, "image_size", "16384", MF_E_FORMAT, "position_embeddings is [1, 17, 64]" },
    { VIT, "patch_size", "5", MF_E_UNSUPPORTED, "patches of 5" },
    { VIT, "patch_size", "0", MF_E_FORMAT, "\"patch_size\" must be an integer" },
    { VIT, "patch_size", "64", MF_E_FORMAT, "\"patch_size\" must be an integer" },
    { VIT, "num_channels", "1", MF_E_FORMAT, "projection.weight is [64, 3, 8, 8]" },
    { VIT, "qkv_bias", "false", MF_E_UNSUPPORTED, "\"qkv_bias\" must be true" },
    { VIT, "num_attention_heads", "3", MF_E_UNSUPPORTED, "d_head is 21" },
    { VIT, "hidden_size", "128", MF_E_FORMAT, "configuration asks for" },
};

Test(damaged, every_edit_of_a_configuration_is_refused_with_a_sentence)
{
    for (size_t i = 0; i < sizeof edits / sizeof *edits; i++) {
        const edit *e = &edits[i];
        char what[256];
        folder f = copy_checkpoint(e->checkpoint);
        snprintf(what, sizeof what, "%s: %s = %s", e->checkpoint, e->key, e->value ? e->value : "(none)");
        edit_json(&f, "config.json", e->key, e->value);
        expect_refused_by_all(f.path, e->status, e->says, what);
        folder_remove(&f);
    }
}

static const struct {
    const char *text, *says;
} no_json[] = { { "", "config.json: line" },
                { "{", "config.json: line 1" },
                { "[]", "config.json: the JSON is no object" },
                { "null", "config.json" },
                { "{\"model_type\": \"llama\"} x", "config.json: line 1" },
                { "{\"model_type\": \"llama\", \"model_type\": \"llama\"}", "config.json: line 1" },
                { "{\"model_type\": \"\xff\"}", "config.json: line 1" },
                { "{\"model_type\": NaN}", "config.json: line 1" },
                { "{'model_type': 1}", "config.json: line 1" } };

Test(damaged, what_is_no_json_is_refused)
{
    folder f = copy_checkpoint(LLAMA);
    for (size_t i = 0; i < sizeof no_json / sizeof *no_json; i++) {
        folder_write(&f, "config.json", no_json[i].text, strlen(no_json[i].text));
        expect_refused_by_all(f.path, MF_E_FORMAT, no_json[i].says, no_json[i].text);
    }
    bytes deep = { NULL, 0, 0 };
    emit(&deep, "r", "{\"a\":");
    for (size_t i = 0; i < 100000; i++)
        emit(&deep, "r", "[");
    folder_put(&f, "config.json", deep);
    expect_refused_by_all(f.path, MF_E_FORMAT, "more than 64 levels", "deep nesting");
    cr_assert_eq(truncate(folder_file(&f, "config.json"), 17 << 20), 0);
    expect_refused_by_all(f.path, MF_E_FORMAT, "bytes of JSON", "a long file");
    folder_remove(&f);
}

/* ---- Tensors against the configuration ---- */

typedef struct tensor_edit {
    const char *checkpoint, *tensor, *field, *value;
    mf_status status;
    const char *says;
} tensor_edit;

#define NO_NAME "unused"

static const tensor_edit tensor_edits[] = {
    { LLAMA, "lm_head.weight", "name", NO_NAME, MF_E_FORMAT, "tensor lm_head.weight is missing" },
    { LLAMA, "model.embed_tokens.weight", "name", NO_NAME, MF_E_FORMAT, "model.embed_tokens.weight is missing" },
    { LLAMA, "model.norm.weight", "name", NO_NAME, MF_E_FORMAT, "model.norm.weight is missing" },
    { LLAMA, "model.layers.1.mlp.up_proj.weight", "name", NO_NAME, MF_E_FORMAT, "layers.1.mlp.up_proj.weight" },
    { LLAMA, "model.layers.0.self_attn.v_proj.weight", "name", NO_NAME, MF_E_FORMAT, "v_proj.weight is missing" },
    { BIASED, "model.layers.1.self_attn.o_proj.bias", "name", NO_NAME, MF_E_FORMAT, "o_proj.bias is missing" },
    { BIASED, "model.layers.0.mlp.down_proj.bias", "name", NO_NAME, MF_E_FORMAT, "down_proj.bias is missing" },
    { GEMMA, "model.layers.3.altup.prediction_coefs.weight", "name", NO_NAME, MF_E_FORMAT, "prediction_coefs" },
    { GEMMA, "model.altup_projections.2.weight", "name", NO_NAME, MF_E_FORMAT, "altup_projections.2.weight" },
    { GEMMA, "model.per_layer_model_projection.weight", "name", NO_NAME, MF_E_FORMAT, "per_layer_model_projection" },
    { OLMO, "transformer.blocks.1.att_proj.weight", "name", NO_NAME, MF_E_FORMAT, "blocks.1" },
    { OLMO, "transformer.ln_f.bias", "name", NO_NAME, MF_E_FORMAT, "ln_f.bias is missing" },
    { VIT, "vit.embeddings.cls_token", "name", NO_NAME, MF_E_FORMAT, "cls_token is missing" },
    { VIT, "classifier.bias", "name", NO_NAME, MF_E_FORMAT, "classifier.bias is missing" },
    /* Transposed, flat, of other dimensions: as many elements as it should have. */
    { LLAMA, "model.embed_tokens.weight", "shape", "[64, 128]", MF_E_FORMAT, "is [64, 128]" },
    { LLAMA, "model.embed_tokens.weight", "shape", "[8192]", MF_E_FORMAT, "is [8192]" },
    { LLAMA, "model.layers.0.mlp.down_proj.weight", "shape", "[128, 64]", MF_E_FORMAT, "is [128, 64]" },
    { LLAMA, "model.layers.0.self_attn.k_proj.weight", "shape", "[64, 16]", MF_E_FORMAT, "is [64, 16]" },
    { LLAMA, "model.norm.weight", "shape", "[8, 8]", MF_E_FORMAT, "is [8, 8]" },
    { GEMMA, "model.layers.0.altup.prediction_coefs.weight", "shape", "[4, 16]", MF_E_FORMAT, "is [4, 16]" },
    { GEMMA, "model.layers.0.altup.modality_router.weight", "shape", "[64, 4]", MF_E_FORMAT, "is [64, 4]" },
    { GEMMA, "model.layers.0.altup.correction_coefs.weight", "shape", "[16]", MF_E_FORMAT, "is [16]" },
    { GEMMA, "model.per_layer_model_projection.weight", "shape", "[64, 384]", MF_E_FORMAT, "is [64, 384]" },
    { OLMO, "transformer.blocks.0.att_proj.weight", "shape", "[64, 96]", MF_E_FORMAT, "is [64, 96]" },
    { VIT, "vit.embeddings.position_embeddings", "shape", "[1, 64, 17]", MF_E_FORMAT, "is [1, 64, 17]" },
    { VIT, "vit.embeddings.patch_embeddings.projection.weight", "shape", "[3, 8, 8, 64]", MF_E_FORMAT,
      "is [3, 8, 8, 64]" },
    { VIT, "classifier.weight", "shape", "[64, 10]", MF_E_FORMAT, "classifier" },
    /* Types. */
    { LLAMA, "model.embed_tokens.weight", "dtype", "\"I16\"", MF_E_UNSUPPORTED, "has type I16" },
    { LLAMA, "model.norm.weight", "dtype", "\"U16\"", MF_E_UNSUPPORTED, "has type U16" },
    { LLAMA, "lm_head.weight", "dtype", "\"F8_NEW\"", MF_E_UNSUPPORTED, "has type F8_NEW" },
    { BIASED, "model.layers.0.mlp.up_proj.weight", "dtype", "\"F16\"", MF_E_FORMAT, "its shape and type make" },
    { BIASED, "model.layers.0.mlp.up_proj.weight", "dtype", "\"U32\"", MF_E_UNSUPPORTED, "has type U32" },
    { BIASED, "model.norm.weight", "dtype", "null", MF_E_FORMAT, "its dtype is no string" },
    { BIASED, "model.norm.weight", "shape", "null", MF_E_FORMAT, "its shape is no array" },
    { BIASED, "model.norm.weight", "shape", "[-64]", MF_E_FORMAT, "its shape is not of integers" },
    { BIASED, "model.norm.weight", "shape", "[0]", MF_E_FORMAT, "its shape and type make 0 bytes" },
    { BIASED, "model.norm.weight", "data_offsets", "[0, 256]", MF_E_FORMAT, "overlap those of" },
    { BIASED, "model.norm.weight", "data_offsets", "[0, 99999999]", MF_E_FORMAT, "fetch the rest" },
    { BIASED, "model.norm.weight", "data_offsets", "[]", MF_E_FORMAT, "its data_offsets are not two" },
};

Test(damaged, every_edit_of_a_tensor_is_refused_with_a_sentence)
{
    for (size_t i = 0; i < sizeof tensor_edits / sizeof *tensor_edits; i++) {
        const tensor_edit *e = &tensor_edits[i];
        char what[256];
        folder f = copy_checkpoint(e->checkpoint);
        snprintf(what, sizeof what, "%s: %s: %s = %s", e->checkpoint, e->tensor, e->field, e->value);
        edit_tensor(&f, e->tensor, e->field, e->value);
        expect_refused_by_all(f.path, e->status, e->says, what);
        folder_remove(&f);
    }
}

/* Its bytes are not held against its shape, whose product wraps around: the type was looked at last. */
Test(damaged, a_shape_beyond_64_bits_of_an_unknown_type_is_refused)
{
    folder f = copy_checkpoint(LLAMA);
    edit_tensor(&f, "model.norm.weight", "dtype", "\"F4_NEW\"");
    edit_tensor(&f, "model.norm.weight", "shape", "[4294967296, 4294967296, 64]");
    expect_refused_by_all(f.path, MF_E_UNSUPPORTED, "has type F4_NEW", "a shape beyond 64 bits");
    folder_remove(&f);
}

/* ---- Weights that are no numbers ---- */

/* As transformers writes it into tokenizer_config.json where there is no limit; the whole folder was refused. */
Test(damaged, an_integer_beyond_64_bits_that_nobody_reads_is_no_damage)
{
    static const char first[] = "{\"model_max_length\": 1000000000000000019884624838656,";
    mf_error error = MF_ERROR_INIT;
    mf_model *model = NULL;
    folder f = copy_checkpoint(LLAMA);
    bytes config = read_bytes(folder_file(&f, "config.json")), edited = { NULL, 0, 0 };
    put(&edited, first, sizeof first - 1);
    put(&edited, config.at + 1, config.n - 1);
    folder_put(&f, "config.json", edited);
    cr_assert_eq(mf_model_open(&model, f.path, NULL, &error), MF_OK, "%s", error.detail);
    mf_model_close(model);
    free(config.at);
    folder_remove(&f);
}

static void expect_value_refused(const char *checkpoint, const char *tensor, size_t index, const void *value,
                                 size_t each)
{
    char what[256];
    folder f = copy_checkpoint(checkpoint);
    snprintf(what, sizeof what, "%s: %s[%zu]", checkpoint, tensor, index);
    poke_tensor(&f, tensor, index, value, each);
    expect_refused_by_all(f.path, MF_E_RANGE, tensor, what);
    folder_remove(&f);
}

Test(damaged, weights_that_are_not_finite_are_refused_in_every_kind_of_tensor)
{
    static const uint16_t f16[] = { 0x7c00, 0xfc00, 0x7e00 }, bf16[] = { 0x7f80, 0xff80, 0x7fc0 };
    static const float f32[] = { INFINITY, -INFINITY, NAN };
    static const struct {
        const char *checkpoint, *tensor;
        size_t index;
    } places[] = {
        { LLAMA, "model.embed_tokens.weight", 0 },
        { LLAMA, "lm_head.weight", 128 * 64 - 1 },
        { LLAMA, "model.norm.weight", 63 },
        { LLAMA, "model.layers.0.input_layernorm.weight", 0 },
        { LLAMA, "model.layers.1.self_attn.q_proj.weight", 64 * 64 - 1 },
        { LLAMA, "model.layers.1.self_attn.k_proj.weight", 17 },
        { LLAMA, "model.layers.0.mlp.gate_proj.weight", 128 * 64 - 1 },
        { LLAMA, "model.layers.0.mlp.down_proj.weight", 127 },
        { GEMMA, "model.embed_tokens_per_layer.weight", 288 * 384 - 1 },
        { GEMMA, "model.per_layer_model_projection.weight", 384 * 64 - 1 },
        { GEMMA, "model.altup_projections.1.weight", 5 },
        { GEMMA, "model.altup_unembed_projections.2.weight", 4095 },
        { GEMMA, "model.layers.0.altup.modality_router.weight", 255 },
        { GEMMA, "model.layers.11.altup.prediction_coefs.weight", 63 },
        { GEMMA, "model.layers.5.laurel.linear_left.weight", 0 },
        { GEMMA, "model.layers.5.per_layer_projection.weight", 1 },
        { BIASED, "model.layers.0.self_attn.v_proj.bias", 63 },
        { BIASED, "model.layers.1.mlp.up_proj.bias", 0 },
        { OLMO, "transformer.blocks.0.att_proj.bias", 95 },
        { OLMO, "transformer.blocks.0.att_proj.weight", 96 * 64 - 1 },
        { OLMO, "transformer.blocks.1.ff_out.weight", 0 },
        { VIT, "vit.embeddings.cls_token", 63 },
        { VIT, "vit.embeddings.position_embeddings", 17 * 64 - 1 },
        { VIT, "vit.embeddings.patch_embeddings.projection.weight", 191 },
        { VIT, "classifier.weight", 639 },
        { VIT, "classifier.bias", 9 },
    };
    for (size_t i = 0; i < sizeof places / sizeof *places; i++) {
        const bool is_f16 = strcmp(places[i].checkpoint, LLAMA) == 0,
                   is_bf16 = strcmp(places[i].checkpoint, GEMMA) == 0;
        const void *value = is_f16    ? (const void *)&f16[i % 3]
                            : is_bf16 ? (const void *)&bf16[i % 3]
                                      : (const void *)&f32[i % 3];
        expect_value_refused(places[i].checkpoint, places[i].tensor, places[i].index, value, is_f16 || is_bf16 ? 2 : 4);
    }
}

/* A scale is all that makes a block infinite: in the first block of a matrix, and in its last. */
Test(damaged, scales_of_gguf_that_are_not_finite_are_refused_in_every_type)
{
    for (size_t t = 0; t < sizeof gguf_types / sizeof *gguf_types; t++)
        for (size_t i = 0; i + 1 < N_GGUF_TENSOR; i++) {
            const gguf_type *type = &gguf_types[t];
            const bool is_vector = gguf_tensors[i].rows == 0;
            if (is_vector && t > 0) continue;
            folder f = folder_make();
            bytes b = gguf_llama(type, NULL);
            const uint16_t value = strcmp(type->name, "F32") == 0 || strcmp(type->name, "BF16") == 0 ? 0x7fc0 : 0x7e00;
            const size_t last = (t + i) % 2 || is_vector ? gguf_bytes(i, type) - type->block_bytes : 0;
            unsigned char *block = b.at + b.n - gguf_from_end(i, type) + last;
            memset(block, 0xff, type->block_bytes);
            memcpy(block + type->scale_at, &value, sizeof value);
            folder_put(&f, "model.gguf", b);
            expect_refused_by_all(folder_file(&f, "model.gguf"), MF_E_RANGE, gguf_tensors[i].name, type->name);
            folder_remove(&f);
        }
}

/* The factors were divided by, and nobody looked at what came out. */
Test(damaged, factors_of_frequencies_that_are_no_factors_are_refused)
{
    static const float factors[] = { 0, -1, NAN, INFINITY };
    for (size_t i = 0; i < sizeof factors / sizeof *factors; i++) {
        folder f = folder_make();
        bytes b = gguf_llama(&gguf_types[1], NULL);
        memcpy(b.at + b.n - 4 * (1 + i), &factors[i], 4);
        folder_put(&f, "model.gguf", b);
        expect_refused_by_all(folder_file(&f, "model.gguf"), MF_E_RANGE, "rope_freqs.weight", "factors");
        folder_remove(&f);
    }
}

/* ---- Metadata of GGUF ---- */

static const struct {
    gguf_extra extra;
    mf_status status;
    const char *says;
} metadata[] = {
    { { "general.architecture", UINT32_MAX, NULL, 0 }, MF_E_FORMAT, "general.architecture" },
    { { "general.architecture", MFI_GGUF_STRING, "bert", 0 }, MF_E_UNSUPPORTED, "\"bert\"" },
    { { "general.architecture", MFI_GGUF_STRING, "gemma3n", 0 }, MF_E_FORMAT, "gemma3n.block_count" },
    { { "general.architecture", MFI_GGUF_U32, NULL, 7 }, MF_E_FORMAT, "general.architecture" },
    { { "llama.block_count", UINT32_MAX, NULL, 0 }, MF_E_FORMAT, "llama.block_count\" is missing" },
    { { "llama.block_count", MFI_GGUF_U32, NULL, 0 }, MF_E_FORMAT, "llama.block_count" },
    { { "llama.block_count", MFI_GGUF_U32, NULL, 2 }, MF_E_FORMAT, "blk.1.attn_norm.weight is missing" },
    { { "llama.block_count", MFI_GGUF_STRING, "1", 0 }, MF_E_FORMAT, "llama.block_count" },
    { { "llama.embedding_length", MFI_GGUF_U32, NULL, 512 }, MF_E_FORMAT, "configuration asks for" },
    { { "llama.attention.head_count", MFI_GGUF_U32, NULL, 4e9 }, MF_E_FORMAT, "llama.attention.head_count" },
    { { "llama.attention.head_count_kv", MFI_GGUF_U32, NULL, 3 }, MF_E_UNSUPPORTED, "3 key/value heads" },
    { { "llama.attention.head_count_kv", MFI_GGUF_STRING, "2", 0 }, MF_E_FORMAT, "llama.attention.head_count_kv" },
    { { "llama.attention.head_count_kv", MFI_GGUF_F32, NULL, 1.5 }, MF_E_FORMAT, "llama.attention.head_count_kv" },
    { { "llama.attention.key_length", MFI_GGUF_U32, NULL, 128 }, MF_E_FORMAT, "configuration asks for" },
    { { "llama.feed_forward_length", MFI_GGUF_U32, NULL, 0 }, MF_E_UNSUPPORTED, "d_ff is 0" },
    { { "llama.feed_forward_length", MFI_GGUF_F32, NULL, NAN }, MF_E_FORMAT, "llama.feed_forward_length" },
    { { "llama.attention.layer_norm_rms_epsilon", UINT32_MAX, NULL, 0 }, MF_E_FORMAT, "rms_epsilon\" is missing" },
    { { "llama.attention.layer_norm_rms_epsilon", MFI_GGUF_F32, NULL, NAN }, MF_E_FORMAT, "rms_epsilon" },
    { { "llama.rope.freq_base", MFI_GGUF_F32, NULL, 0 }, MF_E_FORMAT, "base of rotations is 0" },
    { { "llama.rope.freq_base", MFI_GGUF_F32, NULL, INFINITY }, MF_E_FORMAT, "llama.rope.freq_base" },
    { { "llama.rope.freq_base", MFI_GGUF_STRING, "10000", 0 }, MF_E_FORMAT, "llama.rope.freq_base" },
    { { "llama.rope.scaling.type", MFI_GGUF_STRING, "yarn", 0 }, MF_E_UNSUPPORTED, "\"yarn\"" },
    { { "llama.rope.scaling.factor", MFI_GGUF_F32, NULL, 0.5 }, MF_E_UNSUPPORTED, "rope_scaling" },
    { { "llama.context_length", MFI_GGUF_U32, NULL, 0 }, MF_E_FORMAT, "llama.context_length" },
    { { "llama.expert_count", MFI_GGUF_U32, NULL, 8 }, MF_E_UNSUPPORTED, "llama.expert_count" },
    { { "general.alignment", MFI_GGUF_U32, NULL, 24 }, MF_E_FORMAT, "general.alignment" },
};

Test(damaged, metadata_of_gguf_is_refused_with_a_sentence)
{
    for (size_t i = 0; i < sizeof metadata / sizeof *metadata; i++) {
        char what[256];
        folder f = folder_make();
        folder_put(&f, "model.gguf", gguf_llama(&gguf_types[3], &metadata[i].extra));
        snprintf(what, sizeof what, "%s, %zu", metadata[i].extra.key, i);
        expect_refused_by_all(folder_file(&f, "model.gguf"), metadata[i].status, metadata[i].says, what);
        folder_remove(&f);
    }
}

Test(damaged, the_gguf_that_is_damaged_opens_as_it_is)
{
    for (size_t t = 0; t < sizeof gguf_types / sizeof *gguf_types; t++) {
        mf_error error = MF_ERROR_INIT;
        mf_model *model = NULL;
        folder f = folder_make();
        folder_put(&f, "model.gguf", gguf_llama(&gguf_types[t], NULL));
        cr_assert_eq(mf_model_open(&model, folder_file(&f, "model.gguf"), NULL, &error), MF_OK, "%s", error.detail);
        mf_model_close(model);
        folder_remove(&f);
    }
}

/* ---- Tokenizers ---- */

Test(damaged, a_tokenizer_of_more_tokens_than_the_model_has_is_refused)
{
    static const struct {
        const char *from, *to;
    } tokenizers[] = { { "llama2.model", "tokenizer.model" },
                       { "gemma.model", "tokenizer.model" },
                       { "llama3.json", "tokenizer.json" },
                       { "gemma.json", "tokenizer.json" } };
    for (size_t i = 0; i < sizeof tokenizers / sizeof *tokenizers; i++) {
        char from[512];
        folder f = copy_checkpoint(LLAMA);
        snprintf(from, sizeof from, "%s/tokenizers/%s", GOLDEN_DIR, tokenizers[i].from);
        unlink(folder_file(&f, "generation_config.json"));
        folder_put(&f, tokenizers[i].to, read_bytes(from));
        expect_refused_by_all(f.path, MF_E_FORMAT, "the tokenizer has", tokenizers[i].from);
        folder_remove(&f);
    }
}

/* ---- Paths ---- */

Test(damaged, a_folder_without_its_files_is_refused)
{
    folder f = folder_make();
    expect_refused_by_all(f.path, MF_E_NOT_FOUND, "no config.json", "an empty folder");
    folder_remove(&f);
    f = copy_checkpoint(LLAMA);
    unlink(folder_file(&f, TENSORS));
    expect_refused_by_all(f.path, MF_E_NOT_FOUND, "neither model.safetensors nor", "no tensors");
    folder_remove(&f);
    f = copy_checkpoint("llama_grouped_bf16_sharded");
    unlink(folder_file(&f, "model-00002-of-00002.safetensors"));
    expect_not_opened(f.path, MF_E_NOT_FOUND, "model-00002-of-00002.safetensors", "a shard");
    folder_remove(&f);
}

Test(damaged, what_is_no_file_is_refused_and_not_waited_for)
{
    folder f = copy_checkpoint(LLAMA);
    unlink(folder_file(&f, TENSORS));
    cr_assert_eq(mkfifo(folder_file(&f, TENSORS), 0600), 0);
    expect_refused_by_all(f.path, MF_E_FORMAT, "model.safetensors: not a regular file", "a FIFO");
    unlink(folder_file(&f, TENSORS));
    cr_assert_eq(mkdir(folder_file(&f, TENSORS), 0700), 0);
    expect_refused_by_all(f.path, MF_E_FORMAT, "model.safetensors: not a regular file", "a folder");
    cr_assert_eq(rmdir(folder_file(&f, TENSORS)), 0);
    unlink(folder_file(&f, "config.json"));
    cr_assert_eq(mkfifo(folder_file(&f, "config.json"), 0600), 0);
    expect_refused_by_all(f.path, MF_E_FORMAT, "config.json: not a regular file", "a FIFO");
    folder_remove(&f);

    f = folder_make();
    cr_assert_eq(mkdir(folder_file(&f, "model.gguf"), 0700), 0);
    expect_refused_by_all(folder_file(&f, "model.gguf"), MF_E_NOT_FOUND, "model.gguf: there is no config.json",
                          "a folder");
    cr_assert_eq(rmdir(folder_file(&f, "model.gguf")), 0);
    cr_assert_eq(mkfifo(folder_file(&f, "model.gguf"), 0600), 0);
    expect_refused_by_all(folder_file(&f, "model.gguf"), MF_E_FORMAT, "not a regular file", "a FIFO");
    unlink(folder_file(&f, "model.gguf"));
    cr_assert_eq(symlink("model.gguf", folder_file(&f, "model.gguf")), 0);
    expect_refused_by_all(folder_file(&f, "model.gguf"), MF_E_IO, "symbolic links", "a link to itself");
    folder_remove(&f);
}

Test(damaged, a_path_that_is_too_long_is_refused_with_the_reason)
{
    static char path[5001];
    memset(path, 'a', sizeof path - 1);
    for (size_t length = 4000; length <= 5000; length++) {
        path[length] = '\0';
        mf_error error = MF_ERROR_INIT;
        mf_model *model = NULL;
        mf_source *source = NULL;
        cr_assert_neq(mf_model_open(&model, path, NULL, &error), MF_OK);
        cr_assert(strstr(error.detail, "too long"), "%s", error.detail);
        cr_assert_neq(mf_source_open(&source, path, NULL, &error), MF_OK);
        cr_assert(strstr(error.detail, "too long"), "%s", error.detail);
        path[length] = 'a';
    }
}

/* The superuser may read everything. */
Test(damaged, what_may_not_be_read_is_refused)
{
    if (geteuid() == 0) return;
    folder f = copy_checkpoint(LLAMA);
    cr_assert_eq(chmod(folder_file(&f, TENSORS), 0), 0);
    expect_refused_by_all(f.path, MF_E_IO, "model.safetensors: Permission denied", "a file");
    cr_assert_eq(chmod(f.path, 0), 0);
    expect_refused_by_all(f.path, MF_E_IO, "Permission denied", "a folder");
    cr_assert_eq(chmod(f.path, 0700), 0);
    folder_remove(&f);
}

/* ---- What only looked right ---- */

static uint64_t count_weights(const char *path)
{
    mf_error error = MF_ERROR_INIT;
    mf_model *model = NULL;
    mf_model_info info = MF_MODEL_INFO_INIT;
    cr_assert_eq(mf_model_open(&model, path, NULL, &error), MF_OK, "%s", error.detail);
    cr_assert_eq(mf_model_info_get(model, &info), MF_OK);
    mf_model_close(model);
    return info.n_param;
}

/* All tensors get `prefix`, and a copy of the embedding is the output matrix. */
static void untie_olmo(folder *f, const char *prefix)
{
    open_tensors t = read_tensors(f, TENSORS);
    json_t *renamed = json_object(), *output = json_deep_copy(tensor_entry(&t, "transformer.wte.weight")), *entry;
    json_t *offsets = json_object_get(output, "data_offsets");
    const size_t end = t.file.n - t.data_at, begin = (size_t)json_integer_value(json_array_get(offsets, 0));
    const size_t n = (size_t)json_integer_value(json_array_get(offsets, 1)) - begin;
    const char *name;
    json_object_set_new(t.header, "transformer.ff_out.weight", output);
    json_array_set_new(offsets, 0, json_integer((json_int_t)end));
    json_array_set_new(offsets, 1, json_integer((json_int_t)(end + n)));
    unsigned char *copy = malloc(n);
    memcpy(copy, t.file.at + t.data_at + begin, n);
    put(&t.file, copy, n);
    free(copy);
    json_object_foreach(t.header, name, entry)
    {
        char longer[256];
        snprintf(longer, sizeof longer, "%s%s", name[0] == '_' ? "" : prefix, name);
        json_object_set(renamed, longer, entry);
    }
    json_decref(t.header);
    t.header = renamed;
    write_tensors(f, TENSORS, &t);
}

/* Without "weight_tying" the output matrix was looked for under one of the two prefixes alone, and the embedding taken. */
Test(damaged, an_output_matrix_counts_under_either_prefix)
{
    static const char *const prefixes[] = { "", "model." };
    for (size_t i = 0; i < 2; i++) {
        folder f = copy_checkpoint(OLMO);
        const uint64_t tied = count_weights(f.path);
        untie_olmo(&f, prefixes[i]);
        cr_assert_eq(count_weights(f.path), tied + 112 * 64, "prefix \"%s\"", prefixes[i]);
        folder_remove(&f);
    }
}

/* They became infinite without a word. */
Test(damaged, weights_that_the_type_of_an_export_does_not_hold_are_refused)
{
    static const float large = 1e30f;
    mf_error error = MF_ERROR_INIT;
    mf_source *source = NULL;
    mf_export_options options = MF_EXPORT_OPTIONS_INIT;
    char out[128];
    folder f = copy_checkpoint(BIASED);
    snprintf(out, sizeof out, "/tmp/mf-test-out-%ld", (long)getpid());
    poke_tensor(&f, "model.layers.1.mlp.up_proj.weight", 77, &large, sizeof large);
    options.type = MF_WEIGHT_F16;
    cr_assert_eq(mf_source_open(&source, f.path, NULL, &error), MF_OK, "%s", error.detail);
    cr_assert_eq(mf_export(source, out, &options, &error), MF_E_RANGE);
    expect_sentence(&error, MF_E_RANGE, out, "model.layers.1.mlp.up_proj.weight", "1e30 as f16");
    cr_assert_neq(access(out, F_OK), 0);
    mf_source_close(source);
    folder_remove(&f);
}
