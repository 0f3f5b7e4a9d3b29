"""Where the main thread is between cells, and the asyncio loop that it owns.

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
import signal
import threading
from collections.abc import Callable, Coroutine
from contextlib import AbstractContextManager
from typing import Any

__all__ = ["CellLoop"]


class CellLoop:
    """The main thread's asyncio loop.

    Args:
        fd: The protocol's socket.
        on_readable: Called, while the loop runs, when something has arrived there.
    """

    def __init__(self, fd: int, on_readable: Callable[[], None]) -> None:
        self.loop = asyncio.new_event_loop()
        asyncio.set_event_loop(self.loop)
        self.loop.add_reader(fd, on_readable)
        # A signal that comes just before the loop begins to wait would not end that wait.
        self._on_signal, self._signal_fd = os.pipe()
        os.set_blocking(self._signal_fd, False)
        self.loop.add_reader(self._on_signal, lambda: os.read(self._on_signal, 4096))
        self._main = threading.get_ident()
        self._is_shown = False
        self._set = asyncio.events._set_running_loop
        self._get = asyncio.events._get_running_loop
        asyncio.events._set_running_loop = self._set_running_loop
        asyncio.events._get_running_loop = self._get_running_loop
        asyncio._set_running_loop = self._set_running_loop
        asyncio._get_running_loop = self._get_running_loop

    def _set_running_loop(self, loop: asyncio.AbstractEventLoop | None) -> None:
        if loop is None and self._is_shown and threading.get_ident() == self._main:
            loop = self.loop  # a loop has ended that ran inside a cell
        self._set(loop)

    def _get_running_loop(self) -> asyncio.AbstractEventLoop | None:
        loop = self._get()
        if loop is self.loop and not loop.is_running():
            return None
        return loop

    def show(self) -> None:
        """A cell begins that runs while the loop stands still."""
        self._is_shown = True
        self._set(self.loop)

    def hide(self) -> None:
        """It has ended."""
        self._is_shown = False
        self._set(None)
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

    def _swap_wakeup_fd(self, expected: int, fd: int) -> None:
        """Have signals written to ``fd``; not if they go to one that is none of ours."""
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
