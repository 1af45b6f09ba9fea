#!/usr/bin/env python3
"""Writes tokenizer.bin: what the Hugging Face `tokenizers` package makes of the same merges.

That package learns the merges from ../data/story.txt and encodes texts with them; test_tokenizer.c compares.
Each byte b is handed to it as the character U+0100 + b, so that any bytes can be expressed and its numbering
of single characters is the order of the bytes.

    pip install tokenizers==0.23.*
    python3 make_tokenizer_golden.py

tokenizer.bin, all numbers u32 little-endian:
    bytes of the blob, the blob; number of cases; per case: bytes, text, tokens, [tokens] token
"""
import json
import random
import struct
from pathlib import Path

from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers

HERE = Path(__file__).parent
N_VOCAB = 900
END_OF_TEXT = 1


def as_characters(data):
    return "".join(chr(0x100 + b) for b in data)


def character_class(members):
    return "".join("\\x{%x}" % (0x100 + b) for b in members)


WHITE = [9, 10, 11, 12, 13, 32]
LETTER = [b for b in range(256) if b >= 128 or chr(b).isalpha()]
DIGIT = [b for b in range(256) if b < 128 and chr(b).isdigit()]
MARK = [b for b in range(256) if b not in WHITE + LETTER + DIGIT]
SPACE = "\\x{120}"
CUT = "|".join(
    [f"{SPACE}?[{character_class(members)}]+" for members in (LETTER, DIGIT, MARK)]
    + [f"[{character_class(WHITE)}]+(?={SPACE}[^{character_class(WHITE)}])", f"[{character_class(WHITE)}]+"]
)


def train(text):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(CUT), behavior="isolated")
    trainer = trainers.BpeTrainer(
        vocab_size=N_VOCAB - 1,
        min_frequency=2,
        show_progress=False,
        initial_alphabet=[chr(0x100 + b) for b in range(256)],
    )
    tokenizer.train_from_iterator([as_characters(text)], trainer)
    return tokenizer


def merges_of(tokenizer):
    state = json.loads(tokenizer.to_str())["model"]
    vocab = state["vocab"]
    assert all(vocab[chr(0x100 + b)] == b for b in range(256))
    merges = []
    for i, (left, right) in enumerate(state["merges"]):
        assert vocab[left + right] == 256 + i, "the test wants merges without two ways to one token"
        merges.append((vocab[left], vocab[right]))
    return merges


def blob_of(merges):
    header = struct.pack("<4sIIIIi", b"MFTK", 1, 1, len(merges), END_OF_TEXT, 256 + len(merges))
    return header + b"".join(struct.pack("<II", *merge) for merge in merges)


def cases(story):
    rng = random.Random(7)
    words = story.split()
    yield b""
    yield story
    yield b"Hello, world! It's 1999 -- isn't it?   Yes.\n\n\tIndented  twice \r\n end "
    yield "Zoë aß d’été “naïve” — 日本語のテキスト、Ελληνικά и русский 👩‍👩‍👧 e\u0301\u00a0x".encode()
    yield bytes(range(256))
    yield bytes(range(255, -1, -1))
    yield b"\x00\x00the\x00 the \x01\x7f\x80the\xff\xfe \xc3(\xe2\x82 \xf0\x9f\x98 the"
    yield b" " * 50 + b"x" + b"\n" * 3 + b" " + b"\t \t y" + b" \n"
    yield b"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa bbbb abababababababababa"
    yield b"".join(words)[:6000]
    yield b"the" * 1000
    yield b"-" * 1000 + b" " * 1000 + b"7" * 1000
    for _ in range(20):
        yield bytes(rng.randrange(256) for _ in range(rng.randrange(1, 200)))
    for _ in range(20):
        yield b"".join(rng.choice(words) + rng.choice([b" ", b"  ", b"\n", b"", b" '"]) for _ in range(rng.randrange(40)))


def main():
    story = (HERE / "../data/story.txt").read_bytes()
    tokenizer = train(story)
    blob = blob_of(merges_of(tokenizer))
    out = struct.pack("<I", len(blob)) + blob
    texts = list(cases(story))
    out += struct.pack("<I", len(texts))
    for text in texts:
        ids = tokenizer.encode(as_characters(text)).ids
        assert b"".join(bytes(ord(c) - 0x100 for c in tokenizer.id_to_token(i)) for i in ids) == text
        out += struct.pack("<I", len(text)) + text + struct.pack(f"<I{len(ids)}I", len(ids), *ids)
    (HERE / "tokenizer.bin").write_bytes(out)


if __name__ == "__main__":
    main()
