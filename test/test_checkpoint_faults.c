/* test_checkpoint_faults.c - what goes wrong while a checkpoint is opened, converted or exported: no memory, a file that
 * shrinks, a caller that cancels. Nothing leaks and nothing is left behind. And what opening takes: memory and threads. */
#define _GNU_SOURCE
#include "damage_fixture.h"
#include "run_model.h"

#include <stdbool.h>

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SANITIZED 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(memory_sanitizer) || __has_feature(thread_sanitizer)
#define SANITIZED 1
#endif
#endif
#ifndef SANITIZED
#define SANITIZED 0
#endif

/* ---- The three that read all weights, alike ---- */

/* What a call gets, and a folder that only the model is in. */
typedef struct call {
    const char *path, *out;
    mf_allocator allocator;
    mf_progress progress;
    void *progress_user;
    uint32_t n_thread;
} call;

typedef mf_status work_fn(const call *c, mf_error *error);

static mf_status open_directly(const call *c, mf_error *error)
{
    mf_model *model = NULL;
    mf_model_options options = MF_MODEL_OPTIONS_INIT;
    options.allocator = c->allocator;
    options.progress = c->progress;
    options.progress_user = c->progress_user;
    options.n_thread = c->n_thread;
    const mf_status status = mf_model_open(&model, c->path, &options, error);
    cr_assert_eq(status == MF_OK, model != NULL);
    mf_model_close(model);
    return status;
}

static mf_status open_source(const call *c, mf_source **source, mf_error *error)
{
    mf_source_options options = MF_SOURCE_OPTIONS_INIT;
    options.allocator = c->allocator;
    return mf_source_open(source, c->path, &options, error);
}

static mf_status convert(const call *c, mf_error *error)
{
    mf_source *source = NULL;
    mf_convert_options options = MF_CONVERT_OPTIONS_INIT;
    options.progress = c->progress;
    options.progress_user = c->progress_user;
    options.n_thread = c->n_thread;
    mf_status status = open_source(c, &source, error);
    if (status == MF_OK) status = mf_convert(source, c->out, &options, NULL, error);
    mf_source_close(source);
    return status;
}

static mf_status export(const call *c, mf_error *error)
{
    mf_source *source = NULL;
    mf_export_options options = MF_EXPORT_OPTIONS_INIT;
    options.progress = c->progress;
    options.progress_user = c->progress_user;
    options.shard_bytes = 100000;
    mf_status status = open_source(c, &source, error);
    if (status == MF_OK) status = mf_export(source, c->out, &options, error);
    mf_source_close(source);
    return status;
}

static const struct {
    const char *name;
    work_fn *work;
} works[] = { { "open", open_directly }, { "convert", convert }, { "export", export } };
enum { N_WORK = sizeof works / sizeof *works };

/* ---- Models, and where what is made of them goes ---- */

typedef struct place {
    folder model, out;
    char path[640], out_path[128];
} place;

static place place_of(folder model, const char *file)
{
    place p = { .model = model, .out = folder_make() };
    snprintf(p.path, sizeof p.path, "%s%s%s", model.path, file[0] ? "/" : "", file);
    snprintf(p.out_path, sizeof p.out_path, "%s/out", p.out.path);
    return p;
}

static place place_folder(const char *checkpoint)
{
    return place_of(copy_checkpoint(checkpoint), "");
}

static place place_gguf(size_t type)
{
    folder f = folder_make();
    folder_put(&f, "model.gguf", gguf_llama(&gguf_types[type], NULL));
    return place_of(f, "model.gguf");
}

static call call_of(const place *p)
{
    return (call){ .path = p->path, .out = p->out_path, .n_thread = 1 };
}

/* False where something is left. */
static bool out_is_empty(const place *p)
{
    size_t count = 0;
    DIR *d = opendir(p->out.path);
    for (const struct dirent *entry; (entry = readdir(d));)
        count += entry->d_name[0] != '.' || strlen(entry->d_name) > 2;
    closedir(d);
    return count == 0;
}

