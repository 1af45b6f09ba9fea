#!/usr/bin/env python3
"""Writes matformer/_abi.py, the ctypes form of include/matformer.h: enums, structs, function pointers, functions.

    bindings/python/generate_abi.py            write it
    bindings/python/generate_abi.py --check    fail if it is not what the header gives

Reads the header's own regular style, not C: a declaration that it does not understand is an error, not left out.
tests/test_abi.py has a compiler confirm what comes out.
"""

from __future__ import annotations

import os
import re
import sys
from dataclasses import dataclass, field
from os.path import commonprefix
from pathlib import Path

HERE = Path(__file__).resolve().parent
HEADER = HERE.parents[1] / "include" / "matformer.h"
OUTPUT = HERE / "matformer" / "_abi.py"

NUMBERS = {
    "int": "c_int", "unsigned": "c_uint", "char": "c_char", "float": "c_float", "double": "c_double",
    "size_t": "c_size_t",
    **{f"{sign}int{bits}_t": f"c_{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)},
}
READ = ("mf_plan_entry", "mf_plan_draft")  # are filled in by getters like those whose names end in _info
PYTHON_TYPES = {"c_float": "float", "c_double": "float", "c_char": "bytes", "c_char_p": "Optional[bytes]",
                "c_void_p": "Optional[int]"}


class HeaderError(Exception):
    """A declaration that is in none of the forms known here."""


@dataclass
class Parameter:
    name: str
    base: str  # the type's name without const and stars
    stars: int
    is_const: bool = False
    array: str = ""  # the length's text
    callback: str = ""  # for a function pointer: the call that makes its type


@dataclass
class Function:
    name: str
    result: Parameter
    parameters: list[Parameter]


@dataclass
class Header:
    numbers: dict[str, int] = field(default_factory=dict)
    status_texts: dict[str, tuple[int, str]] = field(default_factory=dict)
    enums: dict[str, list[tuple[str, int]]] = field(default_factory=dict)
    order: list[tuple[str, str]] = field(default_factory=list)  # ("struct" | "callback", name)
    structs: dict[str, list[Parameter]] = field(default_factory=dict)
    callbacks: dict[str, Function] = field(default_factory=dict)
    functions: list[Function] = field(default_factory=list)


# ---- Reading ----

def split_top(text: str, separator: str) -> list[str]:
    """Splits where the separator is in no bracket."""
    parts, depth, begin = [], 0, 0
    for at, character in enumerate(text):
        depth += (character in "({[") - (character in ")}]")
        if character == separator and depth == 0:
            parts.append(text[begin:at].strip())
            begin = at + 1
    parts.append(text[begin:].strip())
    return [part for part in parts if part]


def parse_parameter(text: str, needs_name: bool = True) -> Parameter:
    match = re.fullmatch(r"(?P<const>const )?(?:struct |enum )?(?P<base>\w+)(?P<stars>[\s*]*(?:const)?[\s*]*)"
                         r"(?P<name>\b\w+)?(?:\[(?P<array>\w+)\])?", text.strip())
    if not match or (needs_name and not match["name"]):
        raise HeaderError(f"not a declaration of one variable: {text!r}")
    return Parameter(match["name"] or "", match["base"], match["stars"].count("*"), bool(match["const"]),
                     match["array"] or "")


def parse_parameters(text: str) -> list[Parameter]:
    return [] if text.strip() == "void" else [parse_parameter(part) for part in split_top(text, ",")]


def parse_pointer(text: str) -> Function | None:
    """RESULT (*NAME)(PARAMETERS)"""
    match = re.fullmatch(r"(?P<result>[\w\s*]+?)\(\*(?P<name>\w+)\)\((?P<parameters>.*)\)", text)
    if not match:
        return None
    return Function(match["name"], parse_parameter(match["result"], needs_name=False),
                    parse_parameters(match["parameters"]))


def parse_fields(body: str, header: Header) -> list[Parameter]:
    fields = []
    for line in split_top(body, ";"):
        pointer = parse_pointer(line)
        if pointer:
            fields.append(Parameter(pointer.name, "", 0, callback=callback_call(pointer, header)))
            continue
        first, *others = split_top(line, ",")
        fields.append(parse_parameter(first))
        for name in others:
            if not re.fullmatch(r"\w+", name):
                raise HeaderError(f"only plain names may follow the first one: {line!r}")
            fields.append(Parameter(name, fields[-1].base, fields[-1].stars, fields[-1].is_const))
    return fields


def parse_enum(body: str) -> list[tuple[str, int]]:
    values, following = [], 0
    for line in split_top(body, ","):
        name, _, value = (part.strip() for part in line.partition("="))
        following = int(value, 0) if value else following
        values.append((name, following))
        following += 1
    return values


def parse_declaration(text: str, header: Header) -> None:
    if match := re.fullmatch(r"MF_API (?P<result>[\w\s*]+?)(?P<name>mf_\w+)\((?P<parameters>.*)\)", text):
        header.functions.append(Function(match["name"], parse_parameter(match["result"], needs_name=False),
                                         parse_parameters(match["parameters"])))
    elif re.fullmatch(r"typedef struct (\w+) (\w+)", text):
        pass  # opaque: an address
    elif match := re.fullmatch(r"typedef struct (\w+) \{(?P<body>.*)\} (?P<name>\w+)", text):
        header.structs[match["name"]] = parse_fields(match["body"], header)
        header.order.append(("struct", match["name"]))
    elif match := re.fullmatch(r"typedef enum (\w+) \{(?P<body>.*)\} (?P<name>\w+)", text):
        # The status codes are a list of macros.
        of_status = [(f"MF_{name}", value) for name, (value, _) in header.status_texts.items()]
        header.enums[match["name"]] = parse_enum(match["body"]) or of_status
    elif text.startswith("typedef ") and (pointer := parse_pointer(text.removeprefix("typedef "))):
        header.callbacks[pointer.name] = pointer
        header.order.append(("callback", pointer.name))
    else:
        raise HeaderError(f"a declaration in no form that is known: {text!r}")


def parse_macros(text: str, header: Header) -> None:
    for name, value in re.findall(r"^#define (MF_\w+) (\d+|0x[0-9a-fA-F]+|UINT32_MAX)$", text, re.MULTILINE):
        header.numbers[name] = 0xFFFFFFFF if value == "UINT32_MAX" else int(value, 0)
    statuses = re.search(r"^#define MF_STATUS_MAP\(X\)(.*)$", text, re.MULTILINE)
    if not statuses:
        raise HeaderError("MF_STATUS_MAP is missing")
    for name, value, words in re.findall(r'X\((\w+), (-?\d+), "([^"]*)"\)', statuses[1]):
        header.status_texts[name] = (int(value), words)


def parse_header(text: str) -> Header:
    header = Header()
    text = re.sub(r"/\*.*?\*/", " ", text, flags=re.DOTALL).replace("\\\n", " ")
    text = re.sub(r"[ \t]+$", "", text, flags=re.MULTILINE)
    parse_macros(text, header)
    text = re.sub(r"^\s*#.*$", "", text, flags=re.MULTILINE)
    text = re.sub(r"\bMF_STATUS_MAP\(\w+\)", "", text)
    text = text.replace('extern "C" {', "", 1)
    text = text[:text.rindex("}", text.rindex(";"))]  # of extern "C"
    for declaration in split_top(text, ";"):
        parse_declaration(re.sub(r"\s+", " ", declaration), header)
    return header


# ---- Types ----

def number_type(base: str, header: Header) -> str:
    if base in header.enums:
        return "c_int"
    if base in NUMBERS:
        return NUMBERS[base]
    raise HeaderError(f"unknown type {base}")


def callback_type(parameter: Parameter, header: Header, has_length: bool) -> str:
    """Callbacks get addresses; text only where no length says that it need not be terminated."""
    if parameter.stars:
        is_text = parameter.base == "char" and parameter.is_const and parameter.stars == 1 and not has_length
        return "c_char_p" if is_text else "c_void_p"
    if parameter.base == "void":
        return "None"
    return parameter.base if parameter.base in header.callbacks else number_type(parameter.base, header)


def callback_call(function: Function, header: Header) -> str:
    names = {p.name for p in function.parameters}
    types = [callback_type(p, header, f"{p.name}_bytes" in names) for p in [function.result, *function.parameters]]
    return f"CFUNCTYPE({', '.join(types)})"


def value_type(parameter: Parameter, header: Header, has_length: bool, in_struct: bool) -> str:
    """The ctypes name of a field (in_struct), an argument or a result."""
    base, stars = parameter.base, parameter.stars
    if stars == 0:
        if base == "void":
            return "None"
        if base in header.structs or base in header.callbacks:
            return base
        kind = number_type(base, header)
        if parameter.array:
            length = header.numbers.get(parameter.array) or int(parameter.array)
            return f"{kind} * {length}"
        return kind
    if base == "char" and parameter.is_const:
        # Read from a struct, a c_char_p looks for a terminator: text with a length need not have one.
        of_text = "c_void_p" if in_struct and has_length else "c_char_p"
        return of_text if stars == 1 else f"POINTER({of_text})"
    if stars == 1:
        return f"POINTER({base})" if base in header.structs else "c_void_p"
    return "POINTER(c_void_p)"


def python_type(ctype: str) -> str:
    if ctype == "None":
        return ctype
    if ctype.startswith("c_char *"):
        return "bytes"
    if ctype.startswith("c_"):
        return PYTHON_TYPES.get(ctype, "int")
    return "Any"


# ---- Writing ----

HEAD = '''"""include/matformer.h for ctypes. Made by bindings/python/generate_abi.py: do not edit."""

# ruff: noqa
from __future__ import annotations

from ctypes import CDLL, CFUNCTYPE, POINTER, Structure, string_at
from ctypes import {names}
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Callable, Optional
'''

LIBRARY = '''

class Library:
    """The functions of a libmatformer. AttributeError: the library lacks one that this package calls."""

    def __init__(self, path: str) -> None:
        dll = CDLL(path)

        def function(name: str, result: Any, *arguments: Any) -> Any:
            found = getattr(dll, name)
            found.restype = result
            found.argtypes = arguments
            return found

'''


def class_name(name: str) -> str:
    return "".join(word.title() for word in name.removeprefix("mf_").split("_"))


def enum_prefix(values: list[tuple[str, int]]) -> str:
    """What all names of an enum begin with, up to an underscore: MF_CACHE_ of MF_CACHE_F32 and MF_CACHE_BF16."""
    common = commonprefix([name for name, _ in values])
    return common[:common.rindex("_") + 1]


def enum_lines(name: str, values: list[tuple[str, int]]) -> list[str]:
    prefix = enum_prefix(values)
    lines = ["", "", f"class {class_name(name)}(IntEnum):", f'    """{name}"""', ""]
    return lines + [f"    {value_name.removeprefix(prefix)} = {value}" for value_name, value in values]


def struct_lines(name: str, fields: list[Parameter], header: Header) -> list[str]:
    names = {f.name for f in fields}
    types = [(f.name, f"{name}_{f.name}" if f.callback else value_type(f, header, f"{f.name}_bytes" in names, True))
             for f in fields]
    lines = [line for f in fields if f.callback for line in ("", "", f"{name}_{f.name} = {f.callback}")]
    lines += ["", "", f"class {name}(Structure):"]
    lines += [f"    {field_name}: {python_type(ctype)}" for field_name, ctype in types]
    lines.append("    _fields_ = [")
    lines += [f'        ("{field_name}", {ctype}),' for field_name, ctype in types]
    return lines + ["    ]"]


def info_lines(name: str, fields: list[Parameter], header: Header) -> list[str]:
    """What a getter fills in, as a dataclass of Python's own types."""
    title = class_name(name)
    lines = ["", "", "@dataclass(frozen=True)", f"class {title}:", f'    """The fields of {name}, whose units and '
             'meaning matformer.h gives."""', ""]
    values = []
    buffers = [f.name for f in fields if f.base == "char" and not f.is_const]  # the caller's, for text
    left_out = {"struct_size", "reserved", *(f"{buffer}_{of}" for buffer in buffers for of in ("capacity", "bytes"))}
    for f in fields:
        if f.name in left_out:
            continue
        if f.name in buffers:
            lines.append(f"    {f.name}: str")
            values.append(f'string_at(values.{f.name} or 0).decode("utf-8", "replace")')
        elif f.base == "char":
            lines.append(f"    {f.name}: str")
            values.append(f'(values.{f.name} or b"").decode("utf-8", "replace")')
        elif f.base in header.enums:
            lines.append(f"    {f.name}: {class_name(f.base)}")
            values.append(f"{class_name(f.base)}(values.{f.name})")
        elif f.base == "int" and f.stars == 0:  # a flag: numbers have their size in their type
            lines.append(f"    {f.name}: bool")
            values.append(f"bool(values.{f.name})")
        elif f.stars == 0 and not f.array and f.base not in header.structs:
            lines.append(f"    {f.name}: {python_type(number_type(f.base, header))}")
            values.append(f"values.{f.name}")
        else:
            raise HeaderError(f"{name}.{f.name}: no form in Python for it")
    lines += ["", "    @classmethod", f'    def read(cls, values: {name}) -> "{title}":', "        return cls("]
    return lines + [f"            {value}," for value in values] + ["        )"]


def function_lines(function: Function, header: Header) -> list[str]:
    arguments = [value_type(p, header, False, False) for p in function.parameters]
    result = value_type(function.result, header, False, False)
    hint = f"Callable[[{', '.join(['Any'] * len(arguments))}], {python_type(result)}]"
    call = ", ".join([f'"{function.name}"', result, *arguments])
    return [f"        self.{function.name}: {hint} = function(", f"            {call})"]


def write_abi(header: Header) -> str:
    lines: list[str] = []
    for name, number in header.numbers.items():
        lines.append(f"{name} = {number}")
    for name, values in header.enums.items():
        lines += enum_lines(name, values)
    lines += ["", "", "STATUS_TEXTS = {"]
    lines += [f'    {value}: ("MF_{name}", "{words}"),' for name, (value, words) in header.status_texts.items()]
    lines.append("}")
    for kind, name in header.order:
        if kind == "struct":
            lines += struct_lines(name, header.structs[name], header)
            if name.endswith("_info") or name in READ:
                lines += info_lines(name, header.structs[name], header)
        else:
            lines += ["", "", f"{name} = {callback_call(header.callbacks[name], header)}"]
    lines += ["", "", "STRUCTS = (" + ", ".join(header.structs) + ")"]
    body = "\n".join(lines) + LIBRARY + "\n".join(
        line for function in header.functions for line in function_lines(function, header)) + "\n"
    names = sorted(set(re.findall(r"\bc_\w+\b", body)))
    return HEAD.format(names=", ".join(names)) + "\n" + body


def main() -> int:
    try:
        text = write_abi(parse_header(HEADER.read_text(encoding="utf-8")))
    except HeaderError as error:
        print(f"{HEADER}: {error}", file=sys.stderr)
        return 1
    if "--check" not in sys.argv[1:]:
        OUTPUT.write_text(text, encoding="utf-8")
    elif not OUTPUT.exists() or OUTPUT.read_text(encoding="utf-8") != text:
        print(f"{OUTPUT} is not what {HEADER} gives: run bindings/python/generate_abi.py", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
