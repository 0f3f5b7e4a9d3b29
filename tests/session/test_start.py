"""Sessions come up with real workers, or fail to, and then leave nothing behind."""

from __future__ import annotations

import asyncio
import logging
import os
import re
import sys
import threading
import time
from pathlib import Path

import pytest

from pyrepl_kernel.errors import SessionClosed, SessionError, StartError, WarmupError, WorkerDied
from pyrepl_kernel.protocol.messages import (
    ExecuteMessage,
    HeartbeatMessage,
    MessageType,
    OutputMessage,
)
from pyrepl_kernel.session.session import Session, SessionConfig
from pyrepl_kernel.session.states import SessionState
from tests.session.support import BOUND, is_running, result_of, text_of

pytestmark = pytest.mark.usefixtures("no_process_left")

S = SessionState


def script(path: Path, text: str) -> str:
    """An "interpreter" that is a shell script."""
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path)


async def until(session: Session, state: SessionState) -> None:
    """Wait until a session is in a state."""
    async with asyncio.timeout(BOUND):
        while session.state is not state:
            await asyncio.sleep(0.001)


# ------------------------------------------------------------------ coming up


async def test_the_program_of_the_specification() -> None:
    session = Session(warmup_code="test_var = 123")
    await asyncio.wait_for(session.start(), BOUND)
    outputs = []
    message = ExecuteMessage(
        type="execute",
        id="test",
        timestamp=time.time(),
        code="print(test_var)",
        capture_source=False,
    )
    async for answer in session.execute(message):
        if answer.type == MessageType.OUTPUT:
            assert isinstance(answer, OutputMessage)
            outputs.append(answer.data)
    await session.shutdown()
    assert "123" in "".join(outputs)


async def test_states_of_a_life(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "pyrepl_kernel.session")
    session = Session("the-name")
    assert session.state is S.CREATING
    assert not session.is_alive
    await session.start()
    assert session.is_alive
    await session.run("1")
    assert session.state is S.IDLE
    await session.shutdown()
    assert session.state is S.TERMINATED
    assert not session.is_alive
    changes = [record.getMessage() for record in caplog.records if " -> " in record.getMessage()]
    assert changes == [
        "session the-name: creating -> warming",
        "session the-name: warming -> ready",
        "session the-name: ready -> busy",
        "session the-name: busy -> idle",
        "session the-name: idle -> shutting_down",
        "session the-name: shutting_down -> terminated",
    ]
    assert {record.levelno for record in caplog.records} == {logging.DEBUG}


async def test_what_a_session_says_of_itself() -> None:
    before = time.time()
    session = Session("s")
    assert repr(session) == "<Session s creating>"
    async with session:
        await session.run("1")
        info = session.info
        assert (info.session_id, info.state, info.executions) == ("s", S.IDLE, 1)
        assert info.pid == session.pid
        assert info.started_at is not None
        assert before <= info.created_at <= info.started_at <= time.time()
        assert session.capabilities["pid"] == session.pid
        assert session.capabilities["python"] == ".".join(map(str, sys.version_info[:3]))
        assert repr(session) == f"<Session s idle pid={session.pid}>"
    assert Session().session_id != Session().session_id


async def test_the_worker_is_a_process_group_of_its_own() -> None:
    async with Session() as session:
        assert session.pid is not None
        assert os.getpgid(session.pid) == session.pid != os.getpgrp()


async def test_the_host_side_has_no_thread() -> None:
    before = threading.enumerate()
    async with Session(warmup_code="a = 1") as session:
        assert (await session.run("print(a)")).stdout == "1\n"
        assert await session.ping(BOUND)
        assert threading.enumerate() == before


async def test_no_descriptor_is_left() -> None:
    async def cycle() -> None:
        async with Session() as session:
            await session.run("print(1)")

    await cycle()
    before = os.listdir("/proc/self/fd")
    for _ in range(3):
        await cycle()
    assert len(os.listdir("/proc/self/fd")) == len(before)


async def test_directory_and_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INHERITED", "from the host")
    monkeypatch.setenv("REPLACED", "from the host")
    (tmp_path / "neighbour.py").write_text("value = 'found'")
    code = """
        import os, neighbour
        print(os.getcwd())
        print(os.environ["INHERITED"], "-", os.environ["REPLACED"], "-", os.environ["ADDED"])
        print(neighbour.value)
    """
    env = {"REPLACED": "given", "ADDED": "new"}
    async with Session(cwd=tmp_path, env=env) as session:
        outcome = await session.run(code)
    assert outcome.stdout.splitlines() == [
        str(tmp_path),
        "from the host - given - new",
        "found",
    ]


