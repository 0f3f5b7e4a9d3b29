"""Subshells of a session: lanes of their own, and what becomes of them when the worker ends."""

from __future__ import annotations

import asyncio

import pytest

from pyrepl_kernel.errors import SessionClosed, UnknownSubshell, WorkerDied
from pyrepl_kernel.protocol.messages import ExecuteMessage, Message, OutputMessage, ResultMessage
from pyrepl_kernel.session.session import Session
from pyrepl_kernel.session.states import SessionState

pytestmark = [pytest.mark.asyncio, pytest.mark.usefixtures("no_process_left")]


class Followed:
    """An execution in a subshell, and what came of it."""

    def __init__(self, session: Session, code: str, subshell_id: str = "") -> None:
        self.messages: list[Message] = []
        self.end: asyncio.Future[ResultMessage | Exception] = asyncio.Future()
        session.submit(
            ExecuteMessage(code),
            self.messages.append,
            self.end.set_result,
            subshell_id=subshell_id,
        )

    async def status(self) -> str:
        """How it ended: the result's status, or the name of the error."""
        end = await asyncio.wait_for(asyncio.shield(self.end), 30)
        return end.status if isinstance(end, ResultMessage) else type(end).__name__

    @property
    def text(self) -> str:
        """What it printed."""
        return "".join(m.data for m in self.messages if isinstance(m, OutputMessage))


async def test_a_lane_beside_the_main_one() -> None:
    async with Session() as session:
        subshell = await session.create_subshell()
        assert session.subshells == [subshell]
        main = Followed(session, "import threading; e = threading.Event(); e.wait(30)")
        aside = Followed(session, "while 'e' not in globals(): pass\nprint('x')", subshell)
        assert await aside.status() == "ok"
        assert aside.text == "x\n"
        assert session.info.state is SessionState.BUSY
        assert (session.is_shell_executing(), session.is_shell_executing(subshell)) == (True, False)
        assert await Followed(session, "e.set()", subshell).status() == "ok"
        assert await main.status() == "ok"
        assert session.state is SessionState.IDLE
        assert session.executions == 3


async def test_one_that_is_not_there() -> None:
    async with Session() as session:
        subshell = await session.create_subshell()
        await session.delete_subshell(subshell)
        with pytest.raises(UnknownSubshell, match=subshell):
            Followed(session, "1", subshell)
        with pytest.raises(UnknownSubshell, match=subshell):
            await session.delete_subshell(subshell)


async def test_what_waits_when_it_is_deleted() -> None:
    async with Session() as session:
        subshell = await session.create_subshell()
        at_work = Followed(session, "import time; time.sleep(0.2)", subshell)
        waiting = Followed(session, "print('never')", subshell)
        await session.delete_subshell(subshell)
        assert await waiting.status() == "UnknownSubshell"
        assert at_work.end.done() and await at_work.status() == "ok"
        assert session.state is SessionState.IDLE


async def test_before_the_warmup_has_ended() -> None:
    session = Session(warmup_code="import time; time.sleep(0.3); warm = 1")
    session.launch()
    try:
        subshell = await session.create_subshell()
        early = Followed(session, "print(warm)", subshell)
        await session.wait_ready()
        assert await early.status() == "ok"
        assert early.text == "1\n"
    finally:
        await session.terminate()


async def test_a_reset_takes_them_away() -> None:
    async with Session() as session:
        subshell = await session.create_subshell()
        await Followed(session, "x = 1", subshell).status()
        await session.reset()
        assert session.subshells == []
        assert (await session.run("'x' in globals()")).result == {"text/plain": "False"}


async def test_a_restart_takes_them_away() -> None:
    async with Session() as session:
        subshell = await session.create_subshell()
        at_work = Followed(session, "while True: pass", subshell)
        await session.restart()
        assert await at_work.status() == "SessionClosed"
        assert session.subshells == []
        assert (await session.run("1")).is_ok


async def test_a_death_ends_all_of_it() -> None:
    async with Session() as session:
        subshell = await session.create_subshell()
        at_work = Followed(session, "import time; time.sleep(1000)", subshell)
        waiting = Followed(session, "1", subshell)
        deletion = asyncio.ensure_future(session.delete_subshell(subshell))
        await asyncio.sleep(0)  # let it be sent
        with pytest.raises(WorkerDied):
            await session.run("import os; os.kill(os.getpid(), 9)")
        assert await at_work.status() == "WorkerDied"
        assert await waiting.status() == "UnknownSubshell"
        with pytest.raises(WorkerDied):
            await deletion
        with pytest.raises(SessionClosed):
            await session.create_subshell()
