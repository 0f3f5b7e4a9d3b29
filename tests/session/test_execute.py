"""Cells through a session: their order, their output, and readers who leave or are slow."""

from __future__ import annotations

import asyncio
import tracemalloc
from pathlib import Path

import pytest

from pyrepl_kernel.errors import (
    ExecutionTimeout,
    FrameTooLarge,
    SessionClosed,
    SessionError,
    WorkerDied,
)
from pyrepl_kernel.protocol.messages import (
    ExecuteMessage,
    HeartbeatMessage,
    Message,
    OutputMessage,
    ResultMessage,
)
from pyrepl_kernel.session.session import Session, SessionConfig
from pyrepl_kernel.session.states import SessionState
from tests.session.support import BOUND, follow, result_of, text_of, until_output

pytestmark = [
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.usefixtures("no_process_left"),
]

S = SessionState


async def collect(session: Session, code: str) -> list[Message]:
    """All messages of a cell."""
    return [message async for message in session.execute(code)]


# ---------------------------------------------------------------------- order


async def test_concurrent_cells_run_in_order_of_arrival(session: Session) -> None:
    await session.run("seen = []")
    tasks = [asyncio.create_task(session.run(f"seen.append({n})")) for n in range(20)]
    await asyncio.gather(*tasks)
    assert (await session.run("print(*seen)")).stdout.split() == [str(n) for n in range(20)]


async def test_each_cell_gets_its_own_messages(session: Session) -> None:
    codes = [f"print('{n}' * 10)\nimport sys; print({n}, file=sys.stderr)\n{n}" for n in range(10)]
    outcomes = await asyncio.gather(*map(session.run, codes))
    for number, outcome in enumerate(outcomes):
        assert outcome.stdout == f"{number}" * 10 + "\n"
        assert outcome.stderr == f"{number}\n"
        assert outcome.result == {"text/plain": f"{number}"}


async def test_the_messages_of_a_cell(session: Session) -> None:
    message = ExecuteMessage("print('a')\n'b'")
    output, value, result = [answer async for answer in session.execute(message)]
    assert isinstance(output, OutputMessage)
    assert (output.data, output.stream, output.execution_id) == ("a\n", "stdout", message.id)
    assert value.to_map()["kind"] == "result"
    assert isinstance(result, ResultMessage)
    assert (result.status, result.execution_id) == ("ok", message.id)


async def test_the_state_while_a_cell_runs(session: Session) -> None:
    cell = follow(session, "print('at it'); input()")
    assert session.state is S.BUSY
    assert session.is_executing
    result = await cell.result()
    assert result.status == "error"
    assert session.info.state is S.IDLE
    assert not session.is_executing


async def test_a_cell_that_fails_does_not_stop_those_after_it(session: Session) -> None:
    first, second = await asyncio.gather(session.run("1 / 0"), session.run("print('on')"))
    assert first.status == "error"
    assert first.error is not None
    assert first.error.ename == "ZeroDivisionError"
    assert second.stdout == "on\n"


async def test_a_cell_that_cannot_be_sent_fails_alone(session: Session) -> None:
    bad = ExecuteMessage("1", user_expressions={"a": object()})
    outcomes = await asyncio.gather(
        session.run("a = 1"), session.run(bad), session.run("print(a)"), return_exceptions=True
    )
    assert isinstance(outcomes[1], TypeError)
    assert not isinstance(outcomes[2], BaseException)
    assert outcomes[2].stdout == "1\n"


async def test_a_cell_that_is_too_large_fails_alone() -> None:
    async with Session(config=SessionConfig(max_frame_size=10_000)) as session:
        with pytest.raises(FrameTooLarge):
            await session.run("#" * 10_000)
        assert session.state is S.IDLE
        assert (await session.run("print(1)")).stdout == "1\n"


async def test_output_larger_than_a_frame_comes_in_pieces() -> None:
    async with Session(config=SessionConfig(max_frame_size=100_000)) as session:
        outcome = await session.run("print('x' * 500_000); print('é' * 500_000)")
        assert outcome.stdout == "x" * 500_000 + "\n" + "é" * 500_000 + "\n"


