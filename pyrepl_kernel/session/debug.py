"""The debugger's way to a worker: a socket of its own, which is heard while a cell runs.

What goes to subshells takes it too; their answers come by the protocol's socket, in order with
all other output.

request() ──▶ future per request ──▶ PipeTransport ──▶ worker's descriptor 5
                     ▲                    │
                     └── DebugReply ◀─────┤
       on_event ◀──── DebugEvent ◀────────┘
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable

from pyrepl_kernel.errors import ProtocolError, TransportClosed
from pyrepl_kernel.protocol.messages import (
    DebugEventMessage,
    DebugMessage,
    DebugReplyMessage,
    Message,
)
from pyrepl_kernel.protocol.transport import PipeTransport
from pyrepl_kernel.session.replies import Replies

__all__ = ["DebugLink"]


class DebugLink:
    """Requests to a worker's debugger, their replies, and events. Costs nothing until used.

    Args:
        fd: This side's end of the debugger's socket, which this object owns.
        on_event: Called with each event.
        on_broken: Called when the worker closed its end, or with the error when it broke the
            protocol here.
        max_frame_size: Largest message either way, in bytes.
    """

    def __init__(
        self,
        fd: int,
        on_event: Callable[[DebugEventMessage], None],
        on_broken: Callable[[Exception | None], None],
        max_frame_size: int,
    ) -> None:
        self._socket = socket.socket(fileno=fd)
        self._on_event = on_event
        self._on_broken = on_broken
        self._max_frame_size = max_frame_size
        self._transport: PipeTransport | None = None
        self._replies = Replies()

    def request(self, message: DebugMessage) -> asyncio.Future[DebugReplyMessage]:
        """Send a request; the future gets its reply.

        Raises:
            TransportClosed: The worker has closed its end.
            FrameTooLarge: The request is too large; nothing was sent.
            TypeError: The request holds what no message can carry.
        """
        self.send(message)
        return self._replies.expect(message.id)

    def send(self, message: Message) -> None:
        """Send a message that is not answered here; errors as ``request``."""
        if self._transport is None:
            self._transport = PipeTransport(
                self._socket,
                sink=self._route,
                on_end=self._on_end,
                max_frame_size=self._max_frame_size,
            )
            self._transport.start_now()
        self._transport.send_nowait(message)

    def _route(self, message: Message) -> None:
        if isinstance(message, DebugEventMessage):
            self._on_event(message)
        elif isinstance(message, DebugReplyMessage):
            self._replies.arrive(message.request_id, message)
        else:
            raise ProtocolError(f"a worker's debugger may not send {message.type} messages")

    def _on_end(self, error: Exception | None) -> None:
        # What waits is failed by the owner, who learns why the worker ended.
        if not isinstance(error, TransportClosed):
            self._on_broken(error)

    def fail(self, error: Exception) -> None:
        """End all requests that wait, with the same error."""
        self._replies.fail(error)

    def close(self) -> None:
        """The worker is gone."""
        if self._transport is None:
            self._socket.close()
        else:
            self._transport.close_now()
