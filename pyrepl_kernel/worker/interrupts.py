"""What SIGINT does, depending on what the main thread is at.

user's code        KeyboardInterrupt
an awaiting cell   its task is cancelled; the next SIGINT raises
a critical moment  KeyboardInterrupt right after it (``InterruptGuard``)
between cells      nothing, but it is remembered: the session names the cell that it meant in
                   an interrupt message sent before the signal, and if that is the cell about
                   to begin, then the cell ends before it begins
"""

from __future__ import annotations

import _thread
import signal
from types import FrameType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import asyncio

__all__ = ["InterruptGuard", "Interrupts"]


class InterruptGuard:
    """Puts KeyboardInterrupt off to the end of a block of the main thread's."""

    def __init__(self) -> None:
        self._main = _thread.get_ident()
        self._depth = 0
        self._is_pending = False

    def __enter__(self) -> None:
        if _thread.get_ident() == self._main:
            self._depth += 1

    def __exit__(self, *exc_info: object) -> None:
        if _thread.get_ident() == self._main:
            self._depth -= 1
            if self._is_pending and not self._depth:
                self._is_pending = False
                raise KeyboardInterrupt

    def put_off(self) -> bool:
        """Called for a signal: whether it has to wait for the end of the block."""
        if self._depth:
            self._is_pending = True
        return self._depth > 0


class Interrupts:
    """The handler of SIGINT, and what it needs to know."""

    def __init__(self) -> None:
        self.guard = InterruptGuard()
        self.task: asyncio.Task[Any] | None = None
        """The task of a cell that awaits; an interrupt cancels it."""
        self.is_listening = False
        self._was_cancelled = False
        self._seen_between = False

    def install(self) -> None:
        """Take SIGINT over."""
        signal.signal(signal.SIGINT, self.handle)

    def handle(self, number: int, frame: FrameType | None) -> None:
        """The signal handler."""
        if not self.is_listening:
            self._seen_between = True
        elif self.guard.put_off():
            return
        elif self.task is not None and not self._was_cancelled:
            self._was_cancelled = True
            loop = self.task.get_loop()
            loop.call_soon_threadsafe(self.task.cancel)
        else:
            raise KeyboardInterrupt

    def begin(self) -> bool:
        """User code is about to run. True when a signal has arrived since the last one ended."""
        self._was_cancelled = False
        self.is_listening = True  # first: a signal from here on raises, and one before it is seen
        seen = self._seen_between
        self._seen_between = False
        return seen

    def end(self) -> None:
        """User code has ended."""
        self.is_listening = False
        self.task = None
