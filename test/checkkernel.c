/* checkkernel.c - lists, checks and times every kernel of kernels.inc at every processor level.
 *
 *     checkkernel [--levels] [--list] [--bench] [--quick] [--kernel NAME] [--level NAME] [--seed N]
 *
 * --levels prints the names of the levels that this processor has, lowest first, and --level takes one of them;
 * --quick takes fewer shapes.
 * Without --bench each kernel is checked at the first level that offers it: its bits against
 * docs/arithmetic.md, on every edge of its tiles, with NaN and unmapped pages where it must not read and
 * canaries where it must not write. Exit status 0 when all passed. */
#include "checkkernel.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

uint32_t check_random(check_run *run)
{
    run->random = run->random * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(run->random >> 32);
}

size_t check_below(check_run *run, size_t n)
{
    return check_random(run) % n;
}

static float unit(check_run *run) /* [-1, 1) */
{
    return (float)((int32_t)check_random(run) >> 8) * 0x1p-23f;
}

void check_fill(check_run *run, check_input input, float *x, size_t n)
{
    static const uint32_t special[] = {
        0x7f800000, 0xff800000,                         /* infinities */
        0x7fc00000, 0x7fffffff, 0xffffffff, 0x7f800001, /* NaN, of which bf16 drops all bits but the upper 16 */
        0x00000000, 0x80000000, 0x00000001, 0x80600000, /* zeros and subnormals */
        0x7f7fffff, 0x7f7f8000, 0x3f808000, 0x3f818000  /* the largest; ties of a bf16 */
    };
    for (size_t i = 0; i < n; i++) {
        float u = unit(run);
        switch (input) {
        case ORDINARY:
        case INPUTS:
            x[i] = u;
            break;
        case TINY:
            x[i] = u * 0x1p-66f;
            break;
        case HUGE_VALUES:
            x[i] = u * 0x1p57f;
            break;
        case SUBNORMAL:
            x[i] = u * 0x1p-125f;
            break;
        case ALTERNATING:
            x[i] = (i % 2 ? -1000.0f : 1000.0f) + u;
            break;
        case SPECIAL:
            x[i] = u * 100.0f;
            if (check_below(run, 4) == 0) memcpy(&x[i], &special[check_below(run, sizeof special / 4)], 4);
            break;
        }
    }
}

guard guard_open(size_t bytes)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    guard g = { NULL, (bytes + page - 1) / page * page };
    void *at = mmap(NULL, g.bytes + page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (at == MAP_FAILED || mprotect((char *)at + g.bytes, page, PROT_NONE) != 0) {
        perror("checkkernel: mmap");
        exit(2);
    }
    g.base = at;
    return g;
}

void *guard_end(const guard *g, size_t bytes)
{
    return g->base + g->bytes - bytes;
}

void *guard_poisoned(const guard *g, size_t bytes)
{
    size_t before = g->bytes - bytes < 4096 ? g->bytes - bytes : 4096;
    memset(g->base + g->bytes - bytes - before, 0xff, bytes + before); /* a NaN in f32 and in bf16 */
    return guard_end(g, bytes);
}

void guard_close(guard *g)
{
    munmap(g->base, g->bytes + (size_t)sysconf(_SC_PAGESIZE));
    g->base = NULL;
}

bool check_true(check_run *run, bool ok, const char *shape)
{
    if (ok)
        run->passed++;
    else if (run->failed++ < 20)
        printf("FAIL %s: %s, seed %llu\n", run->kernel, shape, (unsigned long long)run->seed);
    return ok;
}

bool check_equal(check_run *run, const float *got, const float *want, size_t n, const char *shape)
{
    char text[256];
    for (size_t i = 0; i < n; i++) {
        if (memcmp(&got[i], &want[i], sizeof *got) == 0 || (isnan(got[i]) && isnan(want[i]))) continue;
        snprintf(text, sizeof text, "%s: element %zu is %a, should be %a", shape, i, (double)got[i], (double)want[i]);
        return check_true(run, false, text);
    }
    return check_true(run, true, shape);
}

bool check_near(check_run *run, const float *got, const double *want, size_t n, double scale, double bound,
                const char *shape)
{
    char text[256];
    for (size_t i = 0; i < n; i++) {
        if (fabs((double)got[i] - want[i]) <= bound * scale) continue;
        snprintf(text, sizeof text, "%s: element %zu is %.9g, the f64 reference %.9g", shape, i, (double)got[i],
                 want[i]);
        return check_true(run, false, text);
    }
    return check_true(run, true, shape);
}

mfk_type check_slot_type(const char *slot)
{
    static const struct {
        const char *suffix;
        mfk_type type;
    } types[] = { { "_bf16", MFK_BF16 }, { "_f16", MFK_F16 }, { "_q8", MFK_Q8 }, { "_q4", MFK_Q4 } };
    for (size_t i = 0; i < sizeof types / sizeof *types; i++)
        if (strstr(slot, types[i].suffix)) return types[i].type;
    return MFK_F32;
}

