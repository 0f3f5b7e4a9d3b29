"""The messages between a process that serves forks of itself and those who ask for them.

    asks                                    template
      │ ◀──────────── WarmMessage ──────────── │   once the warmup has run
      │ ─── ForkMessage + descriptors ───────▶ │
      │ ◀── ForkedMessage + pidfd ──────────── │ ──fork──▶ worker
      │ ◀──────────── ExitedMessage ────────── │   when that worker has ended

They travel one by one over a Unix socket that keeps their boundaries.
"""

from __future__ import annotations

import array
import os
import socket
import struct

from pyrepl_kernel.errors import FrameTruncated
from pyrepl_kernel.protocol.framing import decode_body, encode_message
from pyrepl_kernel.protocol.messages import Message, MessageType

__all__ = [
    "ExitedMessage",
    "ForkMessage",
    "ForkedMessage",
    "TemplateMessage",
    "WarmMessage",
    "peer_is_us",
    "receive",
    "send",
]

_MAX_SIZE = 128 * 1024
_MAX_FDS = 16


class TemplateMessage(Message):
    """What a template is told when it is started.

    Args:
        key: Its name in the registry; empty for one that only its starter may use.
        directory: Where the registry is.
        cwd: The working directory of the warmup.
        warmup: Code to run before the first fork.
        ipython: Arguments of IPython's; None to load no configuration of the user's.
        linger: Seconds to stay when nobody is connected any more.
    """

    type = MessageType.TEMPLATE
    key: str = ""
    directory: str = ""
    cwd: str = "/"
    warmup: str = ""
    ipython: list[str] | None = None
    linger: float = 0.0


class WarmMessage(Message):
    """Template → all that connect: the warmup has run, and this came of it.

    Args:
        pid: The template.
        verdict: How workers may be made of it: ``fork``, ``quiesce+fork`` or ``spawn``.
        reason: Why.
        advice: What the user can do to have it otherwise; empty when there is nothing to do.
        ename: Name of the exception's class when the warmup raised, or empty; then the next two.
    """

    type = MessageType.WARM
    pid: int
    verdict: str
    reason: str = ""
    advice: str = ""
    ename: str = ""
    evalue: str = ""
    traceback: list[str] = []


class ForkMessage(Message):
    """Asks for a worker; its descriptors travel along, in the order of ``spawn.WORKER_FDS``."""

    type = MessageType.FORK


class ForkedMessage(Message):
    """The worker is there, and a descriptor of its process (a pidfd) comes along; or it is not.

    Args:
        request_id: The request's id.
        pid: The worker; 0 when there is none.
        error: Why there is none.
    """

    type = MessageType.FORKED
    request_id: str
    pid: int = 0
    error: str = ""


class ExitedMessage(Message):
    """A worker has ended, and was reaped.

    Args:
        pid: The worker.
        status: What ``waitpid`` said; -1 when it could not say.
        peak_memory: The most memory that it had at once, in bytes (resident); 0 if unknown.
        children: How many other processes of its group were left, and ended with it.
    """

    type = MessageType.EXITED
    pid: int
    status: int
    peak_memory: int = 0
    children: int = 0


def send(sock: socket.socket, message: Message, descriptors: list[int] | None = None) -> None:
    """Send a message, and copies of descriptors with it.

    Raises:
        OSError: The peer is gone, or takes no more for now.
    """
    ancillary = []
    if descriptors:
        ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))]
    sock.sendmsg([encode_message(message, _MAX_SIZE)], ancillary, socket.MSG_NOSIGNAL)


def receive(sock: socket.socket) -> tuple[Message | None, list[int]]:
    """A message and the descriptors that came with it; None at the end.

    Raises:
        ProtocolError: It was no message.
        OSError: The connection is broken, or there is nothing for now.
    """
    size = socket.CMSG_SPACE(_MAX_FDS * array.array("i").itemsize)
    data, ancillary, flags, _ = sock.recvmsg(_MAX_SIZE + 4, size, socket.MSG_CMSG_CLOEXEC)
    received = array.array("i")
    for level, kind, content in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            received.frombytes(content[: len(content) - len(content) % received.itemsize])
    descriptors = received.tolist()
    if not data:
        return None, descriptors
    try:
        if flags & socket.MSG_TRUNC:
            raise FrameTruncated(len(data), None)
        return decode_body(memoryview(data)[4:]), descriptors
    except BaseException:
        for fd in descriptors:
            os.close(fd)
        raise


def peer_is_us(sock: socket.socket) -> bool:
    """Whether the process at the other end of a Unix socket is this user's."""
    size = struct.calcsize("3i")
    _, uid, _ = struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size))
    return bool(uid == os.geteuid())
