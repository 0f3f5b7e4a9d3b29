"""The pool under schedules that hypothesis makes up: nothing is lost, doubled, or out of order."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any
from unittest import mock

from hypothesis import given, settings
from hypothesis import strategies as st

from pyrepl_kernel.errors import PoolTimeout, SessionError, StartError, WarmupError
from pyrepl_kernel.session import roster as roster_module
from pyrepl_kernel.session.pool import PoolConfig
from pyrepl_kernel.session.roster import Place
from pyrepl_kernel.session.session import Session
from tests.fakes import FakePool, FakeSession

GATES = ("start", "reset", "shutdown")

STEPS = (*("acquire", "release") * 2, "hurry", "cancel", "die", "fail", "raise", *GATES)

steps = st.tuples(
    st.sampled_from(STEPS),
    st.integers(0, 5),
    st.integers(0, 4),
)


class Schedule:
    """Callers that use a pool as the steps say, and what has come of it."""

    def __init__(self, config: PoolConfig) -> None:
        self.pool = FakePool(config, held=GATES)
        self.callers: list[asyncio.Task[None]] = []
        self.held: list[Session] = []
        self.served: list[int] = []

    async def call(self, number: int, timeout: float | None) -> None:
        try:
            session = await self.pool.acquire(timeout)
        except (PoolTimeout, SessionError):
            return
        assert session not in self.held
        self.held.append(session)
        self.served.append(number)

    def begin(self, timeout: float | None) -> None:
        caller: Coroutine[Any, Any, None] = self.call(len(self.callers), timeout)
        self.callers.append(asyncio.create_task(caller))

    async def do(self, what: str, which: int) -> None:
        sessions = self.pool.made
        if what in ("acquire", "hurry"):
            self.begin(None if what == "acquire" else 0)
        elif what == "cancel" and self.callers:
            self.callers[which % len(self.callers)].cancel()
        elif what == "release" and self.held:
            await self.pool.release(self.held.pop(which % len(self.held)))
        elif what in GATES and (shut := [s for s in sessions if not s._gates[what].is_set()]):
            shut[which % len(shut)].let(what)
        elif what in ("fail", "raise") and (new := [s for s in sessions if not s.is_up]):
            error = StartError("s", "died") if what == "fail" else WarmupError("s", "E", "", [])
            new[which % len(new)].failure = error
            new[which % len(new)].let("start")
        elif what == "die" and (up := [s for s in sessions if s.is_up]):
            up[which % len(up)].die()

    def check(self) -> None:
        roster = self.pool._roster
        assert len(roster.members) <= roster.config.max_sessions
        alive = [session for session in self.pool.made if session.state != "terminated"]
        assert {s for s in alive if s.is_alive} <= set(roster.members)
        if self.pool._roster.waiting:
            assert not roster.count(Place.IDLE)

    async def finish(self) -> None:
        """Let all go on; then every caller has had an answer."""
        self.pool.held = ()
        for session in self.pool.made:
            for gate in GATES:
                session.let(gate)
        await turns(50)
        while self.held:
            await self.pool.release(self.held.pop())
            await turns(50)
        assert all(caller.done() for caller in self.callers), self.pool
        for caller in self.callers:
            if not caller.cancelled():
                caller.result()
        assert self.served == sorted(self.served)
        assert self.pool.stats().busy == 0


async def turns(number: int) -> None:
    for _ in range(number):
        await asyncio.sleep(0)


async def play(config: PoolConfig, schedule: list[tuple[str, int, int]]) -> None:
    story = Schedule(config)
    async with story.pool as pool:
        for what, which, pause in schedule:
            await story.do(what, which)
            story.check()
            await turns(pause)
            story.check()
        await story.finish()
        # No slot is lost: as many as there may be can be had at once, unless it is in a pause.
        if pool.stats().last_error is None:
            for _ in range(config.max_sessions):
                story.begin(None)
            await turns(80)
            assert len(story.held) == config.max_sessions, pool
    stats = pool.stats()
    assert stats.created == stats.retired
    assert not any(session.is_alive for session in pool.made)
    assert not pool._tasks


@settings(max_examples=300)
@given(
    st.lists(steps, max_size=60),
    st.booleans(),
    st.integers(0, 3),
    st.integers(0, 2),
    st.sampled_from((0.0, 1000.0)),
)
def test_no_schedule_confuses_a_pool(
    schedule: list[tuple[str, int, int]], reuse: bool, idle: int, more: int, pause: float
) -> None:
    config = PoolConfig(
        min_idle=idle,
        max_sessions=max(1, idle + more),
        reuse=reuse,
        refill_concurrency=2,
        acquire_timeout=None,
    )
    with (
        mock.patch.object(roster_module, "RETRY_FIRST", pause),
        mock.patch.object(roster_module, "RETRY_MOST", pause),
    ):
        asyncio.run(play(config, schedule))


def test_the_fakes_can_be_told_apart() -> None:
    """What the schedules rely on: only a session that has come up is up."""

    async def life() -> None:
        session = FakeSession(["start"])
        starting = asyncio.create_task(session.start())
        await turns(2)
        assert not session.is_up
        session.let("start")
        await starting
        assert session.is_up
        session.die()
        assert not session.is_up

    asyncio.run(life())
