/* stored_plan.c - a plan's bytes, checked once when the model opens, and what is read from them: budgets, entries, drafts. */
#include "stored_plan.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "defs.h"
#include "platform.h"
#include "status.h"

static size_t entry_bytes_of(uint32_t n_layer)
{
    return mfi_round_up(sizeof(mfi_file_plan_entry) + n_layer * sizeof(mfi_view_layer), 8);
}

const mfi_file_plan_entry *mfi_plan_entry_at(const mfi_stored_plan *plan, uint32_t index)
{
    return (const mfi_file_plan_entry *)(const void *)(plan->entries + (size_t)index * plan->file->entry_bytes);
}

const mfi_view_layer *mfi_plan_layers_at(const mfi_stored_plan *plan, uint32_t index)
{
    return (const mfi_view_layer *)(const void *)(mfi_plan_entry_at(plan, index) + 1);
}

void mfi_plan_machine(char text[MFI_PLAN_TEXT_MAX], const char *level, mf_arithmetic arithmetic)
{
    char name[128];
    mfi_processor_name(name, sizeof name);
    snprintf(text, MFI_PLAN_TEXT_MAX, "%s, %s, %s arithmetic", name, level,
             arithmetic == MF_ARITHMETIC_FAST ? "fast" : "exact");
}

/* ---- Writing ---- */

size_t mfi_plan_encode(void *out, const mfi_file_plan *head, const char *machine, const char *calibration,
                       const mfi_file_plan_entry *entries, const mfi_view_layer *layers)
{
    const size_t machine_bytes = strlen(machine) + 1, calibration_bytes = strlen(calibration) + 1;
    if (machine_bytes > MFI_PLAN_TEXT_MAX || calibration_bytes > MFI_PLAN_TEXT_MAX ||
        head->n_entry > MFI_PLAN_ENTRY_MAX || head->n_layer > MFI_MAX_LAYER)
        return 0;
    const size_t text_bytes = mfi_round_up(machine_bytes + calibration_bytes, 8);
    const size_t entry_bytes = entry_bytes_of(head->n_layer);
    const size_t bytes = sizeof *head + text_bytes + head->n_entry * entry_bytes;
    if (!out) return bytes;
    mfi_file_plan file = *head;
    file.magic = MFI_PLAN_MAGIC;
    file.version = MFI_PLAN_VERSION;
    file.entry_bytes = (uint32_t)entry_bytes;
    file.machine_bytes = (uint32_t)machine_bytes;
    file.calibration_bytes = (uint32_t)calibration_bytes;
    file.zero = 0;
    unsigned char *at = out;
    memset(out, 0, bytes);
    memcpy(at, &file, sizeof file);
    memcpy(at + sizeof file, machine, machine_bytes);
    memcpy(at + sizeof file + machine_bytes, calibration, calibration_bytes);
    at += sizeof file + text_bytes;
    for (uint32_t i = 0; i < head->n_entry; i++, at += entry_bytes) {
        memcpy(at, &entries[i], sizeof entries[i]);
        memcpy(at + sizeof entries[i], layers + (size_t)i * head->n_layer, head->n_layer * sizeof *layers);
    }
    return bytes;
}

/* ---- Reading: nothing is believed but what is checked here ---- */

static bool is_text(const char *text, size_t bytes)
{
    return bytes >= 1 && bytes <= MFI_PLAN_TEXT_MAX && memchr(text, '\0', bytes) == text + bytes - 1;
}

static bool is_count(float value)
{
    return isfinite(value) && value >= 0;
}

static bool entry_holds(const mfi_file_plan_entry *entry)
{
    const float slack = 1.0f + 1e-3f; /* means of shares, rounded */
    return isfinite(entry->loss) && isfinite(entry->kl) && is_count(entry->agreement) && entry->agreement <= slack &&
           is_count(entry->acceptance) && entry->acceptance <= slack && is_count(entry->decode_ms) &&
           is_count(entry->prefill_ms);
}

