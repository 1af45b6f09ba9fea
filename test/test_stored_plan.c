/* test_stored_plan.c - the plan beside the directory: its bytes, budgets, and updates that end at any moment. */
#define _DEFAULT_SOURCE /* kill, usleep */
#include <criterion/criterion.h>
#include <fcntl.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/wait.h>
#include <unistd.h>

#include "container_fixup.h"
#include "matformer_tools.h"
#include "plan_fixture.h"
#include "platform.h"
#include "run_model.h"

/* tiny: 3 layers of width 256 with 4 heads of 32 in groups of 2; S, M, L = 64, 128, 256; layer 1 may be skipped */
typedef struct stage {
    random_model random;
    temporary_path path;
    mf_allocator allocator;
} stage;

static stage open_stage(void)
{
    stage s = { .path = new_path(), .allocator = mfi_allocator(NULL) };
    cr_assert(random_model_init_shape(&s.random, random_shape_find("tiny"), 1) == MF_OK);
    cr_assert(random_model_save(&s.random, MFK_BF16, MFI_RAW, false, s.path.text, NULL) == MF_OK);
    return s;
}

static void close_stage(stage *s)
{
    unlink(s->path.text);
    random_model_free(&s->random);
}

static void store(const stage *s, uint32_t n_entry, const char *machine)
{
    mf_error error = MF_ERROR_INIT;
    const mf_status status = plan_fixture_store(s->path.text, &s->random.config, n_entry, machine, &error);
    cr_assert(status == MF_OK, "%s", error.detail);
}

static mf_model *open_path(const char *path)
{
    mf_model *model = NULL;
    mf_error error = MF_ERROR_INIT;
    cr_assert(mf_model_open(&model, path, NULL, &error) == MF_OK, "%s", error.detail);
    return model;
}

static void this_machine(const mf_model *model, char text[MFI_PLAN_TEXT_MAX])
{
    mf_model_info info = MF_MODEL_INFO_INIT;
    mf_model_info_get(model, &info);
    mfi_plan_machine(text, info.cpu, info.arithmetic);
}

/* ---- Round trip ---- */

