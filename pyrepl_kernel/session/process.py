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
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from pyrepl_kernel.protocol.forking import ExitedMessage
from pyrepl_kernel.session.forked import Forked
from pyrepl_kernel.session.groups import end_group, group_members
from pyrepl_kernel.session.spawn import Spawned

__all__ = ["ExitStatus", "OutputPipe", "ProcessWatch", "WorkerProcess", "group_members"]

log = logging.getLogger("pyrepl_kernel.session")

_NUDGES = (0.005, 0.02, 0.08, 0.3, 1.2)
"""Seconds from an interrupt, or from the nudge before, to the next; the worker may be preempted
for a while between its last look at signals and the call in which it blocks."""
_NUDGE = signal.SIGURG  # ``WAKING`` in worker/interrupts.py; without a handler it is ignored
_PIPE_CHUNK = 64 * 1024
_TAIL = 16 * 1024  # bytes; the user's own faulthandler may write its stacks there
_STACKS_TAIL = 256 * 1024
_RSS_UNIT = 1 if sys.platform == "darwin" else 1024  # of ru_maxrss, in bytes
_REPORT_TIME = 2.0  # seconds that a template has to tell how a fork of its has ended


@dataclass(frozen=True)
class ExitStatus:
    """How a process ended.

    Attributes:
        code: Its exit code; None when a signal ended it, or when nobody could tell.
        signal: The signal's number; None when it exited by itself.
        peak_memory: The most memory that it had at once, in bytes (resident); None if unknown.
        children: How many other processes of its group were left, and ended with it.
    """

    code: int | None
    signal: int | None
    peak_memory: int | None = None
    children: int = 0

    @classmethod
    def of_wait(cls, status: int, peak_memory: int | None, children: int) -> ExitStatus:
        """What ``waitpid`` said, as an exit status."""
        code = os.waitstatus_to_exitcode(status)
        if code < 0:
            return cls(None, -code, peak_memory, children)
        return cls(code, None, peak_memory, children)

    def __str__(self) -> str:
        if self.signal is not None:
            try:
                name = signal.Signals(self.signal).name
            except ValueError:
                name = "an unknown signal"
            return f"was killed by {name} (signal {self.signal})"
        if self.code is not None:
            return f"exited with code {self.code}"
        return "ended, nobody knows how"


