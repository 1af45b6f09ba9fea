/* random_model.h - seeded random MatLM models for tests and benches: shapes, weights, slices, files.
 * A weight is a function of the seed, the tensor's name and the element's place, so that a model of any
 * size takes no memory, and a slice is the same function over fewer rows, columns and layers. */
#ifndef RANDOM_MODEL_H
#define RANDOM_MODEL_H

#include "model_config.h"

#define RANDOM_MAX_LAYER 64

typedef struct rng {
    uint64_t state;
} rng;
uint64_t rng_next(rng *r);
uint32_t rng_below(rng *r, uint32_t n);                   /* 0 .. n-1 */
uint32_t rng_between(rng *r, uint32_t from, uint32_t to); /* both included */

/* What a view uses of each layer; 0 and 0 where it skips the layer. */
typedef struct widths {
    uint32_t n_layer;
    uint32_t ffn[RANDOM_MAX_LAYER];
    uint32_t heads[RANDOM_MAX_LAYER];
} widths;

typedef struct random_shape {
    const char *name;
    uint32_t n_layer, d_model, d_head, n_head, head_group, d_ff, n_vocab, max_positions;
    uint32_t n_granularity; /* widths d_ff, d_ff / 2, d_ff / 4, ... */
    mfi_norm norm;
    mfi_ffn ffn;
    mfk_activation activation;
    bool tied;
    uint32_t skippable; /* bit l: layer l may be skipped */
} random_shape;

/* "tiny" and the shapes of known models; NULL past the end, and for an unknown name. */
const random_shape *random_shape_at(size_t index);
const random_shape *random_shape_find(const char *name);

typedef struct random_model {
    mfi_config config;
    uint64_t seed;
    uint32_t layer_of[RANDOM_MAX_LAYER];   /* of a slice: which layer of the whole model this one was */
    uint32_t attention_inputs, ffn_inputs; /* of the whole model; they scale the weights of .o and .down */
    mfk_type role_type[MFI_N_ROLE];        /* of the file, where not 0 */
    const widths *poison;                  /* every element that this view does not use reads as NaN; NULL: none does */
} random_model;

/* Everything drawn from the seed: layers, widths, heads, granularities, norm, activation, ... */
mf_status random_model_init(random_model *model, uint64_t seed);
/* The same shape in every layer. */
mf_status random_model_init_shape(random_model *model, const random_shape *shape, uint64_t seed);
/* The model cut down to a view: its own file needs no other widths. */
mf_status random_model_slice(random_model *slice, const random_model *whole, const widths *view);
void random_model_free(random_model *model);

mfi_weights random_model_weights(const random_model *model);
/* Writes the file. */
mf_status random_model_save(const random_model *model, mfk_type type, mfi_storage storage, bool one_shell,
                            const char *path, mf_error *error);

/* The widths of a granularity, and random ones: any that the model offers. */
widths granularity_widths(const mfi_config *config, uint32_t granularity);
widths random_widths(const mfi_config *config, rng *r);
/* The same with the key/value heads and the layers of `base`, so that both can share a cache. */
widths random_widths_same_cache(const mfi_config *config, const widths *base, rng *r);
/* Head counts are multiples of it: n heads of d_head make a multiple of the quantum. */
uint32_t head_step(uint32_t d_head);

#endif
