"""The site: `make docs` builds it into site/, a folder that needs no network. Sphinx reads this file."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

from sphinx.application import Sphinx

ROOT = Path(__file__).parent.parent

project = "tablefold"
version = release = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_copybutton"]
exclude_patterns = ["_build", "conf.py"]

# Pages are Markdown that reads well without the site, too; headings are anchors as GitHub makes them.
myst_heading_anchors = 4
myst_enable_extensions = ["deflist"]
suppress_warnings = ["myst.header"]  # a page that is included begins below its own heading

# Notebooks are plain Python files in cells, run at building; what came out is kept until the file changes.
nb_custom_formats = {".py": ["jupytext.reads", {"fmt": "py:percent"}]}
nb_execution_mode = "cache"
nb_execution_timeout = 120
nb_execution_raise_on_error = True
nb_merge_streams = True

# Docstrings write code in single backticks and give types in the signature.
default_role = "code"
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
autodoc_typehints = "signature"
autodoc_type_aliases = {"ArrayLike": "ArrayLike", "Counts": "Mapping[str, ArrayLike]"}
napoleon_numpy_docstring = False
maximum_signature_line_length = 88
python_use_unqualified_type_names = True
add_module_names = False

html_theme = "furo"
html_title = f"tablefold {version}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_sphinx = False
html_copy_source = False
html_theme_options = {"light_css_variables": {"font-stack": "system-ui, sans-serif"}}
copybutton_exclude = ".linenos, .gp, .go"

ELSEWHERE = {
    "../studies/LOG.md": "lab-book.md",
    "../CONTRIBUTING.md": "contributing.md",
    "../CHANGELOG.md": "changes.md",
}
"""Files beside docs/ that are pages of the site: links that work in the repository work here, too."""

DRAWING = re.compile(r"!\[[^]]*\]\((figures/[^)]+\.svg)\)")
"""A drawing becomes a part of its page, so that it turns dark with it; its title is in the file."""


def name_pages(app: Sphinx, docname: str, source: list[str]) -> None:
    """Point links at what lies outside docs/ to the page it has here; files that have none are named."""
    text = source[0]
    for path, page in ELSEWHERE.items():
        text = text.replace(f"]({path}", f"]({page}")
    text = re.sub(r"\[([^]]*)\]\(\.\./[^)]+\)", r"\1", text) if "/" not in docname else text
    source[0] = DRAWING.sub(r"```{raw} html\n:file: \1\n```", text)


def mark_formulas(app: Sphinx, what: str, name: str, thing: object, options: object, lines: list[str]) -> None:
    """Formulas and code stand indented in our docstrings, as in Markdown; reStructuredText wants `::` before them."""
    marked: list[str] = []
    plain = 0
    for line in lines:
        indent = len(line) - len(line.lstrip())
        after_blank = bool(marked) and not marked[-1].strip()
        if line.strip() and indent > plain and after_blank:
            marked += ["::", ""]
        if line.strip():
            plain = indent
        marked.append(line)
    lines[:] = marked


def setup(app: Sphinx) -> None:
    """Called by Sphinx."""
    app.connect("source-read", name_pages)
    app.connect("autodoc-process-docstring", mark_formulas, priority=1)
