"""Who is in a pool and who waits, and the one place that decides what follows. No I/O.

A member's way, and what it is counted as:

    STARTING ──▶ IDLE ◀──▶ BUSY ─────▶ RETIRING ──▶ gone
        │         ▲          │             ▲
        ▼         │          ▼ (reuse)     │
       gone       └───── RESETTING ────────┘

Every member counts against ``max_sessions`` from before its process is there until after it is
gone: the limit is one of processes, and a slot is lost only with a process that cannot be killed.
A session whose worker died in use keeps its slot until it is released.
"""

from __future__ import annotations

import asyncio
import math
import random
from collections import Counter, deque
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from pyrepl_kernel.errors import SessionError, WarmupError
from pyrepl_kernel.session.pool_config import PoolConfig, PoolStats
from pyrepl_kernel.session.session import Session

__all__ = ["Member", "Place", "Plan", "Roster", "Waiter"]

RETRY_FIRST = 0.5
"""Seconds of pause after a failed start, doubled with each further one."""
RETRY_MOST = 60.0
"""The longest pause, in seconds."""
REFILL_PAUSE = 0.1
"""Seconds after a hand-over in which no spare is made in its place: the first cell goes first."""
LIFETIME_JITTER = 0.1
"""How much of its ``max_lifetime`` a session may be short of, at random."""


class Place(StrEnum):
    """What a session of the pool is at."""

    IDLE = "idle"
    BUSY = "busy"
    STARTING = "starting"
    RESETTING = "resetting"
    RETIRING = "retiring"


@dataclass(eq=False, slots=True)
class Member:
    """A session of the pool, and what the pool knows of it; times are the event loop's.

    Attributes:
        session: The session.
        round: How many rounds of failures there had been when it was started.
        place: What it is at.
        task: What starts, resets or ends it.
        check: What asks it whether it still answers.
        idle_since: When it became idle.
        check_at: When it is to be asked.
        expires_at: When it is too old.
    """

    session: Session
    round: int
    place: Place = Place.STARTING
    task: asyncio.Task[object] | None = None
    check: asyncio.Task[bool] | None = None
    idle_since: float = 0.0
    check_at: float = math.inf
    expires_at: float = math.inf


class Waiter:
    """A caller of ``acquire`` in the queue."""

    __slots__ = ("future",)

    def __init__(self) -> None:
        self.future: asyncio.Future[Session] = asyncio.get_running_loop().create_future()

    def accept(self, session: Session) -> bool:
        """Take the session; False when the caller has given up."""
        if self.future.done():
            return False
        self.future.set_result(session)
        return True

    def fail(self, error: Exception) -> bool:
        """Take an error instead; False when the caller has given up, or has a session."""
        if self.future.done():
            return False
        self.future.set_exception(error)
        return True


@dataclass(slots=True)
class Plan:
    """What follows from the state of things.

    Attributes:
        retire: Members to be ended, and why; they are RETIRING already.
        check: Members to be asked whether they still answer.
        start: How many sessions to start.
        wake_at: When to decide anew if nothing happens before.
    """

    retire: list[tuple[Member, str]] = field(default_factory=list)
    check: list[Member] = field(default_factory=list)
    start: int = 0
    wake_at: float = math.inf