static void check_slot(check_run *run, const char *slot)
{
    if (strncmp(slot, "gemm", 4) == 0)
        check_gemm(run, check_slot_type(slot));
    else if (strncmp(slot, "glu", 3) == 0)
        check_glu(run, check_slot_type(slot));
    else if (strcmp(slot, "quantize") == 0)
        check_quantize(run);
    else if (strcmp(slot, "attend_merge") == 0)
        check_attend_merge(run);
    else if (strcmp(slot, "attend") == 0)
        check_attend(run);
    else if (strstr(slot, "norm"))
        check_norms(run, slot);
    else if (strstr(slot, "store") || strstr(slot, "panel"))
        check_cache_stores(run, slot);
    else
        check_elementwise(run, slot);
}

/* The last kernel of `slot` that `cpu` allows: what mfk_table_init takes. */
static const char *kernel_of(const char *slot, uint64_t cpu)
{
    size_t n;
    const mfk_kernel_info *list = mfk_kernel_list(&n);
    const char *name = NULL;
    for (size_t i = 0; i < n; i++)
        if (strcmp(list[i].slot, slot) == 0 && (list[i].cpu & cpu) == list[i].cpu) name = list[i].name;
    return name;
}

typedef struct options {
    bool levels, list, bench;
    const char *kernel, *level;
} options;

static void run_kernel(check_run *run, const options *o, const char *slot, const char *level)
{
    run->random = run->seed;
    if (o->bench) {
        bench_kernel(run, slot);
        return;
    }
    unsigned passed = run->passed, failed = run->failed;
    check_slot(run, slot);
    printf("%-10s %-34s %6u passed, %u failed\n", level, run->kernel, run->passed - passed, run->failed - failed);
    fflush(stdout);
}

static bool is_first_of_slot(const mfk_kernel_info *list, size_t i)
{
    for (size_t j = 0; j < i; j++)
        if (strcmp(list[j].slot, list[i].slot) == 0) return false;
    return true;
}

/* Every kernel that `cpu` offers and `below` does not. */
static void run_level(check_run *run, const options *o, const char *level, uint64_t cpu, uint64_t below)
{
    size_t n;
    const mfk_kernel_info *list = mfk_kernel_list(&n);
    for (size_t i = 0; i < n; i++) {
        if (!is_first_of_slot(list, i)) continue;
        run->kernel = kernel_of(list[i].slot, cpu);
        if (!run->kernel) continue;
        const char *before = below == UINT64_MAX ? NULL : kernel_of(list[i].slot, below);
        if (before && strcmp(before, run->kernel) == 0) continue;
        if (o->kernel && !strstr(run->kernel, o->kernel)) continue;
        mfk_table_init(&run->table, cpu);
        if (strstr(list[i].slot, "_fast")) mfk_table_take_fast(&run->table);
        if (o->list)
            printf("%-8s %s\n", level, run->kernel);
        else
            run_kernel(run, o, list[i].slot, level);
    }
}

/* False where no level is the one asked for. */
static bool run_levels(check_run *run, const options *o)
{
    bool found = false;
    uint64_t below = UINT64_MAX; /* no level yet */
    const char *level;
    for (size_t i = 0; (level = mfk_cpu_level(i)) != NULL; i++) {
        uint64_t cpu = mfk_cpu_detect();
        mfk_cpu_limit(&cpu, level);
        if (strcmp(mfk_cpu_name(cpu), level) != 0) continue; /* this processor has less */
        if (o->levels)
            printf("%s\n", level);
        else if (!o->level || strcmp(o->level, level) == 0)
            run_level(run, o, level, cpu, below);
        found = found || !o->level || strcmp(o->level, level) == 0;
        below = cpu;
    }
    return found;
}

int main(int argc, char **argv)
{
    check_run run = { .seed = 1 };
    options o = { 0 };
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--levels") == 0)
            o.levels = true;
        else if (strcmp(argv[i], "--list") == 0)
            o.list = true;
        else if (strcmp(argv[i], "--bench") == 0)
            o.bench = true;
        else if (strcmp(argv[i], "--quick") == 0)
            run.quick = true;
        else if (strcmp(argv[i], "--kernel") == 0 && i + 1 < argc)
            o.kernel = argv[++i];
        else if (strcmp(argv[i], "--level") == 0 && i + 1 < argc)
            o.level = argv[++i];
        else if (strcmp(argv[i], "--seed") == 0 && i + 1 < argc)
            run.seed = strtoull(argv[++i], NULL, 0);
        else {
            fprintf(stderr, "usage: checkkernel [--levels] [--list] [--bench] [--quick] [--kernel NAME] [--level NAME] "
                            "[--seed N]\n");
            return 2;
        }
    }
    mfk_table_init(&run.scalar, 0);
    if (!run_levels(&run, &o)) {
        fprintf(stderr, "checkkernel: this processor has no level \"%s\"\n", o.level);
        return 2;
    }
    if (!o.levels && !o.list && !o.bench) {
        run.kernel = "math";
        check_math(&run);
        run.kernel = "pack";
        check_pack(&run);
        check_f16(&run);
        printf("%u passed, %u failed\n", run.passed, run.failed);
    }
    return run.failed != 0;
}
