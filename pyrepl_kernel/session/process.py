"""A worker's process, seen from the session: its exit, its signals, and its standard output."""

from __future__ import annotations

import array
import asyncio
import codecs
import fcntl
import logging
import os
import select
import signal
import sys
import termios
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pyrepl_kernel.session.spawn import Spawned

__all__ = ["ExitStatus", "OutputPipe", "ProcessWatch", "WorkerProcess"]

log = logging.getLogger("pyrepl_kernel.session")

_PIPE_CHUNK = 64 * 1024
_TAIL = 4096


@dataclass(frozen=True)
class ExitStatus:
    """How a process ended.

    Attributes:
        code: Its exit code; None when a signal ended it, or when nobody could tell.
        signal: The signal's number; None when it exited by itself.
    """

    code: int | None
    signal: int | None

    def __str__(self) -> str:
        if self.signal is not None:
            try:
                name = signal.Signals(self.signal).name
            except ValueError:
                name = "an unknown signal"
            return f"was killed by {name} (signal {self.signal})"
        if self.code is not None:
            return f"exited with code {self.code}"
        return "ended"


class ProcessWatch:
    """Calls back once when a process ends, without polling and without a thread.

    A pidfd on Linux, a kqueue elsewhere; both are descriptors that the event loop can wait for.
    The process need not be our child.

    Raises:
        ProcessLookupError: There is no such process.
        OSError: The platform has neither.
    """

    def __init__(self, pid: int, callback: Callable[[], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._callback = callback
        self._kqueue: Any = None
        if sys.platform == "linux":
            self._fd = os.pidfd_open(pid)
        elif hasattr(select, "kqueue"):
            self._kqueue = select.kqueue()
            event = select.kevent(pid, select.KQ_FILTER_PROC, select.KQ_EV_ADD, select.KQ_NOTE_EXIT)
            self._kqueue.control([event], 0)
            self._fd = self._kqueue.fileno()
        else:
            raise OSError("this platform offers neither pidfd nor kqueue")
        self._loop.add_reader(self._fd, self._ended)

    def _ended(self) -> None:
        self.close()
        self._callback()

    def close(self) -> None:
        """Watch no longer."""
        if self._fd < 0:
            return
        self._loop.remove_reader(self._fd)
        if self._kqueue is not None:
            self._kqueue.close()
        else:
            os.close(self._fd)
        self._fd = -1


class OutputPipe:
    """Reads what a worker and its children write to a standard stream.

    Args:
        fd: The pipe's reading end, which this object owns.
        on_text: Called with each piece of text, on the event loop.
    """

    def __init__(self, fd: int, on_text: Callable[[str], None]) -> None:
        os.set_blocking(fd, False)
        self._fd = fd
        self._on_text = on_text
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(fd, self._read)
        self._tail = b""
        self._ended = False

    @property
    def tail(self) -> str:
        """The last 4 KiB that came through."""
        return self._tail.decode("utf-8", "replace")

    def _read(self, size: int = _PIPE_CHUNK) -> bool:
        try:
            data = os.read(self._fd, size)
        except (BlockingIOError, InterruptedError):
            return False
        if not data:
            self._ended = True
            self.pause()
            return False
        self._tail = (self._tail + data)[-_TAIL:]
        if text := self._decoder.decode(data):
            self._on_text(text)
        return True

    def drain(self) -> None:
        """Deliver what is in the pipe now, and no more: a child may go on writing for ever."""
        if self._fd < 0:
            return
        size = array.array("i", [0])
        fcntl.ioctl(self._fd, termios.FIONREAD, size)
        left = size[0]
        while left > 0 and self._read(min(left, _PIPE_CHUNK)):
            left -= _PIPE_CHUNK

    def pause(self) -> None:
        """Read nothing until ``resume``: who writes has to wait."""
        if self._fd >= 0:
            self._loop.remove_reader(self._fd)

    def resume(self) -> None:
        """Go on reading."""
        if self._fd >= 0 and not self._ended:
            self._loop.add_reader(self._fd, self._read)

    def close(self) -> None:
        """Deliver what is there, and close."""
        if self._fd < 0:
            return
        self.drain()
        if text := self._decoder.decode(b"", final=True):
            self._on_text(text)
        self.pause()
        os.close(self._fd)
        self._fd = -1


class WorkerProcess:
    """A worker's process.

    Args:
        spawned: What ``spawn_worker`` gave; this object owns its pid, lifeline and pipes.
        on_text: Called with stream name and text for what reaches descriptors 1 and 2.
        on_exit: Called once, when the process has ended and been reaped.
    """

    def __init__(
        self,
        spawned: Spawned,
        on_text: Callable[[str, str], None],
        on_exit: Callable[[ExitStatus], None],
    ) -> None:
        self.pid = spawned.pid
        self._lifeline = spawned.lifeline
        self._on_exit = on_exit
        self._exited = asyncio.Event()
        self.exit: ExitStatus | None = None
        self.stdout = OutputPipe(spawned.stdout, lambda text: on_text("stdout", text))
        self.stderr = OutputPipe(spawned.stderr, lambda text: on_text("stderr", text))
        self._watch = ProcessWatch(self.pid, self._reap)

    def _reap(self) -> None:
        # Its children go with it, and first: until the leader is reaped, nobody else can come by
        # the number of its process group.
        self.signal_group(signal.SIGKILL)
        try:
            _, status = os.waitpid(self.pid, 0)
        except ChildProcessError:
            self.exit = ExitStatus(None, None)  # the host ignores SIGCHLD: nobody knows
        else:
            code = os.waitstatus_to_exitcode(status)
            self.exit = ExitStatus(None, -code) if code < 0 else ExitStatus(code, None)
        os.close(self._lifeline)
        self._exited.set()
        self._on_exit(self.exit)

    def signal_group(self, number: int) -> None:
        """Send a signal to the worker and its children; one that is gone already is no error."""
        if self.exit is not None:
            return
        try:
            os.killpg(self.pid, number)
        except (ProcessLookupError, PermissionError) as error:
            log.debug("worker %d: signal %d not delivered: %s", self.pid, number, error)

    def drain_output(self) -> None:
        """Deliver what has been written to descriptors 1 and 2 so far."""
        self.stdout.drain()
        self.stderr.drain()

    async def wait(self) -> ExitStatus:
        """Wait until the process has ended."""
        await self._exited.wait()
        assert self.exit is not None
        return self.exit

    def close(self) -> None:
        """Close the output pipes of a process that has ended."""
        self.stdout.close()
        self.stderr.close()
