"""Cells are held to what they may use: by an exception, and by a kill where that does not help."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from typing import Any

import pytest

from pyrepl_kernel.errors import DeathCause, WorkerDied
from pyrepl_kernel.session import guard as guard_module
from pyrepl_kernel.session.guard import Force
from pyrepl_kernel.session.limits import Limits, MemoryMeter
from pyrepl_kernel.session.session import Session, SessionConfig
from tests.session.support import BOUND, follow

pytestmark = pytest.mark.usefixtures("no_process_left")

MIB = 1 << 20
linux = pytest.mark.skipif(
    sys.platform != "linux", reason="memory is measured through /proc, which only Linux has"
)

GROW = """
blocks = []
while True:
    blocks.append(bytearray(b"x") * (10 << 20))
"""
HANG = "import ctypes; ctypes.PyDLL(None).sleep(600)"
"""Holds the GIL; the C library's sleep ends early upon a signal, so it is begun again and again."""
STUCK = f"""
while True:
    try:
        print("begun", flush=True)
        {HANG}
    except BaseException:
        pass
"""


def limited(**limits: Any) -> Session:
    return Session(config=SessionConfig(limits=Limits(**limits)))


# -------------------------------------------------------------------- memory


@linux
@pytest.mark.parametrize(
    "code",
    [
        GROW,
        "async def grow():" + GROW.replace("\n", "\n    ") + "\nawait grow()",
    ],
)
async def test_a_cell_that_passes_its_memory_limit(code: str) -> None:
    async with limited(memory=300 * MIB, memory_hard=4000 * MIB) as session:
        outcome = await asyncio.wait_for(session.run(code), BOUND)
        assert outcome.error is not None
        assert outcome.error.ename == "MemoryLimitExceeded"
        assert "the limit is 300 MiB" in outcome.error.evalue
        assert any("blocks.append" in line for line in outcome.error.traceback)
        assert not any("interrupts.py" in line for line in outcome.error.traceback)
        # The memory is still there, and the next cell is to be able to give it back.
        assert (await session.run("import time; time.sleep(0.3); 'kept'")).is_ok


@linux
async def test_a_cell_may_catch_it_as_a_memory_error() -> None:
    code = f"""
try:
    {GROW.replace(chr(10), chr(10) + "    ")}
except MemoryError as error:
    del blocks
    print(type(error).__name__)
"""
    async with limited(memory=300 * MIB, memory_hard=4000 * MIB) as session:
        outcome = await asyncio.wait_for(session.run(code), BOUND)
        assert outcome.stdout == "MemoryLimitExceeded\n"
        assert (await session.run("import time; time.sleep(0.2)")).is_ok


@linux
async def test_a_cell_that_awaits_is_told_too() -> None:
    code = """
import asyncio
blocks = []
while True:
    blocks.append(bytearray(b"x") * (10 << 20))
    await asyncio.sleep(0.01)
"""
    async with limited(memory=300 * MIB, memory_hard=4000 * MIB) as session:
        outcome = await asyncio.wait_for(session.run(code), BOUND)
        assert outcome.error is not None
        assert outcome.error.ename == "MemoryLimitExceeded"


@linux
async def test_the_hard_limit_kills() -> None:
    code = f"""
while True:
    try:
        {GROW.replace(chr(10), chr(10) + "        ")}
    except BaseException:
        pass
"""
    async with limited(memory_hard=400 * MIB) as session:
        with pytest.raises(WorkerDied, match="its memory limit of 400 MiB: it used") as caught:
            await asyncio.wait_for(session.run(code), BOUND)
    assert caught.value.cause is DeathCause.MEMORY_LIMIT
    assert any("blocks.append" in frame.source for frame in caught.value.frames)


@linux
async def test_the_memory_of_children_counts() -> None:
    code = f"""
import subprocess, sys
subprocess.run([sys.executable, "-c", {GROW!r}])
"""
    async with limited(memory=300 * MIB, memory_hard=4000 * MIB) as session:
        outcome = await asyncio.wait_for(session.run(code), BOUND)
        assert outcome.error is not None
        assert outcome.error.ename == "MemoryLimitExceeded"


@linux
async def test_pages_that_forks_share_count_once() -> None:
    code = """
import os, time
block = bytearray(b"x") * (150 << 20)
children = [os.fork() for _ in range(1)]
if children[0] == 0:
    time.sleep(1); os._exit(0)
more = []
for _ in range(3):
    if (pid := os.fork()) == 0:
        time.sleep(1); os._exit(0)
    more.append(pid)
for pid in [*children, *more]:
    os.waitpid(pid, 0)
"""
    async with limited(memory=300 * MIB) as session:
        outcome = await asyncio.wait_for(session.run(code), BOUND)
        assert outcome.is_ok, outcome.error


@linux
async def test_nothing_is_watched_between_cells() -> None:
    async with limited(memory=300 * MIB) as session:
        await session.run("1")
        assert session._guard._watch is None
        running = asyncio.create_task(session.run("import time; time.sleep(0.3)"))
        await asyncio.sleep(0.1)
        assert session._guard._watch is not None
        await running
        assert session._guard._watch is None


@linux
def test_the_meter_measures_a_process() -> None:
    program = (
        "import sys; block = bytearray(b'x') * (100 << 20); print('ready', flush=True); input()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        process_group=0,
    )
    with process:
        assert process.stdout is not None
        process.stdout.readline()
        meter = MemoryMeter(process.pid)
        assert meter.members() == [process.pid]
        assert 100 * MIB < meter.exact() <= meter.most() < 200 * MIB
        process.kill()
    assert meter.most() == 0
    assert os.getpid() not in meter.members()


