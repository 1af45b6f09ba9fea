#!/usr/bin/env python3
"""Which codes for weights of 4 and 8 bits? Quantises random matrices and a model by many codes, ours and those of other
projects' files, and writes what each loses to DOCS/quantization.json and DOCS/quantization.md.

  python3 scripts/quantization.py --program build/tools/matformer --model models/tales.mf \\
      --text test/data/story.txt --text HELD_OUT_BOOK --calibrate TRAINING_BOOK --docs docs

The model runs here, in NumPy and f32, from the formulas of lib/model/model_config.h; with --program, its loss is first
held against `matformer eval`. The weights of the file, as they are, are the reference:

  KL      mean over tokens of KL(p || q), nats: p with the file's weights, q with the quantised ones
  loss    what the mean loss grows by
  error   sqrt(sum (w - w')^2 / sum w^2) of each matrix, then the root of its mean square over all weights

A model is one draw of the rounding errors. Any order of d_model, and of the hidden units inside a shell, is the same
model, but other weights share a block: --orders N measures N orders, the file's first, and the page has the mean
and the standard deviation.

--design makes the constant tables anew and prints them. Needs numpy, xxhash and zstandard.
"""
import argparse
import dataclasses
import json
import os
import pathlib
import re
import struct
import subprocess
import sys
import time

import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "tools"))
import read_mf  # noqa: E402

BLOCK = 32
CHUNK = 2048  # blocks worked on at a time, so that they stay in a cache
TINY = np.float32(1e-30)

# ---- Tables of 16 integers ----


class Table:
    """Ascending integers within -127 ... 127. Halfway between two of them is a multiple of 1/2: floor(2 t) decides which
    is the nearest to t, the upper one of two. Tables that are still being fitted may be `fineness` times finer."""

    def __init__(self, values, fineness=1):
        self.values, self.fineness = np.array(values, np.float32), fineness
        self.reach = np.float32(np.abs(self.values).max())
        cells = (np.arange(-256 * fineness, 256 * fineness) + 0.5) / (2 * fineness)
        self.index_of_cell = np.searchsorted((self.values[1:] + self.values[:-1]) / 2, cells).astype(np.uint8)
        self.value_of_cell = self.values[self.index_of_cell]
        # A negative scale mirrors the table. That is another code only where it is not its own mirror image.
        self.signed = not np.array_equal(self.values, -self.values[::-1])

    def cells(self, t):
        end = 256 * self.fineness
        return np.clip(np.floor(t * np.float32(2 * self.fineness)), -end, end - 1).astype(np.int16) + np.int16(end)

    def nearest(self, t):
        return self.value_of_cell[self.cells(t)]

    def indices(self, t):
        return self.index_of_cell[self.cells(t)]


LINEAR = Table(range(-8, 8))
SYMMETRIC = Table(range(-15, 16, 2))
# By --design, for blocks of 32 whose scales are searched: with a sign, and without.
MIRRORED = Table([-127, -100, -79, -61, -46, -33, -21, -10, 0, 9, 19, 30, 42, 56, 73, 95])
EVEN = Table([-127, -97, -76, -58, -43, -29, -17, -6, 6, 17, 29, 43, 58, 76, 97, 127])

# ---- Scales: how they are coded, [rows][blocks of a row] f32 to what is read back ----


def bits_f16(scales, _signed=True):
    return scales.astype(np.float16).astype(np.float32)


def bits_row(scales, signed):
    """8 bits under an f32 per row: -127 ... 127 where the sign is of use, else 0 ... 255."""
    unit = np.abs(scales).max(1, keepdims=True) / np.float32(127 if signed else 255)
    return np.rint(scales / np.maximum(unit, TINY)) * unit


def bits_float8(scales, _signed):
    """Sign, 3 bits of exponent, 4 of mantissa, with subnormals, under the exponent of the matrix's largest."""
    size = np.abs(scales)
    top = np.floor(np.log2(max(size.max(), TINY)))
    exponent = np.maximum(np.floor(np.log2(np.maximum(size, TINY))), top - 6)
    step = np.exp2(exponent - 4).astype(np.float32)
    return np.copysign(np.minimum(np.rint(size / step) * step, np.float32((2 - 2 ** -4) * 2 ** top)), scales)


# What kernels/pack.h calls a scale of Q4, without its sign: (1 + f / 8) * 2^(e - 17).
STORED_SCALES = np.float32([(1 + f / 8) * 2.0 ** (e - 17) for e in range(16) for f in range(8)])


def bits_stored(scales, _signed=True):
    """The nearest of those."""
    cells = (STORED_SCALES[1:] + STORED_SCALES[:-1]) / 2
    return np.copysign(STORED_SCALES[np.searchsorted(cells, np.abs(scales))], scales)


@dataclasses.dataclass(frozen=True)
class Coding:
    name: str
    code: object
    bits: int          # per scale
    row_bits: int = 0  # per row
    block: int = BLOCK  # weights under a scale


F16 = Coding("f16", bits_f16, 16)
ROW = Coding("8 bits, f32 per output", bits_row, 8, 32)
FLOAT8 = Coding("8 bits, floating", bits_float8, 8)
STORED = Coding("8 bits per 16, as stored", bits_stored, 8, 0, 16)
HALVES = Coding("8 bits per 16, f32 per output", bits_row, 8, 32, 16)

# ---- Our quantisers: blocks [b][32 or 16] ----

# Where the search puts the block's extreme weight, in units of the table's.
RATIOS = np.arange(0.60, 1.101, 0.05).astype(np.float32)