Test(stored_plan, a_plan_comes_back_as_it_was_and_all_else_stays)
{
    stage s = open_stage();
    model_file before = read_file(s.path.text);
    mf_model *model = open_path(s.path.text);
    mf_plan_info info = MF_PLAN_INFO_INIT;
    mf_plan_entry entry = MF_PLAN_ENTRY_INIT;
    mf_plan_draft draft = MF_PLAN_DRAFT_INIT;
    cr_assert(mf_model_plan_info(model, &info) == MF_E_NOT_FOUND);
    cr_assert(mf_model_plan_entry(model, 0, &entry) == MF_E_NOT_FOUND);
    cr_assert(mf_model_plan_draft(model, 0, &draft) == MF_E_NOT_FOUND);
    store(&s, 9, "a machine"); /* while it is open */
    cr_assert(mf_model_plan_info(model, &info) == MF_E_NOT_FOUND);
    mf_model_close(model);

    model = open_path(s.path.text);
    cr_assert(mf_model_plan_info(model, &info) == MF_OK);
    cr_assert(info.n_entry == 9 && info.n_thread == 1 && info.calibration_hash == 9 && info.n_predicted == 1000);
    cr_assert_str_eq(info.machine, "a machine");
    cr_assert_str_eq(info.calibration, "a text");
    cr_assert(!info.is_timed_here);
    plan_fixture *plan = plan_fixture_make(&s.random.config, 9, "a machine");
    for (uint32_t i = 0; i < 9; i++) {
        char text[128];
        mf_submodel *view = NULL;
        entry = (mf_plan_entry){ .struct_size = sizeof entry, .text = text, .text_capacity = sizeof text };
        cr_assert(mf_model_plan_entry(model, i, &entry) == MF_OK);
        cr_assert(entry.n_param == plan->entry[i].n_param && entry.loss == (double)plan->entry[i].loss);
        cr_assert(entry.flops_per_token == plan->entry[i].flops_per_token);
        cr_assert(entry.decode_ms == (double)plan->entry[i].decode_ms);
        cr_assert(mf_extract_submodel_text(&view, model, text, NULL) == MF_OK, "%s", text);
        for (uint32_t l = 0; l < 3; l++) {
            uint32_t ffn;
            cr_assert(mf_submodel_layer(view, l, &ffn, NULL, NULL) == MF_OK);
            cr_assert(ffn == plan->layer[3 * i + l].ffn_quanta * MFI_QUANTUM);
        }
        mf_submodel_info about = MF_SUBMODEL_INFO_INIT;
        mf_submodel_info_get(view, &about);
        cr_assert(about.n_shell == entry.n_shell);
        mf_submodel_close(view);
    }
    cr_assert(mf_model_plan_entry(model, 9, &entry) == MF_E_RANGE);
    char little[3];
    entry.text = little;
    entry.text_capacity = sizeof little;
    cr_assert(mf_model_plan_entry(model, 1, &entry) == MF_E_CAPACITY && entry.text_bytes > 3);
    mf_model_close(model);
    free(plan);

    model_file after = read_file(s.path.text);
    const mfi_file_header *header = (const mfi_file_header *)(void *)after.data;
    const size_t second = MFI_SLOT_BASE + (size_t)header->slot_bytes,
                 regions = (size_t)mfi_head_bytes(header->slot_bytes);
    cr_assert(after.bytes == before.bytes && memcmp(after.data, before.data, second) == 0);
    cr_assert(memcmp(after.data + regions, before.data + regions, before.bytes - regions) == 0);
    drop_file(&before);
    drop_file(&after);
    close_stage(&s);
}

Test(stored_plan, plans_that_do_not_fit_and_files_that_are_none_are_refused)
{
    stage s = open_stage();
    mf_error error = MF_ERROR_INIT;
    static unsigned char much[1 << 20];
    model_file before = read_file(s.path.text);
    cr_assert(mfi_container_store_plan(s.path.text, much, sizeof much, &s.allocator, &error) == MF_E_CAPACITY);
    cr_assert(strstr(error.detail, "matformer convert"), "%s", error.detail);
    cr_assert(mfi_container_store_plan("/nonexistent/model.mf", much, 8, &s.allocator, &error) == MF_E_NOT_FOUND);
    cr_assert(mfi_container_store_plan(STORY, much, 8, &s.allocator, &error) != MF_OK);
    const int fd = open(s.path.text, O_RDONLY);
    cr_assert(flock(fd, LOCK_EX) == 0);
    cr_assert(mfi_container_store_plan(s.path.text, much, 8, &s.allocator, &error) == MF_E_BUSY);
    close(fd);
    model_file after = read_file(s.path.text);
    cr_assert(after.bytes == before.bytes && memcmp(after.data, before.data, before.bytes) == 0);
    drop_file(&before);
    drop_file(&after);
    close_stage(&s);
}

/* ---- Budgets ---- */

static bool fits_all(const mf_plan_entry *e, const mf_submodel_spec *spec)
{
    return (!spec->max_params || e->n_param <= spec->max_params) &&
           (!spec->max_bytes || e->bytes_per_token <= spec->max_bytes) &&
           (!spec->max_flops || e->flops_per_token <= spec->max_flops) &&
           (spec->max_ms == 0 || e->decode_ms <= spec->max_ms);
}

/* The text of the entry of the least loss that fits, by trying all; "": none does. */
static void best_by_trying(const mf_model *model, const mf_submodel_spec *spec, uint32_t n_shell, char text[128])
{
    double least = HUGE_VAL;
    text[0] = '\0';
    for (uint32_t i = 0;; i++) {
        char own[128];
        mf_plan_entry e = { .struct_size = sizeof e, .text = own, .text_capacity = sizeof own };
        if (mf_model_plan_entry(model, i, &e) != MF_OK) break;
        if (e.loss >= least || !fits_all(&e, spec) || e.n_shell > n_shell) continue;
        least = e.loss;
        memcpy(text, own, sizeof own);
    }
}

