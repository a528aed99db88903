"""The documentation site: `make site`. Pages under `docs/generated/` are written by `docs/generate.py` first."""

from __future__ import annotations

import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

import generate  # noqa: E402

from oodline import __version__  # noqa: E402

project = "oodline"
author = "The oodline developers"
copyright = "the oodline developers"
release = __version__
html_title = f"oodline {release}"

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
    "cyclopts.ext.sphinx",
]
exclude_patterns = ["_build"]
nb_execution_mode = "off"  # notebooks are kept with what they print, and run by a test
myst_enable_extensions = ["colon_fence", "dollarmath"]
myst_heading_anchors = 3  # links to headings, as GitHub makes them

# Docstrings are numpydoc; a name in backticks is code there.
default_role = "code"
napoleon_google_docstring = False
napoleon_use_rtype = False
autodoc_typehints = "none"  # shapes and types stand in the docstrings
autodoc_member_order = "bysource"
autodoc_class_signature = "mixed"

html_theme = "furo"
html_static_path = ["_static"]
html_show_sourcelink = False


def setup(app: object) -> None:
    """Write the generated pages before Sphinx looks for sources."""
    generate.write_all(HERE / "generated")
