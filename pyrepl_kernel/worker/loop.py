"""Where the main thread is between cells, and the asyncio loop that it owns; a subshell's likewise.

Until the user's code imports asyncio there is no loop: the main thread waits in ``recv``. From
then on it waits in the loop, so that background tasks go on between cells.

A cell without ``await`` runs while the loop stands still. It sees the loop all the same
(``get_running_loop``, ``create_task``), and since the loop does stand still, ``asyncio.run`` and
``run_until_complete`` work as in a script. asyncio asks two questions by two functions: which
loop tasks go to (``get_running_loop``) and whether one is running that must not be nested
(``_get_running_loop``). In such a cell they get two answers.
"""

from __future__ import annotations

import asyncio
import asyncio.events
import os
import selectors
import signal
import threading
from collections.abc import Callable, Coroutine
from contextlib import AbstractContextManager
from typing import Any

__all__ = ["CellLoop"]


_loops: dict[int, CellLoop] = {}
"""Thread → its loop: the main thread's, and each subshell's."""

_set = asyncio.events._set_running_loop
_get = asyncio.events._get_running_loop


def _set_running_loop(loop: asyncio.AbstractEventLoop | None) -> None:
    if loop is None:
        own = _loops.get(threading.get_ident())
        if own is not None and own.is_shown:
            loop = own.loop  # a loop has ended that ran inside a cell
    _set(loop)


def _get_running_loop() -> asyncio.AbstractEventLoop | None:
    loop = _get()
    own = _loops.get(threading.get_ident())
    if own is not None and loop is own.loop and not loop.is_running():
        return None
    return loop


