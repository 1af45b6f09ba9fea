/* convert.c - a source to a .mf file in other types, storage or shells. */
#include <math.h>

#include "platform.h"
#include "slice.h"
#include "source.h"
#include "status.h"

static mf_status check_options(const mf_source *source, const mf_convert_options *o, mf_error *error)
{
    bool valid = o->type <= MF_WEIGHT_Q4 && o->storage <= MF_STORAGE_ZSTD && o->shells <= MF_SHELLS_SINGLE;
    for (mf_role role = 0; role < MF_N_ROLE; role++)
        valid = valid && o->role_type[role] <= MF_WEIGHT_Q4;
    if (!valid) return mfi_fail(error, MF_E_INVALID, "a type, storage or cut into shells that does not exist");
    for (mf_role role = 0; role < MF_N_ROLE; role++)
        if (o->role_type[role] != MF_WEIGHT_KEEP && source->info.role[role].n_weight == 0)
            return mfi_fail(error, MF_E_INVALID, "a type for %s, but the model has no such matrix%s",
                            mf_role_name(role),
                            role == MF_ROLE_OUTPUT ? " of its own: its output matrix is the embedding" : "");
    return MF_OK;
}

/* The type that the matrices of a role get; 0: each that which it has. */
static mfk_type choose_type(const mf_convert_options *o, mf_role role)
{
    return (mfk_type)(o->role_type[role] != MF_WEIGHT_KEEP ? o->role_type[role] : o->type);
}

/* The one of a set; KEEP of several. */
static mf_weight_type only_type(uint32_t types)
{
    mf_weight_type type = MF_WEIGHT_F32;
    while (type < MF_WEIGHT_Q4 && !(types >> type & 1u))
        type++;
    return types == 1u << type ? type : MF_WEIGHT_KEEP;
}

static void fill_report(mf_convert_report *report, const mfi_save_options *save)
{
    for (mf_role role = 0; role < MF_N_ROLE; role++) {
        const mfi_saved_role *saved = &save->saved[role];
        mf_converted_role *out = &report->role[role];
        if (saved->n_weight == 0) continue;
        out->type = only_type(saved->types);
        out->types = saved->types;
        out->n_weight = saved->n_weight;
        out->bytes = saved->bytes;
        out->n_rounded = saved->n_rounded;
        out->error = saved->error_square_sum == 0 ? 0 : sqrt(saved->error_square_sum / saved->square_sum);
    }
}

/* Losses and times hold while every weight keeps its type, and widths theirs. */
static bool keeps_plan(const mf_source *source, const mf_convert_options *o)
{
    bool keeps = source->plan && !o->submodel;
    for (mf_role role = 0; role < MF_N_ROLE; role++)
        keeps = keeps && choose_type(o, role) == 0;
    return keeps;
}

/* All of it, or cut to a view. */
static mf_status save_source(const mf_source *source, const mf_convert_options *o, const mfi_save_options *save,
                             const char *path, mf_error *error)
{
    if (!o->submodel) return mfi_save(source->config, &source->weights, save, &source->allocator, path, error);
    mfi_slice *slice;
    mf_status status = mfi_source_slice(&slice, source, o->submodel, error);
    if (status != MF_OK) return status;
    const mfi_weights weights = mfi_slice_weights(slice);
    status = mfi_save(mfi_slice_config(slice), &weights, save, &source->allocator, path, error);
    mfi_slice_free(slice);
    return status;
}

mf_status mf_convert(const mf_source *source, const char *path, const mf_convert_options *options,
                     mf_convert_report *report, mf_error *error)
{
    if (!source || !path) return mfi_fail(error, MF_E_INVALID, "source or path is NULL");
    mf_convert_options o = { 0 };
    mf_convert_report full = { 0 };
    mf_status status = mfi_read_options(&o, sizeof o, MFI_FIRST_BYTES(mf_convert_options, submodel), options,
                                        "mf_convert_options", error);
    if (status == MF_OK && report &&
        mfi_write_info(report, &full, sizeof full, MFI_FIRST_BYTES(mf_convert_report, role)) != MF_OK)
        status = mfi_fail(error, MF_E_STRUCT_SIZE, "mf_convert_report: fill the struct with its INIT macro");
    if (status == MF_OK) status = check_options(source, &o, error);
    if (status != MF_OK) return status;

    mfi_saved_role saved[MF_N_ROLE];
    mfi_save_options save = { .storage = o.storage == MF_STORAGE_KEEP   ? source->storage
                                         : o.storage == MF_STORAGE_ZSTD ? MFI_ZSTD
                                                                        : MFI_RAW,
                              .one_shell =
                                  o.shells == MF_SHELLS_KEEP ? source->one_shell : o.shells == MF_SHELLS_SINGLE,
                              .tokenizer = source->tokenizer,
                              .tokenizer_bytes = source->tokenizer_bytes,
                              .keys_of = source->keys_of,
                              .saved = saved,
                              .n_thread = o.n_thread ? o.n_thread : mfi_usable_cores(),
                              .progress = o.progress,
                              .progress_user = o.progress_user };
    for (mf_role role = 0; role < MF_N_ROLE; role++)
        save.role_type[role] = choose_type(&o, role);
    if (keeps_plan(source, &o)) save.plan = mfi_container_plan(source->keys_of, &save.plan_bytes);

    const mfi_fp_mode mode = mfi_fp_enter();
    status = save_source(source, &o, &save, path, error);
    if (status == MF_OK && report) {
        fill_report(&full, &save);
        mfi_write_info(report, &full, sizeof full, MFI_FIRST_BYTES(mf_convert_report, role));
    }
    mfi_fp_leave(mode);
    return status;
}
