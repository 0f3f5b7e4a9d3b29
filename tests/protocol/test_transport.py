"""Transports: who waits gets a message or an error, whatever the bytes, however they come."""

from __future__ import annotations

import asyncio
import logging
import random
import socket
import struct
import sys
import threading
import weakref
from collections.abc import AsyncIterator, Callable
from contextlib import suppress

import pytest
import pytest_asyncio

from pyrepl_kernel.errors import (
    FrameTooLarge,
    FrameTruncated,
    InvalidFrame,
    ProtocolError,
    TransportClosed,
    TransportNotStarted,
)
from pyrepl_kernel.protocol import transport as transport_module
from pyrepl_kernel.protocol.framing import encode_message
from pyrepl_kernel.protocol.messages import CommMessage, HeartbeatMessage, Message, OutputMessage
from pyrepl_kernel.protocol.transport import MessageTransport, PipeTransport
from tests.fakes import RecordingWriter

pytestmark = pytest.mark.timeout(20)

BIG = "x" * 5_000_000
"""Much more than a socket's buffers and the high-water mark hold together."""


class ByHand:
    """A transport over a stream that the test feeds."""

    def __init__(self, sink: Callable[[Message], None] | None = None) -> None:
        self.stream = asyncio.StreamReader()
        self.writer = RecordingWriter()
        self.ends: list[Exception | None] = []
        self.transport = MessageTransport(
            self.stream, self.writer, sink=sink, on_end=self.ends.append, max_frame_size=100_000
        )

    def feed(self, *messages: Message) -> None:
        """Let messages arrive."""
        for message in messages:
            self.stream.feed_data(encode_message(message))


@pytest_asyncio.fixture
async def by_hand() -> AsyncIterator[ByHand]:
    fixture = ByHand()
    async with fixture.transport:
        yield fixture


async def begun(transport: MessageTransport) -> asyncio.Task[Message]:
    """A task that waits in ``receive()`` already."""
    task = asyncio.create_task(transport.receive())
    await asyncio.sleep(0)
    assert not task.done()
    return task


# ------------------------------------------------------------- before it starts


async def test_use_before_start_raises() -> None:
    fixture = ByHand()
    fixture.feed(HeartbeatMessage())
    with pytest.raises(TransportNotStarted, match="call start"):
        await fixture.transport.receive()
    with pytest.raises(TransportNotStarted):
        await fixture.transport.send(HeartbeatMessage())
    with pytest.raises(TransportNotStarted):
        fixture.transport.send_nowait(HeartbeatMessage())
    assert fixture.writer.messages == []


async def test_what_came_before_the_start_is_received_after_it() -> None:
    fixture = ByHand()
    message = HeartbeatMessage(5)
    fixture.feed(message)
    async with fixture.transport as transport:
        assert await transport.receive() == message


async def test_a_transport_never_started_can_be_closed() -> None:
    fixture = ByHand()
    await fixture.transport.close()
    assert fixture.writer.is_closed
    assert fixture.transport.is_closed


# ------------------------------------------------------------------ receiving


async def test_messages_are_received_in_order(by_hand: ByHand) -> None:
    sent = [HeartbeatMessage(n) for n in range(100)]
    by_hand.feed(*sent)
    assert [await by_hand.transport.receive() for _ in sent] == sent


async def test_slow_bytes_are_never_dropped(by_hand: ByHand) -> None:
    sent = [OutputMessage(f"message {n}") for n in range(5)]
    received = asyncio.create_task(_receive(by_hand.transport, len(sent)))
    for byte in b"".join(map(encode_message, sent)):
        by_hand.stream.feed_data(bytes([byte]))
        for _ in range(3):
            await asyncio.sleep(0)
    assert await received == sent


async def _receive(transport: MessageTransport, number: int) -> list[Message]:
    return [await transport.receive() for _ in range(number)]


async def test_each_of_several_receivers_gets_a_message(by_hand: ByHand) -> None:
    tasks = [await begun(by_hand.transport) for _ in range(3)]
    sent = [HeartbeatMessage(n) for n in range(3)]
    by_hand.feed(*sent)
    received = await asyncio.gather(*tasks)
    assert sorted(m.id for m in received) == sorted(m.id for m in sent)


async def test_a_cancelled_receiver_takes_no_message_with_it(by_hand: ByHand) -> None:
    task = await begun(by_hand.transport)
    message = HeartbeatMessage()
    by_hand.feed(message)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await by_hand.transport.receive() == message


async def test_a_sink_takes_the_messages_instead() -> None:
    arrived: asyncio.Queue[Message] = asyncio.Queue()
    fixture = ByHand(sink=arrived.put_nowait)
    async with fixture.transport:
        sent = [HeartbeatMessage(n) for n in range(3)]
        fixture.feed(*sent)
        assert [await arrived.get() for _ in sent] == sent


