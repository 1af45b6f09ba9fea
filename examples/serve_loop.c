/* serve_loop MODEL - the loop of a server, without the network: requests of three tenants arrive, wait, are read
 * piece by piece beside those that already write, and become narrower when there are many.
 *
 * What it shows, and where:
 *   admission       receive(): a full queue refuses at once, which is kinder than an answer that comes too late
 *   deadlines       drop_late(): what nobody waits for any more takes no step
 *   shared prefix   start_waiting(): the system prompt was read once; every session is a fork of its session
 *   one batch       plan_step(): prompts in pieces beside single tokens, every row with its own width, one mf_forward()
 *   width by load   the governor: each session is a member, with its tenant's floor of quality and weight
 *
 * Arrivals follow from a seed, and the clock is simulated, so that every run does the same: a step takes step_overhead,
 * and for each row widest_token times the share of the widest size's multiplications that its view needs. A server has
 * the system's clock in now_ns() (or lets the governor have its own) and waits for requests where this one skips time. */
#include <matformer.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    MAX_RUNG = 16,
    MAX_ACTIVE = 12,  /* sessions in a batch */
    MAX_QUEUE = 16,   /* requests that wait; more are refused */
    PROMPT_ROWS = 12, /* rows of prompts in a step: more would let those who write wait */
    MAX_PROMPT = 128,
    N_TENANT = 3,
    SEED = 7
};
static const double seconds_of_arrivals = 12, target_tokens_per_second = 50, step_overhead = 2e-3,
                    widest_token = 1.5e-3;

static const struct tenant {
    const char *name;
    double floor;  /* of the ladder: 0 any size, 1 the widest alone */
    double weight; /* who keeps width longer */
    double deadline_seconds;
} tenants[N_TENANT] = { { "batch", 0, 1, 6 }, { "chat", 0, 3, 2 }, { "exact", 1, 1, 3 } };

static const char system_prompt[] = "You tell short tales to children, kindly and in plain words.\n";
static const char *const prompts[] = { "Tell me of the fox who could not sleep.", "Why is the sea salt?",
                                       "A story about two brothers and a golden bird, please.", "The old king had" };

typedef struct job { /* one request of a client */
    int tenant;
    double arrival, deadline;
    const char *prompt;
    uint32_t n_wanted; /* tokens to write */
} job;

typedef struct slot { /* a job that has a session */
    job job;
    mf_session *session; /* NULL: free */
    uint32_t member;     /* of the governor */
    const mf_submodel *view;
    int32_t tokens[MAX_PROMPT]; /* the prompt, then tokens[0] alone: the one that was written last */
    size_t n_token, n_read, n_piece;
    uint32_t n_written;
    float *logits; /* [n_vocab] */
} slot;

typedef struct tally {
    uint64_t done, refused, late, tokens;
    double width; /* sum over tokens: weights read, as a share of the widest size's */
} tally;

typedef struct server {
    mf_model *model;
    mf_model_info info;
    mf_executor *executor;
    mf_governor *governor;
    mf_submodel *rungs[MAX_RUNG];
    mf_submodel_info costs[MAX_RUNG];
    uint32_t n_rung;
    mf_session *system;       /* has read the system prompt */
    double now, next_arrival; /* seconds */
    uint64_t random;
    job queue[MAX_QUEUE];
    size_t n_queue, n_active;
    slot slots[MAX_ACTIVE];
    tally tallies[N_TENANT];
    uint64_t n_step, n_mixed, n_row;
} server;

/* ---- Clock and chance ---- */

static uint64_t now_ns(void *user)
{
    return (uint64_t)(((server *)user)->now * 1e9);
}

static double chance(server *s) /* 0 to 1 */
{
    s->random = s->random * 6364136223846793005u + 1442695040888963407u;
    return (double)(s->random >> 11) / 9007199254740992.0;
}

/* ---- Requests come ---- */

