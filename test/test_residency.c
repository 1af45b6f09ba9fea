/* test_residency.c - shells are loaded and given back while other threads compute; what is computed stays the same to
 * the bit, and what cannot be is refused. Made for ThreadSanitizer and AddressSanitizer. */
#define _GNU_SOURCE
#include <criterion/criterion.h>

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>

#include "counting_allocator.h"
#include "defs.h"
#include "residency_fixture.h"

static mf_status grow_to(mf_model *model, const char *name, mf_error *error)
{
    return mf_model_grow(model, name, NULL, error);
}

static void grow(mf_model *model, uint32_t size)
{
    mf_error error = MF_ERROR_INIT;
    cr_assert(grow_to(model, mf_model_granularity(model, size), &error) == MF_OK, "%s", error.detail);
}

static void trim(mf_model *model, uint32_t size)
{
    mf_error error = MF_ERROR_INIT;
    cr_assert(mf_model_trim(model, mf_model_granularity(model, size), NULL, &error) == MF_OK, "%s", error.detail);
}

static uint64_t weights_in_memory(const mf_model *model)
{
    mf_model_info info = MF_MODEL_INFO_INIT;
    cr_assert(mf_model_info_get(model, &info) == MF_OK);
    return info.mapped_bytes + info.allocated_bytes;
}

/* ---- One thread ---- */

static void expect_growth(mfk_type type, mfi_storage storage, mf_load load)
{
    scene s = new_scene(type, storage, 256, 7);
    mf_model *model = open_path(s.path, load, "S");
    const uint64_t narrow = weights_in_memory(model);
    expect_sizes(model, &s, 1, "opened narrow");
    grow(model, 1);
    expect_sizes(model, &s, 2, "grown once");
    cr_assert(weights_in_memory(model) > narrow);
    grow(model, 0);
    expect_sizes(model, &s, 2, "growing makes nothing smaller");
    cr_assert(mf_model_grow(model, NULL, NULL, NULL) == MF_OK);
    expect_sizes(model, &s, 3, "grown to all");
    trim(model, 1);
    expect_sizes(model, &s, 2, "trimmed once");
    trim(model, 2);
    expect_sizes(model, &s, 2, "trimming makes nothing larger");
    cr_assert(mf_model_trim(model, NULL, NULL, NULL) == MF_OK);
    expect_sizes(model, &s, 1, "trimmed to the narrowest");
    cr_assert(weights_in_memory(model) == narrow);
    grow(model, 2);
    expect_sizes(model, &s, 3, "grown again");
    mf_model_close(model);
    drop_scene(&s);
}

Test(residency, growing_brings_the_same_bits_from_every_storage)
{
    static const mfk_type types[] = { MFK_BF16, MFK_Q8, MFK_Q4 };
    for (size_t t = 0; t < 3; t++)
        for (mfi_storage storage = MFI_RAW; storage <= MFI_ZSTD; storage++)
            for (mf_load load = MF_LOAD_MAP; load <= MF_LOAD_COPY; load++)
                expect_growth(types[t], storage, load);
}

Test(residency, shells_are_told_apart)
{
    scene s = new_scene(MFK_BF16, MFI_RAW, 256, 7);
    mf_model *model = open_path(s.path, MF_LOAD_MAP, "M");
    mf_shell_info shell = MF_SHELL_INFO_INIT;
    uint64_t end = 0, bytes = 0;
    for (uint32_t i = 0; i < SIZES; i++) {
        cr_assert(mf_model_shell_info_get(model, i, &shell) == MF_OK);
        cr_assert_str_eq(shell.granularity, mf_model_granularity(model, i));
        cr_assert(shell.present == 1 && shell.resident == (i < 2) && shell.fed_bytes == 0);
        cr_assert(shell.file_offset >= end && shell.stored_bytes > 0 && shell.memory_bytes == shell.stored_bytes);
        end = shell.file_offset + shell.stored_bytes;
        bytes += shell.memory_bytes;
    }
    mf_model_info info = MF_MODEL_INFO_INIT;
    cr_assert(mf_model_shell_info_get(model, MF_SHELL_TABLES, &shell) == MF_OK && shell.resident == 1);
    cr_assert_str_eq(shell.granularity, "S");
    cr_assert(mf_model_info_get(model, &info) == MF_OK && info.weight_bytes == bytes + shell.memory_bytes);
    cr_assert(end == info.file_bytes, "the last shell ends the file");
    cr_assert(mf_model_shell_info_get(model, SIZES, &shell) == MF_E_RANGE);
    mf_model_close(model);
    drop_scene(&s);
}

