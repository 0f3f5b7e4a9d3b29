"""zmq's sockets on the event loop, driven by their descriptors."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import zmq

from pyrepl_kernel.kernel.connection import Connection

__all__ = ["Channel", "Heartbeat", "Publisher", "make_context"]

log = logging.getLogger("pyrepl_kernel.kernel")

_LINGER = 1000  # ms that unsent messages have when the kernel ends
_BURST = 64  # messages taken before others get their turn
_ZERO_COPY = 1 << 16  # bytes from which a frame is handed to zmq without a copy
_STUCK = 10.0  # seconds that a subscriber may hold up all output

_KINDS = {
    "shell": zmq.ROUTER,
    "control": zmq.ROUTER,
    "stdin": zmq.ROUTER,
    "iopub": zmq.XPUB,
    "hb": zmq.REP,
}


def make_context() -> zmq.Context[zmq.Socket[bytes]]:
    """The zmq context of a kernel."""
    return zmq.Context()


class Channel:
    """One of the kernel's sockets.

    Args:
        context: zmq's context.
        connection: Where it listens already.
        name: ``shell``, ``control``, ``stdin``, ``iopub`` or ``hb``.
        on_frames: Called with the frames of each message that arrives.
    """

    def __init__(
        self,
        context: zmq.Context[zmq.Socket[bytes]],
        connection: Connection,
        name: str,
        on_frames: Callable[[list[bytes]], None],
    ) -> None:
        self.name = name
        self._on_frames = on_frames
        self._loop = asyncio.get_running_loop()
        self._socket = context.socket(_KINDS[name])
        self._socket.linger = _LINGER
        self._configure(connection.info)
        self._socket.setsockopt(zmq.USE_FD, connection.listeners[name])
        self._socket.bind(connection.endpoint(name))
        self._fd = int(self._socket.getsockopt(zmq.FD))
        self._is_scheduled = False
        self._loop.add_reader(self._fd, self.receive_all)
        # Clients that came before the descriptor was watched left no edge on it.
        self._schedule()

    def _configure(self, info: dict[str, Any]) -> None:
        if _KINDS[self.name] == zmq.ROUTER:
            # A client that reconnects under its old identity takes it over.
            self._socket.setsockopt(zmq.ROUTER_HANDOVER, 1)
            # At a high-water mark a ROUTER drops, and a client waits for its reply for ever.
            self._socket.setsockopt(zmq.SNDHWM, 0)
        if secret := info.get("curve_secretkey"):
            self._socket.curve_secretkey = secret.encode()
            self._socket.curve_publickey = str(info["curve_publickey"]).encode()
            self._socket.curve_server = True

    def _schedule(self) -> None:
        if not self._is_scheduled:
            self._is_scheduled = True
            self._loop.call_soon(self._receive_scheduled)

    def _receive_scheduled(self) -> None:
        self._is_scheduled = False
        self.receive_all()

    def receive_all(self) -> None:
        """Take what has arrived, in bursts."""
        for _ in range(_BURST):
            if self._socket.closed:
                return
            try:
                frames = self._socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            self._on_frames(frames)
        self._schedule()

    def send(self, frames: Sequence[bytes]) -> None:
        """Send a message."""
        self._socket.send_multipart(frames, zmq.NOBLOCK, copy=_is_small(frames))
        self._look_again()

    def _look_again(self) -> None:
        # The descriptor tells of changes only, and sending may have taken one in.
        if int(self._socket.getsockopt(zmq.EVENTS)) & zmq.POLLIN:
            self._schedule()

    def close(self) -> None:
        """Close the socket; what is unsent gets its second."""
        if not self._socket.closed:
            self._loop.remove_reader(self._fd)
            self._socket.close()


def _is_small(frames: Sequence[bytes]) -> bool:
    return all(len(frame) < _ZERO_COPY for frame in frames)


class Heartbeat(Channel):
    """Echoes what it gets, so that clients know that the kernel process runs."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], connection: Connection) -> None:
        super().__init__(context, connection, "hb", self.send)


class Publisher(Channel):
    """iopub. Nothing is dropped: at zmq's high-water mark the worker has to wait.

    Args:
        context: zmq's context.
        connection: Where it listens already.
        on_subscribe: Called with each topic that a client subscribes to.
        on_full: Called when a subscriber does not keep up and output should pause.
        on_room: Called when it may go on.
    """

    def __init__(
        self,
        context: zmq.Context[zmq.Socket[bytes]],
        connection: Connection,
        on_subscribe: Callable[[bytes], None],
        on_full: Callable[[], None],
        on_room: Callable[[], None],
    ) -> None:
        self._unsent: deque[Sequence[bytes]] = deque()
        self._on_subscribe = on_subscribe
        self._on_full = on_full
        self._on_room = on_room
        self._timer: asyncio.TimerHandle | None = None
        super().__init__(context, connection, "iopub", self._on_subscription)

    def _configure(self, info: dict[str, Any]) -> None:
        super()._configure(info)
        self._socket.setsockopt(zmq.XPUB_NODROP, 1)
        # A subscription counts from the moment at which we say so: just before its welcome, which
        # is then the first that the subscriber hears. Second clients are welcomed like the first.
        self._socket.setsockopt(zmq.XPUB_MANUAL, 1)

    def _on_subscription(self, frames: list[bytes]) -> None:
        topic = frames[0][1:]
        if frames[0][:1] == b"\x01":
            self._socket.setsockopt(zmq.SUBSCRIBE, topic)
            self._on_subscribe(topic)
        elif frames[0][:1] == b"\x00":
            self._socket.setsockopt(zmq.UNSUBSCRIBE, topic)

    def send(self, frames: Sequence[bytes]) -> None:
        """Publish a message; it waits here if a subscriber is at the high-water mark."""
        if self._unsent:
            self._unsent.append(frames)
            return
        try:
            super().send(frames)
        except zmq.Again:
            self._unsent.append(frames)
            self._on_full()
            self._timer = self._loop.call_later(_STUCK, self._give_up)

    def receive_all(self) -> None:
        """Take subscriptions, and send what had to wait, if there is room now."""
        super().receive_all()
        if self._unsent and not self._socket.closed:
            self._send_unsent()

    def _send_unsent(self) -> None:
        while self._unsent:
            try:
                self._socket.send_multipart(
                    self._unsent[0], zmq.NOBLOCK, copy=_is_small(self._unsent[0])
                )
            except zmq.Again:
                return
            self._unsent.popleft()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._look_again()
        self._on_room()

    def _give_up(self) -> None:
        """A subscriber has taken nothing for too long: go on, and let it lose messages."""
        log.warning("a client has read no output for %g s; it will miss some", _STUCK)
        self._timer = None
        self._socket.setsockopt(zmq.XPUB_NODROP, 0)
        try:
            self._send_unsent()
        finally:
            self._socket.setsockopt(zmq.XPUB_NODROP, 1)
