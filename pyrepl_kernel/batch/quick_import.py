"""Imports nbformat without what it does not need, in processes that are ours alone."""

from __future__ import annotations

import sys

__all__ = ["import_nbformat"]

_GRAMMAR = "rfc3987_syntax"


def import_nbformat() -> None:
    """Import nbformat, and leave out a grammar that nothing in a notebook's schema asks for.

    nbformat imports jsonschema, and that imports, where it is installed (JupyterLab brings it), a
    grammar of internationalised addresses that takes more than a second to build. jsonschema
    does without it where it is missing. Not for a program of the user's, which may need it.
    """
    if _GRAMMAR in sys.modules or "jsonschema" in sys.modules:
        import nbformat

        return
    sys.modules[_GRAMMAR] = None  # type: ignore[assignment] # an import of it raises ImportError
    try:
        import nbformat  # noqa: F401
    finally:
        del sys.modules[_GRAMMAR]
