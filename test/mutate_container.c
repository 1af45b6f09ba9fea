/* mutate_container.c - seeded damage to .mf files, each opened as it is and with its checksums recomputed.
 *
 *     mutate_container [COUNT [SEED]]      2000 mutations, from seed 1
 *
 * A failure prints the mutation's number, which reproduces it: mutate_container 1 NUMBER. */
#define _GNU_SOURCE
#include <signal.h>

#include "family_fixture.h"
#include "hostile.h"
#include "matlm_fixture.h"
#include "plan_fixture.h"

enum { N_MATLM = 4, N_FILE = N_MATLM + 2 };

typedef struct file {
    unsigned char *data, *work; /* both exactly `bytes` long */
    size_t bytes;
} file;

static unsigned long long current; /* for the handler below */

static void tell(int number)
{
    char line[64];
    int length = snprintf(line, sizeof line, "in mutation %llu\n", current);
    if (write(STDERR_FILENO, line, (size_t)length) < 0) _exit(2);
    signal(number, SIG_DFL);
    raise(number);
}

/* A decoder with biases and ALiBi, and a ViT. */
static void make_family(file *to, bool vit)
{
    static const random_shape shape = { "small",      2,    32, 16, 4, 2, 64, 19, 64, 2, MFI_NORM_LAYER, MFI_FFN_PLAIN,
                                        MFK_GELU_ERF, true, 1 };
    random_model model;
    if (random_model_init_shape(&model, &shape, 1) != MF_OK) hostile_stop("a model cannot be made");
    mfi_config *c = &model.config;
    c->family = vit ? MFI_FAMILY_VIT : MFI_FAMILY_OLMO;
    c->rope_theta = 0;
    c->attention_bias = c->ffn_bias = true;
    c->alibi_max = vit ? 0 : 8;
    if (vit) c->vit = (mfi_vit){ .image_size = 12, .patch_size = 4, .n_channel = 3, .n_class = 7, .pooler = true };
    model_file bytes = family_file(&model, MFK_F32), work = family_file(&model, MFK_F32);
    *to = (file){ bytes.data, work.data, bytes.bytes };
    random_model_free(&model);
    if (hostile_try(to->data, to->bytes, MF_LOAD_MAP) != 3) hostile_stop("a family's file does not open");
}

static void add_plan(const fixture_variant *v, const mf_allocator *allocator, const char *path)
{
    mfi_config config;
    if (fixture_config(&config, v->plain, v->tied, allocator) != MF_OK ||
        plan_fixture_store(path, &config, 5, "a machine", NULL) != MF_OK)
        hostile_stop("a plan cannot be stored");
    mfi_config_free(&config, allocator);
}

static void make_files(file files[N_FILE])
{
    mf_allocator allocator = mfi_allocator(NULL);
    for (int i = N_MATLM; i < N_FILE; i++)
        make_family(&files[i], i != N_MATLM);
    for (int i = 0; i < N_MATLM; i++) {
        fixture_variant v = { i & 1, i != 0, i == 3, i & 2 ? MFK_F32 : MFK_BF16, i < 2 ? MFI_ZSTD : MFI_RAW };
        char *path = fixture_path();
        if (fixture_save(&v, &allocator, path, NULL) != MF_OK) hostile_stop("a fixture cannot be saved");
        if (i % 2 == 0) add_plan(&v, &allocator, path);
        files[i].data = fixture_read(path, &files[i].bytes);
        if (hostile_try(files[i].data, files[i].bytes, MF_LOAD_MAP) != 3) hostile_stop("a fixture does not open");
        files[i].work = fixture_read(path, &files[i].bytes);
        fixture_remove(path);
    }
}

/* One mutation. A shorter file moves to a block of exactly its length, so that sanitizers see what reads
 * beyond. */
static int mutate_once(const file *from, uint64_t number)
{
    unsigned char *work = from->work;
    uint64_t state = number;
    mf_load load = hostile_random(&state) % 2 ? MF_LOAD_COPY : MF_LOAD_MAP;
    memcpy(work, from->data, from->bytes);
    size_t bytes = hostile_mutate(&state, work, from->bytes);
    if (bytes == from->bytes) return hostile_try(work, bytes, load);
    unsigned char *shorter = NULL;
    if (posix_memalign((void **)&shorter, 64, bytes + !bytes) != 0) abort();
    memcpy(shorter, work, bytes);
    int opened = hostile_try(shorter, bytes, load);
    free(shorter);
    return opened;
}

int main(int argc, char **argv)
{
    unsigned long long count = argc > 1 ? strtoull(argv[1], NULL, 10) : 2000;
    unsigned long long seed = argc > 2 ? strtoull(argv[2], NULL, 10) : 1;
    unsigned long long opened = 0, opened_fixed = 0;
    file files[N_FILE];
    signal(SIGABRT, tell);
    make_files(files);
    for (current = seed; current < seed + count; current++) {
        int result = mutate_once(&files[current % N_FILE], current);
        opened += (result & 1) != 0;
        opened_fixed += (result & 2) != 0;
    }
    printf("%llu mutations: %llu opened as they were, %llu with checksums recomputed\n", count, opened, opened_fixed);
    for (int i = 0; i < N_FILE; i++) {
        free(files[i].data);
        free(files[i].work);
    }
    return 0;
}
