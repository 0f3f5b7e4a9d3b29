"""Why a worker died: what is known of a process that has ended without being told to."""

from __future__ import annotations

import signal
from dataclasses import dataclass

from pyrepl_kernel.errors import DeathCause, WorkerDied
from pyrepl_kernel.protocol.messages import (
    WARMUP_MARK,
    ExecuteMessage,
    Message,
    ResultMessage,
)
from pyrepl_kernel.session.oom import OutOfMemoryKills
from pyrepl_kernel.session.process import ExitStatus, WorkerProcess
from pyrepl_kernel.session.stacks import CellSources, ThreadStack, parse_stacks, user_frames

__all__ = ["Evidence"]

_FAULTS = frozenset({"SIGSEGV", "SIGBUS", "SIGILL", "SIGFPE", "SIGABRT", "SIGTRAP", "SIGSYS"})
"""Signals that a process gets for what it did itself."""
_OVERFLOWS = frozenset({"SIGSEGV", "SIGBUS"})
_FATAL = "Fatal Python error"


@dataclass(frozen=True)
class Verdict:
    """Why the session itself killed a worker."""

    cause: DeathCause
    reason: str


class Evidence:
    """What a session takes note of while its worker lives, to say one day why it died."""

    def __init__(self) -> None:
        self._sources = CellSources()
        self._kills: OutOfMemoryKills | None = None
        self._next_count = 1
        self._verdict: Verdict | None = None

    def succeed(self, next_count: int) -> Evidence:
        """Of the worker that goes on with this one's state: it has the same cells."""
        heir = Evidence()
        heir._sources = self._sources
        heir._next_count = next_count
        return heir

    def begin(self, message: Message, process: WorkerProcess) -> None:
        """An execution has been sent to the worker."""
        # What was said before belongs to others.
        process.stderr.forget()
        process.stacks.forget()
        if self._kills is None:
            self._kills = OutOfMemoryKills(process.pid)
        else:
            self._kills.note()
        if isinstance(message, ExecuteMessage):
            self._sources.add(message.code, self._name_of(message))

    def _name_of(self, message: ExecuteMessage) -> str:
        if message.metadata.get(WARMUP_MARK):
            return "the warmup"
        if message.store_history and message.capture_source and not message.silent:
            return f"In [{self._next_count}]"
        return "a cell without a number"

    def end(self, result: ResultMessage) -> None:
        """An execution has ended."""
        self._next_count = result.next_count

    def convict(self, cause: DeathCause, reason: str) -> None:
        """The session is about to kill the worker; only the first reason counts.

        Args:
            cause: Why, in a word.
            reason: Why, in a clause: "was killed because …".
        """
        if self._verdict is None:
            self._verdict = Verdict(cause, reason)

    def resolve(self, text: str) -> list[ThreadStack]:
        """The stacks in what faulthandler wrote, with the cells in them found."""
        return self._sources.resolve(parse_stacks(text))

    def conclude(self, session_id: str, process: WorkerProcess) -> WorkerDied:
        """Say why the worker died, whose process has been reaped."""
        status = process.exit
        assert status is not None
        stderr = process.stderr.tail
        stack = process.stacks.tail
        if not stack and _FATAL in stderr:
            stack = stderr[stderr.rindex(_FATAL) :]  # the user's own faulthandler.enable()
        crashed = _thread_at_fault(self.resolve(stack), _FATAL in stack)
        cause, reason = self._judge(status, crashed)
        return WorkerDied(
            session_id,
            reason,
            exit_code=status.code,
            signal=status.signal,
            stderr=stderr,
            cause=cause,
            stack=stack,
            frames=user_frames(crashed.frames) if crashed is not None else (),
            peak_memory=status.peak_memory,
            children=status.children,
        )

    def _judge(self, status: ExitStatus, crashed: ThreadStack | None) -> tuple[DeathCause, str]:
        name = _signal_name(status.signal)
        if self._verdict is not None and name == "SIGKILL":
            return self._verdict.cause, self._verdict.reason
        is_out_of_memory = self._kills is not None and self._kills.has_grown()
        cause = _cause_of(name, crashed, is_out_of_memory)
        return cause, f"{status}{_ADDITIONS.get(cause, '')}"

    def close(self) -> None:
        """The worker is gone."""
        if self._kills is not None:
            self._kills.close()
            self._kills = None


_ADDITIONS = {
    DeathCause.OUT_OF_MEMORY: " by the system, which had run out of memory",
    DeathCause.STACK_OVERFLOW: " when its C stack overflowed",
}


def _cause_of(name: str, crashed: ThreadStack | None, is_out_of_memory: bool) -> DeathCause:
    if not name:
        return DeathCause.EXIT
    if name in _FAULTS:
        # A hundred frames and more at a bad address: the recursion went on until the stack's end.
        is_deep = crashed is not None and crashed.is_cut_off
        return DeathCause.STACK_OVERFLOW if is_deep and name in _OVERFLOWS else DeathCause.CRASH
    if name == "SIGKILL" and is_out_of_memory:
        return DeathCause.OUT_OF_MEMORY
    return DeathCause.SIGNAL


def _signal_name(number: int | None) -> str:
    if number is None:
        return ""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _thread_at_fault(threads: list[ThreadStack], has_crashed: bool) -> ThreadStack | None:
    """The thread that crashed; without a crash the main thread, which comes last."""
    current = [thread for thread in threads if thread.is_current]
    if has_crashed and current:
        return current[-1]
    return threads[-1] if threads else None
