"""The log of printed text: nothing lost, nothing twice, each text with its origin."""

from __future__ import annotations

import os
import signal
import threading
import warnings
from types import FrameType

import pytest

from pyrepl_kernel.protocol.messages import Message, OutputMessage
from pyrepl_kernel.session.session import Session
from pyrepl_kernel.worker import capture
from pyrepl_kernel.worker.capture import BURST_SIZE, FLUSH_SIZE, OutputBuffer, OutStream
from pyrepl_kernel.worker.channel import Channel
from pyrepl_kernel.worker.interrupts import InterruptGuard
from pyrepl_kernel.worker.parent import current_execution


class RecordingChannel(Channel):
    """Keeps what would be sent."""

    def __init__(self) -> None:
        self.max_frame_size = 1 << 28
        self.is_attached = True
        self.messages: list[Message] = []

    def post(self, *messages: Message) -> int:
        """Keep messages."""
        self.messages += messages
        return len(messages)

    def flush(self) -> None:
        """Nothing waits here."""

    def texts(self, stream: str = "stdout") -> dict[str, str]:
        """What each execution wrote to a stream."""
        texts: dict[str, str] = {}
        for message in self.messages:
            assert isinstance(message, OutputMessage)
            if message.stream == stream:
                texts[message.execution_id] = texts.get(message.execution_id, "") + message.data
        return texts


@pytest.fixture
def channel() -> RecordingChannel:
    return RecordingChannel()


@pytest.fixture
def buffer(channel: RecordingChannel) -> OutputBuffer:
    return OutputBuffer(channel, InterruptGuard())


