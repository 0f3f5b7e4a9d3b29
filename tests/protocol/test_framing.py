"""Frames: any splitting of any sequence of messages survives, and nothing else gets through."""

from __future__ import annotations

import math
import struct
import threading
import tracemalloc
from collections.abc import Iterator
from datetime import UTC, date, datetime
from typing import Any

import msgpack
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyrepl_kernel.errors import (
    FrameTooLarge,
    FrameTruncated,
    InvalidField,
    InvalidFrame,
    MissingField,
    ProtocolError,
    UnknownMessageType,
)
from pyrepl_kernel.protocol.framing import MAX_FRAME_SIZE, FrameDecoder, encode_message
from pyrepl_kernel.protocol.messages import (
    CommMessage,
    DisplayMessage,
    HeartbeatMessage,
    Message,
    OutputMessage,
)
from tests.protocol.strategies import MESSAGE_CLASSES, messages, messages_of


def decode(data: bytes, max_frame_size: int = MAX_FRAME_SIZE) -> list[Message]:
    """All messages of a whole stream."""
    decoder = FrameDecoder(max_frame_size)
    decoder.feed(data)
    found = []
    while (message := decoder.next_message()) is not None:
        found.append(message)
    decoder.finish()
    return found


def frame(body: bytes) -> bytes:
    """A frame around any body."""
    return struct.pack(">I", len(body)) + body


def through_the_wire(value: Any) -> Any:
    """What becomes of a value on its way to the other side."""
    [message] = decode(encode_message(DisplayMessage("display", {"value": value})))
    assert isinstance(message, DisplayMessage)
    return message.data["value"]


# --------------------------------------------------------- messages and frames


@pytest.mark.parametrize("cls", MESSAGE_CLASSES)
def test_each_class_survives(cls: type[Message]) -> None:
    @given(messages_of(cls))
    def survives(message: Message) -> None:
        [decoded] = decode(encode_message(message))
        assert decoded == message
        assert type(decoded) is cls

    survives()


@given(st.lists(messages, max_size=5), st.data())
def test_any_splitting_of_any_sequence_survives(sent: list[Message], data: st.DataObject) -> None:
    stream = b"".join(map(encode_message, sent))
    cuts = data.draw(st.lists(st.integers(0, len(stream)), max_size=20).map(sorted))
    decoder = FrameDecoder()
    received: list[Message] = []
    for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        decoder.feed(stream[start:end])
        while (message := decoder.next_message()) is not None:
            received.append(message)
    decoder.finish()
    assert received == sent
    assert decoder.pending == 0


@given(messages)
def test_byte_by_byte(message: Message) -> None:
    decoder = FrameDecoder()
    *beginning, last = encode_message(message)
    for byte in beginning:
        decoder.feed(bytes([byte]))
        assert decoder.next_message() is None
    decoder.feed(bytes([last]))
    assert decoder.next_message() == message


def test_a_frame_is_a_length_and_a_map() -> None:
    message = OutputMessage("text", id="me", timestamp=1.5)
    encoded = encode_message(message)
    assert int.from_bytes(encoded[:4], "big") == len(encoded) - 4
    assert msgpack.unpackb(encoded[4:]) == {
        "type": "output",
        "data": "text",
        "stream": "stdout",
        "execution_id": "",
        "id": "me",
        "timestamp": 1.5,
    }


# -------------------------------------------------------------------- values


@pytest.mark.parametrize(
    "value",
    [
        "lone \ud800 surrogates \udfff",
        "null \0 byte",
        2**63,
        2**64 - 1,
        2**64,
        -(2**63),
        -(2**63) - 1,
        10**1000,
        -(10**1000),
        math.inf,
        -0.0,
        b"\x00\xff" * 100,
        {"key": {"nested": [{}, [], None, True]}},
        {1: "a key that is no string"},
        [[[[[[[[[[1]]]]]]]]]],
    ],
)
def test_a_value_arrives_as_it_was(value: Any) -> None:
    arrived = through_the_wire(value)
    assert arrived == value
    assert type(arrived) is type(value)


def test_not_a_number() -> None:
    assert math.isnan(through_the_wire(math.nan))