/* NULL, or what is wrong with the head and the lengths. */
static const char *head_problem(const mfi_file_plan *file, size_t bytes, uint32_t n_layer)
{
    if (bytes < sizeof *file || file->magic != MFI_PLAN_MAGIC) return "it is none";
    if (file->version != MFI_PLAN_VERSION) return "its version is another";
    if (file->n_layer != n_layer) return "it is another model's";
    if (file->n_entry == 0 || file->n_entry > MFI_PLAN_ENTRY_MAX || file->entry_bytes != entry_bytes_of(n_layer))
        return "its entries have impossible sizes";
    if (file->machine_bytes > MFI_PLAN_TEXT_MAX || file->calibration_bytes > MFI_PLAN_TEXT_MAX)
        return "its texts are too long";
    const size_t text_bytes = mfi_round_up((size_t)file->machine_bytes + file->calibration_bytes, 8);
    if (bytes != sizeof *file + text_bytes + (size_t)file->n_entry * file->entry_bytes) return "its length is wrong";
    const char *text = (const char *)(file + 1);
    if (!is_text(text, file->machine_bytes) || !is_text(text + file->machine_bytes, file->calibration_bytes))
        return "its texts are damaged";
    for (uint32_t i = 0; i <= MFI_PLAN_DRAFT_MAX; i++)
        if (!is_count(file->verify_ms[i])) return "its times are none";
    return file->zero == 0 ? NULL : "reserved bytes are set";
}

static const char *entries_problem(const mfi_stored_plan *plan, const mfi_config *config)
{
    for (uint32_t i = 0; i < plan->file->n_entry; i++) {
        const mfi_file_plan_entry *entry = mfi_plan_entry_at(plan, i);
        if (!entry_holds(entry)) return "an entry's numbers are none";
        if (i > 0 && i + 1 < plan->file->n_entry && !(entry->loss < mfi_plan_entry_at(plan, i - 1)->loss))
            return "its losses do not fall";
        if (mfi_view_check(mfi_plan_layers_at(plan, i), config, NULL) != MF_OK)
            return "an entry is no view of this model";
    }
    return NULL;
}

static bool was_timed_here(const mfi_stored_plan *plan, const mf_model *model)
{
    mf_model_info info = MF_MODEL_INFO_INIT;
    char here[MFI_PLAN_TEXT_MAX];
    if (plan->machine[0] == '\0' || plan->file->n_thread > mfi_usable_cores()) return false;
    if (mfi_model_info(model, &info) != MF_OK) return false;
    mfi_plan_machine(here, info.cpu, info.arithmetic);
    return strcmp(here, plan->machine) == 0;
}

static void refuse(mf_model *model, const char *problem)
{
    char line[256];
    model->plan_refused = true;
    if (model->log == NULL) return;
    snprintf(line, sizeof line, "%s: the stored plan is not used: %s", mfi_container_name(model->container), problem);
    model->log(model->log_user, 1, line);
}

mf_status mfi_plan_load(mf_model *model, mf_error *error)
{
    size_t bytes;
    const mfi_file_plan *file = mfi_container_plan(model->container, &bytes);
    if (file == NULL) return MF_OK;
    const char *problem = head_problem(file, bytes, model->config.n_layer);
    if (problem != NULL) {
        refuse(model, problem);
        return MF_OK;
    }
    const size_t plan_bytes = sizeof(mfi_stored_plan) + file->n_entry * sizeof(uint32_t);
    mfi_stored_plan *plan = mfi_alloc(&model->allocator, plan_bytes);
    if (plan == NULL) return mfi_fail(error, MF_E_NOMEM, "no memory for the stored plan");
    plan->file = file;
    plan->machine = (const char *)(file + 1);
    plan->calibration = plan->machine + file->machine_bytes;
    plan->entries =
        (const unsigned char *)plan->machine + mfi_round_up((size_t)file->machine_bytes + file->calibration_bytes, 8);
    problem = entries_problem(plan, &model->config);
    if (problem != NULL) {
        mfi_free(&model->allocator, plan, plan_bytes);
        refuse(model, problem);
        return MF_OK;
    }
    for (uint32_t i = 0; i < file->n_entry; i++)
        plan->n_shell[i] = mfi_view_shells(model, mfi_plan_layers_at(plan, i));
    plan->is_timed_here = was_timed_here(plan, model);
    model->plan = plan;
    model->plan_bytes = plan_bytes;
    return MF_OK;
}

