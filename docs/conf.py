"""Settings of the documentation: python -m sphinx -W docs build/docs."""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent))

from calm_jax.version import __version__

project = "calm_jax"
release = version = __version__
author = "the calm_jax authors"
project_copyright = "the calm_jax authors, Apache-2.0"
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["*.ipynb"]
html_theme = "furo"
html_title = "calm_jax"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_sourcelink = False
myst_heading_anchors = 3
default_role = "code"  # docstrings write `names` as Markdown does
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
napoleon_use_rtype = False
