"""What a pool decides at which time; nothing waits, for ``decide`` is asked about the future."""

from __future__ import annotations

import asyncio
import math

import pytest

from pyrepl_kernel.errors import StartError, WarmupError
from pyrepl_kernel.session import roster as roster_module
from pyrepl_kernel.session.pool_config import PoolConfig
from pyrepl_kernel.session.roster import Member, Place, Roster, Waiter
from tests.fakes import FakeSession

ACCIDENT = StartError("s", "the worker was killed before it was ready")
RAISED = WarmupError("s", "ZeroDivisionError", "division by zero", [])


async def up(roster: Roster, now: float = 0.0) -> Member:
    """A member that has come up."""
    session = FakeSession()
    member = roster.add(session)
    await session.start()
    roster.came_up(member, now)
    return member


def filling(**options: object) -> Roster:
    roster = Roster(PoolConfig(**options))  # type: ignore[arg-type]
    roster.is_filling = True
    return roster


async def test_a_waiter_accepts_once_and_nothing_after_it_gave_up() -> None:
    session = FakeSession()
    waiter = Waiter()
    assert waiter.accept(session)
    assert not waiter.accept(session)
    assert not waiter.fail(ACCIDENT)
    assert waiter.future.result() is session

    failed, cancelled = Waiter(), Waiter()
    assert failed.fail(ACCIDENT)
    cancelled.future.cancel()
    for waiter in (failed, cancelled):
        assert not waiter.accept(session)
        assert not waiter.fail(RAISED)
    assert failed.future.exception() is ACCIDENT


async def test_nothing_is_to_be_done_in_a_full_and_quiet_pool() -> None:
    roster = filling(min_idle=2)
    for _ in range(2):
        await up(roster)
    plan = roster.decide(1e9)
    assert (plan.retire, plan.check, plan.start, plan.wake_at) == ([], [], 0, math.inf)


async def test_surplus_sessions_end_after_their_timeout_and_the_minimum_stays() -> None:
    roster = filling(min_idle=1, session_timeout=10)
    old, middle, new = [await up(roster, now) for now in (0.0, 1.0, 2.0)]
    assert roster.decide(9.0).wake_at == 10.0
    plan = roster.decide(10.0)
    assert [member for member, _ in plan.retire] == [old]
    assert plan.wake_at == 11.0
    assert [member for member, _ in roster.decide(1000.0).retire] == [middle]
    assert new.place is Place.IDLE
    assert roster.decide(1000.0).wake_at == math.inf


async def test_without_a_timeout_surplus_sessions_stay() -> None:
    roster = filling(min_idle=0, session_timeout=None)
    await up(roster)
    plan = roster.decide(1e9)
    assert not plan.retire
    assert plan.wake_at == math.inf


async def test_lifetimes_are_not_all_the_same() -> None:
    roster = filling(max_sessions=50, max_lifetime=100)
    members = [await up(roster) for _ in range(50)]
    lifetimes = {member.expires_at for member in members}
    assert len(lifetimes) == 50
    assert min(lifetimes) >= 90
    assert max(lifetimes) <= 100
    assert max(lifetimes) - min(lifetimes) > 5  # of at most 10; fails once in 10**13


async def test_an_idle_session_is_replaced_when_it_is_too_old() -> None:
    roster = filling(min_idle=1, max_lifetime=100)
    member = await up(roster)
    assert roster.decide(80.0).wake_at == member.expires_at
    plan = roster.decide(member.expires_at)
    assert [member for member, _ in plan.retire] == [member]
    assert plan.start == 1


async def test_a_session_that_is_too_old_is_not_handed_out() -> None:
    roster = filling(min_idle=0, max_lifetime=100)
    member = await up(roster)
    waiter = Waiter()
    roster.waiters.append(waiter)
    assert roster.decide(member.expires_at).start == 1
    assert not waiter.future.done()


async def test_idle_sessions_are_checked_at_their_interval() -> None:
    roster = filling(min_idle=1, health_check_interval=5)
    member = await up(roster)
    assert roster.decide(4.0).wake_at == 5.0
    assert roster.decide(5.0).check == [member]
    member.check = asyncio.create_task(member.session.ping(1.0))
    assert roster.decide(100.0).check == []
    assert await member.check
    member.check = None
    roster.answered(member, 5.1)
    plan = roster.decide(6.0)
    assert plan.check == []
    assert plan.wake_at == 10.1


async def test_the_oldest_spare_is_taken_and_of_used_ones_the_newest() -> None:
    for reuse, expected in ((False, 0), (True, -1)):
        roster = filling(reuse=reuse)
        members = [await up(roster, now) for now in (0.0, 1.0, 2.0)]
        waiter = Waiter()
        roster.waiters.append(waiter)
        roster.decide(3.0)
        assert waiter.future.result() is members[expected].session


