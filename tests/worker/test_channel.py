"""The worker's end of the protocol."""

from __future__ import annotations

import socket
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
