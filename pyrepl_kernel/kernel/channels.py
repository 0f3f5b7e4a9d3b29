"""zmq's sockets on the event loop, driven by their descriptors."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import zmq
from zmq.backend import Socket as Backend

from pyrepl_kernel.kernel.connection import Connection
from pyrepl_kernel.kernel.heap import Heap
from pyrepl_kernel.kernel.loans import Loans
from pyrepl_kernel.protocol.messages import Buffer

if TYPE_CHECKING:
    from pyrepl_kernel.kernel.subscribers import Subscribers

__all__ = ["Channel", "Heartbeat", "Publisher", "make_context"]

log = logging.getLogger("pyrepl_kernel.kernel")

_LINGER = 1000  # ms that unsent messages have when the kernel ends
_BURST = 64  # messages taken before others get their turn
_ZERO_COPY = 1 << 16  # bytes from which a frame is handed to zmq without a copy
_STUCK = 30.0
"""Seconds without any progress, until it is noted how much each subscriber has taken, and as long
again until those are given up that have taken nothing since. A client's own zmq takes 500 messages
at once and then none until as many are read: at 20 a second it stands still for 25."""

# zmq's own calls, without the layer of Python above them: for each frame of each message that
# one tells enums and trackers apart, which costs five times what the call itself does.
_send = Backend.send
_receive = Backend.recv
_get = Backend.get
_EVENTS = int(zmq.EVENTS)
_POLLIN = int(zmq.POLLIN)
_LAST = int(zmq.NOBLOCK)
_MORE = int(zmq.NOBLOCK | zmq.SNDMORE)

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
        self.listen(connection)
        self._fd = int(self._socket.getsockopt(zmq.FD))
        self._is_scheduled = False
        self._loop.add_reader(self._fd, self.receive_all)
        # Clients that came before the descriptor was watched left no edge on it.
        self._schedule()

    _lend: Callable[[Buffer], Buffer] | None = None
    """Keeps count of the large frames that zmq holds, where that is done."""

    def listen(self, connection: Connection) -> None:
        """Take over the socket that listens, beside those of before."""
        self._socket.setsockopt(zmq.USE_FD, connection.listeners[self.name])
        self._socket.bind(connection.endpoint(self.name))

    def _configure(self, info: dict[str, Any]) -> None:
        if _KINDS[self.name] == zmq.ROUTER:
            # A client that reconnects under its old identity takes it over.
            self._socket.setsockopt(zmq.ROUTER_HANDOVER, 1)
            # At a high-water mark a ROUTER drops, and a client waits for its reply for ever.
            self._socket.setsockopt(zmq.SNDHWM, 0)
        if self.name == "stdin":
            # It is the only one that speaks first, to a client that may not be connected yet.
            self._socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
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

    def receive_all(self) -> bool:
        """Take what has arrived, in bursts; True when there may be more than one burst."""
        for _ in range(_BURST):
            if self._socket.closed or not self._has_message():
                return False
            try:
                frames = _receive_message(self._socket)
            except zmq.Again:
                return False  # its client has gone since, and it with him
            self._on_frames(frames)
        self._schedule()
        return True

    def _has_message(self) -> bool:
        return bool(int(_get(self._socket, _EVENTS)) & _POLLIN)

    def send(self, frames: Sequence[Buffer]) -> None:
        """Send a message."""
        self.put(frames)
        self.look()

    def put(self, frames: Sequence[Buffer]) -> None:
        """Send a message, and more of them, perhaps; ``look`` has to follow the last."""
        _send_message(self._socket, frames, self._lend)

    def look(self) -> None:
        """Receive what has come; its descriptor does not tell of what sending has taken in."""
        if self._has_message():
            self._schedule()

    def try_send(self, frames: Sequence[Buffer]) -> bool:
        """Send a message; False when its client, on stdin, is not connected, or not yet."""
        try:
            self.send(frames)
        except zmq.ZMQError as error:
            if error.errno != zmq.EHOSTUNREACH:
                raise
            return False
        return True

    def close(self) -> None:
        """Close the socket; what is unsent gets its second."""
        if not self._socket.closed:
            self._loop.remove_reader(self._fd)
            self._socket.close()


def _subscribers_of(port: int) -> Subscribers:
    """The connections to iopub, as the system sees them."""
    from pyrepl_kernel.kernel.subscribers import Subscribers  # few kernels ever need it

    return Subscribers(port)


def _send_message(
    socket: zmq.Socket[bytes],
    frames: Sequence[Buffer],
    lend: Callable[[Buffer], Buffer] | None,
) -> None:
    """Hand a message to zmq.

    Args:
        socket: The socket.
        frames: The message.
        lend: Gets each large frame, and returns it as it is to be sent.

    Raises:
        zmq.Again: There is no room for it; nothing was sent.
    """
    last = len(frames) - 1
    for number, frame in enumerate(frames):
        flags = _MORE if number < last else _LAST
        if len(frame) < _ZERO_COPY:
            _send(socket, frame, flags)
        else:
            _send(socket, frame if lend is None else lend(frame), flags, copy=False)


def _receive_message(socket: zmq.Socket[bytes]) -> list[bytes]:
    """The frames of a message that is there."""
    # As objects of zmq's, which know whether more follow; to ask the socket would cost a call.
    frame = _receive(socket, _LAST, copy=False)
    frames = [frame.bytes]
    while frame.more:
        frame = _receive(socket, _LAST, copy=False)
        frames.append(frame.bytes)
    return frames


class Heartbeat(Channel):
    """Echoes what it gets, so that clients know that the kernel process runs."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], connection: Connection) -> None:
        super().__init__(context, connection, "hb", self.send)