/* Of a file, or of a folder of files. */
static void remove_out(const place *p)
{
    DIR *d = opendir(p->out_path);
    for (const struct dirent *entry; d && (entry = readdir(d));)
        if (entry->d_name[0] != '.') unlinkat(dirfd(d), entry->d_name, 0);
    if (d) closedir(d);
    if (d) rmdir(p->out_path);
    unlink(p->out_path);
}

static void drop_place(place *p)
{
    remove_out(p);
    folder_remove(&p->out);
    folder_remove(&p->model);
}

/* ---- No memory ---- */

/* JSON has hooks of its own. */
static size_t json_count, json_live, json_fail_at;

static void *json_alloc(size_t n)
{
    void *memory = ++json_count == json_fail_at ? NULL : malloc(n);
    json_live += memory != NULL;
    return memory;
}

static void json_free(void *memory)
{
    json_live -= memory != NULL;
    free(memory);
}

static void watch_json(void)
{
    json_set_alloc_funcs(json_alloc, json_free);
}

/* Each allocation fails in turn, alone or with all after it. */
static void fail_every_allocation(place p, size_t w, int and_all_after)
{
    call c = call_of(&p);
    for (size_t at = 1;; at++) {
        counting counts = { .fail_at = at, .fail_after = and_all_after, .mutex = PTHREAD_MUTEX_INITIALIZER };
        mf_error error = MF_ERROR_INIT;
        c.allocator = counting_allocator(&counts);
        const mf_status status = works[w].work(&c, &error);
        cr_assert(counts.live_bytes == 0 && json_live == 0, "%s %s, allocation %zu: %zu bytes and %zu of JSON are lost",
                  works[w].name, p.path, at, counts.live_bytes, json_live);
        if (counts.n_alloc < at) {
            cr_assert_eq(status, MF_OK, "%s: %s", works[w].name, error.detail);
            cr_assert_gt(at, 20);
            break;
        }
        cr_assert_eq(status, MF_E_NOMEM, "%s %s, allocation %zu: %s, %s", works[w].name, p.path, at,
                     mf_status_name(status), error.detail);
        cr_assert(error.status == status && error.detail[0]);
        cr_assert(out_is_empty(&p), "%s, allocation %zu: something is left", works[w].name, at);
    }
    drop_place(&p);
}

Test(faults, each_allocation_may_fail_with_a_folder, .init = watch_json)
{
    for (size_t w = 0; w < N_WORK; w++)
        fail_every_allocation(place_folder("llama_grouped_bf16_sharded"), w, 0);
    fail_every_allocation(place_folder("gemma3n_nested"), 1, 1);
    fail_every_allocation(place_folder("vit_pooler_f32"), 2, 1);
}

Test(faults, each_allocation_may_fail_with_gguf, .init = watch_json)
{
    for (size_t w = 0; w + 1 < N_WORK; w++) {
        fail_every_allocation(place_gguf(3), w, 0);
        fail_every_allocation(place_gguf(8), w, 1);
    }
}

/* ---- No memory for JSON ---- */

/* Those of opening, and then of making a folder. */
static size_t json_opening(const call *c)
{
    mf_source *source = NULL;
    json_count = json_fail_at = 0;
    cr_assert_eq(open_source(c, &source, NULL), MF_OK);
    mf_source_close(source);
    return json_count;
}

/* Whether the configuration is made then, which comes first. */
static bool is_config(size_t at, size_t opening)
{
    return at >= opening && at < opening + 200;
}

/* A config.json without some of its keys was written. */
Test(faults, no_memory_for_json_is_no_file_of_other_content, .init = watch_json)
{
    place p = place_folder("vit_pooler_f32");
    char name[256];
    const call c = call_of(&p);
    mf_error error = MF_ERROR_INIT;
    bytes expected = { NULL, 0, 0 };
    snprintf(name, sizeof name, "%s/config.json", p.out_path);
    const size_t opening = json_opening(&c);
    size_t all = 0;
    for (json_fail_at = 0; json_fail_at <= all; json_fail_at += is_config(json_fail_at, opening) ? 1 : 7) {
        json_count = 0;
        const mf_status status = export(&c, &error);
        cr_assert_eq(json_live, 0, "allocation %zu: %zu are lost", json_fail_at, json_live);
        if (status != MF_OK) cr_assert(error.detail[0] && out_is_empty(&p));
        if (status != MF_OK && json_fail_at > opening) cr_assert_eq(status, MF_E_NOMEM, "%s", error.detail);
        if (status != MF_OK) continue; /* parsing, jansson takes some of them for damage */
        bytes found = read_bytes(name);
        if (json_fail_at == 0) all = json_count;
        if (json_fail_at == 0) put(&expected, found.at, found.n);
        cr_assert(found.n == expected.n && memcmp(found.at, expected.at, found.n) == 0, "allocation %zu: %.*s",
                  json_fail_at, (int)found.n, (const char *)found.at);
        free(found.at);
        remove_out(&p);
    }
    cr_assert_gt(all, opening + 50);
    free(expected.at);
    drop_place(&p);
}

