#!/usr/bin/env python3
"""Writes tokenizers/: small tokenizers of every kind that can be imported, and what their own packages make of texts.

They are learned here, from ../data/story.txt and generated text. `tokenizers` encodes and decodes for the .json files,
`sentencepiece` for the .model files. test_tokenizer_import.c generates the same lines, and compares hashes.

    pip install tokenizers==0.23.* sentencepiece==0.2.*
    python3 make_tokenizers_golden.py

expected.bin: for each of NAMES, N_LINE times (u32 hash of the tokens, u32 hash of the text that they decode to).
"""
import io
import json
import struct
from pathlib import Path

import sentencepiece
import tokenizers
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

HERE = Path(__file__).parent
OUT = HERE / "tokenizers"
N_LINE = 10000
MASK = (1 << 64) - 1
LLAMA3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
          r"|\s*[\r\n]+|\s+(?!\S)|\s+")

# ---- Lines; tokenizer_lines.h has the same in C ----

RANGES = [
    (0x20, 95), (0xA0, 96), (0x100, 128), (0x180, 208), (0x370, 144), (0x400, 256), (0x5D0, 27), (0x620, 64), (0x900,
        128),
    (0xE01, 58), (0x1100, 256), (0x1E00, 256), (0x1F00, 256), (0x2000, 112), (0x2070, 44), (0x2100, 140), (0x2150, 60),
    (0x2200, 256), (0x2460, 160), (0x2580, 32), (0x3000, 64), (0x3041, 86), (0x30A0, 96), (0x4E00, 1000), (0xAC00,
    1000),
    (0xF900, 256), (0xFB00, 80), (0xFF00, 240), (0x1D15E, 8), (0x1D400, 100), (0x1F300, 256), (0x1F600, 80),
    (0x1F1E6, 26), (0x20000, 200), (0xE0020, 96), (0xFFF0, 16), (0xE000, 100), (0x10FFF0, 14),
]
MARKS = [(0x300, 112), (0x483, 5), (0x591, 45), (0x64B, 21), (0x93C, 20), (0xE31, 10), (0x1161, 21), (0x11A8, 27),
         (0x20D0, 33), (0x3099, 2), (0x1D165, 9), (0xFE00, 16)]
STRINGS = [
    "'s", "'t", "'re", "'ve", "'m", "'ll", "'d", "'S", "'T", "'RE", "'Ve", "'M", "'lL", "'D", "'\u017f", "''s", "'x",
    "<s>", "</s>", "<unk>", "<bos>", "<0x41>", "<0x0A>", "\u2581", "\u2581\u2581", "\u2581the", "<start_of_turn>",
    "<end_of_turn>",
    "<|endoftext|>", "<|padding|>", "<|begin_of_text|>", "<|eot_id|>", "<|start_header_id|>", "<b>", "</b>", "<b",
    "<user>",
    "\r\n", "\r", "\n\n", " \n", "\n ", "\t", "\t\t", "\v", "\f", "\u00a0", "\u3000", "\u2028", "\u0085", "\u200b",
    "\u200d",
    "e\u0301", "\u0041\u030a", "\u1100\u1161\u11a8", "\uac00\u11a8", "\u212b", "\u0958", "q\u0307\u0323",
    "\u1e9b\u0323",
    "\U0001f469\u200d\U0001f469\u200d\U0001f467", "\U0001f1e9\U0001f1ea", "\u2764\ufe0f", "1234567", "3.14159",
    "\u0663\u0664\u0665",
    "\u00bd", "\u2167", "\u65e5\u672c\u8a9e", "...", "!?", "#$%^&*()", "----------", "aaaaaaaaaaaaaaaaaaaa",
    "ababababab", "def f(x):",
    "    return x", "\ufeff", "\ufffd", "\u0000", "don't", "DON'T", "it's I'll we've",
]


class Random:
    def __init__(self, seed):
        self.state = seed

    def below(self, n):
        self.state = (self.state + 0x9E3779B97F4A7C15) & MASK
        x = self.state
        x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & MASK
        x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & MASK
        return ((x ^ (x >> 31)) >> 16) % n


def from_ranges(rng, ranges, most):
    first, count = ranges[rng.below(len(ranges))]
    return "".join(chr(first + rng.below(count)) for _ in range(1 + rng.below(most)))


