/* hostile.h - damage for .mf files, and use of whatever opens in spite of it. For the mutation test and the
 * fuzz target: any bytes give a status and a sentence, or a model that computes; never a crash, a leak, or an
 * allocation that only a number in the file asks for. */
#ifndef HOSTILE_H
#define HOSTILE_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "container_fixup.h"
#include "matformer.h"

/* ---- Memory that is watched ---- */

typedef struct hostile_memory {
    size_t live_bytes, limit_bytes;
} hostile_memory;

static inline void hostile_stop(const char *why)
{
    fprintf(stderr, "%s\n", why);
    abort();
}

static inline void *hostile_alloc(void *user, size_t bytes, size_t align)
{
    hostile_memory *m = user;
    void *memory = NULL;
    if (bytes > m->limit_bytes - m->live_bytes) hostile_stop("more memory than the file accounts for");
    if (posix_memalign(&memory, align, bytes) != 0) return NULL;
    m->live_bytes += bytes;
    return memory;
}

static inline void hostile_free(void *user, void *memory, size_t bytes)
{
    ((hostile_memory *)user)->live_bytes -= bytes;
    free(memory);
}

/* ---- Use ---- */

enum { HOSTILE_TOKENS = 3, HOSTILE_POSITIONS = 64 };

/* `pixels`: of a model that takes them. */
static inline void hostile_forward(mf_executor *executor, mf_model *model, const char *granularity, float *logits,
                                   uint32_t n_logit, const float *pixels)
{
    mf_submodel_spec spec = MF_SUBMODEL_SPEC_INIT;
    mf_session_options options = MF_SESSION_OPTIONS_INIT;
    mf_submodel *view = NULL;
    mf_session *session = NULL;
    spec.granularity = granularity;
    options.max_positions = HOSTILE_POSITIONS;
    if (mf_extract_submodel(&view, model, &spec, NULL) == MF_OK &&
        mf_session_create(&session, model, &options, NULL) == MF_OK) {
        const int32_t tokens[HOSTILE_TOKENS] = { 0, (int32_t)(n_logit / 2), (int32_t)(n_logit - 1) };
        mf_request request = { .session = session,
                               .submodel = view,
                               .tokens = pixels ? NULL : tokens,
                               .n_token = pixels ? 0 : HOSTILE_TOKENS,
                               .logits = logits,
                               .logits_capacity = n_logit,
                               .pixels = pixels };
        mf_forward(executor, &request, 1, sizeof request, NULL);
    }
    mf_session_close(session);
    mf_submodel_close(view);
}

static inline void hostile_tokenizer(const mf_model *model)
{
    int32_t tokens[16];
    char text[64];
    size_t n_token = 0, bytes;
    if (mf_tokenize(model, "the thing", 9, tokens, 16, &n_token) == MF_OK)
        mf_detokenize(model, tokens, n_token, text, sizeof text, &bytes);
}

/* Every getter of the stored plan, and views by budgets. */
static inline void hostile_plan(mf_model *model)
{
    static const char *const budgets[] = { "params<=1e6", "bytes<=1e5;flops<=1e18", "ms<=1", "params<=1" };
    mf_plan_info info = MF_PLAN_INFO_INIT;
    mf_plan_draft draft = MF_PLAN_DRAFT_INIT;
    if (mf_model_plan_info(model, &info) != MF_OK) return;
    if (strlen(info.machine) + strlen(info.calibration) > 1024) hostile_stop("a plan's text without an end");
    for (uint32_t i = 0; i < info.n_entry; i++) {
        char text[64];
        mf_plan_entry entry = MF_PLAN_ENTRY_INIT;
        entry.text = text;
        entry.text_capacity = sizeof text;
        const mf_status status = mf_model_plan_entry(model, i, &entry);
        if (status != MF_OK && status != MF_E_CAPACITY) hostile_stop("an entry of the plan cannot be read");
    }
    mf_model_plan_draft(model, 1, &draft);
    for (size_t i = 0; i < sizeof budgets / sizeof *budgets; i++) {
        mf_submodel *view = NULL;
        mf_extract_submodel_text(&view, model, budgets[i], NULL);
        mf_submodel_close(view);
    }
}

/* Computes with the narrowest and the widest view. */
static inline void hostile_use(mf_model *model)
{
    mf_model_info info = MF_MODEL_INFO_INIT;
    mf_executor_options options = MF_EXECUTOR_OPTIONS_INIT;
    mf_executor *executor = NULL;
    options.n_thread = 1;
    options.max_requests = 1;
    if (mf_model_info_get(model, &info) != MF_OK) return;
    const size_t n_pixel = (size_t)info.n_channel * info.image_size * info.image_size;
    const uint32_t n_logit = n_pixel > 0 ? info.n_class : info.n_vocab;
    options.max_tokens = n_pixel > 0 ? HOSTILE_POSITIONS : HOSTILE_TOKENS;
    float *logits = malloc(n_logit * sizeof *logits), *pixels = n_pixel > 0 ? calloc(n_pixel, sizeof *pixels) : NULL;
    if (logits && (n_pixel == 0 || pixels) && mf_executor_create(&executor, model, &options, NULL) == MF_OK) {
        hostile_forward(executor, model, mf_model_granularity(model, 0), logits, n_logit, pixels);
        hostile_forward(executor, model, NULL, logits, n_logit, pixels);
    }
    hostile_tokenizer(model);
    hostile_plan(model);
    mf_executor_close(executor);
    free(logits);
    free(pixels);
}

