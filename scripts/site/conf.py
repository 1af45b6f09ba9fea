"""Sphinx's settings for the site; scripts/build_docs.sh calls it. Of extensions it has MyST, which reads the documents as they are,
and Breathe, which reads what Doxygen found in the headers."""

import os
import pathlib

out = pathlib.Path(os.environ["SITE_OUT"])

project = "libmatformer"
author = "the authors of libmatformer"
copyright = author
version = release = os.environ["SITE_VERSION"]
extensions = ["myst_parser", "breathe"]
root_doc = "index"
exclude_patterns = []
language = "en"
nitpicky = True
# Types of C and C++ themselves.
nitpick_ignore_regex = [("c:identifier", r"(?!mf_).*"), ("cpp:identifier", r".*")]

# The anchors that code hosts make of headings.
myst_heading_anchors = 4
suppress_warnings = ["myst.header"]

breathe_projects = {name: str(out / name / "xml") for name in ("c", "cpp")}
breathe_default_project = "c"
breathe_domain_by_extension = {"h": "c", "hpp": "cpp"}
breathe_show_include = False
c_id_attributes = cpp_id_attributes = ["MF_API"]

html_theme = "alabaster"
html_static_path = ["static"]
html_css_files = ["matformer.css"]
html_sidebars = {"**": ["about.html", "searchbox.html", "navigation.html"]}
html_theme_options = {
    "description": "One weight file, every model size", "fixed_sidebar": True, "page_width": "1100px", "sidebar_width": "240px",
    "show_powered_by": False, "font_family": "system-ui, sans-serif", "head_font_family": "system-ui, sans-serif",
}
html_copy_source = False
html_show_copyright = False
html_use_index = True
