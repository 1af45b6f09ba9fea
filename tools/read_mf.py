#!/usr/bin/env python3
"""A second reader of .mf files, written from docs/container-format.md alone: it shares no code with the
library, so that each proves the other and the page. For small files: it reads whole tensors.

    read_mf.py FILE [PART...]      prints the directory as JSON; parts have regions that the file lacks
    read_mf.py FILE --out FOLDER   writes directory.json and every tensor as NAME.npy, row major: panels
                                   unpacked, gate and up apart, shells joined, all widened to f32
"""
import argparse
import json
import pathlib
import struct
import sys

import numpy as np
import xxhash
import zstandard

MAGIC = b"\x89MF\r\n\x1a\n\0"
PART_MAGIC = b"\x89MFP\r\n\x1a\n"
ENTRY_KINDS = {1: "metadata", 2: "region", 3: "tensor"}
REGION_KINDS = {1: "base", 2: "shell", 3: "tables"}
STORAGES = {0: "raw", 1: "zstd"}
TENSOR_KINDS = {1: "panel", 2: "table", 3: "plain"}
TYPES = {1: "f32", 2: "bf16", 3: "f16", 4: "q8", 5: "q4", 6: "u8"}
ELEMENT_BYTES = {"f32": 4, "bf16": 2, "f16": 2, "u8": 1}
CODE_BYTES = {"q8": 32, "q4": 16}  # of a block of 32


class FormatError(Exception):
    """The file is not what the specification asks for."""


def require(condition, message):
    if not condition:
        raise FormatError(message)


def align_up(value, step):
    return (value + step - 1) // step * step


def xxh64(data):
    return xxhash.xxh64_intdigest(data, seed=0)


def read_header(data):
    """slot_bytes, directory_capacity, head_bytes"""
    require(data[:8] == MAGIC, "not a .mf file")
    version, zero, slot_bytes, capacity, zeros, checksum = struct.unpack_from("<IIQQ24sQ", data, 8)
    require(version == 1, f"version {version}")
    require(checksum == xxh64(data[:56]), "header checksum")
    require(zero == 0 and not any(zeros), "header zeros")
    require(slot_bytes % 4096 == 0 and capacity % 4096 == 0 and 0 < capacity <= slot_bytes, "slot sizes")
    return slot_bytes, capacity, align_up(4096 + 2 * slot_bytes, 65536)


def read_slot(data, offset, capacity, slot_bytes):
    """(generation, file_bytes, entry count, entries) or None when the slot does not hold"""
    checksum, generation, size, file_bytes, count, zero, plan_bytes, plan_checksum, zero2 = struct.unpack_from(
        "<QQQQIIQQQ", data, offset)
    if generation == 0 or size < 64 or size % 8 or size > capacity or plan_bytes > slot_bytes - capacity:
        return None
    plan = data[offset + capacity:offset + capacity + plan_bytes]
    if checksum != xxh64(data[offset + 8:offset + size]) or plan_checksum != (xxh64(plan) if plan_bytes else 0):
        return None
    require(zero == 0 and zero2 == 0, "slot zeros")
    return generation, file_bytes, count, data[offset + 64:offset + size]


def read_name(entry, at, size):
    room = (size + 8) // 8 * 8
    require(1 <= size <= 255 and at + room <= len(entry) and not any(entry[at + size:at + room]), "name")
    require(all(0x21 <= byte <= 0x7E for byte in entry[at:at + size]), "name")
    return entry[at:at + size].decode("ascii"), at + room


def read_metadata(entry):
    kind, key_bytes, value_bytes = struct.unpack_from("<IIQ", entry, 8)
    key, at = read_name(entry, 24, key_bytes)
    value = entry[at:at + value_bytes]
    require(len(value) == value_bytes and not any(entry[at + value_bytes:]), f"value of {key}")
    if kind == 1:
        return key, struct.unpack("<Q", value)[0]
    if kind == 2:
        return key, struct.unpack("<d", value)[0]
    if kind == 3:
        require(0 not in value, f"text of {key}")
        return key, value.decode("utf-8", "surrogateescape")
    if kind == 4:
        return key, list(struct.unpack(f"<{value_bytes // 4}I", value))
    raise NotImplementedError(f"value type {kind} of {key}")


def read_region(entry):
    (kind, storage, shell, frame_count, offset, stored, raw, checksum,
     content) = struct.unpack_from("<IIIIQQQQQ", entry, 8)
    require(len(entry) == 64 + 16 * frame_count, "frames")
    frames = [struct.unpack_from("<IIHHI", entry, 64 + 16 * i)[:4] for i in range(frame_count)]
    if kind not in REGION_KINDS or storage not in STORAGES:
        raise NotImplementedError(f"region kind {kind}, storage {storage}")
    return {"kind": REGION_KINDS[kind], "storage": STORAGES[storage], "shell": shell, "file_offset": offset,
            "stored_bytes": stored, "raw_bytes": raw, "checksum": f"{checksum:016x}", "content_hash": f"{content:016x}",
            "frames": frames}


