"""A worker that is the fork of another process: asked for, and told of, over that one's socket."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable
from typing import Protocol

from pyrepl_kernel.errors import ProtocolError, TemplateError
from pyrepl_kernel.protocol.forking import (
    ExitedMessage,
    ForkedMessage,
    ForkMessage,
    WarmMessage,
    receive,
    send,
)
from pyrepl_kernel.protocol.messages import Message
from pyrepl_kernel.session.spawn import Spawned, make_ends

__all__ = ["ExitReports", "ForkRequest", "Forked", "fork_now"]


class ExitReports(Protocol):
    """Whoever reaps forks, and tells how they ended."""

    def when_reaped(self, pid: int, callback: Callable[[ExitedMessage | None], None]) -> bool:
        """Call back once with how it ended, None when that was lost; False: never will."""
        ...


class Forked(Spawned):
    """A worker that was forked.

    Attributes:
        pidfd: A descriptor of its process, which is not our child.
        reports: Where to hear how it ended; None as long as nobody listens.
        origin: The connection over which it was asked for, and the template's greeting, where
            they are still to be taken over by an event loop.
    """

    __slots__ = ("origin", "pidfd", "reports")

    def __init__(self, pid: int, ours: list[int], pidfd: int) -> None:
        super().__init__(pid, *ours)
        self.pidfd = pidfd
        self.reports: ExitReports | None = None
        self.origin: tuple[socket.socket, WarmMessage] | None = None


class ForkRequest:
    """A request for a worker under way; sent as soon as it is made.

    Args:
        sock: The socket of the process that forks.

    Raises:
        OSError: It cannot be sent.
    """

    def __init__(self, sock: socket.socket) -> None:
        message = ForkMessage()
        self.id = message.id
        self._ours, theirs = make_ends()
        try:
            send(sock, message, theirs)
        except BaseException:
            self.drop()
            raise
        finally:
            for fd in theirs:
                os.close(fd)

    def take(self, reply: ForkedMessage, descriptors: list[int]) -> Forked:
        """The worker that came of it.

        Raises:
            TemplateError: None did.
        """
        if not reply.pid or len(descriptors) != 1:
            _close_all(descriptors)
            self.drop()
            raise TemplateError(reply.error or "the template's answer made no sense")
        ours, self._ours = self._ours, []
        return Forked(reply.pid, ours, descriptors[0])

    def drop(self) -> None:
        """Nobody wants it any more; a worker that comes of it all the same ends at once."""
        _close_all(self._ours)
        self._ours = []


def fork_now(sock: socket.socket, timeout: float) -> tuple[WarmMessage, Forked]:
    """Get a worker of a template that is warm, without an event loop.

    Args:
        sock: A connection to the template just made.
        timeout: Seconds until it must be there.

    Raises:
        TemplateError: It does not fork, or not in time.
        ProtocolError: It is no template.
        OSError: It is gone.
    """
    deadline = time.monotonic() + timeout
    warm, _ = _receive_until(sock, deadline)
    if not isinstance(warm, WarmMessage):
        raise ProtocolError(f"a template greeted with {warm!r}")
    if warm.verdict == "spawn":
        raise TemplateError(warm.reason)
    request = ForkRequest(sock)
    try:
        reply, descriptors = _receive_until(sock, deadline)
        if not isinstance(reply, ForkedMessage):
            _close_all(descriptors)
            raise ProtocolError(f"a template answered with {reply!r}")
        return warm, request.take(reply, descriptors)
    except BaseException:
        request.drop()
        raise


def _receive_until(sock: socket.socket, deadline: float) -> tuple[Message, list[int]]:
    sock.settimeout(max(0.001, deadline - time.monotonic()))
    message, descriptors = receive(sock)
    if message is None:
        _close_all(descriptors)
        raise TemplateError("the template has gone")
    return message, descriptors


def _close_all(descriptors: list[int]) -> None:
    for fd in descriptors:
        os.close(fd)
