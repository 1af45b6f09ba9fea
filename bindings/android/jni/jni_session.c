/* jni_session.c - executors, sessions and batches. */
#include <stdio.h>
#include <stdlib.h>

#include "jni_common.h"
#include "org_libmatformer_Native.h"

JNIEXPORT jlong JNICALL Java_org_libmatformer_Native_executorCreate(JNIEnv *env, jclass type, jlong model, jint threads,
                                                                    jint max_tokens, jint max_requests, jint spin_us)
{
    (void)type;
    mf_executor *executor = NULL;
    mf_error error = MF_ERROR_INIT;
    mf_executor_options options = MF_EXECUTOR_OPTIONS_INIT;
    options.n_thread = (uint32_t)threads;
    options.max_tokens = (uint32_t)max_tokens;
    options.max_requests = (uint32_t)max_requests;
    options.spin_us = spin_us < 0 ? MF_SPIN_NONE : (uint32_t)spin_us;
    (void)mfj_check(env, mf_executor_create(&executor, mfj_pointer(model), &options, &error), &error);
    return mfj_address(executor);
}

JNIEXPORT void JNICALL Java_org_libmatformer_Native_executorClose(JNIEnv *env, jclass type, jlong executor)
{
    (void)env;
    (void)type;
    mf_executor_close(mfj_pointer(executor));
}

JNIEXPORT jlong JNICALL Java_org_libmatformer_Native_sessionCreate(JNIEnv *env, jclass type, jlong model,
                                                                   jint max_positions, jint cache_type)
{
    (void)type;
    mf_session *session = NULL;
    mf_error error = MF_ERROR_INIT;
    mf_session_options options = MF_SESSION_OPTIONS_INIT;
    options.max_positions = (uint32_t)max_positions;
    options.cache_type = (mf_cache_type)cache_type;
    (void)mfj_check(env, mf_session_create(&session, mfj_pointer(model), &options, &error), &error);
    return mfj_address(session);
}

JNIEXPORT void JNICALL Java_org_libmatformer_Native_sessionClose(JNIEnv *env, jclass type, jlong session)
{
    (void)env;
    (void)type;
    mf_session_close(mfj_pointer(session));
}

JNIEXPORT jint JNICALL Java_org_libmatformer_Native_sessionPosition(JNIEnv *env, jclass type, jlong session)
{
    (void)env;
    (void)type;
    return (jint)mf_session_position(mfj_pointer(session));
}

JNIEXPORT jintArray JNICALL Java_org_libmatformer_Native_sessionTokens(JNIEnv *env, jclass type, jlong session)
{
    (void)type;
    const jsize n = (jsize)mf_session_position(mfj_pointer(session));
    const jintArray tokens = (*env)->NewIntArray(env, n);
    if (tokens != NULL && n > 0) (*env)->SetIntArrayRegion(env, tokens, 0, n, mf_session_tokens(mfj_pointer(session)));
    return tokens;
}

JNIEXPORT void JNICALL Java_org_libmatformer_Native_sessionRewind(JNIEnv *env, jclass type, jlong session,
                                                                  jint position)
{
    (void)type;
    const mf_status status = mf_session_rewind(mfj_pointer(session), (uint32_t)position);
    mf_error error = MF_ERROR_INIT;
    if (status == MF_E_RANGE)
        snprintf(error.detail, sizeof error.detail, "cannot rewind to position %d: the session stands at %u",
                 (int)position, mf_session_position(mfj_pointer(session)));
    (void)mfj_check(env, status, &error);
}

JNIEXPORT jlong JNICALL Java_org_libmatformer_Native_sessionFork(JNIEnv *env, jclass type, jlong session)
{
    (void)type;
    mf_session *fork = NULL;
    mf_error error = MF_ERROR_INIT;
    (void)mfj_check(env, mf_session_fork(&fork, mfj_pointer(session), &error), &error);
    return mfj_address(fork);
}

JNIEXPORT void JNICALL Java_org_libmatformer_Native_sessionSave(JNIEnv *env, jclass type, jlong session,
                                                                jbyteArray path)
{
    (void)type;
    char *file;
    mf_error error = MF_ERROR_INIT;
    if (!mfj_copy_text(env, path, &file)) return;
    (void)mfj_check(env, mf_session_save(mfj_pointer(session), file, &error), &error);
    free(file);
}

JNIEXPORT void JNICALL Java_org_libmatformer_Native_sessionLoad(JNIEnv *env, jclass type, jlong session,
                                                                jbyteArray path)
{
    (void)type;
    char *file;
    mf_error error = MF_ERROR_INIT;
    if (!mfj_copy_text(env, path, &file)) return;
    (void)mfj_check(env, mf_session_load(mfj_pointer(session), file, &error), &error);
    free(file);
}

JNIEXPORT void JNICALL Java_org_libmatformer_Native_sessionCancel(JNIEnv *env, jclass type, jlong session)
{
    (void)env;
    (void)type;
    mf_session_cancel(mfj_pointer(session));
}

