"""A pool: warm sessions at hand, and never more processes than so many.

    acquire() ──▶ Waiter                    release(), a death, a timer, the end of a task
                    │                                        │
                    ▼                                        ▼
                  Roster ◀───────────── decide() ◀──────── _turn() ◀───────────────┐
      members, waiters │                                                           │
                       │ idle sessions go to waiters, in order                     │
                       ▼                                                           │
                     Plan     whom to end, whom to check, how many to start,       │
                       │      when to look again                                   │
                       ▼                                                           │
             tasks: Session.start, ping, reset, shutdown ───── a callback each ────┘

What is to happen is decided in one place, ``Roster.decide``, which neither waits nor starts
anything; nothing here does more than tell it what has happened, and carry out its plan.
"""

from __future__ import annotations

import asyncio
import logging
import math
import os
import sys
import weakref
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from enum import StrEnum
from functools import partial
from itertools import count
from typing import Any, Self, TypeVar

from pyrepl_kernel.errors import (
    PoolClosed,
    PoolExhausted,
    PoolTimeout,
    SessionError,
    StartError,
    WorkerDied,
)
from pyrepl_kernel.protocol.forking import TemplateMessage
from pyrepl_kernel.session.pool_config import PoolConfig, PoolStats, check_seconds, config_from
from pyrepl_kernel.session.roster import Member, Place, Roster, Waiter
from pyrepl_kernel.session.session import Session, SessionConfig
from pyrepl_kernel.session.template import IS_SUPPORTED, PrivateTemplate
from pyrepl_kernel.session.workers import Forking, Spawning, Workers

__all__ = ["PoolConfig", "PoolStats", "SessionPool"]

log = logging.getLogger("pyrepl_kernel.session.pool")

_STOP_MARGIN = 5.0  # seconds that stop() allows beyond the sessions' own grace
_numbers = count(1)
_T = TypeVar("_T")


class _State(StrEnum):
    NEW = "not started"
    OPEN = "open"
    STOPPED = "stopped"


