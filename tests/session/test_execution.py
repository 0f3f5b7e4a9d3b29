"""What follows one execution, without a worker: its callbacks, its inbox, and its outcome."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from pyrepl_kernel.protocol.messages import (
    DisplayMessage,
    ErrorMessage,
    ExecuteMessage,
    Message,
    OutputMessage,
    ResultMessage,
)
from pyrepl_kernel.session.execution import Execution, Inbox, Outcome

RESULT = ResultMessage("x", "ok")


# ------------------------------------------------------------------ Execution


class Followed:
    """An execution, and what its follower has heard of it."""

    def __init__(self) -> None:
        self.heard: list[Any] = []
        self.execution = Execution(
            ExecuteMessage("pass", id="me"), self.heard.append, self.heard.append
        )


def test_an_execution_has_the_name_of_its_message() -> None:
    assert Followed().execution.id == "me"


def test_only_the_first_end_counts() -> None:
    followed = Followed()
    followed.execution.end(RESULT)
    followed.execution.end(RuntimeError("late"))
    assert followed.heard == [RESULT]
    assert followed.execution.is_done


def test_nobody_hears_of_a_disowned_execution() -> None:
    followed = Followed()
    followed.execution.deliver(OutputMessage("before"))
    followed.execution.disown()
    followed.execution.deliver(OutputMessage("after"))
    followed.execution.end(RESULT)
    assert [message.data for message in followed.heard] == ["before"]
    assert followed.execution.is_done


# ---------------------------------------------------------------------- Inbox


class Watched(Inbox):
    """An inbox, and what it asked of the worker."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        super().__init__(lambda: self.asked.append("wait"), lambda: self.asked.append("go on"))


def text(inbox: Inbox, number: int, size: int = 1) -> None:
    for _ in range(number):
        inbox.put(OutputMessage("x" * size))


async def read(inbox: Inbox, number: int) -> list[Message]:
    return [await inbox.get() for _ in range(number)]


async def test_messages_come_in_order() -> None:
    inbox = Watched()
    sent = [OutputMessage(str(n)) for n in range(3)]
    for message in sent:
        inbox.put(message)
    inbox.end(RESULT)
    assert await read(inbox, 4) == [*sent, RESULT]
    assert inbox.asked == []


async def test_a_reader_waits_for_a_message() -> None:
    inbox = Watched()
    task = asyncio.create_task(inbox.get())
    await asyncio.sleep(0)
    assert not task.done()
    inbox.put(RESULT)
    assert await task == RESULT


async def test_an_error_comes_after_what_was_there_before_it() -> None:
    inbox = Watched()
    text(inbox, 2)
    inbox.end(RuntimeError("it died"))
    await read(inbox, 2)
    for _ in range(2):
        with pytest.raises(RuntimeError, match="it died"):
            await inbox.get()


async def test_nothing_comes_after_an_error() -> None:
    """A cell that prints for ever must not keep its reader from a timeout."""
    inbox = Watched()
    text(inbox, 1)
    inbox.end(TimeoutError("too long"))
    text(inbox, 1)
    await read(inbox, 1)
    with pytest.raises(TimeoutError):
        await inbox.get()


async def test_the_worker_waits_for_a_slow_reader() -> None:
    inbox = Watched()
    text(inbox, Inbox.HIGH_WATER - 1)
    assert inbox.asked == []
    text(inbox, 10)
    assert inbox.asked == ["wait"]
    await read(inbox, 100)
    assert inbox.asked == ["wait"]
    await read(inbox, Inbox.HIGH_WATER + 9 - 100)
    assert inbox.asked == ["wait", "go on"]


@pytest.mark.parametrize(
    "message",
    [
        OutputMessage("x" * 5_000_000),
        DisplayMessage("display", {"image/png": "x" * 5_000_000}),
        DisplayMessage("display", {"image/png": b"x" * 5_000_000}),
        DisplayMessage("display", buffers=[b"x" * 2_500_000] * 2),
    ],
    ids=["output", "text", "bytes", "buffers"],
)
async def test_a_few_large_messages_are_much_too(message: Message) -> None:
    inbox = Watched()
    for _ in range(5):
        inbox.put(message)
    assert inbox.asked == ["wait"]
    await read(inbox, 5)
    assert inbox.asked == ["wait", "go on"]


async def test_nobody_waits_for_the_reader_of_a_cell_that_has_ended() -> None:
    inbox = Watched()
    text(inbox, 300)
    assert inbox.asked == ["wait"]
    inbox.end(RESULT)
    assert inbox.asked == ["wait", "go on"]
    assert len(await read(inbox, 301)) == 301
    assert inbox.asked == ["wait", "go on"]


async def test_nobody_waits_for_a_reader_who_has_left() -> None:
    inbox = Watched()
    text(inbox, 300)
    inbox.close()
    inbox.close()
    assert inbox.asked == ["wait", "go on"]


# -------------------------------------------------------------------- Outcome


def test_an_outcome_collects() -> None:
    display = DisplayMessage("display", {"text/plain": "d"})
    outcome = Outcome.collect(
        [
            OutputMessage("a"),
            OutputMessage("!", "stderr"),
            display,
            OutputMessage("b"),
            DisplayMessage("result", {"text/plain": "42"}, execution_count=3),
            ResultMessage("x", "ok", 3, {"e": {"status": "ok"}}, [{"source": "page"}]),
        ]
    )
    assert outcome.is_ok
    assert (outcome.stdout, outcome.stderr) == ("ab", "!")
    assert outcome.displays == [display]
    assert outcome.result == {"text/plain": "42"}
    assert outcome.execution_count == 3
    assert outcome.user_expressions == {"e": {"status": "ok"}}
    assert outcome.payload == [{"source": "page"}]
    assert outcome.error is None


def test_an_outcome_of_a_failure() -> None:
    error = ErrorMessage("ValueError", "no", ["line"])
    outcome = Outcome.collect([error, ResultMessage("x", "error", 1)])
    assert not outcome.is_ok
    assert outcome.error == error
    assert outcome.result is None
