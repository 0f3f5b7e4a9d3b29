"""Warm workers that stand ready to take over, and the template that they are forked from."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from pyrepl_kernel.errors import PyreplError, TemplateError
from pyrepl_kernel.kernel.warm import shares_templates, template_order, working_directory
from pyrepl_kernel.session.forked import Forked
from pyrepl_kernel.session.session import Session, SessionConfig
from pyrepl_kernel.session.template_key import template_key

if TYPE_CHECKING:
    from pyrepl_kernel.kernel.options import Options
    from pyrepl_kernel.session.pool import SessionPool
    from pyrepl_kernel.session.template import Template
    from pyrepl_kernel.session.workers import Method, Workers

__all__ = ["Spares"]

log = logging.getLogger("pyrepl_kernel.kernel")

_READY_TIME = 600.0  # seconds; a warmup takes what it takes
_FORK_TIME = 0.25  # seconds that the kernel stands still at most for a fork of a warm template


class Spares:
    """A kernel's spare sessions.

    They are made when the user does not wait: after the first cell has ended, or after a while.

    Args:
        options: How many, and how they are made.
        config: What each of them is told.
        first: The kernel's first worker.
    """

    def __init__(self, options: Options, config: SessionConfig, first: object) -> None:
        self._options = options
        self._config = config
        self._taken: set[Session] = set()
        self._task: asyncio.Task[None] | None = None
        self._is_settled = False  # whether there are to be spares
        self._made_for = _key(options)
        self._pool: SessionPool | None = None
        self._template: Template | None = None
        if isinstance(first, Forked) and first.origin is not None:
            self._take_template().adopt(*first.origin, first)

    def _take_template(self) -> Template:
        from pyrepl_kernel.session.template import SharedTemplate

        if self._template is None:
            self._template = SharedTemplate(template_order(self._options))
        return self._template

    def is_current(self, options: Options) -> bool:
        """Whether a spare, handed over, is what a worker started now with these options would be.

        It is not when the warmup, an installed package, or a variable that an import may have
        looked at has changed.
        """
        return self._made_for == _key(options) and self._options.spares == options.spares

    def fill(self) -> None:
        """From now on keep the spares ready; once more after an accident to try again."""
        if self._options.spares == 0 or self._is_settled:
            return
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._begin())
            self._task.add_done_callback(_log_failure)

    async def _begin(self) -> None:
        count = self._options.spares
        if count is None:
            if not await self._can_fork():
                return
            count = 1
        self._is_settled = True
        self._pool = self._make_pool(count)
        await self._pool.start()

    async def _can_fork(self) -> bool:
        if not shares_templates(self._options):
            self._is_settled = True
            return False
        try:
            warm = await self._take_template().warm()
        except TemplateError as error:
            log.warning("there are no spare workers: %s", error)
            return False
        if warm.verdict == "spawn":
            advice = f" ({warm.advice})" if warm.advice else ""
            log.warning("there are no spare workers, for %s%s", warm.reason, advice)
            self._take_template().renew()
            self._is_settled = True
            return False
        return True

    def _make_pool(self, count: int) -> SessionPool:
        from pyrepl_kernel.session.pool import PoolConfig, SessionPool

        config = PoolConfig(
            min_idle=count,
            max_sessions=count + 2,  # and the one in use, and one on its way out
            warmup_code=self._options.warmup,
            session_timeout=None,
            refill_concurrency=1,
            session_config=self._config,
            start_method=self._options.start_method,
        )
        return SessionPool(config, workers=self._make_workers())

    def _make_workers(self) -> Workers | None:
        from pyrepl_kernel.session.workers import Forking

        if not shares_templates(self._options):
            return None
        return Forking(self._take_template())

    async def wait_ready(self) -> None:
        """Wait until the spares are ready, or it is known that there are none."""
        if self._task is not None:
            await asyncio.wait([self._task])
        if self._pool is not None:
            try:
                await self._pool.wait_ready(_READY_TIME)
            except PyreplError as error:
                log.warning("spare workers are late: %s", error)

    async def retire(self) -> None:
        """Make no more, and end those that stand ready; what was taken lives on until ``stop``."""
        if self._task is not None:
            self._task.cancel()
        if self._pool is not None:
            self._pool.empty()

    def is_used_by(self, session: Session) -> bool:
        """Whether a session may have its worker from here."""
        return session in self._taken or session.is_forked

    @property
    def ready(self) -> list[Session]:
        """Those that stand ready."""
        return [] if self._pool is None else self._pool.idle

    @property
    def method(self) -> Method:
        """How workers are made, why, and what can be done to have it otherwise."""
        if self._pool is not None:
            stats = self._pool.stats()
            return stats.start_method, stats.start_reason, stats.start_advice
        if not shares_templates(self._options):
            is_wish = self._options.start_method == "spawn"
            reason = "start-method is spawn" if is_wish else "this is not Linux"
            return "spawn", reason, ""
        warm = None if self._template is None else self._template.warmth
        return ("", "", "") if warm is None else (warm.verdict, warm.reason, warm.advice)

    @property
    def template(self) -> Template | None:
        """What they are forked from."""
        return self._template

    def take(self) -> Session | None:
        """A spare that is ready; None if there is none."""
        if self._pool is None or self._task is None or not self._task.done():
            return None
        session = self._pool.acquire_nowait()
        if session is not None:
            self._taken.add(session)
        return session

    def fork(self) -> Forked | None:
        """A worker at once, where the template is at hand; None where it is not."""
        if self._template is None:
            return None
        try:
            return self._template.fork_now(_FORK_TIME)
        except TemplateError as error:
            log.warning("a worker is spawned, not forked: %s", error)
            return None

    async def give_back(self, session: Session) -> None:
        """A session that was taken is of no use any more; its place is for another."""
        if session in self._taken and self._pool is not None:
            self._taken.discard(session)
            await self._pool.release(session)

    async def stop(self) -> None:
        """End all of them."""
        if self._task is not None:
            self._task.cancel()
        if self._pool is not None:
            await self._pool.stop()
        if self._template is not None:
            self._template.close()


def _log_failure(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        log.error("there are no spare workers", exc_info=error)


def _key(options: Options) -> str:
    return template_key(options.warmup or "", options.ipython, working_directory())
