/* run_model.c - see run_model.h. */
#define _DEFAULT_SOURCE /* mkstemp, MAP_ANONYMOUS, P_tmpdir */
#include "run_model.h"
#include "arena.h"
#include "cpu.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

/* Not Criterion's assertion: its replacement in runner/ is for one file of a program. */
static void require(bool holds, const char *format, ...)
{
    va_list values;
    if (holds) return;
    va_start(values, format);
    vfprintf(stderr, format, values);
    va_end(values);
    fputc('\n', stderr);
    abort();
}

/* ---- Files ---- */

temporary_path new_path(void)
{
    temporary_path path;
    snprintf(path.text, sizeof(path.text), "%s/matformer-test-XXXXXX", P_tmpdir);
    int fd = mkstemp(path.text);
    require(fd >= 0, "no temporary file in %s", P_tmpdir);
    close(fd);
    return path;
}

model_file read_file(const char *path)
{
    FILE *f = fopen(path, "rb");
    require(f && fseek(f, 0, SEEK_END) == 0, "f && fseek(f, 0, SEEK_END) == 0");
    model_file file = { .bytes = (size_t)ftell(f) };
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    file.mapped_bytes = (file.bytes + page - 1) / page * page;
    void *memory = mmap(NULL, file.mapped_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    require(memory != MAP_FAILED, "memory != MAP_FAILED");
    file.data = memory;
    rewind(f);
    require(fread(file.data, 1, file.bytes, f) == file.bytes, "fread(file.data, 1, file.bytes, f) == file.bytes");
    fclose(f);
    return file;
}

model_file make_file(const mfi_config *config, mfi_weights weights, const mfi_save_options *options)
{
    temporary_path path = new_path();
    mf_error error = MF_ERROR_INIT;
    mf_allocator c_library = mfi_allocator(NULL);
    mf_status status = mfi_save(config, &weights, options, &c_library, path.text, &error);
    require(status == MF_OK, "save: %s", error.detail);
    model_file file = read_file(path.text);
    unlink(path.text);
    return file;
}

model_file make_random_file(const random_model *model, mfk_type type, mfi_storage storage, bool one_shell)
{
    mfi_save_options options = { .type = type, .storage = storage, .one_shell = one_shell };
    return make_file(&model->config, random_model_weights(model), &options);
}

void drop_file(model_file *file)
{
    munmap(file->data, file->mapped_bytes);
    *file = (model_file){ 0 };
}

/* ---- Objects ---- */

mf_arithmetic test_arithmetic(void)
{
    const char *given = getenv("MF_TEST_ARITHMETIC");
    return given && strcmp(given, "fast") == 0 ? MF_ARITHMETIC_FAST : MF_ARITHMETIC_EXACT;
}

/* By its name, a level's fast kernels are taken where they are slow too. */
mf_model_options test_options(const char *cpu)
{
    mf_model_options options = MF_MODEL_OPTIONS_INIT;
    options.arithmetic = test_arithmetic();
    options.cpu = cpu || options.arithmetic == MF_ARITHMETIC_EXACT ? cpu : mfk_cpu_name(mfk_cpu_detect());
    return options;
}

mf_model *open_file(const model_file *file, const char *cpu)
{
    mf_model_options options = test_options(cpu);
    mf_error error = MF_ERROR_INIT;
    mf_model *model = NULL;
    mf_status status = mf_model_open_memory(&model, file->data, file->bytes, &options, &error);
    require(status == MF_OK, "open: %s", error.detail);
    return model;
}

mf_submodel *take_view(mf_model *model, const widths *view)
{
    uint32_t ffn[RANDOM_MAX_LAYER], heads[RANDOM_MAX_LAYER], skip[RANDOM_MAX_LAYER];
    mf_submodel_spec spec = MF_SUBMODEL_SPEC_INIT;
    for (uint32_t l = 0; l < view->n_layer; l++) {
        if (view->ffn[l] == 0) {
            skip[spec.n_skip++] = l;
            continue;
        }
        ffn[spec.n_ffn++] = view->ffn[l];
        heads[spec.n_heads++] = view->heads[l];
    }
    spec.ffn = ffn;
    spec.heads = heads;
    spec.skip = skip;
    mf_error error = MF_ERROR_INIT;
    mf_submodel *submodel = NULL;
    mf_status status = mf_extract_submodel(&submodel, model, &spec, &error);
    require(status == MF_OK, "extract: %s", error.detail);
    return submodel;
}

mf_submodel *take_named(mf_model *model, const char *text)
{
    mf_error error = MF_ERROR_INIT;
    mf_submodel *submodel = NULL;
    mf_status status = mf_extract_submodel_text(&submodel, model, text, &error);
    require(status == MF_OK, "extract %s: %s", text, error.detail);
    return submodel;
}

mf_session *new_session_of(mf_model *model, mf_cache_type type, uint32_t max_positions)
{
    mf_session_options options = MF_SESSION_OPTIONS_INIT;
    mf_error error = MF_ERROR_INIT;
    mf_session *session = NULL;
    options.cache_type = type;
    options.max_positions = max_positions;
    require(mf_session_create(&session, model, &options, &error) == MF_OK, "session: %s", error.detail);
    return session;
}

mf_session *new_session(mf_model *model)
{
    return new_session_of(model, MF_CACHE_F32, 0);
}

mf_executor *new_executor(mf_model *model, uint32_t n_thread, uint32_t max_tokens)
{
    mf_executor_options options = MF_EXECUTOR_OPTIONS_INIT;
    mf_error error = MF_ERROR_INIT;
    mf_executor *executor = NULL;
    options.n_thread = n_thread;
    options.max_tokens = max_tokens;
    require(mf_executor_create(&executor, model, &options, &error) == MF_OK, "executor: %s", error.detail);
    return executor;
}

const char *cpu_level(const model_file *file, uint32_t index)
{
    const char *level;
    for (size_t i = 0; (level = mfk_cpu_level(i)) != NULL; i++) {
        mf_model_info info = MF_MODEL_INFO_INIT;
        mf_model *model = open_file(file, level);
        require(mf_model_info_get(model, &info) == MF_OK, "mf_model_info_get(model, &info) == MF_OK");
        bool has = strcmp(info.cpu, level) == 0;
        mf_model_close(model);
        if (has && index-- == 0) return level;
    }
    return NULL;
}

bool is_fast(const model_file *file, const char *level)
{
    mf_model_info info = MF_MODEL_INFO_INIT;
    mf_model *model = open_file(file, level);
    require(mf_model_info_get(model, &info) == MF_OK, "mf_model_info_get(model, &info) == MF_OK");
    mf_model_close(model);
    return info.arithmetic == MF_ARITHMETIC_FAST;
}

/* ---- Outputs ---- */

outputs new_outputs(const mf_model *model, size_t n_token)
{
    mf_model_info info = MF_MODEL_INFO_INIT;
    require(mf_model_info_get(model, &info) == MF_OK, "mf_model_info_get(model, &info) == MF_OK");
    outputs out = { .n_token = n_token, .n_vocab = info.n_vocab, .d_model = info.d_model };
    out.logits = calloc(n_token * out.n_vocab, sizeof(float));
    out.hidden = calloc(n_token * out.d_model, sizeof(float));
    require(out.logits && out.hidden, "out.logits && out.hidden");
    return out;
}

void drop_outputs(outputs *out)
{
    free(out->logits);
    free(out->hidden);
    *out = (outputs){ 0 };
}

bool same_rows(const outputs *a, size_t from_a, const outputs *b, size_t from_b, size_t n)
{
    size_t v = a->n_vocab, d = a->d_model;
    require(v == b->n_vocab && d == b->d_model && from_a + n <= a->n_token && from_b + n <= b->n_token,
            "v == b->n_vocab && d == b->d_model && from_a + n <= a->n_token && from_b + n <= b->n_token");
    return memcmp(a->logits + from_a * v, b->logits + from_b * v, n * v * sizeof(float)) == 0 &&
           memcmp(a->hidden + from_a * d, b->hidden + from_b * d, n * d * sizeof(float)) == 0;
}

bool same_bits(const outputs *a, const outputs *b)
{
    require(a->n_token == b->n_token, "a->n_token == b->n_token");
    return same_rows(a, 0, b, 0, a->n_token);
}

int32_t *new_tokens(const mf_model *model, size_t n, rng *r)
{
    mf_model_info info = MF_MODEL_INFO_INIT;
    require(mf_model_info_get(model, &info) == MF_OK, "mf_model_info_get(model, &info) == MF_OK");
    int32_t *tokens = calloc(n, sizeof(int32_t));
    require(tokens, "tokens");
    for (size_t i = 0; i < n; i++)
        tokens[i] = (int32_t)rng_below(r, info.n_vocab);
    return tokens;
}

/* ---- Running ---- */

mf_request request_all(mf_session *session, const mf_submodel *view, const int32_t *tokens, size_t n, outputs *out,
                       size_t row)
{
    require(row + n <= out->n_token, "row + n <= out->n_token");
    return (mf_request){ .session = session,
                         .submodel = view,
                         .tokens = tokens,
                         .n_token = n,
                         .logits_of = MF_LOGITS_ALL,
                         .logits = out->logits + row * out->n_vocab,
                         .logits_capacity = n * out->n_vocab,
                         .hidden = out->hidden + row * out->d_model,
                         .hidden_capacity = n * out->d_model };
}

void run_more(mf_executor *executor, mf_session *session, const mf_submodel *view, const int32_t *timeline, size_t n,
              outputs *out)
{
    uint32_t at = mf_session_position(session);
    mf_request request = request_all(session, view, timeline + at, n, out, at);
    mf_error error = MF_ERROR_INIT;
    mf_status status = mf_forward(executor, &request, 1, sizeof(request), &error);
    require(status == MF_OK && request.status == MF_OK, "forward: %s", error.detail);
    require(request.n_token_done == n && mf_session_position(session) == at + n,
            "request.n_token_done == n && mf_session_position(session) == at + n");
}

outputs run_alone(mf_model *model, const mf_submodel *view, const int32_t *timeline, size_t n)
{
    outputs out = new_outputs(model, n);
    mf_executor *executor = new_executor(model, 1, 0);
    mf_session *session = new_session(model);
    run_more(executor, session, view, timeline, n, &out);
    mf_session_close(session);
    mf_executor_close(executor);
    return out;
}
