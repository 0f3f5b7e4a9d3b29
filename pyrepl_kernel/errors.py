"""Every error that pyrepl-kernel raises on its own behalf::

    PyreplError
    ├── ProtocolError               a peer or a caller broke the wire protocol
    │   ├── FrameTooLarge           a length prefix (or a message to send) above the limit
    │   ├── FrameTruncated          the stream ended inside a frame
    │   ├── InvalidFrame            a frame whose body is not a msgpack map
    │   ├── UnknownMessageType      a map whose ``type`` no message class has
    │   ├── MissingField            a message without a field that it needs
    │   ├── InvalidField            a field of the wrong type, or one that the message lacks
    │   ├── TransportNotStarted     a transport used before ``start()``
    │   └── TransportClosed         a transport used after its stream ended
    ├── SessionError                something went wrong with a session's worker
    │   ├── InvalidTransition       a change of state that the table of states lacks
    │   ├── SessionClosed           the session was used after it ended
    │   ├── StartError              the worker did not come up
    │   ├── UnknownSubshell         the session has no subshell of that id
    │   ├── WarmupError             the warmup code raised
    │   ├── WorkerDied              the worker process ended while something waited for it
    │   └── ExecutionTimeout        a cell ran longer than its caller allowed (a TimeoutError too)
    ├── CheckpointError             a checkpoint could not be taken, found, or gone back to
    ├── SubshellsOff                a front end asked for a subshell of a kernel without them
    ├── TemplateError               a template could not make a worker; it is spawned instead
    ├── PoolError                   the pool could not give a session
    │   ├── PoolClosed              the pool is stopped, or was never started
    │   ├── PoolTimeout             no session became free in time (a TimeoutError too)
    │   └── PoolExhausted           more callers wait than ``max_waiting`` allows
    └── BatchError                  a batch of notebooks cannot be run as asked

A caller's mistake in an argument is a plain ``TypeError`` or ``ValueError``.

In a cell that passes a limit, these are raised, as an interrupt by the user would be:

    KeyboardInterrupt
    ├── MemoryLimitExceeded         it has more memory than its limit (a MemoryError too)
    └── CellTimeout                 it has run for longer than its limit
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pyrepl_kernel.session.stacks import Frame

__all__ = [
    "BatchError",
    "CellTimeout",
    "CheckpointError",
    "DeathCause",
    "ExecutionTimeout",
    "FrameTooLarge",
    "FrameTruncated",
    "InvalidField",
    "InvalidFrame",
    "InvalidTransition",
    "MemoryLimitExceeded",
    "MissingField",
    "PoolClosed",
    "PoolError",
    "PoolExhausted",
    "PoolTimeout",
    "ProtocolError",
    "PyreplError",
    "SessionClosed",
    "SessionError",
    "StartError",
    "SubshellsOff",
    "TemplateError",
    "TransportClosed",
    "TransportNotStarted",
    "UnknownMessageType",
    "UnknownSubshell",
    "WarmupError",
    "WorkerDied",
]

_FIRST, _LAST = 5, 25  # lines of a stack that an error's text has of a long one


class PyreplError(Exception):
    """The root of the tree."""


# ---------------------------------------------------------------- protocol


class ProtocolError(PyreplError):
    """A peer or a caller broke the wire protocol."""


class FrameTooLarge(ProtocolError):
    """A frame announces, or a message needs, more bytes than the limit.

    Attributes:
        size: Size of the frame's body, in bytes.
        limit: The limit in force, in bytes.
    """

    def __init__(self, size: int, limit: int) -> None:
        super().__init__(
            f"frame of {size} bytes is over the limit of {limit} bytes; "
            "send less at once or raise max_frame_size on both sides"
        )
        self.size = size
        self.limit = limit


class FrameTruncated(ProtocolError):
    """The stream ended in the middle of a frame.

    Attributes:
        received: Bytes of the frame that did arrive, its length prefix included.
        expected: Bytes that the frame needed; None when its prefix was incomplete.
    """

    def __init__(self, received: int, expected: int | None) -> None:
        whole = "its 4-byte length prefix" if expected is None else f"{expected} bytes"
        super().__init__(f"stream ended inside a frame: {received} bytes arrived of {whole}")
        self.received = received
        self.expected = expected


class InvalidFrame(ProtocolError):
    """A frame's body is not a msgpack map with string keys."""

    def __init__(self, reason: str, body: bytes) -> None:
        start = bytes(body[:32])
        super().__init__(f"frame is not a msgpack map: {reason}; it begins with {start!r}")
        self.reason = reason
        self.body_start = start


