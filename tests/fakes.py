"""Stand-ins for what is on the other side."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Collection
from typing import Any

from pyrepl_kernel.errors import SessionError, WorkerDied
from pyrepl_kernel.protocol.framing import FrameDecoder
from pyrepl_kernel.protocol.messages import Buffer, Message
from pyrepl_kernel.session.pool import PoolConfig, SessionPool
from pyrepl_kernel.session.session import Session
from pyrepl_kernel.session.spawn import Spawned
from pyrepl_kernel.session.states import SessionState
from pyrepl_kernel.session.workers import Spawning, Workers

__all__ = ["FakePool", "FakeSession", "RecordingWriter"]


class RecordingWriter:
    """A destination of bytes that keeps what it is given."""

    def __init__(self) -> None:
        self._decoder = FrameDecoder()
        self.messages: list[Message] = []
        self.drains = 0
        self.is_closed = False

    def write(self, data: Buffer, /) -> None:
        self._decoder.feed(bytes(data))
        while (message := self._decoder.next_message()) is not None:
            self.messages.append(message)

    async def drain(self) -> None:
        self.drains += 1

    def close(self) -> None:
        self.is_closed = True


class FakeSession(Session):
    """A session without a worker; it starts, resets, answers and ends when the test says so.

    Args:
        held: What is to wait until ``let`` allows it: start, reset, ping, shutdown.
        failure: What ``start`` raises.
    """

    def __init__(self, held: Collection[str] = (), failure: Exception | None = None) -> None:
        super().__init__()
        self.failure = failure
        self.reset_failure: Exception | None = None
        self.is_well = True
        self.calls: list[str] = []
        self._was_called = asyncio.Event()
        self._gates = {name: asyncio.Event() for name in ("start", "reset", "ping", "shutdown")}
        for name in self._gates.keys() - set(held):
            self.let(name)

    @property
    def is_up(self) -> bool:
        """Whether it has come up, and has not ended."""
        return self.state in (SessionState.READY, SessionState.IDLE)

    def let(self, name: str) -> None:
        """Let it go on."""
        self._gates[name].set()

    async def wait_called(self, name: str, times: int = 1) -> None:
        """Wait until it was asked for something so many times."""
        while self.calls.count(name) < times:
            self._was_called.clear()
            await self._was_called.wait()

    async def _pass(self, name: str) -> None:
        self.calls.append(name)
        self._was_called.set()
        await self._gates[name].wait()

    async def start(self, spawned: Spawned | None = None) -> None:
        self._has_started = True
        try:
            await self._pass("start")
            if self.failure is not None:
                raise self.failure
        except BaseException:
            self._machine.move(SessionState.TERMINATED)
            raise
        self._machine.move(SessionState.WARMING)
        self._machine.move(SessionState.READY)

    async def reset(self) -> None:
        await self._pass("reset")
        if self.reset_failure is not None:
            raise self.reset_failure
        if not self.is_alive:
            raise SessionError(self.session_id, "it has ended")

    async def ping(self, timeout: float) -> bool:
        await self._pass("ping")
        return self.is_well

    async def shutdown(self, *, restart: bool = False) -> None:
        if self.state is SessionState.TERMINATED:
            return
        self._machine.move(SessionState.SHUTTING_DOWN)
        await self._pass("shutdown")
        self._machine.move(SessionState.TERMINATED)

    def die(self) -> None:
        """End as if by SIGKILL."""
        self._machine.move(SessionState.TERMINATED)
        if self.on_death is not None:
            reason = "was killed by SIGKILL (signal 9)"
            self.on_death(WorkerDied(self.session_id, reason, signal=9))


class FakePool(SessionPool):
    """A pool of fake sessions.

    Attributes:
        made: All sessions that it made, in order.
        held: What the next sessions wait with.
        failures: What ``start`` of the next sessions raises, one each; None for a good one.
    """

    def __init__(
        self, config: PoolConfig | None = None, held: Collection[str] = (), **options: Any
    ) -> None:
        super().__init__(config, **options)
        self.made: list[FakeSession] = []
        self.held = held
        self.failures: deque[Exception | None] = deque()
        self._roster.refill_pause = 0.0

    def _make_workers(self) -> Workers:
        return Spawning("")

    def _make_session(self) -> FakeSession:
        session = FakeSession(self.held, self.failures.popleft() if self.failures else None)
        self.made.append(session)
        return session
