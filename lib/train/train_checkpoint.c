/* train_checkpoint.c - everything that the next step depends on, in one file.
 *
 *     magic "MFTRAIN1"                                       8 bytes
 *     what the run is made of: (name in 24 bytes, value u64) each, see describe()
 *     step, floats per array, XXH64 of all bytes before this field      3 x u64
 *     weights, m, v                                          3 arrays of f32
 *     XXH64 of m and v, seeded with XXH64 of weights         u64
 *
 * All little-endian, as are the processors that this library trains on. The batches are a function of seed
 * and step, so there is no stream to save. */
#define _POSIX_C_SOURCE 200809L
#include <fcntl.h>
#include <inttypes.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

#include "defs.h"
#include "platform.h"
#include "status.h"
#include "trainer.h"

#define MAGIC "MFTRAIN1"
#define MAX_FIELDS 64u

typedef struct field {
    char name[24];
    uint64_t value;
} field;

typedef struct header {
    char magic[8];
    field fields[MAX_FIELDS]; /* unused ones are zero */
    uint64_t step, n_float, hash;
} header;

typedef struct fields {
    field *list;
    size_t count;
} fields;

static void put(fields *f, const char *name, uint64_t value)
{
    field *slot = &f->list[f->count++];
    memcpy(slot->name, name, strlen(name) + 1);
    slot->value = value;
}

static void put_real(fields *f, const char *name, double value)
{
    uint64_t bits;
    memcpy(&bits, &value, sizeof(bits));
    put(f, name, bits);
}

static uint64_t granularities_hash(const mfi_config *c)
{
    uint64_t hash = c->n_granularity;
    for (uint32_t g = 0; g < c->n_granularity; g++) {
        hash = XXH64(c->granularity[g].ffn, c->n_layer * sizeof(uint32_t), hash);
        hash = XXH64(c->granularity[g].heads, c->n_layer * sizeof(uint32_t), hash);
    }
    return hash;
}

/* All that the result depends on, under the names that a user knows. */
static void describe(const mf_trainer *t, field *list)
{
    const mfi_config *c = &t->config;
    const mf_trainer_options *o = &t->options;
    fields f = { list, 0 };
    put(&f, "n_layer", c->n_layer);
    put(&f, "d_model", c->d_model);
    put(&f, "n_head", c->n_head);
    put(&f, "head_group", c->head_group);
    put(&f, "d_head", c->d_head);
    put(&f, "d_ff", c->d_ff);
    put(&f, "n_vocab", c->n_vocab);
    put(&f, "norm", c->norm);
    put_real(&f, "norm_eps", (double)c->norm_eps);
    put(&f, "ffn", c->ffn);
    put(&f, "activation", c->activation);
    put_real(&f, "rope_theta", c->rope_theta);
    put_real(&f, "embed_scale", (double)c->embed_scale);
    put_real(&f, "attention_scale", (double)c->attention_scale);
    put(&f, "tied output", c->tied);
    put(&f, "n_granularity", c->n_granularity);
    put(&f, "granularities", granularities_hash(c));
    put(&f, "objective", (uint64_t)o->objective);
    put(&f, "granularity", o->objective == MF_OBJECTIVE_SINGLE ? o->granularity : 0);
    if (o->objective == MF_OBJECTIVE_SAMPLED)
        put(&f, "probability", XXH64(t->probability, c->n_granularity * sizeof(double), 0));
    put(&f, "seed", o->seed);
    put(&f, "batch", o->batch);
    put(&f, "sequence", o->sequence);
    put(&f, "n_micro", o->n_micro);
    put(&f, "n_step", o->n_step);
    put(&f, "warmup", o->warmup);
    put_real(&f, "learning_rate", o->learning_rate);
    put_real(&f, "floor_ratio", o->floor_ratio);
    put_real(&f, "beta1", o->beta1);
    put_real(&f, "beta2", o->beta2);
    put_real(&f, "adam_eps", o->adam_eps);
    put_real(&f, "weight_decay", o->weight_decay);
    put_real(&f, "clip", o->clip);
    put_real(&f, "init_std", o->init_std);
    put(&f, "number of tokens", o->tokens.n_token);
    put(&f, "tokens", t->data_hash);
}

uint64_t mfi_train_run_hash(const mf_trainer *trainer)
{
    field list[MAX_FIELDS];
    memset(list, 0, sizeof(list));
    describe(trainer, list);
    return XXH64(list, sizeof(list), 0);
}

static void fill_header(const mf_trainer *t, header *h)
{
    memset(h, 0, sizeof(*h));
    memcpy(h->magic, MAGIC, sizeof(h->magic));
    describe(t, h->fields);
    h->step = t->step;
    h->n_float = t->layout.n_float;
    h->hash = XXH64(h, offsetof(header, hash), 0);
}

