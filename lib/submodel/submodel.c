/* submodel.c - from a specification to a view, every refusal with its reason. */
#include "submodel.h"

#include <math.h>
#include <string.h>

#include "defs.h"
#include "status.h"
#include "stored_plan.h"

static size_t view_bytes(uint32_t n_layer)
{
    return sizeof(mf_submodel) + n_layer * sizeof(mfi_view_layer);
}

/* ---- From a specification to layers: the configuration alone decides ---- */

typedef struct choice {
    const mfi_config *config;
    mfi_view_layer *layer; /* [n_layer] */
} choice;

static const mfi_granularity *full_of(const choice *c)
{
    return &c->config->granularity[c->config->n_granularity - 1];
}

static void set_layer(const choice *c, uint32_t layer, uint32_t ffn, uint32_t heads)
{
    c->layer[layer] = (mfi_view_layer){ (uint16_t)(ffn / MFI_QUANTUM), (uint16_t)heads };
}

static bool is_skipped(const choice *c, uint32_t layer)
{
    return c->layer[layer].heads == 0;
}

static mf_status check_exclusive(const mf_submodel_spec *spec, mf_error *error)
{
    if (spec->granularity != NULL && spec->ratio != 0)
        return mfi_fail(error, MF_E_INVALID, "give a granularity or a ratio, not both");
    if (!(spec->ratio >= 0 && spec->ratio <= 1))
        return mfi_fail(error, MF_E_WIDTH, "ratio %g is not in (0, 1]", spec->ratio);
    if ((spec->ffn == NULL && spec->n_ffn != 0) || (spec->heads == NULL && spec->n_heads != 0) ||
        (spec->skip == NULL && spec->n_skip != 0))
        return mfi_fail(error, MF_E_INVALID, "a list of the specification is NULL but its count is not 0");
    return MF_OK;
}

static bool has_budget(const mf_submodel_spec *spec)
{
    return spec->max_params != 0 || spec->max_bytes != 0 || spec->max_flops != 0 || spec->max_ms != 0;
}

static mf_status choose_by_budget(mfi_view_layer *layers, const mfi_view_source *source, const mf_submodel_spec *spec,
                                  mf_error *error)
{
    if (spec->granularity != NULL || spec->ratio != 0 || spec->ffn != NULL || spec->heads != NULL || spec->skip != NULL)
        return mfi_fail(error, MF_E_INVALID, "budgets choose all widths: give no granularity, ratio or list with them");
    if (source->plan_refused)
        return mfi_fail(
            error, MF_E_UNSUPPORTED,
            "the file's stored plan is damaged or of another version; `matformer plan FILE` makes a new one");
    if (source->plan == NULL)
        return mfi_fail(error, MF_E_UNSUPPORTED,
                        "a budget needs a stored plan, and this file has none; `matformer plan FILE` makes one");
    return mfi_plan_choose(source->plan, spec, source->n_shell, layers, error);
}

static void set_granularity(const choice *c, const mfi_granularity *granularity)
{
    for (uint32_t layer = 0; layer < c->config->n_layer; layer++)
        set_layer(c, layer, granularity->ffn[layer], granularity->heads[layer]);
}

static mf_status set_named(const choice *c, const char *name, mf_error *error)
{
    const mfi_config *config = c->config;
    for (uint32_t g = 0; g < config->n_granularity; g++) {
        if (strcmp(config->granularity[g].name, name) != 0) continue;
        set_granularity(c, &config->granularity[g]);
        return MF_OK;
    }
    for (uint32_t i = 0; i < config->n_named; i++) {
        if (strcmp(config->named[i].name, name) != 0) continue;
        set_granularity(c, &config->named[i]);
        return MF_OK;
    }
    return mfi_fail(error, MF_E_NOT_FOUND, "the model has no granularity \"%.32s\"; its widest is \"%s\"", name,
                    full_of(c)->name);
}

static void set_ratio(const choice *c, double ratio)
{
    for (uint32_t layer = 0; layer < c->config->n_layer; layer++) {
        const double quanta = ceil(ratio * full_of(c)->ffn[layer] / MFI_QUANTUM - 1e-9);
        set_layer(c, layer, (uint32_t)(quanta < 1 ? 1 : quanta) * MFI_QUANTUM, full_of(c)->heads[layer]);
    }
}

static mf_status set_skips(const choice *c, const mf_submodel_spec *spec, mf_error *error)
{
    for (size_t i = 0; i < spec->n_skip; i++) {
        const uint32_t layer = spec->skip[i];
        if (layer >= c->config->n_layer)
            return mfi_fail(error, MF_E_WIDTH, "layer %u cannot be skipped: the model has %u layers", layer,
                            c->config->n_layer);
        if (!c->config->may_skip[layer])
            return mfi_fail(error, MF_E_WIDTH, "layer %u may not be skipped in this model", layer);
        set_layer(c, layer, 0, 0);
    }
    return MF_OK;
}

