"""What the tests with real workers share."""

from __future__ import annotations

import asyncio
import os
import select
import sys
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import suppress

import psutil

from pyrepl_kernel.protocol.messages import (
    CommMessage,
    ExecuteMessage,
    InputMessage,
    Message,
    OutputMessage,
    ResultMessage,
)
from pyrepl_kernel.session.execution import Execution
from pyrepl_kernel.session.session import Session

__all__ = [
    "BOUND",
    "MARK",
    "WORK",
    "Following",
    "follow",
    "is_running",
    "marked",
    "result_of",
    "text_of",
    "until_output",
    "wait_gone",
]

MARK = ("PYREPL_TEST_RUN", uuid.uuid4().hex)
"""An environment variable that each process started by this run of the tests has."""

BOUND = 20.0
"""Seconds that anything may take before a test fails: a bound, and no expectation of speed."""

WORK = """
_began = time.perf_counter()
while not get_ipython().get_checkpoints().is_worth((time.perf_counter() - _began) / 2): pass
"""
"""Code that takes longer than to keep its state would, twice over, however busy the machine is."""


def marked() -> set[int]:
    """The processes, besides this one, that were started by this run of the tests."""
    name, value = MARK
    found = set()
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            if process.pid != os.getpid() and process.environ().get(name) == value:
                found.add(process.pid)
    return found


def is_running(pid: int) -> bool:
    """Whether there is such a process; one that has ended and was not reaped is none."""
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def wait_gone(pid: int, timeout: float = BOUND) -> bool:
    """Whether a process, a child or not, ends within ``timeout`` seconds."""
    if sys.platform != "linux":
        _, alive = psutil.wait_procs([psutil.Process(pid)] if is_running(pid) else [], timeout)
        return not alive
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([descriptor], [], [], timeout)[0])
    finally:
        os.close(descriptor)


def text_of(messages: list[Message], stream: str = "stdout") -> str:
    """All that was written to one stream."""
    return "".join(
        message.data
        for message in messages
        if isinstance(message, OutputMessage) and message.stream == stream
    )


def result_of(messages: list[Message]) -> ResultMessage:
    """The result, which is the last message and the only one of its kind."""
    *others, last = messages
    assert isinstance(last, ResultMessage)
    assert not any(isinstance(message, ResultMessage) for message in others)
    return last


class Following:
    """A cell that runs, and what has come of it so far.

    Attributes:
        messages: All messages so far, the result not among them.
        end: Done when the cell has ended, with its result or with the error that came instead.
    """

    def __init__(self, session: Session, message: ExecuteMessage | CommMessage) -> None:
        self.messages: list[Message] = []
        self._arrival = asyncio.Event()
        self.end: asyncio.Future[ResultMessage] = asyncio.get_running_loop().create_future()
        self.execution: Execution = session.submit(message, self._arrived, self._ended)

    def _arrived(self, message: Message) -> None:
        self.messages.append(message)
        self._arrival.set()

    def _ended(self, result: ResultMessage | Exception) -> None:
        if isinstance(result, Exception):
            self.end.set_exception(result)
        else:
            self.end.set_result(result)
        self._arrival.set()

    async def result(self) -> ResultMessage:
        """The result; raises what came instead."""
        return await asyncio.wait_for(asyncio.shield(self.end), BOUND)

    async def printed(self, text: str) -> None:
        """Wait until the cell has printed something."""
        await self.until(lambda: text in text_of(self.messages))

    async def printed_to(self, stream: str, text: str) -> None:
        """Wait until the cell has printed something to a stream."""
        await self.until(lambda: text in text_of(self.messages, stream))

    def text(self, stream: str = "stdout") -> str:
        """What it has printed to a stream so far."""
        return text_of(self.messages, stream)

    async def asked(self) -> InputMessage:
        """Wait until the cell asks for input; its question."""
        found: list[InputMessage] = []

        def look() -> bool:
            found[:] = [m for m in self.messages if isinstance(m, InputMessage)]
            return bool(found)

        await self.until(look)
        return found[-1]

    async def until(self, is_there: Callable[[], bool]) -> None:
        """Wait for a state; it must come before the end."""
        async with asyncio.timeout(BOUND):
            while not is_there():
                assert not self.end.done(), f"the cell has ended: {self.end} {self.messages}"
                self._arrival.clear()
                await self._arrival.wait()


def follow(session: Session, code: ExecuteMessage | str) -> Following:
    """Begin a cell, and collect what comes of it in the background."""
    return Following(session, code if isinstance(code, ExecuteMessage) else ExecuteMessage(code))


async def until_output(messages: AsyncIterator[Message], text: str) -> list[Message]:
    """Read an execution's messages until it has printed something."""
    seen: list[Message] = []
    async for message in messages:
        seen.append(message)
        if text in text_of(seen):
            return seen
    raise AssertionError(f"{text!r} was never printed: {seen}")
