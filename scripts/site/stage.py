#!/usr/bin/env python3
"""Usage: stage.py OUT

Lays the documents out for Sphinx, in OUT/source, as they lie in the repository, with the files that they link to; docs/index.md
becomes the first page, and its lists of links the navigation. Then the pages of the reference.
"""

import os
import pathlib
import re
import shutil
import sys

import reference

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
LINK = re.compile(r"(\]\()([^)\s#]+)(#[^)\s]*)?(\))")
PATTERNS = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "docs/**/*.md", "models/README.md", "bindings/**/README.md",
            "examples/README.md")


INDEX = ROOT / "docs" / "index.md"


def copy(file, source):
    target = source / file.relative_to(ROOT)
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.exists():
        return
    if file.suffix != ".md":
        shutil.copy(file, target)
        return

    def to_first_page(match):
        if (file.parent / match[2]).resolve() != INDEX:
            return match[0]
        return f"{match[1]}{os.path.relpath(source / 'index.md', target.parent)}{match[3] or ''}{match[4]}"

    target.write_text(LINK.sub(to_first_page, file.read_text()))


def navigation(line_groups):
    text = ""
    for caption, links in line_groups:
        text += "\n```{toctree}\n:hidden:\n:caption: " + caption + "\n\n" + "\n".join(links) + "\n```\n"
    return text


def first_page(text):
    """docs/index.md as the root's page: links from there, and behind it the lists of links by heading as navigation."""

    def from_root(match):
        target = match[2]
        if re.match(r"[a-z]+:", target):
            return match[0]
        target = target.removeprefix("../") if target.startswith("../") else f"docs/{target}"
        header = re.fullmatch(r"include/(matformer\w*)\.(h|hpp)", target)
        if header:
            target = f"reference/{header[1]}{'_hpp' if header[2] == 'hpp' else ''}.rst"
        return f"{match[1]}{target}{match[3] or ''}{match[4]}"

    text = LINK.sub(from_root, text)
    sections = []
    for section in re.split(r"^## ", text, flags=re.MULTILINE)[1:]:
        caption, _, body = section.partition("\n")
        links = [match[2] for line in body.split("\n") if line.startswith("- ") for match in [LINK.search(line)] if match]
        pages = [re.sub(r"\.(md|rst)$", "", link) for link in links if re.search(r"\.(md|rst)$", link)]
        if pages:
            sections.append((caption, pages))
    return text + navigation(sections)


def main():
    out = pathlib.Path(sys.argv[1])
    source = out / "source"
    shutil.rmtree(source, ignore_errors=True)
    for pattern in PATTERNS:
        for document in sorted(ROOT.glob(pattern)):
            text = document.read_text()
            copy(document, source)
            for match in LINK.finditer(text):
                linked = (document.parent / match[2]).resolve()
                if linked.is_file() and ROOT in linked.parents:
                    copy(linked, source)
    (source / INDEX.relative_to(ROOT)).unlink()
    (source / "index.md").write_text(first_page(INDEX.read_text()))
    reference.write(ROOT / "include", source / "reference")


if __name__ == "__main__":
    main()
