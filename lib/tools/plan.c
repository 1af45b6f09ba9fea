/* plan.c - plans: made, read, listed, stored. */
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "defs.h"
#include "plan.h"
#include "plan_front.h"
#include "platform.h"
#include "source.h"
#include "status.h"

enum { EVALUATIONS = 200, EVALUATIONS_MOST = 2000, ENTRIES = 64, CALIBRATION_MOST = 400 };

/* ---- A plan and its views ---- */

static mf_status create(mf_plan **out, const mf_allocator *allocator, uint32_t n_layer, uint32_t room, mf_error *error)
{
    *out = NULL;
    mf_plan *plan = mfi_alloc(allocator, sizeof *plan);
    if (plan) {
        plan->allocator = *allocator;
        plan->head.n_layer = n_layer;
        plan->room = room;
        plan->all = mfi_alloc_array(allocator, room, sizeof *plan->all);
        plan->entry = mfi_alloc_array(allocator, room, sizeof *plan->entry);
        if (plan->all && plan->entry) {
            *out = plan;
            return MF_OK;
        }
        mf_plan_close(plan);
    }
    return mfi_fail(error, MF_E_NOMEM, "no memory for a plan");
}

void mf_plan_close(mf_plan *plan)
{
    if (!plan) return;
    const mf_allocator allocator = plan->allocator;
    for (uint32_t i = 0; i < plan->n_all; i++)
        mfi_free(&allocator, plan->all[i].layer, plan->all[i].block_bytes);
    mfi_free(&allocator, plan->all, plan->room * sizeof *plan->all);
    mfi_free(&allocator, plan->entry, plan->room * sizeof *plan->entry);
    mfi_free(&allocator, plan, sizeof *plan);
}

double mfi_plan_cost_of(mf_plan_cost kind, const mfi_plan_line *line, const mf_submodel_info *info)
{
    switch (kind) {
    case MF_PLAN_PARAMS:
        break;
    case MF_PLAN_BYTES:
        return (double)info->bytes_per_token;
    case MF_PLAN_FLOPS:
        return (double)info->flops_per_token;
    case MF_PLAN_MS:
        return line->constant + line->per_byte * (double)info->bytes_per_token + line->per_layer * info->n_layer_kept;
    }
    return (double)info->n_param;
}

mf_status mfi_plan_add(mf_plan *plan, const mf_submodel *view, const mfi_view_layer *layers,
                       const mfi_plan_score *score, double cost, mf_error *error)
{
    mf_submodel_info info = MF_SUBMODEL_INFO_INIT;
    size_t text_bytes = 0;
    mf_submodel_info_get(view, &info);
    mf_submodel_text(view, NULL, 0, &text_bytes);
    mfi_planned *planned = &plan->all[plan->n_all];
    const size_t layer_bytes = plan->head.n_layer * sizeof *layers;
    *planned = (mfi_planned){ .loss = score->loss, .cost = cost, .n_shell = info.n_shell };
    planned->block_bytes = layer_bytes + text_bytes;
    planned->layer = mfi_alloc(&plan->allocator, planned->block_bytes);
    if (!planned->layer) return mfi_fail(error, MF_E_NOMEM, "no memory for a plan");
    planned->text = (char *)planned->layer + layer_bytes;
    memcpy(planned->layer, layers, layer_bytes);
    mf_submodel_text(view, planned->text, text_bytes, NULL);
    planned->numbers = (mfi_file_plan_entry){ .n_param = info.n_param,
                                              .bytes_per_token = info.bytes_per_token,
                                              .flops_per_token = info.flops_per_token,
                                              .loss = (float)score->loss,
                                              .kl = (float)score->kl,
                                              .agreement = (float)score->agreement,
                                              .acceptance = (float)score->acceptance };
    plan->n_all++;
    return MF_OK;
}

/* ---- Which evaluations become entries ---- */

/* Takes out the entry whose loss to the hypervolume is least; not the first, nor the last. */
static void drop_entry(mf_plan *plan)
{
    uint32_t least = 1;
    double least_area = HUGE_VAL;
    for (uint32_t i = 1; i + 1 < plan->n_entry; i++) {
        const mfi_planned *before = &plan->all[plan->entry[i - 1]], *own = &plan->all[plan->entry[i]],
                          *after = &plan->all[plan->entry[i + 1]];
        const double area = (after->cost - own->cost) * (before->loss - own->loss);
        if (area >= least_area) continue;
        least = i;
        least_area = area;
    }
    memmove(plan->entry + least, plan->entry + least + 1, (plan->n_entry - least - 1) * sizeof *plan->entry);
    plan->n_entry--;
}

