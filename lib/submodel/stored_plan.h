/* stored_plan.h - the plan beside a file's directory: which widths are best for a budget. docs/container-format.md
 * section 1 has its bytes; the structs here are the file's own layout. */
#ifndef MFI_STORED_PLAN_H
#define MFI_STORED_PLAN_H

#include "submodel.h"

#define MFI_PLAN_MAGIC 0x4c50464du /* "MFPL" */
#define MFI_PLAN_VERSION 1u
#define MFI_PLAN_ENTRY_MAX 4096u
#define MFI_PLAN_TEXT_MAX 512u /* bytes of a text, with its terminator */
#define MFI_PLAN_DRAFT_MAX 8u  /* tokens of a draft whose verification is timed */

typedef struct mfi_file_plan {
    uint32_t magic, version, n_layer, n_entry;
    uint32_t entry_bytes, machine_bytes, calibration_bytes, n_thread;
    uint64_t calibration_hash, n_predicted;
    float verify_ms[MFI_PLAN_DRAFT_MAX + 1]; /* of 1, 2, ... rows with the last entry; 0: not timed */
    uint32_t zero;
} mfi_file_plan; /* then the texts, terminated, together filled up to 8 bytes; then the entries */

typedef struct mfi_file_plan_entry {
    uint64_t n_param, bytes_per_token, flops_per_token;
    float loss, kl, agreement, acceptance, decode_ms, prefill_ms;
} mfi_file_plan_entry; /* then mfi_view_layer [n_layer], filled up to 8 bytes */

_Static_assert(sizeof(mfi_file_plan) == 88, "as in the file");
_Static_assert(sizeof(mfi_file_plan_entry) == 48, "as in the file");
_Static_assert(sizeof(mfi_view_layer) == 4, "as in the file");

/* A plan whose bytes were checked against a model's configuration; it points into them. */
typedef struct mfi_stored_plan {
    const mfi_file_plan *file;
    const char *machine, *calibration;
    const unsigned char *entries;
    bool is_timed_here;
    uint32_t n_shell[]; /* [n_entry] that must be resident */
} mfi_stored_plan;

/* Reads the plan of the model's file into model->plan. One that is damaged or of another version is left out with a word
 * to the log, since the model does not need it: the only failure is MF_E_NOMEM. */
mf_status mfi_plan_load(mf_model *model, mf_error *error);

const mfi_file_plan_entry *mfi_plan_entry_at(const mfi_stored_plan *plan, uint32_t index);
const mfi_view_layer *mfi_plan_layers_at(const mfi_stored_plan *plan, uint32_t index); /* [n_layer] */

/* The entry of the least loss that fits every budget of `spec` and needs at most n_shell shells, to layers [n_layer]. */
mf_status mfi_plan_choose(const mfi_stored_plan *plan, const mf_submodel_spec *spec, uint32_t n_shell,
                          mfi_view_layer *layers, mf_error *error);

/* A plan's bytes from its parts: `head` without magic, version and lengths. Layers are [n_entry][n_layer]. `out` NULL:
 * only how many bytes it takes; 0: a text is too long, or there are too many entries. */
size_t mfi_plan_encode(void *out, const mfi_file_plan *head, const char *machine, const char *calibration,
                       const mfi_file_plan_entry *entries, const mfi_view_layer *layers);

/* "PROCESSOR, LEVEL, ARITHMETIC": what times depend on, besides threads. */
void mfi_plan_machine(char text[MFI_PLAN_TEXT_MAX], const char *level, mf_arithmetic arithmetic);

/* What the public getters say; `info`, `entry` and `draft` are of this release's size. */
mf_status mfi_plan_info(const mf_model *model, mf_plan_info *info);
mf_status mfi_plan_entry(const mf_model *model, uint32_t index, mf_plan_entry *entry);
mf_status mfi_plan_draft(const mf_model *model, bool greedy, mf_plan_draft *draft);

#endif