static uint32_t count_kept(const choice *c)
{
    uint32_t n_kept = 0;
    for (uint32_t layer = 0; layer < c->config->n_layer; layer++)
        n_kept += !is_skipped(c, layer);
    return n_kept;
}

/* A list names every layer, or the kept ones in order. */
static mf_status check_count(const choice *c, const char *what, size_t count, mf_error *error)
{
    const uint32_t n_kept = count_kept(c), n_layer = c->config->n_layer;
    if (count == n_layer || count == n_kept) return MF_OK;
    if (n_kept == n_layer)
        return mfi_fail(error, MF_E_WIDTH, "%zu %s given for a model of %u layers", count, what, n_layer);
    return mfi_fail(error, MF_E_WIDTH, "%zu %s given for a model of %u layers, %u of them kept", count, what, n_layer,
                    n_kept);
}

static mf_status check_ffn(const choice *c, uint32_t layer, uint32_t ffn, mf_error *error)
{
    const uint32_t full = full_of(c)->ffn[layer];
    if (ffn % MFI_QUANTUM != 0)
        return mfi_fail(error, MF_E_WIDTH, "FFN width %u of layer %u is not a multiple of %u", ffn, layer, MFI_QUANTUM);
    if (ffn == 0 || ffn > full)
        return mfi_fail(error, MF_E_WIDTH, "FFN width %u of layer %u is not in %u..%u", ffn, layer, MFI_QUANTUM, full);
    return MF_OK;
}

static mf_status check_heads(const choice *c, uint32_t layer, uint32_t heads, mf_error *error)
{
    const uint32_t full = full_of(c)->heads[layer], d_head = c->config->d_head;
    if (heads == 0 || heads > full)
        return mfi_fail(error, MF_E_WIDTH, "%u heads of layer %u: the model has 1..%u", heads, layer, full);
    if (heads * d_head % MFI_QUANTUM != 0)
        return mfi_fail(error, MF_E_WIDTH, "%u heads of layer %u: heads x d_head (%u) must be a multiple of %u", heads,
                        layer, d_head, MFI_QUANTUM);
    return MF_OK;
}

static mf_status set_lists(const choice *c, const mf_submodel_spec *spec, mf_error *error)
{
    const uint32_t n_layer = c->config->n_layer;
    mf_status status = MF_OK;
    if (count_kept(c) == 0) return mfi_fail(error, MF_E_WIDTH, "a view keeps at least one layer");
    if (spec->ffn != NULL) status = check_count(c, "FFN widths", spec->n_ffn, error);
    if (status == MF_OK && spec->heads != NULL) status = check_count(c, "head counts", spec->n_heads, error);
    for (uint32_t layer = 0, kept = 0; layer < n_layer && status == MF_OK; layer++) {
        if (is_skipped(c, layer)) continue;
        uint32_t ffn = c->layer[layer].ffn_quanta * MFI_QUANTUM, heads = c->layer[layer].heads;
        if (spec->ffn != NULL) ffn = spec->ffn[spec->n_ffn == n_layer ? layer : kept];
        if (spec->heads != NULL) heads = spec->heads[spec->n_heads == n_layer ? layer : kept];
        kept++;
        status = check_ffn(c, layer, ffn, error);
        if (status == MF_OK) status = check_heads(c, layer, heads, error);
        if (status == MF_OK) set_layer(c, layer, ffn, heads);
    }
    return status;
}

/* A layer that reads another's keys and values needs those of all its heads. */
static mf_status check_owners(const choice *c, mf_error *error)
{
    const uint32_t group = c->config->head_group;
    for (uint32_t layer = 0; layer < c->config->n_layer; layer++) {
        const uint32_t owner = c->config->kv_layer[layer];
        const uint32_t wanted = mfi_kv_heads(c->layer[layer].heads, group);
        const uint32_t there = mfi_kv_heads(c->layer[owner].heads, group);
        if (wanted <= there) continue;
        if (is_skipped(c, owner))
            return mfi_fail(error, MF_E_WIDTH, "layer %u may not be skipped: layer %u reads its keys and values", owner,
                            layer);
        return mfi_fail(error, MF_E_WIDTH, "layer %u reads %u key/value heads of layer %u, which has %u", layer, wanted,
                        owner, there);
    }
    return MF_OK;
}

