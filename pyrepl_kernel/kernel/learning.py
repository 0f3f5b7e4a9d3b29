"""The spares of a kernel that learns its warmup: replaced when there is more to import ahead.

ImportsMessage ──▶ LearnedImports ──▶ a new warmup
                                         │  no cell has run for a moment
current: spares of the older warmup      ▼
   │                                  coming: a new template warms up, spares are forked
   │ ready                               │
   ▼                                     ▼
former: only the worker in use        current
"""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any

from pyrepl_kernel.kernel.learned import LearnedImports
from pyrepl_kernel.kernel.spares import Spares

if TYPE_CHECKING:
    from pyrepl_kernel.kernel.options import Options
    from pyrepl_kernel.protocol.messages import ImportsMessage
    from pyrepl_kernel.session.forked import Forked
    from pyrepl_kernel.session.session import Session, SessionConfig
    from pyrepl_kernel.session.template import Template
    from pyrepl_kernel.session.workers import Method

__all__ = ["LearningSpares"]

_SETTLING = 0.5  # seconds without a cell, after which more is not expected soon


class LearningSpares:
    """Stands for ``Spares``, and makes others of them when the warmup has changed.

    Until those are ready a restart gets what there is, which is warm with less.

    Args:
        options: How many, and how they are made; with what was learned.
        config: What each of them is told.
        first: The kernel's first worker.
        session: Gives the session in use.
        is_busy: Whether a cell runs, or waits.
    """

    def __init__(
        self,
        options: Options,
        config: SessionConfig,
        first: object,
        session: Callable[[], Session],
        is_busy: Callable[[], bool],
    ) -> None:
        assert options.learned is not None
        self._learned: LearnedImports = options.learned
        self._options = options
        self._config = config
        self._session = session
        self._is_busy = is_busy
        self._current = Spares(copy.copy(options), config, first)
        self._warmup = options.warmup  # that of the current ones
        self._coming: Spares | None = None
        self._coming_warmup: str | None = None
        self._former: list[Spares] = []
        self._timer: asyncio.TimerHandle | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    # ---------------------------------------------------------------- learning

    def on_imports(self, message: ImportsMessage) -> str:
        """Take in what the worker reports; what the user is to be told of it."""
        notice = self._learned.learn(message)
        self._options.warmup = self._learned.warmup
        if self._options.warmup is None and self._warmup is not None:
            # What was imported ahead must not be; no restart may meet it any more.
            self._drop_coming()
            self._promote(self._make(), None)
        self.fill()
        return notice

    def fill(self) -> None:
        """See ``Spares``; in a moment, if no cell comes."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_later(_SETTLING, self._settle)

    def _settle(self) -> None:
        self._timer = None
        if self._is_busy():
            return  # its end calls ``fill``
        wanted = self._options.warmup
        if wanted == self._warmup:
            self._current.fill()
        elif self._coming is None or wanted != self._coming_warmup:
            self._drop_coming()
            self._coming, self._coming_warmup = self._make(), wanted
            self._run(self._bring(self._coming, wanted))

    def _make(self) -> Spares:
        return Spares(copy.copy(self._options), self._config, None)

    def _drop_coming(self) -> None:
        if self._coming is not None:
            self._run(self._coming.stop())
            self._coming = None

    async def _bring(self, coming: Spares, warmup: str | None) -> None:
        coming.fill()
        await coming.wait_ready()
        if self._coming is coming:
            self._coming = None
            self._promote(coming, warmup)

    def _promote(self, spares: Spares, warmup: str | None) -> None:
        former, self._current, self._warmup = self._current, spares, warmup
        if former.is_used_by(self._session()):
            # How that worker will have ended is known to its template alone.
            self._former.append(former)
            self._run(former.retire())
        else:
            self._run(former.stop())

    def _run(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # -------------------------------------------------------------- as ``Spares``

    def is_current(self, options: Options) -> bool:
        """See ``Spares``; what was learned meanwhile does not count.

        If they are, the options are the kernel's from here on.
        """
        if options.learned is not self._learned:
            return False
        made_with = copy.copy(options)
        made_with.warmup = self._warmup
        if not self._current.is_current(made_with):
            return False
        self._options = options
        return True

    def take(self) -> Session | None:
        """See ``Spares``."""
        return self._current.take()

    def fork(self) -> Forked | None:
        """See ``Spares``."""
        return self._current.fork()

    async def give_back(self, session: Session) -> None:
        """See ``Spares``."""
        former, self._former = self._former, []
        await self._current.give_back(session)
        for spares in former:
            await spares.give_back(session)
            await spares.stop()

    async def stop(self) -> None:
        """See ``Spares``."""
        if self._timer is not None:
            self._timer.cancel()
        coming, self._coming = self._coming, None
        everything = [self._current, *([coming] if coming else []), *self._former]
        await asyncio.gather(*(spares.stop() for spares in everything))
        if self._tasks:
            await asyncio.wait(self._tasks)

    @property
    def ready(self) -> list[Session]:
        """See ``Spares``."""
        return self._current.ready

    @property
    def method(self) -> Method:
        """See ``Spares``."""
        return self._current.method

    @property
    def template(self) -> Template | None:
        """See ``Spares``."""
        return self._current.template