static void check_budget(mf_model *model, const mf_submodel_spec *spec, uint32_t n_shell)
{
    char wanted[128], got[128];
    mf_error error = MF_ERROR_INIT;
    mf_submodel *view = NULL;
    best_by_trying(model, spec, n_shell, wanted);
    const mf_status status = mf_extract_submodel(&view, model, spec, &error);
    if (wanted[0] == '\0') {
        cr_assert(status == MF_E_NOT_FOUND && view == NULL);
        cr_assert(strstr(error.detail, "parameters") != NULL, "%s", error.detail);
        return;
    }
    cr_assert(status == MF_OK, "%s", error.detail);
    cr_assert(mf_submodel_text(view, got, sizeof got, NULL) == MF_OK);
    cr_assert_str_eq(got, wanted);
    mf_submodel_close(view);
}

Test(stored_plan, a_budget_gets_the_least_loss_that_fits)
{
    stage s = open_stage();
    mf_model *model = open_path(s.path.text);
    char here[MFI_PLAN_TEXT_MAX];
    this_machine(model, here);
    mf_model_close(model);
    store(&s, 24, here);
    model = open_path(s.path.text);
    rng r = { 7 };
    for (uint32_t i = 0; i < 40 * test_rounds(10); i++) {
        mf_submodel_spec spec = MF_SUBMODEL_SPEC_INIT;
        const uint32_t which = rng_between(&r, 1, 15);
        if (which & 1) spec.max_params = 1000 + rng_below(&r, 10000);
        if (which & 2) spec.max_bytes = 2000 + rng_below(&r, 20000);
        if (which & 4) spec.max_flops = 3000 + rng_below(&r, 21000);
        if (which & 8) spec.max_ms = 0.05 + rng_below(&r, 1200) / 1000.0;
        check_budget(model, &spec, UINT32_MAX);
    }
    mf_submodel *view = NULL;
    cr_assert(mf_extract_submodel_text(&view, model, "params<=1e9 ms<=1e3", NULL) == MF_OK);
    mf_submodel_close(view);
    cr_assert(mf_extract_submodel_text(&view, model, "S;params<=1e9", NULL) == MF_E_INVALID);
    cr_assert(mf_extract_submodel_text(&view, model, "skip=1;params<=1e9", NULL) == MF_E_INVALID);
    mf_model_close(model);

    mf_model_options narrow = MF_MODEL_OPTIONS_INIT; /* entries beyond the shells that are loaded do not count */
    narrow.widest = "M";
    cr_assert(mf_model_open(&model, s.path.text, &narrow, NULL) == MF_OK);
    mf_model_info info = MF_MODEL_INFO_INIT;
    mf_model_info_get(model, &info);
    mf_submodel_spec all = MF_SUBMODEL_SPEC_INIT;
    all.max_params = UINT64_MAX;
    check_budget(model, &all, info.n_shell_resident);
    mf_model_close(model);
    close_stage(&s);
}

Test(stored_plan, milliseconds_hold_on_the_machine_that_they_were_measured_on)
{
    stage s = open_stage();
    static const char *const machines[] = { "", "another machine" };
    for (int i = 0; i < 2; i++) {
        mf_error error = MF_ERROR_INIT;
        mf_submodel *view = NULL;
        store(&s, 5, machines[i]);
        mf_model *model = open_path(s.path.text);
        cr_assert(mf_extract_submodel_text(&view, model, "ms<=100", &error) == MF_E_UNSUPPORTED);
        cr_assert(strstr(error.detail, "--measure"), "%s", error.detail);
        cr_assert(mf_extract_submodel_text(&view, model, "params<=1e9", &error) == MF_OK);
        mf_submodel_close(view);
        mf_model_close(model);
    }
    close_stage(&s);
}

