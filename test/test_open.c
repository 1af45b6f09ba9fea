/* test_open.c - every way into a model: path, descriptor, memory; mapped or copied; cancelled, limited, refused. */
#define _DEFAULT_SOURCE /* fork, unlink */
#include "cpu.h"
#include "run_model.h"
#include "counting_allocator.h"

#include <criterion/criterion.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

enum { LENGTH = 12, OFFSET = 4096 * 3 };

static const int32_t tokens[LENGTH] = { 3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5, 8 };

static model_file make_tiny(mfi_storage storage)
{
    random_model random;
    cr_assert(random_model_init_shape(&random, random_shape_find("tiny"), 2) == MF_OK);
    model_file file = make_random_file(&random, MFK_BF16, storage, false);
    random_model_free(&random);
    return file;
}

/* `before` bytes of something else, the file, and something else again. */
static temporary_path write_file(const model_file *file, size_t before)
{
    temporary_path path = new_path();
    FILE *f = fopen(path.text, "wb");
    cr_assert(f);
    for (size_t i = 0; i < before; i++)
        fputc('?', f);
    cr_assert(fwrite(file->data, 1, file->bytes, f) == file->bytes);
    if (before) fputs("the next asset", f);
    fclose(f);
    return path;
}

static outputs run_model(mf_model *model)
{
    mf_submodel *view = take_named(model, "M");
    outputs out = run_alone(model, view, tokens, LENGTH);
    mf_submodel_close(view);
    return out;
}

Test(opening, a_path_a_descriptor_and_memory_give_the_same_bits_mapped_and_copied)
{
    for (int storage = MFI_RAW; storage <= MFI_ZSTD; storage++) {
        model_file file = make_tiny((mfi_storage)storage);
        temporary_path alone = write_file(&file, 0), asset = write_file(&file, OFFSET);
        mf_model *reference = open_file(&file, NULL);
        outputs expected = run_model(reference);
        for (uint32_t i = 0; i < 8; i++) {
            mf_model_options options = MF_MODEL_OPTIONS_INIT;
            mf_error error = MF_ERROR_INIT;
            mf_model *model = NULL;
            mf_status status = MF_OK;
            int fd = open(i % 4 == 1 ? asset.text : alone.text, O_RDONLY);
            options.load = i < 4 ? MF_LOAD_MAP : MF_LOAD_COPY;
            switch (i % 4) {
            case 0:
                status = mf_model_open(&model, alone.text, &options, &error);
                break;
            case 1:
                status = mf_model_open_fd(&model, fd, OFFSET, file.bytes, &options, &error);
                break;
            case 2:
                status = mf_model_open_fd(&model, fd, 0, 0, &options, &error);
                break;
            case 3:
                status = mf_model_open_memory(&model, file.data, file.bytes, &options, &error);
                break;
            }
            close(fd);
            cr_assert(status == MF_OK, "way %u: %s", i, error.detail);
            outputs out = run_model(model);
            cr_assert(same_bits(&out, &expected), "way %u", i);
            drop_outputs(&out);
            mf_model_close(model);
        }
        mf_model_close(reference);
        drop_outputs(&expected);
        unlink(alone.text);
        unlink(asset.text);
        drop_file(&file);
    }
}

Test(opening, a_copy_survives_whatever_happens_to_the_bytes)
{
    for (int storage = MFI_RAW; storage <= MFI_ZSTD; storage++) {
        model_file file = make_tiny((mfi_storage)storage);
        temporary_path path = write_file(&file, 0);
        mf_model_options options = MF_MODEL_OPTIONS_INIT;
        mf_model *from_path = NULL, *from_memory = NULL;
        options.load = MF_LOAD_COPY;
        cr_assert(mf_model_open(&from_path, path.text, &options, NULL) == MF_OK);
        cr_assert(mf_model_open_memory(&from_memory, file.data, file.bytes, &options, NULL) == MF_OK);
        outputs expected = run_model(from_path);
        cr_assert(truncate(path.text, 0) == 0);
        unlink(path.text);
        memset(file.data, 0xff, file.bytes);
        outputs a = run_model(from_path), b = run_model(from_memory);
        cr_assert(same_bits(&a, &expected) && same_bits(&b, &expected));
        drop_outputs(&a);
        drop_outputs(&b);
        drop_outputs(&expected);
        mf_model_close(from_path);
        mf_model_close(from_memory);
        drop_file(&file);
    }
}

/* A mapped file may be removed or replaced by rename: the mapping keeps the old one. */
Test(opening, a_mapped_file_may_be_replaced_by_rename)
{
    model_file file = make_tiny(MFI_RAW);
    temporary_path path = write_file(&file, 0), other = new_path();
    mf_model *model = NULL;
    cr_assert(mf_model_open(&model, path.text, NULL, NULL) == MF_OK);
    outputs expected = run_model(model);
    cr_assert(rename(other.text, path.text) == 0);
    outputs out = run_model(model);
    cr_assert(same_bits(&out, &expected));
    drop_outputs(&out);
    drop_outputs(&expected);
    mf_model_close(model);
    unlink(path.text);
    drop_file(&file);
}

