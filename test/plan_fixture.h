/* plan_fixture.h - plans for files of tests: entries from the narrowest granularity to the widest, with numbers that
 * are functions of the widths. */
#ifndef PLAN_FIXTURE_H
#define PLAN_FIXTURE_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "stored_plan.h"

enum { PLAN_FIXTURE_ENTRIES = 64 };

typedef struct plan_fixture {
    mfi_file_plan head;
    mfi_file_plan_entry entry[PLAN_FIXTURE_ENTRIES];
    mfi_view_layer layer[PLAN_FIXTURE_ENTRIES * MFI_MAX_LAYER]; /* [n_entry][n_layer] */
    char machine[MFI_PLAN_TEXT_MAX];
} plan_fixture;

/* One layer after the other grows from the narrowest granularity's width to the widest's, in n_entry steps at most.
 * `machine`: "" for a plan without times. Free it with free(). */
static inline plan_fixture *plan_fixture_make(const mfi_config *config, uint32_t n_entry, const char *machine)
{
    plan_fixture *p = calloc(1, sizeof *p);
    if (!p) abort();
    const mfi_granularity *low = &config->granularity[0], *high = &config->granularity[config->n_granularity - 1];
    const uint32_t n_layer = config->n_layer;
    p->head = (mfi_file_plan){ .n_layer = n_layer, .n_thread = 1, .calibration_hash = n_entry, .n_predicted = 1000 };
    snprintf(p->machine, sizeof p->machine, "%s", machine);
    for (uint32_t i = 0; i < n_entry; i++) {
        const double share = n_entry > 1 ? (double)i / (n_entry - 1) : 1;
        mfi_file_plan_entry *entry = &p->entry[i];
        uint64_t units = 0;
        for (uint32_t l = 0; l < n_layer; l++) {
            const double part = share * n_layer - l;
            const uint32_t from = low->ffn[l] > 0 ? low->ffn[l] : MFI_QUANTUM;
            uint32_t ffn = from + (uint32_t)((high->ffn[l] - from) * (part < 0 ? 0 : part > 1 ? 1 : part));
            ffn = ffn / MFI_QUANTUM * MFI_QUANTUM;
            p->layer[i * n_layer + l] = (mfi_view_layer){ (uint16_t)(ffn / MFI_QUANTUM), (uint16_t)high->heads[l] };
            units += ffn;
        }
        *entry = (mfi_file_plan_entry){ 1000 + units * 10, 2000 + units * 20, 3000 + units * 21, 0, 0, 0, 0, 0, 0 };
        entry->loss = 4 - (float)share;
        entry->kl = 1 - (float)share;
        entry->agreement = entry->acceptance = 0.5f + (float)share / 2;
        if (machine[0] == '\0') continue;
        entry->decode_ms = 0.1f + (float)share;
        entry->prefill_ms = 0.05f;
    }
    p->head.n_entry = n_entry;
    for (uint32_t i = 0; i <= MFI_PLAN_DRAFT_MAX && machine[0] != '\0'; i++)
        p->head.verify_ms[i] = 1.1f + 0.1f * (float)i;
    return p;
}

/* Its bytes, to be freed. */
static inline void *plan_fixture_bytes(const plan_fixture *p, size_t *bytes)
{
    *bytes = mfi_plan_encode(NULL, &p->head, p->machine, "a text", p->entry, p->layer);
    void *data = malloc(*bytes);
    if (!data) abort();
    mfi_plan_encode(data, &p->head, p->machine, "a text", p->entry, p->layer);
    return data;
}

/* Stores one in a file. */
static inline mf_status plan_fixture_store(const char *path, const mfi_config *config, uint32_t n_entry,
                                           const char *machine, mf_error *error)
{
    size_t bytes;
    plan_fixture *p = plan_fixture_make(config, n_entry, machine);
    void *data = plan_fixture_bytes(p, &bytes);
    const mf_allocator allocator = mfi_allocator(NULL);
    const mf_status status = mfi_container_store_plan(path, data, bytes, &allocator, error);
    free(data);
    free(p);
    return status;
}

#endif