class CellLoop:
    """The asyncio loop of a thread that runs cells: the main thread, or a subshell's."""

    _on_signal = _signal_fd = -1

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        asyncio.set_event_loop(self.loop)
        self.is_shown = False
        self._thread = threading.get_ident()
        self._is_main = threading.current_thread() is threading.main_thread()
        if self._is_main:
            # A signal that comes just before the loop begins to wait would not end that wait.
            self._on_signal, self._signal_fd = os.pipe()
            os.set_blocking(self._signal_fd, False)
            self.loop.add_reader(self._on_signal, lambda: os.read(self._on_signal, 4096))
        _loops[self._thread] = self
        asyncio.events._set_running_loop = _set_running_loop
        asyncio.events._get_running_loop = _get_running_loop
        asyncio._set_running_loop = _set_running_loop
        asyncio._get_running_loop = _get_running_loop

    def watch(self, fd: int, on_readable: Callable[[], None]) -> None:
        """While the loop runs, call ``on_readable`` when something has arrived on a socket."""
        self.loop.add_reader(fd, on_readable)

    @property
    def problem(self) -> str:
        """Why a fork could not go on with this loop; empty where it can."""
        if self.loop.is_closed() or isinstance(self.loop, asyncio.SelectorEventLoop):
            return ""
        kind = type(self.loop)
        return f"the event loop, a {kind.__module__}.{kind.__name__}, is none of asyncio's own"

    def descriptors(self) -> set[int]:
        """Those of the loop itself."""
        found = {self._on_signal, self._signal_fd}
        if not self.loop.is_closed():
            loop: Any = self.loop
            found |= {loop._selector.fileno(), loop._ssock.fileno(), loop._csock.fileno()}
        return found

    def renew(self, old_fd: int) -> None:
        """In a fork: share nothing of the loop with the parent; its tasks go on.

        Args:
            old_fd: A descriptor that is not to be watched any more.
        """
        loop: Any = self.loop
        self.is_shown = False
        _set(None)
        watched = self._on_signal
        os.close(self._on_signal)
        os.close(self._signal_fd)
        self._on_signal, self._signal_fd = os.pipe()
        os.set_blocking(self._signal_fd, False)
        if loop.is_closed():
            return
        # An epoll instance and a pair of sockets, which the parent would go on to use.
        old = loop._selector
        own = {watched, old_fd, loop._ssock.fileno()}
        keys = [key for key in old.get_map().values() if key.fd not in own]
        old.close()
        loop._selector = selectors.DefaultSelector()
        loop._ssock.close()
        loop._csock.close()
        loop._internal_fds -= 1
        loop._make_self_pipe()
        for key in keys:
            loop._selector.register(key.fileobj, key.events, key.data)
        loop.add_reader(self._on_signal, lambda: os.read(self._on_signal, 4096))

    def close(self) -> None:
        """Cancel what is left, and forget the loop: its thread ends, or forks would share it."""
        if self.is_shown:
            self.is_shown = False
            _set(None)
        del _loops[self._thread]
        tasks = asyncio.all_tasks(self.loop)
        for task in tasks:
            task.cancel()
        if tasks:
            self.loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
        self.loop.close()
        if self._is_main:
            os.close(self._on_signal)
            os.close(self._signal_fd)

    def show(self) -> None:
        """A cell begins that runs while the loop stands still."""
        self.is_shown = True
        _set(self.loop)

    def hide(self) -> None:
        """It has ended."""
        self.is_shown = False
        _set(None)
        if self.loop.is_closed():
            return
        # asyncio.run leaves the thread without a loop of its own.
        asyncio.set_event_loop(self.loop)

    def run_forever(self) -> None:
        """Run until ``stop``."""
        self.loop.run_forever()

    def stop(self) -> None:
        """Let ``run_forever`` return, if it is at work."""
        # A stop kept for later would end the next cell that awaits.
        if self.loop.is_running():
            self.loop.stop()

    @property
    def can_step(self) -> bool:
        """Whether ``step`` can be called: the loop stands still, and is one of asyncio's own."""
        loop = self.loop
        return not (loop.is_closed() or loop.is_running() or self.is_shown or self.problem)

    @property
    def selector_fd(self) -> int:
        """A descriptor that is readable when one is for which the loop waits."""
        loop: Any = self.loop
        return int(loop._selector.fileno())

    def until_due(self) -> float | None:
        """Seconds until there is something to do that no descriptor tells of; None for never."""
        loop: Any = self.loop
        if loop._ready:
            return 0.0
        timers = loop._scheduled
        return max(0.0, timers[0].when() - loop.time()) if timers else None

    def step(self) -> None:
        """Do what can be done now, once, without waiting."""
        self.loop.call_soon(self.loop.stop)
        self.loop.run_forever()

    def _swap_wakeup_fd(self, expected: int, fd: int) -> None:
        """Have signals written to ``fd``; not if they go to one that is none of ours."""
        if not self._is_main:
            return  # no signal reaches another thread
        found = signal.set_wakeup_fd(fd, warn_on_full_buffer=False)
        if found != expected:
            signal.set_wakeup_fd(found)

    def run(
        self,
        coroutine: Coroutine[Any, Any, Any],
        on_task: Callable[[asyncio.Task[Any]], None],
        guard: AbstractContextManager[None],
    ) -> Any:
        """Run a cell that awaits.

        Args:
            coroutine: The cell.
            on_task: Gets the cell's task before it begins.
            guard: Puts interrupts off for a moment.
        """
        task: asyncio.Task[Any] | None = None
        try:
            self._swap_wakeup_fd(-1, self._signal_fd)
            with guard:
                task = self.loop.create_task(coroutine)
                on_task(task)
            return self.loop.run_until_complete(task)
        except asyncio.CancelledError:
            # Cancelled before its first step: IPython has not even begun.
            raise KeyboardInterrupt from None
        except KeyboardInterrupt:
            if task is None:
                coroutine.close()
            elif not task.done():
                task.cancel()  # or it would go on between cells
            elif not task.cancelled():
                task.exception()  # seen: it is this interrupt
            raise
        finally:
            # Others wait for signals too: input() between two such cells.
            self._swap_wakeup_fd(self._signal_fd, -1)