def extreme(blocks):
    """The weight of each block that is farthest from 0, with its sign; the first of several."""
    return np.take_along_axis(blocks, np.abs(blocks).argmax(1)[:, None], 1)[:, 0]


def scale_by_extreme(blocks, table, _importance):
    """The extreme weight meets the table's extreme entry."""
    return extreme(blocks) / table.values[0] if table.signed else np.abs(extreme(blocks)) / table.reach


def scale_by_search(blocks, table, importance):
    """Of some scales, the one whose indices, with the scale that is best for them, leave the least error.

    The best scale for indices q is s = sum(h w q) / sum(h q^2), and it takes sum(h w q)^2 / sum(h q^2) off the error."""
    size = np.abs(blocks).max(1) / table.reach
    size[size == 0] = 1
    weighted = blocks if importance is None else blocks * importance
    best, scales = np.zeros(len(blocks), np.float32), np.zeros(len(blocks), np.float32)
    for sign in (1, -1) if table.signed else (1,):
        for ratio in RATIOS:
            q = table.nearest(blocks * (ratio * sign / size)[:, None])
            dot = np.einsum("ij,ij->i", weighted, q)
            square = np.einsum("ij,ij->i", q if importance is None else q * importance, q)
            gain = np.where(square > 0, dot * dot / np.maximum(square, TINY), 0)
            better = gain > best
            best[better] = gain[better]
            scales[better] = (dot / np.maximum(square, TINY))[better]
    return scales


def in_chunks(function, blocks, *others):
    parts = [function(blocks[i:i + CHUNK], *(x if x is None else x[i:i + CHUNK] for x in others))
             for i in range(0, len(blocks), CHUNK)]
    return np.concatenate(parts)


def as_blocks(importance, shape, block):
    """A vector over inputs, beside every row's blocks."""
    if importance is None:
        return None
    return np.broadcast_to(importance.astype(np.float32), shape).reshape(-1, block)


def safe(scales):
    return np.where(scales == 0, np.float32(1), scales)[:, None]


