/* tokenizer_spm.c - SentencePiece's tokenizer.model: a protocol buffer of pieces, a trainer's and a normalizer's
 * settings. Unknown fields are passed over, as the format wants it. */
#include <string.h>

#include "defs.h"
#include "status.h"
#include "tokenizer_import.h"
#include "vocab_builder.h"

/* ---- Protocol buffers ---- */

typedef struct message {
    const unsigned char *at, *end;
    bool is_broken;
} message;

typedef enum wire { WIRE_VARINT = 0, WIRE_64 = 1, WIRE_BYTES = 2, WIRE_32 = 5 } wire;

typedef struct field {
    uint64_t number, value; /* value: of a varint, or the bits of a fixed one */
    wire wire;
    const unsigned char *bytes; /* [n] of WIRE_BYTES */
    size_t n;
} field;

static uint64_t read_varint(message *m)
{
    uint64_t value = 0;
    for (unsigned shift = 0; shift < 64 && m->at < m->end; shift += 7) {
        const unsigned char byte = *m->at++;
        value |= (uint64_t)(byte & 127) << shift;
        if (byte < 128) return value;
    }
    m->is_broken = true;
    return 0;
}

static const unsigned char *take(message *m, uint64_t n)
{
    const unsigned char *at = m->at;
    if (m->is_broken || n > (uint64_t)(m->end - m->at)) {
        m->is_broken = true;
        return NULL;
    }
    m->at += n;
    return at;
}

static void take_fixed(message *m, field *f, size_t n)
{
    const unsigned char *at = take(m, n);
    for (size_t i = 0; at && i < n; i++)
        f->value |= (uint64_t)at[i] << (8 * i);
}

/* False at the end, and where the message is broken. */
static bool next_field(message *m, field *f)
{
    if (m->is_broken || m->at == m->end) return false;
    const uint64_t key = read_varint(m);
    *f = (field){ .number = key >> 3, .wire = (wire)(key & 7) };
    switch (f->wire) {
    case WIRE_VARINT:
        f->value = read_varint(m);
        break;
    case WIRE_64:
        take_fixed(m, f, 8);
        break;
    case WIRE_32:
        take_fixed(m, f, 4);
        break;
    case WIRE_BYTES:
        f->n = (size_t)read_varint(m);
        f->bytes = take(m, f->n);
        break;
    default:
        m->is_broken = true;
    }
    return !m->is_broken;
}

static message message_of(const field *f)
{
    return (message){ f->bytes, f->bytes + f->n, false };
}

/* ---- The model ---- */

enum { MODEL_UNIGRAM = 1, MODEL_BPE = 2 };

typedef struct spm {
    uint64_t model_type;
    bool byte_fallback, as_suffix, dummy_prefix, one_space, escapes;
    bool has_charsmap, has_rules, has_denormalizer;
    char normalizer[32]; /* its name, cut short */
    const unsigned char *bos, *eos;
    size_t n_bos, n_eos;
    uint32_t n_piece;
} spm;

static void read_trainer(message m, spm *s, bool *is_broken)
{
    for (field f; next_field(&m, &f);) {
        const bool is_number = f.wire == WIRE_VARINT, is_text = f.wire == WIRE_BYTES;
        if (f.number == 3 && is_number) s->model_type = f.value;
        if (f.number == 24 && is_number) s->as_suffix = f.value != 0;
        if (f.number == 35 && is_number) s->byte_fallback = f.value != 0;
        if (f.number == 46 && is_text) {
            s->bos = f.bytes;
            s->n_bos = f.n;
        }
        if (f.number == 47 && is_text) {
            s->eos = f.bytes;
            s->n_eos = f.n;
        }
    }
    *is_broken = *is_broken || m.is_broken;
}

static void read_normalizer(message m, spm *s, bool *is_broken)
{
    for (field f; next_field(&m, &f);) {
        const bool is_number = f.wire == WIRE_VARINT, is_text = f.wire == WIRE_BYTES;
        if (f.number == 1 && is_text) {
            const size_t n = mfi_min(f.n, sizeof s->normalizer - 1);
            memcpy(s->normalizer, f.bytes, n);
            s->normalizer[n] = '\0';
        }
        if (f.number == 2 && is_text) s->has_charsmap = f.n > 0;
        if (f.number == 3 && is_number) s->dummy_prefix = f.value != 0;
        if (f.number == 4 && is_number) s->one_space = f.value != 0;
        if (f.number == 5 && is_number) s->escapes = f.value != 0;
        if (f.number == 6 && is_text) s->has_rules = f.n > 0;
    }
    *is_broken = *is_broken || m.is_broken;
}

static void read_denormalizer(message m, spm *s, bool *is_broken)
{
    for (field f; next_field(&m, &f);)
        if (f.number == 2 && f.wire == WIRE_BYTES) s->has_denormalizer = f.n > 0;
    *is_broken = *is_broken || m.is_broken;
}

static mfi_source_piece read_piece(message m, bool *is_broken)
{
    mfi_source_piece piece = { .type = MFI_PIECE_NORMAL };
    for (field f; next_field(&m, &f);) {
        if (f.number == 1 && f.wire == WIRE_BYTES) {
            piece.text = (const char *)f.bytes;
            piece.bytes = f.n;
        } else if (f.number == 2 && f.wire == WIRE_32) {
            const uint32_t bits = (uint32_t)f.value;
            memcpy(&piece.score, &bits, sizeof bits);
        } else if (f.number == 3 && f.wire == WIRE_VARINT) {
            piece.type = f.value > MFI_PIECE_BYTE ? UINT32_MAX : (uint32_t)f.value;
        }
    }
    *is_broken = *is_broken || m.is_broken;
    return piece;
}

