"""The reference's pages: one for each header, by its sections, which Doxygen has as groups."""

import re

import header_filter

PAGES = {"matformer": ("matformer.h", "c"), "matformer_train": ("matformer_train.h", "c"),
         "matformer_tools": ("matformer_tools.h", "c"), "matformer_hpp": ("matformer.hpp", "cpp")}


def groups(header):
    """(name, title, introduction) of each section of a header, as header_filter.py names them."""
    names = header_filter.Names(header.parent)
    for comment in header_filter.COMMENT.findall(header.read_text()):
        banner = header_filter.BANNER.match(comment)
        if banner:
            lines = [re.sub(r"^\s*\* ?", "", line).rstrip() for line in banner[2].split("\n")]
            yield header_filter.group_name(header, banner[1]), banner[1], header_filter.to_rst(lines, names)


def heading(text, mark):
    return f"{text}\n{mark * len(text)}\n\n"


def page(header, project):
    text = heading(header.name, "=") + f".. doxygenfile:: {header.name}\n   :project: {project}\n   :sections: detaileddescription\n\n"
    for group, title, introduction in groups(header):
        text += heading(title, "-") + introduction + "\n\n"
        text += f".. doxygengroup:: {group}\n   :project: {project}\n   :content-only:\n   :members:\n   :undoc-members:\n\n"
    return text


def write(include, folder):
    folder.mkdir()
    for name, (header, project) in PAGES.items():
        (folder / f"{name}.rst").write_text(page(include / header, project))
