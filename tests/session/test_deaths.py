"""A worker that dies leaves behind why."""

from __future__ import annotations

import os
import signal
import sys
import textwrap

import pytest

from pyrepl_kernel.errors import DeathCause, WorkerDied
from pyrepl_kernel.session.session import Session
from pyrepl_kernel.session.spawn import LAST_FD, WORKER_FDS, Spawned, make_ends

pytestmark = pytest.mark.usefixtures("no_process_left")

CRASH = "import ctypes\ndef crash():\n    ctypes.string_at(0)\ncrash()"


async def death_of(session: Session, code: str) -> WorkerDied:
    """Run a cell that ends its worker."""
    with pytest.raises(WorkerDied) as caught:
        await session.run(code)
    return caught.value


# ------------------------------------------------------------------ told apart

KILL = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"
OVERFLOW = """import ctypes, sys
sys.setrecursionlimit(10**7)
@ctypes.CFUNCTYPE(None)
def deeper():
    deeper()
deeper()
"""


@pytest.mark.parametrize(
    ("code", "cause", "end", "line"),
    [
        (CRASH, DeathCause.CRASH, signal.SIGSEGV, "In [1], line 3, in crash"),
        ("import os\nos.abort()", DeathCause.CRASH, signal.SIGABRT, "In [1], line 2, in <module>"),
        pytest.param(
            OVERFLOW,
            DeathCause.STACK_OVERFLOW,
            signal.SIGSEGV,
            "In [1], line 5, in deeper",
            marks=pytest.mark.skipif(
                sys.version_info >= (3, 12),
                reason="newer Pythons raise RecursionError before C's stack ends; run it on 3.11",
            ),
        ),
        (KILL, DeathCause.SIGNAL, signal.SIGKILL, None),
        ("import os; os.kill(os.getpid(), 15)", DeathCause.SIGNAL, signal.SIGTERM, None),
        ("import os; os._exit(3)", DeathCause.EXIT, 3, None),
        ("import os; os._exit(0)", DeathCause.EXIT, 0, None),
    ],
    ids=["segfault", "abort", "stack overflow", "killed", "terminated", "exit 3", "exit 0"],
)
async def test_causes_are_told_apart(
    code: str, cause: DeathCause, end: int, line: str | None
) -> None:
    async with Session() as session:
        death = await death_of(session, code)
    assert death.cause is cause
    if cause is DeathCause.EXIT:
        assert (death.exit_code, death.signal) == (end, None)
    else:
        assert (death.exit_code, death.signal) == (None, end)
        assert signal.Signals(end).name in death.reason
    assert line is None or line in [str(frame) for frame in death.frames]
    assert len(str(death).splitlines()) < 40, "a recursion's frames are not all told"
    assert death.peak_memory is not None
    assert 10 << 20 < death.peak_memory < 10 << 30


async def test_the_end_of_a_thread_is_no_death() -> None:
    code = """
        import sys, threading
        thread = threading.Thread(target=sys.exit, args=(3,))
        thread.start()
        thread.join()
        sys.stdout.write("goes on")
    """
    async with Session() as session:
        assert (await session.run(code)).stdout == "goes on"


async def test_the_children_that_ended_with_it_are_counted() -> None:
    code = """
        import os, signal, time
        for _ in range(5):
            if os.fork() == 0:
                time.sleep(600)
        os.kill(os.getpid(), signal.SIGKILL)
    """
    async with Session() as session:
        death = await death_of(session, code)
    assert death.children == 5


async def test_the_peak_of_memory_is_known_after_it_was_given_back() -> None:
    async with Session() as session:
        await session.run("block = bytearray(300 << 20)")
        await session.run("del block")
        death = await death_of(session, KILL)
    assert death.peak_memory is not None
    assert death.peak_memory > 300 << 20


async def test_last_words_are_those_of_the_cell() -> None:
    async with Session() as session:
        await session.run("import os; os.write(2, b'long ago')")
        death = await death_of(session, f"import os; os.write(2, b'just now')\n{KILL}")
    assert death.stderr == "just now"