/* ---- What the system says of the memory ---- */

#if defined(__linux__)
/* Resident bytes of the mappings that lie within [begin, end), and whether any of it can be read. */
static uint64_t resident_bytes(uintptr_t begin, uintptr_t end, bool *readable)
{
    char line[512];
    uint64_t total = 0;
    bool inside = false;
    FILE *maps = fopen("/proc/self/smaps", "r");
    cr_assert(maps != NULL);
    *readable = false;
    while (fgets(line, sizeof line, maps)) {
        unsigned long from, to, kb;
        char mode[8];
        if (sscanf(line, "%lx-%lx %7s", &from, &to, mode) == 3) {
            inside = from < end && to > begin;
            if (inside && mode[0] == 'r') *readable = true;
        } else if (inside && sscanf(line, "Rss: %lu kB", &kb) == 1) {
            total += (uint64_t)kb << 10;
        }
    }
    fclose(maps);
    return total;
}

static void expect_memory_back(mfi_storage storage, mf_load load)
{
    scene s = new_scene(MFK_F32, storage, 8192, 3); /* shells of 3 and 6 MB */
    mf_model *model = open_path(s.path, load, NULL);
    bool readable, same;
    uint64_t before = 0, after = 0;
    struct {
        uintptr_t begin, end;
    } range[8];
    const uint32_t n = mfi_container_region_count(model->container);
    expect_sizes(model, &s, 3, "all of it");
    for (uint32_t i = 0; i < n; i++) {
        const mfi_region *region = mfi_container_region(model->container, i);
        range[i].begin = (uintptr_t)region->data;
        range[i].end = range[i].begin + region->raw_bytes;
        if (region->kind != MFI_REGION_SHELL) continue;
        before += resident_bytes(range[i].begin, range[i].end, &readable);
        cr_assert(readable);
    }
    cr_assert(before > (8 << 20), "%llu bytes: they were read", (unsigned long long)before);
    trim(model, 0);
    for (uint32_t i = 0; i < n; i++) {
        const uint64_t here = resident_bytes(range[i].begin, range[i].end, &readable);
        const bool shell = mfi_container_region(model->container, i)->kind == MFI_REGION_SHELL;
        if (shell) after += here;
        cr_assert(readable != shell, "region %u can%s be read", i, readable ? "" : "not");
    }
    cr_assert(after * 20 <= before, "%llu of %llu bytes are left", (unsigned long long)after,
              (unsigned long long)before);
    cr_assert(run_size(model, &s, 0, &same, NULL) == MF_OK && same);
    grow(model, 2);
    expect_sizes(model, &s, 3, "and all of it again");
    mf_model_close(model);
    drop_scene(&s);
}

Test(residency, trimming_gives_memory_back_at_once_and_leaves_nothing_to_read)
{
    expect_memory_back(MFI_RAW, MF_LOAD_MAP);
    expect_memory_back(MFI_RAW, MF_LOAD_COPY);
    expect_memory_back(MFI_ZSTD, MF_LOAD_MAP);
}
#endif

/* ---- Many threads ---- */

enum { RUNNERS = 5, CHANGERS = 3 };

typedef struct crowd {
    const scene *s;
    mf_model *model;
    atomic_uint changes, changers; /* still to come; that are still at it */
    atomic_uint ran, refused;      /* forwards that were wider than the narrowest */
    const char *_Atomic failure;
} crowd;

typedef struct member {
    crowd *crowd;
    rng random;
    bool changes;
} member;

static bool take_change(crowd *c)
{
    unsigned left = atomic_load(&c->changes);
    while (left > 0 && !atomic_compare_exchange_weak(&c->changes, &left, left - 1))
        ;
    return left > 0;
}

