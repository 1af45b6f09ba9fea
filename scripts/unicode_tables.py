#!/usr/bin/env python3
"""Writes lib/model/unicode_tables.h: letters, numbers and white space, and what NFC needs.

    pip install unicodedata2==16.0.0
    python3 scripts/unicode_tables.py > lib/model/unicode_tables.h

Unicode 16 is what the split patterns of the Hugging Face `tokenizers` package know.
"""
import unicodedata2 as unicode

OTHER, LETTER, NUMBER, WHITE = range(4)
LAST = 0x10FFFF
HANGUL = range(0xAC00, 0xD7A4)  # composed and decomposed by arithmetic
WHITES = [*range(9, 14), 0x20, 0x85, 0xA0, 0x1680, *range(0x2000, 0x200B), 0x2028, 0x2029, 0x202F, 0x205F, 0x3000]


def class_of(code):
    if code in WHITES:
        return WHITE
    return {"L": LETTER, "N": NUMBER}.get(unicode.category(chr(code))[0], OTHER)


def runs(value_of):
    """(first code, value) where the value changes."""
    out = []
    for code in range(LAST + 1):
        value = value_of(code)
        if not out or out[-1][1] != value:
            out.append((code, value))
    return out


def decompositions():
    out = []
    for code in range(LAST + 1):
        parts = unicode.decomposition(chr(code))
        if parts and not parts.startswith("<") and code not in HANGUL:
            out.append((code, *[int(part, 16) for part in parts.split()]))
    decomposed = {row[0] for row in out}
    # mfi_nfc() descends into the first part alone.
    assert all(len(row) < 3 or row[2] not in decomposed for row in out)
    return [(*row, 0) if len(row) == 2 else row for row in out]


def is_composed(row):
    return row[2] and unicode.normalize("NFC", chr(row[0])) == chr(row[0])


def table(kind, name, cells, comment):
    print(f"\n/* {comment} */\nstatic const {kind} {name}[] = {{")
    line = "   "
    for cell in cells:
        if len(line) + len(cell) + 2 > 120:
            print(line)
            line = "   "
        line += f" {cell},"
    print(f"{line}\n}};")


def main():
    rows = decompositions()
    pairs = sorted((row[1], row[2], i) for i, row in enumerate(rows) if is_composed(row))
    print(f"/* unicode_tables.h - Unicode {unicode.unidata_version}. Written by scripts/unicode_tables.py. */")
    print("/* clang-format off */\n#ifndef MFI_UNICODE_TABLES_H\n#define MFI_UNICODE_TABLES_H\n\n#include <stdint.h>")
    table("uint32_t", "class_runs", [f"{code << 2 | value:#x}" for code, value in runs(class_of)],
          "Classes of code points (unicode.h): first code << 2 | class, up to the next entry.")
    table("uint32_t", "combining_runs",
          [f"{code << 8 | value:#x}" for code, value in runs(lambda code: unicode.combining(chr(code)))],
          "Canonical combining classes: first code << 8 | class, up to the next entry.")
    print("\ntypedef struct decomposition {\n    uint32_t code, first, second; /* second: 0 where there is one alone */\n"
          "} decomposition;")
    table("decomposition", "decompositions", ["{ %#x, %#x, %#x }" % row for row in rows],
          "Canonical decompositions of one step, in the order of codes, without Hangul.")
    table("uint16_t", "compositions", [str(i) for _, _, i in pairs],
          "Those that NFC composes again, in the order of (first, second): indices of decompositions.")
    print("\n#endif")


if __name__ == "__main__":
    main()
