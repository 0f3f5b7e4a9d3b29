"""``pdb`` and ``breakpoint()`` in a notebook: IPython's debugger, which an interrupt ends.

Python's own would take an interrupt as one more line of input, and ask again.
"""

from __future__ import annotations

import sys
from types import ModuleType

from pyrepl_kernel.worker.imports import when_imported

__all__ = ["replace_pdb"]


def replace_pdb() -> None:
    """Put IPython's debugger in the place of Python's, once either is imported."""
    when_imported("pdb", _load_debugger)
    when_imported("IPython.core.debugger", _take_over)


def _load_debugger(_pdb: ModuleType) -> None:
    if "IPython.core.debugger" not in sys.modules:  # otherwise it is what imports pdb
        import IPython.core.debugger  # noqa: F401  # its import does the rest, by way of _take_over


def _take_over(debugger: ModuleType) -> None:
    import pdb

    debugger.Pdb = debugger.InterruptiblePdb  # type: ignore[attr-defined]
    pdb.Pdb = debugger.InterruptiblePdb  # type: ignore[misc]
    pdb.set_trace = debugger.set_trace
