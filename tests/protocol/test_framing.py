"""Frames: any splitting of any sequence of messages survives, and nothing else gets through."""

from __future__ import annotations

import math
import struct
import sys
import threading
import tracemalloc
import weakref
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, date, datetime
from typing import Any

import msgpack
import numpy as np
import pytest
from hypothesis import given, settings
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
from pyrepl_kernel.protocol import framing
from pyrepl_kernel.protocol.framing import (
    ATTACHED,
    MAX_FRAME_SIZE,
    FrameDecoder,
    KeptMemory,
    encode_message,
    encode_parts,
)
from pyrepl_kernel.protocol.messages import (
    Buffer,
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


def in_pieces(sent: Sequence[Message], piece: int, direct: bool) -> list[Message]:
    """What arrives of messages that come piece by piece, put into the decoder's own room or not."""
    stream = memoryview(b"".join(map(encode_message, sent)))
    decoder = FrameDecoder()
    received: list[Message] = []
    while stream:
        room = decoder.room() if direct else None
        taken = min(piece, len(stream), len(room) if room is not None else piece)
        if room is not None:
            room[:taken] = stream[:taken]
            decoder.filled(taken)
        else:
            decoder.feed(bytes(stream[:taken]))
        stream = stream[taken:]
        while (message := decoder.next_message()) is not None:
            received.append(message)
    decoder.finish()
    return received


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


@settings(max_examples=30)
@given(
    st.lists(st.sampled_from([0, 10, 300_000, 1_500_000]), min_size=1, max_size=4),
    st.integers(1000, 400_000),
    st.booleans(),
)
def test_large_bodies_survive_any_pieces(sizes: list[int], piece: int, direct: bool) -> None:
    sent = [OutputMessage("x" * size, execution_id=str(n)) for n, size in enumerate(sizes)]
    assert in_pieces(sent, piece, direct) == sent


@given(st.lists(st.sampled_from([0, 10, 300, 1500]), min_size=1, max_size=4), st.integers(1, 400))
def test_large_bodies_survive_the_smallest_pieces(sizes: list[int], piece: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(framing, "_LARGE", 256)  # so that few pieces make a large one
        sent = [OutputMessage("x" * size, execution_id=str(n)) for n, size in enumerate(sizes)]
        assert in_pieces(sent, piece, direct=True) == sent


@given(st.integers(0, 900_000))
def test_a_large_body_that_stops_short(length: int) -> None:
    stream = encode_message(OutputMessage("x" * 1_000_000))
    decoder = FrameDecoder()
    for start in range(0, length, 100_000):
        decoder.feed(stream[start : min(start + 100_000, length)])
        assert decoder.next_message() is None
    assert decoder.pending == length
    if length:
        with pytest.raises(FrameTruncated):
            decoder.finish()


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


# --------------------------------------------------------------- attachments

AROUND = [ATTACHED - 1, ATTACHED, ATTACHED + 1, 300_000]


@pytest.mark.parametrize("size", AROUND)
@pytest.mark.parametrize("end", ["x", "\xe4", "\U0001f600", "\ud800", '"'])
def test_a_long_text_arrives(size: int, end: str) -> None:
    text = "x" * (size - 1) + end
    sent = [
        OutputMessage(text),
        DisplayMessage("display", {"a": 1, "b": text, "c": "short", "d": text}),
        DisplayMessage("display", {"nested": [{"deep": text}]}),
    ]
    assert decode(b"".join(map(encode_message, sent))) == sent


@settings(max_examples=30)
@given(
    st.lists(st.sampled_from([0, 1, *AROUND]), max_size=4),
    st.integers(1000, 200_000),
    st.booleans(),
)
def test_buffers_survive_any_pieces(sizes: list[int], piece: int, direct: bool) -> None:
    sent = [
        CommMessage("msg", "c", buffers=[bytes([n]) * size for n, size in enumerate(sizes)]),
        HeartbeatMessage(),
    ]
    assert in_pieces(sent, piece, direct) == sent


def test_an_array_arrives_as_its_bytes() -> None:
    array = np.arange(100_000, dtype="float64").reshape(100, 1000)
    [message] = decode(encode_message(CommMessage("msg", "c", buffers=[memoryview(array.data)])))
    assert isinstance(message, CommMessage)
    assert message.buffers == [array.tobytes()]


def test_attachments_are_sent_as_they_are() -> None:
    buffers: list[Buffer] = [b"a" * ATTACHED, b"small", b"c" * ATTACHED]
    head, *attached = encode_parts(CommMessage("msg", "c", buffers=buffers))
    assert [id(part) for part in attached] == [id(buffers[0]), id(buffers[2])]
    assert len(head) < 1000


@pytest.mark.parametrize("size", [4_000_000, 40_000_000])
def test_attachments_are_not_copied_where_they_arrive(size: int) -> None:
    head, whole = encode_parts(CommMessage("msg", "c", buffers=[b"x" * size]))
    decoder, attached = FrameDecoder(), memoryview(whole)
    decoder.feed(bytes(head))
    tracemalloc.start()
    try:
        assert decoder.next_message() is None
        decoder.feed(bytes(attached[: size // 100]))
        assert decoder.next_message() is None
        room = decoder.room()
        assert room is not None
        room[:] = attached[size // 100 :]
        decoder.filled(len(room))
        message = decoder.next_message()
        # The body itself at most: a huge one is taken from the system.
        assert tracemalloc.get_traced_memory()[1] < size * 1.1 + 100_000
    finally:
        tracemalloc.stop()
    assert isinstance(message, CommMessage)
    assert message.buffers == [attached]


def attached_frame(head: bytes, *attachments: bytes, size: int | None = None) -> bytes:
    """A frame with attachments, around any map; it may lie about the size of that map."""
    body = struct.pack(">I", len(head) if size is None else size) + head + b"".join(attachments)
    return struct.pack(">I", len(body) | 1 << 31) + body


def stands_for(size: int, code: int = 2) -> msgpack.ExtType:
    """What stands in the map for an attachment."""
    return msgpack.ExtType(code, struct.pack(">I", size))


def comm_map(*buffers: Any) -> bytes:
    """The map of a comm message."""
    values = {"type": "comm", "kind": "msg", "comm_id": "c", "id": "i", "timestamp": 0}
    packed: bytes = msgpack.packb({**values, "buffers": list(buffers)})
    return packed


def test_a_small_attachment_is_one_too() -> None:
    stream = attached_frame(comm_map(stands_for(2), b"cd", stands_for(0)), b"ab")
    [message] = decode(stream * 2)[1:]
    assert isinstance(message, CommMessage)
    assert message.buffers == [b"ab", b"cd", b""]


@pytest.mark.parametrize(
    ("stream", "reason"),
    [
        (frame(comm_map(stands_for(0))), "unknown msgpack extension type 2"),
        (frame(comm_map(stands_for(0, 3))), "unknown msgpack extension type 3"),
        (struct.pack(">I", 1 << 31), "it ends before its map"),
        (struct.pack(">I", 3 | 1 << 31) + b"abc", "it ends before its map"),
        (attached_frame(comm_map(), size=10_000), "its map is longer than the frame"),
        (attached_frame(comm_map(), size=2**32 - 1), "its map is longer than the frame"),
        (attached_frame(comm_map(stands_for(3)), b"ab"), "an attachment is longer than"),
        (attached_frame(comm_map(stands_for(2), stands_for(1)), b"ab"), "is longer than"),
        (attached_frame(comm_map(stands_for(1)), b"ab"), "1 bytes belong to nothing"),
        (attached_frame(comm_map(), b"ab"), "2 bytes belong to nothing"),
        (attached_frame(comm_map(stands_for(1, 3)), b"\xff"), "UnicodeDecodeError"),
        (attached_frame(comm_map(msgpack.ExtType(2, b"1"))), "unknown msgpack extension type 2"),
        (attached_frame(b"\xc1"), "FormatError"),
    ],
)
def test_a_frame_with_wrong_attachments(stream: bytes, reason: str) -> None:
    with pytest.raises(InvalidFrame) as info:
        decode(stream)
    assert reason in info.value.reason


def test_the_limit_holds_with_attachments() -> None:
    message = CommMessage("msg", "c", buffers=[b"x" * ATTACHED])
    size = len(encode_message(message)) - 4
    assert decode(encode_message(message, size), size) == [message]
    with pytest.raises(FrameTooLarge) as info:
        encode_message(message, size - 1)
    assert info.value.size == size
    with pytest.raises(FrameTooLarge):
        decode(encode_message(message), size - 1)


def test_a_buffer_that_is_not_contiguous_is_a_type_error_of_the_sender() -> None:
    view = memoryview(b"x" * 4 * ATTACHED)[::2]
    with pytest.raises(TypeError):
        encode_message(CommMessage("msg", "c", buffers=[view]))


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
    buffers: list[Buffer] = [b"", bytes(range(256)), b"x" * 100_000]
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


needs_maps = pytest.mark.skipif(
    sys.platform != "linux", reason="huge bodies have memory of their own on Linux alone"
)
HUGE = 10_000_000


def where(body: memoryview) -> weakref.ref[Any]:
    """What a body lies in, without a reference to it: that would count as one who looks."""
    return weakref.ref(body.obj)


@needs_maps
def test_a_huge_body_lies_where_the_last_one_lay() -> None:
    memory = KeptMemory()
    body = memory.take(HUGE)
    first = where(body)
    for size in (HUGE, HUGE - 1000, HUGE):
        del body
        body = memory.take(size)
        assert len(body) == size
        assert body.obj is first()


@needs_maps
@pytest.mark.parametrize("look", [lambda body: body[10:20], lambda body: body.toreadonly()[1:2]])
def test_a_body_that_somebody_looks_at_is_left_alone(
    look: Callable[[memoryview], memoryview],
) -> None:
    memory = KeptMemory()
    body = memory.take(HUGE)
    body[:] = b"a" * HUGE
    first, seen = where(body), look(body)
    before = bytes(seen)
    del body
    second = memory.take(HUGE)
    assert second.obj is not first()
    second[:] = b"b" * HUGE
    assert bytes(seen) == before
    # And once nobody looks at it, the first serves again.
    del seen
    assert memory.take(HUGE).obj is first()


@needs_maps
def test_a_larger_body_takes_the_place_of_what_was_kept() -> None:
    memory = KeptMemory()
    first = where(memory.take(HUGE))
    assert first() is not None
    larger = where(memory.take(2 * HUGE))
    assert first() is None
    assert memory.take(HUGE).obj is larger()
    # Much memory is not held by a body that needs little of it.
    much = where(memory.take(10 * HUGE))
    assert much() is not None
    assert memory.take(HUGE).obj is not much()


@needs_maps
def test_forgotten_memory_goes_back_when_nobody_looks_at_it() -> None:
    memory = KeptMemory()
    body = memory.take(HUGE)
    gone = weakref.ref(body.obj)
    memory.forget()
    assert gone() is not None
    body[:3] = b"abc"
    del body
    assert gone() is None


def test_small_bodies_are_not_kept() -> None:
    memory = KeptMemory()
    body = memory.take(1_000_000)
    assert len(body) == 1_000_000
    assert isinstance(body.obj, bytearray)
    first = weakref.ref(memory.take(1_000_000))
    assert first() is None
