"""What forked workers cost: ``python -m benchmarks.forks``. Linux only.

Time of a hand-over (a spare that stands ready, and its first cell), memory of a spare at rest and
after a garbage collection, of ten spares beside one spawned worker, and the same over generations.
Memory is USS, what belongs to a process alone: what a further spare adds. What all of them share is
the template's.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from pyrepl_kernel import Session, SessionPool

WARMUP = "import pandas, numpy, matplotlib.pyplot"
_MB = 1 << 20


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures and prints."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.forks", description=__doc__)
    parser.add_argument("--warmup", default=WARMUP, help="(%(default)s)")
    parser.add_argument("--handovers", type=int, default=500, help="(%(default)s)")
    options = parser.parse_args(arguments)
    if sys.platform != "linux":
        print("workers are forked on Linux only", file=sys.stderr)
        return 2
    asyncio.run(_measure(options.warmup, options.handovers))
    return 0


async def _measure(warmup: str, handovers: int) -> None:
    async with SessionPool(min_idle=1, max_sessions=3, warmup_code=warmup) as pool:
        await pool.wait_ready()
        print("made by:", pool.stats().start_method, "for", pool.stats().start_reason)
        await _time_handovers(pool, handovers)
    async with SessionPool(min_idle=10, max_sessions=12, warmup_code=warmup) as pool:
        await pool.wait_ready()
        await asyncio.sleep(1)  # what is done when a worker is idle is done
        spares = [session.pid for session in pool._roster.members if session.pid]
        ten = sum(_memory(pid, "Private") for pid in spares)
        print(f"a spare at rest, USS:               {_mb(_memory(spares[0], 'Private'))}")
        for _ in range(3):
            async with pool.session() as session:
                assert session.pid is not None
                await session.run("pass")
                used = _memory(session.pid, "Private")
                await session.run("import gc; gc.collect()")
                collected = _memory(session.pid, "Private")
        print(f"after its first cell, USS:          {_mb(used)}")
        print(f"after its first gc.collect(), USS:  {_mb(collected)}")
        print(f"ten spares together, USS:           {_mb(ten)}")
    async with Session(warmup_code=warmup) as session:
        assert session.pid is not None
        print(f"one spawned worker, USS:            {_mb(_memory(session.pid, 'Private'))}")


async def _time_handovers(pool: SessionPool, number: int) -> None:
    acquired, first = [], []
    for _ in range(number):
        await pool.wait_ready()
        begin = time.perf_counter()
        session = await pool.acquire()
        acquired.append(time.perf_counter() - begin)
        await session.run("pass")
        first.append(time.perf_counter() - begin)
        await pool.release(session)
    for name, samples in (("hand-over", acquired), ("hand-over and first cell", first)):
        cuts = statistics.quantiles(samples, n=100)
        print(f"{name}: p50 {cuts[49] * 1e3:.1f} ms, p95 {cuts[94] * 1e3:.1f} ms, of {number}")


def _memory(pid: int, what: str) -> int:
    """Bytes of a process that /proc counts under names that begin with ``what``."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    names = ("Private_Clean:", "Private_Dirty:") if what == "Private" else (f"{what}:",)
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith(names))


def _mb(size: int) -> str:
    return f"{size / _MB:6.1f} MB"


if __name__ == "__main__":
    sys.exit(main())
