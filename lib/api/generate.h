/* generate.h - a generation, as generate.c, generation.c and speculate.c share it. */
#ifndef MFI_GENERATE_H
#define MFI_GENERATE_H

#include "draft_length.h"
#include "generate_text.h"
#include "sampler.h"
#include "session.h"

#define MFI_MOST_TOP 64u /* log-probabilities of an event */

/* A token that was chosen, and what a draft thinks comes behind it: what runs as one batch, a row for each. */
typedef struct mfi_round {
    uint32_t position, n_draft;
    int32_t tokens[1 + MFI_MOST_DRAFT];
    uint32_t row; /* that was reported last */
    uint32_t n_accepted;
    bool was_refused; /* the one behind those accepted */
    bool is_full;     /* there was no room for its first token */
    bool is_open;     /* the session may hold more than was reported */
} mfi_round;

typedef struct mfi_gathered mfi_gathered;

struct mf_generation {
    mf_executor *executor;
    mf_session *session;
    mf_sampler *sampler;
    const mf_submodel *submodel;
    mf_model *model;
    mf_generate_options options;
    mf_generate_result result;
    int32_t eos_token;
    const mf_submodel *last_view; /* that ran the last position */

    int32_t *prompt; /* [n_prompt] owned */
    size_t n_prompt, prompt_capacity;
    size_t n_vocab;
    size_t n_row;  /* of logits: 1, and with a draft the most that are verified at once */
    float *logits; /* [n_row][n_vocab] of the rows that ran last */
    mfi_held_text held;
    mf_token_logprob top[MFI_MOST_TOP];

    /* Where it stands. */
    bool has_begun, has_ended;
    mfi_round round;
    mf_token_logprob chosen;      /* the token that is reported next */
    const mf_submodel *chosen_by; /* whose logits it was chosen from */
    mf_token_event event;         /* the last one */

    /* With a draft. */
    mfi_draft_length length;
    const mf_submodel *drafted_for; /* the view that `length` is about */
    float *draft_logits;            /* [n_vocab] */
    double *distributions; /* [MFI_MOST_DRAFT][n_vocab] that the drafted tokens were drawn from; NULL: greedy */

    /* Made for this call, or NULL. */
    mf_executor *own_executor;
    mf_session *own_session;
    mf_sampler *own_sampler;

    mfi_gathered *gathered; /* of mf_generation_next(), or NULL */
};

/* ---- generate.c ---- */

/* Reads the arguments into `g`, which is zeroed but for executor, session and submodel, and makes what is missing. On
 * failure nothing is kept. */
mf_status mfi_generation_prepare(mf_generation *g, const mf_generate_options *options, mf_generate_result *result,
                                 mf_error *error);
/* One token on: g->event, whose text and top are valid until the next step. On failure, and after the last token, it has
 * ended. */
mf_status mfi_generation_step(mf_generation *g, mf_error *error);
/* Ends it where it stands. */
void mfi_generation_leave(mf_generation *g);
void mfi_generation_write_result(const mf_generation *g, mf_generate_result *result);
void mfi_generation_release(mf_generation *g);

/* The model's end of text, or another token that ends an answer, such as the end of a turn. */
bool mfi_generation_is_end(const mf_generation *g, int32_t token);
/* The view of a position, and the position where the next one's turn comes. */
const mf_submodel *mfi_generation_view(const mf_generation *g, uint32_t position, uint32_t *until);

/* ---- speculate.c ---- */

/* That the draft's keys and values can stand where those of every view of the call stand. */
mf_status mfi_speculation_check(const mf_generation *g, mf_error *error);
mf_status mfi_speculation_allocate(mf_generation *g, mf_error *error);
void mfi_speculation_free(mf_generation *g);

/* Behind tokens[0], the token of the session's position, writes what the draft thinks comes next, and to *n_draft how
 * many: none where there is no draft, or it does not pay. The session stays where it is. */
mf_status mfi_speculation_draft(mf_generation *g, int32_t tokens[1 + MFI_MOST_DRAFT], uint32_t *n_draft,
                                mf_error *error);

#endif