@pytest.mark.parametrize(
    ("value", "arrives"),
    [
        ((1, (2, (3,))), [1, [2, [3]]]),
        ({"a": ({"b": (1,)},)}, {"a": [{"b": [1]}]}),
        ({7}, [7]),
        (frozenset({7}), [7]),
        (date(2024, 2, 29), "2024-02-29"),
        (datetime(2024, 2, 29, 12, 30, tzinfo=UTC), "2024-02-29T12:30:00+00:00"),
        (bytearray(b"abc"), b"abc"),
        (memoryview(b"abc"), b"abc"),
        (np.int64(5), 5),
        (np.float32(0.5), 0.5),
        (np.bool_(True), 1),
    ],
)
def test_a_value_arrives_as_it_would_in_json(value: Any, arrives: Any) -> None:
    assert through_the_wire(value) == arrives


def test_an_iterator_arrives_as_a_list() -> None:
    assert through_the_wire(i * i for i in range(3)) == [0, 1, 4]


def test_buffers_arrive_as_bytes() -> None:
    buffers = [b"", bytes(range(256)), b"x" * 100_000]
    [message] = decode(encode_message(CommMessage("msg", "c", buffers=buffers)))
    assert isinstance(message, CommMessage)
    assert message.buffers == buffers


def selfish() -> list[Any]:
    """A list that contains itself."""
    result: list[Any] = []
    result.append(result)
    return result


@pytest.mark.parametrize(
    "value",
    [
        object(),
        {"deep": [object()]},
        1j,
        np.zeros(3),
        selfish(),
        pytest.param(10**4200, id="4201 digits"),
        pytest.param(10**5000, id="5001 digits"),
        pytest.param(-(10**5000), id="minus 5001 digits"),
    ],
)
def test_what_cannot_travel_is_a_type_error_of_the_sender(value: Any) -> None:
    with pytest.raises(TypeError):
        encode_message(DisplayMessage("display", {"value": value}))
    assert through_the_wire("the next message") == "the next message"


def test_a_value_that_sends_while_it_is_sent() -> None:
    def nested() -> Iterator[str]:
        for text in ("first", "second" * 100):
            [inner] = decode(encode_message(OutputMessage(text)))
            assert isinstance(inner, OutputMessage)
            yield inner.data

    assert through_the_wire([nested(), "after"]) == [["first", "second" * 100], "after"]


