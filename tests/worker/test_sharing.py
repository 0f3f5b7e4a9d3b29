"""What forks share with their template, and what they do not."""

from __future__ import annotations

import ctypes
import json
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from pyrepl_kernel import SessionPool
from pyrepl_kernel.worker.sharing import PageCost

pytestmark = pytest.mark.skipif(
    not Path("/proc/self/smaps_rollup").exists(),
    reason="Linux alone forks workers, and says what memory belongs to a process alone",
)

BOUND = 60.0
MB = 1 << 20
SLACK = 1.15
"""Room for what differs from run to run: where things happen to lie in memory."""


def private_memory(pid: int | None) -> int:
    """Bytes that belong to a process alone."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    names = ("Private_Clean:", "Private_Dirty:")
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith(names))


async def test_a_spare_shares_nearly_all_of_its_memory() -> None:
    warmup = "import pandas, numpy, matplotlib.pyplot"
    async with SessionPool(
        min_idle=1, max_sessions=2, warmup_code=warmup, start_method="fork"
    ) as pool:
        await pool.wait_ready(BOUND)
        async with pool.session() as session:
            assert private_memory(session.pid) <= 4 * MB * SLACK
            await session.run("import gc; gc.collect()")
            assert private_memory(session.pid) <= 8 * MB * SLACK


async def test_a_fork_imports_nothing_that_its_template_could_have() -> None:
    warmup = textwrap.dedent("""
        import sys
        from pyrepl_kernel import hooks
        @hooks.before_fork
        def remember():
            global before
            before = set(sys.modules)
        """)
    async with SessionPool(
        min_idle=1, max_sessions=2, warmup_code=warmup, start_method="fork"
    ) as pool:
        await pool.wait_ready(BOUND)
        async with pool.session() as session:
            outcome = await session.run("print(sorted(set(sys.modules) - before))")
            assert outcome.stdout == "[]\n"


PAGES = """
import ctypes, json, sqlite3, sys
import IPython.core.logger
from pyrepl_kernel.worker.sharing import share_memory

# Most pages have a hole or none, so that new objects would be put on a page each.
blocks = [[bytes(size) for _ in range(20_000)] for size in (30, 100, 400)]
for kept in blocks:
    del kept[::64]
if sys.argv[1:]:
    share_memory()
new = [[bytes(size) for _ in range(100)] for size in (30, 100, 400)]
print(json.dumps([len({id(one) // 4096 for one in made}) for made in new]))
"""


def pages(*arguments: str, malloc: str = "pymalloc") -> list[int]:
    """How many pages a hundred new objects lie on, for three sizes."""
    command = [sys.executable, "-c", PAGES, *arguments]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=BOUND,
        env={"PYTHONMALLOC": malloc},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)  # type: ignore[no-any-return]


def test_new_objects_lie_side_by_side() -> None:
    scattered, together = pages(), pages("share")
    for size, many, few in zip((64, 144, 448), scattered, together, strict=True):
        # With their headers; and at either end a pool of four pages that others are in too.
        assert few <= 100 * size // 4096 + 8 < many


@pytest.mark.parametrize("malloc", ["malloc", "debug"])
def test_another_allocator_is_left_alone(malloc: str) -> None:
    assert len(pages("share", malloc=malloc)) == 3


# An array of the size that glibc keeps when it is freed, since one like it was asked for before.
REUSE = """
import json, os, sys
from pyrepl_kernel.worker.sharing import PageCost, give_back_free_memory

def fill(size=4 << 20):
    for _ in range(3):
        block = bytes([1]) * size

fill(8 << 20)  # glibc keeps blocks of this size from here on
above = bytes([1]) * 1000
fill()
if sys.argv[1:]:
    give_back_free_memory()
cost = PageCost()
cost.prepare()
reading, writing = os.pipe()
pid = os.fork()
if pid == 0:
    os.close(writing)
    os.read(reading, 1)
    os._exit(0)
cost.measure()

def copied():
    with open(f"/proc/{pid}/smaps") as maps:
        lines = maps.read().splitlines()
    at = next(i for i, line in enumerate(lines) if line.endswith("[heap]"))
    size = next(line for line in lines[at:] if line.startswith("Private_Dirty:"))
    return int(size.split()[1]) * 1024

before = copied()
fill()  # the parent writes; what it had of each page is the child's alone from then on
print(json.dumps([copied() - before, cost.seconds]))
os.close(writing)
os.waitpid(pid, 0)
"""


def reuse(*arguments: str) -> tuple[int, float]:
    """What a fork costs its parent.

    Returns:
        Bytes that the fork is left alone with when its parent takes free memory into use; and
        seconds for a page, as they were measured.
    """
    command = [sys.executable, "-c", REUSE, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=BOUND, check=False)
    assert done.returncode == 0, done.stderr
    copied, seconds = json.loads(done.stdout)
    return copied, seconds


@pytest.mark.skipif(
    not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="glibc alone is asked for free memory"
)
def test_free_memory_is_not_copied_when_it_is_used_again() -> None:
    assert reuse("give back")[0] < 1 * MB < 3 * MB < reuse()[0]


def test_a_page_that_a_fork_shares_costs_more_than_others() -> None:
    unshared = []
    for _ in range(20):
        cost = PageCost()
        cost.prepare()
        cost.measure()
        unshared.append(cost.seconds)
    assert reuse()[1] > min(unshared) > 0.0


def test_what_a_page_costs_is_measured_once() -> None:
    cost = PageCost()
    assert cost.seconds == 0.0
    cost.prepare()
    cost.measure()
    known = cost.seconds
    cost.prepare()
    cost.measure()
    assert cost.seconds == known > 0.0