/* ---- Arithmetic ---- */

static mf_arithmetic arithmetic_in_use(const model_file *file, const char *level, mf_arithmetic asked)
{
    mf_model_options options = MF_MODEL_OPTIONS_INIT;
    mf_model_info info = MF_MODEL_INFO_INIT;
    mf_model *model = NULL;
    options.cpu = level;
    options.arithmetic = asked;
    cr_assert(mf_model_open_memory(&model, file->data, file->bytes, &options, NULL) == MF_OK);
    cr_assert(mf_model_info_get(model, &info) == MF_OK);
    mf_model_close(model);
    return info.arithmetic;
}

Test(opening, fast_is_in_use_where_asked_for_and_the_level_has_a_kernel_for_the_weights)
{
    static const mfk_type types[] = { MFK_F32, MFK_BF16 };
    random_model random;
    cr_assert(random_model_init_shape(&random, random_shape_find("tiny"), 1) == MF_OK);
    for (size_t t = 0; t < 2; t++) {
        model_file file = make_random_file(&random, types[t], MFI_RAW, false);
        const char *level, *environment = getenv("MF_CPU");
        for (size_t i = 0; (level = mfk_cpu_level(i)) != NULL; i++) {
            mfk_table table;
            uint64_t cpu = mfk_cpu_detect();
            cr_assert(mfk_cpu_limit(&cpu, level) == 0 && (!environment || mfk_cpu_limit(&cpu, environment) == 0));
            mfk_table_init(&table, cpu);
            bool has = types[t] == MFK_BF16 && table.gemm_bf16_fast;
            cr_expect(arithmetic_in_use(&file, level, MF_ARITHMETIC_FAST) == (mf_arithmetic)has, "%s", level);
            cr_expect(arithmetic_in_use(&file, level, MF_ARITHMETIC_EXACT) == MF_ARITHMETIC_EXACT, "%s", level);
        }
        drop_file(&file);
    }
    random_model_free(&random);
}

/* ---- Refusals ---- */

static void expect_refused(const model_file *file, const mf_model_options *options, mf_status wanted, const char *what)
{
    mf_error error = MF_ERROR_INIT;
    mf_model *model = (mf_model *)&error;
    mf_status status = mf_model_open_memory(&model, file->data, file->bytes, options, &error);
    cr_assert(status == wanted && error.status == wanted && error.detail[0] && !model, "%s: %s, %s", what,
              mf_status_name(status), error.detail);
}

Test(opening, options_that_make_no_sense_are_refused)
{
    model_file file = make_tiny(MFI_RAW), shifted = file;
    const mf_model_options none = MF_MODEL_OPTIONS_INIT;
    mf_model_options options = none;
    options.cpu = "abacus";
    expect_refused(&file, &options, MF_E_INVALID, "an unknown processor");
    options = none;
    options.widest = "XXL";
    expect_refused(&file, &options, MF_E_NOT_FOUND, "an unknown granularity");
    options = none;
    options.load = (mf_load)9;
    expect_refused(&file, &options, MF_E_INVALID, "an unknown load");
    options = none;
    options.verify = (mf_verify)9;
    expect_refused(&file, &options, MF_E_INVALID, "an unknown verify");
    options = none;
    options.arithmetic = (mf_arithmetic)9;
    expect_refused(&file, &options, MF_E_INVALID, "an unknown arithmetic");
    options = none;
    options.struct_size = 5000;
    expect_refused(&file, &options, MF_E_STRUCT_SIZE, "a huge struct");
    options = none;
    options.struct_size = 4;
    expect_refused(&file, &options, MF_E_STRUCT_SIZE, "a tiny struct");
    shifted.data++;
    shifted.bytes--;
    expect_refused(&shifted, NULL, MF_E_INVALID, "a mapped buffer off its alignment");
    drop_file(&file);

    mf_error error = MF_ERROR_INIT;
    mf_model *model = NULL;
    cr_assert(mf_model_open(&model, "no/such/file.mf", NULL, &error) == MF_E_NOT_FOUND && !model);
    cr_assert(strstr(error.detail, "no/such/file.mf"), "%s", error.detail);
    cr_assert(mf_model_open(&model, P_tmpdir, NULL, &error) != MF_OK && !model && error.detail[0]);
    cr_assert(mf_model_open(&model, "/dev/zero", NULL, &error) != MF_OK && !model && error.detail[0]);
    cr_assert(mf_model_open(&model, NULL, NULL, NULL) == MF_E_INVALID && !model);
    cr_assert(mf_model_open(NULL, "x", NULL, NULL) == MF_E_INVALID);
    cr_assert(mf_model_open_fd(&model, -1, 0, 0, NULL, NULL) == MF_E_INVALID && !model);
    cr_assert(mf_model_open_memory(&model, NULL, 10, NULL, NULL) == MF_E_INVALID && !model);
}