/* weights, and m with v behind it; the gradient between them is not kept. */
static uint64_t hash_arrays(const float *weights, const float *moments, size_t n_float)
{
    return XXH64(moments, 2 * n_float * sizeof(float), XXH64(weights, n_float * sizeof(float), 0));
}

mf_status mf_trainer_save(mf_trainer *trainer, const char *path, mf_error *error)
{
    if (!trainer || !path) return mfi_fail(error, MF_E_INVALID, "trainer or path is NULL");
    size_t array_bytes = trainer->layout.n_float * sizeof(float);
    uint64_t hash = hash_arrays(trainer->weights, trainer->m, trainer->layout.n_float);
    header h;
    fill_header(trainer, &h);
    mfi_new_file file;
    mf_status status = mfi_new_file_open(&file, path, error);
    if (status != MF_OK) return status;
    status = mfi_new_file_write(&file, &h, sizeof(h), error);
    if (status == MF_OK) status = mfi_new_file_write(&file, trainer->weights, array_bytes, error);
    if (status == MF_OK) status = mfi_new_file_write(&file, trainer->m, 2 * array_bytes, error);
    if (status == MF_OK) status = mfi_new_file_write(&file, &hash, sizeof(hash), error);
    if (status == MF_OK) status = mfi_new_file_commit(&file, error);
    if (status != MF_OK) mfi_new_file_abort(&file);
    return status;
}

static mf_status check_header(const mf_trainer *t, const header *h, uint64_t file_bytes, const char *path,
                              mf_error *error)
{
    header expected;
    fill_header(t, &expected);
    if (memcmp(h->magic, MAGIC, sizeof(h->magic)) != 0)
        return mfi_fail(error, MF_E_FORMAT, "%s is not a checkpoint of this version", path);
    if (h->hash != XXH64(h, offsetof(header, hash), 0))
        return mfi_fail(error, MF_E_CHECKSUM, "%s: the header is damaged", path);
    for (size_t i = 0; i < MAX_FIELDS; i++)
        if (memcmp(&h->fields[i], &expected.fields[i], sizeof(field)) != 0)
            return mfi_fail(error, MF_E_INVALID, "%s was made by another run: %s differs", path,
                            expected.fields[i].name[0] ? expected.fields[i].name : "the list of options");
    if (h->n_float != expected.n_float || file_bytes != sizeof(*h) + 3 * h->n_float * sizeof(float) + sizeof(uint64_t))
        return mfi_fail(error, MF_E_FORMAT, "%s has %" PRIu64 " bytes, which is not its length", path, file_bytes);
    return MF_OK;
}

/* Reads the arrays behind the header into `fresh` and checks them. */
static mf_status read_arrays(int fd, float *fresh, size_t n_float, const char *path, mf_error *error)
{
    size_t bytes = 3 * n_float * sizeof(float);
    uint64_t hash;
    mf_status status = mfi_read_at(fd, fresh, bytes, sizeof(header), path, error);
    if (status == MF_OK) status = mfi_read_at(fd, &hash, sizeof(hash), sizeof(header) + bytes, path, error);
    if (status == MF_OK && hash != hash_arrays(fresh, fresh + n_float, n_float))
        status = mfi_fail(error, MF_E_CHECKSUM, "%s: the weights do not match their checksum", path);
    return status;
}

static mf_status load(mf_trainer *t, int fd, const char *path, mf_error *error)
{
    header h;
    struct stat info;
    if (fstat(fd, &info) != 0 || info.st_size < (off_t)sizeof(h))
        return mfi_fail(error, MF_E_FORMAT, "%s is too short for a checkpoint", path);
    mf_status status = mfi_read_at(fd, &h, sizeof(h), 0, path, error);
    if (status == MF_OK) status = check_header(t, &h, (uint64_t)info.st_size, path, error);
    if (status != MF_OK) return status;

    size_t n_float = t->layout.n_float, bytes = 3 * n_float * sizeof(float);
    float *fresh = mfi_alloc(&t->allocator, bytes);
    if (!fresh) return mfi_fail(error, MF_E_NOMEM, "no memory to read %s", path);
    status = read_arrays(fd, fresh, n_float, path, error);
    if (status == MF_OK) {
        memcpy(t->weights, fresh, n_float * sizeof(float));
        memcpy(t->m, fresh + n_float, 2 * n_float * sizeof(float));
        t->step = h.step;
    }
    mfi_free(&t->allocator, fresh, bytes);
    return status;
}

mf_status mf_trainer_load(mf_trainer *trainer, const char *path, mf_error *error)
{
    if (!trainer || !path) return mfi_fail(error, MF_E_INVALID, "trainer or path is NULL");
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return mfi_fail(error, MF_E_NOT_FOUND, "%s: can't be opened", path);
    mf_status status = load(trainer, fd, path, error);
    close(fd);
    return status;
}