def part(rng, words):
    kind = rng.below(16)
    if kind < 4:
        return " " + words[rng.below(len(words))]
    if kind == 4:
        return words[rng.below(len(words))]
    if kind == 5:
        return " " * (1 + (rng.below(40) if rng.below(4) == 0 else rng.below(4)))
    if kind == 6:
        return "\n" * (1 + rng.below(5))
    if kind < 9:
        return STRINGS[rng.below(len(STRINGS))]
    if kind < 12:
        return from_ranges(rng, RANGES, 6)
    if kind == 12:
        return chr(rng.below(32))
    if kind == 13:
        return from_ranges(rng, MARKS, 5)
    if kind == 14:
        return chr(0x10000 + rng.below(0xD00))
    return from_ranges(rng, RANGES[:1], 12)


def line(index, words):
    rng = Random(index)
    return "".join(part(rng, words) for _ in range(1 + rng.below(12)))


# ---- Tokenizers ----

def added(content, special=False, normalized=False):
    return AddedToken(content, special=special, normalized=normalized)


def neox(texts):
    t = Tokenizer(models.BPE())
    t.normalizer = normalizers.NFC()
    t.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    t.decoder = decoders.ByteLevel()
    t.post_processor = processors.ByteLevel(trim_offsets=True)
    trainer = trainers.BpeTrainer(vocab_size=900, special_tokens=["<|endoftext|>", "<|padding|>"], show_progress=False,
                                  initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    t.train_from_iterator(texts, trainer)
    t.add_tokens([added(" " * n, normalized=True) for n in range(24, 1, -1)])
    return t


def llama3(texts):
    t = Tokenizer(models.BPE(ignore_merges=True))
    t.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(LLAMA3), behavior="isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    t.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=900, show_progress=False,
                                  initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    t.train_from_iterator(texts, trainer)
    state = json.loads(t.to_str())
    # Tokens that merges alone do not reach.
    for text in ["\u0120Drossbach", "\u0120ringing", "aaaaaaaaaaaaaaaaaaaa",
        "\u00e6\u0139\u00a5\u00e6\u013e\u00ac\u00e8\u00aa\u0140"]:
        state["model"]["vocab"].setdefault(text, len(state["model"]["vocab"]))
    t = Tokenizer.from_str(json.dumps(state))
    t.add_special_tokens(["<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>",
        "<|eot_id|>"])
    bos = t.token_to_id("<|begin_of_text|>")
    t.post_processor = processors.Sequence([
        processors.ByteLevel(trim_offsets=False),
        processors.TemplateProcessing(single="<|begin_of_text|> $A", special_tokens=[("<|begin_of_text|>", bos)])])
    return t


def spm(texts, coverage=0.98, **options):
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(texts[:1] * 8 + texts[1:]), model_writer=model, normalization_rule_name="identity",
            character_coverage=coverage,
        max_sentence_length=100000, num_threads=1, minloglevel=2, **options)
    return model.getvalue()


def gemma_model(texts):
    symbols = ["<start_of_turn>", "<end_of_turn>", *["\u2581" * n for n in range(2, 32)], *["\n" * n for n in range(1,
        5)],
               "<b>", "</b>", "<user>"]
    return spm(texts, model_type="bpe", vocab_size=1300, byte_fallback=True, user_defined_symbols=symbols,
               add_dummy_prefix=False, remove_extra_whitespaces=False, split_digits=True, pad_id=0, eos_id=1, bos_id=2,
               unk_id=3, bos_piece="<bos>", eos_piece="<eos>", pad_piece="<pad>")


def pieces_of(model):
    """[(piece, score, type name)]"""
    p = sentencepiece.SentencePieceProcessor(model_proto=model)
    kinds = [("unknown", p.is_unknown), ("control", p.is_control), ("byte", p.is_byte)]
    return [(p.id_to_piece(i), p.get_score(i), next((name for name, is_it in kinds if is_it(i)), "normal"))
            for i in range(p.vocab_size())]


