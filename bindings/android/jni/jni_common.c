/* jni_common.c */
#include "jni_common.h"

#include <stdlib.h>
#include <string.h>

void mfj_throw(JNIEnv *env, mf_status status, const char *detail)
{
    if ((*env)->ExceptionCheck(env)) return;
    /* Found by the loader of the class whose native method was called. */
    const jclass type = (*env)->FindClass(env, "org/libmatformer/MatformerException");
    if (type == NULL) return; /* each of these has thrown */
    const jmethodID make = (*env)->GetStaticMethodID(env, type, "make", "(I[B)Lorg/libmatformer/MatformerException;");
    if (make == NULL) return;
    const jbyteArray text = mfj_bytes(env, detail);
    if (text == NULL) return;
    const jthrowable made = (*env)->CallStaticObjectMethod(env, type, make, (jint)status, text);
    if (made != NULL && !(*env)->ExceptionCheck(env)) (*env)->Throw(env, made);
}

bool mfj_check(JNIEnv *env, mf_status status, const mf_error *error)
{
    if ((*env)->ExceptionCheck(env)) return false;
    if (status == MF_OK) return true;
    mfj_throw(env, status, error != NULL && error->detail[0] != '\0' ? error->detail : mf_status_text(status));
    return false;
}

bool mfj_copy_text(JNIEnv *env, jbyteArray text, char **out)
{
    *out = NULL;
    if (text == NULL) return true;
    const jsize bytes = (*env)->GetArrayLength(env, text);
    char *copy = malloc((size_t)bytes + 1);
    if (copy == NULL) {
        mfj_throw(env, MF_E_NOMEM, "no memory for a text");
        return false;
    }
    (*env)->GetByteArrayRegion(env, text, 0, bytes, (jbyte *)copy);
    copy[bytes] = '\0';
    *out = copy;
    return true;
}

/* Terminated, and how long they are together; -1, having thrown, where one is null. */
static int64_t measure_texts(JNIEnv *env, jobjectArray texts, jsize n)
{
    int64_t total = 0;
    for (jsize i = 0; i < n; i++) {
        const jbyteArray text = (*env)->GetObjectArrayElement(env, texts, i);
        if (text == NULL) {
            mfj_throw(env, MF_E_INVALID, "a text is null");
            return -1;
        }
        total += (int64_t)(*env)->GetArrayLength(env, text) + 1;
        (*env)->DeleteLocalRef(env, text);
    }
    return total;
}

bool mfj_copy_texts(JNIEnv *env, jobjectArray texts, char ***out, size_t **bytes, size_t *n)
{
    const jsize count = texts != NULL ? (*env)->GetArrayLength(env, texts) : 0;
    *out = NULL;
    *n = (size_t)count;
    if (count <= 0) return true;
    const int64_t total = measure_texts(env, texts, count);
    if (total < 0) return false;
    char **copies = malloc(*n * (sizeof *copies + sizeof **bytes) + (size_t)total);
    if (copies == NULL) {
        mfj_throw(env, MF_E_NOMEM, "no memory for texts");
        return false;
    }
    size_t *lengths = (size_t *)(copies + count);
    char *at = (char *)(lengths + count);
    for (jsize i = 0; i < count; i++) {
        const jbyteArray text = (*env)->GetObjectArrayElement(env, texts, i);
        const jsize length = (*env)->GetArrayLength(env, text);
        (*env)->GetByteArrayRegion(env, text, 0, length, (jbyte *)at);
        (*env)->DeleteLocalRef(env, text);
        copies[i] = at;
        lengths[i] = (size_t)length;
        at[length] = '\0';
        at += length + 1;
    }
    *out = copies;
    if (bytes != NULL) *bytes = lengths;
    return true;
}

jbyteArray mfj_bytes_of(JNIEnv *env, const void *data, size_t bytes)
{
    if (bytes > INT32_MAX) {
        mfj_throw(env, MF_E_CAPACITY, "the text is longer than an array can be");
        return NULL;
    }
    const jbyteArray array = (*env)->NewByteArray(env, (jsize)bytes);
    if (array != NULL) (*env)->SetByteArrayRegion(env, array, 0, (jsize)bytes, data);
    return array;
}

jbyteArray mfj_bytes(JNIEnv *env, const char *text)
{
    return text != NULL ? mfj_bytes_of(env, text, strlen(text)) : NULL;
}

void mfj_set_numbers(JNIEnv *env, jlongArray numbers, const jlong *values, size_t n)
{
    (*env)->SetLongArrayRegion(env, numbers, 0, (jsize)n, values);
}

bool mfj_progress_of(JNIEnv *env, jobject progress, mfj_progress *out)
{
    out->env = env;
    out->progress = progress;
    out->on_progress = NULL;
    if (progress == NULL) return true;
    const jclass type = (*env)->GetObjectClass(env, progress);
    out->on_progress = (*env)->GetMethodID(env, type, "onProgress", "(JJ)Z");
    (*env)->DeleteLocalRef(env, type);
    return out->on_progress != NULL;
}

int mfj_on_progress(void *user, uint64_t done, uint64_t total)
{
    const mfj_progress *p = user;
    JNIEnv *env = p->env;
    const jboolean goes_on = (*env)->CallBooleanMethod(env, p->progress, p->on_progress, (jlong)done, (jlong)total);
    return (*env)->ExceptionCheck(env) || !goes_on;
}
