"""Where Jupyter keeps its data and what lives as long as its processes. Imports next to nothing."""

from __future__ import annotations

import os
import sys

__all__ = ["data_dir", "kernels_dir", "runtime_dir", "templates_dir"]


def runtime_dir() -> str:
    """Jupyter's runtime directory; as ``jupyter_core`` says, which takes long to import."""
    return os.environ.get("JUPYTER_RUNTIME_DIR") or os.path.join(data_dir(), "runtime")


def data_dir() -> str:
    """Jupyter's data directory, likewise."""
    environ = os.environ
    if path := environ.get("JUPYTER_DATA_DIR"):
        return path
    unwanted = ("no", "n", "false", "off", "0", "0.0")
    if environ.get("JUPYTER_PLATFORM_DIRS", "0").lower() not in unwanted:
        import platformdirs  # jupyter_core needs it too

        name = "Jupyter" if sys.platform == "darwin" else "jupyter"
        return platformdirs.user_data_dir(name, appauthor=False)
    home = os.path.realpath(os.path.expanduser("~"))
    if sys.platform == "darwin":
        return os.path.join(home, "Library", "Jupyter")
    return os.path.join(environ.get("XDG_DATA_HOME") or f"{home}/.local/share", "jupyter")


def templates_dir() -> str:
    """Where the templates of this user are found."""
    return os.path.join(runtime_dir(), "pyrepl")


def kernels_dir() -> str:
    """Where the kernels of this user can be asked how they are."""
    return os.path.join(runtime_dir(), "pyrepl-kernels")
