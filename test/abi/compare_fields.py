#!/usr/bin/env python3
"""Usage: compare_fields.py BEFORE.abi NOW.abi - every field of every struct of BEFORE is in NOW, at its place and of its
type. abidiff finds that too, but not beside an exception for structs that grow (test/abi/allow.ini): of such a struct it then
lets every change pass."""
import sys
import xml.etree.ElementTree as xml


class Types:
    def __init__(self, path):
        self.by_id = {element.get("id"): element for element in xml.parse(path).iter() if element.get("id")}
        self.classes = {}
        for element in self.by_id.values():
            if element.tag in ("class-decl", "union-decl") and element.get("name"):
                self.classes.setdefault(element.get("name"), element)

    def name(self, identifier):
        element = self.by_id[identifier]
        if element.tag == "pointer-type-def":
            return self.name(element.get("type-id")) + "*"
        if element.tag == "qualified-type-def":
            return ("const " if element.get("const") else "volatile ") + self.name(element.get("type-id"))
        if element.tag == "array-type-def":
            return self.name(element.get("type-id")) + "".join(f"[{range_.get('length')}]" for range_ in element.findall("subrange"))
        if element.tag == "function-type":
            parameters = [self.name(parameter.get("type-id")) for parameter in element.findall("parameter")]
            return f"{self.name(element.find('return').get('type-id'))}({', '.join(parameters)})"
        return element.get("name")

    def fields(self, name):
        """{field: (offset in bits, type)}"""
        return {member.find("var-decl").get("name"): (int(member.get("layout-offset-in-bits", 0)), self.name(member.find("var-decl").get("type-id")))
                for member in self.classes[name].findall("data-member")}


before, now = Types(sys.argv[1]), Types(sys.argv[2])
n_field = n_wrong = 0
for struct in before.classes:
    found = now.fields(struct) if struct in now.classes else {}
    for field, place in before.fields(struct).items():
        n_field += 1
        if found.get(field) != place:
            n_wrong += 1
            print(f"{struct}.{field}: was {place}, is {found.get(field)}")
    # A field that comes at a place that was padding counts as grown, but it may not come before another.
    ends = [offset for offset, _ in before.fields(struct).values()]
    for field, (offset, _) in found.items():
        if field not in before.fields(struct) and ends and offset < max(ends):
            n_wrong += 1
            print(f"{struct}.{field}: comes between others")
print(f"{n_field} fields compared")
sys.exit(n_wrong > 0 or n_field == 0)
