"""The debugger's way to a worker: a socket of its own, which is heard while a cell runs.

request() ──▶ future per request ──▶ PipeTransport ──▶ worker's descriptor 5
                     ▲                    │
                     └── DebugReply ◀─────┤
       on_event ◀──── DebugEvent ◀────────┘
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from functools import partial
from typing import Any

from pyrepl_kernel.errors import ProtocolError, TransportClosed
from pyrepl_kernel.protocol.messages import (
    DebugEventMessage,
    DebugMessage,
    DebugReplyMessage,
    Message,
)
from pyrepl_kernel.protocol.transport import PipeTransport

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
        self._replies: dict[str, asyncio.Future[DebugReplyMessage]] = {}

    def request(self, message: DebugMessage) -> asyncio.Future[DebugReplyMessage]:
        """Send a request; the future gets its reply.

        Raises:
            TransportClosed: The worker has closed its end.
            FrameTooLarge: The request is too large; nothing was sent.
            TypeError: The request holds what no message can carry.
        """
        if self._transport is None:
            self._transport = PipeTransport(
                self._socket,
                sink=self._route,
                on_end=self._on_end,
                max_frame_size=self._max_frame_size,
            )
            self._transport.start_now()
        self._transport.send_nowait(message)
        future: asyncio.Future[DebugReplyMessage] = asyncio.get_running_loop().create_future()
        self._replies[message.id] = future
        future.add_done_callback(partial(self._forget, message.id))
        return future

    def _forget(self, request_id: str, _future: asyncio.Future[Any]) -> None:
        self._replies.pop(request_id, None)

    def _route(self, message: Message) -> None:
        if isinstance(message, DebugEventMessage):
            self._on_event(message)
        elif isinstance(message, DebugReplyMessage):
            future = self._replies.get(message.request_id)
            if future is not None and not future.done():
                future.set_result(message)
        else:
            raise ProtocolError(f"a worker's debugger may not send {message.type} messages")

    def _on_end(self, error: Exception | None) -> None:
        # What waits is failed by the owner, who learns why the worker ended.
        if not isinstance(error, TransportClosed):
            self._on_broken(error)

    def fail(self, error: Exception) -> None:
        """End all requests that wait, with the same error."""
        for future in list(self._replies.values()):
            if not future.done():
                future.set_exception(error)
                future.exception()  # seen; whoever waits still gets it
        self._replies.clear()

    def close(self) -> None:
        """The worker is gone."""
        if self._transport is None:
            self._socket.close()
        else:
            self._transport.close_now()
