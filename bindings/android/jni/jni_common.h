/* jni_common.h - what the native functions share: addresses, text, arrays, exceptions and progress.
 *
 * Nothing is kept between calls but what Java holds an address of: no JNIEnv, no class, no method. Functions here that
 * return false have thrown. */
#ifndef MFJ_COMMON_H
#define MFJ_COMMON_H

#include <jni.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "matformer.h"

static inline void *mfj_pointer(jlong address)
{
    return (void *)(intptr_t)address;
}

static inline jlong mfj_address(const void *pointer)
{
    return (jlong)(intptr_t)pointer;
}

/* Throws the MatformerException of `status`. An exception that a callback has thrown goes before. */
void mfj_throw(JNIEnv *env, mf_status status, const char *detail);
/* The same of what a function returned; true where it was MF_OK and no callback has thrown. */
bool mfj_check(JNIEnv *env, mf_status status, const mf_error *error);

/* A terminated copy of UTF-8 bytes, to be freed; NULL for null. */
bool mfj_copy_text(JNIEnv *env, jbyteArray text, char **out);
/* [n] such copies, in one allocation, which is freed; NULL of none. */
bool mfj_copy_texts(JNIEnv *env, jobjectArray texts, char ***out, size_t **bytes, size_t *n);
/* Bytes up to the terminator; null for NULL. */
jbyteArray mfj_bytes(JNIEnv *env, const char *text);
/* Null, having thrown, where there is no memory. */
jbyteArray mfj_bytes_of(JNIEnv *env, const void *data, size_t bytes);
/* Of [n] numbers; `numbers` has at least as many. */
void mfj_set_numbers(JNIEnv *env, jlongArray numbers, const jlong *values, size_t n);

/* A Progress, on the thread of the call that it is given to. */
typedef struct mfj_progress {
    JNIEnv *env;
    jobject progress;
    jmethodID on_progress;
} mfj_progress;
/* `progress` may be null. */
bool mfj_progress_of(JNIEnv *env, jobject progress, mfj_progress *out);
int mfj_on_progress(void *user, uint64_t done, uint64_t total);

#endif
