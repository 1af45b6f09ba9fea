/* train_batch.c - which tokens a step sees: a function of the seed and the sequence's number alone.
 *
 * The text is cut into windows. An epoch visits each once, in an order of its own: a Feistel network over
 * the smallest power of four that holds all window numbers is a permutation, and walking along it until it
 * lands inside keeps it one. No shuffled list is stored, so nothing has to be saved for resuming. */
#include <xxhash.h>

#include "defs.h"
#include "status.h"
#include "trainer.h"

int32_t mfi_train_token(const mf_train_tokens *tokens, size_t index)
{
    if (tokens->token_bytes == 2) return ((const uint16_t *)tokens->tokens)[index];
    return ((const int32_t *)tokens->tokens)[index];
}

mf_status mfi_train_tokens_check(const mf_train_tokens *tokens, uint32_t n_vocab, mf_error *error)
{
    if (!tokens->tokens || (tokens->token_bytes != 2 && tokens->token_bytes != 4))
        return mfi_fail(error, MF_E_INVALID, "tokens are given as uint16_t or int32_t: token_bytes must be 2 or 4");
    for (size_t i = 0; i < tokens->n_token; i++) {
        int32_t token = mfi_train_token(tokens, i);
        if (token < 0 || (uint32_t)token >= n_vocab)
            return mfi_fail(error, MF_E_RANGE, "token %d at %zu is outside the vocabulary of %u", (int)token, i,
                            n_vocab);
    }
    return MF_OK;
}

uint64_t mfi_train_tokens_hash(const mf_train_tokens *tokens)
{
    return XXH64(tokens->tokens, tokens->n_token * tokens->token_bytes, tokens->token_bytes);
}

static uint64_t permute(uint64_t seed, uint64_t epoch, uint64_t index, uint64_t n)
{
    unsigned half = 1;
    while ((uint64_t)1 << (2 * half) < n)
        half++;
    uint64_t mask = ((uint64_t)1 << half) - 1;
    do {
        uint64_t left = index >> half, right = index & mask;
        for (uint64_t round = 0; round < 4; round++) {
            uint64_t mixed = left ^ (mfi_random(seed, MFI_STREAM_ORDER + (epoch << 8), (round << 32) | right) & mask);
            left = right;
            right = mixed;
        }
        index = left << half | right;
    } while (index >= n);
    return index;
}

size_t mfi_train_window(uint64_t seed, uint64_t sequence_number, size_t n_token, size_t length)
{
    uint64_t n_window = n_token / length > 1 ? n_token / length - 1 : 1; /* room for the offset */
    uint64_t epoch = sequence_number / n_window, index = sequence_number % n_window;
    uint64_t room = mfi_min(length, n_token - n_window * length);
    uint64_t offset = mfi_random(seed, MFI_STREAM_OFFSET, epoch) % room;
    return (size_t)(offset + permute(seed, epoch, index, n_window) * length);
}

void mfi_train_batch(const mf_train_tokens *tokens, uint64_t seed, uint64_t first_sequence, size_t n_sequence,
                     size_t length, int32_t *input, int32_t *target)
{
    for (size_t s = 0; s < n_sequence; s++) {
        size_t at = mfi_train_window(seed, first_sequence + s, tokens->n_token, length);
        for (size_t t = 0; t < length; t++) {
            input[s * length + t] = mfi_train_token(tokens, at + t);
            target[s * length + t] = mfi_train_token(tokens, at + t + 1);
        }
    }
}
