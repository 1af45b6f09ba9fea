/* train_loss.c - from the last normed rows to the loss, and back: logits exist for one block of rows at a
 * time, and turn into their own gradient where they lie. */
#include "defs.h"
#include "trainer.h"

typedef struct loss_rows {
    const mfi_train_pass *pass;
    size_t first, n_row; /* of the block */
} loss_rows;

static void cross_entropy_rows(void *user, size_t index, float *scratch)
{
    const loss_rows *l = user;
    const mfi_train_pass *pass = l->pass;
    const mfi_train_work *work = pass->work;
    size_t begin = index * MFI_TRAIN_ROWS, end = mfi_min(begin + MFI_TRAIN_ROWS, l->n_row);
    (void)scratch;
    for (size_t r = begin; r < end; r++)
        work->row_loss[l->first + r] =
            pass->vec->cross_entropy(pass->config->n_vocab, work->logits + r * work->logit_stride,
                                     (size_t)pass->target[l->first + r], pass->gradient ? pass->gradient_scale : 0.0f);
}

double mfi_train_loss(mfi_train_pass *pass)
{
    const mfi_train_work *work = pass->work;
    size_t n_row = pass->n_sequence * pass->length, d = pass->config->d_model, vocab = pass->config->n_vocab;
    const float *output = pass->weights + pass->layout->output;

    for (size_t first = 0; first < n_row; first += work->logit_rows) {
        loss_rows l = { pass, first, mfi_min(work->logit_rows, n_row - first) };
        const float *normed = work->final_in + first * d;
        float *logits = work->logits;
        size_t stride = work->logit_stride;
        mfi_train_gemm_run(pass->tasks,
                           &(mfi_train_gemm){ l.n_row, vocab, d, normed, d, 1, output, 1, d, logits, stride, NULL });
        mfi_tasks_run(pass->tasks, (l.n_row + MFI_TRAIN_ROWS - 1) / MFI_TRAIN_ROWS, cross_entropy_rows, &l);
        if (!pass->gradient) continue;
        float *d_output = pass->gradient + pass->layout->output;
        mfi_train_gemm_run(pass->tasks, &(mfi_train_gemm){ l.n_row, d, vocab, logits, stride, 1, output, d, 1,
                                                           work->d_normed + first * d, d, NULL });
        mfi_train_gemm_run(pass->tasks, &(mfi_train_gemm){ vocab, d, l.n_row, logits, 1, stride, normed, d, 1, d_output,
                                                           d, d_output });
    }

    double sum = 0;
    for (size_t r = 0; r < n_row; r++)
        sum += work->row_loss[r];
    return sum;
}
