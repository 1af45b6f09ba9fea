/* test_slices.c - published slicing configurations, as comma-separated values, to names that views take. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "matformer_tools.h"
#include "run_model.h"

#define HEADER "name,# Layers,# Effective Params (B),MMLU PT accuracy,FFN Hidden Dims,Layers Skipped\n"

/* Of gemma3n in golden/: 12 layers of 256, of which 4 and 6 are read by others. */
static mf_source *open_gemma(void)
{
    char path[512];
    mf_source *source;
    snprintf(path, sizeof path, "%s/checkpoints/gemma3n", GOLDEN_DIR);
    cr_assert_eq(mf_source_open(&source, path, NULL, NULL), MF_OK);
    return source;
}

static temporary_path write_text(const char *text)
{
    temporary_path path = new_path();
    FILE *file = fopen(path.text, "wb");
    cr_assert(file && fwrite(text, 1, strlen(text), file) == strlen(text) && fclose(file) == 0);
    return path;
}

static mf_status add_slices(mf_source *source, const char *text, mf_error *error)
{
    const temporary_path path = write_text(text);
    const mf_status status = mf_source_add_slices(source, path.text, error);
    unlink(path.text);
    return status;
}

static void expect_widths(mf_model *model, const char *name, const uint32_t expected[12])
{
    mf_submodel *view;
    mf_error error = MF_ERROR_INIT;
    cr_assert_eq(mf_extract_submodel_text(&view, model, name, &error), MF_OK, "%s", error.detail);
    for (uint32_t layer = 0; layer < 12; layer++) {
        uint32_t ffn;
        int kept;
        cr_assert_eq(mf_submodel_layer(view, layer, &ffn, NULL, &kept), MF_OK);
        cr_assert(ffn == expected[layer] && kept == (expected[layer] > 0), "%s, layer %u: %u", name, layer, ffn);
    }
    mf_submodel_close(view);
}

Test(slices, rows_become_names_that_views_take)
{
    static const char text[] = HEADER
        "Config for E2.54B (layer-level),12,2.54,55.4,\"[64 * 4, 1_28, 128, 128, 128,128,128,128,128,128,128, "
        "32*1]\",\r\n"
        "\n"
        "Config for E2.98B (block-level),10,2.98,59.5,\"[128,128,128,128,128,128,128,128,128,128]\",\"[7, 9]\"\r\n"
        "tiny one,12,1,1,\"[32,32,32,32,32,32,32,32,32,32,32,32]\",[]";
    mf_source *source = open_gemma();
    mf_error error = MF_ERROR_INIT;
    cr_assert_eq(add_slices(source, text, &error), MF_OK, "%s", error.detail);
    cr_assert_eq(add_slices(source, text, &error), MF_OK, "%s", error.detail); /* the same names again */
    const temporary_path file = new_path();
    cr_assert_eq(mf_convert(source, file.text, NULL, NULL, &error), MF_OK, "%s", error.detail);
    mf_source_close(source);
    mf_model *model;
    cr_assert_eq(mf_model_open(&model, file.text, NULL, NULL), MF_OK);
    expect_widths(model, "E2.54", (uint32_t[12]){ 256, 128, 128, 128, 128, 128, 128, 128, 128, 128, 128, 32 });
    expect_widths(model, "E2.98-block", (uint32_t[12]){ 128, 128, 128, 128, 128, 128, 128, 0, 128, 0, 128, 128 });
    expect_widths(model, "tinyone", (uint32_t[12]){ 32, 32, 32, 32, 32, 32, 32, 32, 32, 32, 32, 32 });
    cr_assert_str_eq(mf_model_configuration(model, 2), "tinyone");
    cr_assert(mf_model_configuration(model, 3) == NULL);
    mf_model_close(model);
    unlink(file.text);
}

Test(slices, what_is_wrong_is_said_with_its_line)
{
#define TWELVE "[32,32,32,32,32,32,32,32,32,32,32,32]"
    static const struct {
        const char *text;
        mf_status status;
        const char *part;
    } wrong[] = {
        { "", MF_E_FORMAT, "no column \"name\"" },
        { "name,Layers Skipped\n", MF_E_FORMAT, "no column \"FFN Hidden Dims\"" },
        { HEADER "E1,12,1,1,\"" TWELVE "\"\n", MF_E_FORMAT, "line 2: another number of columns" },
        { HEADER "E1,12,1,1,\"" TWELVE ",\n", MF_E_FORMAT, "line 2: a quotation that does not end" },
        { HEADER "E1,12,1,1,\"" TWELVE "\"x,\n", MF_E_FORMAT, "line 2: text after a quotation" },
        { HEADER "12,12,1,1,\"" TWELVE "\",\n", MF_E_FORMAT, "\"name\" has no letter" },
        { HEADER "E1,12,1,1,\"[32,32]\",\n", MF_E_FORMAT, "fewer widths" },
        { HEADER "E1,12,1,1,\"" TWELVE "\",[7]\n", MF_E_FORMAT, "more widths" },
        { HEADER "E1,12,1,1,\"[33,32,32,32,32,32,32,32,32,32,32,32]\",\n", MF_E_WIDTH, "width 33 of layer 0" },
        { HEADER "E1,12,1,1,\"[0,32,32,32,32,32,32,32,32,32,32,32]\",\n", MF_E_WIDTH, "width 0 of layer 0" },
        { HEADER "E1,12,1,1,\"[512,32,32,32,32,32,32,32,32,32,32,32]\",\n", MF_E_WIDTH, "width 512" },
        { HEADER "E1,12,1,1,\"[32,32,32,32,32,32,32,32,32,32,32]\",[4]\n", MF_E_WIDTH, "layer 4 may not be skipped" },
        { HEADER "E1,12,1,1,\"[32,32,32,32,32,32,32,32,32,32,32]\",[12]\n", MF_E_FORMAT, "has not" },
        { HEADER "E1,12,1,1,\"[32 + 32]\",\n", MF_E_FORMAT, "no list of widths" },
        { HEADER "E1,12,1,1,\"[99999999999]\",\n", MF_E_FORMAT, "no list of widths" },
        { HEADER "E1,12,1,1,\"[_1]\",\n", MF_E_FORMAT, "no list of widths" },
        { HEADER "E1,12,1,1,\"" TWELVE "\",[a]\n", MF_E_FORMAT, "no list of layers" },
        { HEADER "E1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1\n", MF_E_FORMAT, "more than 16 columns" },
    };
    mf_source *source = open_gemma();
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        mf_error error = MF_ERROR_INIT;
        cr_assert_eq(add_slices(source, wrong[i].text, &error), wrong[i].status, "%zu: %s", i, error.detail);
        cr_assert(strstr(error.detail, wrong[i].part), "%zu: \"%s\" does not say %s", i, error.detail, wrong[i].part);
    }
    mf_error error = MF_ERROR_INIT;
    cr_assert_eq(mf_source_add_slices(source, "/nonexistent.csv", &error), MF_E_NOT_FOUND);
    mf_source_close(source);
}
