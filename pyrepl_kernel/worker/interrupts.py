"""What SIGINT does, depending on what the main thread is at.

user's code        KeyboardInterrupt
an awaiting cell   its task is cancelled; the next SIGINT raises
a critical moment  KeyboardInterrupt right after it (``InterruptGuard``)
at a breakpoint    KeyboardInterrupt there
between cells      nothing, but it is remembered: the session names the cell that it meant in
                   an interrupt message sent before the signal, and if that is the cell about
                   to begin, then the cell ends before it begins
"""

from __future__ import annotations

import _thread
import os
import select
import signal
import threading
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import asyncio

__all__ = ["InterruptGuard", "Interrupts", "SignalledWait", "user_part"]


def user_part(traceback: TracebackType | None) -> TracebackType | None:
    """The traceback of a KeyboardInterrupt, without the handler and the debugger it came from."""
    users: list[TracebackType] = []
    entry = traceback
    while entry is not None:
        filename = entry.tb_frame.f_code.co_filename
        is_debugger = "pydevd" in filename
        if filename == __file__ or is_debugger:
            if is_debugger and len(users) > 1 and users[-1].tb_frame is users[-2].tb_frame:
                users.pop()  # the frame whose trace function raised stands there twice
            if users:
                users[-1].tb_next = None
            break
        users.append(entry)
        entry = entry.tb_next
    return traceback


class SignalledWait:
    """Waits for a descriptor so that no signal is slept through.

    One that comes just before a system call blocks would not end that call, and its handler would
    run only after it. Here it makes a second descriptor readable, before or during the wait.

    Args:
        fd: What is waited for.
    """

    def __init__(self, fd: int) -> None:
        self._poll = select.poll()
        self._poll.register(fd, select.POLLIN)
        self._is_main = threading.current_thread() is threading.main_thread()
        self._previous = -1

    def __enter__(self) -> SignalledWait:
        if self._is_main:  # no handler runs in another thread
            self._read, self._write = os.pipe()
            os.set_blocking(self._write, False)
            self._poll.register(self._read, select.POLLIN)
            self._previous = signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
        return self

    def __exit__(self, *exc_info: object) -> None:
        if self._is_main:
            signal.set_wakeup_fd(self._previous)
            os.close(self._read)
            os.close(self._write)

    def __call__(self) -> None:
        """Wait until the descriptor is readable; a signal's handler runs at once, and may raise."""
        for fd, _ in self._poll.poll():
            if self._is_main and fd == self._read:
                os.read(fd, 4096)


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
        self.release: Callable[[FrameType | None], bool] | None = None
        """Lets a cell run on that a debugger has stopped; False when it was not stopped."""
        self.is_listening = False
        self._was_cancelled = False
        self._seen_between = False
        self._is_preparing = False
        self._is_owed = False

    def install(self) -> None:
        """Take SIGINT over."""
        signal.signal(signal.SIGINT, self.handle)

    def handle(self, number: int, frame: FrameType | None) -> None:
        """The signal handler."""
        if not self.is_listening:
            self._seen_between = True
            return
        self._is_owed = self._is_preparing
        if self.guard.put_off():
            return
        if self.release is not None and self.release(frame):
            raise KeyboardInterrupt
        if self.task is not None and not self._was_cancelled and not _is_at_work(self.task):
            self._was_cancelled = True
            loop = self.task.get_loop()
            loop.call_soon_threadsafe(self.task.cancel)
        else:
            raise KeyboardInterrupt

    def begin(self) -> bool:
        """User code is about to run. True when a signal has arrived since the last one ended."""
        self._was_cancelled = False
        self._is_preparing = True
        self._is_owed = False
        self.is_listening = True  # first: a signal from here on raises, and one before it is seen
        seen = self._seen_between
        self._seen_between = False
        return seen

    def begin_code(self) -> None:
        """The cell's own code is about to run.

        Raises:
            KeyboardInterrupt: It was raised before, while IPython prepared the cell, and somebody
                swallowed it: IPython's callbacks do.
        """
        self._is_preparing = False
        if self._is_owed:
            self._is_owed = False
            raise KeyboardInterrupt


def _is_at_work(task: asyncio.Task[Any]) -> bool:
    """Whether the task's own code runs at this moment: then it awaits nothing."""
    import asyncio

    return asyncio.current_task(task.get_loop()) is task
