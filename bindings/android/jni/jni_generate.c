/* jni_generate.c - samplers with a filter in Java, and generation with a listener there.
 *
 * The library calls back on the thread that called it, so that a callback's JNIEnv is the call's; the filter's belongs to
 * a sampler, which outlives calls, and asks the virtual machine for it. An exception within a callback ends the call,
 * stays pending, and is what the caller sees. References that a callback makes go when it ends. */
#include <stdlib.h>

#include "jni_common.h"
#include "org_libmatformer_Native.h"

/* ---- Sampler ---- */

typedef struct sampler {
    mf_sampler *sampler;
    JavaVM *vm;
    jobject filter;       /* global references, or NULL */
    jclass type;          /* keeps `call` valid */
    jmethodID callFilter; /* of Sampler */
    uint32_t n_vocab;
} sampler;

static int filter_in_frame(JNIEnv *env, const sampler *s, const int32_t *tokens, size_t n_token, float *logits,
                           size_t n_vocab)
{
    /* A buffer has no const; Java gets a read-only view of this one. */
    void *timeline = (void *)(uintptr_t)tokens;
    const jobject token_bytes = (*env)->NewDirectByteBuffer(env, timeline, (jlong)(n_token * sizeof *tokens));
    const jobject logit_bytes =
        token_bytes ? (*env)->NewDirectByteBuffer(env, logits, (jlong)(n_vocab * sizeof *logits)) : NULL;
    if (logit_bytes == NULL) return 1;
    const jboolean goes_on =
        (*env)->CallStaticBooleanMethod(env, s->type, s->callFilter, s->filter, token_bytes, logit_bytes);
    return (*env)->ExceptionCheck(env) || !goes_on;
}

static int on_logits(void *user, const int32_t *tokens, size_t n_token, float *logits, size_t n_vocab)
{
    const sampler *s = user;
    JNIEnv *env;
    if ((*s->vm)->GetEnv(s->vm, (void **)&env, JNI_VERSION_1_6) != JNI_OK) return 1;
    if ((*env)->PushLocalFrame(env, 8) != 0) return 1;
    const int stops = filter_in_frame(env, s, tokens, n_token, logits, n_vocab);
    (*env)->PopLocalFrame(env, NULL);
    return stops;
}

static void sampler_free(JNIEnv *env, sampler *s)
{
    mf_sampler_close(s->sampler);
    if (s->filter != NULL) (*env)->DeleteGlobalRef(env, s->filter);
    if (s->type != NULL) (*env)->DeleteGlobalRef(env, s->type);
    free(s);
}

static bool hold_filter(JNIEnv *env, sampler *s, jobject filter)
{
    if (filter == NULL) return true;
    const jclass type = (*env)->FindClass(env, "org/libmatformer/Sampler");
    if (type == NULL || (*env)->GetJavaVM(env, &s->vm) != 0) return false;
    s->callFilter = (*env)->GetStaticMethodID(env, type, "callFilter",
                                              "(Lorg/libmatformer/LogitsFilter;Ljava/nio/ByteBuffer;Ljava/nio/"
                                              "ByteBuffer;)Z");
    if (s->callFilter == NULL) return false;
    s->type = (*env)->NewGlobalRef(env, type);
    s->filter = (*env)->NewGlobalRef(env, filter);
    if (s->type != NULL && s->filter != NULL) return true;
    mfj_throw(env, MF_E_NOMEM, "no memory for a reference to the filter");
    return false;
}

JNIEXPORT jlong JNICALL Java_org_libmatformer_Native_samplerCreate(JNIEnv *env, jclass type, jlong model, jlong seed,
                                                                   jfloat temperature, jfloat top_p, jfloat min_p,
                                                                   jfloat repetition_penalty, jint top_k,
                                                                   jint repetition_window, jobject filter)
{
    (void)type;
    sampler *s = calloc(1, sizeof *s);
    if (s == NULL) {
        mfj_throw(env, MF_E_NOMEM, "no memory for a sampler");
        return 0;
    }
    mf_error error = MF_ERROR_INIT;
    mf_sampler_options options = MF_SAMPLER_OPTIONS_INIT;
    options.seed = (uint64_t)seed;
    options.temperature = temperature;
    options.top_p = top_p;
    options.min_p = min_p;
    options.repetition_penalty = repetition_penalty;
    options.top_k = (uint32_t)top_k;
    options.repetition_window = (uint32_t)repetition_window;
    options.filter = filter != NULL ? on_logits : NULL;
    options.filter_user = s;
    mf_model_info info = MF_MODEL_INFO_INIT;
    if (hold_filter(env, s, filter) && mfj_check(env, mf_model_info_get(mfj_pointer(model), &info), NULL) &&
        mfj_check(env, mf_sampler_create(&s->sampler, mfj_pointer(model), &options, &error), &error)) {
        s->n_vocab = info.n_vocab;
        return mfj_address(s);
    }
    sampler_free(env, s);
    return 0;
}