static void change(crowd *c, rng *r)
{
    mf_error error = MF_ERROR_INIT;
    const char *name = mf_model_granularity(c->model, rng_below(r, SIZES));
    mf_trim_options options = MF_TRIM_OPTIONS_INIT;
    static const uint32_t waits[] = { 0, 1, MF_WAIT_NONE };
    options.wait_ms = waits[rng_below(r, 3)];
    const uint32_t what = rng_below(r, 8);
    const bool trims = what < 3;
    const mf_status status = trims      ? mf_model_trim(c->model, name, &options, &error)
                             : what < 7 ? mf_model_grow(c->model, name, NULL, &error)
                                        : mf_model_attach(c->model, c->s->path, &error);
    const bool busy = status == MF_E_BUSY && trims && options.wait_ms != 0;
    if (status != MF_OK && !busy) c->failure = "growing, trimming or attaching failed";
    /* So that others come in between, also where there are few processors. */
    const struct timespec pause = { .tv_nsec = (long)rng_below(r, 400000) };
    nanosleep(&pause, NULL);
}

static void run_once(crowd *c, rng *r, mf_executor *executor, mf_session *session, mf_submodel *const *views,
                     outputs *out)
{
    const uint32_t size = rng_below(r, SIZES);
    mf_request request = request_all(session, views[size], c->s->tokens, N_TOKEN, out, 0);
    const mf_status status = mf_forward(executor, &request, 1, sizeof request, NULL);
    if (status == MF_OK && !same_bits(out, &c->s->expected[size])) c->failure = "logits differ";
    if (status != MF_OK && (status != MF_E_NOT_RESIDENT || size == 0)) c->failure = "a forward failed";
    if (size > 0) atomic_fetch_add(status == MF_OK ? &c->ran : &c->refused, 1);
    mf_session_rewind(session, 0);
}

static void *take_part(void *user)
{
    member *m = user;
    crowd *c = m->crowd;
    mf_submodel *views[SIZES];
    for (uint32_t g = 0; g < SIZES; g++)
        views[g] = take_named(c->model, mf_model_granularity(c->model, g));
    mf_session *session = new_session(c->model);
    mf_executor *executor = new_executor(c->model, 1, 8);
    outputs out = new_outputs(c->model, N_TOKEN);
    while (!c->failure && (m->changes ? take_change(c) : atomic_load(&c->changers) > 0)) {
        mf_model_info info = MF_MODEL_INFO_INIT;
        mf_shell_info shell = MF_SHELL_INFO_INIT;
        if (m->changes)
            change(c, &m->random);
        else
            run_once(c, &m->random, executor, session, views, &out);
        mf_model_info_get(c->model, &info);
        mf_model_shell_info_get(c->model, 1, &shell);
    }
    if (m->changes) atomic_fetch_sub(&c->changers, 1);
    drop_outputs(&out);
    mf_executor_close(executor);
    mf_session_close(session);
    for (uint32_t g = 0; g < SIZES; g++)
        mf_submodel_close(views[g]);
    return NULL;
}

static void expect_peace(mfi_storage storage, mf_load load)
{
    scene s = new_scene(MFK_BF16, storage, 256, 11);
    crowd c = { .s = &s, .model = open_path(s.path, load, "S") };
    member members[RUNNERS + CHANGERS];
    pthread_t threads[RUNNERS + CHANGERS];
    atomic_init(&c.changes, test_rounds(500));
    atomic_init(&c.changers, CHANGERS);
    for (uint32_t i = 0; i < RUNNERS + CHANGERS; i++) {
        members[i] = (member){ &c, { 100 * (uint64_t)storage + i }, i >= RUNNERS };
        cr_assert(pthread_create(&threads[i], NULL, take_part, &members[i]) == 0);
    }
    for (uint32_t i = 0; i < RUNNERS + CHANGERS; i++)
        pthread_join(threads[i], NULL);
    cr_assert(!c.failure, "%s", c.failure);
    cr_assert(c.ran > 0 && c.refused > 0, "%u ran, %u were refused", c.ran, c.refused);
    grow(c.model, 2);
    expect_sizes(c.model, &s, 3, "afterwards");
    mf_model_close(c.model);
    drop_scene(&s);
}

Test(residency, eight_threads_grow_trim_and_run_at_random)
{
    expect_peace(MFI_RAW, MF_LOAD_MAP);
    expect_peace(MFI_ZSTD, MF_LOAD_COPY);
}

/* ---- A request that is held in flight ---- */

typedef struct held {
    mf_executor *executor;
    mf_request request;
    mf_status status;
    atomic_bool entered, released;
} held;