/* ---- Drafts ---- */

/* Leviathan et al. 2023, equation 1 and theorem 3.8, with the measured time of verifying. */
static double speedup_of(double a, uint32_t g, double c, double v)
{
    const double tokens = a < 1 ? (1 - pow(a, g + 1)) / (1 - a) : g + 1;
    return tokens / (g * c + v);
}

Test(stored_plan, the_draft_is_the_one_of_the_greatest_speedup)
{
    stage s = open_stage();
    plan_fixture *p = plan_fixture_make(&s.random.config, 12, "a machine");
    size_t bytes;
    for (uint32_t i = 0; i < 12; i++) {
        p->entry[i].agreement = 1 - 0.5f / (float)(i + 1);
        p->entry[i].acceptance = 1 - 0.7f / (float)(i + 1);
    }
    void *data = plan_fixture_bytes(p, &bytes);
    cr_assert(mfi_container_store_plan(s.path.text, data, bytes, &s.allocator, NULL) == MF_OK);
    mf_model *model = open_path(s.path.text);
    for (int greedy = 0; greedy < 2; greedy++) {
        mf_plan_draft draft = MF_PLAN_DRAFT_INIT;
        double best = 0;
        for (uint32_t i = 0; i < 11; i++)
            for (uint32_t g = 1; g <= MFI_PLAN_DRAFT_MAX; g++) {
                const double a = (double)(greedy ? p->entry[i].agreement : p->entry[i].acceptance);
                best = fmax(best, speedup_of(a, g, (double)p->entry[i].decode_ms / (double)p->entry[11].decode_ms,
                                             (double)(p->head.verify_ms[g] / p->head.verify_ms[0])));
            }
        cr_assert(mf_model_plan_draft(model, greedy, &draft) == MF_OK && draft.speedup > 1);
        cr_assert(fabs(draft.speedup - best) < 1e-6 * best);
        cr_assert(fabs(speedup_of(draft.acceptance, draft.length, draft.cost, draft.verify_cost) - best) < 1e-6 * best);
    }
    mf_model_close(model);
    free(data);
    free(p);
    close_stage(&s);
}

/* ---- Hostile bytes ---- */

/* Opens a file whose plan is `plan`, under a good checksum, and returns whether the plan is used. */
static bool is_used(const stage *s, const void *plan, size_t bytes)
{
    mf_error error = MF_ERROR_INIT;
    mf_submodel *view = NULL;
    mf_plan_info info = MF_PLAN_INFO_INIT;
    cr_assert(mfi_container_store_plan(s->path.text, plan, bytes, &s->allocator, &error) == MF_OK, "%s", error.detail);
    mf_model *model = open_path(s->path.text);
    const bool used = mf_model_plan_info(model, &info) == MF_OK;
    const mf_status status = mf_extract_submodel_text(&view, model, "params<=1e18", &error);
    cr_assert(status == (used ? MF_OK : MF_E_UNSUPPORTED), "%s", error.detail);
    mf_submodel_close(view);
    cr_assert(mf_extract_submodel_text(&view, model, "S", NULL) == MF_OK); /* the model itself is none the worse */
    mf_submodel_close(view);
    mf_model_close(model);
    return used;
}

