/* write_expected.c - what a view of a model computes for given tokens, in the form of golden/expected_file.py, so that
 * check_export.py and check_gguf.py can compare others with us: write_expected MODEL VIEW N OUT runs N tokens ("" is all
 * of the model). */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "checkpoint_fixture.h"
#include "run_model.h"

static void put_u32(FILE *out, uint32_t value)
{
    fwrite(&value, sizeof value, 1, out);
}

static void put_text(FILE *out, const char *text)
{
    const size_t n = strlen(text);
    put_u32(out, (uint32_t)n);
    fwrite(text, 1, n, out);
    fwrite("\0\0\0", 1, (4 - n % 4) % 4, out);
}

static void put_case(FILE *out, const char *view, const int32_t *tokens, const outputs *o)
{
    put_u32(out, EXPECTED_MAGIC);
    put_u32(out, 1);
    put_text(out, "ours");
    put_text(out, view);
    put_u32(out, 2);
    put_text(out, "tokens");
    put_u32(out, 1); /* i32 */
    put_u32(out, 1);
    put_u32(out, (uint32_t)o->n_token);
    fwrite(tokens, sizeof *tokens, o->n_token, out);
    put_text(out, "logits");
    put_u32(out, 0); /* f32 */
    put_u32(out, 2);
    put_u32(out, (uint32_t)o->n_token);
    put_u32(out, (uint32_t)o->n_vocab);
    fwrite(o->logits, sizeof *o->logits, o->n_token * o->n_vocab, out);
}

static int write_model(const char *path, const char *text, size_t n, const char *to)
{
    mf_error error = MF_ERROR_INIT;
    const mf_model_options options = test_options(NULL);
    mf_model *model;
    mf_submodel *view;
    rng r = { 3 };
    if (mf_model_open(&model, path, &options, &error) != MF_OK ||
        (text[0] ? mf_extract_submodel_text(&view, model, text, &error)
                 : mf_extract_submodel(&view, model, NULL, &error)) != MF_OK) {
        fprintf(stderr, "%s\n", error.detail);
        return 1;
    }
    int32_t *tokens = new_tokens(model, n, &r);
    outputs o = run_alone(model, view, tokens, n);
    FILE *out = fopen(to, "wb");
    if (out) put_case(out, text, tokens, &o);
    const int failed = !out || fclose(out) != 0;
    drop_outputs(&o);
    free(tokens);
    mf_submodel_close(view);
    mf_model_close(model);
    return failed;
}

int main(int argc, char **argv)
{
    const long n = argc == 5 ? strtol(argv[3], NULL, 10) : 0;
    if (n > 0) return write_model(argv[1], argv[2], (size_t)n, argv[4]);
    fprintf(stderr, "usage: write_expected MODEL VIEW N OUT\n");
    return 2;
}