JNIEXPORT void JNICALL Java_org_libmatformer_Native_sessionSpendCancel(JNIEnv *env, jclass type, jlong executor,
                                                                       jlong session, jlong submodel)
{
    (void)env;
    (void)type;
    const int32_t token = 0;
    const uint32_t position = mf_session_position(mfj_pointer(session));
    mf_request request = { .session = mfj_pointer(session), .submodel = mfj_pointer(submodel), .tokens = &token };
    request.n_token = 1;
    request.logits_of = MF_LOGITS_NONE;
    if (mf_forward(mfj_pointer(executor), &request, 1, sizeof request, NULL) == MF_OK)
        (void)mf_session_rewind(mfj_pointer(session), position); /* the token had been cancelled by nobody */
}

/* ---- Forward ---- */

/* What Java's arrays hold of a batch, copied: references to a request's own arrays are dropped at once. */
typedef struct batch {
    mf_request *requests; /* [n] */
    int32_t *tokens;      /* of all */
    size_t n;
} batch;

static bool take_tokens(JNIEnv *env, batch *b, jobjectArray tokens)
{
    size_t total = 0;
    for (size_t i = 0; i < b->n; i++) {
        const jintArray of_one = (*env)->GetObjectArrayElement(env, tokens, (jsize)i);
        b->requests[i].n_token = (size_t)(*env)->GetArrayLength(env, of_one);
        total += b->requests[i].n_token;
        (*env)->DeleteLocalRef(env, of_one);
    }
    b->tokens = malloc((total + 1) * sizeof *b->tokens);
    if (b->tokens == NULL) {
        mfj_throw(env, MF_E_NOMEM, "no memory for the tokens of a batch");
        return false;
    }
    int32_t *at = b->tokens;
    for (size_t i = 0; i < b->n; i++) {
        const jintArray of_one = (*env)->GetObjectArrayElement(env, tokens, (jsize)i);
        (*env)->GetIntArrayRegion(env, of_one, 0, (jsize)b->requests[i].n_token, at);
        (*env)->DeleteLocalRef(env, of_one);
        b->requests[i].tokens = at;
        at += b->requests[i].n_token;
    }
    return true;
}

static void take_logits(JNIEnv *env, mf_request *request, jobjectArray logits, jsize i)
{
    const jobject buffer = (*env)->GetObjectArrayElement(env, logits, i);
    if (buffer == NULL) return;
    request->logits = (*env)->GetDirectBufferAddress(env, buffer);
    request->logits_capacity = (size_t)(*env)->GetDirectBufferCapacity(env, buffer);
    (*env)->DeleteLocalRef(env, buffer); /* the array holds it */
}

static bool take_batch(JNIEnv *env, batch *b, jlongArray sessions, jlongArray submodels, jobjectArray tokens,
                       jobjectArray logits, jintArray logits_of)
{
    b->n = (size_t)(*env)->GetArrayLength(env, sessions);
    b->requests = calloc(b->n + 1, sizeof *b->requests);
    if (b->requests == NULL) {
        mfj_throw(env, MF_E_NOMEM, "no memory for a batch");
        return false;
    }
    for (size_t i = 0; i < b->n; i++) {
        jlong session, submodel;
        jint which;
        (*env)->GetLongArrayRegion(env, sessions, (jsize)i, 1, &session);
        (*env)->GetLongArrayRegion(env, submodels, (jsize)i, 1, &submodel);
        (*env)->GetIntArrayRegion(env, logits_of, (jsize)i, 1, &which);
        b->requests[i].session = mfj_pointer(session);
        b->requests[i].submodel = mfj_pointer(submodel);
        b->requests[i].logits_of = (mf_logits)which;
        take_logits(env, &b->requests[i], logits, (jsize)i);
    }
    return take_tokens(env, b, tokens);
}

JNIEXPORT void JNICALL Java_org_libmatformer_Native_forward(JNIEnv *env, jclass type, jlong executor,
                                                            jlongArray sessions, jlongArray submodels,
                                                            jobjectArray tokens, jobjectArray logits,
                                                            jintArray logits_of, jintArray statuses)
{
    (void)type;
    batch b = { NULL, NULL, 0 };
    if (take_batch(env, &b, sessions, submodels, tokens, logits, logits_of)) {
        mf_error error = MF_ERROR_INIT;
        for (size_t i = 0; i < b.n; i++)
            b.requests[i].status = (mf_status)1; /* until it ran */
        const mf_status status = mf_forward(mfj_pointer(executor), b.requests, b.n, sizeof *b.requests, &error);
        for (size_t i = 0; i < b.n; i++) {
            const jint of_one = (jint)b.requests[i].status;
            (*env)->SetIntArrayRegion(env, statuses, (jsize)i, 1, &of_one);
        }
        (void)mfj_check(env, status, &error);
    }
    free(b.requests);
    free(b.tokens);
}
