/* bench_peers.c - loading plugins. Theirs is the address space of the program: they are for developers. */
#include <dlfcn.h>
#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "bench_peers.h"

/* What the build makes, where it finds the library. */
static const struct {
    const char *type, *name, *file, *option;
    bool ceiling;
} known[] = {
    { "f32", "BLIS", "peer_cblas.so", "blis", false }, { "f32", "OpenBLAS", "peer_cblas.so", "openblas", false },
    { "f32", "oneDNN", "peer_dnnl.so", "f32", false }, { "bf16", "oneDNN", "peer_dnnl.so", "bf16", false },
    { "q8", "oneDNN s8", "peer_dnnl.so", "s8", true }, { "q4", "oneDNN s8", "peer_dnnl.so", "s8", true },
};

static mf_status fail_plugin(mf_error *error, const char *path, const char *why)
{
    snprintf(error->detail, sizeof(error->detail),
             "%s: %s. A --peer is NAME=PATH[:OPTION], PATH a plugin with peer_open, peer_run and peer_close "
             "(tools/peers/peer.h)",
             path, why);
    return error->status = MF_E_INVALID;
}

/* dlerror() begins with the path, or with another file's that the plugin needs. */
static const char *loader_says(const char *path)
{
    const char *text = dlerror();
    const size_t n = strlen(path);
    if (!text) return "cannot be loaded";
    return strncmp(text, path, n) == 0 && strncmp(text + n, ": ", 2) == 0 ? text + n + 2 : text;
}

/* A function pointer out of an object pointer, which ISO C does not convert. */
static void load_symbol(const bench_peer *p, const char *name, void *function)
{
    void *symbol = dlsym(p->plugin, name);
    memcpy(function, &symbol, sizeof(symbol));
}

static mf_status load(bench_peer *p, const char *path, mf_error *error)
{
    char full[PATH_MAX];
    if (!realpath(path, full)) return fail_plugin(error, path, strerror(errno));
    p->plugin = dlopen(full, RTLD_NOW | RTLD_LOCAL);
    if (!p->plugin) return fail_plugin(error, path, loader_says(full));
    load_symbol(p, "peer_open", &p->open);
    load_symbol(p, "peer_run", &p->run);
    load_symbol(p, "peer_close", &p->close);
    load_symbol(p, "peer_kernels", &p->kernels);
    return p->open && p->run && p->close ? MF_OK : fail_plugin(error, path, "is no plugin");
}

/* NAME=PATH[:OPTION]; a path with a colon needs the colon of an option, too. */
static mf_status load_wanted(bench_peers *peers, const char *text, mf_error *error)
{
    bench_peer *p = &peers->items[peers->count];
    char path[PATH_MAX];
    const char *equals = text + strcspn(text, "=|"), *colon = strrchr(text, ':'); /* '|' divides a table's headings */
    if (*equals != '=' || equals == text) return fail_plugin(error, text, "has no name");
    if (!colon || colon < equals) colon = text + strlen(text);
    if ((size_t)(equals - text) >= sizeof(p->name)) return fail_plugin(error, text, "has a name of over 31 bytes");
    snprintf(p->name, sizeof(p->name), "%.*s", (int)(equals - text), text);
    for (size_t i = 0; i < peers->count; i++)
        if (strcmp(peers->items[i].name, p->name) == 0) return fail_plugin(error, text, "has the name of another");
    snprintf(path, sizeof(path), "%.*s", (int)(colon - equals - 1), equals + 1);
    snprintf(p->option, sizeof(p->option), "%s", *colon ? colon + 1 : "");
    peers->count++;
    return load(p, path, error);
}

/* An installed program has no such folder, and a build without a library no plugin for it. */
static mf_status load_known(bench_peers *peers, const char *type, mf_error *error)
{
    char program[PATH_MAX], path[PATH_MAX];
    const ssize_t n = readlink("/proc/self/exe", program, sizeof(program) - 1);
    if (n <= 0) return MF_OK;
    program[n] = '\0';
    *strrchr(program, '/') = '\0';
    mf_status status = MF_OK;
    for (size_t i = 0; i < CLI_COUNT(known) && status == MF_OK; i++) {
        const int length = snprintf(path, sizeof(path), "%s/peers/%s", program, known[i].file);
        if (strcmp(known[i].type, type) != 0 || length >= (int)sizeof(path) || access(path, F_OK) != 0) continue;
        bench_peer *p = &peers->items[peers->count++];
        snprintf(p->name, sizeof(p->name), "%s", known[i].name);
        snprintf(p->option, sizeof(p->option), "%s", known[i].option);
        p->ceiling = known[i].ceiling;
        status = load(p, path, error);
    }
    return status;
}

mf_status bench_peers_load(bench_peers *peers, const cli_list *wanted, const char *type, mf_error *error)
{
    mf_status status = MF_OK;
    *peers = (bench_peers){ 0 };
    if (wanted->count == 0) return load_known(peers, type, error);
    if (wanted->count > BENCH_MAX_PEER) {
        snprintf(error->detail, sizeof(error->detail), "%d peers at most", BENCH_MAX_PEER);
        return error->status = MF_E_INVALID;
    }
    for (size_t i = 0; i < wanted->count && status == MF_OK; i++)
        status = load_wanted(peers, wanted->items[i], error);
    return status;
}
