"""Why the cell at work is interrupted: the note that the session leaves before it sends SIGINT.

A signal carries no reason, and a message may stand behind others in the socket. The note is there
before the signal is, and the handler reads it in one system call.
"""

from __future__ import annotations

import os

from pyrepl_kernel.errors import CellTimeout, MemoryLimitExceeded

__all__ = ["interruption"]

_MOST = 4096
_KINDS: dict[str, type[KeyboardInterrupt]] = {"memory": MemoryLimitExceeded, "time": CellTimeout}


def interruption(fd: int) -> KeyboardInterrupt:
    """What is to be raised in the cell: without a note, a plain KeyboardInterrupt."""
    try:
        note = os.pread(fd, _MOST, 0).decode("utf-8", "replace")
    except OSError:
        return KeyboardInterrupt()  # the user's code has closed the descriptor
    kind, _, reason = note.partition("\n")
    cls = _KINDS.get(kind)
    return KeyboardInterrupt() if cls is None else cls(reason)
