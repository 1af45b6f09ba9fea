/* jni_text.c - text to tokens and back. */
#include <stdlib.h>

#include "jni_common.h"
#include "org_libmatformer_Native.h"

/* Throws what a function that writes tokens returned, and frees what it wrote. */
static jintArray to_tokens(JNIEnv *env, mf_status status, int32_t *tokens, size_t n_token)
{
    jintArray array = NULL;
    if (n_token > INT32_MAX && status == MF_OK) status = MF_E_CAPACITY;
    if (mfj_check(env, status, NULL)) array = (*env)->NewIntArray(env, (jsize)n_token);
    if (array != NULL) (*env)->SetIntArrayRegion(env, array, 0, (jsize)n_token, tokens);
    free(tokens);
    return array;
}

JNIEXPORT jintArray JNICALL Java_org_libmatformer_Native_tokenize(JNIEnv *env, jclass type, jlong model,
                                                                  jbyteArray text, jboolean parse_control,
                                                                  jboolean add_ends)
{
    (void)type;
    char *copy;
    if (!mfj_copy_text(env, text, &copy)) return NULL;
    const size_t bytes = (size_t)(*env)->GetArrayLength(env, text);
    mf_tokenize_options options = MF_TOKENIZE_OPTIONS_INIT;
    options.parse_control = parse_control;
    options.add_ends = add_ends;
    int32_t *tokens = NULL;
    size_t n_token = 0;
    mf_status status = mf_tokenize_with(mfj_pointer(model), &options, copy, bytes, NULL, 0, &n_token);
    if (status == MF_E_CAPACITY) {
        tokens = malloc(n_token * sizeof *tokens);
        status = tokens == NULL
                     ? MF_E_NOMEM
                     : mf_tokenize_with(mfj_pointer(model), &options, copy, bytes, tokens, n_token, &n_token);
    }
    free(copy);
    return to_tokens(env, status, tokens, n_token);
}

JNIEXPORT jbyteArray JNICALL Java_org_libmatformer_Native_detokenize(JNIEnv *env, jclass type, jlong model,
                                                                     jintArray tokens)
{
    (void)type;
    const size_t n_token = (size_t)(*env)->GetArrayLength(env, tokens);
    jint *values = (*env)->GetIntArrayElements(env, tokens, NULL);
    if (values == NULL) return NULL;
    char *text = NULL;
    size_t bytes = 0;
    mf_status status = mf_detokenize(mfj_pointer(model), values, n_token, NULL, 0, &bytes);
    if (status == MF_E_CAPACITY) {
        text = malloc(bytes);
        status = text == NULL ? MF_E_NOMEM : mf_detokenize(mfj_pointer(model), values, n_token, text, bytes, &bytes);
    }
    (*env)->ReleaseIntArrayElements(env, tokens, values, JNI_ABORT);
    const jbyteArray array = mfj_check(env, status, NULL) ? mfj_bytes_of(env, text, bytes) : NULL;
    free(text);
    return array;
}

JNIEXPORT jint JNICALL Java_org_libmatformer_Native_chatFormat(JNIEnv *env, jclass type, jlong model)
{
    (void)env;
    (void)type;
    return (jint)mf_model_chat_format(mfj_pointer(model));
}

JNIEXPORT jintArray JNICALL Java_org_libmatformer_Native_chatRender(JNIEnv *env, jclass type, jlong model,
                                                                    jobjectArray roles, jobjectArray contents,
                                                                    jboolean add_generation_prompt)
{
    (void)type;
    char **role = NULL, **content = NULL;
    size_t *bytes = NULL, n = 0, n_token = 0;
    int32_t *tokens = NULL;
    mf_chat_message *messages = NULL;
    jintArray array = NULL;
    if (!mfj_copy_texts(env, roles, &role, NULL, &n) || !mfj_copy_texts(env, contents, &content, &bytes, &n)) goto end;
    messages = malloc((n + 1) * sizeof *messages);
    mf_status status = messages != NULL ? MF_E_CAPACITY : MF_E_NOMEM;
    for (size_t i = 0; messages != NULL && i < n; i++)
        messages[i] = (mf_chat_message){ role[i], content[i], bytes[i] };
    if (status == MF_E_CAPACITY)
        status = mf_chat_render(mfj_pointer(model), messages, n, add_generation_prompt, NULL, 0, &n_token);
    if (status == MF_E_CAPACITY) {
        tokens = malloc(n_token * sizeof *tokens);
        status = tokens == NULL ? MF_E_NOMEM
                                : mf_chat_render(mfj_pointer(model), messages, n, add_generation_prompt, tokens,
                                                 n_token, &n_token);
    }
    array = to_tokens(env, status, tokens, n_token);
end:
    free(messages);
    free(role);
    free(content);
    return array;
}
