"""What a request sends, and in which order."""

from __future__ import annotations

import asyncio
import uuid
from unittest.mock import Mock

import pytest
from jupyter_client.session import Session

from pyrepl_kernel.kernel.exchange import Exchange, LateIdle
from pyrepl_kernel.kernel.handlers import is_complete
from pyrepl_kernel.kernel.wire import Request


class Records:
    """A kernel and its shell channel, of which is written down what they are asked for."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.kernel = Mock()
        self.kernel.publication.side_effect = lambda kind, *_: self._make(kind)
        self.kernel.wire.build.side_effect = lambda _, kind, *__: self._make(kind)
        self.channel = self._channel("shell")
        self.kernel.publisher = self._channel("iopub")
        self.exchange = self.request("execute_request")

    def request(self, kind: str, msg_id: str = "1", **content: str) -> Exchange:
        header = {"msg_id": msg_id, "msg_type": kind, "session": "s"}
        return Exchange(
            self.kernel, self.channel, Request([b"client"], b"{}", header, {}, content, [], {})
        )

    def _make(self, kind: str) -> list[bytes]:
        self.calls.append(f"make {kind}")
        return [kind.encode()]

    def _channel(self, name: str) -> Mock:
        channel = Mock()
        channel.put.side_effect = lambda frames: self.calls.append(f"{name} {frames[0].decode()}")
        channel.look.side_effect = lambda: self.calls.append(f"look at {name}")
        return channel


@pytest.fixture
def records() -> Records:
    return Records()


def test_busy_and_input_are_made_before_either_is_sent(records: Records) -> None:
    records.exchange.begin("execute_input", b"{}")
    assert records.calls == [
        *("make status", "make execute_input"),
        *("iopub status", "iopub execute_input"),
        "look at iopub",
    ]


def test_reply_and_idle_are_made_before_either_is_sent(records: Records) -> None:
    records.exchange.begin("execute_input", b"{}")
    records.calls.clear()
    records.exchange.finish(b"{}")
    assert records.calls == [
        *("make execute_reply", "make status"),
        *("shell execute_reply", "iopub status"),
        *("look at shell", "look at iopub"),
    ]


def test_each_is_sent_once(records: Records) -> None:
    for _ in range(2):
        records.exchange.begin("execute_input", b"{}")
        records.exchange.finish(b"{}")
    assert records.calls.count("shell execute_reply") == 1
    assert records.calls.count("iopub status") == 2  # busy, idle


@pytest.fixture
def slow_timer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pyrepl_kernel.kernel.exchange._LATEST_IDLE", 60)


def _made(records: Records) -> list[str]:
    return [call.removeprefix("make ") for call in records.calls if call.startswith("make ")]


async def test_a_late_idle_waits_for_the_end_of_a_cell(
    records: Records, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pyrepl_kernel.kernel.exchange._LATEST_IDLE", 0)
    has_looked = asyncio.Event()

    def is_at_work() -> bool:
        has_looked.set()
        return True

    late = LateIdle(is_at_work)
    late.finish(records.request("is_complete_request"), {"status": "complete"})
    async with asyncio.timeout(10):
        await has_looked.wait()
    assert _made(records)[-1] == "is_complete_reply"
    late.end()
    assert _made(records)[-1] == "status"
    records.calls.clear()
    late.end()
    assert not records.calls


async def test_a_late_idle_comes_without_a_cell(
    records: Records, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pyrepl_kernel.kernel.exchange._LATEST_IDLE", 0)
    is_over = asyncio.Event()
    records.kernel.publisher.send.side_effect = lambda _: is_over.set()
    LateIdle(lambda: False).finish(records.request("is_complete_request"), {"status": "complete"})
    async with asyncio.timeout(10):
        await is_over.wait()
    assert _made(records)[-1] == "status"


async def test_two_late_idles_come_in_their_order(records: Records, slow_timer: None) -> None:
    late = LateIdle(lambda: False)
    for status in "complete", "incomplete":
        late.finish(records.request("is_complete_request"), {"status": status})
    assert _made(records) == ["is_complete_reply", "status", "is_complete_reply"]
    late.end()


@pytest.mark.parametrize(
    ("msg_id", "is_executing", "is_late"),
    [("s_4711_1", False, True), ("s_4711_1", True, False), ("0b5f-8a", False, False)],
    ids=["jupyter_client", "beside a cell", "JupyterLab"],
)
async def test_whose_idle_comes_late(
    records: Records, slow_timer: None, msg_id: str, is_executing: bool, is_late: bool
) -> None:
    kernel = records.kernel
    kernel.late_idle = LateIdle(lambda: False)
    kernel.session.is_executing = is_executing
    answer = kernel.session.request.return_value = asyncio.get_running_loop().create_future()
    is_complete(kernel, records.request("is_complete_request", msg_id, code="1"))
    answer.set_result(Mock(content={"status": "complete"}))
    await asyncio.sleep(0)
    expected = ["is_complete_reply"] if is_late else ["is_complete_reply", "status"]
    assert _made(records) == expected
    kernel.late_idle.end()


def test_whose_request_it_is() -> None:
    ours = Session().msg("is_complete_request")["header"]
    theirs = {"msg_id": str(uuid.uuid4()), "msg_type": "x", "session": str(uuid.uuid4())}
    bare = {"msg_id": "1", "msg_type": "x"}
    made = [Request([], b"{}", header, {}, {}, [], {}) for header in (ours, theirs, bare)]
    assert [request.is_of_jupyter_client for request in made] == [True, False, False]