def from_pieces(model, normalizer, pre_tokenizer, strips, user_defined):
    """As the converters of checkpoints do it: a merge for each way to make a piece out of two."""
    pieces = pieces_of(model)
    vocab = {piece: i for i, (piece, _, _) in enumerate(pieces)}
    merges = []
    for piece, score, kind in pieces:
        local = [(piece[:at], piece[at:]) for at in range(1, len(piece)) if piece[:at] in vocab and piece[at:] in vocab]
        merges += [(score, vocab[a], vocab[b], a, b) for a, b in local if kind == "normal"]
    merges = [(a, b) for _, _, _, a, b in sorted(merges, key=lambda m: (-m[0], m[1], m[2]))]
    t = Tokenizer(models.BPE(vocab=vocab, merges=merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    if normalizer:
        t.normalizer = normalizer
    if pre_tokenizer:
        t.pre_tokenizer = pre_tokenizer
    parts = [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()]
    t.decoder = decoders.Sequence(parts + ([decoders.Strip(" ", 1, 0)] if strips else []))
    t.add_special_tokens([added(piece, special=True) for piece, _, kind in pieces if kind in ("unknown", "control")])
    t.add_special_tokens([added(p, special=True) for p in ("<start_of_turn>", "<end_of_turn>") if p in vocab])
    t.add_tokens([added(piece) for piece in user_defined])
    bos = "<bos>" if "<bos>" in vocab else "<s>"
    t.post_processor = processors.TemplateProcessing(single=f"{bos} $A", special_tokens=[(bos, vocab[bos])])
    return t


def all_tokenizers(texts):
    replace = normalizers.Replace(" ", "\u2581")
    gemma = gemma_model(texts)
    llama2 = spm(texts, model_type="bpe", vocab_size=1300, byte_fallback=True, remove_extra_whitespaces=False)
    split = pre_tokenizers.Split(" ", "merged_with_previous")
    unigram = spm(texts, model_type="unigram", vocab_size=1000, byte_fallback=True, user_defined_symbols=["<b>",
        "<user>", "\u2581\u2581"])
    unknown = spm(texts[:1], coverage=1.0, model_type="unigram", vocab_size=300, remove_extra_whitespaces=False)
    unknown_bpe = spm(texts[:1], coverage=1.0, model_type="bpe", vocab_size=300)
    runs = ["\u2581" * n for n in range(2, 32)] + ["\n" * n for n in range(1, 5)] + ["<b>", "</b>"]
    return {
        "neox.json": neox(texts),
        "llama3.json": llama3(texts),
        "gemma.json": from_pieces(gemma, replace, split, False, runs),
        "llama2.json": from_pieces(llama2, normalizers.Sequence([normalizers.Prepend("\u2581"), replace]), None, True,
            []),
        "llama2_first.json": from_pieces(llama2, None, pre_tokenizers.Metaspace("\u2581", "first", False), True, []),
        "gemma.model": gemma,
        "llama2.model": llama2,
        "unigram.model": unigram,
        "unigram_unknown.model": unknown,
        "bpe_unknown.model": unknown_bpe,
    }


# ---- Expectations ----

def fnv(data):
    h = 0x811C9DC5
    for byte in data:
        h = ((h ^ byte) * 0x01000193) & 0xFFFFFFFF
    return h


def hugging_face(t):
    def run(index, text):
        t.encode_special_tokens = index % 2 == 0
        ids = t.encode(text, add_special_tokens=index % 3 == 0).ids
        return ids, t.decode(ids, skip_special_tokens=True)
    return run


def sentence_piece(model):
    # Names of turns are control pieces to us, though the model says user-defined (type 4, not 3).
    for name in (b"<start_of_turn>", b"<end_of_turn>"):
        at = model.find(name)
        if at >= 0:
            model = model[:at] + model[at:].replace(b"\x18\x04", b"\x18\x03", 1)
    p = sentencepiece.SentencePieceProcessor(model_proto=model)
    # Our decoder has nothing for an unknown character, theirs " \u2047 "; they read pieces, and bytes beside them.
    def run(index, text):
        ids = p.encode(text)
        return ids, p.decode([i for i in ids if not p.is_unknown(i)])
    return run


def main():
    story = (HERE / "../data/story.txt").read_text()
    words = story.split()
    texts = [story] + [line(i, words) for i in range(100000, 100300)]
    clean = [text.replace("\0", "") for text in texts]
    OUT.mkdir(exist_ok=True)
    lines = [line(i, words) for i in range(N_LINE)]
    out = b""
    for name, tokenizer in all_tokenizers(clean).items():
        if name.endswith(".json"):
            (OUT / name).write_text(json.dumps(json.loads(tokenizer.to_str()), ensure_ascii=False, separators=(",",
                ":")))
            run = hugging_face(Tokenizer.from_file(str(OUT / name)))
        else:
            (OUT / name).write_bytes(tokenizer)
            run = sentence_piece(tokenizer)
        for index, text in enumerate(lines):
            ids, back = run(index, text)
            out += struct.pack("<II", fnv(struct.pack(f"<{len(ids)}I", *ids)), fnv(back.encode()))
    (OUT / "expected.bin").write_bytes(out)


if __name__ == "__main__":
    main()