JNIEXPORT void JNICALL Java_org_libmatformer_Native_samplerClose(JNIEnv *env, jclass type, jlong address)
{
    (void)type;
    sampler_free(env, mfj_pointer(address));
}

JNIEXPORT jint JNICALL Java_org_libmatformer_Native_samplerSample(JNIEnv *env, jclass type, jlong address,
                                                                  jintArray timeline, jobject logits)
{
    (void)type;
    const sampler *s = mfj_pointer(address);
    if ((*env)->GetDirectBufferCapacity(env, logits) < (jlong)s->n_vocab) {
        mfj_throw(env, MF_E_INVALID, "fewer logits than the vocabulary has entries");
        return 0;
    }
    const size_t n_token = (size_t)(*env)->GetArrayLength(env, timeline);
    jint *tokens = (*env)->GetIntArrayElements(env, timeline, NULL);
    if (tokens == NULL) return 0;
    mf_token_logprob chosen = { 0, 0 };
    const mf_status status =
        mf_sampler_sample(s->sampler, tokens, n_token, (*env)->GetDirectBufferAddress(env, logits), &chosen, NULL, 0);
    (*env)->ReleaseIntArrayElements(env, timeline, tokens, JNI_ABORT);
    (void)mfj_check(env, status, NULL);
    return chosen.token;
}

/* ---- Generation ---- */

typedef struct listener {
    JNIEnv *env;
    jobject generation;
    jmethodID on_token;
} listener;

static bool make_top(JNIEnv *env, const mf_token_event *event, jintArray *tokens, jfloatArray *logprobs)
{
    const jsize n = (jsize)event->n_top;
    *tokens = (*env)->NewIntArray(env, n);
    *logprobs = *tokens != NULL ? (*env)->NewFloatArray(env, n) : NULL;
    if (*logprobs == NULL) return false;
    for (jsize i = 0; i < n; i++) {
        const jint token = event->top[i].token;
        (*env)->SetIntArrayRegion(env, *tokens, i, 1, &token);
        (*env)->SetFloatArrayRegion(env, *logprobs, i, 1, &event->top[i].logprob);
    }
    return true;
}

static int tell_in_frame(const listener *l, const mf_token_event *event)
{
    JNIEnv *env = l->env;
    jintArray top_tokens = NULL;
    jfloatArray top_logprobs = NULL;
    const jbyteArray text = mfj_bytes_of(env, event->text, event->text_bytes);
    if (text == NULL || (event->n_top > 0 && !make_top(env, event, &top_tokens, &top_logprobs))) return 1;
    const jboolean goes_on =
        (*env)->CallBooleanMethod(env, l->generation, l->on_token, (jint)event->token, (jint)event->position, text,
                                  (jdouble)event->logprob, mfj_address(event->submodel), top_tokens, top_logprobs);
    return (*env)->ExceptionCheck(env) || !goes_on;
}

static int on_token(void *user, const mf_token_event *event)
{
    const listener *l = user;
    if ((*l->env)->PushLocalFrame(l->env, 8) != 0) return 1;
    const int stops = tell_in_frame(l, event);
    (*l->env)->PopLocalFrame(l->env, NULL);
    return stops;
}

static bool listener_of(JNIEnv *env, jobject generation, listener *out)
{
    *out = (listener){ env, generation, NULL };
    if (generation == NULL) return true;
    const jclass type = (*env)->GetObjectClass(env, generation);
    out->on_token = (*env)->GetMethodID(env, type, "onToken", "(II[BFJ[I[F)Z");
    (*env)->DeleteLocalRef(env, type);
    return out->on_token != NULL;
}

