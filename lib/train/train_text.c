/* train_text.c - the tokenizer, for callers that have no model yet. */
#include "bpe_train.h"
#include "status.h"
#include "tokenizer.h"
#include "trainer.h"

mf_status mf_train_tokenizer(mf_train_blob *out, const char *text, size_t text_bytes, uint32_t n_vocab, mf_error *error)
{
    if (!out) return mfi_fail(error, MF_E_INVALID, "mf_train_tokenizer: out is NULL");
    *out = (mf_train_blob){ NULL, 0 };
    if (!text && text_bytes > 0) return mfi_fail(error, MF_E_INVALID, "mf_train_tokenizer: text is NULL");
    mf_allocator allocator = mfi_allocator(NULL);
    mfi_bpe_options options = { .n_vocab = n_vocab, .end_of_text = 1 };
    return mfi_bpe_train(&out->data, &out->bytes, &allocator, &(mfi_text){ text, text_bytes }, 1, &options, error);
}

void mf_train_blob_free(mf_train_blob *blob)
{
    if (!blob || !blob->data) return;
    mf_allocator allocator = mfi_allocator(NULL);
    mfi_free(&allocator, blob->data, blob->bytes);
    *blob = (mf_train_blob){ NULL, 0 };
}

mf_status mf_train_tokenize(const void *tokenizer, size_t tokenizer_bytes, const char *text, size_t text_bytes,
                            int32_t *tokens, size_t capacity, size_t *n_token, int32_t *eos, mf_error *error)
{
    if (!tokenizer || (!text && text_bytes > 0) || (!tokens && capacity > 0) || !n_token)
        return mfi_fail(error, MF_E_INVALID, "mf_train_tokenize: tokenizer, text, tokens or n_token is NULL");
    mf_allocator allocator = mfi_allocator(NULL);
    mfi_tokenizer *loaded = NULL;
    mf_status status = mfi_tokenizer_load(&loaded, &allocator, tokenizer, tokenizer_bytes, error);
    if (status != MF_OK) return status;
    status = mfi_tokenizer_encode(loaded, text, text_bytes, 0, tokens, capacity, n_token);
    if (eos) *eos = mfi_tokenizer_eos(loaded);
    mfi_tokenizer_free(loaded);
    if (status == MF_OK) return MF_OK;
    return mfi_fail(error, status, "%zu tokens of room for %zu bytes of text: %s", capacity, text_bytes,
                    mf_status_text(status));
}