/* True when it opened. `data` is aligned to 64. */
static inline int hostile_open(const unsigned char *data, size_t bytes, mf_load load, mf_verify verify)
{
    hostile_memory memory = { 0, ((size_t)16 << 20) + 300 * bytes };
    mf_model_options options = MF_MODEL_OPTIONS_INIT;
    mf_error error = MF_ERROR_INIT;
    mf_model *model = NULL;
    options.load = load;
    options.verify = verify;
    options.n_thread = 1;
    options.allocator = (mf_allocator){ hostile_alloc, hostile_free, &memory };
    mf_status status = mf_model_open_memory(&model, data, bytes, &options, &error);
    if (status != error.status || (status == MF_OK) != (model != NULL) || (status != MF_OK) != (error.detail[0] != 0))
        hostile_stop("a status, an error and a model that do not agree");
    if (model) hostile_use(model);
    mf_model_close(model);
    if (memory.live_bytes != 0) hostile_stop("a leak");
    return status == MF_OK;
}

/* Opens the bytes as they are; then with all checksums recomputed, which changes them. */
static inline int hostile_try(unsigned char *data, size_t bytes, mf_load load)
{
    int opened = hostile_open(data, bytes, load, MF_VERIFY_DEFAULT);
    fixup_checksums(data, bytes);
    return opened + 2 * hostile_open(data, bytes, load, MF_VERIFY_FULL);
}

/* ---- Damage ---- */

static inline uint64_t hostile_random(uint64_t *state)
{
    uint64_t x = *state += 0x9e3779b97f4a7c15u;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return x ^ (x >> 31);
}

/* A number that arithmetic may stumble over, or one near `old`. */
static inline uint64_t hostile_number(uint64_t *state, uint64_t old)
{
    uint64_t r = hostile_random(state);
    switch (r % 8) {
    case 0:
        return 0;
    case 1:
        return UINT64_MAX - (r >> 32) % 70;
    case 2:
        return (uint64_t)1 << (r >> 32) % 64;
    case 3:
        return ((uint64_t)1 << (r >> 32) % 64) - 1;
    case 4:
        return old + (r >> 32) % 130 - 65;
    case 5:
        return old * (1 + (r >> 32) % 4);
    case 6:
        return old ^ (uint64_t)1 << (r >> 32) % 64;
    default:
        return (r >> 32) % 300;
    }
}

/* A place: in the directory most often, where there is most to break. */
static inline size_t hostile_place(uint64_t *state, const unsigned char *data, size_t bytes)
{
    uint64_t r = hostile_random(state);
    size_t directory = 0;
    if (bytes >= MFI_SLOT_BASE + sizeof(mfi_file_slot))
        directory = (size_t)((const mfi_file_slot *)(const void *)(data + MFI_SLOT_BASE))->directory_bytes;
    if (r % 16 == 0) return (size_t)(r >> 8) % bytes;
    if (r % 16 == 1) return (size_t)(r >> 8) % (bytes < 64 ? bytes : 64);
    if (directory == 0 || directory > bytes - MFI_SLOT_BASE) return (size_t)(r >> 8) % bytes;
    return MFI_SLOT_BASE + (size_t)(r >> 8) % directory;
}

static inline void hostile_change_number(uint64_t *state, unsigned char *data, size_t bytes, size_t width)
{
    size_t at = hostile_place(state, data, bytes) / width * width;
    uint64_t number = 0;
    if (bytes - at < width) return;
    memcpy(&number, data + at, width);
    number = hostile_number(state, number);
    memcpy(data + at, &number, width);
}

/* Copies or swaps some bytes, entries perhaps. */
static inline void hostile_move(uint64_t *state, unsigned char *data, size_t bytes)
{
    uint64_t r = hostile_random(state);
    size_t from = hostile_place(state, data, bytes) / 8 * 8, to = hostile_place(state, data, bytes) / 8 * 8;
    size_t count = 8 + (size_t)(r >> 8) % 24 * 8;
    if (count > bytes - from || count > bytes - to) return;
    if (r % 2 && (from + count <= to || to + count <= from)) {
        for (size_t i = 0; i < count; i++) {
            unsigned char byte = data[from + i];
            data[from + i] = data[to + i];
            data[to + i] = byte;
        }
        return;
    }
    memmove(data + to, data + from, count);
}

/* Damages a file in one way, or up to four; returns its length, at most `bytes`. */
static inline size_t hostile_mutate(uint64_t *state, unsigned char *data, size_t bytes)
{
    uint64_t ways = hostile_random(state) % 8;
    for (uint64_t count = ways < 4 ? 1 : ways - 3; count > 0 && bytes > 0; count--) {
        uint64_t r = hostile_random(state);
        switch (r % 8) {
        case 0:
            data[hostile_place(state, data, bytes)] ^= (unsigned char)(1u << (r >> 8) % 8);
            break;
        case 1:
            data[hostile_place(state, data, bytes)] = (unsigned char)(r >> 8);
            break;
        case 2:
        case 3:
            hostile_change_number(state, data, bytes, 4);
            break;
        case 4:
        case 5:
            hostile_change_number(state, data, bytes, 8);
            break;
        case 6:
            hostile_move(state, data, bytes);
            break;
        default:
            if ((r >> 8) % 8 == 0) bytes = (size_t)(r >> 16) % bytes;
            break;
        }
    }
    return bytes;
}

#endif