Test(stored_plan, damaged_plans_are_left_out)
{
    stage s = open_stage();
    size_t bytes;
    plan_fixture *p = plan_fixture_make(&s.random.config, 4, "m");
    unsigned char *good = plan_fixture_bytes(p, &bytes), *work = malloc(bytes + 8);
    memset(work, 0, bytes + 8);
    memcpy(work, good, bytes);
    cr_assert(is_used(&s, work, bytes));
    cr_assert(!is_used(&s, work, bytes + 8));
    for (size_t cut = 1; cut < bytes; cut += 1 + bytes / 40)
        cr_assert(!is_used(&s, work, cut));
    const size_t entries = bytes - 4 * (sizeof(mfi_file_plan_entry) + 16);
    const struct {
        size_t at;
        uint32_t value;
    } damage[] = {
        { 0, 1 },                                                        /* magic */
        { 4, 2 },                                                        /* version */
        { 8, 2 },                                                        /* layers */
        { 12, 0 },                                                       /* entries */
        { 12, 0xffffffff },                                              /* entries, whose bytes overflow */
        { 16, 8 },                                                       /* bytes of an entry */
        { 20, 0xffffff00 },                                              /* of a text */
        { 84, 1 },                                                       /* zero */
        { 48, 0x7fc00000 },                                              /* a time that is NaN */
        { entries + 24, 0x7f800000 },                                    /* a loss that is infinite */
        { entries + sizeof(mfi_file_plan_entry) + 16 + 24, 0x40a00000 }, /* losses that do not fall */
        { entries + 32, 0x40000000 },                                    /* an agreement of 2 */
        { entries + sizeof(mfi_file_plan_entry), 0 },                    /* layer 0 is skipped, and may not be */
        { entries + sizeof(mfi_file_plan_entry), 0x00041000 },           /* a width beyond the model's */
        { entries + sizeof(mfi_file_plan_entry), 0x00050002 },           /* more heads than the model has */
    };
    for (size_t i = 0; i < sizeof damage / sizeof *damage; i++) {
        memcpy(work, good, bytes);
        memcpy(work + damage[i].at, &damage[i].value, 4);
        cr_assert(!is_used(&s, work, bytes), "damage %zu", i);
    }
    rng r = { 11 };
    for (uint32_t i = 0; i < test_rounds(60); i++) { /* any damage: whether it is used or not, nothing breaks */
        memcpy(work, good, bytes);
        for (uint32_t n = rng_between(&r, 1, 4); n > 0; n--)
            work[rng_below(&r, (uint32_t)bytes)] = (unsigned char)rng_next(&r);
        is_used(&s, work, bytes);
    }
    free(work);
    free(good);
    free(p);
    close_stage(&s);
}

/* ---- Updates that are cut short ---- */

/* How many entries the plan of these bytes has. */
static uint32_t entries_of(const model_file *file)
{
    mf_plan_info info = MF_PLAN_INFO_INIT;
    mf_model *model = open_file(file, NULL);
    cr_assert(mf_model_plan_info(model, &info) == MF_OK && info.calibration_hash == info.n_entry);
    mf_model_close(model);
    return info.n_entry;
}

enum { SECTOR = 512 };

Test(stored_plan, a_torn_update_leaves_the_old_plan_or_the_new_one)
{
    stage s = open_stage();
    store(&s, 3, "");
    store(&s, 20, "");
    model_file before = read_file(s.path.text);
    store(&s, 40, "");
    model_file after = read_file(s.path.text), torn = read_file(s.path.text);
    size_t sector[4096], n_sector = 0;
    for (size_t at = 0; at < before.bytes; at += SECTOR)
        if (memcmp(before.data + at, after.data + at, mfi_min(SECTOR, before.bytes - at)) != 0) sector[n_sector++] = at;
    cr_assert(n_sector > 4);
    /* As they are written: first the plan, which lies behind the directory. Each in its turn, with a last one half written. */
    const mfi_file_header *header = (const mfi_file_header *)(void *)before.data;
    size_t n_directory = 0;
    while (n_directory < n_sector &&
           (sector[n_directory] - MFI_SLOT_BASE) % header->slot_bytes < header->directory_capacity)
        n_directory++;
    cr_assert(n_directory > 0 && n_directory < n_sector);
    memcpy(torn.data, before.data, before.bytes);
    for (size_t i = 0; i < n_sector; i++) {
        const size_t at = sector[(i + n_directory) % n_sector];
        cr_assert_eq(entries_of(&torn), 20);
        memcpy(torn.data + at, after.data + at, SECTOR / 2);
        const uint32_t half = entries_of(&torn);
        cr_assert(half == 20 || (half == 40 && i + 1 == n_sector));
        memcpy(torn.data + at, after.data + at, SECTOR);
    }
    cr_assert_eq(entries_of(&torn), 40);
    /* As a disk may order them: any of them are there. */
    rng r = { 3 };
    for (uint32_t i = 0; i < test_rounds(200); i++) {
        memcpy(torn.data, before.data, before.bytes);
        size_t n_there = 0;
        const uint32_t of_eight = rng_between(&r, 1, 8);
        for (size_t j = 0; j < n_sector; j++)
            if (rng_below(&r, 8) < of_eight) {
                memcpy(torn.data + sector[j], after.data + sector[j], SECTOR);
                n_there++;
            }
        cr_assert_eq(entries_of(&torn), n_there == n_sector ? 40 : 20);
    }
    drop_file(&before);
    drop_file(&after);
    drop_file(&torn);
    close_stage(&s);
}