async def test_a_module_of_the_working_directory_does_not_break_the_start(tmp_path: Path) -> None:
    for name in ("logging", "IPython", "socket", "pyrepl_kernel"):
        (tmp_path / f"{name}.py").write_text("raise ImportError('the wrong one')")
    async with Session(cwd=tmp_path) as session:
        assert (await session.run("import os; print(os.getcwd())")).stdout == f"{tmp_path}\n"


async def test_a_session_starts_once() -> None:
    async with Session() as session:
        with pytest.raises(SessionError, match="it was started before"):
            await session.start()
        assert (await session.run("1")).is_ok


# -------------------------------------------------------------------- warmup


async def test_an_execution_from_outside_waits_for_the_warmup(tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    session = Session(warmup_code=f"warm = open({str(gate)!r}).read()")
    starting = asyncio.create_task(session.start())
    await until(session, S.WARMING)
    running = [asyncio.create_task(session.run(f"print(warm, {n})")) for n in range(3)]
    await asyncio.sleep(0)
    assert session.is_executing
    assert not starting.done()
    await asyncio.to_thread(gate.write_text, "hot")
    await starting
    outcomes = [await task for task in running]
    await session.shutdown()
    assert [outcome.stdout for outcome in outcomes] == ["hot 0\n", "hot 1\n", "hot 2\n"]
    assert session.executions == 3


async def test_an_execution_may_be_queued_before_the_worker_is_up() -> None:
    session = Session(warmup_code="warm = 'hot'")
    starting = asyncio.create_task(session.start())
    await asyncio.sleep(0)
    assert session.state is S.CREATING
    outcome = await session.run("print(warm)")
    await starting
    await session.shutdown()
    assert outcome.stdout == "hot\n"


async def test_the_warmup_leaves_no_trace_but_its_names() -> None:
    async with Session(warmup_code="print('loud'); a = 1; a") as session:
        assert session.state is S.READY
        assert session.executions == 0
        messages = [message async for message in session.execute("print(a)\nIn, Out")]
    assert text_of(messages) == "1\n"
    assert result_of(messages).execution_count == 1


async def test_a_warmup_that_awaits() -> None:
    async with Session(warmup_code="import asyncio\nawait asyncio.sleep(0)\na = 5") as session:
        assert (await session.run("print(a)")).stdout == "5\n"


def plain(lines: list[str]) -> str:
    """A traceback without its colours."""
    return re.sub(r"\x1b\[[0-9;]*m", "", "\n".join(lines))


@pytest.mark.parametrize(
    ("code", "ename", "evalue", "shown"),
    [
        (
            "def divide():\n    return 1 / 0\ndivide()",
            "ZeroDivisionError",
            "division by zero",
            ["return 1 / 0", "divide()", "ZeroDivisionError: division by zero"],
        ),
        ("a = (", "_IncompleteInputError|SyntaxError", "", ["a = ("]),
        ("import no_such_module", "ModuleNotFoundError", "no_such_module", ["No module named"]),
        ("raise SystemExit(4)", "SystemExit", "4", ["SystemExit"]),
        ("await missing()", "NameError", "missing", ["await missing()"]),
    ],
)
async def test_a_warmup_that_raises(code: str, ename: str, evalue: str, shown: list[str]) -> None:
    session = Session("cold", warmup_code=code)
    with pytest.raises(WarmupError) as info:
        await session.start()
    error = info.value
    assert re.fullmatch(ename, error.ename)
    assert evalue in error.evalue
    for text in shown:
        assert text in plain(error.traceback)
        assert text in plain([str(error)])
    assert str(error).startswith(f"session cold: the warmup code raised {error.ename}")
    assert session.state is S.TERMINATED
    assert session.pid is not None
    assert not is_running(session.pid)


async def test_who_waits_for_a_warmup_that_raises_is_told() -> None:
    session = Session(warmup_code="1 / 0")
    starting = asyncio.create_task(session.start())
    await asyncio.sleep(0)
    with pytest.raises(SessionError):
        await asyncio.wait_for(session.run("1"), BOUND)
    with pytest.raises(WarmupError):
        await starting


async def test_a_failed_warmup_may_be_kept() -> None:
    config = SessionConfig(keep_failed_warmup=True)
    async with Session(warmup_code="a = 1\n1 / 0", config=config) as session:
        assert session.state is S.READY
        assert session.warmup_error is not None
        assert session.warmup_error.ename == "ZeroDivisionError"
        assert (await session.run("print(a)")).stdout == "1\n"


async def test_a_warmup_that_kills_the_worker() -> None:
    session = Session(warmup_code="import os; os._exit(3)")
    with pytest.raises(WorkerDied) as info:
        await session.start()
    assert info.value.exit_code == 3


async def test_a_simple_warmup_costs_no_second_start() -> None:
    """No measurement: only that the warmup is not ten times dearer than all the rest."""

    async def start(warmup: str | None) -> float:
        begun = time.perf_counter()
        async with Session(warmup_code=warmup):
            return time.perf_counter() - begun

    plain_start = min([await start(None) for _ in range(2)])
    assert min([await start("a = 1") for _ in range(2)]) < 10 * plain_start


# ---------------------------------------------------------- not coming up at all


@pytest.mark.parametrize("python", ["/no/such/python", "/", "/etc/passwd"])
async def test_an_interpreter_that_cannot_be_started(python: str) -> None:
    session = Session("s", python=python)
    with pytest.raises(StartError, match="session s: cannot start the interpreter") as info:
        await session.start()
    assert repr(python) in str(info.value)
    assert session.state is S.TERMINATED
    assert session.pid is None


async def test_last_words_of_an_interpreter_that_cannot_import_the_package(tmp_path: Path) -> None:
    python = script(tmp_path / "python", "echo 'No module named pyrepl_kernel' >&2; exit 1")
    session = Session(python=python)
    with pytest.raises(StartError) as info:
        await session.start()
    message = str(info.value)
    assert f"the worker ({python}) exited with code 1 before it was ready" in message
    assert "No module named pyrepl_kernel" in message
    assert "No module named pyrepl_kernel" in info.value.stderr
    assert session.state is S.TERMINATED


async def test_a_real_interpreter_that_cannot_import_the_package(tmp_path: Path) -> None:
    python = script(tmp_path / "python", f'exec "{sys.executable}" -I -S "$@"')
    with pytest.raises(StartError, match="ModuleNotFoundError"):
        await Session(python=python).start()


async def test_an_interpreter_that_ends_without_a_word(tmp_path: Path) -> None:
    with pytest.raises(StartError, match="exited with code 0 before it was ready"):
        await Session(python=script(tmp_path / "python", "exit 0")).start()


async def test_an_interpreter_that_speaks_another_language(tmp_path: Path) -> None:
    python = script(tmp_path / "python", "echo 'Hello, who is there?' >&3; exec sleep 60")
    with pytest.raises(StartError, match="broke the protocol: frame of 1214606444 bytes is over"):
        await Session(python=python).start()


async def test_a_worker_that_does_not_get_ready_in_time(tmp_path: Path) -> None:
    python = script(tmp_path / "python", "echo 'still busy' >&2; exec sleep 60")
    session = Session(python=python, config=SessionConfig(start_timeout=0.5))
    with pytest.raises(StartError, match=r"did not get ready within 0.5 s\n(.*\n)*still busy"):
        await session.start()
    assert session.state is S.TERMINATED
    assert session.pid is not None
    assert not is_running(session.pid)


async def test_a_directory_that_does_not_exist(tmp_path: Path) -> None:
    with pytest.raises(StartError, match=r"FileNotFoundError.*nowhere"):
        await Session(cwd=tmp_path / "nowhere").start()


async def test_options_that_no_message_can_carry() -> None:
    session = Session(config=SessionConfig(options={"a": object()}))
    with pytest.raises(TypeError):
        await session.start()
    assert session.pid is None


async def test_a_start_that_is_cancelled(tmp_path: Path) -> None:
    session = Session(python=script(tmp_path / "python", "exec sleep 60"))
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(session.start(), 0.1)
    assert session.state is S.TERMINATED
    assert session.pid is not None
    assert not is_running(session.pid)


async def test_a_warmup_that_is_cancelled() -> None:
    session = Session(warmup_code="import time; time.sleep(60)")
    starting = asyncio.create_task(session.start())
    await until(session, S.WARMING)
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    assert session.state is S.TERMINATED
    assert session.pid is not None
    assert not is_running(session.pid)


async def test_a_start_that_is_terminated() -> None:
    session = Session(warmup_code="import time; time.sleep(60)")
    starting = asyncio.create_task(session.start())
    await until(session, S.WARMING)
    await session.terminate()
    with pytest.raises(SessionClosed):
        await starting


async def test_use_before_the_start() -> None:
    session = Session()
    with pytest.raises(SessionClosed, match="it was never started"):
        await session.run("1")
    with pytest.raises(SessionClosed, match="it was never started"):
        session.request(HeartbeatMessage())
    assert not await session.ping(1)
    await session.shutdown()
    assert session.state is S.TERMINATED