def test_threads_of_several_executions_keep_their_text_apart(
    channel: RecordingChannel, buffer: OutputBuffer
) -> None:
    out, err = OutStream(buffer, "stdout", 1), OutStream(buffer, "stderr", 2)
    count = 20_000

    def write(name: str) -> None:
        current_execution.pin(name, {})
        for number in range(count):
            out.write(f"{number}\n")
            if number % 7 == 0:
                err.write(f"{number}\n")
            if number % 1000 == 0:
                out.flush()

    threads = [threading.Thread(target=write, args=(f"cell-{n}",)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    out.flush()
    expected = "".join(f"{number}\n" for number in range(count))
    assert channel.texts() == {f"cell-{n}": expected for n in range(6)}
    expected = "".join(f"{number}\n" for number in range(0, count, 7))
    assert channel.texts("stderr") == {f"cell-{n}": expected for n in range(6)}


def test_a_signal_handler_may_print_and_flush_at_any_moment(
    channel: RecordingChannel, buffer: OutputBuffer
) -> None:
    out = OutStream(buffer, "stdout", 1)
    current_execution.begin("cell", {})
    handled = 0

    def handle(number: int, frame: FrameType | None) -> None:
        nonlocal handled
        handled += 1
        out.write("!\n")
        out.flush()

    before = signal.signal(signal.SIGALRM, handle)
    signal.setitimer(signal.ITIMER_REAL, 0.0005, 0.0005)
    try:
        number = 0
        while handled < 200:
            out.write(f"{number}\n")
            if number % 10 == 0:
                out.flush()
            number += 1
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    out.flush()
    lines = channel.texts()["cell"].split("\n")
    assert lines.count("!") == handled
    assert [line for line in lines if line != "!"] == [*map(str, range(number)), ""]


def test_the_order_of_both_streams_is_kept(channel: RecordingChannel, buffer: OutputBuffer) -> None:
    out, err = OutStream(buffer, "stdout", 1), OutStream(buffer, "stderr", 2)
    current_execution.begin("cell", {})
    out.write("a")
    out.write("")
    out.write("b")
    err.write("c")
    out.write("d")
    out.flush()
    sent = [(m.stream, m.data) for m in channel.messages if isinstance(m, OutputMessage)]
    assert sent == [("stdout", "ab"), ("stderr", "c"), ("stdout", "d")]


def test_what_is_sent_soon_stays_behind_the_text_before_it(
    channel: RecordingChannel, buffer: OutputBuffer
) -> None:
    out = OutStream(buffer, "stdout", 1)
    current_execution.begin("cell", {})
    for number in range(100):
        out.write(f"{number}.")
        buffer.send_soon(OutputMessage("!", "stdout", "cell"))
    buffer.send_after_output()
    assert channel.texts()["cell"] == "".join(f"{number}.!" for number in range(100))


def test_a_burst_goes_out_in_pieces_before_its_time(
    channel: RecordingChannel, buffer: OutputBuffer, monkeypatch: pytest.MonkeyPatch
) -> None:
    posted: list[Message] = []
    sent_at: list[int] = []

    def post(*messages: Message) -> int:
        posted.extend(messages)
        return 100 * len(messages)

    monkeypatch.setattr(capture, "FIRST_DELAY", 10.0)  # time decides for the first alone
    monkeypatch.setattr(channel, "post", post)
    monkeypatch.setattr(channel, "flush", lambda: sent_at.append(len(posted)))
    buffer.is_armed = True  # the flusher knows
    for _ in range(400):
        buffer.send_soon(OutputMessage("!", "stdout", "cell"))
    size = -(-BURST_SIZE // 100)
    assert sent_at == [1, 1 + size, 1 + 2 * size]


def test_much_text_is_sent_by_who_writes_it(
    channel: RecordingChannel, buffer: OutputBuffer
) -> None:
    out = OutStream(buffer, "stdout", 1)
    current_execution.begin("cell", {})
    out.write("x" * (2 * FLUSH_SIZE + 1))
    assert channel.texts()["cell"] == "x" * (2 * FLUSH_SIZE + 1)
    assert len(channel.messages) == 3
    assert not buffer.log


def test_recorders_get_text_in_order(channel: RecordingChannel, buffer: OutputBuffer) -> None:
    out = OutStream(buffer, "stdout", 1)
    seen: list[str] = []
    out.write("before ")
    assert out.record(seen.append) is None
    out.write("a")
    out.write("b")
    out.settle()
    out.write("c")
    assert out.record(None) == seen.append
    out.write("after")
    out.flush()
    assert seen == ["ab", "c"]
    assert "".join(channel.texts().values()) == "before abcafter"


def test_a_forked_child_writes_to_the_descriptor(buffer: OutputBuffer) -> None:
    reading, writing = os.pipe()
    out = OutStream(buffer, "stdout", writing)
    out.write("the parent's")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of the flusher's thread, as it should
        pid = os.fork()
    if not pid:
        out.write("the ")
        out.write("child's")
        os._exit(0)
    os.close(writing)
    os.waitpid(pid, 0)
    with open(reading) as file:
        assert file.read() == "the child's"


@pytest.mark.asyncio(loop_scope="module")
async def test_the_history_of_outputs_is_ipythons(session: Session) -> None:
    code = "import sys\nprint('a'); print('b')\nprint('c', file=sys.stderr)\nprint('d')\n1 + 1"
    assert (await session.run(code)).is_ok
    outcome = await session.run(
        "[(o.output_type, ''.join(o.bundle.get('stream', [])) or o.bundle['text/plain'])"
        " for o in get_ipython().history_manager.outputs[1]]"
    )
    assert outcome.result is not None
    assert eval(outcome.result["text/plain"]) == [
        ("out_stream", "a\nb\n"),
        ("err_stream", "c\n"),
        ("out_stream", "d\n"),
        ("execute_result", "2"),
    ]


def test_the_flusher_has_run_when_the_first_write_returns() -> None:
    # Or a crash that follows would have no stack, on Python 3.14.
    for _ in range(50):
        fresh = OutputBuffer(RecordingChannel(), InterruptGuard())
        OutStream(fresh, "stdout", 1).write("text")
        assert fresh._thread
