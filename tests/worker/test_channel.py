"""The worker's end of the protocol."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable

import pytest

from pyrepl_kernel.protocol.framing import encode_message
from pyrepl_kernel.protocol.messages import HeartbeatMessage, Message
from pyrepl_kernel.worker.channel import Channel, ChannelClosed

Receive = Callable[[Channel], Message | None]


@pytest.mark.parametrize("receive", [Channel.receive, Channel.receive_nowait])
@pytest.mark.parametrize("has_read", [True, False], ids=["read", "unread"])
def test_a_session_that_goes_has_closed_it_whatever_it_left_unread(
    has_read: bool, receive: Receive
) -> None:
    ours, theirs = socket.socketpair()
    channel = Channel(ours)
    try:
        channel.send(HeartbeatMessage())
        last = HeartbeatMessage()
        theirs.sendall(encode_message(last, channel.max_frame_size))
        if has_read:
            theirs.recv(65536)
        theirs.close()
        assert receive(channel) == last
        with pytest.raises(ChannelClosed):
            receive(channel)
    finally:
        ours.close()


def test_a_message_in_pieces_is_waited_for_as_long_as_pieces_come() -> None:
    ours, theirs = socket.socketpair()
    channel = Channel(ours)
    message = HeartbeatMessage()
    frame = encode_message(message, channel.max_frame_size)
    try:
        theirs.sendall(frame[:3])
        sender = threading.Timer(0.05, theirs.sendall, [frame[3:]])
        sender.start()
        assert channel.receive_within(60) == message
        sender.join()
        assert channel.receive_within(0.01) is None
    finally:
        ours.close()
        theirs.close()
