#!/usr/bin/env python3
"""Writes source_blocks.bin: random blocks of every type that is imported, and what they decode to.

Written from the formulas in docs/import.md, element by element in double precision and rounded to f32 once;
test_source_blocks.c compares. Every product is exact in doubles, so one rounding is what f32 has to give too.

    python3 make_block_golden.py

source_blocks.bin, little-endian: u32 number of types; per type: u32 mfi_source_type, u32 blocks, u32 bytes of a block,
u32 elements of a block; the blocks; f32 [blocks * elements]
"""
import struct
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
BLOCKS = 6


def f16(block, at):
    return float(np.frombuffer(bytes(block[at : at + 2]), "<f2")[0])


def low(byte):
    return int(byte) % 16


def high(byte):
    return int(byte) // 16


def bit(word, j):
    return (word >> j) & 1


def i8(byte):
    return int(byte) - 256 * (byte >= 128)


def nibble(block, at, j):
    return low(block[at + j]) if j < 16 else high(block[at + j - 16])


def q4_0(b, j):
    return f16(b, 0) * (nibble(b, 2, j) - 8)


def q4_1(b, j):
    return f16(b, 0) * nibble(b, 4, j) + f16(b, 2)


def five(b, word_at, at, j):
    word = int.from_bytes(bytes(b[word_at : word_at + 4]), "little")
    return nibble(b, at, j) + 16 * bit(word, j)


def q5_0(b, j):
    return f16(b, 0) * (five(b, 2, 6, j) - 16)


def q5_1(b, j):
    return f16(b, 0) * five(b, 4, 8, j) + f16(b, 2)


def q8_0(b, j):
    return f16(b, 0) * i8(b[2 + j])


def six_bits(b, s):
    """Scale and minimum of sub-block s, from the 12 bytes at 4."""
    packed = [int(v) for v in b[4:16]]
    if s < 4:
        return packed[s] % 64, packed[s + 4] % 64
    return packed[s + 4] % 16 + 16 * (packed[s - 4] // 64), packed[s + 4] // 16 + 16 * (packed[s] // 64)


def k_value(b, e, nibbles_at, fifth_at):
    s, l = divmod(e, 32)
    byte = b[nibbles_at + 32 * (s // 2) + l]
    q = high(byte) if s % 2 else low(byte)
    if fifth_at is not None:
        q += 16 * bit(int(b[fifth_at + l]), s)
    scale, minimum = six_bits(b, s)
    return f16(b, 0) * scale * q - f16(b, 2) * minimum


def q4_k(b, e):
    return k_value(b, e, 16, None)


def q5_k(b, e):
    return k_value(b, e, 48, 16)


def q6_k(b, e):
    n, rest = divmod(e, 128)
    k, l = divmod(rest, 32)
    byte = b[64 * n + 32 * (k & 1) + l]
    nib = low(byte) if k < 2 else high(byte)
    q = nib + 16 * ((int(b[128 + 32 * n + l]) >> 2 * k) & 3) - 32
    return f16(b, 208) * i8(b[192 + 8 * n + 2 * k + l // 16]) * q


def number(dtype):
    return lambda b, e: float(np.frombuffer(bytes(b), dtype)[0])


def bf16(b, e):
    return float(np.frombuffer(bytes([0, 0, b[0], b[1]]), "<f4")[0])


# mfi_source_type, bytes, elements, where scales in f16 lie, value
TYPES = [
    (0, 4, 1, [], number("<f4")),
    (1, 2, 1, [], number("<f2")),
    (2, 2, 1, [], bf16),
    (3, 8, 1, [], number("<f8")),
    (4, 34, 32, [0], q8_0),
    (5, 18, 32, [0], q4_0),
    (6, 20, 32, [0, 2], q4_1),
    (7, 22, 32, [0], q5_0),
    (8, 24, 32, [0, 2], q5_1),
    (9, 144, 256, [0, 2], q4_k),
    (10, 176, 256, [0, 2], q5_k),
    (11, 210, 256, [208], q6_k),
]


def random_block(rng, size, scales):
    """Any bytes, but scales that are numbers, now and then a subnormal or the largest one."""
    block = rng.integers(0, 256, size, dtype=np.uint8)
    for at in scales:
        scale = rng.choice([rng.normal() * 0.02, rng.normal(), rng.normal() * 2.0**-20, 65504.0])
        block[at : at + 2] = np.frombuffer(np.float16(scale).tobytes(), np.uint8)
    if not scales:  # a number by itself: of any size that f32 has
        value = rng.normal() * 2.0 ** rng.integers(-20, 14)
        if size == 2:
            block[:] = np.frombuffer(np.float16(value).tobytes(), np.uint8)
        else:
            block[:] = np.frombuffer(np.array(value, f"<f{size}").tobytes(), np.uint8)
    return block


def main():
    rng = np.random.default_rng(20)
    out = struct.pack("<I", len(TYPES))
    for kind, size, elements, scales, value in TYPES:
        count = BLOCKS if elements > 1 else 64
        blocks = [random_block(rng, size, scales) for _ in range(count)]
        values = np.array([value(b, e) for b in blocks for e in range(elements)])
        out += struct.pack("<4I", kind, count, size, elements)
        out += b"".join(b.tobytes() for b in blocks) + values.astype("<f4").tobytes()
    (HERE / "source_blocks.bin").write_bytes(out)


if __name__ == "__main__":
    main()
