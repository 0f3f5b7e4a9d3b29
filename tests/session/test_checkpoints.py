"""Checkpoints: states that a session goes back to, by its own cells or by its host."""

import asyncio
import os
import select
import signal
import sys
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from pyrepl_kernel import ExecuteMessage, Session, SessionConfig, WorkerDied
from pyrepl_kernel.errors import CheckpointError, SessionError, StartError
from pyrepl_kernel.session import checkpoints
from pyrepl_kernel.session.execution import Outcome
from tests.session.support import WORK, wait_gone

pytestmark = pytest.mark.skipif(
    sys.platform != "linux", reason="checkpoints are forks, which are for Linux; run it there"
)

KILL = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"


async def value(session: Session, code: str) -> str:
    outcome = await session.run(code)
    assert outcome.error is None, outcome.error
    assert outcome.result is not None
    return str(outcome.result["text/plain"])


async def ok(session: Session, code: str) -> Outcome:
    outcome = await session.run(code)
    assert outcome.error is None, outcome.error
    return outcome


def is_there(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


async def test_going_back_and_again() -> None:
    async with Session(warmup_code="warm = 1") as session:
        await ok(session, "x = 1")
        first = session.pid
        checkpoint = await session.checkpoint("a")
        assert (checkpoint.name, checkpoint.execution_count) == ("a", 1)
        assert checkpoint.left == []
        await ok(session, "x = 2; y = 3; del warm")
        for _ in range(3):
            await session.rollback("a")
            assert session.pid != first
            assert await value(session, "x, warm, 'y' in globals()") == "(1, 1, False)"
            await ok(session, "x = 5")
        assert first is not None and not is_there(first)


async def test_what_is_kept() -> None:
    async with Session() as session:
        await ok(
            session,
            "import random, numpy.random, matplotlib; matplotlib.use('agg')\n"
            "import matplotlib.pyplot as plt\n"
            "def f(): return 'f'\nclass C: pass\nc = C()\nfigure = plt.figure()",
        )
        await session.checkpoint("a")
        drawn = await value(session, "random.random(), float(numpy.random.rand())")
        await ok(session, "plt.close('all'); del f, c")
        await session.rollback("a")
        assert await value(session, "random.random(), float(numpy.random.rand())") == drawn
        assert await value(session, "f(), type(c) is C, plt.get_fignums()") == "('f', True, [1])"
        assert await value(session, "In[1][:13], len(In)") == "('import random', 5)"


async def test_the_counts_go_back_with_it() -> None:
    async with Session() as session:
        await ok(session, "1")
        await ok(session, "%checkpoint")
        await ok(session, "3")
        back = await ok(session, "%rollback")
        assert "Back to checkpoint 'cell-2', taken after In [2]" in back.stdout
        outcome = await ok(session, "Out")
        assert outcome.execution_count == 3


async def test_magics() -> None:
    async with Session() as session:
        shown = await ok(session, "x = 1\n%checkpoint first")
        assert shown.stdout == "Checkpoint 'first' is taken when this cell ends.\n"
        await ok(session, "x = 2\n%checkpoint second")
        table = (await ok(session, "%checkpoints")).stdout.splitlines()
        assert [line.split()[0] for line in table] == ["name", "first", "second"]
        assert "In [2]" in table[2] and " MB" in table[2]
        await ok(session, "%rollback first")
        assert await value(session, "x") == "1"
        await ok(session, "%rollback second")
        assert await value(session, "x") == "2"
        for code, words in (
            ("%rollback third", "There is no checkpoint 'third'; there are 'first', 'second'"),
            ("%autocheckpoint perhaps", "takes 'on' or 'off'"),
        ):
            outcome = await session.run(code)
            assert words in outcome.stderr


async def test_a_checkpoint_of_a_name_replaces_the_one_before() -> None:
    async with Session() as session:
        await ok(session, "x = 1")
        old = await session.checkpoint("a")
        await ok(session, "x = 2")
        await session.checkpoint("a")
        assert len(session.checkpoints) == 1
        await session.rollback("a")
        assert await value(session, "x") == "2"
    assert not is_there(old.pid)


async def test_a_transaction() -> None:
    async with Session() as session:
        await ok(session, "x = [1]")
        failed = await session.run("%%transaction\nx.append(2)\ny = 1\n1 / 0")
        assert failed.error is not None and failed.error.ename == "ZeroDivisionError"
        assert failed.stdout == "All that this cell has changed is undone.\n"
        assert await value(session, "x, 'y' in globals()") == "([1], False)"
        await ok(session, "%%transaction\nx.append(3)")
        assert await value(session, "x") == "[1, 3]"


@pytest.mark.parametrize("last_line", ["", "1 / 0", KILL])
async def test_a_transaction_leaves_no_checkpoint_to_go_back_to_later(last_line: str) -> None:
    async with Session() as session:
        await ok(session, "x = 1\n%checkpoint a")
        with suppress(WorkerDied):
            await session.run(f"%%transaction\nx = 2\n{last_line}")
            assert [one.name for one in session.checkpoints] == ["a"]
        if last_line == KILL:
            assert session.checkpoints.automatic is not None
            await session.rollback()
        assert [one.name for one in session.checkpoints] == ["a"]
        assert session.checkpoints.automatic is None
        assert await value(session, "x") == ("1" if last_line else "2")
        with pytest.raises(WorkerDied) as caught:
            await session.run("import os; os._exit(7)")
        assert caught.value.exit_code == 7
        await session.rollback()
        assert await value(session, "x") == "1"


async def test_a_transaction_leaves_what_was_kept_automatically_before() -> None:
    async with Session() as session:
        await ok(session, "x = 1\n%autocheckpoint on")
        await ok(session, "%autocheckpoint off")
        kept = session.checkpoints.automatic
        assert kept is not None
        await session.run("%%transaction\n1 / 0")
        await ok(session, "%%transaction\nx = 2")
        assert session.checkpoints.automatic is kept
        await ok(session, "%autocheckpoint on")
        await ok(session, "%%transaction\nx = 3")
        (kept_now,) = session.checkpoints
        assert kept_now.is_automatic and kept_now is not kept


async def test_what_is_dearer_to_compute_again_than_to_keep_is_kept_at_once() -> None:
    async with Session(warmup_code="import time") as session:
        await ok(session, "%autocheckpoint on")
        for number in (1, 2, 3):
            await ok(session, f"{WORK}x = {number}")
            with pytest.raises(WorkerDied):  # before there is a moment in which nothing is asked
                await session.run(KILL)
            await session.rollback()
            assert await value(session, "x") == str(number)


async def test_a_collection_of_garbage_is_no_part_of_what_the_next_one_will_cost() -> None:
    slow = "import gc, time; gc.collect = lambda *_: time.sleep(3)"
    async with Session(warmup_code=slow) as session:
        await ok(session, "%autocheckpoint on")  # the first one collects
        assert await value(session, "get_ipython().get_checkpoints().is_worth(1.5)") == "True"


async def test_a_checkpoint_survives_a_rollback_that_fails() -> None:
    async with Session() as session:
        await ok(session, "x = 1\n%checkpoint a")
        patient = session.config
        session.config = replace(patient, start_timeout=0.0)
        with pytest.raises(StartError):
            await session.rollback()
        session.config = patient
        await session.rollback()
        assert await value(session, "x") == "1"
        pid = session.checkpoints.find("a").pid
        await session.terminate()
        assert wait_gone(pid)


async def test_the_cells_that_wait_go_on_in_the_restored_worker() -> None:
    async with Session() as session:
        await ok(session, "x = 1\n%checkpoint a")
        await ok(session, "x = 2")
        ends: list[str] = []

        def note(result: object) -> None:
            ends.append(str(getattr(result, "status", result)))

        session.submit(ExecuteMessage("%rollback a"), lambda message: None, note)
        assert await value(session, "x") == "1"
        assert ends == ["ok"]


async def test_after_a_death_the_session_comes_back() -> None:
    async with Session() as session:
        await ok(session, "x = 1\n%autocheckpoint on")
        with pytest.raises(WorkerDied):
            await session.run("import os, signal; x = 2; os.kill(os.getpid(), signal.SIGKILL)")
        assert session.checkpoints.automatic is not None
        await session.rollback()
        assert await value(session, "x") == "1"
        # Of a restored worker too it is known how it ended.
        with pytest.raises(WorkerDied) as caught:
            await session.run("import os; os._exit(7)")
        assert caught.value.exit_code == 7
        await session.rollback()
        assert await value(session, "x") == "1"


async def test_tasks_go_on_where_they_were() -> None:
    code = """
import asyncio
n = 0
async def tick():
    global n
    while True:
        n += 1
        await asyncio.sleep(0.001)
task = asyncio.create_task(tick())
async def more(than):
    while n <= than:
        await asyncio.sleep(0.001)
    return True
await more(3)
"""
    async with Session() as session:
        await ok(session, code)
        await session.checkpoint("a")
        assert await value(session, "await more(n + 3)") == "True"
        await session.rollback("a")
        assert await value(session, "await more(n + 3)") == "True"


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("f = open('notes.txt', 'w')", "notes.txt is open"),
        ("import socket; a, b = socket.socketpair()", "a socket is open"),
        ("import subprocess; p = subprocess.Popen(['sleep', '60'])", "(sleep 60) still runs"),
    ],
)
async def test_what_is_not_brought_back_is_named(code: str, words: str, tmp_path: Path) -> None:
    async with Session(cwd=tmp_path) as session:
        await ok(session, code)
        checkpoint = await session.checkpoint("a")
        assert any(words in clause for clause in checkpoint.left), checkpoint.left
        shown = await ok(session, "%rollback a")
        assert f"Not brought back: {checkpoint.left[0]}." in shown.stdout