mf_status mfi_view_check(const mfi_view_layer *layers, const mfi_config *config, mf_error *error)
{
    mfi_view_layer copy[MFI_MAX_LAYER];
    const choice c = { config, copy };
    mf_status status = MF_OK;
    memcpy(copy, layers, config->n_layer * sizeof *copy);
    if (count_kept(&c) == 0) return mfi_fail(error, MF_E_WIDTH, "a view keeps at least one layer");
    for (uint32_t layer = 0; layer < config->n_layer && status == MF_OK; layer++) {
        const uint32_t ffn = layers[layer].ffn_quanta * MFI_QUANTUM;
        if (!is_skipped(&c, layer)) {
            status = check_ffn(&c, layer, ffn, error);
            if (status == MF_OK) status = check_heads(&c, layer, layers[layer].heads, error);
        } else if (!config->may_skip[layer] || ffn != 0) {
            status = mfi_fail(error, MF_E_WIDTH, "layer %u may not be skipped in this model", layer);
        }
    }
    return status == MF_OK ? check_owners(&c, error) : status;
}

mf_status mfi_view_choose(mfi_view_layer *layers, const mfi_view_source *source, const mf_submodel_spec *spec,
                          mf_error *error)
{
    const mfi_config *config = source->config;
    const choice c = { config, layers };
    mf_status status = check_exclusive(spec, error);
    if (status != MF_OK) return status;
    if (has_budget(spec)) return choose_by_budget(layers, source, spec, error);
    if (spec->granularity != NULL)
        status = set_named(&c, spec->granularity, error);
    else if (spec->ratio == 0 && spec->ffn == NULL && spec->heads == NULL)
        set_granularity(&c, &config->granularity[source->widest]);
    else
        set_ratio(&c, spec->ratio == 0 ? 1 : spec->ratio);
    if (status == MF_OK) status = set_skips(&c, spec, error);
    if (status == MF_OK) status = set_lists(&c, spec, error);
    return status == MF_OK ? check_owners(&c, error) : status;
}

/* ---- Views ---- */

static uint32_t shells_of(const mf_model *model, uint32_t layer, uint32_t ffn)
{
    return mfi_program_shells(model->program, layer, ffn);
}

uint32_t mfi_view_shells(const mf_model *model, const mfi_view_layer *layers)
{
    uint32_t most = 0;
    for (uint32_t layer = 0; layer < model->program->n_layer; layer++) {
        const uint32_t n_shell = shells_of(model, layer, layers[layer].ffn_quanta * MFI_QUANTUM);
        if (n_shell > most) most = n_shell;
    }
    return most;
}

/* Only the first regions may be there: of a file still being downloaded, or opened with options.widest. */
static uint32_t widest_loaded(const mf_model *model)
{
    for (uint32_t g = model->config.n_granularity; g-- > 1;) {
        uint32_t n_shell = 0;
        for (uint32_t layer = 0; layer < model->config.n_layer; layer++) {
            const uint32_t needed = shells_of(model, layer, model->config.granularity[g].ffn[layer]);
            if (needed > n_shell) n_shell = needed;
        }
        if (n_shell <= mfi_shells_resident(&model->residency)) return g;
    }
    return 0;
}

mf_status mfi_submodel_create(mf_submodel **out, mf_model *model, const mf_submodel_spec *spec, mf_error *error)
{
    *out = NULL;
    const uint32_t n_layer = model->program->n_layer;
    mf_submodel *view = mfi_alloc(&model->allocator, view_bytes(n_layer));
    if (view == NULL) return mfi_fail(error, MF_E_NOMEM, "no memory for a view");
    view->model = model;
    view->n_layer = n_layer;
    const mfi_view_source source = { &model->config, widest_loaded(model), model->plan, model->plan_refused,
                                     mfi_shells_resident(&model->residency) };
    const mf_status status = mfi_view_choose(view->layer, &source, spec, error);
    if (status != MF_OK) {
        mfi_free(&model->allocator, view, view_bytes(n_layer));
        return status;
    }
    view->n_shell = mfi_view_shells(model, view->layer);
    mfi_model_retain(model);
    *out = view;
    return MF_OK;
}

void mfi_submodel_free(mf_submodel *view)
{
    if (view == NULL) return;
    mf_model *model = view->model;
    mfi_free(&model->allocator, view, view_bytes(view->n_layer));
    mfi_model_release(model);
}

/* What one operand adds for a view: `n` x `k` live elements of a tensor of `type`. */
static void count_matrix(mf_submodel_info *info, mfk_type type, uint64_t n, uint64_t k)
{
    info->n_param_body += n * k;
    info->bytes_per_token += mfk_weights_bytes(type, n, k);
    info->flops_per_token += 2 * n * k;
}

static void count_vector(mf_submodel_info *info, uint64_t n)
{
    info->n_param_body += n;
    info->bytes_per_token += n * sizeof(float);
}