/* The front, thinned to n_most; and last the widest view, evaluation 0, also where chance has another one beat it. */
static mf_status choose_entries(mf_plan *plan, uint32_t n_most, mf_error *error)
{
    const size_t n = plan->n_all;
    mfi_point *point = mfi_alloc_array(&plan->allocator, n, sizeof *point);
    size_t *front = mfi_alloc_array(&plan->allocator, n, sizeof *front);
    const mf_status status = point && front ? MF_OK : mfi_fail(error, MF_E_NOMEM, "no memory for a plan");
    for (size_t i = 0; i < n && status == MF_OK; i++)
        point[i] = (mfi_point){ plan->all[i].cost, plan->all[i].loss };
    const size_t n_front = status == MF_OK ? mfi_front(point, n, front) : 0;
    plan->n_entry = 0;
    for (size_t i = 0; i < n_front; i++) {
        /* Of losses that are one number in the file, one entry. */
        const mfi_planned *last = plan->n_entry > 0 ? &plan->all[plan->entry[plan->n_entry - 1]] : NULL;
        if (front[i] == 0 || (last && last->numbers.loss <= plan->all[front[i]].numbers.loss)) continue;
        plan->entry[plan->n_entry++] = (uint32_t)front[i];
    }
    plan->entry[plan->n_entry++] = 0;
    mfi_free(&plan->allocator, point, n * sizeof *point);
    mfi_free(&plan->allocator, front, n * sizeof *front);
    while (plan->n_entry > n_most)
        drop_entry(plan);
    return status;
}

/* ---- Making one ---- */

static mf_status check_options(const mf_plan_options *o, mf_error *error)
{
    if (o->cost > MF_PLAN_MS || o->method > MF_PLAN_RANDOM)
        return mfi_fail(error, MF_E_INVALID, "a cost or a method that does not exist");
    if (o->n_evaluation > EVALUATIONS_MOST)
        return mfi_fail(error, MF_E_INVALID, "%u evaluations, and at most %u are learned from", o->n_evaluation,
                        (unsigned)EVALUATIONS_MOST);
    if (o->n_entry == 1 || o->n_entry == 2 || o->n_entry > MFI_PLAN_ENTRY_MAX)
        return mfi_fail(error, MF_E_INVALID, "a plan of %u entries: it has 3 to %u", o->n_entry, MFI_PLAN_ENTRY_MAX);
    if (!(o->time_limit_s >= 0)) return mfi_fail(error, MF_E_INVALID, "time_limit_s is below 0");
    if (o->calibration && strlen(o->calibration) > CALIBRATION_MOST)
        return mfi_fail(error, MF_E_INVALID, "the calibration's name has more than %u bytes",
                        (unsigned)CALIBRATION_MOST);
    return MF_OK;
}

/* What losses depend on, and so whose evaluations a resume file has. */
static void make_key(char *key, size_t room, const mf_model *model, const mf_plan_options *o, const mfi_scorer *scorer)
{
    mf_model_info info = MF_MODEL_INFO_INIT;
    mf_model_info_get(model, &info);
    snprintf(
        key, room,
        "{\"plan\":1,\"family\":\"%s\",\"layers\":%u,\"params\":%llu,\"bytes\":%llu,\"arithmetic\":%d,\"calibration\":"
        "\"%016llx\",\"context\":%u,\"labels\":%d}",
        info.family, info.n_layer, (unsigned long long)info.n_param, (unsigned long long)info.file_bytes,
        (int)info.arithmetic, (unsigned long long)mfi_scorer_hash(scorer), o->context ? o->context : info.max_positions,
        o->labels != NULL);
}