async def test_a_sink_that_fails_ends_the_transport(caplog: pytest.LogCaptureFixture) -> None:
    problem = RuntimeError("no room")

    def sink(message: Message) -> None:
        raise problem

    fixture = ByHand(sink=sink)
    async with fixture.transport as transport:
        waiting = await begun(transport)
        fixture.feed(HeartbeatMessage())
        with pytest.raises(RuntimeError, match="no room"):
            await waiting
    assert fixture.ends == [problem]
    assert "a message could not be handled" in caplog.text
    assert {record.name for record in caplog.records if record.levelno >= logging.ERROR} == {
        "pyrepl_kernel.protocol"
    }


# --------------------------------------------------------------------- ending


async def test_the_end_of_the_stream_reaches_who_waits(by_hand: ByHand) -> None:
    waiting = await begun(by_hand.transport)
    by_hand.stream.feed_eof()
    with pytest.raises(TransportClosed):
        await waiting
    assert by_hand.ends == [None]
    assert by_hand.transport.is_closed
    with pytest.raises(TransportClosed):
        await by_hand.transport.send(HeartbeatMessage())


async def test_what_arrived_before_the_end_is_given_out_after_it(by_hand: ByHand) -> None:
    sent = [HeartbeatMessage(n) for n in range(3)]
    by_hand.feed(*sent)
    by_hand.stream.feed_eof()
    assert await _receive(by_hand.transport, 3) == sent
    with pytest.raises(TransportClosed):
        await by_hand.transport.receive()


GARBAGE = [
    pytest.param(struct.pack(">I", 2**32 - 1), FrameTooLarge, id="too large"),
    pytest.param(struct.pack(">I", 3) + b"\xc1\xc1\xc1", InvalidFrame, id="no msgpack"),
    pytest.param(struct.pack(">I", 1) + b"\x80", ProtocolError, id="an empty map"),
]


@pytest.mark.parametrize(("garbage", "error"), GARBAGE)
async def test_garbage_reaches_who_waits(
    by_hand: ByHand, garbage: bytes, error: type[ProtocolError]
) -> None:
    waiting = await begun(by_hand.transport)
    by_hand.stream.feed_data(garbage)
    with pytest.raises(error) as first:
        await waiting
    assert by_hand.ends == [first.value]
    with pytest.raises(error) as again:
        await by_hand.transport.receive()
    assert again.value is first.value
    with pytest.raises(error):
        by_hand.transport.send_nowait(HeartbeatMessage())


async def test_garbage_after_a_message_does_not_swallow_the_message(by_hand: ByHand) -> None:
    message = HeartbeatMessage()
    by_hand.stream.feed_data(encode_message(message) + struct.pack(">I", 1) + b"\xc1")
    assert await by_hand.transport.receive() == message
    with pytest.raises(InvalidFrame):
        await by_hand.transport.receive()


async def test_a_truncated_stream_reaches_who_waits(by_hand: ByHand) -> None:
    waiting = await begun(by_hand.transport)
    encoded = encode_message(HeartbeatMessage())
    by_hand.stream.feed_data(encoded[:-1])
    by_hand.stream.feed_eof()
    with pytest.raises(FrameTruncated) as info:
        await waiting
    assert (info.value.received, info.value.expected) == (len(encoded) - 1, len(encoded))


async def test_an_error_of_the_stream_reaches_who_waits(by_hand: ByHand) -> None:
    waiting = await begun(by_hand.transport)
    by_hand.stream.set_exception(ConnectionResetError("reset"))
    with pytest.raises(ConnectionResetError):
        await waiting


async def test_close_reaches_who_waits(by_hand: ByHand) -> None:
    tasks = [await begun(by_hand.transport) for _ in range(2)]
    await by_hand.transport.close()
    for task in tasks:
        with pytest.raises(TransportClosed):
            await task
    assert len(by_hand.ends) == 1
    assert by_hand.writer.is_closed


async def test_close_is_idempotent(by_hand: ByHand) -> None:
    await by_hand.transport.close()
    await by_hand.transport.close()
    assert len(by_hand.ends) == 1


async def test_a_sink_may_close_the_transport() -> None:
    closed = asyncio.Event()

    def sink(message: Message) -> None:
        tasks.append(asyncio.create_task(close()))

    async def close() -> None:
        await fixture.transport.close()
        closed.set()

    tasks: list[asyncio.Task[None]] = []
    fixture = ByHand(sink)
    async with fixture.transport:
        fixture.feed(HeartbeatMessage())
        await closed.wait()
    assert fixture.writer.is_closed