/* ---- Budgets ---- */

static bool fits(const mfi_file_plan_entry *entry, const mf_submodel_spec *spec)
{
    return (spec->max_params == 0 || entry->n_param <= spec->max_params) &&
           (spec->max_bytes == 0 || entry->bytes_per_token <= spec->max_bytes) &&
           (spec->max_flops == 0 || entry->flops_per_token <= spec->max_flops) &&
           (spec->max_ms == 0 || (double)entry->decode_ms <= spec->max_ms);
}

/* What the least of each budget is among the entries that are loaded. */
static mf_status fail_no_fit(const mfi_stored_plan *plan, const mf_submodel_spec *spec, uint32_t n_shell,
                             mf_error *error)
{
    uint64_t least[3] = { UINT64_MAX, UINT64_MAX, UINT64_MAX };
    double least_ms = HUGE_VAL;
    for (uint32_t i = 0; i < plan->file->n_entry; i++) {
        if (plan->n_shell[i] > n_shell) continue;
        const mfi_file_plan_entry *entry = mfi_plan_entry_at(plan, i);
        const uint64_t own[3] = { entry->n_param, entry->bytes_per_token, entry->flops_per_token };
        for (int j = 0; j < 3; j++)
            least[j] = own[j] < least[j] ? own[j] : least[j];
        least_ms = (double)entry->decode_ms < least_ms ? (double)entry->decode_ms : least_ms;
    }
    if (least[0] == UINT64_MAX)
        return mfi_fail(error, MF_E_NOT_FOUND,
                        "no entry of the stored plan is loaded: the model was opened too narrow");
    if (spec->max_ms != 0)
        return mfi_fail(
            error, MF_E_NOT_FOUND,
            "no entry of the stored plan fits; the least are %llu parameters, %llu bytes and %llu FLOPs per "
            "token, %.4g ms",
            (unsigned long long)least[0], (unsigned long long)least[1], (unsigned long long)least[2], least_ms);
    return mfi_fail(
        error, MF_E_NOT_FOUND,
        "no entry of the stored plan fits; the least are %llu parameters, %llu bytes and %llu FLOPs per token",
        (unsigned long long)least[0], (unsigned long long)least[1], (unsigned long long)least[2]);
}

mf_status mfi_plan_choose(const mfi_stored_plan *plan, const mf_submodel_spec *spec, uint32_t n_shell,
                          mfi_view_layer *layers, mf_error *error)
{
    if (!(spec->max_ms >= 0)) return mfi_fail(error, MF_E_INVALID, "max_ms %g is no time", spec->max_ms);
    if (spec->max_ms != 0 && !plan->is_timed_here) {
        if (plan->machine[0] == '\0')
            return mfi_fail(error, MF_E_UNSUPPORTED,
                            "the stored plan has no times; `matformer plan FILE --measure` takes them here");
        return mfi_fail(error, MF_E_UNSUPPORTED,
                        "the stored plan was timed on another machine (%.80s, threads: %u); `matformer plan FILE "
                        "--measure` times it here",
                        plan->machine, plan->file->n_thread);
    }
    const mfi_file_plan_entry *best = NULL;
    for (uint32_t i = 0; i < plan->file->n_entry; i++) {
        const mfi_file_plan_entry *entry = mfi_plan_entry_at(plan, i);
        if (plan->n_shell[i] <= n_shell && fits(entry, spec) && (best == NULL || entry->loss < best->loss))
            best = entry;
    }
    if (best == NULL) return fail_no_fit(plan, spec, n_shell, error);
    memcpy(layers, best + 1, plan->file->n_layer * sizeof *layers);
    return MF_OK;
}

/* ---- Getters ---- */