async def test_a_live_thread_is_told_of_before_anybody_relies_on_it() -> None:
    code = "import threading; e = threading.Event(); threading.Thread(target=e.wait).start()"
    async with Session() as session:
        await ok(session, code)
        with pytest.raises(CheckpointError, match=r"Thread-1.*still runs"):
            await session.checkpoint("a")
        outcome = await session.run("%checkpoint")
        assert "There can be no checkpoint now" in outcome.stderr
        await ok(session, "e.set()")


async def test_not_while_a_cell_runs() -> None:
    async with Session() as session:
        await session.checkpoint("a")
        running = session.execute("import time\nprint('in')\ntime.sleep(60)")
        await anext(running)
        with pytest.raises(SessionError, match="while a cell runs"):
            await session.checkpoint("b")
        with pytest.raises(SessionError, match="while a cell runs"):
            await session.rollback("a")
        await session.interrupt()
        async for _ in running:
            pass
        with pytest.raises(CheckpointError, match="there is no checkpoint 'b'; there are 'a'"):
            await session.rollback("b")


async def test_a_budget_thins_the_oldest() -> None:
    config = SessionConfig(checkpoint_memory=1)
    async with Session(config=config) as session:
        gone: list[str] = []
        session.checkpoints.on_thinned = lambda one: gone.append(one.name)
        pids = [(await session.checkpoint(name)).pid for name in "abc"]
        assert gone == ["a", "b"]
        assert [one.name for one in session.checkpoints] == ["c"]
        assert is_there(pids[2])


