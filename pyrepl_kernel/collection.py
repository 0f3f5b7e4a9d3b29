"""No search for garbage in a process that is on its way up.

What is imported stays. The collector would look at it some sixty times meanwhile, which is a tenth
of the time that a worker takes, and again with each full collection for as long as it lives.
"""

from __future__ import annotations

import gc

__all__ = ["pause_collection", "resume_collection"]

_is_paused = False


def pause_collection() -> None:
    """Collect nothing until ``resume_collection``."""
    global _is_paused
    _is_paused = gc.isenabled()
    gc.disable()


def resume_collection() -> None:
    """Collect again, if it was paused; what is there now is not looked at any more."""
    gc.freeze()
    if _is_paused:
        gc.enable()
