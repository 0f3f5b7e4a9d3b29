"""Who gets which session and when: the pool with sessions that do as they are told."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from pyrepl_kernel import (
    PoolExhausted,
    PoolStats,
    PoolTimeout,
    SessionClosed,
    WarmupError,
)
from tests.fakes import FakePool, FakeSession
from tests.session.pools import RAISED, in_line, open_pool, settle, until
from tests.session.support import BOUND

# ------------------------------------------------------------ filling, growing


async def test_starting_does_not_wait_for_the_sessions() -> None:
    async with open_pool(["start"], min_idle=2) as pool:
        assert pool.stats().starting == 2
        assert pool.stats().idle == 0
        for session in pool.made:
            session.let("start")
        await pool.wait_ready(BOUND)
        assert pool.stats().idle == 2


async def test_concurrent_filling() -> None:
    async with open_pool(["start"], min_idle=5, refill_concurrency=2) as pool:
        for number in range(2, 6):
            assert len(pool.made) == number
            assert pool.stats().starting == 2
            pool.made[number - 2].let("start")
            await settle()
        pool.made[4].let("start")
        await settle()
        assert (pool.stats().idle, pool.stats().starting, len(pool.made)) == (5, 0, 5)


async def test_a_spare_that_was_taken_is_replaced() -> None:
    async with open_pool(min_idle=2, max_sessions=4) as pool:
        first, second = pool.made
        assert await pool.acquire() is first
        assert await pool.acquire() is second
        await settle()
        assert (pool.stats().idle, pool.stats().busy) == (2, 2)


async def test_growing_starts_one_for_each_waiter_up_to_the_maximum() -> None:
    async with open_pool(["start"], min_idle=0, max_sessions=3) as pool:
        assert pool.made == []
        for expected in (1, 2, 3, 3):
            await in_line(pool, 1)
            assert pool.stats().starting == expected
        assert pool.stats().waiting == 4
        pool.made[0].let("start")
        pool.made[1].let("start")
        await settle()
        assert (pool.stats().waiting, pool.stats().busy) == (2, 2)


async def test_a_spike_leaves_surplus_sessions_that_shrink_away() -> None:
    options: dict[str, Any] = {"max_sessions": 4, "reuse": True, "session_timeout": 0.01}
    async with open_pool(min_idle=1, **options) as pool:
        sessions = [await pool.acquire() for _ in range(4)]
        assert pool.stats().busy == 4
        for session in sessions:
            await pool.release(session)
        async with asyncio.timeout(BOUND):
            for session in pool.made[:3]:
                await session.wait_called("shutdown")
        await settle()
        assert (pool.stats().idle, pool.stats().retired) == (1, 3)
        assert pool._timer is None


async def test_a_full_and_idle_pool_sets_no_timer() -> None:
    async with open_pool(min_idle=2) as pool:
        assert pool.stats().idle == 2
        assert pool._timer is None
        assert not pool._tasks


async def test_filling_can_be_left_for_later() -> None:
    async with open_pool(min_idle=2, fill_at_start=False) as pool:
        assert pool.made == []
        async with pool.session():
            assert len(pool.made) == 1, "who asks is served all the same"
        await settle()
        assert pool.stats().idle == 0
        pool.fill()
        await settle()
        assert pool.stats().idle == 2

    pool = FakePool(min_idle=2)
    await pool.start(fill=False)
    assert pool.made == []
    await pool.wait_ready(BOUND)
    assert pool.stats().idle == 2
    await pool.stop()


async def test_waiting_until_it_is_full() -> None:
    async with open_pool(["start"], min_idle=1) as pool:
        with pytest.raises(PoolTimeout, match=r"not filled within 0\.01 s.*1 starting"):
            await pool.wait_ready(0.01)
        pool.made[0].failure = RAISED
        waiting = asyncio.create_task(pool.wait_ready())
        await settle()
        pool.made[0].let("start")
        with pytest.raises(WarmupError, match="division by zero"):
            await waiting
        waiting = asyncio.create_task(pool.wait_ready())
        # It is refused at once, as nothing is under way.
        with pytest.raises(WarmupError):
            await waiting


# ------------------------------------------------------------------- the queue


async def test_waiters_are_served_in_order() -> None:
    async with open_pool(min_idle=0, max_sessions=1) as pool:
        holder = await pool.acquire()
        order: list[int] = []

        async def use(number: int) -> None:
            async with pool.session():
                order.append(number)

        async with asyncio.TaskGroup() as tasks:
            for number in range(5):
                tasks.create_task(use(number))
                await settle()
            assert pool.stats().waiting == 5
            await pool.release(holder)
        assert order == [0, 1, 2, 3, 4]


async def test_the_first_session_to_be_ready_is_for_the_first_waiter() -> None:
    async with open_pool(["start"], min_idle=0) as pool:
        first, second = await in_line(pool, 2)
        pool.made[1].let("start")
        assert await first is pool.made[1]
        assert not second.done()


async def test_nobody_overtakes_a_waiter() -> None:
    async with open_pool(min_idle=0, max_sessions=1, reuse=True) as pool:
        holder = await pool.acquire()
        (waiter,) = await in_line(pool, 1)
        await pool.release(holder)
        late = asyncio.create_task(pool.acquire())
        await settle()
        assert waiter.done()
        assert not late.done()
        late.cancel()


async def test_queue_size() -> None:
    async with open_pool(min_idle=0, max_sessions=1, max_waiting=2) as pool:
        holder = await pool.acquire()
        first, second = await in_line(pool, 2)
        with pytest.raises(PoolExhausted, match=r"max_waiting.*1 busy\), 2 waiting"):
            await pool.acquire()
        first.cancel()
        await settle()
        (third,) = await in_line(pool, 1)
        await pool.release(holder)
        await pool.release(await second)
        await third


async def test_nobody_may_wait_but_an_idle_session_is_given() -> None:
    async with open_pool(min_idle=1, max_sessions=1, max_waiting=0) as pool:
        await pool.acquire()
        with pytest.raises(PoolExhausted):
            await pool.acquire()


async def test_a_timeout() -> None:
    async with open_pool(min_idle=0, max_sessions=1, acquire_timeout=0.01) as pool:
        holder = await pool.acquire()
        with pytest.raises(TimeoutError, match=r"within 0\.01 s.*1 of 1 sessions \(1 busy\)"):
            await pool.acquire()
        with pytest.raises(PoolTimeout, match=r"within 0 s"):
            await pool.acquire(timeout=0)
        assert pool.stats().timeouts == 2
        assert not pool._roster.waiters
        await pool.release(holder)
        await settle()
        # Neither of them swallows the session that comes now.
        assert (await pool.acquire()).is_alive


async def test_a_timeout_of_its_own_is_stronger_than_the_pools() -> None:
    async with open_pool(min_idle=0, max_sessions=1, acquire_timeout=0.01) as pool:
        holder = await pool.acquire()
        patient = asyncio.create_task(pool.acquire(timeout=float("inf")))
        with pytest.raises(PoolTimeout):
            await pool.acquire()
        assert not patient.done()
        await pool.release(holder)
        await patient


async def test_no_time_is_enough_where_one_is_idle() -> None:
    async with open_pool(min_idle=1) as pool:
        assert await pool.acquire(timeout=0) is pool.made[0]


async def test_an_idle_session_or_none() -> None:
    async with open_pool(["start"], min_idle=1, max_sessions=2) as pool:
        assert pool.acquire_nowait() is None
        assert len(pool.made) == 1, "nothing was started for it"
        pool.made[0].let("start")
        await settle()
        assert pool.acquire_nowait() is pool.made[0]
        assert pool.acquire_nowait() is None
        assert not pool._roster.waiters


async def test_an_idle_session_that_has_just_ended_is_none() -> None:
    for error in (None, RAISED):
        async with open_pool(min_idle=1, max_sessions=3) as pool:
            if error is not None:  # and no other may be started
                pool.failures.append(error)
                await pool.acquire()
                await settle()
                assert pool.stats().failed == 1
                pool._roster.make_idle(next(iter(pool._roster.members.values())), 0.0)
            await pool.made[0].shutdown()
            assert pool.acquire_nowait() is None
            assert not pool._roster.waiters


@pytest.mark.parametrize(("timeout", "error"), [(-1, ValueError), ("1", TypeError)])
async def test_a_timeout_that_cannot_be_meant(timeout: Any, error: type[Exception]) -> None:
    async with open_pool() as pool:
        with pytest.raises(error, match="timeout must be"):
            await pool.acquire(timeout)
        assert pool.stats().waiting == 0


async def test_cancel_in_acquire() -> None:
    async with open_pool(["start"], min_idle=0, max_sessions=1) as pool:
        first, second = await in_line(pool, 2)
        first.cancel()
        pool.made[0].let("start")
        assert await second is pool.made[0]
        assert first.cancelled()
        assert pool.stats().acquired == 1


async def test_a_session_is_not_lost_when_its_waiter_is_cancelled_as_it_gets_it() -> None:
    async with open_pool(["start"], min_idle=0, max_sessions=1) as pool:
        first, second = await in_line(pool, 2)
        pool.made[0].let("start")
        await until(lambda: pool.stats().busy == 1)
        assert not first.done(), "it has its session and does not know it yet"
        first.cancel()
        assert await second is pool.made[0]
        assert first.cancelled()
        assert (pool.stats().acquired, pool.stats().busy) == (1, 1)


async def test_a_session_that_dies_as_its_waiter_is_cancelled_is_not_kept() -> None:
    async with open_pool(["start"], min_idle=0, max_sessions=1) as pool:
        (first,) = await in_line(pool, 1)
        pool.made[0].let("start")
        await until(lambda: pool.stats().busy == 1)
        first.cancel()
        pool.made[0].die()
        await settle()
        assert first.cancelled()
        assert pool.stats() == PoolStats(0, 0, 0, 0, 0, 0, 1, 1, 1, 0, 0, 0, None)


async def test_a_cancelled_waiter_is_not_missed_when_all_are_cancelled() -> None:
    async with open_pool(["start"], min_idle=0, max_sessions=2) as pool:
        tasks = await in_line(pool, 5)
        for task in tasks:
            task.cancel()
        for session in pool.made:
            session.let("start")
        await settle()
        assert (pool.stats().idle, pool.stats().waiting, pool.stats().busy) == (2, 0, 0)


# ---------------------------------------------------------- release, isolation


async def test_a_released_session_is_ended_and_replaced() -> None:
    async with open_pool(min_idle=1) as pool:
        async with pool.session() as session:
            pass
        await settle()
        assert not session.is_alive
        assert await pool.acquire() is not session


async def test_release_does_not_wait_for_the_end_of_the_process() -> None:
    async with open_pool(["shutdown"], min_idle=0, max_sessions=1) as pool:
        await pool.release(await pool.acquire())
        assert pool.stats().retiring == 1


async def test_a_slot_is_held_until_the_process_is_gone() -> None:
    async with open_pool(["shutdown"], min_idle=0, max_sessions=1) as pool:
        await pool.release(await pool.acquire())
        (waiter,) = await in_line(pool, 1)
        assert len(pool.made) == 1
        pool.made[0].let("shutdown")
        assert await waiter is pool.made[1]


async def test_a_session_is_released_once() -> None:
    async with open_pool(min_idle=0) as pool, open_pool(min_idle=0) as other:
        session = await pool.acquire()
        with pytest.raises(ValueError, match=rf"{session.session_id}.*{other.pool_id}"):
            await other.release(session)
        await pool.release(session)
        for _ in range(2):
            with pytest.raises(ValueError, match=r"not in use.*released before"):
                await pool.release(session)
            await settle()
        with pytest.raises(ValueError, match="not of this pool"):
            await pool.release(FakeSession())


async def test_an_idle_session_is_not_in_use() -> None:
    async with open_pool(min_idle=1) as pool:
        with pytest.raises(ValueError, match="not in use"):
            await pool.release(pool.made[0])
        assert pool.stats().idle == 1


async def test_a_session_that_cannot_be_shut_down_is_killed(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(*, restart: bool = False) -> None:
        raise OSError("no such thing")

    async with open_pool(min_idle=0, max_sessions=1) as pool:
        session = await pool.acquire()
        monkeypatch.setattr(session, "shutdown", fail)
        await pool.release(session)
        await pool.acquire()
        assert not session.is_alive
    assert f"{pool.pool_id}: " in caplog.text
    assert "no such thing" in caplog.text


async def test_reuse_resets_a_session_before_it_is_handed_out_again() -> None:
    async with open_pool(["reset"], min_idle=1, max_sessions=1, reuse=True) as pool:
        session = await pool.acquire()
        await pool.release(session)
        (waiter,) = await in_line(pool, 1)
        assert not waiter.done()
        assert pool.stats().resetting == 1
        pool.made[0].let("reset")
        assert await waiter is session
        assert pool.stats().created == 1


async def test_a_session_that_cannot_be_reset_is_replaced() -> None:
    async with open_pool(min_idle=0, max_sessions=1, reuse=True) as pool:
        session = await pool.acquire()
        pool.made[0].reset_failure = SessionClosed("s", "cannot be reset while a cell runs")
        await pool.release(session)
        assert await pool.acquire() is not session
        assert not session.is_alive


async def test_a_session_that_takes_too_long_to_reset_is_replaced() -> None:
    options = {"min_idle": 0, "max_sessions": 1, "reuse": True, "answer_timeout": 0.01}
    async with open_pool(["reset"], **options) as pool:
        session = await pool.acquire()
        await pool.release(session)
        assert await pool.acquire() is not session


async def test_a_session_that_ran_enough_cells_is_replaced() -> None:
    async with open_pool(min_idle=0, reuse=True, recycle_after_executions=2) as pool:
        session = await pool.acquire()
        session._dispatch.executions = 1
        await pool.release(session)
        assert await pool.acquire() is session
        session._dispatch.executions = 2
        await pool.release(session)
        assert await pool.acquire() is not session


async def test_a_session_too_old_for_another_use_is_replaced() -> None:
    async with open_pool(min_idle=0, reuse=True, max_lifetime=1000) as pool:
        session = await pool.acquire()
        pool._roster.members[session].expires_at = asyncio.get_running_loop().time()
        await pool.release(session)
        assert await pool.acquire() is not session


async def test_who_used_a_session_hears_no_more_of_it() -> None:
    async with open_pool(min_idle=0, max_sessions=1, reuse=True) as pool:
        session = await pool.acquire()
        heard: list[object] = []
        session.on_death = heard.append
        session.on_background = heard.append
        session.on_debug_event = heard.append
        await pool.release(session)
        await settle()
        assert session.on_background is None
        assert session.on_debug_event is None
        pool.made[0].die()
        await settle()
        assert heard == []
        assert pool.stats().died == 1


async def test_the_first_cell_goes_before_the_spare_in_its_place() -> None:
    async with open_pool(min_idle=1, max_sessions=3) as pool:
        pool._roster.refill_pause = 3600.0
        await pool.acquire()
        await settle()
        assert (pool.stats().idle, pool.stats().starting) == (0, 0)
        # Whoever waits does not wait for that.
        await pool.acquire()
        assert pool.stats().busy == 2


async def test_after_that_the_spare_is_made() -> None:
    async with open_pool(min_idle=1, max_sessions=3) as pool:
        pool._roster.refill_pause = 0.01
        await pool.acquire()
        await pool.wait_ready(5)
        assert pool.stats().idle == 1