class UnknownMessageType(ProtocolError):
    """A message names a type that this version does not know."""

    def __init__(self, name: object) -> None:
        super().__init__(f"unknown message type {name!r}")
        self.name = name


class MissingField(ProtocolError, TypeError):
    """A message lacks a field that it cannot do without."""

    def __init__(self, message_type: str, field: str) -> None:
        super().__init__(f"{message_type} message lacks the field {field!r}")
        self.message_type = message_type
        self.field = field


class InvalidField(ProtocolError, TypeError):
    """A field of a message has a value of the wrong type, or is not one of its fields."""

    def __init__(self, message_type: str, field: str, value: object, expected: str) -> None:
        shown = repr(value)
        if len(shown) > 80:
            shown = shown[:77] + "..."
        super().__init__(f"{message_type} message: field {field!r} is {shown}, expected {expected}")
        self.message_type = message_type
        self.field = field
        self.value = value


class TransportNotStarted(ProtocolError):
    """A transport was used before ``await transport.start()``."""

    def __init__(self) -> None:
        super().__init__("the transport is not started; call start() before using it")


class TransportClosed(ProtocolError):
    """A transport was used after it was closed, or its peer has gone."""


# ----------------------------------------------------------------- session


class SessionError(PyreplError):
    """Something went wrong with a session or its worker.

    Attributes:
        session_id: The session concerned.
    """

    def __init__(self, session_id: str, message: str) -> None:
        super().__init__(f"session {session_id}: {message}")
        self.session_id = session_id


class InvalidTransition(SessionError):
    """A session was asked to change to a state that it cannot reach from where it is."""


class SessionClosed(SessionError):
    """The session has ended, or was never started."""


class SubshellsOff(PyreplError):
    """A front end asked for a subshell, and the kernel was started without them."""


class UnknownSubshell(SessionError):
    """The session has no subshell of that id; it may have been deleted, or gone with its worker."""


class StartError(SessionError):
    """The worker process did not come up.

    Attributes:
        stderr: What the worker wrote to its standard error, as far as it got.
    """

    def __init__(self, session_id: str, message: str, stderr: str = "") -> None:
        if stderr.strip():
            message = f"{message}\n--- the worker's last words ---\n{stderr.rstrip()}"
        super().__init__(session_id, message)
        self.stderr = stderr


class WarmupError(SessionError):
    """The warmup code raised.

    Attributes:
        ename: Name of the exception's class.
        evalue: The exception's text.
        traceback: Lines of IPython's traceback of the warmup code.
    """

    def __init__(self, session_id: str, ename: str, evalue: str, traceback: Sequence[str]) -> None:
        text = "\n".join(traceback)
        super().__init__(session_id, f"the warmup code raised {ename}: {evalue}\n{text}")
        self.ename = ename
        self.evalue = evalue
        self.traceback = list(traceback)


