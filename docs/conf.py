"""Sphinx's settings: Markdown by MyST, furo's theme, nothing from the network (`make docs`)."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from generated import fill

project = "stdpipe"
author = "the authors of stdpipe"
extensions = ["myst_parser"]
exclude_patterns = ["*.svg"]
nitpicky = True

myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3
suppress_warnings = ["myst.header"]  # a result's notes begin at level two

html_theme = "furo"
html_title = "stdpipe"
html_static_path = ["static"]
html_css_files = ["stdpipe.css"]
html_copy_source = False
html_show_sourcelink = False
html_show_copyright = False
html_use_index = False
pygments_style = "friendly"
pygments_dark_style = "github-dark"


def setup(app):
    """Pages are filled with what is generated before they are parsed."""
    app.connect("source-read", lambda _app, _page, source: source.__setitem__(0, fill(source[0])))