/* ---- Progress ---- */

typedef struct teller {
    size_t n_call, cancel_at; /* 0: never */
    uint64_t done, total;
    bool falls;
    const char *shrinks; /* the file, at the first call */
} teller;

static int tell(void *user, uint64_t done, uint64_t total)
{
    teller *t = user;
    t->falls = t->falls || done < t->done || done > total || (t->n_call > 0 && total != t->total);
    t->done = done;
    t->total = total;
    if (t->n_call++ == 0 && t->shrinks) cr_assert_eq(truncate(t->shrinks, 20000), 0);
    return t->n_call == t->cancel_at;
}

static void cancel_everywhere(place p, size_t w)
{
    call c = call_of(&p);
    teller whole = { 0 };
    mf_error error = MF_ERROR_INIT;
    c.progress = tell;
    c.progress_user = &whole;
    cr_assert_eq(works[w].work(&c, &error), MF_OK, "%s", error.detail);
    cr_assert(whole.n_call > 3 && !whole.falls && whole.total > 0 && whole.done == whole.total,
              "%s %s: %zu calls, %llu of %llu", works[w].name, p.path, whole.n_call, (unsigned long long)whole.done,
              (unsigned long long)whole.total);
    remove_out(&p);
    for (size_t at = 1; at <= whole.n_call; at++) {
        counting counts = { .mutex = PTHREAD_MUTEX_INITIALIZER };
        teller t = { .cancel_at = at };
        c.allocator = counting_allocator(&counts);
        c.progress_user = &t;
        c.n_thread = 1 + (uint32_t)at % 2;
        cr_assert_eq(works[w].work(&c, &error), MF_E_CANCELLED, "%s, call %zu", works[w].name, at);
        cr_assert_eq(t.n_call, at, "%s went on after call %zu", works[w].name, at);
        cr_assert(counts.live_bytes == 0 && json_live == 0 && out_is_empty(&p), "%s, call %zu", works[w].name, at);
    }
    drop_place(&p);
}

Test(faults, progress_ends_at_the_total_and_may_cancel_at_every_call, .init = watch_json)
{
    for (size_t w = 0; w < N_WORK; w++) {
        cancel_everywhere(place_folder("llama_grouped_bf16_sharded"), w);
        cancel_everywhere(place_gguf(3), w);
    }
    cancel_everywhere(place_folder("gemma3n_nested"), 0);
    cancel_everywhere(place_folder("vit_pooler_f32"), 1);
}

/* ---- Files that shrink ---- */

static void expect_shrinking_reported(place p, const char *file, size_t w)
{
    call c = call_of(&p);
    teller t = { .shrinks = folder_file(&p.model, file) };
    mf_error error = MF_ERROR_INIT;
    c.progress = tell;
    c.progress_user = &t;
    cr_assert_eq(works[w].work(&c, &error), MF_E_IO, "%s: %s", works[w].name, error.detail);
    cr_assert(strstr(error.detail, file) && strstr(error.detail, "ends early"), "%s", error.detail);
    cr_assert(out_is_empty(&p));
    drop_place(&p);
}

Test(faults, a_file_that_shrinks_is_an_error_and_no_signal)
{
    for (size_t w = 0; w < N_WORK; w++) {
        expect_shrinking_reported(place_folder("llama_linear_f16"), TENSORS, w);
        expect_shrinking_reported(place_folder("gemma3n"), TENSORS, w);
        expect_shrinking_reported(place_gguf(3), "model.gguf", w);
        expect_shrinking_reported(place_gguf(9), "model.gguf", w);
    }
}