class Publisher(Channel):
    """iopub. Nothing is dropped: when zmq holds much that is unsent, the worker has to wait.

    Much is 32 MB in large frames, or a thousand messages (zmq's high-water mark).

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
        self._unsent: deque[Sequence[Buffer]] = deque()
        self._on_subscribe = on_subscribe
        self._on_full = on_full
        self._on_room = on_room
        self._timer: asyncio.TimerHandle | None = None  # while output pauses
        self._progress_at = 0.0
        is_tcp = connection.info["transport"] == "tcp"
        self._port = int(connection.info["iopub_port"]) if is_tcp else 0
        self._taken: dict[int, int] | None = None  # by whom, since the last progress
        super().__init__(context, connection, "iopub", self._on_subscription)
        self._heap = Heap(self._loop)
        self._lend = self._lend_frame
        self._renew_loans()

    def _configure(self, info: dict[str, Any]) -> None:
        super()._configure(info)
        self._socket.setsockopt(zmq.XPUB_NODROP, 1)
        # A subscription counts from the moment at which we say so: just before its welcome, which
        # is then the first that the subscriber hears. Second clients are welcomed like the first.
        self._socket.setsockopt(zmq.XPUB_MANUAL, 1)

    def _renew_loans(self) -> None:
        self._loans = Loans(self._loop, self._on_progress)

    def _lend_frame(self, frame: Buffer) -> memoryview:
        self._heap.use()
        return self._loans.lend(frame)

    def _on_subscription(self, frames: list[bytes]) -> None:
        topic = frames[0][1:]
        if frames[0][:1] == b"\x01":
            self._socket.setsockopt(zmq.SUBSCRIBE, topic)
            self._on_subscribe(topic)
        elif frames[0][:1] == b"\x00":
            self._socket.setsockopt(zmq.UNSUBSCRIBE, topic)

    def put(self, frames: Sequence[Buffer]) -> None:
        """Publish a message; it waits here if a subscriber is at the high-water mark."""
        if self._unsent:
            self._unsent.append(frames)
            return
        try:
            super().put(frames)
        except zmq.Again:
            self._unsent.append(frames)
            self._schedule()  # for what a ``put`` before this one has taken in: nobody looks now
            self._hold()
        else:
            if self._loans.is_full:
                self._hold()

    def look(self) -> None:
        """As in the base class, unless something is unsent: see ``_send_unsent``."""
        if not self._unsent:
            super().look()

    def receive_all(self) -> bool:
        """Take subscriptions, and send what had to wait, if there is room now."""
        is_more = super().receive_all()
        if self._unsent and not self._socket.closed:
            self._send_unsent()
        return is_more

    def _send_unsent(self) -> None:
        before = len(self._unsent)
        while self._unsent:
            try:
                _send_message(self._socket, self._unsent[0], self._lend)
            except zmq.Again:
                break
            self._unsent.popleft()
        if len(self._unsent) < before:
            # To ask for messages here would take in what zmq says of new room, and the descriptor
            # would not tell of it again. After a round without progress a send that failed is the
            # last that zmq was asked for: whatever changes from then on is told.
            self._schedule()
            self._on_progress()

    def _hold(self) -> None:
        """Have output pause; said again each time, since the worker may be another by now."""
        self._on_full()
        if self._timer is None:
            self._progress_at = self._loop.time()
            self._timer = self._loop.call_later(_STUCK, self._look_for_progress)

    def _on_progress(self) -> None:
        """Subscribers have taken something."""
        self._progress_at = self._loop.time()
        self._taken = None
        if self._timer is not None and not (self._unsent or self._loans.is_full):
            self._timer.cancel()
            self._timer = None
            self._on_room()

    def _look_for_progress(self) -> None:
        since = self._loop.time() - self._progress_at
        if since < _STUCK:
            self._timer = self._loop.call_later(_STUCK - since, self._look_for_progress)
        else:
            self._taken = _subscribers_of(self._port).waited_for()
            self._timer = self._loop.call_later(_STUCK, self._look_who_is_stuck)

    def _look_who_is_stuck(self) -> None:
        if self._taken is None:
            self._look_for_progress()
        elif self._cut_off(self._taken):
            # zmq lets go of what it kept for them, which is the progress that was waited for.
            # Should others be stuck as well, they have their time from here on.
            self._timer = None
            self._hold()
        else:
            self._give_up()

    def _cut_off(self, taken: dict[int, int]) -> bool:
        """End the connections on which nothing more was taken; False if that can be said of none.

        What zmq keeps for a client is freed no other way, and while it is at its high-water mark
        nobody else's output would go on.
        """
        subscribers = _subscribers_of(self._port)
        now = subscribers.waited_for()
        number = subscribers.cut({one for one, much in now.items() if taken.get(one) == much})
        if number:
            log.warning(
                "%d client(s) disconnected that have read no output for %g s; they miss what comes "
                "until they read on, and connect anew",
                number,
                2 * _STUCK,
            )
        return number > 0

    def _give_up(self) -> None:
        """A subscriber has taken nothing for too long: go on, and let it lose messages."""
        log.warning("a client has read no output for %g s; it will miss some", 2 * _STUCK)
        self._loans.close()
        self._renew_loans()  # what that client keeps counts no more
        self._socket.setsockopt(zmq.XPUB_NODROP, 0)
        try:
            self._send_unsent()
        finally:
            self._socket.setsockopt(zmq.XPUB_NODROP, 1)
        self._on_progress()

    def close(self) -> None:
        """Close the socket; what is unsent gets its second."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._heap.close()
        self._loans.close()
        super().close()
