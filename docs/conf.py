"""How Sphinx builds these pages; ``nox -s docs`` runs it against the installed distributions."""

from __future__ import annotations

import sys
from importlib.metadata import version as installed_version
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "_ext"))

project = "Scalable"
author = "the Scalable developers"
copyright = "2026, the Scalable developers"  # noqa: A001 - Sphinx reads this name
version = release = installed_version("scalable-core")

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "numpydoc",
    "scalable_tables",
]
myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3
exclude_patterns = ["_build", "_ext"]

# Docstrings name Python objects in single backticks.
default_role = "py:obj"
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_default_options = {
    "members": True,
    "show-inheritance": True,
    "exclude-members": "model_config, model_post_init",  # pydantic's own
}
numpydoc_show_class_members = False

# They would turn the two dashes of an option into one.
smartquotes = False

html_theme = "furo"
html_title = f"Scalable {release}"
html_static_path = ["_static"]
html_css_files = ["scalable.css"]