typedef struct progress {
    uint32_t calls, cancel_at;
    uint64_t done, total;
} progress;

static int on_progress(void *user, uint64_t done, uint64_t total)
{
    progress *p = user;
    cr_assert(done >= p->done && done <= total);
    p->done = done;
    p->total = total;
    return ++p->calls == p->cancel_at;
}

Test(opening, cancelling_from_any_progress_call_leaves_nothing_behind)
{
    for (int storage = MFI_RAW; storage <= MFI_ZSTD; storage++) {
        model_file file = make_tiny((mfi_storage)storage);
        bool cancelled = true;
        for (uint32_t at = 1; cancelled; at++) {
            counting counts = { 0 };
            progress p = { .cancel_at = at };
            mf_error error = MF_ERROR_INIT;
            mf_model_options options = MF_MODEL_OPTIONS_INIT;
            mf_model *model = NULL;
            options.load = MF_LOAD_COPY;
            options.progress = on_progress;
            options.progress_user = &p;
            options.allocator = counting_allocator(&counts);
            mf_status status = mf_model_open_memory(&model, file.data, file.bytes, &options, &error);
            cancelled = p.calls >= at;
            cr_assert(status == (cancelled ? MF_E_CANCELLED : MF_OK), "%s", error.detail);
            cr_assert(cancelled == (model == NULL));
            cr_assert(cancelled || (p.done == p.total && p.total > 0 && p.calls > 0));
            mf_model_close(model);
            cr_assert(counts.live_bytes == 0);
        }
        drop_file(&file);
    }
}

/* ---- After fork() ---- */

/* What the child of a fork gets from objects of its parent, as an exit code: 0 when all is as promised. */
static int in_child(mf_model *model, mf_executor *executor, mf_session *session, const mf_submodel *view)
{
    mf_request request = { .session = session, .submodel = view, .tokens = tokens, .n_token = LENGTH };
    mf_generate_options generate = MF_GENERATE_OPTIONS_INIT;
    mf_executor *other = NULL;
    generate.tokens = tokens;
    generate.n_token = 3;
    if (mf_forward(executor, &request, 1, sizeof(request), NULL) != MF_E_FORKED) return 1;
    if (mf_executor_create(&other, model, NULL, NULL) != MF_E_FORKED) return 2;
    if (mf_generate(executor, session, view, &generate, NULL, NULL) != MF_E_FORKED) return 3;
    return 0;
}

Test(opening, a_forked_child_gets_a_status_and_may_open_its_own)
{
    model_file file = make_tiny(MFI_RAW);
    mf_model *model = open_file(&file, NULL);
    mf_executor *executor = new_executor(model, 2, 0);
    mf_session *session = new_session(model);
    mf_submodel *view = take_named(model, "M");
    outputs expected = run_model(model);
    pid_t child = fork();
    if (child == 0) {
        int code = in_child(model, executor, session, view);
        mf_model *own = open_file(&file, NULL);
        outputs out = run_model(own);
        _exit(code ? code : same_bits(&out, &expected) ? 0 : 4);
    }
    int status = -1;
    cr_assert(child > 0 && waitpid(child, &status, 0) == child);
    cr_assert(WIFEXITED(status) && WEXITSTATUS(status) == 0, "the child says %d", status);
    outputs again = run_model(model);
    cr_assert(same_bits(&again, &expected));
    drop_outputs(&again);
    drop_outputs(&expected);
    mf_submodel_close(view);
    mf_session_close(session);
    mf_executor_close(executor);
    mf_model_close(model);
    drop_file(&file);
}

/* The order of closing does not matter: children keep their parents. */
Test(opening, objects_may_be_closed_in_any_order)
{
    static const char orders[][5] = { "mves", "sevm", "vmse", "esmv" };
    model_file file = make_tiny(MFI_RAW);
    for (size_t i = 0; i < sizeof(orders) / sizeof(orders[0]); i++) {
        counting counts = { 0 };
        mf_model_options options = MF_MODEL_OPTIONS_INIT;
        mf_model *model = NULL;
        options.allocator = counting_allocator(&counts);
        cr_assert(mf_model_open_memory(&model, file.data, file.bytes, &options, NULL) == MF_OK);
        mf_submodel *view = take_named(model, "S");
        mf_executor *executor = new_executor(model, 2, 0);
        mf_session *session = new_session(model);
        for (const char *c = orders[i]; *c; c++) {
            if (*c == 'm') mf_model_close(model);
            if (*c == 'v') mf_submodel_close(view);
            if (*c == 'e') mf_executor_close(executor);
            if (*c == 's') mf_session_close(session);
        }
        cr_assert(counts.live_bytes == 0, "closed as %s: %zu bytes left", orders[i], counts.live_bytes);
    }
    mf_session_close(NULL);
    mf_executor_close(NULL);
    mf_sampler_close(NULL);
    drop_file(&file);
}
