"""What a pool makes of deaths and failed starts, and how it stops."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import Any

import pytest

from pyrepl_kernel import (
    PoolClosed,
    PoolTimeout,
    SessionConfig,
    StartError,
    WarmupError,
    WorkerDied,
)
from pyrepl_kernel.session import pool as pool_module
from pyrepl_kernel.session import roster as roster_module
from tests.fakes import FakePool
from tests.session.pools import ACCIDENT, RAISED, alive, in_line, open_pool, settle, until
from tests.session.support import BOUND

# ------------------------------------------------------------------ death


async def test_a_dead_spare_is_replaced_and_not_handed_out() -> None:
    async with open_pool(min_idle=2) as pool:
        pool.made[0].die()
        assert await pool.acquire() is pool.made[1]
        await settle()
        stats = pool.stats()
        assert (stats.idle, stats.died, stats.busy, len(pool.made)) == (2, 1, 1, 4)


async def test_a_session_that_died_in_use_leaves_its_slot_when_it_is_released() -> None:
    async with open_pool(min_idle=0, max_sessions=1, reuse=True) as pool:
        session = await pool.acquire()
        pool.made[0].die()
        assert (pool.stats().busy, pool.stats().died) == (1, 1)
        await pool.release(session)
        assert await pool.acquire() is pool.made[1]


async def test_a_session_that_dies_while_it_is_reset_is_replaced() -> None:
    async with open_pool(["reset"], min_idle=0, max_sessions=1, reuse=True) as pool:
        session = await pool.acquire()
        await pool.release(session)
        pool.made[0].die()
        pool.made[0].let("reset")
        assert await pool.acquire() is pool.made[1]
        assert pool.stats().died == 1


async def test_a_session_that_dies_just_after_it_was_reset_is_replaced() -> None:
    async with open_pool(["reset"], min_idle=0, max_sessions=1, reuse=True) as pool:
        session = await pool.acquire()
        await pool.release(session)
        member = pool._roster.members[session]
        pool.made[0].let("reset")
        await until(lambda: member.task is not None and member.task.done())
        assert pool.stats().resetting == 1, "it was reset, and the pool does not know it yet"
        pool.made[0].die()
        await settle()
        assert (pool.stats().idle, pool.stats().retired) == (0, 1)


async def test_a_spare_that_somebody_has_ended_is_not_handed_out() -> None:
    async with open_pool(min_idle=2) as pool:
        await pool.made[0].shutdown()
        assert await pool.acquire() is pool.made[1]


async def test_spares_that_die_at_once_are_made_after_growing_pauses() -> None:
    async with open_pool(min_idle=1) as pool:
        pool.made[0].die()
        await settle()
        assert len(pool.made) == 2, "the first may have been an accident"
        pool.made[1].die()
        await settle()
        assert len(pool.made) == 2
        assert pool._timer is not None
        assert "SIGKILL" in str(pool.stats().last_error)
        with pytest.raises(WorkerDied):
            await pool.acquire()
    assert pool._timer is None


async def test_health_check_replaces_a_session_that_does_not_answer() -> None:
    async with open_pool(min_idle=1, health_check_interval=0.01) as pool:
        async with asyncio.timeout(BOUND):
            await pool.made[0].wait_called("ping", 3)
            assert pool.made[0].is_alive
            pool.made[0].is_well = False
            await pool.made[0].wait_called("shutdown")
            await pool.wait_ready()
        assert alive(pool) == [pool.made[1]]


async def test_a_session_may_be_taken_while_it_is_checked() -> None:
    async with open_pool(["ping"], min_idle=1, max_sessions=1, health_check_interval=60) as pool:
        session = pool.made[0]
        session.is_well = False
        member = pool._roster.members[session]
        member.check_at = 0.0
        pool._turn()
        await settle()
        assert session.calls == ["start", "ping"]
        assert await pool.acquire() is session
        await settle()
        assert member.check is None
        assert session.is_alive


async def test_a_session_may_be_taken_just_as_its_check_has_failed() -> None:
    async with open_pool(["ping"], min_idle=1, max_sessions=1, health_check_interval=60) as pool:
        session = pool.made[0]
        session.is_well = False
        member = pool._roster.members[session]
        member.check_at = 0.0
        pool._turn()
        await settle()
        session.let("ping")
        await until(lambda: member.check is not None and member.check.done())
        assert await pool.acquire() is session
        await settle()
        assert session.is_alive, "its user will see how it is"


# ----------------------------------------------------------------- failures


async def test_a_failing_warmup_is_told_to_the_next_caller_and_not_tried_in_a_loop() -> None:
    pool = FakePool(min_idle=2, refill_concurrency=1)
    pool.failures.extend([RAISED] * 10)
    async with pool:
        await settle()
        assert len(pool.made) == 1
        assert pool.stats().failed == 1
        assert "division by zero" in str(pool.stats().last_error)
        for _ in range(3):
            with pytest.raises(WarmupError) as caught:
                await pool.acquire()
            assert caught.value is RAISED
        assert len(pool.made) == 1
        assert pool.stats().waiting == 0


async def test_a_pool_recovers_from_a_failing_warmup(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(roster_module, "RETRY_FIRST", 0.05)
    pool = FakePool(min_idle=1)
    pool.failures.extend([RAISED, RAISED, RAISED, None])
    async with pool, asyncio.timeout(BOUND):
        while pool.stats().idle == 0:
            with contextlib.suppress(WarmupError):
                await pool.wait_ready()
        assert pool.stats().failed == 3
        assert pool.stats().last_error is None
        assert await pool.acquire() is pool.made[3]


async def test_with_no_spares_each_pause_ends_with_the_next_caller(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(roster_module, "RETRY_FIRST", 0.05)
    pool = FakePool(min_idle=0)
    pool.failures.append(RAISED)
    async with pool, asyncio.timeout(BOUND):
        with pytest.raises(WarmupError):
            await pool.acquire()
        assert pool._timer is None, "nobody needs a session now"
        while len(pool.made) == 1:
            with contextlib.suppress(WarmupError):
                await pool.acquire()
        assert pool.stats().busy == 1


async def test_all_are_told_when_the_last_start_has_failed() -> None:
    async with open_pool(["start"], min_idle=0, max_sessions=2) as pool:
        tasks = await in_line(pool, 4)
        for session in pool.made:
            session.failure = RAISED
        pool.made[0].let("start")
        await settle()
        assert not any(task.done() for task in tasks), "the other one may come up"
        pool.made[1].let("start")
        assert await asyncio.gather(*tasks, return_exceptions=True) == [RAISED] * 4


async def test_an_accident_is_made_good_without_anybody_hearing_of_it() -> None:
    pool = FakePool(min_idle=0, max_sessions=1)
    pool.failures.extend([ACCIDENT, None])
    async with pool:
        tasks = await in_line(pool, 2)
        await pool.release(await tasks[0])
        await tasks[1]
        assert (pool.stats().failed, pool.stats().created) == (1, 2)


async def test_two_accidents_are_told() -> None:
    pool = FakePool(min_idle=0, max_sessions=1)
    pool.failures.extend([ACCIDENT, ACCIDENT])
    async with pool:
        with pytest.raises(StartError, match="before it was ready"):
            await pool.acquire()
        assert len(pool.made) == 2


async def test_an_idle_session_is_given_in_spite_of_failures() -> None:
    async with open_pool(min_idle=2) as pool:
        pool.failures.extend([RAISED] * 10)
        assert await pool.acquire() is pool.made[0]
        await settle()
        assert pool.stats().failed == 1
        assert await pool.acquire() is pool.made[1]
        with pytest.raises(WarmupError):
            await pool.acquire()


async def test_an_unexpected_error_is_a_start_error_too() -> None:
    pool = FakePool(min_idle=0, max_sessions=1)
    problem = OSError("too many open files")
    pool.failures.extend([problem, problem])
    async with pool:
        with pytest.raises(StartError, match="OSError: too many open files") as caught:
            await pool.acquire()
        assert caught.value.__cause__ is problem


async def test_a_timeout_mentions_what_went_wrong_before() -> None:
    async with open_pool(["start"], min_idle=0, max_sessions=1) as pool:
        pool._roster.error = RAISED
        with pytest.raises(PoolTimeout, match="the warmup code raised ZeroDivisionError"):
            await pool.acquire(timeout=0)


async def test_a_warmup_failure_that_is_kept_is_seen_in_the_numbers() -> None:
    async with open_pool(["start"], min_idle=1) as pool:
        pool.made[0].warmup_error = RAISED
        pool.made[0].let("start")
        await settle()
        assert pool.stats().idle == 1
        assert "division by zero" in str(pool.stats().last_error)


# ------------------------------------------------------------ opening, closing


async def test_a_pool_that_is_not_open_gives_no_sessions() -> None:
    pool = FakePool()
    for use in (pool.acquire, pool.wait_ready):
        with pytest.raises(PoolClosed, match=f"{pool.pool_id} is not started.*start()"):
            await use()
    await pool.start()
    await pool.start()
    assert len(pool.made) == 2
    await pool.stop()
    for again in (pool.acquire, pool.wait_ready, pool.start):
        with pytest.raises(PoolClosed, match="was stopped"):
            await again()
    with pytest.raises(PoolClosed, match="was stopped"):
        pool.fill()


async def test_stopping_what_was_never_started() -> None:
    pool = FakePool()
    await pool.stop()
    await pool.stop()
    with pytest.raises(PoolClosed):
        await pool.start()


async def test_waiters_are_told_that_the_pool_stops() -> None:
    async with open_pool(["start"], min_idle=1, max_sessions=1) as pool:
        tasks: list[asyncio.Task[Any]] = [*await in_line(pool, 3)]
        tasks.append(asyncio.create_task(pool.wait_ready()))
        await settle()
        await pool.stop()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert [type(result) for result in results] == [PoolClosed] * 4


async def test_stopping_ends_sessions_whatever_they_are_at(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with open_pool(["reset"], min_idle=1, max_sessions=9, reuse=True) as pool:
        busy, resetting = [await pool.acquire() for _ in range(2)]
        await settle()
        await pool.release(resetting)
        pool.held = ["start"]
        await pool.acquire()
        waiting = await in_line(pool, 2)
        stats = pool.stats()
        assert (stats.busy, stats.resetting, stats.starting) == (2, 1, 1)
        await pool.stop()
        assert "did not end in time" not in caplog.text
        assert alive(pool) == []
        assert pool.stats().busy == 0
        await pool.release(busy)  # by a user who does not know yet
        with pytest.raises(ValueError, match="not in use"):
            await pool.release(busy)
        for waiter in waiting:
            with pytest.raises(PoolClosed):
                await waiter


@pytest.mark.parametrize("reuse", [False, True])
async def test_stopping_right_after_a_release(reuse: bool) -> None:
    async with open_pool(min_idle=0, reuse=reuse) as pool:
        await pool.release(await pool.acquire())
        await pool.stop()
        assert alive(pool) == []


async def test_two_may_stop_a_pool_at_once() -> None:
    async with open_pool(["shutdown"], min_idle=1) as pool:
        stops = [asyncio.create_task(pool.stop()) for _ in range(2)]
        await settle()
        assert not any(stop.done() for stop in stops)
        pool.made[0].let("shutdown")
        await asyncio.gather(*stops)
        assert pool.made[0].calls.count("shutdown") == 1


async def test_a_stop_that_was_cancelled_goes_on() -> None:
    async with open_pool(["shutdown"], min_idle=1) as pool:
        stop = asyncio.create_task(pool.stop())
        await settle()
        stop.cancel()
        await settle()
        pool.made[0].let("shutdown")
        await pool.stop()
        assert alive(pool) == []


async def test_stopping_takes_no_longer_than_it_may(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(pool_module, "_STOP_MARGIN", 0.0)
    config = SessionConfig(shutdown_grace=0.01)
    async with open_pool(["shutdown"], min_idle=1, session_config=config) as pool:
        async with asyncio.timeout(BOUND):
            await pool.stop()
        assert f"end {pool.made[0].session_id}" in caplog.text
        pool.made[0].let("shutdown")
        await settle()


async def test_a_start_that_ends_as_the_pool_stops_leaves_no_session() -> None:
    async with open_pool(["start"], min_idle=1) as pool:
        (member,) = pool._roster.members.values()
        pool.made[0].let("start")
        await until(lambda: member.task is not None and member.task.done())
        assert pool.stats().starting == 1, "it has started, and the pool does not know it yet"
        await pool.stop()
        assert alive(pool) == []
        assert not pool._tasks


async def test_a_start_is_given_up_when_the_pool_stops() -> None:
    async with open_pool(["start"], min_idle=1) as pool:
        await pool.stop()
        assert not pool._roster.members
        assert pool.made[0].state == "terminated"


async def test_repr_and_log_say_what_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "pyrepl_kernel.session.pool")
    pool = FakePool(min_idle=1, max_sessions=2)
    assert repr(pool) == (f"<SessionPool {pool.pool_id} not started: 0 of 2 sessions, 0 waiting>")
    async with pool:
        await pool.acquire()
        await in_line(pool, 3)
        assert repr(pool) == (
            f"<SessionPool {pool.pool_id} open: 2 of 2 sessions (2 busy), 2 waiting>"
        )
    assert "stopped: 0 of 2 sessions, 0 waiting" in repr(pool)
    for session in pool.made:
        assert f"{pool.pool_id}: session {session.session_id} is ready" in caplog.text
        assert f"{pool.pool_id}: ending session {session.session_id}" in caplog.text