def test_threads_do_not_mix_their_messages() -> None:
    turns = threading.Barrier(2, timeout=10)

    def slowly(name: str) -> Iterator[str]:
        for _ in range(20):
            turns.wait()
            yield name

    results: dict[str, Any] = {}

    def send(name: str) -> None:
        results[name] = through_the_wire([slowly(name), name * 50])

    threads = [threading.Thread(target=send, args=(name,)) for name in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert results == {name: [[name] * 20, name * 50] for name in "ab"}


# -------------------------------------------------------------------- limits


def test_a_length_over_the_limit_raises_before_the_body_has_come() -> None:
    decoder = FrameDecoder(max_frame_size=1000)
    decoder.feed(struct.pack(">I", 1001))
    with pytest.raises(FrameTooLarge, match="1001 bytes is over the limit of 1000 bytes") as info:
        decoder.next_message()
    assert (info.value.size, info.value.limit) == (1001, 1000)


@pytest.mark.parametrize("size", [MAX_FRAME_SIZE, MAX_FRAME_SIZE + 1, 2**32 - 1])
def test_no_length_takes_memory(size: int) -> None:
    tracemalloc.start()
    try:
        decoder = FrameDecoder()
        decoder.feed(struct.pack(">I", size) + b"x" * 100)
        try:
            assert decoder.next_message() is None
        except FrameTooLarge:
            assert size > MAX_FRAME_SIZE
        else:
            assert size <= MAX_FRAME_SIZE
        assert tracemalloc.get_traced_memory()[1] < 100_000
    finally:
        tracemalloc.stop()


def test_the_limit_itself_is_allowed() -> None:
    message = OutputMessage("x" * 500)
    size = len(encode_message(message)) - 4
    encoded = encode_message(message, max_frame_size=size)
    assert decode(encoded, max_frame_size=size) == [message]
    with pytest.raises(FrameTooLarge) as info:
        encode_message(message, max_frame_size=size - 1)
    assert (info.value.size, info.value.limit) == (size, size - 1)


def test_a_large_message_leaves_no_memory_behind() -> None:
    text = "x" * 20_000_000
    tracemalloc.start()
    try:
        decoder = FrameDecoder()
        decoder.feed(encode_message(OutputMessage(text)))
        assert decoder.next_message() is not None
        assert tracemalloc.get_traced_memory()[0] < 1_000_000
    finally:
        tracemalloc.stop()


# ------------------------------------------------------------------- garbage


@given(messages, st.data())
def test_a_truncated_stream(message: Message, data: st.DataObject) -> None:
    encoded = encode_message(message)
    length = data.draw(st.integers(1, len(encoded) - 1))
    decoder = FrameDecoder()
    decoder.feed(encoded[:length])
    assert decoder.next_message() is None
    with pytest.raises(FrameTruncated) as info:
        decoder.finish()
    assert info.value.received == length
    assert info.value.expected == (None if length < 4 else len(encoded))


def test_a_stream_may_end_between_two_frames() -> None:
    assert decode(b"") == []
    assert len(decode(encode_message(HeartbeatMessage()) * 3)) == 3


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"", "ValueError"),
        (b"\xc1", "FormatError"),
        (b"\x81\xa4type", "ValueError"),
        (msgpack.packb({"type": "heartbeat"}) + b"x", "ExtraData"),
        (b"\x91" * 5000, "StackError"),
        (b"\xdd\xff\xff\xff\xff", "ValueError"),
        (b"\xc6\xff\xff\xff\xff", "ValueError"),
        (msgpack.packb([1, 2]), "it holds a list"),
        (msgpack.packb("execute"), "it holds a str"),
        (msgpack.packb(None), "it holds a NoneType"),
        (msgpack.packb({1: 2}), "key 1 is no string"),
        (msgpack.packb({"type": "execute", b"code": ""}), "key b'code' is no string"),
        (b"\x81\x91\x01\x01", "unhashable"),
        (b"\x81\xa1a\xa1\xff", "UnicodeDecodeError"),
        (msgpack.packb({"a": msgpack.ExtType(9, b"")}), "unknown msgpack extension type 9"),
        (msgpack.packb({"a": msgpack.ExtType(1, b"x")}), "unknown msgpack extension type 1"),
        (msgpack.packb({"a": msgpack.ExtType(1, b"--5")}), "ValueError"),
        (msgpack.packb({"a": msgpack.ExtType(1, b"9" * 5000)}), "unknown msgpack extension"),
    ],
)
def test_a_body_that_is_no_map(body: bytes, reason: str) -> None:
    with pytest.raises(InvalidFrame, match="frame is not a msgpack map") as info:
        decode(frame(body))
    assert reason in info.value.reason
    assert info.value.body_start == body[:32]


@pytest.mark.parametrize(
    ("values", "error"),
    [
        ({}, MissingField),
        ({"type": "nothing"}, UnknownMessageType),
        ({"type": "output", "id": "a", "timestamp": 1.0}, MissingField),
        ({"type": "output", "data": 1, "id": "a", "timestamp": 1.0}, InvalidField),
        ({"type": "heartbeat", "id": "a", "timestamp": 1.0, "x": 1}, InvalidField),
    ],
)
def test_a_map_that_is_no_message(values: dict[str, Any], error: type[ProtocolError]) -> None:
    with pytest.raises(error):
        decode(frame(msgpack.packb(values)))


def test_what_came_before_the_garbage_is_delivered() -> None:
    message = HeartbeatMessage(7)
    decoder = FrameDecoder()
    decoder.feed(encode_message(message) + frame(b"\xc1"))
    assert decoder.next_message() == message
    for _ in range(2):
        with pytest.raises(InvalidFrame):
            decoder.next_message()


@given(st.binary(max_size=200))
def test_any_bytes_give_messages_or_an_error_of_the_protocol(data: bytes) -> None:
    for stream in (data, frame(data)):
        try:
            found = decode(stream)
        except ProtocolError:
            continue
        assert all(isinstance(message, Message) for message in found)
