"""What the kernel says of itself, without importing IPython to say it."""

from __future__ import annotations

import os
import re
import sys
from functools import cache
from typing import Any

from pyrepl_kernel.kernel.debug import has_debugger
from pyrepl_kernel.kernel.wire import PROTOCOL_VERSION

__all__ = ["kernel_info"]

_LINKS = (
    ("Python Reference", "https://docs.python.org/{}.{}".format(*sys.version_info[:2])),
    ("IPython Reference", "https://ipython.readthedocs.io/en/stable/"),
    ("NumPy Reference", "https://docs.scipy.org/doc/numpy/reference/"),
    ("SciPy Reference", "https://docs.scipy.org/doc/scipy/reference/"),
    ("Matplotlib Reference", "https://matplotlib.org/contents.html"),
    ("SymPy Reference", "http://docs.sympy.org/latest/index.html"),
    ("pandas Reference", "https://pandas.pydata.org/pandas-docs/stable/"),
)


@cache
def _ipython_version() -> str:
    """IPython's version, by the name of its metadata's folder."""
    for folder in sys.path:
        try:
            names = os.listdir(folder or ".")
        except OSError:
            continue
        for name in names:
            if found := re.fullmatch(r"ipython-([^-]+)\.dist-info", name):
                return found[1]
    return "0"


def kernel_info(has_subshells: bool = False) -> dict[str, Any]:
    """The content of ``kernel_info_reply``.

    Args:
        has_subshells: Whether front ends may create subshells.

    The language and implementation are IPython's, as front ends look for them; what they are
    told is what they can rely on.
    """
    features = ["debugger"] if has_debugger() else []
    if has_subshells:
        features.append("kernel subshells")
    version = ".".join(map(str, sys.version_info[:3]))
    ipython = _ipython_version()
    banner = (
        f"Python {sys.version}\n"
        "Type 'copyright', 'credits' or 'license' for more information\n"
        f"IPython {ipython} -- An enhanced Interactive Python. Type '?' for help.\n"
    )
    return {
        "status": "ok",
        "protocol_version": PROTOCOL_VERSION,
        "implementation": "ipython",
        "implementation_version": ipython,
        "language_info": {
            "name": "python",
            "version": version,
            "mimetype": "text/x-python",
            "codemirror_mode": {"name": "ipython", "version": sys.version_info[0]},
            "pygments_lexer": "ipython3",
            "nbconvert_exporter": "python",
            "file_extension": ".py",
        },
        "banner": banner,
        "help_links": [{"text": text, "url": url} for text, url in _LINKS],
        "supported_features": features,
        "debugger": has_debugger(),
    }
