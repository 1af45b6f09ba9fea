#!/usr/bin/env python3
"""Usage: header_filter.py [--check] HEADER...

Doxygen's view of a public header. The headers are written to be read as they are, in plain comments; here a comment above a
declaration, or behind a field, becomes one that Doxygen takes, a banner (`---- Model ----`) begins a group, and a comment
above several declarations goes to each of them. The text goes on as reStructuredText, in which names of the library are links.

With --check, it names instead every parameter of a public function that no comment speaks of.
"""

import pathlib
import re
import sys

COMMENT = re.compile(r"/\*.*?\*/", re.DOTALL)
BANNER = re.compile(r"/\* ---- (.+?) -+\s*(.*?)\*/\Z", re.DOTALL)
INIT = re.compile(r"#define (MF_\w+_INIT)\b(?:[^\n]*\\\n)*[^\n]*\n")
DECLARED = re.compile(r"^MF_API\b[^;]*?\b(mf_\w+)\(", re.MULTILINE)
TYPES = re.compile(r"\}\s*(mf_\w+);|^typedef [^;{(]*?\b(mf_\w+);|\(\*(mf_\w+)\)\(", re.MULTILINE)


def group_name(header, title):
    return f"{header.stem}_{re.sub('[^a-z0-9]+', '_', title.lower()).strip('_')}"


class Names:
    """Functions and types of all public headers."""

    def __init__(self, folder):
        text = "\n".join(path.read_text() for path in sorted(folder.glob("*.h")))
        self.functions = set(DECLARED.findall(text))
        self.types = {name for found in TYPES.findall(text) for name in found if name} | set(
            re.findall(r"^typedef (?:struct|enum) (mf_\w+) \{", text, re.MULTILINE))


def text_lines(comment):
    """The lines of a comment without its frame."""
    lines = comment[2:-2].split("\n")
    return [lines[0].strip()] + [re.sub(r"^\s*\* ?", "", line).rstrip() for line in lines[1:]]


def prose(line, names):
    """One line as reStructuredText."""

    def word(match):
        code, name = match["code"], match["name"]
        if code:
            return f"``{code}``"
        if match["rest"]:
            return f"``{name}{match['rest']}``"
        if name in names.functions:
            return f":c:func:`{name}`"
        if name in names.types:
            return f":c:type:`{name}`"
        return f"``{name}``"

    def plain(text):
        """Escaped, but for emphasis."""
        parts = re.split(r"(\*[A-Za-z]+\*)", text)
        return "".join(re.sub(r"([\\*|`]|_(?=\W|$))", r"\\\1", part) if i % 2 == 0 else part for i, part in enumerate(parts))

    pieces, at = [], 0
    pattern = r"`(?P<code>[^`]+)`|(?P<name>\bmf_\w*\w|\bMF_\w*\w)(?P<rest>(?:\.\w+)+)?(?:\(\))?"
    for match in re.finditer(pattern, line):
        pieces += [plain(line[at:match.start()]), word(match)]
        at = match.end()
        if at < len(line) and re.match(r"[\w(]", line[at]):
            pieces.append("\\ ")  # what follows a role at once
    return "".join(pieces) + plain(line[at:])


def to_rst(lines, names, language="c"):
    out, at = [], 0
    while at < len(lines):
        line = lines[at]
        if line.startswith("    ") and (at == 0 or not lines[at - 1]):
            end = at
            while end < len(lines) and (lines[end].startswith("    ") or not lines[end]):
                end += 1
            out += ["", f".. code-block:: {language}", ""] + ["   " + one[4:] for one in lines[at:end]] + [""]
            at = end
            continue
        if line.startswith("- ") and out and out[-1] and not out[-1].startswith(("- ", "  ")):
            out.append("")
        out.append(prose(line, names))
        at += 1
    return "\n".join(out).strip("\n")


def documented(lines, names, language, behind=False):
    rst = to_rst(lines, names, language)
    if behind:
        return "/**< @verbatim embed:rst:inline " + " ".join(rst.split()) + " @endverbatim */"
    return f"/**\n@verbatim embed:rst\n{rst}\n@endverbatim\n*/"


def expand_statuses(text):
    """The enumeration that a list of X() makes, with their texts as comments."""
    entries = re.findall(r'X\((\w+), (-?\d+), "([^"]*)"\)', text)
    body = "".join(f"    MF_{name} = {value}, /* {meaning} */\n" for name, value, meaning in entries)
    text = re.sub(r"#define MF_STATUS_MAP\(X\)(?:[^\n]*\\\n)*[^\n]*\n", "/* What a function returns. */\n", text)
    text = re.sub(r"\n+(typedef enum mf_status \{\n).*?(\} mf_status;)", lambda m: f"\n{m[1]}{body}{m[2]}", text, flags=re.DOTALL)
    return text


def with_initializers(text):
    """A struct that has an INIT macro says so; the macro itself is nothing to read."""
    initializers = set(INIT.findall(text))
    text = INIT.sub(lambda m: "\n" * m[0].count("\n"), text)

    def describe(match):
        macro = f"MF_{match[2].upper().removeprefix('MF_')}_INIT"
        if macro not in initializers:
            return match[0]
        sentence = f"Filled with {macro}."
        if match[1]:
            return match[1][:-2].rstrip() + f"\n *\n * {sentence} */\n" + match[0][len(match[1]):].lstrip("\n")
        return f"\n/* {sentence} */\n{match[0].lstrip()}"

    return re.sub(r"(/\*(?:(?!\*/).)*\*/)?\ntypedef struct (mf_\w+) \{", describe, text, flags=re.DOTALL)


