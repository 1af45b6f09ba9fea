/* bench_peers.h - plugins whose matrix products are measured beside ours: peers/peer.h. */
#ifndef BENCH_PEERS_H
#define BENCH_PEERS_H

#include "cli.h"

enum { BENCH_MAX_PEER = 16 };

typedef struct bench_peer {
    char name[32];
    char option[64];
    bool ceiling; /* of our type: it computes less, and no ratio to it is asked for */
    void *plugin;
    void *(*open)(const char *option, int n_thread, int m, int n, int k, const float *w, int w_row_floats);
    void (*run)(void *peer, const float *a, float *c);
    void (*close)(void *peer);
    const char *(*kernels)(void *peer); /* or NULL */
} bench_peer;

typedef struct bench_peers {
    bench_peer items[BENCH_MAX_PEER];
    size_t count;
} bench_peers;

/* Those that are `wanted`, as NAME=PATH or NAME=PATH:OPTION; where none are, those in the folder peers beside the
 * program that have weights of `type`. They stay loaded, since their libraries' threads may outlast a product. */
mf_status bench_peers_load(bench_peers *peers, const cli_list *wanted, const char *type, mf_error *error);

#endif
