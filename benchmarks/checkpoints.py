"""What checkpoints cost a session, and how fast they bring it back.

python -m benchmarks.checkpoints steps      a pandas session with and without %autocheckpoint
python -m benchmarks.checkpoints restore    from a crash to the next cell's result
python -m benchmarks.checkpoints take       what one keeps the worker from its work
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field

from pyrepl_kernel import Session, WorkerDied

STEPS = 25
CRASH = 20

_SETUP = """
import hashlib
import numpy as np
import pandas as pd
rng = np.random.default_rng(1)
N = {rows}
"""

_LOAD = """
df = pd.DataFrame({{
    "key": rng.integers(0, 1000, N),
    "group": rng.integers(0, 50, N),
    **{{f"x{{i}}": rng.standard_normal(N) for i in range(8)}},
}})
"""

_WORK = (
    'df["y{n}"] = df["x0"] * df["x{m}"] + {n}',
    'totals = df.groupby("key").mean(); top = totals.sort_values("x{m}").head(100)',
    'part = df[df["group"] == {n}].copy(); part["rank"] = part["x{m}"].rank()',
    'df = df.sort_values("x{m}", ignore_index=True)',
    'merged = part.merge(totals, left_on="key", right_index=True, suffixes=("", "_mean"))',
    'df["x{m}"] = df["x{m}"].clip(-2, 2)',
    'table = df.pivot_table(index="group", values=["x0", "x{m}"], aggfunc=["mean", "std"])',
)

_DIGEST = """
[int(pd.util.hash_pandas_object(one).sum()) for one in (df, totals, top, part, merged, table)]
"""


def steps(rows: int) -> list[str]:
    """The cells: the first ones load, the others change some of it, add to it, or look at it."""
    cells = [_SETUP.format(rows=rows), _LOAD.format()]
    while len(cells) < STEPS:
        number = len(cells) - 2
        cells.append(_WORK[number % len(_WORK)].format(n=number, m=number % 7 + 1))
    return cells


def memory_of(session: Session) -> int:
    """The memory of a worker and its checkpoints, each page counted once (PSS), in bytes."""
    total = 0
    for pid in [session.pid, *(one.pid for one in session.checkpoints)]:
        with suppress(OSError), open(f"/proc/{pid}/smaps_rollup") as file:
            total += next(int(line.split()[1]) for line in file if line.startswith("Pss:")) * 1024
    return total


@dataclass
class Run:
    """One session.

    Attributes:
        seconds: From the first cell to the last's result.
        memory: The most that it took, after any cell, in bytes.
        digest: What its data came to.
        kept: How often a checkpoint was taken.
    """

    seconds: float = 0.0
    memory: int = 0
    digest: str = ""
    kept: int = 0
    spent: list[float] = field(default_factory=list)


async def run_steps(rows: int, *, is_automatic: bool, crash: int = 0) -> Run:
    """Run the cells.

    Args:
        rows: Of the large data frame.
        is_automatic: With ``%autocheckpoint on``.
        crash: The number of a step in which the worker is killed once; 0 for none.
    """
    run = Run()
    async with Session() as session:

        def note(checkpoint: object) -> None:
            run.kept += 1
            run.spent.append(getattr(checkpoint, "seconds", 0.0))

        session.checkpoints.on_taken = note
        if is_automatic:
            await session.run("%autocheckpoint on")
        for number, cell in enumerate(steps(rows), 1):
            if number == crash:
                with suppress(WorkerDied):
                    await session.run(f"{cell}\nimport os, signal; os.kill(os.getpid(), 9)")
                await session.rollback()
            began = time.perf_counter()
            outcome = await session.run(cell)
            run.seconds += time.perf_counter() - began
            assert outcome.is_ok, outcome.error
            # The next cell waits until this one's checkpoint is taken.
            run.memory = max(run.memory, memory_of(session))
        began = time.perf_counter()
        outcome = await session.run(_DIGEST)
        run.seconds += time.perf_counter() - began
        assert outcome.result is not None, outcome.error
        run.digest = outcome.result["text/plain"]
    return run


async def compare(rows: int, runs: int) -> None:
    """With and without, alternating."""
    plain: list[Run] = []
    kept: list[Run] = []
    for _ in range(runs):
        plain.append(await run_steps(rows, is_automatic=False))
        kept.append(await run_steps(rows, is_automatic=True))
    crashed = await run_steps(rows, is_automatic=True, crash=CRASH)
    digests = {run.digest for run in [*plain, *kept, crashed]}
    ratios = [b.seconds / a.seconds for a, b in zip(plain, kept, strict=True)]
    mb = 1e6
    print(f"{STEPS} steps, {rows} rows; {runs} runs each, alternating; medians")
    print(f"without  {_median(plain, lambda r: r.seconds):6.2f} s", end="")
    print(f"  {_median(plain, lambda r: r.memory) / mb:6.0f} MB")
    print(f"with     {_median(kept, lambda r: r.seconds):6.2f} s", end="")
    print(f"  {_median(kept, lambda r: r.memory) / mb:6.0f} MB", end="")
    print(f"  {_median(kept, lambda r: r.kept):.0f} checkpoints", end="")
    print(f" of {statistics.median(s for r in kept for s in r.spent) * 1000:.0f} ms")
    memory = _median(kept, lambda r: r.memory) / _median(plain, lambda r: r.memory)
    time_ratio = _median(kept, lambda r: r.seconds) / _median(plain, lambda r: r.seconds)
    print(f"time {time_ratio:.3f} (pair by pair {statistics.median(ratios):.3f})", end="")
    print(f"  memory {memory:.2f}")
    same = "the same" if len(digests) == 1 else "NOT THE SAME"
    print(f"results with, without, and with a crash in step {CRASH}: {same}")


def _median(runs: list[Run], of: Callable[[Run], float]) -> float:
    return statistics.median(of(run) for run in runs)


_FILL = "import numpy as np; data = [np.random.rand(2_500_000) for _ in range({number})]"
"""Pieces of 20 MB."""


async def restore(size: int, runs: int) -> None:
    """A session of so many megabytes dies, and goes on from its checkpoint."""
    crashes: list[float] = []
    backs: list[float] = []
    async with Session() as session:
        await session.run(_FILL.format(number=size // 20))
        await session.checkpoint("a")
        for _ in range(runs):
            began = 0.0
            with suppress(WorkerDied):
                outcome = session.execute(
                    "import os, time; print(time.time(), flush=True); os.kill(os.getpid(), 11)"
                )
                async for message in outcome:
                    began = float(getattr(message, "data", "0").split()[0])
            await session.rollback("a")
            result = await session.run("len(data)")
            crashes.append(time.time() - began)
            assert result.result is not None
            started = time.perf_counter()
            await session.rollback("a")
            await session.run("len(data)")
            backs.append(time.perf_counter() - started)
    print(f"a session of {size} MB, {runs} times: from ... to the next cell's result")
    print(f"a crash     {_spread(crashes)}\na rollback  {_spread(backs)}")


async def take(size: int, runs: int) -> None:
    """What a checkpoint of so many megabytes keeps the worker."""
    inside: list[float] = []
    outside: list[float] = []
    async with Session() as session:
        await session.run(_FILL.format(number=size // 20))
        for number in range(runs):
            began = time.perf_counter()
            checkpoint = await session.checkpoint("a")
            outside.append(time.perf_counter() - began)
            inside.append(checkpoint.seconds)
            await session.run(f"data[{number % (size // 20)}] += 1")
    print(f"a checkpoint of {size} MB, {runs} times")
    print(f"in the worker  {_spread(inside)}\nin all         {_spread(outside)}")


def _spread(values: list[float]) -> str:
    ordered = sorted(values)
    worst = ordered[min(len(ordered) - 1, int(0.95 * len(ordered)))]
    return f"median {statistics.median(values) * 1000:.1f} ms, p95 {worst * 1000:.1f} ms"


def main() -> None:
    """Measure what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("what", choices=["steps", "restore", "take"])
    parser.add_argument("--runs", type=int, default=0)
    parser.add_argument("--rows", type=int, default=3_000_000)
    parser.add_argument("--size", type=int, default=1000, help="of a session, in MB")
    arguments = parser.parse_args()
    if arguments.what == "steps":
        asyncio.run(compare(arguments.rows, arguments.runs or 5))
    elif arguments.what == "restore":
        asyncio.run(restore(arguments.size, arguments.runs or 30))
    else:
        asyncio.run(take(arguments.size, arguments.runs or 30))


if __name__ == "__main__":
    main()
