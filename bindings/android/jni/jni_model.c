/* jni_model.c - models, what of them is in memory, and views. */
#include <stdlib.h>

#include "jni_common.h"
#include "org_libmatformer_Native.h"

#define COUNT(array) (sizeof(array) / sizeof *(array))

/* ---- Model ---- */

JNIEXPORT jlong JNICALL Java_org_libmatformer_Native_modelOpen(JNIEnv *env, jclass type, jbyteArray path, jint fd,
                                                               jlong offset, jlong length, jint load, jint verify,
                                                               jint arithmetic, jbyteArray widest, jint threads,
                                                               jlong cache_bytes, jobject progress)
{
    (void)type;
    char *file = NULL, *granularity = NULL;
    mfj_progress told;
    mf_model *model = NULL;
    if (mfj_copy_text(env, path, &file) && mfj_copy_text(env, widest, &granularity) &&
        mfj_progress_of(env, progress, &told)) {
        mf_error error = MF_ERROR_INIT;
        mf_model_options options = MF_MODEL_OPTIONS_INIT;
        options.load = (mf_load)load;
        options.verify = (mf_verify)verify;
        options.arithmetic = (mf_arithmetic)arithmetic;
        options.widest = granularity;
        options.n_thread = (uint32_t)threads;
        options.cache_bytes = (uint64_t)cache_bytes;
        options.progress = progress != NULL ? mfj_on_progress : NULL;
        options.progress_user = &told;
        const mf_status status =
            path != NULL ? mf_model_open(&model, file, &options, &error)
                         : mf_model_open_fd(&model, fd, (uint64_t)offset, (uint64_t)length, &options, &error);
        if (!mfj_check(env, status, &error)) {
            mf_model_close(model);
            model = NULL;
        }
    }
    free(file);
    free(granularity);
    return mfj_address(model);
}

JNIEXPORT void JNICALL Java_org_libmatformer_Native_modelClose(JNIEnv *env, jclass type, jlong model)
{
    (void)env;
    (void)type;
    mf_model_close(mfj_pointer(model));
}

JNIEXPORT void JNICALL Java_org_libmatformer_Native_modelInfo(JNIEnv *env, jclass type, jlong model, jlongArray numbers)
{
    (void)type;
    mf_model_info i = MF_MODEL_INFO_INIT;
    if (!mfj_check(env, mf_model_info_get(mfj_pointer(model), &i), NULL)) return;
    const jlong values[] = { i.n_layer,
                             i.d_model,
                             i.n_head,
                             i.n_kv_head,
                             i.d_head,
                             i.d_ff,
                             i.n_vocab,
                             i.max_positions,
                             i.n_granularity,
                             i.quantum,
                             i.n_shell,
                             i.n_shell_resident,
                             (jlong)i.n_param,
                             (jlong)i.file_bytes,
                             (jlong)i.weight_bytes,
                             (jlong)i.mapped_bytes,
                             (jlong)i.allocated_bytes,
                             i.bos_token,
                             i.eos_token,
                             i.arithmetic,
                             i.image_size,
                             i.patch_size,
                             i.n_channel,
                             i.n_class,
                             i.n_token };
    mfj_set_numbers(env, numbers, values, COUNT(values));
}

JNIEXPORT jbyteArray JNICALL Java_org_libmatformer_Native_modelFamily(JNIEnv *env, jclass type, jlong model)
{
    (void)type;
    mf_model_info info = MF_MODEL_INFO_INIT;
    return mfj_check(env, mf_model_info_get(mfj_pointer(model), &info), NULL) ? mfj_bytes(env, info.family) : NULL;
}

JNIEXPORT jbyteArray JNICALL Java_org_libmatformer_Native_modelCpu(JNIEnv *env, jclass type, jlong model)
{
    (void)type;
    mf_model_info info = MF_MODEL_INFO_INIT;
    return mfj_check(env, mf_model_info_get(mfj_pointer(model), &info), NULL) ? mfj_bytes(env, info.cpu) : NULL;
}

JNIEXPORT jbyteArray JNICALL Java_org_libmatformer_Native_modelGranularity(JNIEnv *env, jclass type, jlong model,
                                                                           jint index)
{
    (void)type;
    return mfj_bytes(env, mf_model_granularity(mfj_pointer(model), (uint32_t)index));
}

JNIEXPORT jbyteArray JNICALL Java_org_libmatformer_Native_modelConfiguration(JNIEnv *env, jclass type, jlong model,
                                                                             jint index)
{
    (void)type;
    return mfj_bytes(env, mf_model_configuration(mfj_pointer(model), (uint32_t)index));
}

JNIEXPORT jbyteArray JNICALL Java_org_libmatformer_Native_modelMetadata(JNIEnv *env, jclass type, jlong model,
                                                                        jbyteArray key, jint index)
{
    (void)type;
    char *name;
    if (!mfj_copy_text(env, key, &name)) return NULL;
    const jbyteArray text = mfj_bytes(env, mf_model_metadata(mfj_pointer(model), name, (uint32_t)index));
    free(name);
    return text;
}

/* ---- Residency ---- */

JNIEXPORT void JNICALL Java_org_libmatformer_Native_modelGrow(JNIEnv *env, jclass type, jlong model,
                                                              jbyteArray granularity, jobject progress)
{
    (void)type;
    char *name;
    mfj_progress told;
    mf_error error = MF_ERROR_INIT;
    mf_grow_options options = MF_GROW_OPTIONS_INIT;
    if (!mfj_progress_of(env, progress, &told) || !mfj_copy_text(env, granularity, &name)) return;
    options.progress = progress != NULL ? mfj_on_progress : NULL;
    options.progress_user = &told;
    (void)mfj_check(env, mf_model_grow(mfj_pointer(model), name, &options, &error), &error);
    free(name);
}

