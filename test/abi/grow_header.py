#!/usr/bin/env python3
"""Usage: grow_header.py IN OUT - the header of an imagined later release: every struct that may grow has three fields more at
its end (docs/abi.md), and GROWN_FIELDS says so. A macro that initializes a struct leaves them zero, as C has it."""
import re
import sys

LATER = "    uint64_t later_number;\n    const void *later_pointer;\n    uint32_t later_flags, later_reserved;\n"
text = open(sys.argv[1]).read()
grown = []


def grow(match):
    head, name, body, end = match.groups()
    if ("size_t struct_size;" not in body and name != "mf_request") or name == "mf_error":
        return match.group(0)
    grown.append(name)
    return head + body + LATER + end


text = re.sub(r"(typedef struct (mf_\w+) \{\n)(.*?)(^\} \2;)", grow, text, flags=re.S | re.M)
assert len(grown) > 20, grown
open(sys.argv[2], "w").write(text.replace("#define MATFORMER_H\n", "#define MATFORMER_H\n#define GROWN_FIELDS 1\n", 1))
print("grown:", *grown)
