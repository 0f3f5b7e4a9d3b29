"""The pool with real workers: what is about processes."""

from __future__ import annotations

import asyncio
import os
import re
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from pyrepl_kernel import (
    PoolClosed,
    PoolConfig,
    SessionClosed,
    SessionConfig,
    SessionPool,
    StartError,
    WarmupError,
    WorkerDied,
)
from pyrepl_kernel.session.process import ProcessWatch
from tests.session.pools import children
from tests.session.support import BOUND, wait_gone


@pytest.fixture
async def no_process_left() -> AsyncIterator[None]:
    """Whatever the test did, its workers are gone after it."""
    before = children()
    yield
    assert children() - before == set()


pytestmark = pytest.mark.usefixtures("no_process_left")


async def test_sessions_are_warm_and_isolated() -> None:
    async with SessionPool(min_idle=1, max_sessions=2, warmup_code="warm = 'warm'") as pool:
        pids = []
        for _ in range(3):
            async with pool.session() as session:
                pids.append(session.pid)
                outcome = await session.run("print(warm, 'mine' in globals()); mine = 1")
                assert outcome.stdout == "warm False\n"
        assert len(set(pids)) == 3


async def test_reused_sessions_are_as_the_warmup_left_them() -> None:
    options: dict[str, Any] = {"reuse": True, "warmup_code": "warm = 'warm'"}
    async with SessionPool(min_idle=1, max_sessions=1, **options) as pool:
        pids = []
        for _ in range(3):
            async with pool.session() as session:
                pids.append(session.pid)
                outcome = await session.run(
                    "print(warm, 'mine' in globals()); mine = 1; warm = 'cold'"
                )
                assert outcome.stdout == "warm False\n"
                assert outcome.execution_count == 1
        assert len(set(pids)) == 1


async def test_a_session_released_at_work_is_not_reused() -> None:
    async with SessionPool(min_idle=0, max_sessions=1, reuse=True) as pool:
        async with pool.session() as session:
            first = session.pid
            async for _ in session.execute("print('up', flush=True)\nwhile True: pass"):
                break
        async with pool.session() as session:
            assert session.pid != first
            assert (await session.run("print('well')")).stdout == "well\n"


@pytest.mark.parametrize("method", ["fork", "spawn"])
async def test_a_spare_killed_a_moment_ago_is_not_handed_out(method: str) -> None:
    async with SessionPool(min_idle=2, max_sessions=4, start_method=method) as pool:
        await pool.wait_ready(BOUND)
        spares = [session.pid for session in pool._roster.members]
        assert spares[0] is not None
        os.kill(spares[0], signal.SIGKILL)
        # Blocking, so that the event loop has no chance to tell the pool.
        assert wait_gone(spares[0])
        session = await pool.acquire()
        assert session.pid == spares[1]
        assert (await session.run("print('well')")).stdout == "well\n"
        assert pool.stats().died == 1
        await pool.wait_ready(BOUND)


async def test_a_worker_killed_in_use_costs_nobody_else_anything() -> None:
    async with SessionPool(min_idle=0, max_sessions=1) as pool:
        with pytest.raises(WorkerDied) as caught:
            async with pool.session() as session:
                await session.run("import os, signal; os.kill(os.getpid(), signal.SIGKILL)")
        assert caught.value.signal == signal.SIGKILL
        async with pool.session() as session:
            assert (await session.run("print('well')")).stdout == "well\n"


async def test_a_warmup_that_raises_is_shown_to_who_asks() -> None:
    async with SessionPool(min_idle=1, warmup_code="1 / 0") as pool:
        with pytest.raises(WarmupError) as caught:
            await asyncio.wait_for(pool.acquire(), BOUND)
        assert caught.value.ename == "ZeroDivisionError"
        text = re.sub(r"\x1b\[[0-9;]*m", "", "".join(caught.value.traceback))
        assert "The warmup, line 1" in text, "the code's own traceback"
        assert "ZeroDivisionError" in str(pool.stats().last_error)


async def test_a_warmup_that_kills_its_worker_is_shown_to_who_asks() -> None:
    code = "import os; os._exit(3)"
    async with SessionPool(min_idle=1, warmup_code=code) as pool:
        with pytest.raises(WorkerDied, match="exited with code 3"):
            await asyncio.wait_for(pool.acquire(), BOUND)
        assert (pool.stats().failed, pool.stats().died) == (2, 0)


async def test_an_interpreter_that_is_not_there() -> None:
    async with SessionPool(min_idle=1, python="/no/such/python") as pool:
        with pytest.raises(StartError, match="/no/such/python"):
            await asyncio.wait_for(pool.acquire(), BOUND)


async def test_workers_get_their_directory_environment_and_options(tmp_path: Path) -> None:
    config = PoolConfig(
        min_idle=0,
        cwd=tmp_path,
        env={"POOL_TEST": "yes"},
        session_config=SessionConfig(abandon_grace=1.5),
    )
    async with SessionPool(config) as pool, pool.session() as session:
        outcome = await session.run("import os; print(os.getcwd(), os.environ['POOL_TEST'])")
        assert outcome.stdout == f"{tmp_path} yes\n"
        assert session.config.abandon_grace == 1.5


async def test_a_stopped_worker_is_found_by_the_health_check() -> None:
    options: dict[str, Any] = {"health_check_interval": 0.05, "answer_timeout": 2.0}
    config = SessionConfig(shutdown_grace=0.1)
    async with SessionPool(min_idle=1, session_config=config, **options) as pool:
        await pool.wait_ready(BOUND)
        (pid,) = [session.pid for session in pool._roster.members]
        assert pid is not None
        gone = asyncio.Event()
        ProcessWatch(pid, gone.set)
        os.kill(pid, signal.SIGSTOP)
        await asyncio.wait_for(gone.wait(), BOUND)
        await pool.wait_ready(BOUND)
        async with asyncio.timeout(BOUND):
            while not pool.stats().retired:
                await asyncio.sleep(0.01)


async def test_stopping_while_cells_run_and_workers_start() -> None:
    config = SessionConfig(shutdown_grace=0.2)
    # Forks would be there before it is stopped.
    pool = SessionPool(min_idle=3, max_sessions=6, session_config=config, start_method="spawn")
    await pool.start()
    session = await pool.acquire()
    stubborn = """
        import time
        print("up", flush=True)
        while True:
            try:
                time.sleep(60)
            except KeyboardInterrupt:
                pass
    """
    cell = session.execute(stubborn)
    await anext(cell)
    waiting = asyncio.create_task(pool.wait_ready())
    async with asyncio.timeout(BOUND):
        while not pool.stats().starting:  # the pool lets a moment pass after a hand-over
            await asyncio.sleep(0.001)
    await asyncio.wait_for(pool.stop(), BOUND)
    with pytest.raises(SessionClosed):
        await anext(cell)
    with pytest.raises(PoolClosed):
        await waiting
