/* plan.h - what the files of the planner share. Models are run through the public functions of matformer.h alone; plans
 * become bytes by lib/submodel/stored_plan.h. */
#ifndef MFI_PLAN_H
#define MFI_PLAN_H

#include "matformer_tools.h"
#include "stored_plan.h"

/* ---- Options and evaluations ---- */

/* What a view predicts, as means. */
typedef struct mfi_plan_score {
    double loss, kl, agreement, acceptance;
} mfi_plan_score;

/* A view with its numbers: an entry as a file has it, and what only a model says of it. */
typedef struct mfi_planned {
    mfi_file_plan_entry numbers;
    double loss, cost; /* as it was measured, and of the kind that is planned for */
    uint32_t n_shell;
    mfi_view_layer *layer; /* [n_layer], and behind them */
    char *text;            /* the view in text form */
    size_t block_bytes;    /* of both */
} mfi_planned;

struct mf_plan {
    mf_allocator allocator;
    mfi_file_plan head; /* n_entry is not its */
    char machine[MFI_PLAN_TEXT_MAX], calibration[MFI_PLAN_TEXT_MAX];
    mfi_planned *all; /* [n_all] every evaluation, the widest first */
    uint32_t n_all, room;
    uint32_t *entry; /* [n_entry] which of them are the plan's, by falling loss; the widest last */
    uint32_t n_entry;
};

/* ---- plan_model.c: views by layers ---- */

mf_status mfi_plan_view(mf_submodel **out, mf_model *model, const mfi_view_layer *layers, mf_error *error);
void mfi_plan_layers(const mf_submodel *view, mfi_view_layer *layers, uint32_t n_layer);

/* What can be chosen in each layer; the last option is the widest. */
enum { MFI_PLAN_OPTION_MAX = 64 };
typedef struct mfi_plan_space {
    uint32_t n_layer, n_granularity;
    uint32_t n_option[MFI_MAX_LAYER];
    mfi_view_layer option[MFI_MAX_LAYER][MFI_PLAN_OPTION_MAX]; /* by rising width, and for each rising heads */
    uint8_t granularity[MFI_MAX_GRANULARITY][MFI_MAX_LAYER];   /* which option each is in a layer */
} mfi_plan_space;
mf_status mfi_plan_space_make(mfi_plan_space *space, mf_model *model, mf_error *error);

/* ---- plan_score.c ---- */

typedef struct mfi_scorer mfi_scorer;
/* Reads tokens or images, and what the widest view says of them, as mf_plan_options have them (which must stay). */
mf_status mfi_scorer_create(mfi_scorer **out, mf_model *model, const mf_plan_options *options, mf_error *error);
mf_status mfi_scorer_run(mfi_scorer *scorer, const mf_submodel *view, mfi_plan_score *score, mf_error *error);
uint64_t mfi_scorer_predicted(const mfi_scorer *scorer);
uint64_t mfi_scorer_hash(const mfi_scorer *scorer); /* of the tokens or pixels */
void mfi_scorer_free(mfi_scorer *scorer);

/* ---- plan_record.c: the resume file ---- */

typedef struct mfi_record mfi_record;
/* Opens or makes the file; `key` is a line of JSON that says what it belongs to. `path` NULL: a record that is kept in
 * memory alone. */
mf_status mfi_record_open(mfi_record **out, const char *path, const char *key, uint32_t n_layer,
                          const mf_allocator *allocator, mf_error *error);
/* Whether the file has the evaluation of these layers. */
bool mfi_record_find(const mfi_record *record, const mfi_view_layer *layers, mfi_plan_score *score);
/* Appends one, with a single write, and syncs. */
mf_status mfi_record_add(mfi_record *record, const mfi_view_layer *layers, const mfi_plan_score *score,
                         mf_error *error);
void mfi_record_close(mfi_record *record);

/* ---- plan_time.c ---- */

/* The line of decoding time: ms = constant + per_byte bytes + per_layer layers. */
typedef struct mfi_plan_line {
    double constant, per_byte, per_layer;
} mfi_plan_line;
mf_status mfi_plan_fit_line(mfi_plan_line *line, mf_model *model, const mfi_plan_space *space,
                            const mf_plan_options *options, mf_error *error);

/* ---- plan_search.c ---- */

typedef struct mfi_search {
    mf_model *model;
    const mf_plan_options *options; /* filled up */
    const mfi_plan_space *space;
    mfi_scorer *scorer;
    mfi_record *record;
    mf_plan *plan;      /* gets every evaluation */
    mfi_plan_line line; /* for cost MS */
    uint64_t deadline_ns;
    uint64_t random;
    mf_error *error;
} mfi_search;

/* Evaluates by options->method until n_evaluation are done or time is over. */
mf_status mfi_search_run(mfi_search *search);

/* Evaluates a view, if it is none that was evaluated before and neither evaluations nor time are over. *index, which may
 * be NULL, is where it is in plan->all; UINT32_MAX where it is not, or the layers are no view of the model. */
mf_status mfi_search_evaluate(mfi_search *search, const mfi_view_layer *layers, uint32_t *index);
bool mfi_search_over(const mfi_search *search);

/* plan_learn.c: the planner's own way. */
mf_status mfi_search_learn(mfi_search *search);

/* ---- plan.c ---- */

/* The cost of a view. */
double mfi_plan_cost_of(mf_plan_cost kind, const mfi_plan_line *line, const mf_submodel_info *info);
/* One more view with its score; plan->room holds. */
mf_status mfi_plan_add(mf_plan *plan, const mf_submodel *view, const mfi_view_layer *layers,
                       const mfi_plan_score *score, double cost, mf_error *error);

#endif