/* The host's loop: stops in the middle of the first one until it is let go. */
static void stop_inside(void *user, uint32_t n, mf_task task, void *task_user)
{
    held *h = user;
    atomic_store(&h->entered, true);
    while (!atomic_load(&h->released))
        sched_yield();
    for (uint32_t i = 0; i < n; i++)
        task(task_user, i);
}

static void *run_held(void *user)
{
    held *h = user;
    h->status = mf_forward(h->executor, &h->request, 1, sizeof h->request, NULL);
    return NULL;
}

static void *trim_and_wait(void *user)
{
    static mf_status status;
    status = mf_model_trim(user, "S", NULL, NULL);
    return &status;
}

static double seconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

Test(residency, a_request_in_flight_keeps_its_shells_and_new_ones_are_refused)
{
    scene s = new_scene(MFK_BF16, MFI_RAW, 256, 13);
    mf_model *model = open_path(s.path, MF_LOAD_MAP, NULL);
    held h = { 0 };
    pthread_t runner, trimmer;
    mf_executor_options options = MF_EXECUTOR_OPTIONS_INIT;
    mf_trim_options wait = MF_TRIM_OPTIONS_INIT;
    outputs out = new_outputs(model, N_TOKEN);
    mf_session *session = new_session(model);
    mf_submodel *view = take_named(model, "M");
    void *result;
    bool same;
    options.n_thread = 2;
    options.parallel_for = stop_inside;
    options.parallel_for_user = &h;
    cr_assert(mf_executor_create(&h.executor, model, &options, NULL) == MF_OK);
    h.request = request_all(session, view, s.tokens, N_TOKEN, &out, 0);
    cr_assert(pthread_create(&runner, NULL, run_held, &h) == 0);
    while (!atomic_load(&h.entered))
        sched_yield();

    mf_error error = MF_ERROR_INIT;
    wait.wait_ms = MF_WAIT_NONE;
    cr_assert(mf_model_trim(model, "S", &wait, &error) == MF_E_BUSY && error.detail[0]);
    expect_sizes(model, &s, 3, "all shells are as they were");
    wait.wait_ms = 30;
    const double began = seconds();
    cr_assert(mf_model_trim(model, "S", &wait, NULL) == MF_E_BUSY && seconds() - began >= 0.03);
    expect_sizes(model, &s, 3, "and again");
    trim(model, 1); /* the view in flight does not need the widest */
    expect_sizes(model, &s, 2, "the widest alone goes");

    cr_assert(pthread_create(&trimmer, NULL, trim_and_wait, model) == 0);
    while (run_size(model, &s, 1, &same, NULL) == MF_OK)
        sched_yield();
    cr_assert(run_size(model, &s, 1, &same, NULL) == MF_E_NOT_RESIDENT);
    cr_assert(run_size(model, &s, 0, &same, NULL) == MF_OK && same);
    atomic_store(&h.released, true);
    pthread_join(runner, NULL);
    pthread_join(trimmer, &result);
    cr_assert(*(mf_status *)result == MF_OK);
    cr_assert(h.status == MF_OK && same_bits(&out, &s.expected[1]), "computed to its end");
    expect_sizes(model, &s, 1, "then they went");
    drop_outputs(&out);
    mf_executor_close(h.executor);
    mf_session_close(session);
    mf_submodel_close(view);
    mf_model_close(model);
    drop_scene(&s);
}

/* ---- Generation ---- */

static int trim_at_third(void *user, const mf_token_event *event)
{
    mf_model *model = user;
    if (event->position == 2) trim(model, 0);
    return 0;
}