class DeathCause(StrEnum):
    """Why a worker died, in a word."""

    EXIT = "exit"
    """It ended itself: ``os._exit()``, or a library's ``exit()``."""
    CRASH = "crash"
    """A fault in compiled code: SIGSEGV, SIGABRT and their like."""
    STACK_OVERFLOW = "stack_overflow"
    """A recursion through compiled code that used up the C stack."""
    SIGNAL = "signal"
    """A signal that somebody else sent."""
    OUT_OF_MEMORY = "out_of_memory"
    """The system killed it, since memory had run out."""
    MEMORY_LIMIT = "memory_limit"
    """The session killed it, since it passed its limit."""
    TIME_LIMIT = "time_limit"
    """The session killed it, since its cell ignored the interrupt at the end of its time."""
    INTERRUPTS = "interrupts"
    """The session killed it, since its cell did not end when it was interrupted."""
    ABANDONED = "abandoned"
    """The session killed it, since nobody waited for its cell and the cell did not end."""
    PROTOCOL = "protocol"
    """The session killed it, since it sent what no worker may send."""


class WorkerDied(SessionError):
    """The worker process ended while something waited for it.

    Attributes:
        reason: What happened, as a clause whose subject is the worker.
        cause: The same in a word.
        exit_code: The process's exit code; None when a signal ended it.
        signal: Number of the signal that ended it; None when it exited by itself.
        stderr: The end of what the process wrote to its standard error since its cell began.
        stack: The Python stacks of its threads as faulthandler writes them, at the fault or when
            it was interrupted in vain; empty where there were none.
        frames: The stack of the thread at fault, outermost first, from its first cell on.
        peak_memory: The most memory that it had at once, in bytes (resident); None if unknown.
        children: How many processes of its group were ended with it.
    """

    def __init__(
        self,
        session_id: str,
        reason: str,
        *,
        exit_code: int | None = None,
        signal: int | None = None,
        stderr: str = "",
        cause: DeathCause = DeathCause.SIGNAL,
        stack: str = "",
        frames: Sequence[Frame] = (),
        peak_memory: int | None = None,
        children: int = 0,
    ) -> None:
        message = f"the worker process {reason}"
        if frames:
            message = f"{message}\n--- where it was ---\n" + "\n".join(
                _ends(list(map(str, frames)))
            )
        if stderr.strip():
            message = f"{message}\n--- the worker's last words ---\n{stderr.rstrip()}"
        super().__init__(session_id, message)
        self.reason = reason
        self.cause = cause
        self.exit_code = exit_code
        self.signal = signal
        self.stderr = stderr
        self.stack = stack
        self.frames = tuple(frames)
        self.peak_memory = peak_memory
        self.children = children


def _ends(lines: list[str]) -> list[str]:
    """A stack's first and last lines; a recursion that used up its stack has many alike."""
    if len(lines) <= _FIRST + _LAST:
        return lines
    left_out = len(lines) - _FIRST - _LAST
    return [*lines[:_FIRST], f"... {left_out} more ...", *lines[-_LAST:]]


class ExecutionTimeout(SessionError, TimeoutError):
    """A cell ran longer than its caller allowed; it was interrupted."""


class CheckpointError(PyreplError):
    """A checkpoint could not be taken, is not there, or could not be gone back to."""


class TemplateError(PyreplError):
    """A template could not be had, or could not make a worker: the worker is spawned instead."""


# -------------------------------------------------------------------- pool


class PoolError(PyreplError):
    """The pool could not give a session."""


class PoolClosed(PoolError):
    """The pool is stopped, or was never started."""


class PoolTimeout(PoolError, TimeoutError):
    """No session became free within ``acquire_timeout``."""


class PoolExhausted(PoolError):
    """As many callers wait already as ``max_waiting`` allows."""


# ------------------------------------------------------------------- batch


class BatchError(PyreplError):
    """A batch of notebooks cannot be run as asked; raised before any notebook runs."""


# ------------------------------------------------------------- in a cell


class MemoryLimitExceeded(KeyboardInterrupt, MemoryError):
    """The cell's process and its children have more memory than the cell's limit."""


class CellTimeout(KeyboardInterrupt):
    """The cell has run for longer than its limit."""