@pytest.mark.parametrize(
    "limits", [{"memory": 0}, {"time": -1.0}, {"memory": 2, "memory_hard": 1}, {"output": 0}]
)
def test_limits_that_make_no_sense(limits: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"must be above 0|is below the soft one"):
        Limits(**limits)


def test_the_hard_limit_follows_the_soft_one() -> None:
    assert Limits(memory=4 << 30).memory_kill == 5 << 30
    assert Limits(memory=400 * MIB).memory_kill == 912 * MIB
    assert Limits(memory=400, memory_hard=600).memory_kill == 600
    assert Limits().memory_kill is None


# ---------------------------------------------------------------------- time


@pytest.mark.parametrize(
    "code",
    [
        "while True: pass",
        "import time; time.sleep(600)",
        "import asyncio; await asyncio.sleep(600)",
    ],
)
async def test_a_cell_that_runs_for_too_long(code: str) -> None:
    async with limited(time=0.3) as session:
        outcome = await asyncio.wait_for(session.run(code), BOUND)
        assert outcome.error is not None
        assert outcome.error.ename == "CellTimeout"
        assert "longer than its limit of 0.3 s" in outcome.error.evalue
        assert (await session.run("'kept'")).is_ok


async def test_a_cell_that_ignores_the_end_of_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard_module, "_STUBBORN", 0.3)
    async with limited(time=0.3) as session:
        with pytest.raises(WorkerDied, match="ignored its interrupt") as caught:
            await asyncio.wait_for(session.run(STUCK), BOUND)
    assert caught.value.cause is DeathCause.TIME_LIMIT
    assert any("sleep(600)" in frame.source for frame in caught.value.frames)


async def test_a_plain_interrupt_stays_one() -> None:
    async with limited(time=600, memory=100 << 30) as session:
        cell = follow(session, "print('begun', flush=True)\nimport time; time.sleep(600)")
        await cell.printed("begun")
        await session.interrupt()
        assert (await cell.result()).ename == "KeyboardInterrupt"


# ------------------------------------------------------------------ interrupts


async def test_the_stacks_are_shown_though_c_code_holds_the_gil() -> None:
    async with Session() as session:
        cell = follow(session, STUCK)
        await cell.printed("begun")
        await session.interrupt(Force.STACKS)
        await cell.printed_to("stderr", "Main thread (most recent call last):\n  In [1], line 4")
        with pytest.raises(WorkerDied, match="did not end on interrupts") as caught:
            await session.interrupt(Force.KILL)
            await cell.result()
    assert caught.value.cause is DeathCause.INTERRUPTS
    assert any("sleep(600)" in frame.source for frame in caught.value.frames)


async def test_stacks_of_all_threads_and_none_of_ours() -> None:
    code = """
import threading, time
def work():
    time.sleep(600)
threading.Thread(target=work, daemon=True).start()
while True:
    try:
        print("begun", flush=True)
        time.sleep(600)
    except KeyboardInterrupt:
        pass
"""
    async with Session() as session:
        cell = follow(session, code)
        await cell.printed("begun")
        await session.interrupt(Force.STACKS)
        await cell.printed_to("stderr", "in work\n    time.sleep(600)")
        await cell.printed_to("stderr", "in <module>\n    time.sleep(600)")
        shown = cell.text("stderr")
        assert "pyrepl_kernel" not in shown
        assert "interactiveshell" not in shown
        await session.interrupt(Force.KILL)
        with pytest.raises(WorkerDied):
            await cell.result()


async def test_a_timeout_after_an_interrupt() -> None:
    async with limited(interrupt_timeout=0.3) as session:
        cell = follow(session, STUCK)
        await cell.printed("begun")
        await session.interrupt()
        with pytest.raises(WorkerDied, match=r"ran on for 0\.3 s after an interrupt"):
            await cell.result()


async def test_the_timeout_is_that_of_the_cell() -> None:
    async with limited(interrupt_timeout=3) as session:
        cell = follow(session, "print('begun', flush=True)\nimport time; time.sleep(600)")
        await cell.printed("begun")
        await session.interrupt()
        assert (await cell.result()).ename == "KeyboardInterrupt"
        assert (await session.run("import time; time.sleep(3.5)")).is_ok


# -------------------------------------------------------------------- the magic


async def test_limits_are_set_and_shown_in_a_cell() -> None:
    async with Session() as session:
        shown = (await session.run("%limit memory 4G\n%limit time 2m\n%limit output 1M")).stdout
        assert session.limits == Limits(memory=4 << 30, time=120.0, output=1 << 20)
        assert "memory     4 GiB (killed at 5 GiB); in use: " in shown
        assert "time       120 s" in shown
        assert "output     1,048,576 characters" in shown
        await session.run("%limit memory none\n%limit interrupt 30s\n%limit memory 1G 3G")
        assert session.limits.memory_kill == 3 << 30
        assert session.limits.interrupt_timeout == 30.0


async def test_a_limit_holds_for_the_cell_that_sets_it() -> None:
    async with Session() as session:
        outcome = await asyncio.wait_for(session.run("%limit time 0.3\nwhile True: pass"), BOUND)
        assert outcome.error is not None
        assert outcome.error.ename == "CellTimeout"


@pytest.mark.parametrize(
    "line", ["memory", "memory much", "speed 3", "time 3 4", "time -1", "memory 4G 5G 6G"]
)
async def test_nonsense_is_an_error_of_the_magics(line: str) -> None:
    async with Session() as session:
        outcome = await session.run(f"%limit {line}")
        assert outcome.status == "error"
        assert outcome.stderr.startswith("UsageError: %limit ")
        assert session.limits == Limits()


async def test_a_limit_that_contradicts_another() -> None:
    async with Session() as session:
        outcome = await session.run("%limit memory 4G 3G")
        assert "The limits stay as they were: the hard limit of memory" in outcome.stderr
        assert session.limits == Limits()
