"""The C heap, told to keep the memory of large frames for those that follow.

glibc gives a large piece back to the system as soon as it is freed, and the system clears each page
of the next one anew: with images of a megabyte that costs more than what is done with them. So
while large frames come, some memory is kept; when none has come for a while it is given back.
"""

from __future__ import annotations

import asyncio
import sys
from typing import Any

__all__ = ["Heap"]

KEPT = 64 << 20
"""Bytes at the end of the heap that are kept while large frames come."""
LARGEST = 16 << 20
"""Bytes from which a piece has memory of its own nevertheless, which goes back at once."""
REST = 5.0
"""Seconds without a large frame after which all is given back."""

# malloc.h
_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3


def _load_libc() -> Any:
    """glibc; None where the C library is another one."""
    if sys.platform != "linux":
        return None
    from ctypes import CDLL  # which a kernel without large frames does not need

    libc = CDLL(None)
    return libc if hasattr(libc, "mallopt") and hasattr(libc, "malloc_trim") else None


class Heap:
    """This process's heap.

    Args:
        loop: The event loop.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._libc: Any = None
        self._is_known = False
        self._is_used = False
        self._timer: asyncio.TimerHandle | None = None

    def use(self) -> None:
        """A large frame passes through this process."""
        self._is_used = True
        if self._timer is not None:
            return
        if not self._is_known:
            self._is_known = True
            self._libc = _load_libc()
            if self._libc is not None:
                self._libc.mallopt(_M_MMAP_THRESHOLD, LARGEST)
                self._libc.mallopt(_M_TRIM_THRESHOLD, KEPT)
        if self._libc is not None:
            self._timer = self._loop.call_later(REST, self._look)

    def _look(self) -> None:
        if self._is_used:
            self._is_used = False
            self._timer = self._loop.call_later(REST, self._look)
        else:
            self._timer = None
            self._libc.malloc_trim(0)

    def close(self) -> None:
        """The process is about to end."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