static job next_job(server *s)
{
    job j = { .arrival = s->next_arrival };
    const double who = chance(s);
    j.tenant = who < 0.4 ? 0 : who < 0.85 ? 1 : 2;
    j.deadline = j.arrival + tenants[j.tenant].deadline_seconds;
    j.prompt = prompts[(size_t)(chance(s) * 4)];
    j.n_wanted = 16 + (uint32_t)(chance(s) * 32);
    /* Quiet, a rush in the middle third, quiet. */
    const double third = s->next_arrival / seconds_of_arrivals * 3;
    const double per_second = third >= 1 && third < 2 ? 40 : 6;
    s->next_arrival += 2 * chance(s) / per_second;
    return j;
}

static void receive(server *s)
{
    while (s->next_arrival < seconds_of_arrivals && s->next_arrival <= s->now) {
        const job j = next_job(s);
        if (s->n_queue < MAX_QUEUE)
            s->queue[s->n_queue++] = j;
        else
            s->tallies[j.tenant].refused++;
    }
}

/* ---- Sessions begin and end ---- */

static void end_slot(server *s, slot *c)
{
    mf_governor_leave(s->governor, c->member);
    mf_session_close(c->session);
    c->session = NULL;
    s->n_active--;
}

static void drop_late(server *s)
{
    size_t kept = 0;
    for (size_t i = 0; i < s->n_queue; i++)
        if (s->queue[i].deadline > s->now)
            s->queue[kept++] = s->queue[i];
        else
            s->tallies[s->queue[i].tenant].late++;
    s->n_queue = kept;
    for (slot *c = s->slots; c < s->slots + MAX_ACTIVE; c++)
        if (c->session != NULL && c->job.deadline <= s->now) {
            s->tallies[c->job.tenant].late++;
            end_slot(s, c);
        }
}

static mf_status start(server *s, slot *c, const job *j, mf_error *error)
{
    const struct tenant *t = &tenants[j->tenant];
    mf_governor_member member = MF_GOVERNOR_MEMBER_INIT;
    member.narrowest = s->rungs[(uint32_t)(t->floor * (s->n_rung - 1))];
    member.weight = t->weight;
    c->job = *j;
    c->n_read = c->n_written = 0;
    s->n_active++;
    mf_status status = mf_tokenize(s->model, j->prompt, strlen(j->prompt), c->tokens, MAX_PROMPT, &c->n_token);
    if (status == MF_OK) status = mf_session_fork(&c->session, s->system, error);
    if (status == MF_OK) status = mf_governor_join(s->governor, &member, &c->member, error);
    return status;
}

static mf_status start_waiting(server *s, mf_error *error)
{
    mf_status status = MF_OK;
    for (slot *c = s->slots; c < s->slots + MAX_ACTIVE && s->n_queue > 0 && status == MF_OK; c++) {
        if (c->session != NULL) continue;
        status = start(s, c, &s->queue[0], error);
        memmove(s->queue, s->queue + 1, --s->n_queue * sizeof *s->queue);
    }
    return status;
}

/* ---- A step ---- */

/* The next token of those who write, and as much of the prompts as there is room for. Returns how many requests. */
static size_t plan_step(server *s, mf_request *requests, slot **of)
{
    size_t n = 0, prompt_rows = PROMPT_ROWS;
    for (slot *c = s->slots; c < s->slots + MAX_ACTIVE; c++) {
        if (c->session == NULL) continue;
        const size_t left = c->n_token - c->n_read;
        c->n_piece = c->n_written > 0 || left < prompt_rows ? left : prompt_rows;
        if (c->n_piece == 0) continue; /* its prompt has to wait for a step */
        if (c->n_written == 0) prompt_rows -= c->n_piece;
        if (mf_governor_choose(s->governor, c->member, &c->view) != MF_OK) continue;
        requests[n] = (mf_request){ .session = c->session,
                                    .submodel = c->view,
                                    .tokens = c->tokens + c->n_read,
                                    .n_token = c->n_piece,
                                    .logits_of = c->n_piece == left ? MF_LOGITS_LAST : MF_LOGITS_NONE,
                                    .logits = c->n_piece == left ? c->logits : NULL,
                                    .logits_capacity = c->n_piece == left ? s->info.n_vocab : 0 };
        of[n++] = c;
    }
    return n;
}

static uint32_t rung_of(const server *s, const mf_submodel *view)
{
    uint32_t r = 0;
    while (s->rungs[r] != view)
        r++;
    return r;
}