Test(stored_plan, a_killed_update_leaves_the_old_plan_or_the_new_one)
{
    stage s = open_stage();
    store(&s, 8, "");
    rng r = { 5 };
    uint32_t n_seen[2] = { 0, 0 };
    for (uint32_t i = 0; i < test_rounds(40); i++) {
        const pid_t child = fork();
        cr_assert(child >= 0);
        if (child == 0)
            for (uint32_t n = 0;; n++)
                plan_fixture_store(s.path.text, &s.random.config, n % 2 ? 8 : 40, "", NULL);
        usleep(1000 + rng_below(&r, 15000));
        kill(child, SIGKILL);
        waitpid(child, NULL, 0);
        model_file file = read_file(s.path.text);
        const uint32_t n_entry = entries_of(&file);
        cr_assert(n_entry == 8 || n_entry == 40);
        n_seen[n_entry == 40]++;
        drop_file(&file);
    }
    cr_assert(n_seen[1] > 0); /* it was not killed before it began, each time */
    store(&s, 12, "");        /* the lock went with the process */
    close_stage(&s);
}

/* ---- In parts ---- */

/* The plan is with the head, and answers for the shells that are there; it may be replaced there too. */
Test(stored_plan, a_file_in_parts_has_its_plan_in_the_head)
{
    stage s = open_stage();
    char head[160], part[160];
    mf_split_options options = MF_SPLIT_OPTIONS_INIT;
    mf_error error = MF_ERROR_INIT;
    mf_plan_info info = MF_PLAN_INFO_INIT;
    store(&s, 20, "");
    snprintf(head, sizeof head, "%s-head.mf", s.path.text);
    snprintf(part, sizeof part, "%s-head.shell2.mfpart", s.path.text);
    cr_assert(mf_split(s.path.text, head, &options, &error) == MF_OK, "%s", error.detail);
    for (uint32_t n_shell = 3; n_shell >= 2; n_shell--) {
        mf_model *model = open_path(head);
        mf_submodel_spec spec = MF_SUBMODEL_SPEC_INIT;
        cr_assert(mf_model_plan_info(model, &info) == MF_OK && info.n_entry == (n_shell == 3 ? 20 : 30));
        for (uint64_t bytes = 1000; bytes < 30000; bytes += 500) {
            spec.max_bytes = bytes;
            check_budget(model, &spec, n_shell);
        }
        mf_model_close(model);
        if (n_shell == 3) {
            cr_assert(plan_fixture_store(head, &s.random.config, 30, "", &error) == MF_OK, "%s", error.detail);
            cr_assert(unlink(part) == 0);
        }
    }
    snprintf(part, sizeof part, "%s-head.shell1.mfpart", s.path.text);
    unlink(part);
    unlink(head);
    close_stage(&s);
}