static mf_status make(mf_plan *plan, mf_model *model, const mf_plan_options *o, mfi_plan_space *space, mf_error *error)
{
    char key[512];
    mfi_search s = { .model = model, .options = o, .space = space, .plan = plan, .error = error };
    if (o->time_limit_s > 0) s.deadline_ns = mfi_now_ns() + (uint64_t)(o->time_limit_s * 1e9);
    mf_status status = mfi_scorer_create(&s.scorer, model, o, error);
    if (status == MF_OK) {
        make_key(key, sizeof key, model, o, s.scorer);
        status = mfi_record_open(&s.record, o->resume, key, space->n_layer, &o->allocator, error);
    }
    if (status == MF_OK && o->cost == MF_PLAN_MS) status = mfi_plan_fit_line(&s.line, model, space, o, error);
    if (status == MF_OK) status = mfi_search_run(&s);
    if (status == MF_OK) {
        plan->head.calibration_hash = mfi_scorer_hash(s.scorer);
        plan->head.n_predicted = mfi_scorer_predicted(s.scorer);
        snprintf(plan->calibration, sizeof plan->calibration, "%s", o->calibration ? o->calibration : "");
        status = choose_entries(plan, o->n_entry, error);
    }
    mfi_record_close(s.record);
    mfi_scorer_free(s.scorer);
    return status;
}

mf_status mf_plan_make(mf_plan **out, mf_model *model, const mf_plan_options *options, mf_error *error)
{
    if (!out) return mfi_fail(error, MF_E_INVALID, "out is NULL");
    *out = NULL;
    if (!model || !options) return mfi_fail(error, MF_E_INVALID, "model or options is NULL");
    mf_plan_options o = MF_PLAN_OPTIONS_INIT;
    mf_status status = mfi_read_options(&o, sizeof o, sizeof o, options, "mf_plan_options", error);
    if (status == MF_OK) status = check_options(&o, error);
    if (status != MF_OK) return status;
    o.allocator = mfi_allocator(&o.allocator);
    o.n_evaluation = o.n_evaluation ? o.n_evaluation : EVALUATIONS;
    o.n_entry = o.n_entry ? o.n_entry : ENTRIES;
    o.n_thread = o.n_thread ? o.n_thread : mfi_usable_cores();
    mf_plan *plan = NULL;
    mfi_plan_space *space = mfi_alloc(&o.allocator, sizeof *space);
    if (!space) return mfi_fail(error, MF_E_NOMEM, "no memory for a plan");
    status = mfi_plan_space_make(space, model, error);
    if (status == MF_OK && o.n_evaluation < space->n_granularity + 2)
        status = mfi_fail(error, MF_E_INVALID, "%u evaluations are too few: the file has %u granularities",
                          o.n_evaluation, space->n_granularity);
    if (status == MF_OK) status = create(&plan, &o.allocator, space->n_layer, o.n_evaluation, error);
    if (status == MF_OK) status = make(plan, model, &o, space, error);
    mfi_free(&o.allocator, space, sizeof *space);
    if (status == MF_OK)
        *out = plan;
    else
        mf_plan_close(plan);
    return status;
}

/* ---- Reading one ---- */

static mf_status read_entry(mf_plan *plan, mf_model *model, uint32_t index, mf_error *error)
{
    char text[16 * MFI_MAX_LAYER];
    mfi_view_layer layers[MFI_MAX_LAYER];
    mf_submodel *view = NULL;
    mf_plan_entry entry = MF_PLAN_ENTRY_INIT;
    entry.text = text;
    entry.text_capacity = sizeof text;
    mf_status status = mf_model_plan_entry(model, index, &entry);
    if (status != MF_OK) return mfi_fail(error, status, "entry %u of the stored plan cannot be read", index);
    status = mf_extract_submodel_text(&view, model, text, error);
    if (status != MF_OK) return status;
    mfi_plan_layers(view, layers, plan->head.n_layer);
    const mfi_plan_score score = { entry.loss, entry.kl, entry.agreement, entry.acceptance };
    status = mfi_plan_add(plan, view, layers, &score, (double)entry.n_param, error);
    mf_submodel_close(view);
    if (status != MF_OK) return status;
    plan->all[index].numbers.decode_ms = (float)entry.decode_ms;
    plan->all[index].numbers.prefill_ms = (float)entry.prefill_ms;
    plan->entry[plan->n_entry++] = index;
    return MF_OK;
}

