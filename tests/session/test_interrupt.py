"""Interrupts: they end the cell that was meant, whatever it is at, and no other."""

from __future__ import annotations

import asyncio
import os
import random
import re
import signal
from contextlib import suppress

import pytest
import pytest_asyncio

from pyrepl_kernel.protocol.messages import CommMessage, ExecuteMessage, OutputMessage
from pyrepl_kernel.session.session import Session
from pyrepl_kernel.session.states import SessionState
from tests.conftest import SharedSession
from tests.session.support import BOUND, Following, follow, text_of, wait_gone

pytestmark = [
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.usefixtures("no_process_left"),
]


@pytest_asyncio.fixture(loop_scope="module", params=["", "import asyncio"])
async def worker(request: pytest.FixtureRequest, shared_session: SharedSession) -> Session:
    """A worker that waits for messages in ``recv``, or else in its asyncio loop."""
    return await shared_session.get(request.param)


async def usable(session: Session) -> None:
    """Fails unless the session runs cells as if nothing had been."""
    for number in range(3):
        outcome = await asyncio.wait_for(session.run(f"print({number})"), BOUND)
        assert outcome.stdout == f"{number}\n", outcome
        assert outcome.error is None


@pytest.mark.parametrize(
    "code",
    [
        "print('at it'); import time; time.sleep(60)",
        "print('at it')\nwhile True: pass",
        "print('at it'); import subprocess; subprocess.run(['sleep', '60'])",
        "print('at it'); import threading; threading.Event().wait()",
        "print('at it'); import socket; a, b = socket.socketpair(); a.recv(1)",
        "print('at it')\nfor _ in iter(int, 1): print('x' * 100)",
        "print('at it')\ntry: time.sleep(60)\nfinally: print('cleaned up')",
        "print('at it'); import asyncio; asyncio.run(asyncio.sleep(60))",
        "print('at it'); asyncio.new_event_loop().run_until_complete(asyncio.sleep(60))",
    ],
)
async def test_a_cell_is_interrupted(worker: Session, code: str) -> None:
    await worker.run("import asyncio, time" if "asyncio" in code else "import time")
    cell = follow(worker, code)
    await cell.printed("at it")
    await worker.interrupt()
    result = await cell.result()
    assert (result.status, result.ename) == ("error", "KeyboardInterrupt")
    assert worker.state is SessionState.IDLE
    await usable(worker)


@pytest.mark.parametrize(
    "code",
    [
        "import asyncio\nprint('at it'); await asyncio.sleep(60)",
        "import asyncio\nprint('at it'); await asyncio.gather(asyncio.sleep(60), asyncio.sleep(9))",
        "import asyncio\nprint('at it'); await asyncio.Event().wait()",
    ],
)
async def test_a_cell_that_awaits_is_interrupted(session: Session, code: str) -> None:
    cell = follow(session, code)
    await cell.printed("at it")
    await session.interrupt()
    result = await cell.result()
    assert result.status == "error"
    assert result.ename in {"KeyboardInterrupt", "CancelledError"}
    await usable(session)


async def test_a_cell_that_could_await_but_does_not(session: Session) -> None:
    cell = follow(session, "import asyncio\nawait asyncio.sleep(0)\nprint('at it')\nwhile 1: pass")
    await cell.printed("at it")
    await session.interrupt()
    assert (await cell.result()).ename == "KeyboardInterrupt"
    await usable(session)


async def test_a_task_of_the_user_survives_an_interrupt(session: Session) -> None:
    await session.run("""
        import asyncio
        beat = asyncio.Event()
        async def tick():
            while True:
                await asyncio.sleep(0.001)
                beat.set()
        task = asyncio.create_task(tick())
    """)
    cell = follow(session, "print('at it'); await asyncio.sleep(60)")
    await cell.printed("at it")
    await session.interrupt()
    await cell.result()
    outcome = await session.run("beat.clear(); await beat.wait(); print(task.done())")
    assert outcome.stdout == "False\n"
    await session.run("task.cancel()")