class Roster:
    """The members and the waiters of one pool.

    Args:
        config: How the pool is to keep its sessions.
    """

    def __init__(self, config: PoolConfig) -> None:
        self.config = config
        self.members: dict[Session, Member] = {}
        self.waiters: deque[Waiter] = deque()
        self.watchers: set[asyncio.Future[None]] = set()
        """Callers of ``wait_ready``."""
        self.is_filling = False
        """Whether ``min_idle`` sessions are to be kept ready."""
        self.error: SessionError | None = None
        self.counts: Counter[str] = Counter()
        self._round = 0  # of failures; starts under way together fail in the same one
        self._failures = 0  # rounds since the last session that came through
        self._retry_at = -math.inf
        self.refill_pause = REFILL_PAUSE
        self._refill_at = -math.inf

    def __str__(self) -> str:
        places = Counter(member.place for member in self.members.values())
        parts = ", ".join(f"{places[place]} {place}" for place in Place if places[place])
        parts = f" ({parts})" if parts else ""
        most = self.config.max_sessions
        return f"{len(self.members)} of {most} sessions{parts}, {self.waiting} waiting"

    @property
    def waiting(self) -> int:
        """How many callers of ``acquire`` wait and have not given up."""
        return sum(not waiter.future.done() for waiter in self.waiters)

    def count(self, place: Place) -> int:
        """How many members are at it."""
        return sum(member.place is place for member in self.members.values())

    def stats(self) -> PoolStats:
        """All numbers at this moment."""
        places: dict[str, Any] = {place.value: self.count(place) for place in Place}
        names = ("created", "retired", "died", "failed", "acquired", "timeouts", "forked")
        counts: dict[str, Any] = {name: self.counts[name] for name in names}
        error = None if self.error is None else str(self.error)
        return PoolStats(**places, **counts, waiting=self.waiting, last_error=error)

    # ------------------------------------------------------------ what happened

    def add(self, session: Session) -> Member:
        """A session is going to be started."""
        member = self.members[session] = Member(session, self._round)
        return member

    def remove(self, member: Member) -> None:
        """A session's process is gone."""
        del self.members[member.session]

    def came_up(self, member: Member, now: float) -> None:
        """A session has started."""
        self.counts["created"] += 1
        self.counts["forked"] += member.session.is_forked
        if member.round == self._round:
            self.error = member.session.warmup_error
        if self.config.max_lifetime is not None:
            share = 1 - LIFETIME_JITTER * random.random()
            member.expires_at = now + self.config.max_lifetime * share
        self.make_idle(member, now)

    def make_idle(self, member: Member, now: float) -> None:
        """A session is free to be handed out."""
        member.place = Place.IDLE
        member.idle_since = now
        self.answered(member, now)

    def answered(self, member: Member, now: float) -> None:
        """A session has shown that it is well."""
        if self.config.health_check_interval is not None:
            member.check_at = now + self.config.health_check_interval

    def failed(self, member: Member, error: SessionError, now: float) -> float:
        """A session did not come up, or died before anybody used it.

        Starts that were under way together count as one failure. The pauses grow until a session
        that was started after them is handed out; that it came up is not enough, it may die soon.

        Returns:
            Seconds until another may be started; 0 after a first accident, which a warmup that
            raised is not.
        """
        self.error = error
        if member.round == self._round:
            if self._failures or isinstance(error, WarmupError):
                pause = min(RETRY_MOST, RETRY_FIRST * 2 ** min(self._failures, 16))
                self._retry_at = now + pause
            self._round += 1
            self._failures += 1
        return max(0.0, self._retry_at - now)

    # ----------------------------------------------------------------- deciding

    def reason_to_retire(self, member: Member, now: float) -> str:
        """Why a session that was released is not to be used again; empty when it is."""
        session, most = member.session, self.config.recycle_after_executions
        if not session.is_alive:
            return "its worker is gone"
        if not self.config.reuse:
            return "it was used"
        if most is not None and session.executions >= most:
            return f"it has run {session.executions} cells"
        if now >= member.expires_at:
            return "it reached its max_lifetime"
        return ""

    def decide(self, now: float) -> Plan:
        """Hand over what can be handed over, and say what else is to be done."""
        plan = Plan()
        for member in self._idle():
            if now >= member.expires_at:
                self._retire(member, "it reached its max_lifetime", plan)
        self._serve(plan, now)
        self._retire_surplus(now, plan)
        self._watch_idle(now, plan)
        plan.start = self._count_starts(now)
        if now < self._retry_at:
            self._refuse()
            if self._shortage() > 0:
                plan.wake_at = min(plan.wake_at, self._retry_at)
        elif now < self._refill_at and self._shortage() > 0:
            plan.wake_at = min(plan.wake_at, self._refill_at)
        if self.count(Place.IDLE) >= self.config.min_idle:
            self._tell_watchers()
        return plan

    def _tell_watchers(self) -> None:
        for watcher in self.watchers:
            if not watcher.done():
                watcher.set_result(None)

    def _idle(self) -> list[Member]:
        """Those that are idle, the longest first."""
        idle = [member for member in self.members.values() if member.place is Place.IDLE]
        return sorted(idle, key=lambda member: member.idle_since)

    def _retire(self, member: Member, reason: str, plan: Plan) -> None:
        member.place = Place.RETIRING
        plan.retire.append((member, reason))

    def _serve(self, plan: Plan, now: float) -> None:
        # A fresh spare is as good as another, so the oldest goes. With reuse it is the newest, so
        # that those not needed get old enough to be ended.
        for member in sorted(
            self._idle(), key=lambda member: member.idle_since, reverse=self.config.reuse
        ):
            if not self.waiters:
                return
            if not member.session.is_alive or member.session.has_lost_worker:
                self.counts["died"] += 1
                self._retire(member, "its worker is gone", plan)
            elif not self._hand_over(member):
                return
            elif now >= self._refill_at and member.idle_since < now:
                # Not put off again by the next one, or there would be no spares under load.
                self._refill_at = now + self.refill_pause

    def _hand_over(self, member: Member) -> bool:
        """Give a session to the first who still wants one; False when nobody does."""
        while self.waiters:
            if self.waiters.popleft().accept(member.session):
                member.place = Place.BUSY
                if member.check is not None:
                    member.check.cancel()
                self.counts["acquired"] += 1
                if member.round == self._round:
                    self._failures = 0
                return True
        return False

    def _retire_surplus(self, now: float, plan: Plan) -> None:
        if self.config.session_timeout is None:
            return
        idle = self._idle()
        for member in idle[: max(0, len(idle) - self.config.min_idle)]:
            ends_at = member.idle_since + self.config.session_timeout
            if now >= ends_at:
                self._retire(member, "it was not needed", plan)
            else:
                plan.wake_at = min(plan.wake_at, ends_at)

    def _watch_idle(self, now: float, plan: Plan) -> None:
        for member in self._idle():
            plan.wake_at = min(plan.wake_at, member.expires_at)
            if member.check is not None:
                continue  # being asked; its answer wakes us
            if now >= member.check_at:
                plan.check.append(member)
            else:
                plan.wake_at = min(plan.wake_at, member.check_at)

    def _shortage(self) -> int:
        """How many more sessions are wanted, the idle ones to be kept among them."""
        floor = self.config.min_idle if self.is_filling else 0
        coming = self.count(Place.STARTING) + self.count(Place.RESETTING)
        return self.waiting + floor - self.count(Place.IDLE) - coming

    def _count_starts(self, now: float) -> int:
        if now < self._retry_at:
            return 0
        starting = self.count(Place.STARTING)
        if self.waiting:
            # Spares would only slow down the sessions that somebody waits for.
            wanted = self.waiting - starting - self.count(Place.RESETTING)
        elif now < self._refill_at:
            wanted = 0
        else:
            wanted = min(self._shortage(), self.config.refill_concurrency - starting)
        if self._failures:
            wanted = min(wanted, 1 - starting)
        return max(0, min(wanted, self.config.max_sessions - len(self.members)))

    def _refuse(self) -> None:
        """No session may be started for now: tell it to those whom no other can serve."""
        assert self.error is not None
        if self.count(Place.STARTING) or self.count(Place.RESETTING):
            return
        if self.config.reuse and self.count(Place.BUSY):
            self._fail_watchers(self.error)
        else:
            self.refuse_all(self.error)

    def refuse_all(self, error: Exception) -> None:
        """End all waiting with an error."""
        while self.waiters:
            self.waiters.popleft().fail(error)
        self._fail_watchers(error)

    def _fail_watchers(self, error: Exception) -> None:
        for watcher in self.watchers:
            if not watcher.done():
                watcher.set_exception(error)