/* What the step would take on the simulated machine. */
static void pass_time(server *s, slot *const *of, size_t n)
{
    double widest = (double)s->costs[s->n_rung - 1].flops_per_token, tokens = 0;
    for (size_t i = 0; i < n; i++)
        tokens += (double)of[i]->n_piece * (double)s->costs[rung_of(s, of[i]->view)].flops_per_token / widest;
    s->now += step_overhead + widest_token * tokens;
}

static int32_t most_likely(const float *logits, uint32_t n)
{
    uint32_t best = 0;
    for (uint32_t i = 1; i < n; i++)
        if (logits[i] > logits[best]) best = i;
    return (int32_t)best;
}

/* After its rows were run: returns 1 if the session got a token. */
static int take_token(server *s, slot *c)
{
    tally *t = &s->tallies[c->job.tenant];
    c->n_read += c->n_piece;
    if (c->n_read < c->n_token) return 0;
    c->tokens[0] = most_likely(c->logits, s->info.n_token);
    c->n_token = 1;
    c->n_read = 0;
    c->n_written++;
    t->tokens++;
    t->width += (double)s->costs[rung_of(s, c->view)].bytes_per_token / (double)s->costs[s->n_rung - 1].bytes_per_token;
    return 1;
}

static void tell_governor(server *s, double began, const uint32_t *members, size_t n_member)
{
    mf_governor_step step = MF_GOVERNOR_STEP_INIT;
    mf_governor_signals signals = MF_GOVERNOR_SIGNALS_INIT;
    step.elapsed_ns = (uint64_t)((s->now - began) * 1e9);
    step.members = members;
    step.n_member = n_member;
    signals.n_queued = (uint32_t)s->n_queue;
    mf_governor_report(s->governor, &step);
    mf_governor_signal(s->governor, &signals);
}

static mf_status step(server *s, mf_error *error)
{
    mf_request requests[MAX_ACTIVE];
    slot *of[MAX_ACTIVE];
    uint32_t members[MAX_ACTIVE];
    size_t n_member = 0;
    int mixed = 0;
    const double began = s->now;
    const size_t n = plan_step(s, requests, of);
    mf_status status = mf_forward(s->executor, requests, n, sizeof *requests, error);
    if (status != MF_OK) return status; /* a real server looks at each request's own status, and ends that one */
    pass_time(s, of, n);
    for (size_t i = 0; i < n; i++) {
        s->n_row += of[i]->n_piece;
        mixed = mixed || of[i]->view != of[0]->view;
        if (take_token(s, of[i])) members[n_member++] = of[i]->member;
    }
    tell_governor(s, began, members, n_member);
    for (size_t i = 0; i < n; i++)
        if (of[i]->n_written == of[i]->job.n_wanted) {
            s->tallies[of[i]->job.tenant].done++;
            end_slot(s, of[i]);
        }
    s->n_step++;
    s->n_mixed += (uint64_t)mixed;
    return MF_OK;
}

static mf_status serve(server *s, mf_error *error)
{
    mf_status status = MF_OK;
    while (status == MF_OK) {
        receive(s);
        drop_late(s);
        status = start_waiting(s, error);
        if (status != MF_OK) break;
        if (s->n_active > 0)
            status = step(s, error);
        else if (s->next_arrival < seconds_of_arrivals)
            s->now = s->next_arrival;
        else
            break;
    }
    return status;
}

/* ---- Beginning and end ---- */

static mf_status open_ladder(server *s, mf_error *error)
{
    mf_status status = MF_OK;
    for (uint32_t i = 0; i < s->info.n_granularity && i < MAX_RUNG && status == MF_OK; i++) {
        s->costs[i] = (mf_submodel_info)MF_SUBMODEL_INFO_INIT;
        status = mf_extract_submodel_text(&s->rungs[i], s->model, mf_model_granularity(s->model, i), error);
        if (status == MF_OK) status = mf_submodel_info_get(s->rungs[i], &s->costs[i]);
        s->n_rung = i + 1;
    }
    return status;
}