async def test_shares_of_memory_are_measured_only_where_they_decide(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    measured: list[int] = []

    def measure(pid: int) -> int:
        measured.append(pid)
        return 1

    monkeypatch.setattr(checkpoints, "proportional", measure)
    async with Session(config=SessionConfig(checkpoint_memory=1 << 40)) as session:
        pids = [(await session.checkpoint(name)).pid for name in "ab"]
        assert measured == []
        session.checkpoints.budget = 1 << 20  # more than those shares, less than is resident
        pids.append((await session.checkpoint("c")).pid)
        assert measured == pids
        assert [one.name for one in session.checkpoints] == ["a", "b", "c"]


async def test_nothing_is_left_behind() -> None:
    async with Session() as session:
        pids = [(await session.checkpoint(name)).pid for name in "ab"]
        await session.rollback("a")
        assert session.pid is not None
        pids.append(session.pid)
    for pid in pids:
        try:
            fd = os.pidfd_open(pid)
        except ProcessLookupError:
            continue
        poll = select.poll()
        poll.register(fd, select.POLLIN)
        assert poll.poll(10_000), f"process {pid} is still there"
        os.close(fd)


async def test_a_checkpoint_that_was_killed_is_none() -> None:
    async with Session() as session:
        checkpoint = await session.checkpoint("a")
        os.kill(checkpoint.pid, signal.SIGKILL)
        with pytest.raises(CheckpointError):
            await session.rollback("a")
        assert await value(session, "1 + 1") == "2"


async def test_an_interrupt_reaches_a_restored_worker() -> None:
    async with Session() as session:
        await session.checkpoint("a")
        await session.rollback("a")
        running = session.execute("print('in')\nwhile True: pass")
        await anext(running)
        await session.interrupt()
        *_, result = [message async for message in running]
        assert getattr(result, "ename", "") == "KeyboardInterrupt"


async def test_after_going_back_a_crash_goes_there_and_not_to_what_was_left() -> None:
    async with Session() as session:
        await ok(session, "x = 1\n%autocheckpoint on")
        await session.checkpoint("a")
        await ok(session, "import time; x = 2; time.sleep(0.5)")
        left = session.checkpoints.automatic
        assert left is not None
        await session.rollback("a")
        assert session.checkpoints.automatic is session.checkpoints.find("a")
        assert left not in list(session.checkpoints)
        with pytest.raises(WorkerDied):
            await session.run("import os; os._exit(7)")
        await session.rollback()
        assert await value(session, "x") == "1"


async def test_what_the_front_end_runs_for_itself_is_no_cell_in_the_list() -> None:
    async with Session() as session:
        await ok(session, "x = 1")
        await session.run(ExecuteMessage("y = 1", silent=True))
        assert (await session.checkpoint("a")).cell == "x = 1"


async def test_a_crash_in_a_series_of_data_frames_costs_its_own_step() -> None:
    pytest.importorskip("pandas")
    cells = [
        "import pandas as pd, numpy as np; rng = np.random.default_rng(1)",
        "df = pd.DataFrame({'k': rng.integers(0, 9, 200_000), 'x': rng.random(200_000)})",
        *(
            f"df['y{n}'] = df['x'] * {n}; t = df.groupby('k').sum() + rng.random()"
            for n in range(6)
        ),
    ]
    digest = "int(pd.util.hash_pandas_object(df).sum()), int(pd.util.hash_pandas_object(t).sum())"

    async def final(crash: int) -> str:
        async with Session() as session:
            taken = asyncio.Event()
            session.checkpoints.on_taken = lambda checkpoint: taken.set()
            await ok(session, "%autocheckpoint on")
            for number, cell in enumerate(cells):
                if number == crash:
                    with pytest.raises(WorkerDied):
                        await session.run(f"{cell}\n{KILL}")
                    await session.rollback()
                count = (await ok(session, cell)).execution_count
                # At once, or in a moment where the cell was a cheap one.
                while (kept := session.checkpoints.automatic) is None or (
                    kept.execution_count < count
                ):
                    taken.clear()
                    await taken.wait()
            return await value(session, digest)

    assert await final(crash=-1) == await final(crash=6)
