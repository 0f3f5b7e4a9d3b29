"""Warm workers that stand ready to take over."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from pyrepl_kernel.session.session import Session, SessionConfig

if TYPE_CHECKING:
    from pyrepl_kernel.session.pool import SessionPool

__all__ = ["Spares"]


class Spares:
    """A kernel's spare sessions.

    They are made when the user does not wait: after the first cell has ended.

    Args:
        count: How many; with 0 this object costs nothing.
        warmup_code: What each of them has run.
        config: How each of them is made.
    """

    def __init__(self, count: int, warmup_code: str | None, config: SessionConfig) -> None:
        self._count = count
        self._warmup_code = warmup_code
        self._config = config
        self._taken: set[Session] = set()
        self._task: asyncio.Task[None] | None = None
        self._pool = self._make_pool() if count else None

    def _make_pool(self) -> SessionPool:
        from pyrepl_kernel.session.pool import PoolConfig, SessionPool

        return SessionPool(
            PoolConfig(
                min_idle=self._count,
                max_sessions=self._count + 2,  # and the one in use, and one on its way out
                warmup_code=self._warmup_code,
                session_timeout=None,
                refill_concurrency=1,
                session_config=self._config,
            )
        )

    def fill(self) -> None:
        """From now on keep the spares ready."""
        if self._pool is not None and self._task is None:
            self._task = asyncio.create_task(self._pool.start())

    def take(self) -> Session | None:
        """A spare that is ready; None if there is none."""
        if self._pool is None or self._task is None or not self._task.done():
            return None
        session = self._pool.acquire_nowait()
        if session is not None:
            self._taken.add(session)
        return session

    async def give_back(self, session: Session) -> None:
        """A session that was taken is of no use any more; its place is for another."""
        if session in self._taken and self._pool is not None:
            self._taken.discard(session)
            await self._pool.release(session)

    async def stop(self) -> None:
        """End all of them."""
        if self._pool is not None:
            await self._pool.stop()