Test(residency, generation_with_a_view_that_went_ends_with_its_status)
{
    scene s = new_scene(MFK_BF16, MFI_RAW, 256, 17);
    mf_model *model = open_path(s.path, MF_LOAD_MAP, NULL);
    mf_submodel *view = take_named(model, "L");
    mf_session *session = new_session(model);
    mf_generate_options options = MF_GENERATE_OPTIONS_INIT;
    mf_error error = MF_ERROR_INIT;
    options.tokens = s.tokens;
    options.n_token = 1;
    options.max_tokens = 8;
    options.ignore_eos = 1;
    options.on_token = trim_at_third;
    options.user = model;
    cr_assert(mf_generate(NULL, session, view, &options, NULL, &error) == MF_E_NOT_RESIDENT && error.detail[0]);
    const uint32_t position = mf_session_position(session);
    cr_assert(position >= 2 && position <= 3, "%u", position);
    options.n_token = 0;
    options.tokens = NULL;
    cr_assert(mf_generate(NULL, session, view, &options, NULL, NULL) == MF_E_NOT_RESIDENT);
    cr_assert(mf_session_position(session) == position);
    grow(model, 2);
    options.on_token = NULL;
    cr_assert(mf_generate(NULL, session, view, &options, NULL, &error) == MF_OK, "%s", error.detail);
    mf_session_close(session);
    mf_submodel_close(view);
    mf_model_close(model);
    drop_scene(&s);
}

/* What trims and grows while a text is written, and the views that its tokens were chosen from. */
typedef struct trimmed {
    mf_model *model;
    uint32_t n_event, trim_at, grow_at;
    const mf_submodel *by[16];
} trimmed;

static int trim_and_grow(void *user, const mf_token_event *event)
{
    trimmed *t = user;
    t->by[t->n_event++] = event->submodel;
    if (t->n_event == t->trim_at) cr_assert(mf_model_trim(t->model, NULL, NULL, NULL) == MF_OK);
    if (t->n_event == t->grow_at) grow(t->model, 2);
    return 0;
}

Test(residency, a_fallback_writes_on_while_a_view_is_gone)
{
    enum { N = 12 };
    scene s = new_scene(MFK_BF16, MFI_RAW, 256, 18);
    mf_model *model = open_path(s.path, MF_LOAD_MAP, NULL);
    mf_submodel *wide = take_named(model, "L"), *narrow = take_named(model, "S");
    for (uint32_t drafts = 0; drafts < 2; drafts++) {
        mf_session *session = new_session(model), *replayed = new_session(model);
        mf_generate_options options = MF_GENERATE_OPTIONS_INIT;
        mf_generate_result result = MF_GENERATE_RESULT_INIT;
        mf_schedule_step steps[4];
        mf_error error = MF_ERROR_INIT;
        trimmed t = { .model = model, .trim_at = 3, .grow_at = 8 };
        options.tokens = s.tokens;
        options.n_token = 2;
        options.max_tokens = N;
        options.ignore_eos = 1;
        options.on_token = trim_and_grow;
        options.user = &t;
        options.fallback = narrow;
        options.draft = drafts ? narrow : NULL;
        options.draft_tokens = drafts ? 2 : 0;
        result.schedule = steps;
        result.schedule_capacity = MFI_COUNT(steps);
        cr_assert(mf_generate(NULL, session, wide, &options, &result, &error) == MF_OK, "%s", error.detail);
        cr_assert(t.n_event == N && result.n_schedule == 3, "%zu steps", result.n_schedule);
        cr_assert(steps[0].submodel == wide && steps[1].submodel == narrow && steps[2].submodel == wide);
        cr_assert(t.by[0] == wide && t.by[7] == narrow && t.by[N - 1] == wide);
        mf_generate_options replay = MF_GENERATE_OPTIONS_INIT;
        replay.tokens = s.tokens;
        replay.n_token = 2;
        replay.max_tokens = N;
        replay.ignore_eos = 1;
        replay.schedule = steps;
        replay.n_schedule = 3;
        cr_assert(mf_generate(NULL, replayed, wide, &replay, NULL, &error) == MF_OK, "%s", error.detail);
        cr_assert(memcmp(mf_session_tokens(session), mf_session_tokens(replayed), (2 + N) * sizeof(int32_t)) == 0);
        mf_session_close(session);
        mf_session_close(replayed);
    }
    mf_submodel_close(wide);
    mf_submodel_close(narrow);
    mf_model_close(model);
    drop_scene(&s);
}

/* ---- What goes wrong ---- */

static int cancel_later(void *user, uint64_t done, uint64_t total)
{
    int *calls = user;
    cr_assert(done <= total);
    return (*calls)-- == 0;
}