@pytest.mark.parametrize("code", ["input()", "import getpass; getpass.getpass()"])
async def test_input_is_interrupted(session: Session, code: str) -> None:
    cell = follow(session, ExecuteMessage(code, allow_stdin=True))
    await cell.asked()
    await session.interrupt()
    result = await cell.result()
    assert (result.ename, result.evalue) == ("KeyboardInterrupt", "Interrupted by user")
    await usable(session)


async def test_a_cell_may_catch_its_interrupt(session: Session) -> None:
    cell = follow(
        session,
        """
        import time
        try:
            print('at it')
            time.sleep(60)
        except KeyboardInterrupt:
            print('caught')
        """,
    )
    await cell.printed("at it")
    await session.interrupt()
    assert (await cell.result()).status == "ok"
    assert text_of(cell.messages).endswith("caught\n")
    await usable(session)


@pytest.mark.parametrize(
    "blocking",
    [
        "time.sleep(60)",
        "threading.Lock().acquire() and lock.acquire()",
        "os.read(os.pipe()[0], 1)",
        "asyncio.run(asyncio.sleep(60))",
    ],
)
async def test_a_signal_that_the_call_slept_through(session: Session, blocking: str) -> None:
    """Another thread gets the signal, so that the main thread's call goes on as if none had come.

    It is the same when the signal comes to the main thread, but between the interpreter's last look
    and the call's beginning.
    """
    await session.run("import asyncio, os, signal, threading, time")
    await session.run("lock = threading.Lock(); lock.acquire()")
    await session.run("threading.Thread(target=threading.Event().wait, daemon=True).start()")
    cell = follow(
        session,
        f"""
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
        hits = 0
        print('at it')
        try:
            {blocking}
        except KeyboardInterrupt:
            hits += 1
        try:
            time.sleep(0.5)
        except KeyboardInterrupt:
            hits += 1
        """,
    )
    await cell.printed("at it")
    await session.interrupt()
    assert (await cell.result()).status == "ok"
    outcome = await session.run("signal.pthread_sigmask(signal.SIG_UNBLOCK, [2]); print(hits)")
    assert outcome.stdout == "1\n"
    await usable(session)


async def test_an_interrupt_where_nothing_can_be_raised() -> None:
    # Of its own: garbage of another test's cells would speak on stderr too.
    async with Session() as session:
        cell = follow(
            session,
            """
            import time
            class Dropped:
                def __del__(self):
                    print('at it')
                    time.sleep(60)
            Dropped()
            time.sleep(60)
            """,
        )
        await cell.printed("at it")
        await session.interrupt()
        assert (await cell.result()).ename == "KeyboardInterrupt"
        assert text_of(cell.messages, "stderr") == ""
        await usable(session)


async def test_what_else_cannot_be_raised_is_still_told(session: Session) -> None:
    outcome = await session.run("""
        class Dropped:
            def __del__(self):
                raise ValueError('dropped')
        Dropped()
        pass
    """)
    assert "ValueError: dropped" in re.sub(r"\x1b\[[0-9;]*m", "", outcome.stderr)


async def test_an_interrupt_while_ipython_deals_with_another(session: Session) -> None:
    await session.run("""
        shell = get_ipython()
        def run_cell(*args, **options):
            del shell.run_cell
            try:
                raise KeyboardInterrupt
            finally:
                return result  # as IPython's own does when the second one comes
        shell.run_cell = run_cell
    """)
    assert (await session.run("1")).error is not None
    await usable(session)


@pytest.mark.parametrize(
    "leave",
    [
        "signal.signal(signal.SIGINT, lambda *args: print('mine'))",
        "signal.signal(signal.SIGINT, signal.SIG_IGN)",
        "signal.signal(signal.SIGINT, signal.default_int_handler)",
        "pdb.Pdb().do_continue('')",  # whose handler makes of an interrupt a breakpoint
        "ctypes.CDLL(None).signal(signal.SIGINT, 1)",  # as a C library's, which Python cannot see
    ],
)
async def test_a_handler_lasts_as_long_as_its_cell(worker: Session, leave: str) -> None:
    await worker.run(f"import ctypes, pdb, signal, time\n{leave}")
    assert worker.pid is not None
    os.kill(worker.pid, signal.SIGINT)
    cell = follow(worker, "print('at it'); time.sleep(60)")
    await cell.printed("at it")
    await worker.interrupt()
    assert (await cell.result()).ename == "KeyboardInterrupt"
    assert text_of(cell.messages) == "at it\n"
    await usable(worker)


