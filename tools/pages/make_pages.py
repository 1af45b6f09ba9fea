#!/usr/bin/env python3
"""make_pages.py TABLES.json MATFORMER_H VERSION FOLDER: manual pages, docs/cli-options.md, and completions.

All of it comes from the tables that --help prints (cli_tables.c) and, for libmatformer(3), from the header."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

# What the help calls values, where files are meant, and where sizes are.
FILES = re.compile(r"^(FILE(\.\w+)?|PATH|IN|OUT)$")
SIZES = ("SIZE", "SIZE:SIZE")
SIZE_NAMES = "S M L XL"


# ---- Tables ----

def real_options(command: dict) -> list[dict]:
    """Those that are no headings, and --help, which every command has."""
    listed = [option for option in command["options"] if option["kind"] != "section"]
    return listed + [{"kind": "flag", "name": "help", "letter": "h", "value": None, "help": "print this text"}]


def words_of(option: dict) -> list[str]:
    """The values among which one is to be chosen; of sizes, the names that are usual."""
    if option["kind"] == "choice":
        return option["value"].split("|")
    return SIZE_NAMES.split() if option["value"] in SIZES else []


def takes_file(option: dict) -> bool:
    return bool(option["value"] and FILES.match(option["value"]))


def first_words(command: dict) -> list[str]:
    """`[views|decode|...]` at the beginning of the usage: what the first argument may be."""
    match = re.match(r"\[([\w|]+\|[\w|]+)\]", command["usage"])
    return match[1].split("|") if match else []


# ---- Manual pages ----

def roff(text: str) -> str:
    """Text as it is, with nothing in it that roff obeys."""
    text = text.replace("\\", "\\e").replace("-", "\\-").replace("`", "\\(ga").replace("'", "\\(aq")
    return re.sub(r"^\.", r"\\&.", text.replace("~", "\\(ti").replace("^", "\\(ha"), flags=re.MULTILINE)


# No date: a page is of a version, and the same sources give the same page.
def title(name: str, section: int, version: str, manual: str) -> list[str]:
    return [f'.TH {name} {section} "" "libmatformer {version}" "{manual}"']


def option_lines(option: dict) -> list[str]:
    letter = f"\\fB\\-{option['letter']}\\fR, " if option["letter"] else ""
    value = f" \\fI{roff(option['value'])}\\fR" if option["value"] else ""
    return [".TP", f"{letter}\\fB\\-\\-{roff(option['name'])}\\fR{value}", roff(option["help"])]


def command_page(command: dict, tables: dict, version: str) -> str:
    name = f"matformer-{command['name']}"
    lines = title(name.upper(), 1, version, "matformer")
    lines += [".SH NAME", f"{roff(name)} \\- {roff(command['summary'])}"]
    lines += [".SH SYNOPSIS", f".B matformer {command['name']}", roff(command["usage"]), ".SH OPTIONS"]
    for option in command["options"]:
        lines += [f".SS {roff(option['help'])}"] if option["kind"] == "section" else option_lines(option)
    lines += option_lines(real_options(command)[-1])
    if command["details"]:
        lines.append(".SH DETAILS")
        for i, paragraph in enumerate(command["details"].strip("\n").split("\n\n")):
            lines += [*([".PP"] if i > 0 else []), ".nf", roff(paragraph), ".fi"]
    lines += [".SH EXIT STATUS", roff(tables["exit_status"]) + "."]
    return "\n".join(lines + [".SH SEE ALSO", ".BR matformer (1),", ".BR libmatformer (3)"]) + "\n"


def program_page(tables: dict, version: str) -> str:
    lines = title("MATFORMER", 1, version, "matformer")
    lines += [".SH NAME", "matformer \\- nested transformers: " + roff(tables["summary"][0].lower()
                                                                       + tables["summary"][1:])]
    lines += [".SH SYNOPSIS", ".B matformer", "\\fICOMMAND\\fR [OPTION...] [ARGUMENT...]", ".SH COMMANDS"]
    for command in tables["commands"]:
        lines += [".TP", f".BR matformer\\-{command['name']} (1)", roff(command["summary"])]
    lines.append(".SH OPTIONS")
    for option in tables["options"]:
        lines += option_lines(option)
    return "\n".join(lines + [".SH EXIT STATUS", roff(tables["exit_status"]) + ".", ".SH SEE ALSO",
                              ".BR libmatformer (3)"]) + "\n"


def sections_of(header: str) -> list[tuple[str, str]]:
    parts = re.split(r"^/\* ---- (.+?) -+", header, flags=re.MULTILINE)
    return list(zip(parts[1::2], parts[2::2]))


def prose_of(body: str) -> list[str]:
    """The paragraphs of the comment that opens a section; none where it is a line."""
    text = body.split("*/")[0]
    lines = [re.sub(r"^ \* ?", "", line) for line in text.split("\n")[1:]]
    return [paragraph for paragraph in "\n".join(lines).strip().split("\n\n") if paragraph.strip()]


def declarations_of(body: str) -> tuple[list[str], list[str]]:
    """The types that a section defines, and its functions."""
    code = re.sub(r"/\*.*?\*/", "", body, flags=re.DOTALL)
    types = re.findall(r"^(?:\} |typedef struct \w+ |typedef enum \w+ \{.*\} )(mf_\w+);", code, flags=re.MULTILINE)
    types += re.findall(r"^typedef [^;{]*\(\*(mf_\w+)\)", code, flags=re.MULTILINE)
    return types, [" ".join(text.split()) for text in re.findall(r"^MF_API (.*?;)", code, re.MULTILINE | re.DOTALL)]


def library_page(header: str, version: str) -> str:
    lines = title("LIBMATFORMER", 3, version, "libmatformer")
    lines += [".SH NAME", "libmatformer \\- nested (MatFormer) transformers: one weight file, every model size"]
    lines += [".SH SYNOPSIS", ".nf", "#include <matformer.h>", "", "cc program.c $(pkg\\-config \\-\\-cflags \\-\\-libs matformer)",
              ".fi", ".SH DESCRIPTION", "What each function takes, returns and promises stands beside its declaration in",
              "matformer.h. Here they are listed, by the sections of that file."]
    for name, body in sections_of(header):
        lines.append(f".SS {roff(name)}")
        paragraphs = []
        for paragraph in prose_of(body):
            is_code = paragraph.startswith("    ")
            paragraphs.append("\n".join([".nf", roff(paragraph), ".fi"] if is_code else [roff(paragraph)]))
        types, functions = declarations_of(body)
        if types:
            paragraphs.append("Types: " + ", ".join(f"\\fB{kind}\\fR" for kind in types) + ".")
        paragraphs += [f"\\fB{roff(function)}\\fR" for function in functions]
        lines.append("\n.PP\n".join(paragraphs))
    return "\n".join(lines + [".SH SEE ALSO", ".BR matformer (1)"]) + "\n"


# ---- docs/cli-options.md ----

def markdown(tables: dict) -> str:
    lines = ["# The program's options", "", "What `matformer COMMAND --help` prints of each command, from the same tables: "
             "`build/tools/pages/cli-options.md` is this page, made with the program. [cli.md](cli.md) says what is behind "
             "them."]
    for command in tables["commands"]:
        lines += ["", f"## {command['name']}", "", command["summary"] + ".", "",
                  "```text", f"matformer {command['name']} {command['usage']}", "```", ""]
        for option in [*command["options"], real_options(command)[-1]]:
            if option["kind"] == "section":
                lines += ["", f"{option['help']}:", ""]
                continue
            value = f" {option['value']}" if option["value"] else ""
            help_text = option["help"].replace("|", "\\|").replace("<", "&lt;").replace("*", "\\*")
            lines.append(f"- `{', '.join(reversed(forms(option)))}{value}`: {help_text}")
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)) + "\n"


# ---- Completions ----

def bash_case(patterns: list[str], action: str) -> str:
    return f"        {'|'.join(patterns)}) {action} ;;"


def forms(option: dict) -> list[str]:
    return [f"--{option['name']}", *([f"-{option['letter']}"] if option["letter"] else [])]


def bash(tables: dict) -> str:
    names = " ".join(command["name"] for command in tables["commands"])
    own = " ".join(form for option in tables["options"] for form in forms(option))
    lines = ["# bash completion of matformer; made from its tables of options.", "_matformer()", "{",
             "    local current=${COMP_WORDS[COMP_CWORD]} previous=${COMP_WORDS[COMP_CWORD-1]} command=${COMP_WORDS[1]}",
             "    COMPREPLY=()", "    if [ \"$COMP_CWORD\" -eq 1 ]; then",
             f"        mapfile -t COMPREPLY < <(compgen -W \"{names} {own}\" -- \"$current\")", "        return", "    fi",
             "    # Values of options.", "    case $command:$previous in"]
    for command in tables["commands"]:
        for option in real_options(command):
            if option["kind"] == "flag":
                continue
            if words_of(option):
                action = f"mapfile -t COMPREPLY < <(compgen -W \"{' '.join(words_of(option))}\" -- \"$current\"); return"
            elif takes_file(option):
                action = "compopt -o filenames; mapfile -t COMPREPLY < <(compgen -f -- \"$current\"); return"
            else:
                action = "return"
            lines.append(bash_case([f"{command['name']}:{form}" for form in forms(option)], action))
    lines += ["    esac", "    local options= words=", "    case $command in"]
    for command in tables["commands"]:
        listed = " ".join(form for option in real_options(command) for form in forms(option))
        lines.append(bash_case([command["name"]], f"options=\"{listed}\" words=\"{' '.join(first_words(command))}\""))
    lines += ["    esac", "    case $current in",
              "        -*) mapfile -t COMPREPLY < <(compgen -W \"$options\" -- \"$current\") ;;",
              "        *) compopt -o filenames",
              "           [ \"$COMP_CWORD\" -gt 2 ] && words=",
              "           mapfile -t COMPREPLY < <(compgen -W \"$words\" -- \"$current\"; compgen -f -- \"$current\") ;;",
              "    esac", "}", "complete -F _matformer matformer"]
    return "\n".join(lines) + "\n"


def quoted(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"


def zsh_option(option: dict) -> str:
    help_text = re.sub(r"([\[\]:\\])", r"\\\1", option["help"])
    value = ""
    if option["kind"] != "flag":
        name = re.sub(r"[^A-Za-z]+", " ", option["value"]).strip() if option["kind"] != "choice" else "value"
        action = f"({' '.join(words_of(option))})" if words_of(option) else "_files" if takes_file(option) else ""
        value = f":{name}:{action}"
    repeat = "*" if option["kind"] == "texts" else ""
    return " ".join(quoted(f"{repeat}{form}[{help_text}]{value}") for form in forms(option))


def zsh(tables: dict) -> str:
    lines = ["#compdef matformer", "# zsh completion of matformer; made from its tables of options.", "_matformer() {",
             "    local -a commands", "    commands=("]
    lines += [f"        {quoted(command['name'] + ':' + command['summary'].replace(':', ' -'))}"
              for command in tables["commands"]]
    lines += ["    )", "    if (( CURRENT == 2 )); then", "        _describe command commands",
              "        _arguments " + " ".join(zsh_option(option) for option in tables["options"]), "        return",
              "    fi", "    local command=$words[2]", "    shift words", "    (( CURRENT-- ))", "    case $command in"]
    for command in tables["commands"]:
        words = first_words(command)
        positional = [f"1:what:({' '.join(words)})", "*:file:_files"] if words else ["*:file:_files"]
        lines.append(f"        {command['name']})")
        lines.append("            _arguments -s \\")
        lines += [f"                {zsh_option(option)} \\" for option in real_options(command)]
        lines.append("                " + " ".join(quoted(one) for one in positional) + " ;;")
    return "\n".join(lines + ["    esac", "}", "_matformer \"$@\""]) + "\n"


def fish_option(option: dict, condition: str) -> str:
    letter = f" -s {option['letter']}" if option["letter"] else ""
    value = ""
    if option["kind"] != "flag":
        words = words_of(option)
        value = f" -x -a {quoted(' '.join(words))}" if words else " -r -F" if takes_file(option) else " -x"
    help_text = option["help"].replace("\\", "\\\\").replace("'", "\\'")
    return f"complete -c matformer -n {quoted(condition)}{letter} -l {option['name']}{value} -d '{help_text}'"


def fish(tables: dict) -> str:
    lines = ["# fish completion of matformer; made from its tables of options.",
             "complete -c matformer -n __fish_use_subcommand -f"]
    lines += [fish_option(option, "__fish_use_subcommand") for option in tables["options"]]
    for command in tables["commands"]:
        name, summary = command["name"], command["summary"].replace("'", "\\'")
        seen = f"__fish_seen_subcommand_from {name}"
        lines.append(f"complete -c matformer -n __fish_use_subcommand -a {name} -d '{summary}'")
        if first_words(command):
            lines.append(f"complete -c matformer -n {quoted(seen)} -a {quoted(' '.join(first_words(command)))}")
        lines += [fish_option(option, seen) for option in real_options(command)]
    return "\n".join(lines) + "\n"


def main() -> int:
    tables = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    header, version, folder = Path(sys.argv[2]).read_text(encoding="utf-8"), sys.argv[3], Path(sys.argv[4])
    pages = {f"matformer-{command['name']}.1": command_page(command, tables, version) for command in tables["commands"]}
    pages |= {"matformer.1": program_page(tables, version), "libmatformer.3": library_page(header, version),
              "cli-options.md": markdown(tables), "matformer": bash(tables), "_matformer": zsh(tables), "matformer.fish": fish(tables)}
    for name, text in pages.items():
        (folder / name).write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