Test(residency, growing_can_be_cancelled_at_every_call)
{
    for (mfi_storage storage = MFI_RAW; storage <= MFI_ZSTD; storage++) {
        scene s = new_scene(MFK_BF16, storage, 256, 19);
        mf_model *model = open_path(s.path, MF_LOAD_COPY, "S");
        mf_status status = MF_E_CANCELLED;
        for (int at = 0; status != MF_OK; at++) {
            mf_grow_options options = MF_GROW_OPTIONS_INIT;
            mf_model_info info = MF_MODEL_INFO_INIT;
            mf_error error = MF_ERROR_INIT;
            int calls = at;
            options.progress = cancel_later;
            options.progress_user = &calls;
            status = mf_model_grow(model, NULL, &options, &error);
            cr_assert((status == MF_OK || status == MF_E_CANCELLED) && at < 100, "%s", error.detail);
            mf_model_info_get(model, &info);
            expect_sizes(model, &s, info.n_shell_resident, "what is whole can be used");
            if (status != MF_OK) trim(model, 0);
        }
        mf_model_close(model);
        drop_scene(&s);
    }
}

Test(residency, memory_that_runs_out_leaves_a_model_that_can_grow)
{
    for (mfi_storage storage = MFI_RAW; storage <= MFI_ZSTD; storage++) {
        scene s = new_scene(MFK_BF16, storage, 256, 23);
        mf_status status = MF_E_NOMEM;
        for (size_t n = 1; status != MF_OK; n++) {
            counting memory = { .mutex = PTHREAD_MUTEX_INITIALIZER };
            mf_model_options options = test_options(NULL);
            mf_model *model = NULL;
            options.allocator = counting_allocator(&memory);
            options.widest = "S";
            options.n_thread = 1;
            cr_assert(mf_model_open(&model, s.path, &options, NULL) == MF_OK);
            memory.fail_at = memory.n_alloc + n;
            status = mf_model_grow(model, NULL, NULL, NULL);
            cr_assert(status == MF_OK || status == MF_E_NOMEM);
            memory.fail_at = 0;
            cr_assert(mf_model_grow(model, NULL, NULL, NULL) == MF_OK);
            expect_sizes(model, &s, 3, "after all");
            mf_model_close(model);
            cr_assert(memory.live_bytes == 0);
        }
        drop_scene(&s);
    }
}

static void write_at(const char *path, uint64_t offset, const void *data, size_t bytes)
{
    FILE *file = fopen(path, "r+b");
    cr_assert(file && fseek(file, (long)offset, SEEK_SET) == 0 && fwrite(data, 1, bytes, file) == bytes);
    fclose(file);
}

Test(residency, a_copied_file_that_changed_since_is_refused)
{
    for (mfi_storage storage = MFI_RAW; storage <= MFI_ZSTD; storage++) {
        scene s = new_scene(MFK_BF16, storage, 256, 29);
        mf_model_options options = test_options(NULL);
        mf_model *model = NULL;
        mf_shell_info shell = MF_SHELL_INFO_INIT;
        mf_error error = MF_ERROR_INIT;
        options.load = MF_LOAD_COPY;
        options.verify = MF_VERIFY_NONE; /* is for what has not been opened to be changed */
        options.widest = "S";
        cr_assert(mf_model_open(&model, s.path, &options, NULL) == MF_OK);
        cr_assert(mf_model_shell_info_get(model, 1, &shell) == MF_OK);
        write_at(s.path, shell.file_offset + shell.stored_bytes / 2, "changed", 7);
        const mf_status status = mf_model_grow(model, "M", NULL, &error);
        cr_assert(status == MF_E_CHECKSUM || (storage == MFI_ZSTD && status == MF_E_FORMAT), "%s", error.detail);
        cr_assert(strstr(error.detail, "whole.mf"), "%s", error.detail);
        expect_sizes(model, &s, 1, "what was copied stays");
        cr_assert(truncate(s.path, (off_t)shell.file_offset) == 0);
        cr_assert(mf_model_grow(model, "M", NULL, &error) == MF_E_IO && strstr(error.detail, "whole.mf"));
        expect_sizes(model, &s, 1, "likewise");
        mf_model_close(model);
        drop_scene(&s);
    }
}