async def test_a_loops_signal_handlers_are_called_though_input_waits(session: Session) -> None:
    await session.run("""
        import asyncio, signal
        called = asyncio.Event()
        asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, called.set)
    """)
    cell = follow(session, ExecuteMessage("input()", allow_stdin=True))
    await cell.asked()
    assert session.pid is not None
    os.kill(session.pid, signal.SIGUSR1)
    await session.input_response("")
    assert (await cell.result()).status == "ok"
    outcome = await session.run("await called.wait()")
    assert outcome.is_ok
    await session.run("asyncio.get_running_loop().remove_signal_handler(signal.SIGUSR1)")


@pytest.mark.parametrize("is_soon", [True, False])
async def test_a_comms_handler_is_interrupted(session: Session, is_soon: bool) -> None:
    await session.run("""
        import comm
        def handle(message):
            print('at it')
            while True: pass
        channel = comm.create_comm(target_name='t', comm_id='c')
        channel.on_msg(handle)
    """)
    for _ in range(20):
        served = Following(session, CommMessage("msg", "c"))
        if not is_soon:
            await served.printed("at it")
        await session.interrupt()
        assert (await served.result()).ename == "KeyboardInterrupt"
    await usable(session)


async def test_processes_of_the_cell_are_interrupted_too(session: Session) -> None:
    cell = follow(
        session,
        """
        import subprocess, sys
        code = "print('at it', flush=True); import time; time.sleep(60)"
        child = subprocess.Popen([sys.executable, '-c', code])
        print(child.pid)
        child.wait()
        """,
    )
    await cell.printed("at it")
    await session.interrupt()
    assert (await cell.result()).ename == "KeyboardInterrupt"
    pid = (await session.run("child.wait(30); print(child.pid)")).stdout
    assert await asyncio.to_thread(wait_gone, int(pid))


async def test_an_interrupt_without_a_cell_does_nothing(worker: Session) -> None:
    await worker.interrupt()
    assert not worker.send_interrupt()
    await usable(worker)


async def test_a_signal_between_two_cells_interrupts_neither(worker: Session) -> None:
    """The signal alone, as from somebody else's ``kill``."""
    assert worker.pid is not None
    for number in range(50):
        outcome = await worker.run(f"print({number})")
        os.kill(worker.pid, signal.SIGINT)
        assert outcome.stdout == f"{number}\n"
    await usable(worker)


async def test_a_late_interrupt_does_not_reach_the_next_cell(worker: Session) -> None:
    """The session believes that the first cell runs, while the worker is done with it."""
    generator = random.Random(7)
    outcomes = set()
    for _ in range(200):
        first = follow(worker, "a = 1")
        second = asyncio.create_task(worker.run("print('second')"))
        for _ in range(generator.randrange(6)):
            await asyncio.sleep(0)
        await worker.interrupt()
        outcomes.add((await first.result()).status)
        result = await asyncio.wait_for(second, BOUND)
        # The interrupt may have come when the session had begun the second one.
        if result.status == "ok":
            assert result.stdout == "second\n"
        await usable(worker)
    assert outcomes <= {"ok", "error"}


# What runs for ever without one long blocking call: when a signal comes between the interpreter's
# last look and the call's beginning, the call itself does not hear of it. That is Python's.
ENDLESS = [
    pytest.param("while True: pass", id="busy"),
    pytest.param("import asyncio\nwhile True: await asyncio.sleep(0.001)", id="awaits"),
    pytest.param("import asyncio\nawait asyncio.sleep(0)\nwhile True: pass", id="could await"),
]


@pytest.mark.parametrize("code", ENDLESS)
async def test_an_interrupt_right_after_the_submission(worker: Session, code: str) -> None:
    generator = random.Random(11)
    for _ in range(100):
        cell = follow(worker, code)
        for _ in range(generator.randrange(4)):
            await asyncio.sleep(0)
        await worker.interrupt()
        assert (await cell.result()).ename in {"KeyboardInterrupt", "CancelledError"}
    await usable(worker)