static uint32_t live_extent(const mf_submodel *view, const mfi_op *op, mfi_extent extent, uint64_t full)
{
    const uint32_t d_head = view->model->program->d_head;
    switch (extent) {
    case MFI_EXTENT_HEADS:
        return mfi_view_heads(view, op->layer) * d_head;
    case MFI_EXTENT_KV_HEADS:
        return mfi_view_kv_heads(view, op->layer) * d_head;
    case MFI_EXTENT_FFN:
        return mfi_view_ffn(view, op->layer);
    default:
        return (uint32_t)full;
    }
}

/* The live part of one product, over its shells. */
static void count_part(mf_submodel_info *info, const mf_submodel *view, const mfi_op *op, const mfi_part *part)
{
    const bool along_n = part->n_of == MFI_EXTENT_FFN, along_k = op->k_of == MFI_EXTENT_FFN;
    if (part->bias != NULL)
        count_vector(info, (op->kind == MFI_OP_GLU ? 2 : 1) * live_extent(view, op, part->n_of, part->bias->n));
    uint64_t left = along_n || along_k ? mfi_view_ffn(view, op->layer) : 1;
    for (uint32_t s = 0; s < part->n_shell && left > 0; s++) {
        const mfi_tensor *piece = part->piece[s];
        if (piece == NULL) continue;
        uint64_t n = live_extent(view, op, part->n_of, piece->n), k = live_extent(view, op, op->k_of, piece->k);
        if (along_n) n = mfi_min(left, piece->n);
        if (along_k) k = mfi_min(left, piece->k);
        if (along_n || along_k) left -= along_n ? n : k;
        count_matrix(info, piece->type, (op->kind == MFI_OP_GLU ? 2 : 1) * n, k);
    }
}

static bool runs(const mf_submodel *view, const mfi_op *op)
{
    return (op->rows != MFI_ROWS_ATTN && op->rows != MFI_ROWS_FFN) || mfi_view_heads(view, op->layer) > 0;
}

/* Whether an operation before this one has the same vector: a router's serve twice, a norm may serve all layers. */
static bool counted_before(const mf_submodel *view, const mfi_op *op)
{
    for (const mfi_op *before = op; before-- > view->model->program->op;)
        if (before->weight == op->weight && runs(view, before)) return true;
    return false;
}

/* What is no matrix of a product: norms, and small matrices. */
static void count_vectors(mf_submodel_info *info, const mf_submodel *view, const mfi_op *op)
{
    if (op->weight == NULL || op->kind == MFI_OP_PLACE) return;
    const uint64_t n = op->weight->n * (op->bias != NULL ? 2 : 1);
    if (op->kind == MFI_OP_MATVEC) info->flops_per_token += 2 * n;
    if (counted_before(view, op)) return;
    info->n_param_body += n;
    info->bytes_per_token += n * sizeof(float);
}

mf_status mfi_submodel_info(const mf_submodel *view, mf_submodel_info *info)
{
    const mfi_program *program = view->model->program;
    mf_submodel_info full = { .n_shell = view->n_shell, .view_bytes = (uint32_t)view_bytes(view->n_layer) };
    uint64_t ends = 0;
    for (uint32_t i = 0; i < program->n_op; i++) {
        const mfi_op *op = &program->op[i];
        if (!runs(view, op)) continue;
        count_vectors(&full, view, op);
        if (op->kind == MFI_OP_LOOKUP) {
            const uint32_t columns = program->buffer[op->dst].width;
            ends += op->table->n * columns;
            full.bytes_per_token += mfk_weights_bytes(op->table->type, 1, columns);
        }
        if (op->kind == MFI_OP_PLACE) {
            ends += op->weight->n + op->bias->n;
            full.bytes_per_token += program->d_model * sizeof(float);
        }
        if (op->kind == MFI_OP_EMBED) {
            ends += op->table->n * op->table->k;
            full.bytes_per_token += mfk_weights_bytes(op->table->type, 1, op->table->k);
        }
        if (op->kind == MFI_OP_OUTPUT && op->n_part > 0) {
            const mfi_tensor *output = op->part[0].piece[0];
            const uint64_t body = full.n_param_body;
            count_matrix(&full, output->type, output->n, output->k);
            full.n_param_body = body;
            if (output != program->op[0].table) ends += output->n * output->k;
        } else {
            for (uint32_t p = 0; p < op->n_part; p++)
                count_part(&full, view, op, &op->part[p]);
        }
    }
    full.n_param = full.n_param_body + ends;
    for (uint32_t slot = 0; slot < program->n_slot; slot++)
        full.cache_bytes_per_position +=
            2 * sizeof(float) * program->d_head * mfi_view_kv_heads(view, program->slot_layer[slot]);
    for (uint32_t layer = 0; layer < view->n_layer; layer++)
        full.n_layer_kept += mfi_view_heads(view, layer) > 0;
    return mfi_write_info(info, &full, sizeof full, MFI_FIRST_BYTES(mf_submodel_info, view_bytes));
}