/* Reads the pieces where there is room for them, and counts them. */
static mf_status read_model(const char *name, const void *model, size_t bytes, spm *s, mfi_source_piece *pieces,
                            mf_error *error)
{
    static const unsigned char bos[] = "<s>", eos[] = "</s>";
    *s = (spm){ .model_type = MODEL_UNIGRAM,
                .dummy_prefix = true,
                .one_space = true,
                .escapes = true,
                .bos = bos,
                .eos = eos,
                .n_bos = 3,
                .n_eos = 4 };
    message m = { model, (const unsigned char *)model + bytes, false };
    bool is_broken = false;
    for (field f; next_field(&m, &f);) {
        if (f.wire != WIRE_BYTES) continue;
        if (f.number == 1 && s->n_piece < MFI_MAX_VOCAB + 1) {
            if (pieces) pieces[s->n_piece] = read_piece(message_of(&f), &is_broken);
            s->n_piece++;
        }
        if (f.number == 2) read_trainer(message_of(&f), s, &is_broken);
        if (f.number == 3) read_normalizer(message_of(&f), s, &is_broken);
        if (f.number == 5) read_denormalizer(message_of(&f), s, &is_broken);
    }
    if (m.is_broken || is_broken) return mfi_fail(error, MF_E_FORMAT, "%s: a broken protocol buffer", name);
    if (s->n_piece == 0) return mfi_fail(error, MF_E_FORMAT, "%s: no pieces: not a SentencePiece model", name);
    if (s->n_piece > MFI_MAX_VOCAB)
        return mfi_fail(error, MF_E_UNSUPPORTED, "%s: more than %u pieces", name, MFI_MAX_VOCAB);
    return MF_OK;
}

static mf_status check_model(const char *name, const spm *s, mf_error *error)
{
    if (s->model_type != MODEL_UNIGRAM && s->model_type != MODEL_BPE)
        return mfi_fail(error, MF_E_UNSUPPORTED,
                        "%s: SentencePiece model of type %llu; known are 1, Unigram, and 2, BPE", name,
                        (unsigned long long)s->model_type);
    if (s->has_charsmap || s->has_rules)
        return mfi_fail(error, MF_E_UNSUPPORTED, "%s: the normalizer \"%s\" changes characters; known is identity",
                        name, s->normalizer);
    if (s->has_denormalizer) return mfi_fail(error, MF_E_UNSUPPORTED, "%s: a denormalizer is not known", name);
    if (s->as_suffix || !s->escapes)
        return mfi_fail(error, MF_E_UNSUPPORTED, "%s: %s is not known", name,
                        s->as_suffix ? "treat_whitespace_as_suffix" : "escape_whitespaces of false");
    return MF_OK;
}

static void set_flags(mfi_vocab_builder *b, const spm *s)
{
    mfi_vocab *v = &b->vocab;
    v->flags = MFI_VOCAB_FUSE_UNKNOWN;
    if (s->dummy_prefix) v->flags |= MFI_VOCAB_PREFIX;
    if (s->one_space) v->flags |= MFI_VOCAB_ONE_SPACE;
    if (s->dummy_prefix || s->one_space) v->flags |= MFI_VOCAB_DROP_SPACE;
    v->bos = mfi_builder_find(b, (const char *)s->bos, s->n_bos);
    v->eos = mfi_builder_find(b, (const char *)s->eos, s->n_eos);
    if (v->bos >= 0) v->flags |= MFI_VOCAB_ADD_BOS;
    for (uint32_t i = 0; !s->byte_fallback && i < MFI_BYTE_TOKENS; i++)
        b->byte_tokens[i] = MFI_NO_TOKEN;
}

mf_status mfi_build_spm(mfi_vocab_builder *b, const mf_allocator *allocator, const char *name, const void *model,
                        size_t model_bytes, mf_error *error)
{
    spm s;
    memset(b, 0, sizeof *b);
    b->allocator = *allocator;
    mf_status status = read_model(name, model, model_bytes, &s, NULL, error);
    if (status == MF_OK) status = check_model(name, &s, error);
    if (status != MF_OK) return status;
    const uint32_t n_piece = s.n_piece;
    mfi_source_piece *pieces = mfi_alloc_array(allocator, n_piece, sizeof *pieces);
    if (!pieces) return mfi_fail(error, MF_E_NOMEM, "%s: no memory for %u pieces", name, n_piece);
    status = read_model(name, model, model_bytes, &s, pieces, error);
    if (status == MF_OK)
        status = mfi_builder_pieces(b, allocator, name, s.model_type == MODEL_BPE ? MFI_CHARACTER_BPE : MFI_UNIGRAM,
                                    pieces, n_piece, error);
    mfi_free(allocator, pieces, n_piece * sizeof *pieces);
    if (status == MF_OK) set_flags(b, &s);
    return status;
}

mf_status mfi_tokenizer_from_spm(void **blob, size_t *bytes, const mf_allocator *allocator, const char *name,
                                 const void *model, size_t model_bytes, mf_error *error)
{
    mfi_vocab_builder b;
    *blob = NULL;
    mf_status status = mfi_build_spm(&b, allocator, name, model, model_bytes, error);
    if (status == MF_OK) status = mfi_builder_store(&b, blob, bytes);
    mfi_builder_free(&b);
    return status;
}
