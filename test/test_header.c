/* The public headers compile alone and without warnings, as C99 here and as C++17 in test_header.cc, and
 * every INIT macro is a full initialiser in both. Built with the warnings that careful users turn on. */
#include "matformer.h"
#include "matformer_tools.h"
#include "matformer_train.h"

#define CHECK_INIT(type, init)                  \
    do {                                        \
        type made = init;                       \
        if (made.struct_size != sizeof(type)) { \
            return 1;                           \
        }                                       \
    } while (0)

int main(void)
{
    CHECK_INIT(mf_error, MF_ERROR_INIT);
    CHECK_INIT(mf_model_options, MF_MODEL_OPTIONS_INIT);
    CHECK_INIT(mf_model_info, MF_MODEL_INFO_INIT);
    CHECK_INIT(mf_submodel_spec, MF_SUBMODEL_SPEC_INIT);
    CHECK_INIT(mf_submodel_info, MF_SUBMODEL_INFO_INIT);
    CHECK_INIT(mf_executor_options, MF_EXECUTOR_OPTIONS_INIT);
    CHECK_INIT(mf_session_options, MF_SESSION_OPTIONS_INIT);
    CHECK_INIT(mf_tokenize_options, MF_TOKENIZE_OPTIONS_INIT);
    CHECK_INIT(mf_sampler_options, MF_SAMPLER_OPTIONS_INIT);
    CHECK_INIT(mf_generate_options, MF_GENERATE_OPTIONS_INIT);
    CHECK_INIT(mf_generate_result, MF_GENERATE_RESULT_INIT);
    CHECK_INIT(mf_governor_info, MF_GOVERNOR_INFO_INIT);
    CHECK_INIT(mf_governor_options, MF_GOVERNOR_OPTIONS_INIT);
    CHECK_INIT(mf_governor_member, MF_GOVERNOR_MEMBER_INIT);
    CHECK_INIT(mf_governor_step, MF_GOVERNOR_STEP_INIT);
    CHECK_INIT(mf_governor_signals, MF_GOVERNOR_SIGNALS_INIT);
    CHECK_INIT(mf_source_options, MF_SOURCE_OPTIONS_INIT);
    CHECK_INIT(mf_source_info, MF_SOURCE_INFO_INIT);
    CHECK_INIT(mf_convert_options, MF_CONVERT_OPTIONS_INIT);
    CHECK_INIT(mf_convert_report, MF_CONVERT_REPORT_INIT);
    CHECK_INIT(mf_train_model, MF_TRAIN_MODEL_INIT);
    CHECK_INIT(mf_trainer_options, MF_TRAINER_OPTIONS_INIT);
    CHECK_INIT(mf_trainer_info, MF_TRAINER_INFO_INIT);
    CHECK_INIT(mf_train_report, MF_TRAIN_REPORT_INIT);
    CHECK_INIT(mf_train_view, MF_TRAIN_VIEW_INIT);
    CHECK_INIT(mf_train_export_options, MF_TRAIN_EXPORT_OPTIONS_INIT);
    CHECK_INIT(mf_grow_options, MF_GROW_OPTIONS_INIT);
    CHECK_INIT(mf_trim_options, MF_TRIM_OPTIONS_INIT);
    CHECK_INIT(mf_shell_info, MF_SHELL_INFO_INIT);
    CHECK_INIT(mf_plan_info, MF_PLAN_INFO_INIT);
    CHECK_INIT(mf_plan_entry, MF_PLAN_ENTRY_INIT);
    CHECK_INIT(mf_plan_draft, MF_PLAN_DRAFT_INIT);
    CHECK_INIT(mf_source_size, MF_SOURCE_SIZE_INIT);
    CHECK_INIT(mf_source_tensor, MF_SOURCE_TENSOR_INIT);
    CHECK_INIT(mf_source_rounding, MF_SOURCE_ROUNDING_INIT);
    CHECK_INIT(mf_export_options, MF_EXPORT_OPTIONS_INIT);
    CHECK_INIT(mf_split_options, MF_SPLIT_OPTIONS_INIT);
    CHECK_INIT(mf_plan_options, MF_PLAN_OPTIONS_INIT);
    return 0;
}
