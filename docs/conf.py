"""How Sphinx builds the documentation: ``make docs``."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from pyrepl_kernel._version import __version__
from pyrepl_kernel.kernel.options import OPTIONS

project = "pyrepl-kernel"
author = "pyrepl-kernel contributors"
project_copyright = author
version = release = __version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
source_suffix = {".md": "markdown", ".rst": "restructuredtext"}
exclude_patterns = ["_build", "_generated"]
myst_enable_extensions = ["colon_fence", "substitution"]
myst_heading_anchors = 3
html_theme = "furo"
html_static_path = ["_static"]
html_title = f"pyrepl-kernel {version}"
autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
nitpicky = False
# Messages are built from their annotations; their base's signature says nothing.
autodoc_class_signature = "mixed"


def _options_table() -> str:
    """The table of options, from the one that the kernel itself reads."""
    rows = ["| option | default | what it does |", "| --- | --- | --- |"]
    for option in OPTIONS:
        default = "none" if option.default is None else f"`{option.default}`"
        names = f"`--{option.name}` *{option.metavar}*".replace("|", "\\|")
        rows.append(f"| {names} | {default} | {option.help} |")
    return "\n".join(rows) + "\n"


def setup(_app: object) -> None:
    """Write what is generated before anything is read."""
    folder = Path(__file__).parent / "_generated"
    folder.mkdir(exist_ok=True)
    (folder / "options.md").write_text(_options_table(), encoding="utf-8")
