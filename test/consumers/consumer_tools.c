/* consumer_tools MODEL OUT - writes a model's size S to a file of its own with libmatformer-tools, and opens that. */
#include <matformer_tools.h>
#include <stdio.h>

int main(int argc, char **argv)
{
    mf_error error = MF_ERROR_INIT;
    mf_source *source = NULL;
    mf_model *model = NULL;
    mf_model_info info = MF_MODEL_INFO_INIT;
    mf_convert_options options = MF_CONVERT_OPTIONS_INIT;
    options.type = MF_WEIGHT_Q8;
    options.submodel = "S";

    mf_status status = argc == 3 ? mf_source_open(&source, argv[1], NULL, &error) : MF_E_INVALID;
    if (status == MF_OK) status = mf_convert(source, argv[2], &options, NULL, &error);
    if (status == MF_OK) status = mf_model_open(&model, argv[2], NULL, &error);
    if (status == MF_OK) status = mf_model_info_get(model, &info);
    if (status == MF_OK) printf("%u layers\n", (unsigned)info.n_layer);
    if (status != MF_OK) fprintf(stderr, "%s: %s\n", mf_status_name(status), error.detail);
    mf_model_close(model);
    mf_source_close(source);
    return status != MF_OK;
}