/* Copies of what the options point to. */
typedef struct prompt {
    char *text;
    char **stop;
    jint *tokens;
    mf_schedule_step *schedule;
} prompt;

static bool take_schedule(JNIEnv *env, jintArray positions, jlongArray submodels, prompt *p,
                          mf_generate_options *options)
{
    const jsize n = (*env)->GetArrayLength(env, positions);
    options->n_schedule = (size_t)n;
    if (n == 0) return true;
    p->schedule = malloc((size_t)n * sizeof *p->schedule);
    if (p->schedule == NULL) {
        mfj_throw(env, MF_E_NOMEM, "no memory for a schedule");
        return false;
    }
    for (jsize i = 0; i < n; i++) {
        jint position;
        jlong submodel;
        (*env)->GetIntArrayRegion(env, positions, i, 1, &position);
        (*env)->GetLongArrayRegion(env, submodels, i, 1, &submodel);
        p->schedule[i] = (mf_schedule_step){ (uint32_t)position, mfj_pointer(submodel) };
    }
    options->schedule = p->schedule;
    return true;
}

static bool take_prompt(JNIEnv *env, jbyteArray text, jintArray tokens, jobjectArray stop, prompt *p,
                        mf_generate_options *options)
{
    if (!mfj_copy_text(env, text, &p->text)) return false;
    if (!mfj_copy_texts(env, stop, &p->stop, NULL, &options->n_stop)) return false;
    if (tokens != NULL) {
        p->tokens = (*env)->GetIntArrayElements(env, tokens, NULL);
        if (p->tokens == NULL) return false;
        options->n_token = (size_t)(*env)->GetArrayLength(env, tokens);
    }
    options->prompt = p->text;
    options->tokens = p->tokens;
    options->stop = (const char *const *)p->stop;
    return true;
}

static void report(JNIEnv *env, const mf_generate_result *r, jlongArray out)
{
    const jlong values[] = { r->finish,    r->n_prompt,  r->n_generated, (jlong)r->prompt_ns, (jlong)r->generate_ns,
                             r->n_drafted, r->n_accepted };
    mfj_set_numbers(env, out, values, sizeof values / sizeof *values);
}

JNIEXPORT void JNICALL Java_org_libmatformer_Native_generate(JNIEnv *env, jclass type, jlong executor, jlong session,
                                                             jlong submodel, jbyteArray text, jintArray tokens,
                                                             jint max_tokens, jint n_top, jlong sampler_address,
                                                             jobjectArray stop, jintArray schedule_positions,
                                                             jlongArray schedule_submodels, jboolean ignore_eos,
                                                             jlong draft, jint draft_tokens, jlong fallback,
                                                             jobject generation, jlongArray result)
{
    (void)type;
    listener told;
    prompt p = { NULL, NULL, NULL, NULL };
    mf_generate_options options = MF_GENERATE_OPTIONS_INIT;
    options.max_tokens = (uint32_t)max_tokens;
    options.n_top = (uint32_t)n_top;
    options.sampler = sampler_address != 0 ? ((sampler *)mfj_pointer(sampler_address))->sampler : NULL;
    options.on_token = generation != NULL ? on_token : NULL;
    options.user = &told;
    options.ignore_eos = ignore_eos;
    options.draft = mfj_pointer(draft);
    options.draft_tokens = (uint32_t)draft_tokens;
    options.fallback = mfj_pointer(fallback);
    if (listener_of(env, generation, &told) && take_prompt(env, text, tokens, stop, &p, &options) &&
        take_schedule(env, schedule_positions, schedule_submodels, &p, &options)) {
        mf_error error = MF_ERROR_INIT;
        mf_generate_result done = MF_GENERATE_RESULT_INIT;
        const mf_status status =
            mf_generate(mfj_pointer(executor), mfj_pointer(session), mfj_pointer(submodel), &options, &done, &error);
        if (mfj_check(env, status, &error)) report(env, &done, result);
    }
    if (p.tokens != NULL) (*env)->ReleaseIntArrayElements(env, tokens, p.tokens, JNI_ABORT);
    free(p.text);
    free(p.stop);
    free(p.schedule);
}
