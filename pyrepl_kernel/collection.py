"""No search for garbage in a process that is on its way up.

What is imported stays. The collector would look at it some sixty times meanwhile, which is a tenth
of the time that a worker takes, and again with each full collection for as long as it lives.
"""

from __future__ import annotations

import gc

__all__ = ["pause_collection", "resume_collection"]

_was_enabled = True


def pause_collection() -> None:
    """Collect nothing until ``resume_collection``."""
    global _was_enabled
    _was_enabled = gc.isenabled()
    gc.disable()


def resume_collection() -> None:
    """Collect again, if that was so before; what is there now is not looked at any more."""
    gc.freeze()
    if _was_enabled:
        gc.enable()
