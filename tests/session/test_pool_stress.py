"""Many sessions with real workers, a tenth of them killed as they work.

``PYREPL_STRESS=full`` runs the full numbers; without it they are small enough for each test run.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import random
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pyrepl_kernel import OutputMessage, Session, SessionError, SessionPool, WorkerDied
from pyrepl_kernel.session import roster
from tests.session.pools import children
from tests.session.support import is_running

IS_FULL = os.environ.get("PYREPL_STRESS") == "full"
SESSIONS = 100 if IS_FULL else 10
CALLERS = 200 if IS_FULL else 20
MOST = 4
WAIT_FOR_EVER = "print('at work', flush=True)\nwhile True: time.sleep(60)"

pytestmark = pytest.mark.timeout(600)


def descriptors() -> int:
    """How many descriptors this process has open; a cycle of objects may still hold some."""
    gc.collect()
    return len(list(Path("/proc/self/fd").iterdir())) if Path("/proc/self/fd").is_dir() else 0


@pytest.fixture
def seen() -> Iterator[set[int]]:
    """Collects the pids of the workers that were met; all are gone in the end, and all others."""
    before, pids = children(), set[int]()
    yield pids
    assert pids
    assert not [pid for pid in pids if is_running(pid)]
    assert children() - before == set()


async def test_sessions_with_warmup_one_after_the_other(seen: set[int]) -> None:
    open_before = 0
    for number in range(SESSIONS):
        async with Session(warmup_code=f"warm = {number}") as session:
            assert session.pid is not None
            seen.add(session.pid)
            assert (await session.run("print(warm)")).stdout == f"{number}\n"
        if number == 0:
            open_before = descriptors()
    assert len(seen) == SESSIONS
    assert descriptors() <= open_before


class Crowd:
    """Callers of one pool, who count what became of them and of its workers.

    Args:
        pool: The pool.
        seen: Where the workers' pids go.
    """

    def __init__(self, pool: SessionPool, seen: set[int]) -> None:
        self.pool = pool
        self.seen = seen
        self.others = children()  # of other tests, which keep kernels warm
        self.in_use: set[int] = set()
        self.outcomes: list[str] = []

    async def use(self, number: int, is_to_die: bool) -> None:
        """Acquire, run, release; the worker is killed at work if it is to die."""
        async with self.pool.session() as session:
            pid = session.pid
            assert pid is not None
            assert pid not in self.in_use, "one session for two callers"
            # The template is no session.
            most = MOST + 1
            assert len(children() - self.others) <= most, "more processes than the pool may have"
            self.seen.add(pid)
            self.in_use.add(pid)
            try:
                if is_to_die:
                    await self._run_until_killed(session, pid)
                else:
                    outcome = await session.run(f"print(warm, 'mine' in globals(), {number})")
                    assert outcome.stdout == f"warm False {number}\n"
                    await session.run("mine = 1")
                    self.outcomes.append("ran")
            finally:
                self.in_use.discard(pid)

    async def _run_until_killed(self, session: Session, pid: int) -> None:
        with pytest.raises(WorkerDied) as caught:
            async for message in session.execute(WAIT_FOR_EVER):
                if isinstance(message, OutputMessage):
                    os.kill(pid, signal.SIGKILL)
        assert caught.value.signal == signal.SIGKILL
        self.outcomes.append("killed")


@pytest.mark.parametrize("reuse", [False, True], ids=["isolated", "reused"])
async def test_many_callers_on_few_sessions_while_workers_are_killed(
    reuse: bool, seen: set[int]
) -> None:
    doomed = set(random.sample(range(CALLERS), CALLERS // 10))
    options: dict[str, Any] = {
        "reuse": reuse,
        "warmup_code": "import time; warm = 'warm'",
        "acquire_timeout": None,
    }
    async with SessionPool(min_idle=1, max_sessions=MOST, **options) as pool:
        crowd = Crowd(pool, seen)
        async with asyncio.TaskGroup() as callers:
            for number in range(CALLERS):
                callers.create_task(crowd.use(number, number in doomed))
        assert crowd.outcomes.count("killed") == len(doomed)
        assert crowd.outcomes.count("ran") == CALLERS - len(doomed)

        await take_all(pool, seen)
        stats = pool.stats()
        assert (stats.busy, stats.died, stats.failed) == (MOST, len(doomed), 0)
        assert stats.acquired == CALLERS + MOST
    stats = pool.stats()
    assert stats.created == stats.retired
    assert len(seen) <= stats.created


async def take_all(pool: SessionPool, seen: set[int]) -> None:
    """No slot is lost: all sessions that there may be can be had at once."""
    async with asyncio.timeout(60):
        sessions = [await acquire(pool) for _ in range(MOST)]
    seen.update(session.pid for session in sessions if session.pid is not None)


async def acquire(pool: SessionPool) -> Session:
    """A session; the pool refuses for a moment after a failure, and is asked again."""
    while True:
        try:
            return await pool.acquire()
        except SessionError:
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("reuse", [False, True], ids=["isolated", "reused"])
async def test_workers_are_killed_whatever_they_are_at(
    reuse: bool, seen: set[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(roster, "RETRY_FIRST", 0.01)
    monkeypatch.setattr(roster, "RETRY_MOST", 0.1)
    others = children()

    async def use(pool: SessionPool) -> None:
        while True:
            try:
                async with pool.session() as session:
                    outcome = await session.run("import time; time.sleep(0.02); print('ran')")
                    assert outcome.stdout == "ran\n"
                    return
            except SessionError:  # it died in use, or two in a row died as they started
                await asyncio.sleep(0.1)  # a caller who tries again, and not at once

    async def kill() -> None:
        for _ in range(CALLERS // 4):
            await asyncio.sleep(random.uniform(0, 0.5))
            if workers := sorted(children() - others):
                pid = random.choice(workers)
                seen.add(pid)
                with contextlib.suppress(ProcessLookupError):  # reaped since we looked
                    os.kill(pid, signal.SIGKILL)

    options: dict[str, Any] = {"reuse": reuse, "acquire_timeout": None}
    async with SessionPool(min_idle=2, max_sessions=MOST, **options) as pool:
        async with asyncio.timeout(300):
            await asyncio.gather(kill(), *(use(pool) for _ in range(CALLERS)))
        await take_all(pool, seen)
    assert pool.stats().created == pool.stats().retired
