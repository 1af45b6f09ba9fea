#!/usr/bin/env python3
"""check_names.py [BUILD]: what one place names, the others name too. The last line says how many checks passed.

Of the library: include/matformer.h, lib/matformer.map, the Python layer, libmatformer(3), matformer.hpp. Of the program:
what --help prints, the manual pages, docs/cli-options.md, docs/cli.md, the three completions. First of all it plants a
name on one side only, of every pair, and each must be found."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BUILD = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "build"
sys.path.insert(0, str(ROOT / "bindings" / "python"))
import generate_abi  # noqa: E402

NO_OPTION = re.compile(r"[^-\w]--([a-z][a-z0-9-]*)")


def read(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def plain(page: str) -> str:
    """Of a manual page, the text without roff."""
    return re.sub(r"\\f[A-Z]", "", page).replace("\\-", "-").replace("\\(ga", "`").replace("\\(aq", "'")


def load() -> dict[str, str]:
    pages = BUILD / "tools" / "pages"
    program = BUILD / "tools" / "matformer"
    texts = {
        "header": read(ROOT / "include/matformer.h"), "map": read(ROOT / "lib/matformer.map"),
        "python": read(ROOT / "bindings/python/matformer/_abi.py"), "hpp": read(ROOT / "include/matformer.hpp"),
        "manual": plain(read(pages / "libmatformer.3")), "cli-options.md": read(ROOT / "docs/cli-options.md"),
        "cli.md": read(ROOT / "docs/cli.md"), "matformer(1)": plain(read(pages / "matformer.1")),
        "bash": read(pages / "matformer"), "zsh": read(pages / "_matformer"), "fish": read(pages / "matformer.fish"),
        "help": subprocess.run([program, "--help"], check=True, capture_output=True, text=True).stdout,
    }
    for command in commands_of(texts["help"]):
        texts[f"help {command}"] = subprocess.run([program, command, "--help"], check=True, capture_output=True,
                                                  text=True).stdout
        texts[f"page {command}"] = plain(read(pages / f"matformer-{command}.1"))
    return texts


# ---- What each place names ----

def commands_of(text: str) -> set[str]:
    return set(re.findall(r"^  ([a-z]+) +\S", text.split("Commands:")[1].split("\n\n")[0], re.MULTILINE))


def header_names(text: str) -> dict[str, set[str]]:
    """Enumerators by what Python calls them: without the part that all of an enum have."""
    header = generate_abi.parse_header(text)
    opaque = set(re.findall(r"^typedef struct (mf_\w+) mf_\w+;", text, re.MULTILINE))
    return {
        "functions": {function.name for function in header.functions},
        "enumerators": {f"{enum}.{name.removeprefix(generate_abi.enum_prefix(values))}={value}"
                        for enum, values in header.enums.items() for name, value in values},
        "fields": {f"{name}.{field.name}" for name, fields in header.structs.items() for field in fields},
        "types": set(header.structs) | set(header.enums) | set(header.callbacks) | opaque,
    }


def python_names(text: str) -> dict[str, set[str]]:
    enums = re.findall(r'^class \w+\(IntEnum\):\n    """(\w+)"""\n\n((?:    \w+ = -?\d+\n)+)', text, re.MULTILINE)
    structs = re.findall(r"^class (mf_\w+)\(Structure\):\n(.*?)^    \]", text, re.MULTILINE | re.DOTALL)
    return {
        "functions": set(re.findall(r"^        self\.(mf_\w+):", text, re.MULTILINE)),
        "enumerators": {f"{enum}.{name}={value}" for enum, body in enums
                        for name, value in re.findall(r"    (\w+) = (-?\d+)", body)},
        "fields": {f"{name}.{field}" for name, body in structs for field in re.findall(r'^        \("(\w+)",', body,
                                                                                        re.MULTILINE)},
    }


def manual_names(text: str) -> dict[str, set[str]]:
    listed = re.findall(r"^Types: (.*)\.$", text, re.MULTILINE)
    return {"functions": set(re.findall(r"^[a-z].*?[ *](mf_\w+)\(.*\);$", text, re.MULTILINE)),
            "types": {name for line in listed for name in line.split(", ")}}


def left_to_c(text: str) -> set[str]:
    """The functions that matformer.hpp says that it has no form for."""
    match = re.search(r"^ \* Left to matformer\.h: (.*?)\.", text, re.MULTILINE | re.DOTALL)
    return set(re.findall(r"mf_\w+", match[1])) if match else set()


def help_options(text: str) -> set[str]:
    return set(re.findall(r"^  (?:-\w,|   ) --([\w-]+)", text, re.MULTILINE))


def page_options(text: str) -> set[str]:
    return set(re.findall(r"^\.TP\n(?:-\w, )?--([\w-]+)", text, re.MULTILINE))


def markdown_options(text: str, command: str) -> set[str]:
    section = re.search(rf"^## {command}\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    return set(re.findall(r"^- `(?:-\w, )?--([\w-]+)", section[1], re.MULTILINE)) if section else set()


def shell_options(shell: str, text: str, command: str) -> set[str]:
    if shell == "bash":
        match = re.search(rf'^        {command}\) options="([^"]*)"', text, re.MULTILINE)
        return set(re.findall(r"--([\w-]+)", match[1])) if match else set()
    if shell == "zsh":
        match = re.search(rf"^        {command}\)\n(.*?);;", text, re.MULTILINE | re.DOTALL)
        return set(re.findall(r"'\*?--([\w-]+)\[", match[1])) if match else set()
    return set(re.findall(rf"seen_subcommand_from {command}'(?: -s \w)? -l ([\w-]+)", text))


def shell_commands(shell: str, text: str) -> set[str]:
    if shell == "bash":
        return set(re.findall(r'^        ([a-z]+)\) options=', text, re.MULTILINE))
    if shell == "zsh":
        return set(re.findall(r"^        '([a-z]+):", text, re.MULTILINE))
    return set(re.findall(r"-n __fish_use_subcommand -a ([a-z]+)", text))


# ---- Comparing ----

class Comparison:
    def __init__(self) -> None:
        self.problems: list[str] = []
        self.n_check = 0

    def same(self, one: str, names: set[str], other: str, other_names: set[str]) -> None:
        self.n_check += 1
        self.problems += [f"{name}: in {one}, not in {other}" for name in sorted(names - other_names)]
        self.problems += [f"{name}: in {other}, not in {one}" for name in sorted(other_names - names)]
        if not names:
            self.problems.append(f"{one}: no names found")


def compare_library(texts: dict[str, str], c: Comparison) -> None:
    header, python, manual = header_names(texts["header"]), python_names(texts["python"]), manual_names(texts["manual"])
    c.same("the header", header["functions"], "the map", set(re.findall(r"^ +(mf_\w+);", texts["map"], re.MULTILINE)))
    for kind in ("functions", "enumerators", "fields"):
        c.same(f"the header ({kind})", header[kind], "the Python layer", python[kind])
    for kind in ("functions", "types"):
        c.same(f"the header ({kind})", header[kind], "libmatformer(3)", manual[kind])
    used = set(re.findall(r"\b(mf_\w+)\b", re.sub(r"/\*.*?\*/", "", texts["hpp"], flags=re.DOTALL)))
    left = left_to_c(texts["hpp"])
    c.same("the header (functions)", header["functions"], "matformer.hpp", (used & header["functions"]) | left)
    c.same("left to C by matformer.hpp", left, "what it has no form for", left - used)


def compare_program(texts: dict[str, str], c: Comparison) -> None:
    commands = commands_of(texts["help"])
    c.same("--help", commands, "matformer(1)", set(re.findall(r"matformer-([a-z]+) \(1\)", texts["matformer(1)"])))
    for name in ("cli-options.md", "cli.md"):
        c.same("--help", commands, name, set(re.findall(r"^## ([a-z]+)$", texts[name], re.MULTILINE)))
    c.same("--help (options)", set(re.findall(r"--([\w]+)  ", texts["help"])), "matformer(1)",
           page_options(texts["matformer(1)"]))
    known: set[str] = set()
    for shell in ("bash", "zsh", "fish"):
        c.same("--help", commands, shell, shell_commands(shell, texts[shell]))
    for command in sorted(commands):
        options = help_options(texts.get(f"help {command}", ""))
        known |= options
        c.same(f"{command} --help", options, f"matformer-{command}(1)", page_options(texts.get(f"page {command}", "")))
        c.same(f"{command} --help", options, "cli-options.md", markdown_options(texts["cli-options.md"], command))
        for shell in ("bash", "zsh", "fish"):
            c.same(f"{command} --help", options, shell, shell_options(shell, texts[shell], command))
    named = set(NO_OPTION.findall(texts["cli.md"]))
    c.same("docs/cli.md (options)", named, "any --help", named & known)


def compare(texts: dict[str, str]) -> Comparison:
    c = Comparison()
    compare_library(texts, c)
    compare_program(texts, c)
    return c


# ---- Planting ----

# A text, what is replaced in it once, and by what: a name that this text alone then has or lacks.
MUTATIONS = [
    ("header", "MF_API uint32_t mf_version(void);", "MF_API uint32_t mf_version(void);\nMF_API uint32_t mf_planted(void);"),
    ("header", "    size_t struct_size;", "    size_t struct_size;\n    int planted;"),
    ("header", "MF_CACHE_Q8 = 2", "MF_CACHE_Q8 = 2, MF_CACHE_PLANTED = 3"),
    ("header", "MF_CACHE_Q8 = 2", "MF_CACHE_Q8 = 4"),
    ("header", "typedef struct mf_model mf_model;", "typedef struct mf_model mf_model;\ntypedef struct mf_planted mf_planted;"),
    ("map", "    mf_version;\n", ""),
    ("map", "    mf_version;", "    mf_version;\n    mf_planted;"),
    ("python", "        self.mf_version:", "        self.mf_planted:"),
    ("python", '        ("verify",', '        ("planted",'),
    ("python", "    E_BUSY = -9", "    E_BUSY = -29"),
    ("manual", "mf_version(void);", "mf_planted(void);"),
    ("manual", "Types: mf_status", "Types: mf_planted, mf_status"),
    ("hpp", "mf_session_rewind(", "mf_session_planted("),
    ("help", "  eval ", "  planted "),
    ("help run", " --size ", " --planted "),
    ("page run", "--size ", "--planted "),
    ("cli-options.md", "--size ", "--planted "),
    ("cli-options.md", "## eval\n", "## planted\n"),
    ("cli.md", "## eval\n", "## planted\n"),
    ("cli.md", "`--tensors`", "`--planted`"),
    ("matformer(1)", "matformer-eval (1)", "matformer-planted (1)"),
    ("bash", "--tensors", "--planted"),
    ("bash", "        eval) options", "        planted) options"),
    ("zsh", "'--tensors[", "'--planted["),
    ("fish", "-l tensors", "-l planted"),
]


def main() -> int:
    texts = load()
    failed = 0
    before = set(compare(texts).problems)
    for name, old, new in MUTATIONS:
        planted = {**texts, name: texts[name].replace(old, new, 1)}
        try:
            found = planted[name] != texts[name] and not before.issuperset(compare(planted).problems)
        except generate_abi.HeaderError:
            found = True
        if not found:
            print(f"FAILED  a change of {name} was not found: {old!r} to {new!r}")
            failed += 1
    comparison = compare(texts)
    made = read(BUILD / "tools" / "pages" / "cli-options.md")
    if made != texts["cli-options.md"]:
        comparison.problems.append(f"docs/cli-options.md is not {BUILD}/tools/pages/cli-options.md: copy that there")
    print("\n".join(comparison.problems))
    failed += len(comparison.problems)
    print(f"{comparison.n_check + 1 + len(MUTATIONS) - min(failed, comparison.n_check)} passed, {failed} failed")
    return failed > 0


if __name__ == "__main__":
    sys.exit(main())
