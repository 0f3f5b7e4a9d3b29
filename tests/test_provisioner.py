"""The provisioner's end of the socket to the kernel process."""

from __future__ import annotations

import asyncio
import socket

from pyrepl_kernel.protocol.framing import FrameDecoder, encode_message
from pyrepl_kernel.protocol.messages import LeashReplyMessage, Message, RetireMessage
from pyrepl_kernel.provisioner import _Leash

ENOUGH = 30.0


async def receive(sock: socket.socket, decoder: FrameDecoder) -> Message:
    """What the kernel process gets."""
    loop = asyncio.get_running_loop()
    while (message := decoder.next_message()) is None:
        decoder.feed(await loop.sock_recv(sock, 1 << 16))
    return message


async def test_a_reply_reaches_who_asked_even_if_somebody_else_has_read_it() -> None:
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    leash = _Leash(ours)
    try:
        asking = [asyncio.create_task(leash.ask(RetireMessage(False), ENOUGH)) for _ in range(2)]
        decoder = FrameDecoder()
        for _ in asking:
            question = await receive(theirs, decoder)
            theirs.send(encode_message(LeashReplyMessage(question.id)))
            assert not leash.is_starting  # which reads what has come
        async with asyncio.timeout(ENOUGH / 2):
            replies = await asyncio.gather(*asking)
        assert all(reply is not None and not reply.error for reply in replies)
    finally:
        leash.close()
        theirs.close()