async def test_spares_wait_until_nobody_waits() -> None:
    roster = filling(min_idle=2, max_sessions=10)
    roster.waiters.append(Waiter())
    assert roster.decide(0.0).start == 1
    roster.add(FakeSession())
    assert roster.decide(0.0).start == 0
    roster.waiters.clear()
    assert roster.decide(0.0).start == 1  # with the one under way


async def test_sessions_on_their_way_back_are_counted_on() -> None:
    roster = filling(min_idle=1, reuse=True)
    member = await up(roster)
    member.place = Place.RESETTING
    assert roster.decide(0.0).start == 0
    roster.waiters.append(Waiter())
    assert roster.decide(0.0).start == 0


async def test_nothing_is_started_for_those_who_gave_up() -> None:
    roster = filling(min_idle=0)
    waiter = Waiter()
    roster.waiters.append(waiter)
    waiter.future.cancel()
    assert roster.waiting == 0
    assert roster.decide(0.0).start == 0


async def test_a_spike_takes_no_more_than_the_maximum() -> None:
    roster = filling(min_idle=2, max_sessions=4)
    member = await up(roster)
    member.place = Place.RETIRING
    roster.waiters.extend(Waiter() for _ in range(100))
    assert roster.decide(0.0).start == 3


async def test_pauses_grow_to_a_limit() -> None:
    roster = filling(min_idle=1)
    pauses = []
    now = 0.0
    for _ in range(2000):
        member = roster.add(FakeSession())
        roster.remove(member)
        pauses.append(roster.failed(member, RAISED, now))
        plan = roster.decide(now)
        assert (plan.start, plan.wake_at) == (0, now + pauses[-1])
        now = plan.wake_at
        assert roster.decide(now).start == 1
    assert pauses[:5] == [0.5, 1.0, 2.0, 4.0, 8.0]
    assert max(pauses) == pauses[-1] == roster_module.RETRY_MOST


async def test_starts_that_fail_together_fail_once() -> None:
    roster = filling(min_idle=4)
    members = [roster.add(FakeSession()) for _ in range(4)]
    for member in members:
        roster.remove(member)
        assert roster.failed(member, RAISED, 0.0) == 0.5


async def test_one_accident_is_no_reason_to_pause() -> None:
    roster = filling(min_idle=4)
    for pause in (0.0, 1.0, 2.0):
        member = roster.add(FakeSession())
        roster.remove(member)
        assert roster.failed(member, ACCIDENT, 0.0) == pause
        assert roster.decide(pause).start == 1, "after a failure, one at a time"


async def test_pauses_grow_while_spares_come_up_and_die() -> None:
    roster = filling(min_idle=1)
    pauses = []
    for _ in range(4):
        member = await up(roster)
        roster.remove(member)
        pauses.append(roster.failed(member, ACCIDENT, 0.0))
    assert pauses == [0.0, 1.0, 2.0, 4.0]


async def test_a_session_handed_out_ends_the_pauses_if_it_was_started_after_them() -> None:
    roster = filling(min_idle=3, max_sessions=9)
    before = await up(roster)
    failing = roster.add(FakeSession())
    roster.remove(failing)
    roster.failed(failing, RAISED, 0.0)
    roster.waiters.append(Waiter())
    assert roster.decide(0.0).start == 0
    assert before.place is Place.BUSY
    assert roster.decide(1.0).start == 1

    await up(roster, 1.0)
    assert roster.error is None
    assert roster.decide(1.0).start == 1, "it came up, and no more is known of it"
    roster.waiters.append(Waiter())
    assert roster.decide(1.0).start == 2


async def test_no_new_member_says_that_an_older_failure_is_over() -> None:
    roster = filling(min_idle=2)
    slow, failing = FakeSession(), roster.add(FakeSession())
    member = roster.add(slow)
    roster.failed(failing, RAISED, 0.0)
    roster.remove(failing)
    await slow.start()
    roster.came_up(member, 0.1)
    assert roster.error is RAISED
    assert roster.decide(0.1).wake_at == 0.5


@pytest.mark.parametrize("reuse", [False, True])
async def test_during_a_pause_those_are_refused_whom_no_other_session_can_serve(
    reuse: bool,
) -> None:
    roster = filling(min_idle=0, reuse=reuse)
    busy = await up(roster)
    busy.place = Place.BUSY
    failing = roster.add(FakeSession())
    roster.remove(failing)
    roster.failed(failing, RAISED, 0.0)
    waiter = Waiter()
    roster.waiters.append(waiter)
    roster.decide(0.1)
    if reuse:
        assert not waiter.future.done(), "the busy one will come back"
    else:
        assert waiter.future.exception() is RAISED


def test_str_says_it_all() -> None:
    roster = Roster(PoolConfig(max_sessions=3))
    assert str(roster) == "0 of 3 sessions, 0 waiting"
    for place in (Place.BUSY, Place.BUSY, Place.RETIRING):
        roster.add(FakeSession()).place = place
    assert str(roster) == "3 of 3 sessions (2 busy, 1 retiring), 0 waiting"