async def test_a_display_larger_than_a_frame_is_an_error_of_the_cell() -> None:
    async with Session(config=SessionConfig(max_frame_size=100_000)) as session:
        outcome = await session.run("display({'text/plain': 'x' * 500_000}, raw=True)")
        assert outcome.error is not None
        assert outcome.error.ename == "FrameTooLarge"
        assert (await session.run("print(1)")).stdout == "1\n"


# --------------------------------------------------------------------- output


@pytest.mark.parametrize(
    "code",
    [
        "print('text')",
        "import os; os.system('echo text')",
        "import subprocess; subprocess.run(['echo', 'text'])",
        "!echo text",
        "import os; os.write(1, b'text\\n')",
        "import ctypes; ctypes.CDLL(None).printf(b'text\\n')",
        "import sys; sys.__stdout__.write('text\\n')",
        "import sys; sys.stdout.buffer.write(b'text\\n')",
        "import threading; t = threading.Thread(target=print, args=['text']); t.start(); t.join()",
    ],
)
async def test_output_comes_before_the_result(session: Session, code: str) -> None:
    for _ in range(10):
        messages = await collect(session, code)
        assert text_of(messages).replace("\r\n", "\n") == "text\n"  # commands have a terminal
        assert result_of(messages).status == "ok"


@pytest.mark.parametrize("descriptor", [1, 2])
async def test_much_output_of_c_without_a_newline(session: Session, descriptor: int) -> None:
    messages = await collect(session, f"import os; os.write({descriptor}, b'x' * 300_000)")
    assert text_of(messages, ["stdout", "stderr"][descriptor - 1]) == "x" * 300_000


async def test_a_character_in_two_pieces(session: Session) -> None:
    code = """
        import os, time
        for byte in 'é€😀'.encode():
            os.write(1, bytes([byte]))
    """
    assert (await session.run(code)).stdout == "é€😀"


async def test_bytes_that_are_no_text(session: Session) -> None:
    assert (await session.run("os.write(1, b'a\\xff\\xfeb')")).stdout == "a��b"


async def test_output_of_many_threads(session: Session) -> None:
    code = """
        import threading
        def talk(n):
            for i in range(200):
                print(f"{n}-{i}\\n", end="")
        threads = [threading.Thread(target=talk, args=[n]) for n in range(8)]
        for t in threads: t.start()
        for t in threads: t.join()
    """
    lines = (await session.run(code)).stdout.splitlines()
    assert len(lines) == 8 * 200
    for number in range(8):
        own = [line for line in lines if line.startswith(f"{number}-")]
        assert own == [f"{number}-{i}" for i in range(200)]


async def test_output_comes_while_the_cell_runs(session: Session) -> None:
    cell = follow(session, "print('now')\nimport time; time.sleep(60)")
    await cell.printed("now")
    assert not cell.end.done()
    await session.interrupt()
    assert (await cell.result()).ename == "KeyboardInterrupt"


async def test_output_after_the_cell_is_background(session: Session) -> None:
    heard: asyncio.Queue[Message] = asyncio.Queue()
    session.on_background = heard.put_nowait
    try:
        code = """
            import threading
            go = threading.Event()
            def late():
                go.wait(30)
                print('late')
            thread = threading.Thread(target=late)
            thread.start()
        """
        assert (await session.run(code)).stdout == ""
        # The worker is between cells when the thread goes on.
        await session.run("threading.Timer(0.01, go.set).start()")
        message = await asyncio.wait_for(heard.get(), BOUND)
        await session.run("thread.join()")
    finally:
        session.on_background = None
    assert isinstance(message, OutputMessage)
    assert message.data.startswith("late")


# ------------------------------------------------------- readers who leave


async def test_leaving_early_interrupts_the_cell(session: Session) -> None:
    cell = session.execute("print('begun')\nimport time; time.sleep(60)\nprint('never')")
    await until_output(cell, "begun")
    await cell.aclose()
    outcome = await asyncio.wait_for(session.run("print('usable')"), BOUND)
    assert outcome.stdout == "usable\n"


