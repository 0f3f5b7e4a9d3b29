"""The worker's end of the protocol's socket, as far as large parts of messages go."""

from __future__ import annotations

import socket
import threading

import numpy as np
import pytest

from pyrepl_kernel.protocol.framing import ATTACHED, FrameDecoder
from pyrepl_kernel.protocol.messages import Buffer, CommMessage, HeartbeatMessage, Message
from pyrepl_kernel.worker.channel import Channel
from pyrepl_kernel.worker.comms import as_buffers


class CountingSocket(socket.socket):
    """Knows what was to be sent."""

    sent: list[Buffer]

    def send(self, data: Buffer, flags: int = 0, /) -> int:  # type: ignore[override]
        self.sent.append(data)
        return super().send(data, flags)


def received_from(sock: socket.socket, count: int) -> list[Message]:
    decoder = FrameDecoder()
    messages: list[Message] = []
    while len(messages) < count:
        decoder.feed(sock.recv(100_000))
        while (message := decoder.next_message()) is not None:
            messages.append(message)
    return messages


def test_large_parts_are_sent_as_they_are_and_small_ones_together() -> None:
    ours, theirs = socket.socketpair()
    sock = CountingSocket(fileno=ours.detach())
    sock.sent = []
    large = b"x" * ATTACHED
    messages: list[Message] = [
        HeartbeatMessage(1),
        CommMessage("msg", "c", buffers=[large, b"small", large]),
        HeartbeatMessage(2),
        HeartbeatMessage(3),
    ]
    channel = Channel(sock)
    got: list[Message] = []
    reader = threading.Thread(target=lambda: got.extend(received_from(theirs, 4)))
    reader.start()
    channel.send(*messages)
    reader.join(20)
    assert got == messages
    assert [len(part) >= ATTACHED for part in sock.sent] == [False, True, True, False]
    assert sock.sent[1] is large and sock.sent[2] is large
    sock.close()
    theirs.close()


def test_what_nobody_can_change_is_not_copied() -> None:
    data = b"x" * 100
    changing = bytearray(data)
    array = np.arange(6, dtype="int32").reshape(2, 3)
    given, *copies = as_buffers([data, changing, memoryview(changing), memoryview(data), array])
    changing[0] = 0
    before = array.tobytes()
    array[0, 0] = 7
    assert given is data
    assert copies == [data, data, data, before]
    assert as_buffers(None) == []
    with pytest.raises(ValueError, match="not contiguous"):
        as_buffers([memoryview(data)[::2]])