static mf_status read_system_prompt(server *s, mf_error *error)
{
    mf_request request = { .logits_of = MF_LOGITS_NONE };
    int32_t tokens[sizeof system_prompt]; /* a token is a byte at least */
    mf_status status =
        mf_tokenize(s->model, system_prompt, sizeof system_prompt - 1, tokens, sizeof system_prompt, &request.n_token);
    if (status == MF_OK) status = mf_session_create(&s->system, s->model, NULL, error);
    request.session = s->system;
    request.submodel = s->rungs[s->n_rung - 1]; /* all read it, so it is worth the widest */
    request.tokens = tokens;
    return status == MF_OK ? mf_forward(s->executor, &request, 1, sizeof request, error) : status;
}

static mf_status open_server(server *s, const char *path, mf_error *error)
{
    mf_status status = mf_model_open(&s->model, path, NULL, error);
    if (status == MF_OK) status = mf_model_info_get(s->model, &s->info);
    if (status == MF_OK) status = mf_executor_create(&s->executor, s->model, NULL, error);
    if (status == MF_OK) status = open_ladder(s, error);
    if (status == MF_OK) status = read_system_prompt(s, error);
    for (slot *c = s->slots; c < s->slots + MAX_ACTIVE && status == MF_OK; c++) {
        c->logits = malloc(s->info.n_vocab * sizeof *c->logits);
        if (c->logits == NULL) status = MF_E_NOMEM;
    }
    mf_governor_options options = MF_GOVERNOR_OPTIONS_INIT;
    options.rungs = (const mf_submodel *const *)s->rungs;
    options.n_rung = s->n_rung;
    options.tokens_per_second = target_tokens_per_second;
    options.queue_full = 2 * MAX_QUEUE;
    options.now_ns = now_ns;
    options.clock_user = s;
    return status == MF_OK ? mf_governor_create(&s->governor, &options, error) : status;
}

static void close_server(server *s)
{
    for (slot *c = s->slots; c < s->slots + MAX_ACTIVE; c++) {
        mf_session_close(c->session);
        free(c->logits);
    }
    mf_governor_close(s->governor);
    mf_session_close(s->system);
    for (uint32_t i = 0; i < s->n_rung; i++)
        mf_submodel_close(s->rungs[i]);
    mf_executor_close(s->executor);
    mf_model_close(s->model);
}

static void print_report(const server *s)
{
    uint64_t tokens = 0;
    mf_governor_info info = MF_GOVERNOR_INFO_INIT;
    mf_governor_info_get(s->governor, &info);
    printf("tenant   done  refused  late  tokens  mean width\n");
    for (int i = 0; i < N_TENANT; i++) {
        const tally *t = &s->tallies[i];
        printf("%-6s %6llu %8llu %5llu %7llu %9.0f %%\n", tenants[i].name, (unsigned long long)t->done,
               (unsigned long long)t->refused, (unsigned long long)t->late, (unsigned long long)t->tokens,
               t->tokens > 0 ? 100 * t->width / (double)t->tokens : 0);
        tokens += t->tokens;
    }
    printf("%.0f tokens/s in %.1f s; %llu steps of %.1f rows, %.0f %% of them of several widths; narrowed %llu times, "
           "widened %llu times\n",
           (double)tokens / s->now, s->now, (unsigned long long)s->n_step,
           (double)s->n_row / (double)(s->n_step ? s->n_step : 1),
           100 * (double)s->n_mixed / (double)(s->n_step ? s->n_step : 1), (unsigned long long)info.n_narrowed,
           (unsigned long long)info.n_widened);
}

int main(int argc, char **argv)
{
    static server s = { .random = SEED };
    mf_error error = MF_ERROR_INIT;
    s.info = (mf_model_info)MF_MODEL_INFO_INIT;
    if (argc != 2) {
        fprintf(stderr, "usage: %s MODEL\n", argv[0]);
        return 2;
    }
    mf_status status = open_server(&s, argv[1], &error);
    if (status == MF_OK) status = serve(&s, &error);
    if (status == MF_OK)
        print_report(&s);
    else
        fprintf(stderr, "%s\n", error.detail[0] ? error.detail : mf_status_text(status));
    close_server(&s);
    return status != MF_OK;
}