Test(faults, a_file_that_shrinks_before_it_is_read_is_an_error)
{
    place p = place_folder("llama_linear_f16");
    mf_source *source = NULL;
    mf_error error = MF_ERROR_INIT;
    cr_assert_eq(mf_source_open(&source, p.path, NULL, &error), MF_OK);
    cr_assert_eq(truncate(folder_file(&p.model, TENSORS), 10), 0);
    cr_assert_eq(mf_convert(source, p.out_path, NULL, NULL, &error), MF_E_IO, "%s", error.detail);
    cr_assert(out_is_empty(&p));
    mf_source_close(source);
    drop_place(&p);
}

/* ---- Threads ---- */

static size_t count_tasks(void)
{
    size_t count = 0;
    DIR *d = opendir("/proc/self/task");
    for (const struct dirent *entry; d && (entry = readdir(d));)
        count += entry->d_name[0] != '.';
    if (d) closedir(d);
    return count;
}

static int note_tasks(void *user, uint64_t done, uint64_t total)
{
    (void)done;
    (void)total;
    *(size_t *)user = count_tasks();
    return 0;
}

static outputs run_opened(const char *path, uint32_t n_thread, size_t *n_task)
{
    mf_model_options options = MF_MODEL_OPTIONS_INIT;
    mf_model *model = NULL;
    mf_submodel *view = NULL;
    rng r = { 5 };
    options.n_thread = n_thread;
    options.progress = note_tasks;
    options.progress_user = n_task;
    cr_assert_eq(mf_model_open(&model, path, &options, NULL), MF_OK);
    cr_assert_eq(mf_extract_submodel(&view, model, NULL, NULL), MF_OK);
    int32_t *tokens = new_tokens(model, 9, &r);
    outputs out = run_alone(model, view, tokens, 9);
    free(tokens);
    mf_submodel_close(view);
    mf_model_close(model);
    return out;
}

static void expect_same_bits(place p)
{
    static const uint32_t n_thread[] = { 2, 3, 7, 64 };
    size_t alone = 0, n_task = 0;
    outputs expected = run_opened(p.path, 1, &alone);
    for (size_t t = 0; t < sizeof n_thread / sizeof *n_thread; t++) {
        outputs found = run_opened(p.path, n_thread[t], &n_task);
        cr_assert_eq(n_task, alone + n_thread[t] - 1, "%zu tasks", n_task);
        cr_assert(same_bits(&expected, &found), "%s on %u threads", p.path, n_thread[t]);
        drop_outputs(&found);
    }
    drop_outputs(&expected);
    drop_place(&p);
}

Test(faults, opening_takes_all_threads_and_gives_the_same_bits_with_any_number)
{
    expect_same_bits(place_folder("llama_linear_f16"));
    expect_same_bits(place_folder("gemma3n_nested"));
    expect_same_bits(place_gguf(3));
    expect_same_bits(place_gguf(8));
}

/* It took one, whatever it was told. */
Test(faults, converting_takes_all_threads_and_gives_the_same_file_with_any_number)
{
    place p = place_gguf(8);
    call c = call_of(&p);
    bytes expected = { NULL, 0, 0 };
    size_t alone = 0;
    for (c.n_thread = 1; c.n_thread <= 5; c.n_thread++) {
        size_t n_task = 0;
        c.progress = note_tasks;
        c.progress_user = &n_task;
        cr_assert_eq(convert(&c, NULL), MF_OK);
        bytes found = read_bytes(p.out_path);
        if (c.n_thread == 1) {
            alone = n_task;
            put(&expected, found.at, found.n);
        }
        cr_assert_eq(n_task, alone + c.n_thread - 1, "%zu tasks", n_task);
        cr_assert(found.n == expected.n && memcmp(found.at, expected.at, found.n) == 0, "%u threads", c.n_thread);
        free(found.at);
    }
    free(expected.at);
    drop_place(&p);
}

/* ---- Memory ---- */

