"""What the debugger tells of debugpy's events: a debugpy that says what a test has it say."""

from __future__ import annotations

from typing import Any, cast

from pyrepl_kernel.protocol.messages import DebugEventMessage
from pyrepl_kernel.worker.capture import OutputBuffer
from pyrepl_kernel.worker.dap import DapConnection
from pyrepl_kernel.worker.debugger import Debugger
from pyrepl_kernel.worker.interrupts import InterruptGuard, Interrupts
from pyrepl_kernel.worker.shell import ZMQInteractiveShell
from tests.worker.test_capture import RecordingChannel

STOPPED = {"event": "stopped", "body": {"threadId": 1, "allThreadsStopped": True}}
CONTINUED = {"event": "continued", "body": {"threadId": 1, "allThreadsContinued": True}}


class ScriptedDebugpy(DapConnection):
    """Keeps the requests, and says what it is told to say."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self._said: list[dict[str, Any]] = []

    def send(self, request: dict[str, Any]) -> int:
        """Keep a request."""
        self.asked.append(request["command"])
        return len(self.asked)

    def say(self, *events: dict[str, Any]) -> None:
        """Have events arrive."""
        self._said += [{"type": "event", **event} for event in events]

    def answer(self, number: int, body: dict[str, Any]) -> None:
        """Have the response to the ``number``-th request arrive."""
        self._said.append(
            {"type": "response", "request_seq": number, "success": True, "body": body}
        )

    def receive(self) -> list[dict[str, Any]]:
        """What has arrived."""
        said, self._said = self._said, []
        return said


class Rig:
    """A debugger between a scripted debugpy and a session that only listens."""

    def __init__(self) -> None:
        self.channel = RecordingChannel()
        self.debugpy = ScriptedDebugpy()
        self._debugger = Debugger(
            self.channel,
            OutputBuffer(RecordingChannel(), InterruptGuard()),
            cast(ZMQInteractiveShell, None),  # no cell is run
            Interrupts(),
            lambda message: None,
        )
        self._debugger._connection = self.debugpy

    def told(self) -> list[tuple[str, list[int]]]:
        """The events that the session was told of, and which threads each stopped."""
        self._debugger._receive_from(self.debugpy)
        messages, self.channel.messages = self.channel.messages, []
        assert all(isinstance(message, DebugEventMessage) for message in messages)
        return [(message.event["event"], message.threads) for message in cast(Any, messages)]


def test_a_stop_names_the_threads_that_stand_still() -> None:
    rig = Rig()
    rig.debugpy.say(STOPPED)
    assert rig.told() == []  # it is not known yet who else stands still
    rig.debugpy.answer(1, {"threads": [{"id": 1}, {"id": 4}]})
    rig.debugpy.say(CONTINUED)
    assert rig.told() == [("stopped", [1, 4]), ("continued", [])]


def test_a_thread_that_runs_on_at_once_is_told_to_have_stopped_first() -> None:
    rig = Rig()
    for number in (1, 2):
        rig.debugpy.say(STOPPED, CONTINUED)
        assert rig.told() == [("stopped", [1]), ("continued", [])]
        rig.debugpy.answer(number, {"threads": [{"id": 1}, {"id": 4}]})
        assert rig.told() == []


def test_the_threads_of_an_earlier_stop_are_not_told_with_a_later_one() -> None:
    rig = Rig()
    rig.debugpy.say(STOPPED, CONTINUED, STOPPED)
    assert rig.told() == [("stopped", [1]), ("continued", [])]
    rig.debugpy.answer(1, {"threads": [{"id": 4}]})
    assert rig.told() == []
    rig.debugpy.answer(2, {"threads": [{"id": 1}]})
    assert rig.told() == [("stopped", [1])]