mf_status mf_plan_read(mf_plan **out, mf_model *model, mf_error *error)
{
    if (!out) return mfi_fail(error, MF_E_INVALID, "out is NULL");
    *out = NULL;
    if (!model) return mfi_fail(error, MF_E_INVALID, "model is NULL");
    mf_plan_info info = MF_PLAN_INFO_INIT;
    mf_model_info about = MF_MODEL_INFO_INIT;
    const mf_allocator allocator = mfi_allocator(NULL);
    mf_plan *plan;
    mf_status status = mf_model_plan_info(model, &info);
    if (status != MF_OK)
        return mfi_fail(error, status,
                        "the file has no stored plan that can be read; `matformer plan FILE --text TEXT` "
                        "makes one");
    mf_model_info_get(model, &about);
    status = create(&plan, &allocator, about.n_layer, info.n_entry, error);
    if (status != MF_OK) return status;
    plan->head.n_thread = info.n_thread;
    plan->head.calibration_hash = info.calibration_hash;
    plan->head.n_predicted = info.n_predicted;
    snprintf(plan->machine, sizeof plan->machine, "%s", info.machine);
    snprintf(plan->calibration, sizeof plan->calibration, "%s", info.calibration);
    for (uint32_t i = 0; i < info.n_entry && status == MF_OK; i++)
        status = read_entry(plan, model, i, error);
    if (status == MF_OK)
        *out = plan;
    else
        mf_plan_close(plan);
    return status;
}

/* ---- Listing ---- */

mf_status mf_plan_entry_get(const mf_plan *plan, int all, uint32_t index, mf_plan_entry *entry)
{
    mf_plan_entry full = MF_PLAN_ENTRY_INIT;
    if (!plan || !entry) return MF_E_INVALID;
    mf_status status =
        mfi_read_options(&full, sizeof full, MFI_FIRST_BYTES(mf_plan_entry, text_bytes), entry, "mf_plan_entry", NULL);
    if (status != MF_OK) return status;
    if (index >= (all ? plan->n_all : plan->n_entry)) return MF_E_RANGE;
    if (!full.text && full.text_capacity != 0) return MF_E_INVALID;
    const mfi_planned *planned = &plan->all[all ? index : plan->entry[index]];
    full.n_param = planned->numbers.n_param;
    full.bytes_per_token = planned->numbers.bytes_per_token;
    full.flops_per_token = planned->numbers.flops_per_token;
    full.loss = planned->loss;
    full.kl = (double)planned->numbers.kl;
    full.agreement = (double)planned->numbers.agreement;
    full.acceptance = (double)planned->numbers.acceptance;
    full.decode_ms = (double)planned->numbers.decode_ms;
    full.prefill_ms = (double)planned->numbers.prefill_ms;
    full.n_shell = planned->n_shell;
    full.text_bytes = strlen(planned->text) + 1;
    const size_t fitting = mfi_min(full.text_bytes, full.text_capacity);
    if (fitting > 0) {
        memcpy(full.text, planned->text, fitting);
        full.text[fitting - 1] = '\0';
        if (fitting < full.text_bytes) status = MF_E_CAPACITY;
    }
    mfi_write_info(entry, &full, sizeof full, MFI_FIRST_BYTES(mf_plan_entry, text_bytes));
    return status;
}

double mf_plan_hypervolume(const double *cost, const double *loss, size_t n, double reference_cost,
                           double reference_loss)
{
    const mf_allocator allocator = mfi_allocator(NULL);
    mfi_point *point = cost && loss ? mfi_alloc_array(&allocator, n, sizeof *point) : NULL;
    for (size_t i = 0; point && i < n; i++)
        point[i] = (mfi_point){ cost[i], loss[i] };
    const double area = point ? mfi_hypervolume(point, n, (mfi_point){ reference_cost, reference_loss }) : 0;
    mfi_free(&allocator, point, n * sizeof *point);
    return area;
}

static mf_status score_view(mfi_scorer *scorer, mfi_record *record, const mf_submodel *view, uint32_t n_layer,
                            double *loss, mf_error *error)
{
    mfi_view_layer layers[MFI_MAX_LAYER];
    mfi_plan_score score = { 0 };
    mf_status status = MF_OK;
    mfi_plan_layers(view, layers, n_layer);
    if (!mfi_record_find(record, layers, &score)) {
        status = mfi_scorer_run(scorer, view, &score, error);
        if (status == MF_OK) status = mfi_record_add(record, layers, &score, error);
    }
    *loss = score.loss;
    return status;
}

