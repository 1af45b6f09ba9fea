"""expected.bin: what a reference computed for a checkpoint, and the same written by others for check_*.py.

Little-endian; a text is u32 bytes, the bytes, zeros to a multiple of 4, so that numbers stay aligned:

    u32 magic 0x4d464558   u32 n_case, then for each:
        text name   text view   u32 n_array, then for each:
            text name   u32 type (0 f32, 1 i32)   u32 n_dim   u32 dims[n_dim]   f32 or i32 data, row major

The view is the text that mf_extract_submodel_text takes; its widths are those of the kept layers. Arrays of a decoder:

    tokens [n]    logits [n][rows of the embedding]    greedy [64], the tokens that follow by taking the largest logit

of a case named alternate, whose view is two texts with a | between them:

    tokens [n]    stretch [1]    logits [n / stretch][rows], of the last position of each stretch of tokens. The first
    view computes the first stretch, the second the second, and so on in turn, over one cache.

and of an encoder:

    pixels [channels][height][width]    hidden [1 + patches][d_model]    pooled [d_model]    logits [classes]
"""

import pathlib
import struct

import numpy

MAGIC = 0x4D464558
TYPES = [numpy.dtype("<f4"), numpy.dtype("<i4")]


def u32s(*values):
    return struct.pack(f"<{len(values)}I", *values)


def text(value):
    data = value.encode()
    return u32s(len(data)) + data + bytes(-len(data) % 4)


def write(path, cases):
    """cases: [(name, view, {array name: numpy array or nested list})]"""
    out = u32s(MAGIC, len(cases))
    for name, view, arrays in cases:
        out += text(name) + text(view) + u32s(len(arrays))
        for array_name, array in arrays.items():
            array = numpy.asarray(array)
            kind = int(array.dtype.kind in "iu")
            out += text(array_name) + u32s(kind, array.ndim, *array.shape) + array.astype(TYPES[kind]).tobytes()
    pathlib.Path(path).write_bytes(out)
    return len(out)


def read(path):
    data, at = pathlib.Path(path).read_bytes(), 0

    def numbers(count, kind=TYPES[1]):
        nonlocal at
        values = numpy.frombuffer(data, kind, count, at)
        at += values.nbytes
        return values

    def word():
        return int(numbers(1)[0])

    def read_text():
        nonlocal at
        n_bytes = word()
        at += n_bytes + -n_bytes % 4
        return data[at - n_bytes - -n_bytes % 4 :][:n_bytes].decode()

    def array():
        name, kind = read_text(), word()
        dims = [word() for _ in range(word())]
        return name, numbers(int(numpy.prod(dims)), TYPES[kind]).reshape(dims)

    assert word() == MAGIC, f"{path} is no expected.bin"
    return [(read_text(), read_text(), dict(array() for _ in range(word()))) for _ in range(word())]


def compare(path, names, run, bound):
    """For check_*.py: what the cases named (all, if none is) have of the arrays that run(arrays) gives, against those.
    Prints the largest difference of each, relative to the largest magnitude, and is 1 if one is beyond the bound."""
    cases = [case for case in read(path) if not names or case[0] in names]
    assert cases, f"{path} has none of these cases"
    beyond = False
    for name, view, ours in cases:
        theirs_of = run(ours)
        compared = ours.keys() & theirs_of.keys()
        assert compared, f"{name} has nothing to compare"
        for array in sorted(compared):
            theirs = theirs_of[array]
            difference = numpy.abs(ours[array].astype(float) - theirs).max() / numpy.abs(theirs).max()
            beyond |= not difference <= bound
            print(f"{name} ({view}) {array}: {difference:.2e}")
    return int(beyond)
