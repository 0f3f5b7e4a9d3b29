"""Hand out fresh sessions from a pool that keeps some warm.

python examples/pool.py
"""

import asyncio
import time

from pyrepl_kernel import PoolConfig, SessionPool, WorkerDied

JOBS = 8

# At most four workers at a time; two that are warm and idle are kept ready for the next callers.
CONFIG = PoolConfig(
    min_idle=2,
    max_sessions=4,
    warmup_code="import json, statistics\ndef mean(values): return statistics.fmean(values)",
)


async def job(pool: SessionPool, number: int) -> str:
    """Compute something in a session that nobody used before and nobody will use again."""
    async with pool.session() as session:
        # What another job left behind is not there: a released session is replaced.
        outcome = await session.run("'secret' in globals()")
        assert outcome.result == {"text/plain": "False"}

        outcome = await session.run(f"secret = {number}\nmean(range(secret + 1))")
        assert outcome.result is not None
        return str(outcome.result["text/plain"])


async def crash(pool: SessionPool) -> None:
    """A worker that dies costs its own job, and its place in the pool is filled again."""
    async with pool.session() as session:
        try:
            await session.run("import os, signal; os.kill(os.getpid(), signal.SIGKILL)")
        except WorkerDied as death:
            print("one job's worker died:", death.reason)
            return
    raise AssertionError("the worker should have died")


async def main() -> None:
    """Run more jobs than the pool has sessions, one of them fatal."""
    async with SessionPool(CONFIG) as pool:
        began = time.perf_counter()
        async with asyncio.TaskGroup() as tasks:
            jobs = [tasks.create_task(job(pool, number)) for number in range(JOBS)]
            tasks.create_task(crash(pool))
        took = time.perf_counter() - began
        means = [done.result() for done in jobs]
        print(f"{JOBS} jobs in {took:.2f} s, at most {CONFIG.max_sessions} at a time:", *means)
        assert [float(mean) for mean in means] == [n / 2 for n in range(JOBS)]
        print("the pool:", pool.stats())


if __name__ == "__main__":
    asyncio.run(main())
