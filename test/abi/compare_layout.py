#!/usr/bin/env python3
"""compare_layout.py OLD.abi NEW.abi: every field of OLD stands where it stood, and every enumerator has its value.

What abidiff misses: a new field in what was padding before the last one counts for it as one at the end."""

import sys
import xml.etree.ElementTree as ElementTree


def read(path: str) -> dict[str, str]:
    places = {}
    root = ElementTree.parse(path).getroot()
    for struct in root.iter("class-decl"):
        for member in struct.iter("data-member"):
            places[f"{struct.get('name')}.{member.find('var-decl').get('name')}"] = \
                f"bit {member.get('layout-offset-in-bits')}"
    for enum in root.iter("enum-decl"):
        for value in enum.iter("enumerator"):
            places[value.get("name")] = value.get("value")
    return places


old, new = (read(path) for path in sys.argv[1:3])
moved = [f"{name}: was {place}, is {new.get(name, 'gone')}" for name, place in old.items() if new.get(name) != place]
print("\n".join(moved))
sys.exit(bool(moved) or not old)