async def test_breaking_out_of_the_loop_interrupts_the_cell(session: Session) -> None:
    async for message in session.execute("print('begun')\nimport time; time.sleep(60)"):
        assert isinstance(message, OutputMessage)
        break
    assert (await asyncio.wait_for(session.run("print('usable')"), BOUND)).stdout == "usable\n"


async def test_cancelling_a_run_interrupts_the_cell(session: Session) -> None:
    task = asyncio.create_task(session.run("import time; time.sleep(60)"))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (await asyncio.wait_for(session.run("print('usable')"), BOUND)).stdout == "usable\n"


async def test_a_cell_abandoned_in_the_queue_never_begins(session: Session) -> None:
    first = follow(session, "ran = []\nprint('first')\nimport time; time.sleep(60)")
    waiting = asyncio.create_task(session.run("ran.append('abandoned')"))
    last = asyncio.create_task(session.run("ran.append('last')"))
    await first.printed("first")
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    await session.interrupt()
    await last
    assert (await session.run("print(ran)")).stdout == "['last']\n"


async def test_leaving_after_the_end_interrupts_nothing(session: Session) -> None:
    cell = session.execute("print('done')")
    messages = [message async for message in cell]
    assert result_of(messages).status == "ok"
    await cell.aclose()
    assert (await session.run("print('on')")).stdout == "on\n"


STUBBORN = """
    import time
    print('begun')
    while True:
        try:
            time.sleep(60)
        except KeyboardInterrupt:
            pass
"""


async def test_a_cell_that_ignores_being_abandoned_is_killed() -> None:
    session = Session(config=SessionConfig(abandon_grace=0.2))
    await session.start()
    cell = session.execute(STUBBORN)
    await until_output(cell, "begun")
    waiting = asyncio.create_task(session.run("print('never')"))
    await asyncio.sleep(0)
    await cell.aclose()
    with pytest.raises(WorkerDied, match="ignored its interrupt"):
        await asyncio.wait_for(waiting, BOUND)
    assert session.state is S.TERMINATED
    await session.shutdown()


async def test_the_grace_of_one_cell_does_not_end_the_next() -> None:
    async with Session(config=SessionConfig(abandon_grace=2.0)) as session:
        cell = session.execute("print('begun')\nimport time; time.sleep(60)")
        await until_output(cell, "begun")
        await cell.aclose()
        outcome = await session.run("import time; time.sleep(2.2); print('alive')")
        assert outcome.stdout == "alive\n"


# -------------------------------------------------------------------- timeouts


async def test_a_cell_that_takes_too_long(session: Session) -> None:
    with pytest.raises(ExecutionTimeout, match=r"the cell ran longer than 0\.1 s") as info:
        await session.run("import time; time.sleep(60)", timeout=0.1)
    assert isinstance(info.value, TimeoutError)
    assert isinstance(info.value, SessionError)
    assert (await asyncio.wait_for(session.run("print('usable')"), BOUND)).stdout == "usable\n"


async def test_what_a_cell_said_before_its_timeout(session: Session) -> None:
    seen = []
    with pytest.raises(ExecutionTimeout):
        async for message in session.execute("print('a')\nimport time; time.sleep(60)", 1.0):
            seen.append(message)
    assert text_of(seen) == "a\n"


async def test_a_cell_that_prints_for_ever_has_a_timeout_too(session: Session) -> None:
    """Even if its reader is so slow that there is always more to read."""

    async def read() -> None:
        async for _ in session.execute("while True: print('x' * 1000, flush=True)", 0.2):
            await asyncio.sleep(0.0001)

    with pytest.raises(ExecutionTimeout):
        await asyncio.wait_for(read(), BOUND)
    assert (await asyncio.wait_for(session.run("print('usable')"), BOUND)).stdout == "usable\n"


async def test_a_cell_within_its_timeout(session: Session) -> None:
    assert (await session.run("print(1)", timeout=BOUND)).stdout == "1\n"


async def test_a_cell_that_ignores_its_timeout_is_killed() -> None:
    session = Session(config=SessionConfig(abandon_grace=0.2))
    await session.start()
    with pytest.raises(ExecutionTimeout):
        await session.run(STUBBORN, timeout=0.3)
    with pytest.raises(WorkerDied):
        await asyncio.wait_for(session.run("1"), BOUND)
    await session.shutdown()