async def test_ten_thousand_random_strings() -> None:
    generator = random.Random(20240229)
    template = encode_message(OutputMessage("some text", "stderr"))
    outcomes = set()
    for number in range(10_000):
        body = generator.randbytes(generator.randrange(60))
        match number % 4:
            case 0:
                data = body
            case 1:
                data = struct.pack(">I", len(body)) + body
            case 2:  # one byte of a good frame is another
                place = generator.randrange(len(template))
                data = template[:place] + body[:1] + template[place + 1 :]
            case _:  # good frames around the bad one
                data = template + body + template
        fixture = ByHand()
        fixture.stream.feed_data(data)
        fixture.stream.feed_eof()
        async with asyncio.timeout(5), fixture.transport as transport:
            try:
                while True:
                    assert isinstance(await transport.receive(), Message)
            except ProtocolError as error:
                outcomes.add(type(error).__name__)
    assert outcomes == {
        "FrameTooLarge",
        "FrameTruncated",
        "InvalidField",
        "InvalidFrame",
        "MissingField",
        "TransportClosed",
        "UnknownMessageType",
    }


# -------------------------------------------------------------------- sending


async def test_messages_are_sent_in_order(by_hand: ByHand) -> None:
    sent = [HeartbeatMessage(n) for n in range(3)]
    for message in sent[:2]:
        await by_hand.transport.send(message)
    by_hand.transport.send_nowait(sent[2])
    assert by_hand.writer.messages == sent
    assert by_hand.writer.drains == 2


async def test_what_cannot_be_sent_leaves_the_transport_usable(by_hand: ByHand) -> None:
    with pytest.raises(FrameTooLarge):
        await by_hand.transport.send(OutputMessage("x" * 100_001))
    message = HeartbeatMessage()
    await by_hand.transport.send(message)
    assert by_hand.writer.messages == [message]


# ----------------------------------------------------------- over a socket pair


class Pair:
    """Two transports, one at each end of a socket pair."""

    def __init__(self) -> None:
        self.near_socket, self.far_socket = socket.socketpair()
        self.ends: list[Exception | None] = []
        self.near = PipeTransport(self.near_socket, on_end=self.ends.append)
        self.far = PipeTransport(self.far_socket)


@pytest_asyncio.fixture
async def pair() -> AsyncIterator[Pair]:
    fixture = Pair()
    async with fixture.near, fixture.far:
        yield fixture


async def test_big_messages_both_ways_at_once(pair: Pair) -> None:
    there = [OutputMessage(BIG, execution_id=str(n)) for n in range(3)]
    back = [OutputMessage(BIG[:-1], execution_id=str(n)) for n in range(3)]

    async def send(transport: PipeTransport, messages: list[OutputMessage]) -> None:
        for message in messages:
            await transport.send(message)

    _, _, received, returned = await asyncio.gather(
        send(pair.near, there), send(pair.far, back), _receive(pair.far, 3), _receive(pair.near, 3)
    )
    assert received == there
    assert returned == back


async def test_a_sender_waits_until_there_is_room(pair: Pair) -> None:
    pair.far.pause_reading()
    message = OutputMessage(BIG)
    sending = asyncio.create_task(pair.near.send(message))
    # Nobody reads, so no time is long enough; this one is not wasted on a machine that works.
    _, pending = await asyncio.wait({sending}, timeout=0.05)
    assert pending == {sending}
    pair.far.resume_reading()
    await sending
    assert await pair.far.receive() == message


async def test_several_senders_wait_at_once(pair: Pair) -> None:
    pair.far.pause_reading()
    sending = [asyncio.create_task(pair.near.send(OutputMessage(BIG))) for _ in range(3)]
    await asyncio.sleep(0)
    assert not any(task.done() for task in sending)
    pair.far.resume_reading()
    await asyncio.gather(*sending)
    assert len(await _receive(pair.far, 3)) == 3


async def test_small_messages_do_not_wait(pair: Pair) -> None:
    pair.far.pause_reading()
    for number in range(100):
        await pair.near.send(HeartbeatMessage(number))
    pair.far.resume_reading()
    received = await _receive(pair.far, 100)
    assert [m.sequence for m in received if isinstance(m, HeartbeatMessage)] == list(range(100))


async def test_close_frees_a_sender_that_waits(pair: Pair) -> None:
    pair.far.pause_reading()
    sending = asyncio.create_task(pair.near.send(OutputMessage(BIG)))
    await asyncio.sleep(0)
    assert not sending.done()
    await pair.near.close()
    await sending


async def test_a_peer_that_goes_frees_a_sender_that_waits(pair: Pair) -> None:
    pair.far.pause_reading()
    sending = asyncio.create_task(pair.near.send(OutputMessage(BIG)))
    await asyncio.sleep(0)
    assert not sending.done()
    await pair.far.close()
    await sending
    with pytest.raises(TransportClosed):
        await pair.near.receive()