def table_row_bytes(type_, k):
    if type_ in CODE_BYTES:
        return align_up((k + 31) // 32 * (CODE_BYTES[type_] + 2), 64)
    return align_up(k * ELEMENT_BYTES[type_], 64)


def panel_bytes(type_, k):
    blocks = (k + 31) // 32
    if type_ in CODE_BYTES:
        return (blocks + 1) // 2 * 64 + blocks * 16 * CODE_BYTES[type_]
    return blocks * 32 * 16 * ELEMENT_BYTES[type_]


def head_bytes_of(type_):
    """The table before the first row or panel."""
    return 64 if type_ == "q4" else 0


def tensor_bytes(kind, type_, n, k, panels):
    if kind == "plain":
        require(k == 1 and type_ in ELEMENT_BYTES, "k or type of a plain tensor")
        return n * ELEMENT_BYTES[type_]
    require(type_ != "u8", "type of a matrix")
    if kind == "table":
        return n * table_row_bytes(type_, k) + head_bytes_of(type_)
    groups = (n + 15) // 16
    require(panels in (groups, 2 * groups), "panels")
    return panels * panel_bytes(type_, k) + head_bytes_of(type_)


def read_tensor(entry):
    (kind, type_, shell, region, n, k, panels, offset, size, name_bytes,
     zero) = struct.unpack_from("<IIIIQQQQQII", entry, 8)
    name, end = read_name(entry, 72, name_bytes)
    require(end == len(entry) and zero == 0, f"entry of {name}")
    if kind not in TENSOR_KINDS or type_ not in TYPES:
        raise NotImplementedError(f"tensor {name}: kind {kind}, type {type_}")
    kind, type_ = TENSOR_KINDS[kind], TYPES[type_]
    require(size == tensor_bytes(kind, type_, n, k, panels), f"size of {name}")
    return {"name": name, "kind": kind, "type": type_, "shell": shell, "region": region, "n": n, "k": k,
            "panels": panels, "offset": offset, "bytes": size}


READERS = {1: read_metadata, 2: read_region, 3: read_tensor}


def read_entries(entries, count):
    """The directory's three lists, in file order."""
    found = {1: [], 2: [], 3: []}
    at = 0
    for _ in range(count):
        kind, flags, zero, size = struct.unpack_from("<HBBI", entries, at)
        require(size >= 8 and size % 8 == 0 and at + size <= len(entries) and zero == 0 and flags <= 1, "entry")
        try:
            if kind not in READERS:
                raise NotImplementedError(f"entry kind {kind}")
            found[kind].append(READERS[kind](entries[at:at + size]))
        except NotImplementedError as unknown:
            require(not flags & 1, f"required, but not known: {unknown}")
            if kind == 2:
                found[2].append(None)  # tensors count it
        at += size
    require(at == len(entries), "entries do not fill the directory")
    return found[1], found[2], found[3]


class Container:
    """A file's directory: metadata {key: value}, regions and tensors as dictionaries."""

    def __init__(self, path):
        self.data = pathlib.Path(path).read_bytes()
        slot_bytes, capacity, head_bytes = read_header(self.data)
        slots = [read_slot(self.data, 4096 + i * slot_bytes, capacity, slot_bytes) for i in (0, 1)]
        slots = [slot for slot in slots if slot]
        require(slots, "no slot holds")
        self.generation, self.file_bytes, count, entries = max(slots, key=lambda slot: slot[0])
        metadata, self.regions, self.tensors = read_entries(entries, count)
        keys = [key for key, _ in metadata]
        require(keys == sorted(set(keys)), "order of keys")
        self.metadata = dict(metadata)
        self._check_regions(head_bytes)
        self._check_tensors()
        self._raw, self._pieces, self._stored = {}, {}, {}

    def _check_regions(self, end):
        require(self.regions and self.regions[0] and self.regions[0]["kind"] == "base", "first region")
        for region in filter(None, self.regions):
            require(region["file_offset"] == align_up(end, 65536), "place of a region")
            end = region["file_offset"] + region["stored_bytes"]
            region["present"] = end <= len(self.data)
        require(end == self.file_bytes, "file_bytes")
        ends = [region["file_offset"] + region["stored_bytes"] for region in self.regions if region]
        require(len(self.data) in ends, "length of the file")
        require(all(region["present"] or region["kind"] != "base" for region in self.regions if region), "length")

    def attach(self, path):
        """Takes the regions, or pieces of regions, that a part has."""
        part = pathlib.Path(path).read_bytes()
        for segment in read_part(part):
            matching = [index for index, region in enumerate(self.regions) if region and all(
                region[key] == segment[key] for key in ("kind", "shell", "content_hash", "checksum", "stored_bytes"))]
            require(len(matching) == 1, "the part is of another file")
            self._pieces.setdefault(matching[0], {})[segment["begin"]] = segment["data"]
        for index, pieces in self._pieces.items():
            stored = b"".join(piece for _, piece in sorted(pieces.items()))
            if len(stored) == self.regions[index]["stored_bytes"]:
                self._stored[index] = stored
                self.regions[index]["present"] = True

    def _stored_bytes(self, index):
        region = self.regions[index]
        return self._stored.get(index) or self.data[region["file_offset"]:][:region["stored_bytes"]]

    def _check_tensors(self):
        ends = {}
        for tensor in self.tensors:
            require(tensor["offset"] == align_up(ends.get(tensor["region"], 0), 64), f"place of {tensor['name']}")
            ends[tensor["region"]] = tensor["offset"] + tensor["bytes"]
        for index, region in enumerate(self.regions):
            if region:
                require(align_up(ends.get(index, 0), 64) == region["raw_bytes"], f"size of region {index}")

    def region(self, index):
        """The raw bytes of a region, verified; None when it is absent."""
        region = self.regions[index]
        if index not in self._raw and region["present"]:
            stored = self._stored_bytes(index)
            require(f"{xxh64(stored):016x}" == region["checksum"], f"checksum of region {index}")
            raw = stored if region["storage"] == "raw" else decode_frames(stored, region["frames"])
            require(len(raw) == region["raw_bytes"], f"size of region {index}")
            require(f"{xxh64(raw):016x}" == region["content_hash"], f"content of region {index}")
            self._raw[index] = raw
        return self._raw.get(index)

    def matrices(self, tensor):
        """One tensor as a list of row-major arrays: two where it is interleaved. None when it is absent."""
        raw = self.region(tensor["region"])
        if raw is None:
            return None
        data = raw[tensor["offset"]:][:tensor["bytes"]]
        n, k, type_ = tensor["n"], tensor["k"], tensor["type"]
        if tensor["kind"] == "plain":
            return [widen(data, type_)]
        table, data = np.frombuffer(data[:17], np.int8), data[head_bytes_of(type_):]
        if tensor["kind"] == "table":
            return [table_rows(np.frombuffer(data, np.uint8).reshape(n, -1), type_, k, table)]
        panels = np.frombuffer(data, np.uint8).reshape(tensor["panels"], -1)
        rows = panel_rows(panels, type_, k, table).reshape(tensor["panels"], 16, -1)
        count = tensor["panels"] // ((n + 15) // 16)
        return [rows[i::count].reshape(-1, rows.shape[2])[:n, :k] for i in range(count)]

    def weights(self):
        """{name: array} of what is there: shells joined, gate and up apart."""
        pieces = {}
        for tensor in sorted(self.tensors, key=lambda tensor: tensor["shell"]):
            matrices = self.matrices(tensor)
            if matrices is None:
                continue
            prefix, _, last = tensor["name"].rpartition(".")
            names = [f"{prefix}.gate", f"{prefix}.up"] if last == "gate_up" else [tensor["name"]]
            for name, matrix in zip(names, matrices, strict=True):
                pieces.setdefault(name, []).append(matrix)
        return {name: np.concatenate(parts, axis=1 if name.endswith(".ffn.down") else 0)
                for name, parts in pieces.items()}

    def describe(self):
        regions = [region and {**region, "frames": len(region["frames"])} for region in self.regions]
        return {"generation": self.generation, "file_bytes": self.file_bytes, "metadata": self.metadata,
                "regions": regions, "tensors": self.tensors}


def read_part(part):
    """The segments of a part file, verified."""
    require(part[:8] == PART_MAGIC and len(part) >= 65536, "not a part")
    checksum, version, count, zeros = struct.unpack_from("<QII40s", part, 8)
    require(version == 1, f"version {version} of parts")
    require(1 <= count <= 1023 and not any(zeros), "header of the part")
    require(checksum == xxh64(part[16:64 + 64 * count]), "checksum of the part")
    segments, end = [], 65536
    for i in range(count):
        kind, shell, content, region_checksum, stored, begin, size, offset, own = struct.unpack_from(
            "<IIQQQQQQQ", part, 64 + 64 * i)
        require(offset == align_up(end, 65536) and size > 0 and offset + size <= len(part), "place of a segment")
        require(begin % 65536 == 0 and (begin + size == stored or (size % 65536 == 0 and begin + size < stored)),
                "extent of a segment")
        end = offset + size
        require(own == xxh64(part[offset:end]), "checksum of a segment")
        segments.append({"kind": REGION_KINDS[kind], "shell": shell, "content_hash": f"{content:016x}",
                         "checksum": f"{region_checksum:016x}", "stored_bytes": stored, "begin": begin,
                         "data": part[offset:end]})
    require(end == len(part), "length of the part")
    return segments


def decode_frames(stored, frames):
    raw, at = [], 0
    for stored_bytes, raw_bytes, method, split in frames:
        piece = stored[at:at + stored_bytes]
        at += stored_bytes
        if method == 1:
            require(zstandard.frame_content_size(piece) == raw_bytes, "content size of a frame")
            piece = zstandard.ZstdDecompressor().decompress(piece)
            piece = np.frombuffer(piece, np.uint8).reshape(split, -1).T.tobytes()
        require(len(piece) == raw_bytes, "size of a frame")
        raw.append(piece)
    require(at == len(stored), "frames do not fill the region")
    return b"".join(raw)


def widen(data, type_):
    if type_ == "bf16":
        return (np.frombuffer(data, "<u2").astype("<u4") << 16).view("<f4")
    if type_ == "f16":
        return np.frombuffer(data, "<f2").astype("<f4")
    return np.frombuffer(data, "<f4" if type_ == "f32" else np.uint8)


def values(codes, type_, table):
    """The integers that codes stand for."""
    return (codes.astype(np.int16) - 128 if type_ == "q8" else table[codes]).astype("<f4")


def widen_scales(data, type_, table):
    """An f16 each, or a byte: sign, four bits of exponent, three of fraction."""
    if type_ == "q8":
        return widen(data.tobytes(), "f16")
    code, sign = data.astype(np.int32) & 127, np.where(data & 128, -1.0, 1.0)
    return (sign * (8 + code % 8) * np.exp2(code // 8 - 3.0 + table[16])).astype("<f4")


def table_rows(rows, type_, k, table):
    if type_ not in CODE_BYTES:
        return widen(rows.tobytes(), type_).reshape(len(rows), -1)[:, :k]
    blocks = (k + 31) // 32
    codes = rows[:, :blocks * CODE_BYTES[type_]].reshape(len(rows), blocks, -1)
    if type_ == "q4":
        codes = np.concatenate([codes & 15, codes >> 4], axis=2)
    scales = widen_scales(rows[:, blocks * CODE_BYTES[type_]:][:, :2 * blocks], type_, table)
    scales = np.repeat(scales.reshape(len(rows), blocks, -1), 32 if type_ == "q8" else 16, axis=2)
    return (values(codes, type_, table) * scales).reshape(len(rows), -1)[:, :k]


def panel_rows(panels, type_, k, table):
    """[panel][output][input]"""
    if type_ not in CODE_BYTES:
        elements = widen(panels.tobytes(), type_)
        if type_ == "bf16":  # panel, line, output, input of the line
            return elements.reshape(len(panels), -1, 16, 2).transpose(0, 2, 1, 3)
        return elements.reshape(len(panels), -1, 16).transpose(0, 2, 1)
    blocks, code_bytes = (k + 31) // 32, 16 * CODE_BYTES[type_]
    rows = np.zeros((len(panels), 16, blocks * 32), "<f4")
    for block in range(blocks):
        pair = block // 2 * (64 + 2 * code_bytes)
        at = pair + 64 + block % 2 * code_bytes
        codes = panels[:, at:at + code_bytes].reshape(len(panels), -1, 16, 4)  # panel, line, output, byte
        if type_ == "q4":
            codes = np.stack([codes & 15, codes >> 4], axis=2).reshape(len(panels), -1, 16, 4)
        scales = widen_scales(panels[:, pair + block % 2 * 32:][:, :32], type_, table).reshape(len(panels), -1, 16)
        scales = np.repeat(scales.transpose(0, 2, 1), 32 if type_ == "q8" else 16, axis=2)
        whole = values(codes, type_, table).transpose(0, 2, 1, 3).reshape(len(panels), 16, 32)
        rows[:, :, block * 32:block * 32 + 32] = whole * scales
    return rows


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file")
    parser.add_argument("part", nargs="*")
    parser.add_argument("--out", metavar="FOLDER")
    arguments = parser.parse_args()
    try:
        container = Container(arguments.file)
        for part in arguments.part:
            container.attach(part)
        text = json.dumps(container.describe(), indent=1)
        if not arguments.out:
            print(text)
            return 0
        folder = pathlib.Path(arguments.out)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "directory.json").write_text(text + "\n")
        for name, array in container.weights().items():
            np.save(folder / f"{name}.npy", array)
    except (FormatError, OSError, struct.error, ValueError, zstandard.ZstdError) as error:
        print(f"{arguments.file}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
