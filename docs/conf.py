"""The site: `make docs` builds it with scikit-learn's digits, `make docs-full` with MNIST."""

from __future__ import annotations

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "_ext"))

from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment

from elbowroom import __version__

project, author, release = "elbowroom", "the elbowroom authors", __version__
copyright = author
extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinxcontrib.bibtex",
    "mathml",
    "links",
    "command_line",
    "docstrings",
]
source_suffix = {".md": "myst-nb", ".py": "myst-nb"}
exclude_patterns = ["_build", "_ext", "_static", "conf.py"]

book_profile = os.environ.get("ELBOWROOM_DOCS", "fast")  # "full" with MNIST; all pages are read anew when it changes

# pages of the book: percent files, run at build; a failed assertion stops it
nb_custom_formats = {".py": ["jupytext.reads", {"fmt": "py:percent"}]}
nb_execution_mode = "force"
nb_execution_raise_on_error = True
nb_execution_timeout = 3600 if book_profile == "full" else 300
nb_execution_in_temp = True
nb_merge_streams = True
os.environ["PYTHONWARNINGS"] = "ignore:IProgress not found"  # Pyro's progress bars ask for widgets in a notebook
myst_enable_extensions = ["dollarmath", "amsmath", "colon_fence", "deflist", "attrs_inline"]
myst_heading_anchors = 3
bibtex_bibfiles = ["references.bib"]
bibtex_default_style = "alpha"

autodoc_typehints = "none"
toc_object_entries = False  # the side bar of every page copies them, a thousand and more
autodoc_member_order = "bysource"
napoleon_custom_sections = ["Reference"]
napoleon_use_ivar = True  # fields are told once, by the class
napoleon_use_rtype = False
default_role = "code"  # of docstrings
suppress_warnings = [
    "ref.python",  # a word of a Literal that is also the name of several fields
    "myst-nb.lexer",  # a page that was not run states no language
]

html_theme = "furo"
html_title = "elbowroom"
html_static_path, html_css_files = ["_static"], ["site.css"]
html_copy_source = False
html_show_sourcelink = False


def spread(app: Sphinx, env: BuildEnvironment, docnames: list[str]) -> None:
    """Deals the pages out like cards: neighbours are read by one process, and those of the book are run meanwhile.

    The reference of Python stays together, in its order: a class is to be met where it is defined before other modules
    name it.
    """
    together = [name for name in docnames if name.startswith("reference/api/")]
    others = [name for name in docnames if name not in together]
    docnames[:] = together + [name for first in range(8) for name in others[first::8]]


def setup(app: Sphinx) -> None:
    """Makes the profile a setting of the build: pages that were run with another one are out of date."""
    app.add_config_value("book_profile", "fast", "env")
    app.connect("env-before-read-docs", spread)