@pytest.mark.parametrize("code", ENDLESS)
async def test_an_interrupt_at_any_moment(worker: Session, code: str) -> None:
    """While it is sent, while it begins, while it runs: each time that cell, and only that."""
    generator = random.Random(13)
    for _ in range(50):
        cell = follow(worker, code)
        await asyncio.sleep(generator.random() * 0.003)
        await worker.interrupt()
        assert (await cell.result()).ename in {"KeyboardInterrupt", "CancelledError"}
        outcome = await asyncio.wait_for(worker.run("print('next')"), BOUND)
        assert outcome.stdout == "next\n"


async def test_many_signals_at_once_do_not_end_the_worker(worker: Session) -> None:
    assert worker.pid is not None
    for _ in range(8):
        cell = follow(worker, "print('at it')\nwhile True: pass")
        with suppress(ProcessLookupError):  # the result tells why
            while not cell.end.done():
                os.kill(worker.pid, signal.SIGINT)
                await worker.interrupt()
                await asyncio.sleep(0)
            for _ in range(5):
                os.kill(worker.pid, signal.SIGINT)
        await cell.result()
    # The last of them may still have come in the way of a cell that had just begun.
    await asyncio.wait_for(worker.run("1"), BOUND)
    await usable(worker)


async def test_output_is_whole_though_interrupted(worker: Session) -> None:
    """No half-sent frame, no line lost: what the cell has counted has arrived."""
    generator = random.Random(17)
    code = """
        count = 0
        try:
            while True:
                print("x" * 5000)
                count += 1
        except KeyboardInterrupt:
            pass
    """
    for _ in range(10):
        cell = follow(worker, code)
        await asyncio.sleep(generator.random() * 0.03)
        await worker.interrupt()
        await cell.result()
        outcome = await asyncio.wait_for(worker.run("print(count)"), BOUND)
        lines = sum(m.data.count("\n") for m in cell.messages if isinstance(m, OutputMessage))
        if outcome.error is None:
            assert lines - int(outcome.stdout) in (0, 1)  # interrupted between the two statements
        await worker.run("count = 0")


async def test_a_signal_handler_of_the_users(session: Session) -> None:
    """One that prints, at a high rate, while the cell prints too: nothing is lost or doubled."""
    outcome = await session.run("""
        import itertools, signal, sys
        numbers = itertools.count()
        tick = 0
        def handler(number, frame):
            global tick
            tick = next(numbers)
            sys.stderr.write(f"tick {tick}\\n")
            if tick % 3 == 0:
                sys.stderr.flush()
            signal.setitimer(signal.ITIMER_REAL, 0.0002)
        old = signal.signal(signal.SIGALRM, handler)
        signal.setitimer(signal.ITIMER_REAL, 0.0002)
        lines = 0
        while tick < 1000:
            lines += 1
            sys.stdout.write(f"{lines}\\n")
            sys.stderr.write("other\\n")
        signal.signal(signal.SIGALRM, signal.SIG_IGN)
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, old)
        count = next(numbers)
    """)
    assert outcome.error is None
    lines = outcome.stdout.splitlines()
    assert lines == [str(n + 1) for n in range(len(lines))]
    others = outcome.stderr.splitlines()
    assert others.count("other") == len(lines)
    ticks = [line for line in others if line != "other"]
    assert ticks == [f"tick {n}" for n in range(len(ticks))]
    assert (await session.run("count")).result == {"text/plain": str(len(ticks))}


async def test_an_interrupt_that_left_ipython_without_a_result_is_told(session: Session) -> None:
    # A second interrupt, while IPython says what the first has ended, does that now and then.
    await session.run("""
        import os, signal
        shell = get_ipython()
        def stumble(*arguments):
            del shell._run_cell
            try:
                os.kill(os.getpid(), signal.SIGINT)
                result = [None for _ in iter(int, 1)]
            except KeyboardInterrupt:
                pass
            return result
        shell._run_cell = stumble
    """)
    assert (await follow(session, ExecuteMessage("pass")).result()).ename == "KeyboardInterrupt"
    await usable(session)
