/* peer.h - what a plugin has for `matformer bench kernels`, which measures another library's matrix product
 * beside ours:
 *
 *     C[m][n] = A[m][k] * W[n][k]^T
 *
 * All are row major and f32; rows of A are k apart, those of C n, those of W w_row_floats. W is a prefix of a larger
 * matrix, of its rows or of its columns, and stays what and where it is until peer_close(). What a library does to it
 * once, packing or quantizing, belongs into peer_open() and is not timed; whatever it does to A is. */
#ifndef PEER_H
#define PEER_H

/* A product on n_thread threads. `option` follows the plugin's path on the command line and may be "". NULL: the
 * library is not here, or cannot do it. */
void *peer_open(const char *option, int n_thread, int m, int n, int k, const float *w, int w_row_floats);
void peer_run(void *peer, const float *a, float *c);
void peer_close(void *peer);
/* A plugin may leave it out: the name of the kernels that the library took, which lives as long as `peer`. */
const char *peer_kernels(void *peer);

#endif