class SessionPool:
    """Hands out warm, isolated sessions, and keeps some ready.

    A session that comes back is ended and replaced, unless ``reuse`` is set.

    Args:
        config: All settings in one; or instead of it
        workers: What makes the workers; as the configuration says when not given.
        **options: fields of ``PoolConfig`` by name, where ``min_size`` and ``max_size`` are other
            names of ``min_idle`` and ``max_sessions``.

    Raises:
        TypeError: Unknown or doubled keywords, or values of the wrong type.
        ValueError: Values that are out of range.

    Example:
        >>> async with SessionPool(min_idle=2, max_sessions=4, warmup_code="import json") as pool:
        ...     async with pool.session() as session:
        ...         outcome = await session.run("json.dumps([1, 2])")
    """

    def __init__(
        self, config: PoolConfig | None = None, *, workers: Workers | None = None, **options: Any
    ) -> None:
        self._config = config_from(config, options)
        self.pool_id = f"pool-{next(_numbers)}"
        self._state = _State.NEW
        self._roster = Roster(self._config)
        self._tasks: set[asyncio.Task[Any]] = set()
        self._timer: asyncio.TimerHandle | None = None
        # Ended by stop() while in use; their users may still give them back.
        self._revoked: weakref.WeakSet[Session] = weakref.WeakSet()
        # Handed over with another directory or environment than the pool's.
        self._moved: weakref.WeakSet[Session] = weakref.WeakSet()
        self._workers = workers or self._make_workers()

    def __repr__(self) -> str:
        return f"<SessionPool {self.pool_id} {self._state}: {self._roster}>"

    @property
    def config(self) -> PoolConfig:
        """What the pool was told."""
        return self._config

    def stats(self) -> PoolStats:
        """The pool's numbers at this moment."""
        method, reason, advice = self._workers.method
        return replace(
            self._roster.stats(), start_method=method, start_reason=reason, start_advice=advice
        )

    # ------------------------------------------------------- starting, stopping

    async def start(self, *, fill: bool | None = None) -> None:
        """Open the pool; sessions are made in the background. Once more does no harm.

        Args:
            fill: Whether to begin to make the idle sessions; as ``fill_at_start`` when not given.

        Raises:
            PoolClosed: The pool was stopped; it cannot be started anew.
        """
        if self._state is _State.STOPPED:
            raise PoolClosed(f"{self.pool_id} was stopped; make another pool")
        self._state = _State.OPEN
        if self._config.fill_at_start if fill is None else fill:
            self.fill()

    def fill(self) -> None:
        """From now on keep ``min_idle`` sessions ready.

        Raises:
            PoolClosed: The pool is not started, or was stopped.
        """
        self._check_open()
        self._roster.is_filling = True
        self._turn()

    def empty(self) -> None:
        """Keep no sessions ready any more: end those that are; those in use stay."""
        self._roster.is_filling = False
        for member in list(self._roster.members.values()):
            if member.place is Place.STARTING and not self._roster.waiting:
                assert member.task is not None
                member.task.cancel()  # start() ends the process by itself then
            elif member.place is Place.IDLE:
                self._retire(member, "none is to be kept")

    @property
    def idle(self) -> list[Session]:
        """The sessions that are ready and that nobody has."""
        return [m.session for m in self._roster.members.values() if m.place is Place.IDLE]

    async def wait_ready(self, timeout: float | None = None) -> None:
        """Wait until ``min_idle`` sessions are ready at once; implies ``fill``.

        Args:
            timeout: Seconds to wait at most; None for no limit.

        Raises:
            PoolTimeout: They were not ready in time.
            PoolClosed: The pool is not started, or was stopped meanwhile.
            SessionError: A session did not come up; the pool goes on trying.
        """
        check_seconds("timeout", timeout)
        self._check_open()
        watcher: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._roster.watchers.add(watcher)
        try:
            self.fill()
            await asyncio.wait([watcher], timeout=timeout)
            if not watcher.done():
                raise PoolTimeout(
                    f"{self.pool_id} was not filled within {timeout:g} s: it has {self._roster}"
                )
            watcher.result()
        finally:
            self._roster.watchers.discard(watcher)

    async def stop(self) -> None:
        """End all sessions, those in use too, and wait until their processes are gone.

        Whoever waits gets ``PoolClosed``. It takes at most the sessions' ``shutdown_grace`` and 5
        seconds more. Calling it again does no harm; it waits for the same.
        """
        if self._state is not _State.STOPPED:
            self._close()
        loop = asyncio.get_running_loop()
        grace = (self._config.session_config or SessionConfig()).shutdown_grace
        deadline = loop.time() + grace + _STOP_MARGIN
        while self._tasks and (left := deadline - loop.time()) > 0:
            await asyncio.wait(self._tasks, timeout=left)
        if self._tasks:
            names = ", ".join(sorted(task.get_name() for task in self._tasks))
            log.error("%s: stopped, but this did not end in time: %s", self.pool_id, names)
        await self._workers.end()

    def _close(self) -> None:
        log.debug("%s: stopping: %s", self.pool_id, self._roster)
        self._state = _State.STOPPED
        self._set_timer(math.inf)
        self._roster.refuse_all(PoolClosed(f"{self.pool_id} was stopped"))
        for member in list(self._roster.members.values()):
            if member.place is Place.STARTING:
                assert member.task is not None
                member.task.cancel()  # start() ends the process by itself then
            elif member.place is not Place.RETIRING:
                if member.place is Place.BUSY:
                    self._revoked.add(member.session)
                self._retire(member, "the pool stops")

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.stop()

    def _check_open(self) -> None:
        if self._state is _State.STOPPED:
            raise PoolClosed(f"{self.pool_id} was stopped")
        if self._state is _State.NEW:
            raise PoolClosed(
                f"{self.pool_id} is not started; use it in 'async with', or await its start()"
            )

    # ----------------------------------------------------- acquiring, releasing

    @asynccontextmanager
    async def session(
        self,
        timeout: float | None = None,
        *,
        cwd: str | os.PathLike[str] | None = None,
        env: Mapping[str, str] | None = None,
    ) -> AsyncIterator[Session]:
        """A session for the time of an ``async with``; arguments and errors as ``acquire``."""
        session = await self.acquire(timeout, cwd=cwd, env=env)
        try:
            yield session
        finally:
            await self.release(session)

    async def acquire(
        self,
        timeout: float | None = None,
        *,
        cwd: str | os.PathLike[str] | None = None,
        env: Mapping[str, str] | None = None,
    ) -> Session:
        """Get a session that is ready and that nobody else has; ``release`` gives it back.

        Callers are served in the order in which they came. When no session is idle and there is
        room for another, it is started for the caller at once.

        Args:
            timeout: Seconds to wait at most; ``acquire_timeout`` when not given.
            cwd: Where its cells are to run; as the pool's when not given.
            env: Environment variables for its cells, on top of the pool's.

        Raises:
            NotADirectoryError: ``cwd`` is no directory.
            PoolTimeout: No session became free in time.
            PoolExhausted: ``max_waiting`` callers wait already.
            PoolClosed: The pool is not started, or was stopped meanwhile.
            SessionError: Sessions do not come up, and no other can be had: a ``StartError``, a
                ``WarmupError``, or ``WorkerDied`` when a worker ended in its warmup.
        """
        check_seconds("timeout", timeout)
        if cwd is not None and not os.path.isdir(cwd):
            raise NotADirectoryError(f"cwd {os.fspath(cwd)!r} is no directory")
        session = await self._acquire(timeout)
        if cwd is not None or env:
            session.hand_over(cwd=cwd, variables=env)
            self._moved.add(session)
        return session

    async def _acquire(self, timeout: float | None) -> Session:
        self._check_open()
        roster, most = self._roster, self._config.max_waiting
        if most is not None and roster.waiting >= most and not roster.count(Place.IDLE):
            raise PoolExhausted(
                f"no more than {most} callers may wait (max_waiting): {self.pool_id} has {roster}"
            )
        seconds = self._config.acquire_timeout if timeout is None else timeout
        waiter, timer = Waiter(), None
        roster.waiters.append(waiter)
        try:
            self._turn()
            if seconds is not None and not waiter.future.done():
                loop = asyncio.get_running_loop()
                timer = loop.call_later(seconds, self._give_up, waiter, seconds)
            return await waiter.future
        except asyncio.CancelledError:
            self._take_back(waiter)
            raise
        finally:
            if timer is not None:
                timer.cancel()
            if waiter in roster.waiters:
                roster.waiters.remove(waiter)

    def acquire_nowait(self) -> Session | None:
        """An idle session if there is one; None otherwise, or when others wait for one.

        Raises:
            PoolClosed: The pool is not started, or was stopped.
        """
        self._check_open()
        roster = self._roster
        if roster.waiting or not roster.count(Place.IDLE):
            return None
        waiter = Waiter()
        roster.waiters.append(waiter)
        self._turn()
        if not waiter.future.done():
            roster.waiters.remove(waiter)  # the idle one had just died
            return None
        # It is told of a failure when no other may be started either.
        return None if waiter.future.exception() else waiter.future.result()

    def _give_up(self, waiter: Waiter, seconds: float) -> None:
        # Its future decides between the session and the timeout: it takes the first to come.
        words = f"no session became free within {seconds:g} s: {self.pool_id} has {self._roster}"
        if self._roster.error is not None:
            words += f"; last failure: {str(self._roster.error).splitlines()[0]}"
        if waiter.fail(PoolTimeout(words)):
            self._roster.counts["timeouts"] += 1

    def _take_back(self, waiter: Waiter) -> None:
        """A caller was cancelled, perhaps just after it had been given a session."""
        future = waiter.future
        if future.cancelled() or not future.done() or future.exception() is not None:
            return
        member = self._roster.members.get(future.result())
        if member is None or member.place is not Place.BUSY:
            return  # stop() has ended it
        self._roster.counts["acquired"] -= 1
        if member.session.is_alive:
            self._roster.make_idle(member, self._now())
        else:
            self._retire(member, "its worker died before it was used")
        self._turn()

    async def release(self, session: Session) -> None:
        """Give a session back; what is to be done with it is done in the background.

        Raises:
            ValueError: It is not in use: it was released before, or is not of this pool.
        """
        member = self._roster.members.get(session)
        if session in self._revoked:
            self._revoked.discard(session)
            return
        if member is None or member.place is not Place.BUSY:
            raise ValueError(
                f"{session!r} is not in use in {self.pool_id}: "
                "it was released before, or it is not of this pool"
            )
        self._listen_to(member)
        if reason := self._roster.reason_to_retire(member, self._now()):
            self._retire(member, reason)
        else:
            self._reset(member)
        self._turn()

    # ------------------------------------------------------------- carrying out

    def _now(self) -> float:
        return asyncio.get_running_loop().time()

    def _turn(self) -> None:
        """Something has happened: decide what follows, and begin it."""
        if self._state is not _State.OPEN:
            return
        plan = self._roster.decide(self._now())
        for member, reason in plan.retire:
            self._retire(member, reason)
        for member in plan.check:
            self._check(member)
        for _ in range(plan.start):
            self._start_one()
        self._set_timer(plan.wake_at)

    def _set_timer(self, wake_at: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if wake_at < math.inf:
            self._timer = asyncio.get_running_loop().call_at(wake_at, self._turn)

    def _run(
        self,
        work: Coroutine[Any, Any, _T],
        name: str,
        then: Callable[[asyncio.Task[_T]], None],
    ) -> asyncio.Task[_T]:
        """Run something in the background; ``then`` is called however it ends."""
        task = asyncio.get_running_loop().create_task(work, name=f"{self.pool_id}: {name}")
        self._tasks.add(task)
        task.add_done_callback(then)
        task.add_done_callback(self._tasks.discard)
        return task

    def _make_workers(self) -> Workers:
        """What makes the workers."""
        config = self._config
        if config.start_method == "spawn":
            return Spawning("start_method is spawn")
        if not IS_SUPPORTED:
            return Spawning(f"workers are not forked on {sys.platform}")
        session_config = config.session_config or SessionConfig()
        order = TemplateMessage(
            cwd=os.path.abspath(config.cwd or os.getcwd()),
            warmup=config.warmup_code or "",
            ipython=session_config.options.get("ipython"),
        )
        template = PrivateTemplate(order, config.python, os.environ | dict(config.env or {}))
        return Forking(template)

    def _make_session(self) -> Session:
        """Make a session that is still to be started; the one place to make other ones."""
        config = self._config
        return Session(
            python=config.python,
            warmup_code=config.warmup_code,
            cwd=config.cwd,
            env=config.env,
            config=config.session_config,
        )

    def _listen_to(self, member: Member) -> None:
        """Hear of a session's death; whoever used it may have listened in our place."""
        member.session.on_death = partial(self._on_death, member)
        member.session.on_background = None
        member.session.on_debug_event = None

    def _start_one(self) -> None:
        session = self._make_session()
        member = self._roster.add(session)
        self._listen_to(member)
        name = f"start {session.session_id}"
        work = self._workers.start(session)
        member.task = self._run(work, name, partial(self._on_started, member))

    def _on_started(self, member: Member, task: asyncio.Task[None]) -> None:
        session = member.session
        if task.cancelled():
            # By stop(), or with all other tasks at the end of the loop: nothing is begun then.
            self._roster.remove(member)
            return
        if (error := task.exception()) is not None:
            self._roster.remove(member)
            self._roster.counts["failed"] += 1
            self._note_failure(member, error)
        else:
            self._roster.came_up(member, self._now())
            log.debug("%s: session %s is ready", self.pool_id, session.session_id)
            if self._state is _State.STOPPED:
                self._retire(member, "the pool stops")
        self._turn()

    def _note_failure(self, member: Member, error: BaseException) -> None:
        session_id = member.session.session_id
        if not isinstance(error, SessionError):
            reason = f"it could not be started: {type(error).__name__}: {error}"
            failure = StartError(session_id, reason)
            failure.__cause__ = error
            error = failure
        pause = self._roster.failed(member, error, self._now())
        log.warning("%s: no other session is started for %.1f s: %s", self.pool_id, pause, error)

    def _on_death(self, member: Member, death: WorkerDied) -> None:
        if member.place is Place.STARTING:
            return  # start() raises
        self._roster.counts["died"] += 1
        if member.place is Place.IDLE:
            self._note_failure(member, death)
            self._retire(member, "its worker died")
            self._turn()

    def _reset(self, member: Member) -> None:
        member.place = Place.RESETTING
        name = f"reset {member.session.session_id}"
        work = self._reset_in_time(member.session)
        member.task = self._run(work, name, partial(self._on_reset, member))

    async def _reset_in_time(self, session: Session) -> None:
        async with asyncio.timeout(self._config.answer_timeout):
            await session.reset()
        if session not in self._moved:
            return
        self._moved.discard(session)
        config = self._config
        session.hand_over(
            cwd=os.getcwd() if config.cwd is None else config.cwd,
            env=os.environ | dict(config.env or {}),
        )

    def _on_reset(self, member: Member, task: asyncio.Task[None]) -> None:
        if task.cancelled():
            return  # stop() ends the session
        if (error := task.exception()) is None and member.session.is_alive:
            self._roster.make_idle(member, self._now())
        else:
            self._retire(member, f"it could not be reset: {error!r}")
        self._turn()

    def _check(self, member: Member) -> None:
        work = member.session.ping(self._config.answer_timeout)
        name = f"check {member.session.session_id}"
        member.check = self._run(work, name, partial(self._on_checked, member))

    def _on_checked(self, member: Member, task: asyncio.Task[bool]) -> None:
        is_well = not task.cancelled() and task.exception() is None and task.result()
        member.check = None
        if member.place is not Place.IDLE:
            return
        if is_well or task.cancelled():  # cancelled by a hand-over that came to nothing
            self._roster.answered(member, self._now())
        else:
            log.warning("%s: %r does not answer", self.pool_id, member.session)
            self._retire(member, "it does not answer")
        self._turn()

    def _retire(self, member: Member, reason: str) -> None:
        """End a session in the background; it keeps its slot until its process is gone."""
        session = member.session
        log.debug("%s: ending session %s: %s", self.pool_id, session.session_id, reason)
        for task in (member.task, member.check):
            if task is not None:
                task.cancel()
        member.place = Place.RETIRING
        name = f"end {session.session_id}"
        member.task = self._run(self._end(session), name, partial(self._on_retired, member))

    async def _end(self, session: Session) -> None:
        try:
            await session.shutdown()
        except Exception:
            log.exception("%s: %r could not be shut down; killing it", self.pool_id, session)
            await session.terminate()

    def _on_retired(self, member: Member, task: asyncio.Task[None]) -> None:
        self._roster.remove(member)
        self._roster.counts["retired"] += 1
        if task.cancelled():
            return  # with all other tasks at the end of the loop
        if (error := task.exception()) is not None:
            log.error("%s: %r could not be ended", self.pool_id, member.session, exc_info=error)
        self._turn()