JNIEXPORT void JNICALL Java_org_libmatformer_Native_modelTrim(JNIEnv *env, jclass type, jlong model,
                                                              jbyteArray granularity, jint wait_ms)
{
    (void)type;
    char *name;
    mf_error error = MF_ERROR_INIT;
    mf_trim_options options = MF_TRIM_OPTIONS_INIT;
    if (!mfj_copy_text(env, granularity, &name)) return;
    options.wait_ms = wait_ms < 0 ? MF_WAIT_NONE : (uint32_t)wait_ms;
    (void)mfj_check(env, mf_model_trim(mfj_pointer(model), name, &options, &error), &error);
    free(name);
}

JNIEXPORT void JNICALL Java_org_libmatformer_Native_modelAttach(JNIEnv *env, jclass type, jlong model, jbyteArray path,
                                                                jint fd, jlong offset, jlong length)
{
    (void)type;
    char *file;
    mf_error error = MF_ERROR_INIT;
    if (!mfj_copy_text(env, path, &file)) return;
    const mf_status status =
        path != NULL ? mf_model_attach(mfj_pointer(model), file, &error)
                     : mf_model_attach_fd(mfj_pointer(model), fd, (uint64_t)offset, (uint64_t)length, &error);
    (void)mfj_check(env, status, &error);
    free(file);
}

JNIEXPORT void JNICALL Java_org_libmatformer_Native_modelFeed(JNIEnv *env, jclass type, jlong model, jint shell,
                                                              jbyteArray data, jint offset, jint length)
{
    (void)type;
    mf_error error = MF_ERROR_INIT;
    const uint32_t which = shell < 0 ? MF_SHELL_TABLES : (uint32_t)shell;
    jbyte *bytes = NULL;
    if (data != NULL) {
        bytes = (*env)->GetByteArrayElements(env, data, NULL);
        if (bytes == NULL) return; /* it has thrown */
    }
    const mf_status status =
        mf_model_feed(mfj_pointer(model), which, bytes != NULL ? bytes + offset : NULL, (size_t)length, &error);
    if (data != NULL) (*env)->ReleaseByteArrayElements(env, data, bytes, JNI_ABORT); /* nothing was written */
    (void)mfj_check(env, status, &error);
}

JNIEXPORT jbyteArray JNICALL Java_org_libmatformer_Native_modelShell(JNIEnv *env, jclass type, jlong model, jint shell,
                                                                     jlongArray numbers)
{
    (void)type;
    mf_shell_info i = MF_SHELL_INFO_INIT;
    const uint32_t which = shell < 0 ? MF_SHELL_TABLES : (uint32_t)shell;
    if (!mfj_check(env, mf_model_shell_info_get(mfj_pointer(model), which, &i), NULL)) return NULL;
    const jlong values[] = { (jlong)i.file_offset,
                             (jlong)i.stored_bytes,
                             (jlong)i.memory_bytes,
                             (jlong)i.content_hash,
                             (jlong)i.fed_bytes,
                             i.present,
                             i.resident };
    mfj_set_numbers(env, numbers, values, COUNT(values));
    return mfj_bytes(env, i.granularity);
}

/* ---- Submodel ---- */

JNIEXPORT jlong JNICALL Java_org_libmatformer_Native_submodelOpen(JNIEnv *env, jclass type, jlong model,
                                                                  jbyteArray text)
{
    (void)type;
    char *form;
    mf_submodel *submodel = NULL;
    mf_error error = MF_ERROR_INIT;
    if (!mfj_copy_text(env, text, &form)) return 0;
    (void)mfj_check(env, mf_extract_submodel_text(&submodel, mfj_pointer(model), form, &error), &error);
    free(form);
    return mfj_address(submodel);
}

JNIEXPORT void JNICALL Java_org_libmatformer_Native_submodelClose(JNIEnv *env, jclass type, jlong submodel)
{
    (void)env;
    (void)type;
    mf_submodel_close(mfj_pointer(submodel));
}

JNIEXPORT void JNICALL Java_org_libmatformer_Native_submodelInfo(JNIEnv *env, jclass type, jlong submodel,
                                                                 jlongArray numbers)
{
    (void)type;
    mf_submodel_info i = MF_SUBMODEL_INFO_INIT;
    if (!mfj_check(env, mf_submodel_info_get(mfj_pointer(submodel), &i), NULL)) return;
    const jlong values[] = { (jlong)i.n_param,
                             (jlong)i.n_param_body,
                             (jlong)i.bytes_per_token,
                             (jlong)i.flops_per_token,
                             (jlong)i.cache_bytes_per_position,
                             i.n_layer_kept,
                             i.n_shell,
                             i.view_bytes };
    mfj_set_numbers(env, numbers, values, COUNT(values));
}

JNIEXPORT jbyteArray JNICALL Java_org_libmatformer_Native_submodelText(JNIEnv *env, jclass type, jlong submodel)
{
    (void)type;
    size_t bytes = 0;
    mf_status status = mf_submodel_text(mfj_pointer(submodel), NULL, 0, &bytes);
    if (status != MF_E_CAPACITY) {
        (void)mfj_check(env, status, NULL);
        return NULL;
    }
    char *text = malloc(bytes);
    status = text != NULL ? mf_submodel_text(mfj_pointer(submodel), text, bytes, NULL) : MF_E_NOMEM;
    const jbyteArray form = mfj_check(env, status, NULL) ? mfj_bytes(env, text) : NULL;
    free(text);
    return form;
}