async def test_nothing_is_read_while_paused(pair: Pair) -> None:
    pair.near.pause_reading()
    message = HeartbeatMessage()
    await pair.far.send(message)
    waiting = asyncio.create_task(pair.near.receive())
    _, pending = await asyncio.wait({waiting}, timeout=0.05)
    assert pending == {waiting}
    pair.near.resume_reading()
    assert await waiting == message


async def test_pausing_twice_is_pausing(pair: Pair) -> None:
    for _ in range(2):
        pair.near.pause_reading()
    for _ in range(2):
        pair.near.resume_reading()
    message = HeartbeatMessage()
    await pair.far.send(message)
    assert await pair.near.receive() == message


async def test_the_peer_closes(pair: Pair) -> None:
    message = HeartbeatMessage()
    await pair.far.send(message)
    await pair.far.close()
    assert await pair.near.receive() == message
    with pytest.raises(TransportClosed):
        await pair.near.receive()
    assert pair.ends == [None]


async def test_close_while_paused(pair: Pair) -> None:
    pair.near.pause_reading()
    waiting = await begun(pair.near)
    await pair.near.close()
    with pytest.raises(TransportClosed):
        await waiting


# ------------------------------------------- the end that nobody else announces


@pytest.mark.parametrize("is_paused", [False, True])
async def test_finish_delivers_what_is_in_the_socket(pair: Pair, is_paused: bool) -> None:
    """As when a dead worker's child still holds the worker's end open."""
    if is_paused:
        pair.near.pause_reading()
    sent = [OutputMessage("x" * 10_000) for _ in range(5)]
    with pair.far_socket.dup():
        for message in sent:
            await pair.far.send(message)
        await pair.far.close()
        pair.near.finish()
        assert await _receive(pair.near, 5) == sent
        with pytest.raises(TransportClosed):
            await pair.near.receive()
    assert pair.ends == [None]


async def test_finish_reaches_who_waits(pair: Pair) -> None:
    with pair.far_socket.dup():
        waiting = await begun(pair.near)
        await pair.far.close()
        pair.near.finish()
        with pytest.raises(TransportClosed):
            await waiting


async def test_finish_inside_a_frame(pair: Pair) -> None:
    with pair.far_socket.dup() as other:
        await pair.far.close()
        other.setblocking(True)
        other.sendall(encode_message(HeartbeatMessage())[:-1])
        pair.near.finish()
        with pytest.raises(FrameTruncated):
            await pair.near.receive()


async def test_finish_does_not_wait_for_one_who_writes_for_ever(pair: Pair) -> None:
    frame = encode_message(OutputMessage("x" * 1000))
    with pair.far_socket.dup() as other:
        await pair.far.close()
        other.setblocking(True)

        def write() -> None:
            with suppress(ConnectionError):
                while True:
                    other.sendall(frame)

        thread = threading.Thread(target=write)
        thread.start()
        await pair.near.receive()  # it is at it
        pair.near.finish()
        with pytest.raises(ProtocolError):
            while True:
                await pair.near.receive()
        await pair.near.close()
        await asyncio.to_thread(thread.join, 10)
        assert not thread.is_alive()


async def test_finish_after_the_end_changes_nothing(pair: Pair) -> None:
    await pair.far.close()
    with pytest.raises(TransportClosed):
        await pair.near.receive()
    pair.near.finish()
    await pair.near.close()
    pair.near.finish()
    assert pair.ends == [None]


@pytest.mark.skipif(
    sys.platform != "linux", reason="huge messages have memory of their own on Linux alone"
)
async def test_the_memory_of_huge_messages_is_used_again_and_given_back(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transport_module, "_KEPT_FOR", 0.001)
    loop = asyncio.get_running_loop()
    now = loop.time()
    # The clock stands still while they come.
    monkeypatch.setattr(loop, "time", lambda: now)
    gone = asyncio.Event()
    mappings = []
    for number in range(3):
        sent = bytes([number]) * 10_000_000
        sending = asyncio.create_task(pair.far.send(CommMessage("msg", "c", buffers=[sent])))
        message = await pair.near.receive()
        await sending
        assert isinstance(message, CommMessage)
        (buffer,) = message.buffers
        assert buffer == sent
        assert isinstance(buffer, memoryview)
        mappings.append(weakref.ref(buffer.obj, lambda _: gone.set()))
        del message, buffer
    assert mappings[0]() is not None
    assert mappings[0]() is mappings[1]() is mappings[2]()
    now += 1
    await asyncio.wait_for(gone.wait(), 20)
    # And then nothing wakes the process up.
    assert pair.near._stream._keeping is None
