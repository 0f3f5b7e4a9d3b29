"""What the tests of the pool share: pools of fakes, turns of the loop, and who our children are."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Collection
from typing import Any

import psutil

from pyrepl_kernel import Session, StartError, WarmupError
from tests.fakes import FakePool, FakeSession

__all__ = ["ACCIDENT", "RAISED", "alive", "children", "in_line", "open_pool", "settle", "until"]

RAISED = WarmupError("s", "ZeroDivisionError", "division by zero", [])
ACCIDENT = StartError("s", "the worker was killed before it was ready")


async def settle() -> None:
    """Let everything run that can run without something from outside."""
    for _ in range(30):
        await asyncio.sleep(0)


async def until(is_so: Callable[[], bool]) -> None:
    """Turn the loop until something is so, and not once more."""
    for _ in range(100):
        if is_so():
            return
        await asyncio.sleep(0)
    raise AssertionError("it never was so")


@contextlib.asynccontextmanager
async def open_pool(held: Collection[str] = (), **options: Any) -> AsyncIterator[FakePool]:
    """A pool of fakes that was started and has settled; lets everything go in the end."""
    pool = FakePool(held=held, **options)
    async with pool:
        await settle()
        yield pool
        for session in pool.made:
            for name in session._gates:
                session.let(name)
    stats = pool.stats()
    assert stats.created == stats.retired
    assert (stats.idle, stats.busy, stats.starting, stats.retiring) == (0, 0, 0, 0)
    assert not pool._tasks


async def in_line(pool: FakePool, number: int) -> list[asyncio.Task[Session]]:
    """So many callers of acquire, in this order."""
    tasks = []
    for _ in range(number):
        tasks.append(asyncio.create_task(pool.acquire()))
        await settle()
    return tasks


def alive(pool: FakePool) -> list[FakeSession]:
    """Its sessions that have not ended."""
    return [session for session in pool.made if session.is_alive]


def children() -> set[int]:
    """The processes below this one."""
    return {process.pid for process in psutil.Process().children(recursive=True)}
