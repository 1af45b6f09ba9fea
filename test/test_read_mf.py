#!/usr/bin/env python3
"""test_read_mf.py SAVE_FIXTURES READ_MF [MATFORMER] - the reader in Python, which knows the specification only, finds
in the C writer's files what went into them."""
import json
import pathlib
import subprocess
import sys
import tempfile

SKIPPED = 77  # for meson

try:
    import numpy as np
    import xxhash  # noqa: F401
    import zstandard  # noqa: F401
except ImportError as missing:
    print(f"skipped: {missing}; the second reader needs numpy, xxhash and zstandard")
    sys.exit(SKIPPED)


# How far a weight of the fixtures, which are below 1, may lie from what was packed.
TOLERANCE = {"q8": 0.565 / 127, "q4": 0.25}


def check(read_mf, file, folder, parts=()):
    subprocess.run([sys.executable, read_mf, file, *parts, "--out", folder / "out"], check=True)
    expected = {path.stem: np.fromfile(path, "<f4") for path in folder.glob("*.f32")}
    found = {path.stem: np.load(path) for path in (folder / "out").glob("*.npy")}
    blob = found.pop("tokenizer", np.zeros(0, np.uint8)).tobytes()
    expected_blob = folder / "tokenizer.bin"
    assert blob == (expected_blob.read_bytes() if expected_blob.exists() else b""), "tokenizer"
    freqs = found.pop("rope.freqs", None)
    if freqs is not None:
        assert np.array_equal(freqs, (10000.0 ** (-2.0 * np.arange(8) / 16)).astype("<f4")), "rope.freqs"
    assert sorted(found) == sorted(expected), sorted(set(found) ^ set(expected))
    for name, weights in expected.items():
        assert found[name].dtype == np.float32 and found[name].size == weights.size, name
        is_matrix = "norm" not in name
        tolerance = TOLERANCE.get(file.stem.split("-")[2], 0) if is_matrix else 0
        assert np.max(np.abs(found[name].reshape(-1) - weights)) <= tolerance, name
    metadata = json.loads((folder / "out" / "directory.json").read_text())["metadata"]
    assert metadata["family"] == "matlm" and metadata["granularity.2.ffn"] == [160, 128, 96], "metadata"
    assert metadata.get("window", [0, 0, 3]) == [0, 0, 3], "windows"
    assert "bos_token" not in metadata and metadata["eos_token"] == 262, "special tokens"


def check_prefix(read_mf, file):
    """The file up to the end of its base opens without the rest; one byte less is refused."""
    directory = json.loads(subprocess.run([sys.executable, read_mf, file], check=True, capture_output=True).stdout)
    base = directory["regions"][0]
    end = base["file_offset"] + base["stored_bytes"]
    data = file.read_bytes()
    for length, expected in ((end, 0), (end - 1, 1)):
        file.write_bytes(data[:length])
        assert subprocess.run([sys.executable, read_mf, file], capture_output=True).returncode == expected, length


def check_parts(read_mf, matformer, file):
    """A file cut into a head and parts has in them what it had; a part with a changed byte is refused."""
    cut = file.parent / "cut"
    cut.mkdir(exist_ok=True)
    head = cut / file.name
    subprocess.run([matformer, "export", file, head, "--shells"], check=True, capture_output=True)
    parts = sorted(cut.glob(f"{file.stem}.*.mfpart"))
    assert parts
    check(read_mf, head, file.with_suffix(""), parts)
    data = bytearray(parts[0].read_bytes())
    for at in (40, 120, len(data) - 1):
        changed = cut / "changed"
        changed.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1:])
        assert subprocess.run([sys.executable, read_mf, head, changed], capture_output=True).returncode == 1, at


def main():
    save_fixtures, read_mf, *matformer = sys.argv[1:]
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([save_fixtures, folder, "--weights"], check=True)
        files = sorted(pathlib.Path(folder).glob("*.mf"))
        assert len(files) == 7
        for file in files:
            check(read_mf, file, file.with_suffix(""))
        if matformer:  # one raw, one compressed
            check_parts(read_mf, matformer[0], files[0])
            check_parts(read_mf, matformer[0], next(file for file in files if "zstd" in file.name))
        check_prefix(read_mf, files[0])
    print("ok")


if __name__ == "__main__":
    main()