Test(residency, a_mapped_file_that_was_cut_since_is_refused)
{
    scene s = new_scene(MFK_BF16, MFI_RAW, 256, 31);
    mf_model *model = open_path(s.path, MF_LOAD_MAP, "S");
    mf_shell_info shell = MF_SHELL_INFO_INIT;
    mf_error error = MF_ERROR_INIT;
    cr_assert(mf_model_shell_info_get(model, 2, &shell) == MF_OK);
    cr_assert(truncate(s.path, (off_t)(shell.file_offset + 1)) == 0);
    cr_assert(mf_model_grow(model, NULL, NULL, &error) == MF_E_IO && strstr(error.detail, "shorter"));
    expect_sizes(model, &s, 2, "up to what is there");
    mf_model_close(model);
    drop_scene(&s);
}

Test(residency, the_callers_memory_stays_and_a_copy_of_it_goes)
{
    scene s = new_scene(MFK_BF16, MFI_RAW, 256, 37);
    model_file file = read_file(s.path);
    mf_model *model = NULL;
    mf_model_options options = test_options(NULL);
    mf_error error = MF_ERROR_INIT;
    cr_assert(mf_model_open_memory(&model, file.data, file.bytes, &options, NULL) == MF_OK);
    trim(model, 0);
    expect_sizes(model, &s, 1, "views are refused");
    grow(model, 2);
    expect_sizes(model, &s, 3, "and taken again");
    mf_model_close(model);

    options.load = MF_LOAD_COPY;
    cr_assert(mf_model_open_memory(&model, file.data, file.bytes, &options, NULL) == MF_OK);
    drop_file(&file);
    expect_sizes(model, &s, 3, "a copy");
    trim(model, 1);
    expect_sizes(model, &s, 2, "trimmed");
    cr_assert(mf_model_grow(model, NULL, NULL, &error) == MF_E_NOT_FOUND && strstr(error.detail, "shell 2"), "%s",
              error.detail);
    cr_assert(mf_model_attach(model, s.path, &error) == MF_OK, "%s", error.detail);
    grow(model, 2);
    expect_sizes(model, &s, 3, "from a file with the same regions");
    mf_model_close(model);
    drop_scene(&s);
}

Test(residency, arguments_that_make_no_sense_are_refused)
{
    scene s = new_scene(MFK_BF16, MFI_RAW, 256, 41);
    mf_model *model = open_path(s.path, MF_LOAD_MAP, NULL);
    mf_error error = MF_ERROR_INIT;
    mf_grow_options grow_options = MF_GROW_OPTIONS_INIT;
    mf_trim_options trim_options = MF_TRIM_OPTIONS_INIT;
    grow_options.struct_size = trim_options.struct_size = 4;
    cr_assert(mf_model_grow(NULL, "S", NULL, &error) == MF_E_INVALID && error.detail[0]);
    cr_assert(mf_model_trim(NULL, "S", NULL, NULL) == MF_E_INVALID);
    cr_assert(mf_model_grow(model, "XXL", NULL, &error) == MF_E_NOT_FOUND && strstr(error.detail, "XXL"));
    cr_assert(mf_model_trim(model, "XXL", NULL, &error) == MF_E_NOT_FOUND);
    cr_assert(mf_model_grow(model, "S", &grow_options, NULL) == MF_E_STRUCT_SIZE);
    cr_assert(mf_model_trim(model, "S", &trim_options, NULL) == MF_E_STRUCT_SIZE);
    cr_assert(mf_model_attach(model, NULL, NULL) == MF_E_INVALID && mf_model_attach(model, "", NULL) == MF_E_INVALID);
    cr_assert(mf_model_attach_fd(model, -1, 0, 0, NULL) == MF_E_INVALID);
    cr_assert(mf_model_feed(model, 7, "x", 1, &error) == MF_E_RANGE && error.detail[0]);
    cr_assert(mf_model_feed(model, 0, NULL, 1, NULL) == MF_E_INVALID);
    cr_assert(mf_model_feed(model, 0, "x", 1, &error) == MF_E_INVALID && error.detail[0], "it is resident");
    cr_assert(mf_model_shell_info_get(NULL, 0, NULL) == MF_E_INVALID);
    pid_t child = fork();
    if (child == 0)
        _exit(mf_model_grow(model, "S", NULL, NULL) != MF_E_FORKED ||
              mf_model_trim(model, "S", NULL, NULL) != MF_E_FORKED);
    int status;
    cr_assert(waitpid(child, &status, 0) == child && status == 0);
    expect_sizes(model, &s, 3, "untouched");
    mf_model_close(model);
    drop_scene(&s);
}