def fit_table(matrix, importance, block=BLOCK, rounds=12, start=MIRRORED, blocks_used=8192, zero=False):
    """A table for this matrix: scales and indices for the table, then the table for the scales and indices, in turn."""
    step = max(1, matrix.size // block // blocks_used)
    blocks = np.ascontiguousarray(matrix.reshape(-1, block)[::step])
    h = as_blocks(importance, matrix.shape, block)
    h = None if h is None else np.ascontiguousarray(h[::step])
    table, found = start, []
    for _ in range(rounds):
        scales = in_chunks(lambda b, hh: scale_by_search(b, table, hh), blocks, h)
        q = table.indices(blocks / safe(scales))
        found.append((square_error(blocks, table.values[q] * scales[:, None], h), table))
        table = Table(centroids(blocks, q, scales, h, table, zero), table.fineness)
        if np.array_equal(table.values, found[-1][1].values):
            break
    return min(found, key=lambda one: one[0])[1]


def centroids(blocks, q, scales, h, table, zero):
    one = np.ones_like(blocks) if h is None else h
    dot = np.bincount(q.ravel(), (one * blocks * scales[:, None]).ravel(), 16)
    square = np.bincount(q.ravel(), (one * np.square(scales)[:, None]).ravel(), 16)
    values = np.where(square > 0, dot / np.maximum(square, 1e-30), table.values)
    if not table.signed:
        values = (values - values[::-1]) / 2
    values *= 127 / np.abs(values).max()
    if zero:
        values[np.abs(values).argmin()] = 0
    return np.sort(np.rint(values * table.fineness) / table.fineness)


def square_error(a, b, h=None):
    d = np.square(a - b)
    return float((d if h is None else d * h).sum(dtype=np.float64))


@dataclasses.dataclass(frozen=True)
class Q4:
    """Indices into a table; `table` None: one fitted to each matrix."""
    table: object
    scale: object
    coding: Coding
    weigh: bool = False

    def restore(self, matrix, importance):
        """The matrix as it is read back."""
        importance = importance if self.weigh else None
        table = self.table or fit_table(matrix, importance, self.coding.block)
        blocks = matrix.reshape(-1, self.coding.block)
        h = as_blocks(importance, matrix.shape, self.coding.block)
        scales = in_chunks(lambda b, hh: self.scale(b, table, hh), blocks, h)
        scales = self.coding.code(scales.reshape(len(matrix), -1), table.signed).ravel()
        return in_chunks(lambda b, s: table.nearest(b / safe(s)) * s[:, None], blocks, scales).reshape(matrix.shape)

    def bits(self, n_input):
        return 4 + self.coding.bits / self.coding.block + self.coding.row_bits / n_input


@dataclasses.dataclass(frozen=True)
class Q4Shifted:
    """Not of the kernels so far: a table that each block moves by an integer, 8 bits, beside 8 bits of scale."""
    table: object
    shifts: tuple = tuple(range(-40, 41, 4))

    def restore(self, matrix, _importance):
        blocks = matrix.reshape(-1, BLOCK)
        found = in_chunks(self.search, blocks)
        scales = bits_row(found[:, 0].reshape(len(matrix), -1), False).ravel()
        moved = found[:, 1:]
        return in_chunks(lambda b, s, c: (self.table.nearest(b / safe(s) - c) + c) * s[:, None], blocks, scales,
                         moved).reshape(matrix.shape)

    def search(self, blocks):
        size = np.abs(blocks).max(1) / self.table.reach
        size[size == 0] = 1
        best, found = np.zeros(len(blocks), np.float32), np.zeros((len(blocks), 2), np.float32)
        for ratio in RATIOS + np.float32(0.1):
            for shift in self.shifts:
                q = self.table.nearest(blocks * (ratio / size)[:, None] - shift) + shift
                dot, square = np.einsum("ij,ij->i", blocks, q), np.einsum("ij,ij->i", q, q)
                gain = np.where((square > 0) & (dot > 0), dot * dot / np.maximum(square, TINY), 0)
                better = gain > best
                best[better] = gain[better]
                found[better] = np.stack([dot / np.maximum(square, TINY), np.full_like(dot, shift)], 1)[better]
        return found

    def bits(self, n_input):
        return 4.5 + 32 / n_input


def round_q8(t):
    return np.clip(np.rint(t), -127, 127)


@dataclasses.dataclass(frozen=True)
class Q8:
    """Integers within -127 ... 127. `steps`: how many scales are tried, each 1/128 above the one before, from the one
    that the extreme weight gives."""
    coding: Coding
    steps: int = 1

    def restore(self, matrix, _importance):
        blocks = matrix.reshape(-1, self.coding.block)
        first = np.abs(blocks).max(1) / np.float32(127)
        best, kept = np.full(len(blocks), np.inf), np.empty_like(blocks)
        for step in range(self.steps):
            scales = (first * np.float32(1 + step / 128)).reshape(len(matrix), -1)
            scales = self.coding.code(scales, False).ravel()
            restored = in_chunks(lambda b, s: round_q8(b / safe(s)) * s[:, None], blocks, scales)
            error = np.square(blocks - restored).sum(1)
            better = error < best
            best[better] = error[better]
            kept[better] = restored[better]
        return kept.reshape(matrix.shape)

    def bits(self, n_input):
        return 8 + self.coding.bits / self.coding.block + self.coding.row_bits / n_input


# ---- Other projects' codes, from the definitions of their formats ----


@dataclasses.dataclass(frozen=True)
class PeerQ8:
    """Q8_0: blocks of 32, d f16 = max |w| / 127, integers round(w / d)."""

    def restore(self, matrix, _importance):
        blocks = matrix.reshape(-1, 32)
        d = np.abs(blocks).max(1) / np.float32(127)
        return (np.rint(blocks / safe(d)) * bits_f16(d)[:, None]).reshape(matrix.shape)

    def bits(self, _n_input):
        return 8.5


@dataclasses.dataclass(frozen=True)
class PeerQ4:
    """Q4_0: blocks of 32, d f16 = the extreme weight / -8, integers -8 ... 7."""

    def restore(self, matrix, _importance):
        blocks = matrix.reshape(-1, 32)
        d = extreme(blocks) / np.float32(-8)
        q = np.clip(np.floor(blocks / safe(d) + np.float32(0.5)), -8, 7)
        return (q * bits_f16(d)[:, None]).reshape(matrix.shape)

    def bits(self, _n_input):
        return 4.5


@dataclasses.dataclass(frozen=True)
class PeerQ4K:
    """Q4_K: w = d s q - e m with q of 4 bits, s and m of 6 bits per 32 weights, d and e f16 per 256. A row whose length
    is no multiple of 256, which the format does not have, ends in a shorter one. `weighting`: of the squared errors
    when s and m are sought, "none", "size" (RMS of the block + |w|, as the reference quantiser does without data)
    or "importance"."""
    weighting: str = "none"
    refits: int = 0

    def restore(self, matrix, importance):
        blocks = matrix.reshape(-1, 32)
        if self.weighting == "size":
            h = np.sqrt(np.square(blocks).mean(1, keepdims=True)) + np.abs(blocks)
        else:
            h = as_blocks(importance if self.weighting == "importance" else np.ones(matrix.shape[1]), matrix.shape, 32)
        found = in_chunks(self.search, blocks, h).reshape(len(matrix), -1, 2)
        coded = np.concatenate([self.code(found[:, i:i + 8]) for i in range(0, found.shape[1], 8)], 1).reshape(-1, 2)
        scale, least = coded[:, :1], coded[:, 1:]
        q = np.clip(np.rint((blocks + least) / np.where(scale == 0, np.float32(1), scale)), 0, 15)
        return (q * scale - least).reshape(matrix.shape)

    @staticmethod
    def code(found):
        """6 bits for each of 8 scales and minima, under an f16 each."""
        unit = bits_f16(found.max(1, keepdims=True) / np.float32(63))
        return np.clip(np.rint(found / np.maximum(unit, TINY)), 0, 63) * unit

    def search(self, blocks, h):
        """Scale and minimum (positive: what is taken off): for 21 ranges, indices, then least squares for both, and
        `refits` times again."""
        least = np.minimum(blocks.min(1), 0)
        span = np.maximum(blocks.max(1) - least, TINY)
        best, found = np.full(len(blocks), np.inf), np.zeros((len(blocks), 2), np.float32)
        for step in range(-10, 11):
            fit = np.stack([span / (15 + np.float32(step / 10)), -least], 1)
            for _ in range(1 + self.refits):
                q = np.clip(np.rint((blocks + fit[:, 1:]) / safe(fit[:, 0])), 0, 15)
                fit = self.least_squares(blocks, h, q)
                error = (h * np.square(blocks - fit[:, :1] * q + fit[:, 1:])).sum(1)
                better = error < best
                best[better] = error[better]
                found[better] = fit[better]
        return np.maximum(found, 0)

    @staticmethod
    def least_squares(blocks, h, q):
        """Scale and minimum for indices; where the minimum would be negative it is 0."""
        hq = h * q
        one, w, qq, qw = h.sum(1), (h * blocks).sum(1), (hq * q).sum(1), (hq * blocks).sum(1)
        n = hq.sum(1)
        det = np.maximum(one * qq - n * n, TINY)
        scale, least = (one * qw - w * n) / det, (n * qw - qq * w) / det
        return np.stack([np.where(least < 0, qw / np.maximum(qq, TINY), scale), np.maximum(least, 0)], 1)

    def bits(self, _n_input):
        return 4.5


# ---- Activations of 8 bits, as they are read back ----


def round_activations(x, block, code):
    blocks = x.reshape(-1, block)
    scale = np.abs(blocks).max(1) / np.float32(127)
    return (np.rint(blocks / safe(scale)) * code(scale)[:, None]).reshape(x.shape)


def activations_ours(x):
    return round_activations(x, 32, lambda scale: scale)


def activations_q8_0(x):
    return round_activations(x, 32, lambda scale: bits_f16(scale))


def activations_q8_k(x):
    """Per 256, or a whole row where that does not divide it."""
    return round_activations(x, 256 if x.shape[1] % 256 == 0 else x.shape[1], lambda scale: scale)


def activations_f32(x):
    return x


# ---- What is compared ----


@dataclasses.dataclass(frozen=True)
class Entry:
    group: str
    name: str
    method: object
    activations: object = activations_ours
    main: bool = False  # measured in every way, not only all matrices with f32 activations

    @property
    def weighs(self):
        return getattr(self.method, "weigh", False) or getattr(self.method, "weighting", "") == "importance"


GROUPS = {"peer": "Other projects' formats", "q4": "4 bits, for the kernels as designed",
          "beyond": "4 bits, beyond the kernels as designed", "q8": "8 bits"}


def entries():
    def q4(table_name, table, rule, coding, weigh=False, main=False, group="q4"):
        scale = scale_by_search if rule == "search" else scale_by_extreme
        name = f"Q4 {table_name}, {rule}{', importance' if weigh else ''}; {coding.name}"
        return Entry(group, name, Q4(table, scale, coding, weigh), main=main)

    k = activations_q8_k
    yield Entry("peer", "Q8_0", PeerQ8(), activations_q8_0, True)
    yield Entry("peer", "Q4_0", PeerQ4(), activations_q8_0, True)
    yield Entry("peer", "Q4_K", PeerQ4K(), k, True)
    yield Entry("peer", "Q4_K, search weighted by size", PeerQ4K("size"), k)
    yield Entry("peer", "Q4_K, longer search", PeerQ4K(refits=2), k, True)
    yield Entry("peer", "Q4_K, longer search weighted by importance", PeerQ4K("importance", 2), k, True)
    for name, table in (("linear -8..7", LINEAR), ("linear symmetric", SYMMETRIC), ("fixed symmetric", EVEN)):
        yield q4(name, table, "extreme", F16)
        yield q4(name, table, "search", F16)
        yield q4(name, table, "search", ROW)
    yield q4("fixed mirrored", MIRRORED, "extreme", F16)
    yield q4("fixed mirrored", MIRRORED, "extreme", ROW)
    yield q4("fixed mirrored", MIRRORED, "search", F16, main=True)
    yield q4("fixed mirrored", MIRRORED, "search", ROW, main=True)
    yield q4("fixed mirrored", MIRRORED, "search", FLOAT8)
    yield q4("fixed mirrored", MIRRORED, "search", ROW, weigh=True, main=True)
    yield q4("fitted", None, "search", F16)
    yield q4("fitted", None, "search", ROW)
    yield q4("fitted", None, "search", ROW, weigh=True)
    yield q4("linear -8..7", LINEAR, "search", HALVES, group="beyond")
    yield q4("fixed mirrored", MIRRORED, "search", HALVES, main=True, group="beyond")
    yield q4("fixed mirrored", MIRRORED, "search", HALVES, weigh=True, main=True, group="beyond")
    yield q4("fixed mirrored", MIRRORED, "search", STORED, main=True, group="beyond")
    yield Entry("beyond", "Q4 fixed symmetric and an 8-bit shift, search; 8 bits, f32 per output", Q4Shifted(EVEN))
    for coding in (F16, ROW, HALVES):
        yield Entry("q8", f"Q8 extreme; {coding.name}", Q8(coding), main=coding is not HALVES)
        yield Entry("q8", f"Q8 search; {coding.name}", Q8(coding, 8), main=coding is ROW)


# ---- The model ----

PIECE = re.compile(rb" ?[A-Za-z\x80-\xff]+| ?[0-9]+| ?[^\t-\r 0-9A-Za-z\x80-\xff]+"
                   rb"|[\t-\r ]+(?= [^\t-\r ])|[\t-\r ]+")  # docs/tokenizer.md


class Tokenizer:
    def __init__(self, blob):
        magic, version, rule, _, _, self.end = struct.unpack_from("<4sIIIIi", blob)
        if (magic, version, rule) != (b"MFTK", 1, 1):
            raise ValueError("not a tokenizer that is known here")
        self.rank = {pair: i for i, pair in enumerate(struct.iter_unpack("<II", blob[24:]))}
        self.known = {}

    def merge(self, piece):
        tokens = list(piece)
        while len(tokens) > 1:
            rank, at = min((self.rank.get(pair, 1 << 30), i) for i, pair in enumerate(zip(tokens, tokens[1:])))
            if rank == 1 << 30:
                break
            tokens[at:at + 2] = [256 + rank]
        return tokens

    def encode(self, text):
        for piece in set(PIECE.findall(text)) - self.known.keys():
            self.known[piece] = self.merge(piece)
        return [token for piece in PIECE.findall(text) for token in self.known[piece]]


class Model:
    """meta: the metadata; weights {name: array}, row major; sizes {name: (FFN widths, heads)} by layer."""

    def __init__(self, path):
        container = read_mf.Container(path)
        self.meta = meta = container.metadata
        if (meta["family"], meta["norm"], meta["ffn"], meta["activation"], meta["tied"]) != ("matlm", 0, 0, 0, 1):
            raise ValueError("only RMS norm, a gated FFN with silu and a tied vocabulary are known here")
        self.weights = dict(container.weights())
        self.tokenizer = Tokenizer(self.weights.pop("tokenizer").tobytes())
        self.sizes = {meta[f"granularity.{g}.name"]: (list(meta[f"granularity.{g}.ffn"]),
                                                      list(meta[f"granularity.{g}.heads"]))
                      for g in range(meta["n_granularity"])}
        self.start = meta.get("bos_token", meta.get("eos_token"))

    def windows(self, path, limit=None):
        """inputs, next tokens [windows][context] and how many of them, in order, are of the text."""
        stream = [] if self.start is None else [self.start]
        stream = np.array((stream + self.tokenizer.encode(pathlib.Path(path).read_bytes()))[:limit and limit + 1])
        context, n = self.meta["max_positions"], len(stream) - 1
        shape = -(-n // context), context
        return np.resize(stream[:-1], shape), np.resize(stream[1:], shape), n


def is_matrix(name, array):
    return array.ndim == 2 and min(array.shape) > 1


def reordered(model, order):
    """The model's weights with d_model, and hidden units inside each shell, in an order of their own; 0: the file's."""
    if order == 0:
        return model.weights
    random = np.random.default_rng(order)
    wide = random.permutation(model.meta["d_model"])
    out = {}
    for layer in range(model.meta["n_layer"]):
        bounds = sorted({0, *(ffn[layer] for ffn, _ in model.sizes.values())})
        hidden = np.concatenate([a + random.permutation(b - a) for a, b in zip(bounds, bounds[1:])])
        for name in ("gate", "up"):
            out[f"layers.{layer}.ffn.{name}"] = model.weights[f"layers.{layer}.ffn.{name}"][hidden][:, wide]
        out[f"layers.{layer}.ffn.down"] = model.weights[f"layers.{layer}.ffn.down"][wide][:, hidden]
    for name, array in model.weights.items():
        if name.endswith("norm.weight"):
            out[name] = array.reshape(-1)[wide]
        elif name.endswith("attn.o"):
            out[name] = array[wide]
        elif name not in out:
            out[name] = array[:, wide] if is_matrix(name, array) else array
    return {name: np.ascontiguousarray(array) for name, array in out.items()}


def rms_norm(x, weight, epsilon):
    return x / np.sqrt(np.square(x).mean(-1, keepdims=True) + np.float32(epsilon)) * weight.reshape(-1)


def rotate(x, cosine, sine):
    a, b = np.split(x, 2, -1)
    return np.concatenate([a * cosine - b * sine, b * cosine + a * sine], -1)


def attend(meta, w, at, y, shape, heads):
    """y [rows][d_model], rows = windows * positions, to [rows][heads * d_head]."""
    windows, n = shape
    d_head, of = meta["d_head"], np.arange(heads) // meta["head_group"]
    angle = np.arange(n, dtype=np.float32)[:, None] * w["rope.freqs"].reshape(1, -1)

    def project(name, count):
        return (y @ w[at + name][:count * d_head].T).reshape(windows, n, count, d_head).transpose(0, 2, 1, 3)

    q, k, v = project("q", heads), project("k", of[-1] + 1), project("v", of[-1] + 1)
    q, k = rotate(q, np.cos(angle), np.sin(angle)), rotate(k, np.cos(angle), np.sin(angle))
    scores = q @ k[:, of].swapaxes(-1, -2) * np.float32(meta["attention_scale"])
    scores += np.triu(np.full((n, n), -np.inf, np.float32), 1)
    scores = np.exp(scores - scores.max(-1, keepdims=True))
    out = scores / scores.sum(-1, keepdims=True) @ v[:, of]
    return out.transpose(0, 2, 1, 3).reshape(windows * n, heads * d_head)


def forward(meta, w, size, tokens, attention_code=activations_f32, ffn_code=activations_f32,
            see=lambda name, x: None):
    """Logits [windows * positions][n_vocab]. The codes are of the activations that matrices read, which `see` sees."""
    epsilon = meta["norm_eps"]
    x = w["embed"][tokens].reshape(tokens.size, -1) * np.float32(meta["embed_scale"])
    for layer, (width, heads) in enumerate(zip(*size)):
        at = f"layers.{layer}."
        if heads:
            y = rms_norm(x, w[at + "attn_norm.weight"], epsilon)
            see(at + "attn.q", y)
            out = attend(meta, w, at + "attn.", attention_code(y), tokens.shape, heads)
            see(at + "attn.o", out)
            x = x + attention_code(out) @ w[at + "attn.o"][:, :out.shape[1]].T
        if width:
            y = rms_norm(x, w[at + "ffn_norm.weight"], epsilon)
            see(at + "ffn.up", y)
            y = ffn_code(y)
            gate, up = y @ w[at + "ffn.gate"][:width].T, y @ w[at + "ffn.up"][:width].T
            hidden = gate / (1 + np.exp(-gate)) * up
            see(at + "ffn.down", hidden)
            x = x + ffn_code(hidden) @ w[at + "ffn.down"][:, :width].T
    y = rms_norm(x, w["final_norm.weight"], epsilon)
    see("embed", y)
    return attention_code(y) @ w["embed"].T


def importances(model, weights, tokens):
    """{matrix: mean square of each of its inputs} on the widest model."""
    seen = {}
    forward(model.meta, weights, list(model.sizes.values())[-1], tokens,
            see=lambda name, x: seen.update({name: np.square(x).mean(0)}))
    same = {"attn.k": "attn.q", "attn.v": "attn.q", "ffn.gate": "ffn.up"}
    for name in weights:
        head, _, last = name.rpartition("attn." if "attn." in name else "ffn.")
        kind = name[len(head):]
        if kind in same:
            seen[name] = seen[head + same[kind]]
    return seen


def log_softmax(z):
    z = z - z.max(-1, keepdims=True)
    return z - np.log(np.exp(z).sum(-1, keepdims=True))


class Scorer:
    """What quantised weights do to a model's predictions of some texts, at some sizes."""

    PIECE = 8  # windows of one forward

    def __init__(self, model, texts, sizes, limit):
        self.model, self.sizes = model, sizes
        self.texts = {os.path.basename(path): model.windows(path, limit) for path in texts}
        self.reference = {(size, text): [log_softmax(z) for z in self.logits(model.weights, size, text)]
                          for size in sizes for text in self.texts}

    def logits(self, weights, size, text, *codes):
        """Piece by piece; positions beyond the text are left out."""
        tokens, _, n = self.texts[text]
        for i in range(0, len(tokens), self.PIECE):
            z = forward(self.model.meta, weights, self.model.sizes[size], tokens[i:i + self.PIECE], *codes)
            yield z[:n - i * tokens.shape[1]]

    def targets(self, text):
        return self.texts[text][1].ravel()[:self.texts[text][2]]

    def loss(self, size, text):
        p = np.concatenate(self.reference[size, text])
        return -float(p[np.arange(len(p)), self.targets(text)].mean(dtype=np.float64))

    def score(self, weights, *codes):
        return {size: {text: self.score_one(weights, size, text, *codes) for text in self.texts} for size in self.sizes}

    def score_one(self, weights, size, text, *codes):
        kl = loss = at = 0
        targets = self.targets(text)
        for p, z in zip(self.reference[size, text], self.logits(weights, size, text, *codes)):
            more = p - log_softmax(z)
            kl += float((np.exp(p) * more).sum(dtype=np.float64))
            loss += float(more[np.arange(len(p)), targets[at:at + len(p)]].sum(dtype=np.float64))
            at += len(p)
        return {"kl": kl / at, "loss": loss / at}


def check_losses(args, model):
    """The model as run here has the loss that the program measures."""
    for path in args.text[:1]:
        command = [args.program, "eval", args.model, "--text", path, "--threads", "1", "--json"]
        views = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)["views"]
        scorer = Scorer(model, [path], list(model.sizes), None)
        for view in views:
            here = scorer.loss(view["size"], os.path.basename(path))
            print(f"loss of {view['size']} on {os.path.basename(path)}: {here:.7f} here, {view['loss']:.7f} by the program")
            if abs(here - view["loss"]) > 1e-5:
                raise SystemExit("these differ")


# ---- Measuring ----


def relative_error(matrix, restored):
    return (square_error(matrix, restored) / square_error(matrix, 0)) ** 0.5


def measure_random(args, chosen):
    random = np.random.default_rng(1)
    shape = args.random, args.random
    result = {"shape": shape, "errors": {}}
    for name, draw in (("gaussian", lambda: random.standard_normal(shape, np.float32)),
                       ("student5", lambda: random.standard_t(5, shape).astype(np.float32))):
        matrix = draw()
        for entry in chosen:
            if entry.weighs:
                continue
            begin = time.time()
            error = relative_error(matrix, entry.method.restore(matrix, None))
            result["errors"].setdefault(entry.name, {})[name] = error
            print(f"{name:9} {entry.name:70} {error:.5f}   {time.time() - begin:.1f} s", flush=True)
    return result


def restore_all(entry, weights, importance):
    return {name: entry.method.restore(array, importance[name]) if is_matrix(name, array) else array
            for name, array in weights.items()}


def pooled_error(weights, restored):
    sums = [(array.size * relative_error(array, restored[name]) ** 2, array.size)
            for name, array in weights.items() if is_matrix(name, array)]
    return (sum(e for e, _ in sums) / sum(n for _, n in sums)) ** 0.5


def mean_bits(entry, weights):
    """Per stored weight, with all that belongs to it."""
    sums = [(array.size * entry.method.bits(array.shape[1]), array.size)
            for name, array in weights.items() if is_matrix(name, array)]
    return sum(b for b, _ in sums) / sum(n for _, n in sums)


def measure_entry(entry, scorer, weights, importance):
    restored = restore_all(entry, weights, importance)
    result = {"error": pooled_error(weights, restored), "all f32": scorer.score(restored)}
    if entry.main:
        ffn = {name: restored[name] if ".ffn." in name else array for name, array in weights.items()}
        result["all int8"] = scorer.score(restored, entry.activations, entry.activations)
        result["ffn f32"] = scorer.score(ffn)
        result["ffn int8"] = scorer.score(ffn, activations_f32, entry.activations)
    return result


def measure_model(args, chosen):
    model = Model(args.model)
    if args.program:
        check_losses(args, model)
    scorer = Scorer(model, args.text, args.size, args.tokens)
    calibration = model.windows(args.calibrate, args.tokens)[0]
    result = {"model": os.path.basename(args.model), "orders": args.orders, "sizes": args.size,
              "texts": {text: n for text, (_, _, n) in scorer.texts.items()},
              "calibration": os.path.basename(args.calibrate),
              "losses": {size: {text: scorer.loss(size, text) for text in scorer.texts} for size in args.size},
              "bits": {entry.name: mean_bits(entry, model.weights) for entry in chosen},
              "codes": {entry.name: [] for entry in chosen}, "activations": {}}
    for order in range(args.orders):
        weights = reordered(model, order)
        importance = importances(model, weights, calibration)
        for name, code in (("32", activations_ours), ("256", activations_q8_k)):
            result["activations"].setdefault(name, []).append({"all int8": scorer.score(weights, code, code),
                                                               "ffn int8": scorer.score(weights, activations_f32, code)})
        for entry in chosen:
            begin = time.time()
            one = measure_entry(entry, scorer, weights, importance)
            result["codes"][entry.name].append(one)
            kl = " ".join(f"{size} {np.mean([t['kl'] for t in one['all f32'][size].values()]):.5f}" for size in args.size)
            print(f"order {order} {entry.name:70} error {one['error']:.5f} KL {kl}   {time.time() - begin:.1f} s", flush=True)
    return result


# ---- The fixed tables ----


def random_table(random, signed):
    """Something like a table, to begin from."""
    t = np.sinh((np.linspace(-1, 1, 16) + random.uniform(-0.1, 0.1)) * random.uniform(0.3, 1.8))
    t = np.sort(t + random.normal(0, 0.02, 16))
    if not signed:
        t = t - t[::-1]
    elif -t[0] < t[-1]:
        t = -t[::-1]
    values = np.rint(t * 127 / np.abs(t).max())
    return Table(values, 16)


def random_blocks(random, n):
    """Blocks of variance 1: n Gaussian ones, and n / 4 of Student's t with 5 degrees of freedom."""
    return (random.standard_normal((n, BLOCK), np.float32),
            (random.standard_t(5, (n // 4, BLOCK)) * (3 / 5) ** 0.5).astype(np.float32))


def design(signed, starts=24):
    """The best of some descents from random tables, on blocks of which four in five are Gaussian, as those of trained
    matrices nearly are, and one has heavier tails; with its errors on both. One entry is 0 where the table has a sign."""
    random = np.random.default_rng(1)
    few, many = random_blocks(random, 4096), random_blocks(random, 32768)

    def errors(table, sets):
        return [relative_error(blocks, Q4(table, scale_by_search, F16).restore(blocks, None)) for blocks in sets]

    def descend(table, sets):
        blocks = np.concatenate(sets)
        return fit_table(blocks, None, rounds=50, start=table, blocks_used=len(blocks), zero=signed)

    def joint(table, sets):
        return np.average(np.square(errors(table, sets)), weights=[len(blocks) for blocks in sets])

    tables = [descend(random_table(random, signed), few) for _ in range(starts)]
    tables.sort(key=lambda table: joint(table, few))
    tables = [Table(np.rint(descend(table, many).values)) for table in tables[:3]]
    best = min(tables, key=lambda table: joint(table, many))
    return best, errors(best, many)


# ---- The page ----


def cell(values, digits=5, sign=False):
    form = f"{{:{'+' if sign else ''}.{digits}f}}"
    text = form.format(np.mean(values))
    return text if len(values) < 2 else f"{text} ± {np.std(values, ddof=1):.{digits}f}"


def table_lines(head, rows):
    return ["| " + " | ".join(head) + " |", "|---" * len(head) + "|", *("| " + " | ".join(row) + " |" for row in rows), ""]


def by_group(result, rows_of):
    """A table per group, of the entries for which rows_of gives cells."""
    lines = []
    for group, title in GROUPS.items():
        rows = [[entry.name, *cells] for entry in entries() if entry.group == group for cells in [rows_of(entry)] if cells]
        if rows:
            lines += [f"{title}:", "", *table_lines(result["head"], rows)]
    return lines


def random_lines(result):
    random = result["random"]

    def row(entry):
        errors = random["errors"].get(entry.name)
        n = random["shape"][1]
        return errors and [f"{entry.method.bits(n):.3f}", f"{errors['gaussian']:.5f}", f"{errors['student5']:.5f}"]

    return ["## Random matrices", "", "Relative error, {} × {} weights.".format(*random["shape"]), "",
            *by_group({"head": ["code", "bits", "Gaussian", "Student t, 5 degrees"]}, row)]


def model_lines(model, way, title, text):
    """KL of every text and size, and the growth of the loss on all texts."""
    pairs = [(size, name) for size in model["sizes"] for name in model["texts"]]
    ffn_only = way.startswith("ffn")  # the error is that of all matrices

    def values(runs, key, size, name):
        return [run[way][size][name][key] for run in runs]

    def growth(runs, size):
        n = sum(model["texts"].values())
        return [sum(run[way][size][name]["loss"] * m for name, m in model["texts"].items()) / n for run in runs]

    def cells(runs):
        return [*(cell(values(runs, "kl", *pair)) for pair in pairs), *(cell(growth(runs, size), 4, True) for size in model["sizes"])]

    def row(entry):
        runs = model["codes"].get(entry.name, [])
        if not runs or way not in runs[0]:
            return None
        error = [] if ffn_only else [cell([run["error"] for run in runs])]
        return [f"{model['bits'][entry.name]:.3f}", *error, *cells(runs)]

    short = {name: chr(ord("a") + i) for i, name in enumerate(model["texts"])}
    head = ["code", "bits", *([] if ffn_only else ["error"]), *(f"KL {size} {short[name]}" for size, name in pairs), *(f"loss {size}" for size in model["sizes"])]
    lines = [f"## {title}", "", text, "", *by_group({"head": head}, row)]
    if way in model["activations"]["32"][0]:
        rows = [[f"the file's weights, activations of 8 bits per {name}", *[""] * (len(head) - 1 - len(cells(runs))), *cells(runs)]
                for name, runs in model["activations"].items()]
        lines += ["Activations alone:", "", *table_lines(head, rows)]
    return lines


def write_page(args, result):
    model = result["model"]
    texts = "; ".join(f"({chr(ord('a') + i)}) `{name}`, {n} tokens" for i, (name, n) in enumerate(model["texts"].items()))
    losses = ", ".join(f"{size} {' and '.join(f'{loss:.4f}' for loss in by_text.values())}" for size, by_text in model["losses"].items())
    lines = ["<!-- written by scripts/quantization.py -->", "# Codes for weights of 4 and 8 bits", "",
             "What is lost by each. KL: mean over tokens of KL(p ‖ q) in nats, p with the weights of the file, q with the quantised ones.",
             "Loss: what it grows by, nats per token, both texts together. Error: root of the mean squared error, relative to the weights'.",
             "Bits: per stored weight, scales included; an f32 per output costs 32 bits per row, which is little where rows are long.",
             f"`{model['model']}` on {texts}; its losses there: {losses}.",
             f"Mean and standard deviation over {model['orders']} order{'s' if model['orders'] > 1 else ''} of d_model and of the hidden units inside "
             "shells, which are", "the same model in other blocks.", "",
             "*Extreme*: the scale puts the block's extreme weight onto the table's extreme entry. *Search*: "
             f"{len(RATIOS)} scales for each sign, least",
             "squares for the best. *Importance*: errors are weighted by the mean square of the inputs that they meet on another text",
             f"(`{model['calibration']}`). *Mirrored*: the table is not symmetric and a negative scale turns it round.",
             f"*Fixed mirrored* is `{MIRRORED.values.astype(int).tolist()}`,",
             f"*fixed symmetric* `{EVEN.values.astype(int).tolist()}`; *fitted* has a table for each matrix.", "",
             *random_lines(result),
             *model_lines(model, "all f32", "All matrices", "FFN, attention and the tied vocabulary; activations in f32."),
             *model_lines(model, "all int8", "All matrices and their activations",
                          "Activations in 8 bits too: ours per row and 32 inputs; Q8_0 and Q4_0 likewise with an f16 scale; Q4_K per 256."),
             *model_lines(model, "ffn f32", "The FFN alone", "Activations in f32."),
             *model_lines(model, "ffn int8", "The FFN and its activations alone", "As above.")]
    with open(os.path.join(args.docs, "quantization.md"), "w", encoding="utf-8") as out:
        out.write("\n".join(lines).rstrip("\n") + "\n")


def parse():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="a .mf file")
    parser.add_argument("--program", help="the matformer program, to hold the model's loss against")
    parser.add_argument("--text", action="append", help="a text to predict; may be repeated")
    parser.add_argument("--calibrate", help="another text, for importances")
    parser.add_argument("--tokens", type=int, default=8192, help="of each text, at most (8192)")
    parser.add_argument("--size", action="append", help="granularities to measure; may be repeated (XL and S)")
    parser.add_argument("--orders", type=int, default=3, help="orders of d_model and hidden units to measure (3)")
    parser.add_argument("--random", type=int, default=4096, help="rows and columns of the random matrices (4096)")
    parser.add_argument("--only", default="", help="codes whose names match this expression; writes nothing")
    parser.add_argument("--docs", default="docs", help="folder of quantization.json and quantization.md (docs)")
    parser.add_argument("--again", action="store_true", help="write the page from DOCS/quantization.json")
    parser.add_argument("--design", action="store_true", help="print the fixed tables, made anew")
    args = parser.parse_args()
    if not args.again and not args.design and not (args.model and args.text and args.calibrate):
        parser.error("--model, --text and --calibrate are wanted")
    args.size = args.size or ["XL", "S"]
    return args


def main():
    args = parse()
    if args.design:
        for signed in (True, False):
            table, errors = design(signed)
            print("mirrored" if signed else "symmetric", table.values.astype(int).tolist(),
                  "errors, Gaussian and Student t:", *(f"{error:.5f}" for error in errors), flush=True)
        return
    path = os.path.join(args.docs, "quantization.json")
    if args.again:
        with open(path, encoding="utf-8") as file:
            result = json.load(file)
    else:
        chosen = [entry for entry in entries() if re.search(args.only, entry.name)]
        result = {"random": measure_random(args, chosen), "model": measure_model(args, chosen)}
        if args.only:
            return
        with open(path, "w", encoding="utf-8") as file:
            json.dump(result, file, indent=1)
            file.write("\n")
    write_page(args, result)


if __name__ == "__main__":
    main()