async def test_a_timeout_in_the_queue(session: Session) -> None:
    first = follow(session, "print('first')\nimport time; time.sleep(60)")
    await first.printed("first")
    with pytest.raises(ExecutionTimeout):
        await session.run("too_late = 1", timeout=0.05)
    await session.interrupt()
    await first.result()
    assert (await session.run("print('too_late' in dir())")).stdout == "False\n"


# --------------------------------------------------------------- slow readers


async def test_a_cell_waits_for_its_slow_reader(session: Session, tmp_path: Path) -> None:
    """300 MB go through a host that never holds more than a fraction of them."""
    progress = tmp_path / "progress"
    code = f"""
        import os
        with open({str(progress)!r}, "wb", buffering=0) as file:
            for n in range(300):
                print("x" * 1_000_000)
                file.write(b".")
    """
    cell = session.execute(code)
    tracemalloc.start()
    try:
        size = await _settled(progress, anext(aiter(cell)))
        assert size < 150
        total = 0
        async for message in cell:
            if isinstance(message, OutputMessage):
                total += len(message.data)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 120_000_000
    assert total > 298_000_000
    assert progress.stat().st_size == 300


async def _settled(progress: Path, first: object) -> int:
    """How far the cell has come when it has not got any further for a while."""
    assert isinstance(await first, OutputMessage)  # type: ignore[misc]
    size = -1
    while size != (size := progress.stat().st_size):
        await asyncio.sleep(0.2)
    return size


# ------------------------------------------------------------------- requests


async def test_ping(session: Session) -> None:
    assert await session.ping(BOUND)


async def test_ping_of_a_worker_that_is_busy(session: Session) -> None:
    cell = follow(session, "print('busy')\nimport time; time.sleep(60)")
    await cell.printed("busy")
    assert not await session.ping(0.05)
    await session.interrupt()
    await cell.result()
    assert await session.ping(BOUND)


async def test_a_request_gets_its_own_reply(session: Session) -> None:
    requests = [HeartbeatMessage(n) for n in range(10)]
    replies = await asyncio.gather(*map(session.request, requests))
    assert [reply.sequence for reply in replies] == list(range(10))


async def test_a_request_that_was_given_up_does_no_harm(session: Session) -> None:
    session.request(HeartbeatMessage()).cancel()
    assert await session.ping(BOUND)
    assert (await session.run("print(1)")).stdout == "1\n"


# ---------------------------------------------------------------------- reset


async def test_reset_brings_the_warmup_back() -> None:
    async with Session(warmup_code="warm = [1]\nimport math\ndef double(x): return 2 * x") as s:
        await s.run("cold = 1; warm = None; double = None; del math")
        await s.reset()
        assert s.state is S.READY
        outcome = await s.run("print(warm, double(2), math.pi > 3, 'cold' in globals())")
        assert outcome.stdout == "[1] 4 True False\n"
        assert outcome.execution_count == 1


async def test_reset_without_a_warmup(session: Session) -> None:
    await session.run("left = 1; 5")
    await session.reset()
    outcome = await session.run("print('left' in globals(), len(Out), len(In))")
    assert outcome.stdout == "False 0 2\n"
    assert (await session.run("get_ipython().user_ns is globals()")).result == {
        "text/plain": "True"
    }


async def test_reset_while_a_cell_runs(session: Session) -> None:
    cell = follow(session, "print('busy')\nimport time; time.sleep(60)")
    await cell.printed("busy")
    with pytest.raises(SessionError, match="cannot be reset while a cell runs"):
        await session.reset()
    await session.interrupt()
    await cell.result()


async def test_a_shutdown_in_the_middle_of_a_cell_lets_exit_handlers_run(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    session = Session()
    await session.start()
    mark = tmp_path / "mark"
    code = (
        f"import atexit, pathlib, time\natexit.register(pathlib.Path({str(mark)!r}).touch)\n"
        "print('in')\ntime.sleep(600)"
    )
    stream = session.execute(code)
    assert text_of([await anext(stream)]) == "in\n"
    await session.shutdown()
    with pytest.raises(SessionClosed):
        await anext(stream)
    assert mark.exists()
    assert not caplog.records