mf_status mfi_plan_info(const mf_model *model, mf_plan_info *info)
{
    const mfi_stored_plan *plan = model->plan;
    if (plan == NULL) return MF_E_NOT_FOUND;
    info->n_entry = plan->file->n_entry;
    info->n_thread = plan->file->n_thread;
    info->machine = plan->machine;
    info->is_timed_here = plan->is_timed_here;
    info->calibration = plan->calibration;
    info->calibration_hash = plan->file->calibration_hash;
    info->n_predicted = plan->file->n_predicted;
    return MF_OK;
}

mf_status mfi_plan_entry(const mf_model *model, uint32_t index, mf_plan_entry *entry)
{
    const mfi_stored_plan *plan = model->plan;
    if (plan == NULL) return MF_E_NOT_FOUND;
    if (index >= plan->file->n_entry) return MF_E_RANGE;
    if (entry->text == NULL && entry->text_capacity != 0) return MF_E_INVALID;
    const mfi_file_plan_entry *from = mfi_plan_entry_at(plan, index);
    entry->n_param = from->n_param;
    entry->bytes_per_token = from->bytes_per_token;
    entry->flops_per_token = from->flops_per_token;
    entry->loss = (double)from->loss;
    entry->kl = (double)from->kl;
    entry->agreement = (double)from->agreement;
    entry->acceptance = (double)from->acceptance;
    entry->decode_ms = (double)from->decode_ms;
    entry->prefill_ms = (double)from->prefill_ms;
    entry->n_shell = plan->n_shell[index];
    const mf_status status =
        mfi_layers_text(model, mfi_plan_layers_at(plan, index), entry->text, entry->text_capacity, &entry->text_bytes);
    return entry->text == NULL ? MF_OK : status;
}

/* ---- Drafts ---- */

/* A draft writes keys and values that the whole model overwrites: it has them for as many heads in every layer. */
static bool shares_cache(const mf_model *model, const mfi_view_layer *a, const mfi_view_layer *b)
{
    const uint32_t group = model->config.head_group;
    for (uint32_t layer = 0; layer < model->config.n_layer; layer++)
        if (model->config.kv_layer[layer] == layer &&
            mfi_kv_heads(a[layer].heads, group) != mfi_kv_heads(b[layer].heads, group))
            return false;
    return true;
}

/* Tokens of one round of drafting and verifying, on average. */
static double tokens_of_round(double a, uint32_t g)
{
    double sum = 0, power = 1;
    for (uint32_t i = 0; i <= g; i++, power *= a)
        sum += power;
    return sum;
}

mf_status mfi_plan_draft(const mf_model *model, bool greedy, mf_plan_draft *draft)
{
    const mfi_stored_plan *plan = model->plan;
    if (plan == NULL || plan->machine[0] == '\0') return MF_E_NOT_FOUND;
    const mfi_file_plan *file = plan->file;
    if (!(file->verify_ms[0] > 0)) return MF_E_NOT_FOUND;
    const uint32_t last = file->n_entry - 1;
    const double whole = (double)mfi_plan_entry_at(plan, last)->decode_ms;
    double best = 1;
    for (uint32_t i = 0; i < last; i++) {
        const mfi_file_plan_entry *entry = mfi_plan_entry_at(plan, i);
        const double a = fmin(1, (double)(greedy ? entry->agreement : entry->acceptance));
        const double c = (double)entry->decode_ms / whole;
        if (!(c > 0) || !shares_cache(model, mfi_plan_layers_at(plan, i), mfi_plan_layers_at(plan, last))) continue;
        for (uint32_t g = 1; g <= MFI_PLAN_DRAFT_MAX; g++) {
            /* More rows read no less: what says otherwise is noise of the clock. */
            const double v = fmax(1, (double)file->verify_ms[g] / (double)file->verify_ms[0]);
            const double speedup = tokens_of_round(a, g) / (g * c + v);
            if (!(speedup > best)) continue;
            best = speedup;
            draft->entry = i;
            draft->length = g;
            draft->acceptance = a;
            draft->cost = c;
            draft->verify_cost = v;
            draft->speedup = speedup;
        }
    }
    return best > 1 ? MF_OK : MF_E_NOT_FOUND;
}