async def test_a_crash_is_found_in_the_cell_that_defined_the_function() -> None:
    async with Session(
        warmup_code="import ctypes\ndef inner():\n    ctypes.string_at(0)"
    ) as session:
        await session.run("1")
        await session.run("def outer():\n    inner()")
        death = await death_of(session, "# a comment\nouter()")
    assert [str(frame) for frame in death.frames][:3] == [
        "In [3], line 2, in <module>",
        "In [2], line 2, in outer",
        "the warmup, line 3, in inner",
    ]
    assert [frame.source for frame in death.frames][:3] == [
        "outer()",
        "inner()",
        "ctypes.string_at(0)",
    ]
    assert death.frames[-1].file.endswith("ctypes/__init__.py")


async def test_a_crash_in_a_thread_shows_that_threads_stack() -> None:
    code = """
        import ctypes, threading
        def work():
            ctypes.string_at(0)
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
    """
    async with Session() as session:
        death = await death_of(session, textwrap.dedent(code).strip())
    assert "In [1], line 3, in work" in [str(frame) for frame in death.frames]
    assert "in <module>" not in [str(frame) for frame in death.frames]
    assert "run_cell" in death.stack  # the main thread's is in the text


async def test_a_worker_that_closes_its_descriptors() -> None:
    async with Session() as session:
        death = await death_of(session, "import os, time; os.close(3); time.sleep(600)")
    assert death.cause is DeathCause.PROTOCOL
    assert "did the cell close file descriptors" in death.reason


async def test_a_worker_that_dies_in_the_middle_of_a_message() -> None:
    code = """
        import os, signal, threading
        print("begun", flush=True)
        threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGKILL)).start()
        while True:
            print("x" * 1_000_000)
    """
    async with Session() as session:
        death = await death_of(session, code)
    assert (death.cause, death.signal) == (DeathCause.SIGNAL, signal.SIGKILL)


# ---------------------------------------------------- where the stack comes from


def test_the_table_of_descriptors_is_what_a_worker_is_spawned_with() -> None:
    numbers = [number for _, number, _ in WORKER_FDS]
    assert sorted(numbers) == list(range(1, LAST_FD + 1))
    ours, theirs = make_ends()
    try:
        spawned = Spawned(1, *ours)
        for (name, _, _), fd in zip(WORKER_FDS, ours, strict=True):
            assert getattr(spawned, name) == fd
        assert len(theirs) == len(WORKER_FDS)
        assert not any(os.get_inheritable(fd) for fd in ours + theirs)
    finally:
        for fd in ours + theirs:
            os.close(fd)


async def test_the_python_stack_of_a_crash_is_not_among_the_last_words() -> None:
    async with Session() as session:
        death = await death_of(session, f"import os\nos.write(2, b'last words')\n{CRASH}")
    assert death.signal == signal.SIGSEGV
    assert "Segmentation fault" in death.stack
    assert "in crash" in death.stack
    assert death.stderr == "last words"


async def test_the_users_faulthandler_reaches_the_notebook() -> None:
    async with Session() as session:
        death = await death_of(session, f"import faulthandler; faulthandler.enable()\n{CRASH}")
    assert "in crash" in death.stderr
    assert death.stderr.endswith(death.stack)
    assert str(death.frames[-2]) == "In [1], line 4, in crash"


async def test_the_crash_of_a_forked_child_is_not_the_workers() -> None:
    code = """
        import ctypes, os, signal
        if os.fork() == 0:
            ctypes.string_at(0)
        os.wait()
    """
    async with Session() as session:
        outcome = await session.run(code)
        assert "Segmentation fault" in outcome.stderr
        death = await death_of(session, "os.kill(os.getpid(), signal.SIGKILL)")
    assert death.signal == signal.SIGKILL
    assert death.stack == ""


async def test_a_program_that_the_user_starts_has_none_of_our_descriptors() -> None:
    code = """
        import os, subprocess
        subprocess.run(["ls", "/proc/self/fd"], close_fds=False)
    """
    async with Session() as session:
        outcome = await session.run(code)
    # 3 is the directory that ls reads.
    assert outcome.stdout.split() == ["0", "1", "2", "3"]