/* A line of /proc/self/status, in bytes. */
static size_t status_bytes(const char *key)
{
    char line[256];
    size_t kib = 0;
    FILE *file = fopen("/proc/self/status", "r");
    while (file && fgets(line, sizeof line, file))
        if (strncmp(line, key, strlen(key)) == 0) sscanf(line + strlen(key), ": %zu", &kib);
    if (file) fclose(file);
    return kib << 10;
}

typedef struct sparse {
    bytes header;
    uint64_t offset;
} sparse;

static void add_sparse(sparse *s, const char *name, uint64_t rows, uint64_t k)
{
    char entry[256];
    const uint64_t end = s->offset + rows * k * 2;
    char shape[64];
    snprintf(shape, sizeof shape, k > 1 ? "[%llu,%llu]" : "[%llu]", (unsigned long long)rows, (unsigned long long)k);
    snprintf(entry, sizeof entry, "%c\"%s\":{\"dtype\":\"F16\",\"shape\":%s,\"data_offsets\":[%llu,%llu]}",
             s->header.n == 0 ? '{' : ',', name, shape, (unsigned long long)s->offset, (unsigned long long)end);
    put(&s->header, entry, strlen(entry));
    s->offset = end;
}

/* A Llama whose weights are holes in a file: 402 MB. */
static folder make_sparse(void)
{
    enum { LAYERS = 12, D = 1024, FF = 4096, VOCAB = 32000 };
    static const struct {
        const char *name;
        uint64_t rows, k;
    } parts[] = { { "input_layernorm", D, 1 },      { "post_attention_layernorm", D, 1 },
                  { "self_attn.q_proj", D, D },     { "self_attn.k_proj", D / 4, D },
                  { "self_attn.v_proj", D / 4, D }, { "self_attn.o_proj", D, D },
                  { "mlp.gate_proj", FF, D },       { "mlp.up_proj", FF, D },
                  { "mlp.down_proj", D, FF } };
    static const char config[] = "{\"model_type\":\"llama\",\"num_hidden_layers\":12,\"hidden_size\":1024,"
                                 "\"num_attention_heads\":16,\"num_key_value_heads\":4,\"vocab_size\":32000,"
                                 "\"intermediate_size\":4096}";
    folder f = folder_make();
    sparse s = { { NULL, 0, 0 }, 0 };
    char name[128];
    for (uint32_t layer = 0; layer < LAYERS; layer++)
        for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
            snprintf(name, sizeof name, "model.layers.%u.%s.weight", layer, parts[i].name);
            add_sparse(&s, name, parts[i].rows, parts[i].k);
        }
    add_sparse(&s, "model.norm.weight", D, 1);
    add_sparse(&s, "model.embed_tokens.weight", VOCAB, D);
    add_sparse(&s, "lm_head.weight", VOCAB, D);
    emit(&s.header, "r", "}");
    const uint64_t bytes_before = 8 + s.header.n;
    bytes file = { NULL, 0, 0 };
    put_number(&file, s.header.n, 8);
    put(&file, s.header.at, s.header.n);
    folder_put(&f, TENSORS, file);
    cr_assert_eq(truncate(folder_file(&f, TENSORS), (off_t)(bytes_before + s.offset)), 0);
    folder_write(&f, "config.json", config, strlen(config));
    free(s.header.at);
    return f;
}

Test(faults, opening_takes_the_packed_weights_and_little_more)
{
    if (SANITIZED) return; /* which takes memory of its own */
    folder f = make_sparse();
    mf_model *model = NULL;
    mf_error error = MF_ERROR_INIT;
    mf_model_info info = MF_MODEL_INFO_INIT;
    const size_t before = status_bytes("VmRSS");
    cr_assert_eq(mf_model_open(&model, f.path, NULL, &error), MF_OK, "%s", error.detail);
    const size_t most = status_bytes("VmHWM");
    cr_assert_eq(mf_model_info_get(model, &info), MF_OK);
    cr_assert_gt(info.weight_bytes, 390u << 20);
    cr_assert_leq(most - before, info.weight_bytes + ((size_t)256 << 20), "%zu MB for %llu MB", (most - before) >> 20,
                  (unsigned long long)info.weight_bytes >> 20);
    mf_model_close(model);
    folder_remove(&f);
}
