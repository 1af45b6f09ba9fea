/* Learning a tokenizer from text. */
#define _POSIX_C_SOURCE 200809L
#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

#include "bpe_train.h"
#include "counting_allocator.h"
#include "tokenizer_fixture.h"

typedef struct learned {
    void *blob;
    size_t count;
} learned;

static mf_status learn(learned *out, const mf_allocator *allocator, const char *text, size_t count,
                       const mfi_bpe_options *options, mf_error *error)
{
    mfi_text texts[] = { { text, count } };
    return mfi_bpe_train(&out->blob, &out->count, allocator, texts, 1, options, error);
}

Test(learning, the_story_gives_the_merges_of_the_hugging_face_package)
{
    golden g = open_golden();
    byte_string story = read_whole(STORY);
    mf_allocator allocator = mfi_allocator(NULL);
    mfi_bpe_options options = { .n_vocab = 900, .end_of_text = 1 };
    learned l;
    cr_assert_eq(learn(&l, &allocator, (const char *)story.data, story.count, &options, NULL), MF_OK);
    cr_assert_eq(l.count, g.blob.count);
    cr_assert(memcmp(l.blob, g.blob.data, l.count) == 0);
    mfi_free(&allocator, l.blob, l.count);
    free(story.data);
    free(g.file.data);
}

Test(learning, overlapping_pairs_merge_from_the_left_and_single_pairs_not_at_all)
{
    /* (a,a) is seen four times in each run and leaves (aa)(aa)a; of (aa)(aa) and (aa)a the latter has the lower
     * right token. "xyz" is there once. */
    static const char text[] = "aaaaa,aaaaa;xyz";
    mf_allocator allocator = mfi_allocator(NULL);
    mfi_bpe_options options = { .n_vocab = 300 };
    learned l;
    cr_assert_eq(learn(&l, &allocator, text, strlen(text), &options, NULL), MF_OK);
    mfi_tokenizer *t = load(l.blob, l.count);
    cr_assert_eq(mfi_tokenizer_vocab(t), 259);
    cr_assert_eq(mfi_tokenizer_eos(t), -1);
    static const size_t lengths[] = { 2, 3, 5 };
    for (int32_t i = 0; i < 3; i++) {
        size_t count;
        cr_assert(memcmp(mfi_tokenizer_token(t, 256 + i, &count), "aaaaa", lengths[i]) == 0);
        cr_assert_eq(count, lengths[i]);
    }
    mfi_tokenizer_free(t);
    mfi_free(&allocator, l.blob, l.count);
}

Test(learning, a_text_without_pairs_gives_the_bytes_alone)
{
    mf_allocator allocator = mfi_allocator(NULL);
    mfi_bpe_options options = { .n_vocab = 2048, .end_of_text = 1 };
    learned l;
    mfi_text texts[] = { { NULL, 0 }, { "a", 1 }, { "b", 1 }, { "a", 1 }, { "b", 1 } };
    cr_assert_eq(mfi_bpe_train(&l.blob, &l.count, &allocator, texts, 5, &options, NULL), MF_OK);
    mfi_tokenizer *t = load(l.blob, l.count);
    cr_assert_eq(mfi_tokenizer_vocab(t), 257);
    mfi_tokenizer_free(t);
    mfi_free(&allocator, l.blob, l.count);
}

Test(learning, impossible_vocabularies_are_refused)
{
    static const struct {
        uint32_t n_vocab;
        int end_of_text;
        mf_status status;
    } wishes[] = { { 0, 0, MF_E_INVALID },   { 255, 0, MF_E_INVALID },
                   { 256, 1, MF_E_INVALID }, { (1u << 20) + 1, 0, MF_E_INVALID },
                   { 256, 0, MF_OK },        { 257, 1, MF_OK } };
    mf_allocator allocator = mfi_allocator(NULL);
    for (size_t i = 0; i < sizeof wishes / sizeof wishes[0]; i++) {
        mfi_bpe_options options = { .n_vocab = wishes[i].n_vocab, .end_of_text = wishes[i].end_of_text };
        learned l;
        cr_assert_eq(learn(&l, &allocator, "one two one two", 15, &options, NULL), wishes[i].status, "wish %zu", i);
        cr_assert_eq(l.blob != NULL, wishes[i].status == MF_OK);
        mfi_free(&allocator, l.blob, l.count);
    }
}

static int cancel_after(void *user, uint64_t done, uint64_t total)
{
    uint32_t *left = user;
    cr_assert_leq(done, total);
    return (*left)-- == 0;
}

Test(learning, progress_can_cancel_at_any_call_and_nothing_leaks)
{
    byte_string story = read_whole(STORY);
    for (uint32_t calls = 0; calls < 40; calls += 13) {
        counting count = { .mutex = PTHREAD_MUTEX_INITIALIZER };
        mf_allocator allocator = counting_allocator(&count);
        uint32_t left = calls;
        mfi_bpe_options options = { .n_vocab = 400, .progress = cancel_after, .progress_user = &left };
        learned l;
        cr_assert_eq(learn(&l, &allocator, (const char *)story.data, story.count, &options, NULL), MF_E_CANCELLED);
        cr_assert_null(l.blob);
        cr_assert_eq(count.live_bytes, 0);
    }
    free(story.data);
}

Test(learning, every_failing_allocation_is_clean)
{
    byte_string story = read_whole(STORY);
    mfi_bpe_options options = { .n_vocab = 320, .end_of_text = 1 };
    mf_status status = MF_E_NOMEM;
    for (size_t fail_at = 1; status != MF_OK; fail_at++) {
        counting count = { .fail_at = fail_at, .mutex = PTHREAD_MUTEX_INITIALIZER };
        mf_allocator allocator = counting_allocator(&count);
        learned l;
        status = learn(&l, &allocator, (const char *)story.data, story.count, &options, NULL);
        cr_assert_eq(status, count.n_alloc < fail_at ? MF_OK : MF_E_NOMEM);
        mfi_free(&allocator, l.blob, l.count);
        cr_assert_eq(count.live_bytes, 0);
    }
    free(story.data);
}