def with_closers(text):
    """An opaque type says who ends it."""

    def describe(match):
        sentence = f"Opaque; ended by {match[3]}_close()." if f"{match[3]}_close(" in text else "Opaque."
        return (f"\n *\n * {sentence} */\n" if match[1] else f"/* {sentence} */\n") + match[2]

    return re.sub(r"( \*/\n)?^(typedef struct (mf_\w+) \3;)", describe, text, flags=re.MULTILINE)


def translate(header, names):
    text = header.read_text()
    language = "cpp" if header.suffix == ".hpp" else "c"
    text = with_closers(with_initializers(expand_statuses(text)))
    out, at, grouped = [], 0, False
    for match in COMMENT.finditer(text):
        if match.start() < at:
            continue
        out.append(text[at:match.start()])
        at = match.end()
        comment = match[0]
        banner = BANNER.match(comment)
        code_before = text[text.rfind("\n", 0, match.start()) + 1:match.start()].strip()
        if match.start() == 0:
            lines = text_lines(comment)
            lines[0] = re.sub(r"^\S+ - (\w)", lambda m: m[1].upper(), lines[0])
            out.append(f"/** @file\n@verbatim embed:rst\n{to_rst(lines, names, language)}\n@endverbatim\n*/")
        elif banner:
            title = banner[1]
            rest = to_rst([re.sub(r"^\s*\* ?", "", line).rstrip() for line in banner[2].split("\n")], names, language)
            out.append(("/** @} */\n" if grouped else "") + f"/** @defgroup {group_name(header, title)} {title}\n"
                       f"@verbatim embed:rst\n{rest}\n@endverbatim\n@{{ */\n")
            grouped = True
        elif code_before.startswith("#"):
            continue
        elif code_before:
            out.append(documented(text_lines(comment), names, language, behind=True))
        else:
            made = documented(text_lines(comment), names, language)
            out.append(made)
            # Declarations that follow without a blank line are described together.
            end = text.find("\n\n", at)
            following = text[at:end if end >= 0 else len(text)]
            declarations = re.split(r"\n(?=MF_API |typedef )", following)
            if "/*" not in following and "{" not in following and len(declarations) > 2:
                out.append(declarations[0] + "".join(f"{made if i else ''}\n{one}\n" for i, one in enumerate(declarations[1:])))
                at += len(following)
    out.append(text[at:])
    whole = "".join(out)
    if grouped:
        end = whole.rindex("#ifdef __cplusplus") if language == "c" else whole.rindex("} // namespace")
        whole = whole[:end] + "/** @} */\n" + whole[end:]
    return whole


# ---- Parameters that nobody speaks of ----

# The rules at the head of matformer.h say what these are.
UNDERSTOOD = {"out", "error", "options", "info", "path", "fd", "data", "user", "capacity", "index"}


def functions(header):
    """Of each public function: name, parameters, and the comments that speak of it."""
    section = ""
    for paragraph in header.read_text().split("\n\n"):
        banner = re.search(r"/\* ---- .*?\*/", paragraph, re.DOTALL)
        section = banner[0] if banner else section
        comment = " ".join(COMMENT.findall(paragraph))
        for match in re.finditer(r"^MF_API [^;(]*?\b(mf_\w+)\(([^;]*)\);", paragraph, re.MULTILINE):
            yield match[1], [" ".join(one.split()) for one in match[2].split(",") if one.strip() != "void"], comment, section


def undocumented_parameters(header):
    found, texts, last = [], {}, ""
    for function, parameters, comment, section in functions(header):
        texts[function] = comment
        others = [text for name, text in texts.items() if re.search(rf"\b{name}\(\)", comment)]
        if re.search(r"\b(?:same|likewise)\b", comment):
            others.append(last)
        known = " ".join([comment, section, *others])
        all_names = {re.search(r"(\w+)(?:\[\d*\])?$", one)[1] for one in parameters}
        for one in parameters:
            name = re.search(r"(\w+)(?:\[\d*\])?$", one)[1]
            of_type = re.findall(r"\bmf_(\w+)", one)
            counts = re.match(r"n_(\w+)", name), re.match(r"(\w+)_bytes", name)
            if not (name in UNDERSTOOD or re.search(rf"\b{name}\b", known) or any(t.endswith(name) for t in of_type) or
                    (counts[0] and {counts[0][1], counts[0][1] + "s"} & all_names) or (counts[1] and counts[1][1] in all_names)):
                found.append(f"{header}: {function}(): no comment speaks of `{name}`")
        last = known
    return found


def main():
    headers = [pathlib.Path(name) for name in sys.argv[1:] if name != "--check"]
    if "--check" in sys.argv:
        found = [line for header in headers for line in undocumented_parameters(header)]
        print("\n".join(found))
        sys.exit(bool(found))
    for header in headers:
        sys.stdout.write(translate(header, Names(header.parent)))


if __name__ == "__main__":
    main()