mf_status mf_plan_score_views(mf_model *model, const mf_submodel *const *views, size_t n_view,
                              const mf_plan_options *options, double *loss, mf_error *error)
{
    if (!model || !views || !options || !loss)
        return mfi_fail(error, MF_E_INVALID, "model, views, options or loss is NULL");
    char key[512];
    mf_plan_options o = MF_PLAN_OPTIONS_INIT;
    mf_model_info info = MF_MODEL_INFO_INIT;
    mfi_scorer *scorer = NULL;
    mfi_record *record = NULL;
    mf_status status = mfi_read_options(&o, sizeof o, sizeof o, options, "mf_plan_options", error);
    if (status != MF_OK) return status;
    o.allocator = mfi_allocator(&o.allocator);
    mf_model_info_get(model, &info);
    status = mfi_scorer_create(&scorer, model, &o, error);
    if (status == MF_OK) {
        make_key(key, sizeof key, model, &o, scorer);
        status = mfi_record_open(&record, o.resume, key, info.n_layer, &o.allocator, error);
    }
    for (size_t i = 0; i < n_view && status == MF_OK; i++) {
        status = score_view(scorer, record, views[i], info.n_layer, &loss[i], error);
        if (status == MF_OK && o.progress && o.progress(o.progress_user, i + 1, n_view) != 0)
            status = mfi_fail(error, MF_E_CANCELLED, "scoring was cancelled");
    }
    mfi_record_close(record);
    mfi_scorer_free(scorer);
    return status;
}

/* ---- Storing ---- */

/* The bytes of the plan with as many entries as `n_most`, evenly left out but for the first and the last. */
static mf_status encode(const mf_plan *plan, uint32_t n_most, void **bytes, size_t *n_byte, mf_error *error)
{
    const uint32_t n = (uint32_t)mfi_min(plan->n_entry, n_most), n_layer = plan->head.n_layer;
    mfi_file_plan head = plan->head;
    mfi_file_plan_entry *entry = mfi_alloc_array(&plan->allocator, n, sizeof *entry);
    mfi_view_layer *layer = mfi_alloc_array(&plan->allocator, (size_t)n * n_layer, sizeof *layer);
    head.n_entry = n;
    *bytes = NULL;
    for (uint32_t i = 0; entry && layer && i < n; i++) {
        const uint32_t from = n > 1 ? (uint32_t)((uint64_t)i * (plan->n_entry - 1) / (n - 1)) : plan->n_entry - 1;
        entry[i] = plan->all[plan->entry[from]].numbers;
        memcpy(layer + (size_t)i * n_layer, plan->all[plan->entry[from]].layer, n_layer * sizeof *layer);
    }
    if (entry && layer) {
        *n_byte = mfi_plan_encode(NULL, &head, plan->machine, plan->calibration, entry, layer);
        *bytes = mfi_alloc(&plan->allocator, *n_byte);
        if (*bytes) mfi_plan_encode(*bytes, &head, plan->machine, plan->calibration, entry, layer);
    }
    mfi_free(&plan->allocator, entry, n * sizeof *entry);
    mfi_free(&plan->allocator, layer, (size_t)n * n_layer * sizeof *layer);
    return *bytes ? MF_OK : mfi_fail(error, MF_E_NOMEM, "no memory to store a plan");
}

mf_status mf_plan_store(const mf_plan *plan, const char *path, mf_error *error)
{
    if (!plan || !path) return mfi_fail(error, MF_E_INVALID, "plan or path is NULL");
    if (mfi_import_recognises(path))
        return mfi_fail(error, MF_E_UNSUPPORTED,
                        "%.120s: a plan is stored in a .mf file; `matformer convert` makes one of it", path);
    mf_status status = MF_E_CAPACITY;
    for (uint32_t n = plan->n_entry; status == MF_E_CAPACITY && n > 0; n = n * 3 / 4) {
        void *bytes;
        size_t n_byte = 0;
        status = encode(plan, n, &bytes, &n_byte, error);
        if (status == MF_OK) status = mfi_container_store_plan(path, bytes, n_byte, &plan->allocator, error);
        mfi_free(&plan->allocator, bytes, n_byte);
    }
    return status;
}