class ProcessWatch:
    """Calls back once when a process ends, without polling and without a thread.

    A pidfd on Linux, a kqueue elsewhere; both are descriptors that the event loop can wait for.
    The process need not be our child.

    Args:
        pid: The process.
        callback: Called when it has ended.
        pidfd: A descriptor of the process, which this object owns from here on; -1 to open one.

    Raises:
        ProcessLookupError: There is no such process.
        OSError: The platform has neither.
    """

    def __init__(self, pid: int, callback: Callable[[], None], pidfd: int = -1) -> None:
        self._loop = asyncio.get_running_loop()
        self._callback = callback
        self._kqueue: Any = None
        if sys.platform == "linux":
            self._fd = pidfd if pidfd >= 0 else os.pidfd_open(pid)
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

    @property
    def has_ended(self) -> bool:
        """Whether the process has ended, though the callback may be still to come."""
        if self._fd < 0 or self._kqueue is not None:
            return self._fd < 0
        poll = select.poll()
        poll.register(self._fd, select.POLLIN)
        return bool(poll.poll(0))

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
        tail_size: How many of the last bytes are kept.
    """

    def __init__(self, fd: int, on_text: Callable[[str], None], tail_size: int = _TAIL) -> None:
        os.set_blocking(fd, False)
        self._fd = fd
        self._on_text = on_text
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(fd, self._read)
        self._tail = b""
        self._tail_size = tail_size
        self._ended = False

    @property
    def tail(self) -> str:
        """The last of what came through."""
        return self._tail.decode("utf-8", "replace")

    def forget(self) -> None:
        """Let the tail begin anew."""
        self._tail = b""

    def _read(self, size: int = _PIPE_CHUNK) -> bool:
        try:
            data = os.read(self._fd, size)
        except (BlockingIOError, InterruptedError):
            return False
        if not data:
            self._ended = True
            self.pause()
            return False
        self._tail = (self._tail + data)[-self._tail_size :]
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
        on_stacks: Called with each piece of the stacks that it writes.
    """

    def __init__(
        self,
        spawned: Spawned,
        on_text: Callable[[str, str], None],
        on_exit: Callable[[ExitStatus], None],
        on_stacks: Callable[[str], None] = lambda text: None,
    ) -> None:
        self.pid = spawned.pid
        self._lifeline = spawned.lifeline
        self._on_exit = on_exit
        self._exited = asyncio.Event()
        self._nudge: asyncio.TimerHandle | None = None
        self.exit: ExitStatus | None = None
        self.is_expected_to_end = False
        """Whether it was told to: then nobody will ask what it left behind."""
        self._on_text = on_text
        self.stdout = OutputPipe(spawned.stdout, lambda text: self._on_text("stdout", text))
        self.stderr = OutputPipe(spawned.stderr, lambda text: self._on_text("stderr", text))
        self.stacks = OutputPipe(spawned.stacks, on_stacks, _STACKS_TAIL)
        self._notes = spawned.notes
        self._has_note = False
        self._forked = spawned if isinstance(spawned, Forked) else None
        self._timer: asyncio.TimerHandle | None = None
        if self._forked is None:
            self._watch = ProcessWatch(self.pid, self._reap)
        else:
            self._watch = ProcessWatch(self.pid, self._ask_for_status, self._forked.pidfd)

    @property
    def is_forked(self) -> bool:
        """Whether it is the fork of another process, and not our child."""
        return self._forked is not None

    @property
    def has_ended(self) -> bool:
        """Whether the process has ended, though nobody may have been told yet."""
        return self.exit is not None or self._watch.has_ended

    def _reap(self) -> None:
        self.settle()
        children = 0 if self.is_expected_to_end else len(group_members(self.pid))
        # Its children go with it, and first: until the leader is reaped, nobody else can come by
        # the number of its process group.
        end_group(self.pid)
        try:
            _, status, usage = os.wait4(self.pid, 0)
        except ChildProcessError:
            self._finish(ExitStatus(None, None))  # the host ignores SIGCHLD: nobody knows
        else:
            memory = usage.ru_maxrss * _RSS_UNIT
            self._finish(ExitStatus.of_wait(status, memory, children))

    def _ask_for_status(self) -> None:
        """A fork has ended; the process that it was forked from reaps it, and tells."""
        self.settle()
        assert self._forked is not None
        reports = self._forked.reports
        if reports is None or not reports.when_reaped(self.pid, self._take_report):
            # Nobody cares for its children now, and nobody knows how it ended.
            end_group(self.pid)
            self._take_report(None)
        elif self.exit is None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(_REPORT_TIME, self._take_report, None)

    def _take_report(self, report: ExitedMessage | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self.exit is not None:
            return
        if report is None or report.status < 0:
            self._finish(ExitStatus(None, None))
        else:
            memory = report.peak_memory or None
            self._finish(ExitStatus.of_wait(report.status, memory, report.children))

    def _finish(self, status: ExitStatus) -> None:
        self.exit = status
        os.close(self._lifeline)
        os.close(self._notes)
        self._exited.set()
        self._on_exit(status)

    @property
    def _is_gone(self) -> bool:
        # A fork is reaped elsewhere, and its number may be another's by now.
        return self.exit is not None or (self.is_forked and self.has_ended)

    def signal_group(self, number: int) -> None:
        """Send a signal to the worker and its children; one that is gone already is no error."""
        if self._is_gone:
            return
        try:
            os.killpg(self.pid, number)
        except (ProcessLookupError, PermissionError) as error:
            log.debug("worker %d: signal %d not delivered: %s", self.pid, number, error)

    def signal_worker(self, number: int) -> None:
        """Send a signal to the worker alone; one that is gone already is no error."""
        if not self._is_gone:
            with suppress(ProcessLookupError, PermissionError):
                os.kill(self.pid, number)

    def note(self, text: str) -> None:
        """Leave a note for the worker's handler of SIGINT: why it comes; empty for no reason."""
        if self.exit is None and (text or self._has_note):
            os.ftruncate(self._notes, 0)
            os.pwrite(self._notes, text.encode(), 0)
            self._has_note = bool(text)

    def abandon(self) -> None:
        """Kill it and its children; nobody is told, and nobody hears its last words."""
        self.is_expected_to_end = True
        self._on_text = lambda stream, text: None
        self._on_exit = lambda status: self.close()
        self.settle()
        if self.exit is not None:
            self.close()
        self.signal_group(signal.SIGKILL)

    def interrupt(self) -> None:
        """Send SIGINT to the worker and its children, and see to it that the worker notices.

        An interpreter that was about to block when the signal came hears of it only when its call
        returns. A signal without a meaning ends that call, and disturbs nothing where the first
        one has been heard; so one interrupt stays one, however often the worker is nudged.
        """
        self.signal_group(signal.SIGINT)
        self.settle()
        self._nudge_in(0)

    def settle(self) -> None:
        """What was interrupted has ended: nudge it no more."""
        if self._nudge is not None:
            self._nudge.cancel()
            self._nudge = None

    def _nudge_in(self, step: int) -> None:
        loop = asyncio.get_running_loop()
        self._nudge = loop.call_later(_NUDGES[step], self._nudge_now, step)

    def _nudge_now(self, step: int) -> None:
        self._nudge = None
        if self._is_gone:
            return
        with suppress(ProcessLookupError, PermissionError):
            os.kill(self.pid, _NUDGE)  # the worker alone: its children are none of Python's
        if step + 1 < len(_NUDGES):
            self._nudge_in(step + 1)

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
        self.stacks.close()
