"""What SIGINT does, depending on what the main thread is at.

user's code        KeyboardInterrupt
an awaiting cell   its task is cancelled; the next SIGINT raises
a critical moment  KeyboardInterrupt right after it (``InterruptGuard``)
at a breakpoint    KeyboardInterrupt there
between cells      nothing, but it is remembered: the session names the cell that it meant in
                   an interrupt message sent before the signal, and if that is the cell about
                   to begin, then the cell ends before it begins

A handler that the user's code sets is in force until its cell ends. Python's own debugger sets one
with ``continue`` and leaves it: the next cell's interrupt would be a breakpoint.

Python runs handlers between two bytecodes, and in a system call that a signal ends. One that comes
after its last look and before the call blocks is heard of only when the call returns. Nothing here
can notice that; the session sends ``WAKING`` after each interrupt, a signal without a meaning that
ends the call, upon which the handler of the first one runs.

Where no exception can be raised (``__del__``, callbacks of weak references, the hooks of fork)
Python swallows the KeyboardInterrupt, and says so to ``sys.unraisablehook``. The next of those
signals raises another one.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # the standard library's own; no stubs
import _thread
import os
import select
import signal
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import asyncio

__all__ = ["WAKING", "InterruptGuard", "Interrupts", "SignalledWait", "user_part"]

_SIGINT = int(signal.SIGINT)
_DEFAULT = int(signal.SIG_DFL)
WAKING = signal.SIGURG
"""What the session sends after an interrupt; ignored where nobody waits for it."""
_WAKING = int(WAKING)


def user_part(traceback: TracebackType | None) -> TracebackType | None:
    """The traceback of a KeyboardInterrupt, without the handler and the debugger it came from."""
    users: list[TracebackType] = []
    entry = traceback
    while entry is not None:
        code = entry.tb_frame.f_code
        filename = code.co_filename
        # Some of its compiled code names no file.
        is_debugger = "pydevd" in filename or "pydevd" in code.co_name
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
    run only after it. Here it makes a second descriptor readable, before or during the wait. Who
    was told of signals before (an asyncio loop with signal handlers) hears of them all the same.

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
            os.set_blocking(self._read, False)
            os.set_blocking(self._write, False)
            self._poll.register(self._read, select.POLLIN)
            self._previous = signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
        return self

    def __exit__(self, *exc_info: object) -> None:
        if self._is_main:
            signal.set_wakeup_fd(self._previous)
            self._pass_on()
            os.close(self._read)
            os.close(self._write)

    def __call__(self) -> None:
        """Wait until the descriptor is readable; a signal's handler runs at once, and may raise."""
        for fd, _ in self._poll.poll():
            if self._is_main and fd == self._read:
                self._pass_on()

    def _pass_on(self) -> None:
        with suppress(BlockingIOError):  # there was none; or it is full, and its reader wakes up
            signals = os.read(self._read, 4096)
            if self._previous != -1:
                os.write(self._previous, signals)


class InterruptGuard:
    """Puts KeyboardInterrupt off to the end of a block of the main thread's.

    Args:
        make_exception: Gives what is raised then.
    """

    def __init__(self, make_exception: Callable[[], KeyboardInterrupt] = KeyboardInterrupt) -> None:
        self._make_exception = make_exception
        self.main = _thread.get_ident()
        self._depth = 0
        self._is_pending = False

    def __enter__(self) -> None:
        if _thread.get_ident() == self.main:
            self._depth += 1

    def __exit__(self, *exc_info: object) -> None:
        if _thread.get_ident() == self.main:
            self._depth -= 1
            if self._is_pending and not self._depth:
                self._is_pending = False
                raise self._make_exception()

    def put_off(self) -> bool:
        """Called for a signal: whether it has to wait for the end of the block."""
        if self._depth:
            self._is_pending = True
        return self._depth > 0


class Interrupts:
    """The handler of SIGINT, and what it needs to know.

    Args:
        make_exception: Gives what an interrupt raises: its class says why the cell is interrupted.
    """

    def __init__(self, make_exception: Callable[[], KeyboardInterrupt] = KeyboardInterrupt) -> None:
        self.make_exception = make_exception
        self.guard = InterruptGuard(make_exception)
        self.task: asyncio.Task[Any] | None = None
        """The task of a cell that awaits; an interrupt cancels it."""
        self.release: Callable[[FrameType | None], bool] | None = None
        """Lets a cell run on that a debugger has stopped; False when it was not stopped."""
        self.is_listening = False
        self.cancelled_by: KeyboardInterrupt | None = None
        """Why the task of a cell that awaits was cancelled; None if it was not."""
        self.raised: KeyboardInterrupt | None = None
        """What was raised last in the cell at work."""
        self._seen_between = False
        self._is_preparing = False
        self._is_owed = False
        self._was_swallowed = False

    def install(self) -> None:
        """Take SIGINT over, or back from what the user's code has set."""
        # Always: what a C library has set does not show in Python.
        # By the module below ``signal``, which turns numbers into enums and back: that takes ten
        # times as long as the system call, and this is done twice for each cell.
        _signal.signal(_SIGINT, self.handle)
        if _signal.getsignal(_WAKING) == _DEFAULT:
            _signal.signal(_WAKING, self._wake)
        if sys.unraisablehook is sys.__unraisablehook__:
            sys.unraisablehook = self._note_unraisable

    def handle(self, number: int, frame: FrameType | None) -> None:
        """The signal handler."""
        if not self.is_listening:
            self._seen_between = True
            return
        self._is_owed = self._is_preparing
        if self.guard.put_off():
            return
        exception = self.make_exception()
        self.raised = exception
        if self.release is not None and self.release(frame):
            raise exception
        if self.task is not None and self.cancelled_by is None and not _is_at_work(self.task):
            self.cancelled_by = exception
            # Now, and not by a callback: the task's next step may stand before it, and never end.
            self.task.cancel(*exception.args)
            self.task.get_loop().call_soon_threadsafe(_do_nothing)  # it may wait for something
        else:
            raise exception

    def _wake(self, number: int, frame: FrameType | None) -> None:
        """The handler of ``WAKING``: that there is one is what ends a system call."""
        if self._was_swallowed and self.is_listening:
            self._was_swallowed = False
            self.handle(number, frame)

    def _note_unraisable(self, problem: sys.UnraisableHookArgs, /) -> None:
        """Python's hook, which says what it makes of an exception that it cannot raise."""
        is_interrupt = issubclass(problem.exc_type, KeyboardInterrupt) and self.is_listening
        if is_interrupt and _thread.get_ident() == self.guard.main:
            self._was_swallowed = not self._is_preparing
        else:
            sys.__unraisablehook__(problem)

    def begin(self) -> bool:
        """User code is about to run. True when a signal has arrived since the last one ended."""
        self.install()
        self.cancelled_by = None
        self.raised = None
        self._is_preparing = True
        self._is_owed = False
        self._was_swallowed = False
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
            raise self.make_exception()


def _do_nothing(*args: object) -> None:
    """A loop's callback: that there is one is what ends its wait."""


def _is_at_work(task: asyncio.Task[Any]) -> bool:
    """Whether the task's own code runs at this moment: then it awaits nothing."""
    import asyncio

    return asyncio.current_task(task.get_loop()) is task
