"""One cell on its way through a session, and the ways to follow it."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from pyrepl_kernel.protocol.messages import (
    CommMessage,
    DisplayMessage,
    ErrorMessage,
    ExecuteMessage,
    Message,
    OutputMessage,
    RequestMessage,
    ResultMessage,
)
from pyrepl_kernel.session.output_limit import OutputLimit

__all__ = ["Execution", "Inbox", "Outcome"]

End = Callable[[ResultMessage | Exception], None]


class Execution:
    """One cell (or comm message, or request of the user's own type) on its way through a session.

    Args:
        message: What the worker is to execute.
        on_message: Called with each message of this execution, the result not among them.
        on_end: Called exactly once: with the result, or with the error that came instead.
        on_begin: Called when it is its turn, before any of its messages.
    """

    __slots__ = (
        "_on_begin",
        "_on_end",
        "_on_message",
        "is_done",
        "is_sent",
        "message",
        "output_limit",
    )

    def __init__(
        self,
        message: ExecuteMessage | CommMessage | RequestMessage,
        on_message: Callable[[Message], None],
        on_end: End,
        on_begin: Callable[[], None] | None = None,
    ) -> None:
        self.message = message
        self._on_begin = on_begin
        self._on_message: Callable[[Message], None] | None = on_message
        self._on_end: End | None = on_end
        self.is_sent = False
        self.is_done = False
        self.output_limit: OutputLimit | None = None

    @property
    def id(self) -> str:
        """The ``execution_id`` of all messages that belong to it."""
        return self.message.id

    def begin(self) -> None:
        """It is its turn."""
        if self._on_begin is not None:
            self._on_begin()

    def deliver(self, message: Message) -> None:
        """A message of this execution has arrived."""
        if self._on_message is None:
            return
        if self.output_limit is None:
            self._on_message(message)
            return
        for admitted in self.output_limit.admit(message):
            self._on_message(admitted)

    def end(self, result: ResultMessage | Exception) -> None:
        """It is over; only the first call counts."""
        if self.is_done:
            return
        self.is_done = True
        if self.output_limit is not None:
            for message in self.output_limit.flush():
                if self._on_message is not None:
                    self._on_message(message)
            self.output_limit.close()
        if self._on_end is not None:
            self._on_end(result)

    def disown(self) -> None:
        """Nobody wants to hear of it any more."""
        self._on_begin = None
        self._on_message = None
        self._on_end = None


class Inbox:
    """Messages of one execution for a reader who takes his time.

    Args:
        on_full: Called when so much has piled up that the worker should wait.
        on_room: Called when there is room again.
    """

    HIGH_WATER = 256
    LOW_WATER = 64
    MAX_SIZE = 16 * 1024 * 1024
    """Bytes, about, beyond which fewer messages are much too."""

    def __init__(self, on_full: Callable[[], None], on_room: Callable[[], None]) -> None:
        self._messages: deque[tuple[Message, int]] = deque()
        self._size = 0
        self._arrival = asyncio.Event()
        self._error: Exception | None = None
        self._on_full = on_full
        self._on_room = on_room
        self._is_full = False

    def put(self, message: Message) -> None:
        """Add a message; after an error it comes too late."""
        if self._error is not None:
            return
        self._add(message)
        is_much = len(self._messages) >= self.HIGH_WATER or self._size > self.MAX_SIZE
        if is_much and not self._is_full:
            self._is_full = True
            self._on_full()

    def _add(self, message: Message) -> None:
        size = _size_of(message)
        self._messages.append((message, size))
        self._size += size
        self._arrival.set()

    def end(self, result: ResultMessage | Exception) -> None:
        """Add the result; an error is raised by ``get`` after all that came before it."""
        if isinstance(result, Exception):
            self._error = result
            self._arrival.set()
        elif self._error is None:
            self._add(result)
        # What comes now is of other executions, which need not wait for this one's reader.
        self._make_room()

    def close(self) -> None:
        """Nobody reads any more."""
        self._messages.clear()
        self._size = 0
        self._make_room()

    def _make_room(self) -> None:
        if self._is_full:
            self._is_full = False
            self._on_room()

    async def get(self) -> Message:
        """The next message."""
        while not self._messages:
            if self._error is not None:
                raise self._error
            self._arrival.clear()
            await self._arrival.wait()
        message, size = self._messages.popleft()
        self._size -= size
        if len(self._messages) <= self.LOW_WATER and self._size <= self.MAX_SIZE // 4:
            self._make_room()
        return message


def _size_of(message: Message) -> int:
    """About how much memory a message takes."""
    if isinstance(message, OutputMessage):
        return len(message.data)
    if isinstance(message, (DisplayMessage, CommMessage)):
        values = [*message.data.values(), *message.buffers]
        return sum(len(value) for value in values if isinstance(value, (str, bytes, memoryview)))
    return 0


@dataclass
class Outcome:
    """What came of a cell, collected.

    Attributes:
        status: ``ok``, ``error`` or ``aborted``.
        execution_count: The cell's number.
        stdout: All text written to standard output.
        stderr: All text written to standard error.
        result: Mime bundle of the cell's last expression; None when it had no value.
        displays: All display messages, in order, results not among them.
        error: The exception that ended the cell, with IPython's traceback; None without one.
        user_expressions: Name → mime bundle or error, for those that were asked for.
        payload: What the cell asks of a front end.
    """

    status: str = "ok"
    execution_count: int = 0
    stdout: str = ""
    stderr: str = ""
    result: dict[str, Any] | None = None
    displays: list[DisplayMessage] = field(default_factory=list)
    error: ErrorMessage | None = None
    user_expressions: dict[str, Any] = field(default_factory=dict)
    payload: list[Any] = field(default_factory=list)

    @property
    def is_ok(self) -> bool:
        """Whether the cell ended without an error."""
        return self.status == "ok"

    @classmethod
    def collect(cls, messages: list[Message]) -> Outcome:
        """Sum up an execution's messages."""
        outcome = cls()
        streams: dict[str, list[str]] = {"stdout": [], "stderr": []}
        for message in messages:
            if isinstance(message, OutputMessage):
                streams.setdefault(message.stream, []).append(message.data)
            elif isinstance(message, DisplayMessage):
                if message.kind == "result":
                    outcome.result = message.data
                else:
                    outcome.displays.append(message)
            elif isinstance(message, ErrorMessage):
                outcome.error = message
            elif isinstance(message, ResultMessage):
                outcome.status = message.status
                outcome.execution_count = message.execution_count
                outcome.user_expressions = message.user_expressions
                outcome.payload = message.payload
        outcome.stdout = "".join(streams["stdout"])
        outcome.stderr = "".join(streams["stderr"])
        return outcome
