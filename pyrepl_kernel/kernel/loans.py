"""How many bytes zmq holds: frames that were lent to it without a copy, until it gives them back.

Publisher ──lend(frame)──▶ zmq ── sent to all subscribers ──▶ pyzmq's thread lets go of it
    ▲                                                                 │
    └──on_returned── event loop ◀──call_soon_threadsafe (when full)── weak reference ends
"""

from __future__ import annotations

import asyncio
import weakref
from collections import deque
from collections.abc import Callable

from pyrepl_kernel.protocol.messages import Buffer

__all__ = ["Loans"]

HIGH_WATER = 32 << 20
"""Bytes from which there are too many."""
LOW_WATER = HIGH_WATER // 2
"""Bytes down to which they have to go before there are not."""


class _Loan(weakref.ref[memoryview]):
    """A frame that zmq has; it ends when zmq has let go of it."""

    __slots__ = ("size",)
    size: int


class Loans:
    """Frames that zmq has, and what they come to.

    Args:
        loop: The event loop, to which the thread belongs that lends.
        on_returned: Called there while there are too many, when some have come back.

    Attributes:
        is_full: Whether there are too many.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, on_returned: Callable[[], None]) -> None:
        self._loop = loop
        self._on_returned = on_returned
        self._open: dict[int, _Loan] = {}  # a weak reference that is lost tells nothing
        self._returned: deque[int] = deque()
        self._size = 0
        self._is_closed = False
        self.is_full = False

    def lend(self, frame: Buffer) -> memoryview:
        """Count a frame; what is returned is to be sent, and kept nowhere else."""
        view = memoryview(frame)
        loan = _Loan(view, self._on_end)
        loan.size = view.nbytes
        self._open[id(loan)] = loan
        self._size += loan.size
        if self._size > HIGH_WATER:
            self.is_full = True  # first, so that whatever comes back from here on is told of
            self._settle()
        return view

    def _on_end(self, loan: weakref.ref[memoryview]) -> None:
        """In whatever thread has let go of the frame, mostly one of pyzmq's."""
        assert isinstance(loan, _Loan)
        self._open.pop(id(loan), None)
        self._returned.append(loan.size)
        if self.is_full and not self._is_closed:
            self._loop.call_soon_threadsafe(self._look)

    def _settle(self) -> None:
        while self._returned:
            self._size -= self._returned.popleft()
        self.is_full = self._size > (LOW_WATER if self.is_full else HIGH_WATER)

    def _look(self) -> None:
        # Also when there are no longer too many: the frame lent last may have found that out.
        if not self._is_closed:
            self._settle()
            self._on_returned()

    def close(self) -> None:
        """Tell of nothing any more."""
        self._is_closed = True
        self._open.clear()
