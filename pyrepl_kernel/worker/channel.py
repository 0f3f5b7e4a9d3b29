"""The worker's end of the protocol: blocking, usable from any thread, and safe under signals.

A signal handler of the user's (or a KeyboardInterrupt) may raise between any two bytecodes of the
main thread. So that no half-sent frame and no received byte is ever lost, what a system call did
is recorded in C, by ``deque.extend(map(...))``, before the interpreter can look at signals; and
each change of state here is the assignment of one attribute.
"""

from __future__ import annotations

import os
import select
import socket
import threading
import warnings
from collections import deque

from pyrepl_kernel.protocol.framing import MAX_FRAME_SIZE, FrameDecoder, encode_parts
from pyrepl_kernel.protocol.messages import Buffer, Message

__all__ = ["Channel", "ChannelClosed"]

_CHUNK = 64 * 1024  # larger ones are fetched from the system and given back each time

_ROOM = 1 << 20  # bytes on their way to the session


class ChannelClosed(Exception):
    """The session has closed its end."""


class Channel:
    """Messages to and from the session.

    Without a socket nothing arrives, and what is sent goes nowhere: so it is in a template, whose
    forks attach the sockets that they are handed.

    Args:
        sock: The protocol's socket, in blocking mode; None until one is attached.
        max_frame_size: Largest frame body either way, in bytes.

    Attributes:
        max_frame_size: The same, for what is sent from now on.
        is_attached: Whether there is a socket.
    """

    _sock: socket.socket

    def __init__(
        self, sock: socket.socket | None = None, max_frame_size: int = MAX_FRAME_SIZE
    ) -> None:
        self.is_attached = sock is not None
        if sock is not None:
            self._sock = _with_room(sock)
        self.max_frame_size = max_frame_size
        self._decoder = FrameDecoder(max_frame_size)
        self._received: deque[bytes] = deque()
        self._read_lock = threading.RLock()
        # Taken for moments only, so that to post something never waits for the session.
        self._post_lock = threading.RLock()
        self._send_lock = threading.RLock()
        # Frames to send, how many of them are out, and what the socket took of the next one.
        self._outgoing: tuple[list[Buffer], int, deque[int]] = ([], 0, deque())
        self._is_sending = False
        self._pid = os.getpid()
        os.register_at_fork(after_in_child=self._after_fork)

    def _after_fork(self) -> None:
        # A child that the user forked shares the socket; a word from it would tear a frame.
        self._read_lock = threading.RLock()
        self._post_lock = threading.RLock()
        self._send_lock = threading.RLock()
        if self.is_attached:
            self._sock.close()

    def attach(self, sock: socket.socket) -> None:
        """Talk to a session through a socket of this process's own, from the beginning."""
        self._sock = _with_room(sock)
        self._pid = os.getpid()
        self._decoder = FrameDecoder(self.max_frame_size)
        self._received.clear()
        self._outgoing = ([], 0, deque())
        self._is_sending = False
        self.is_attached = True

    @property
    def is_ours(self) -> bool:
        """Whether this is the worker itself, and not a child that it forked."""
        return os.getpid() == self._pid

    def fileno(self) -> int:
        """The socket's descriptor; -1 without one."""
        return self._sock.fileno() if self.is_attached else -1

    # ---------------------------------------------------------------- sending

    def send(self, *messages: Message) -> None:
        """Send messages in one go; waits while the session does not take them."""
        self.post(*messages)
        self.flush()

    def post(self, *messages: Message) -> int:
        """Queue messages for the next ``flush``; never waits for the session.

        Returns:
            How many bytes they take.
        """
        if not self.is_attached:
            return 0
        if not self.is_ours:
            warnings.warn(
                "a forked child cannot display anything but text in the notebook", stacklevel=3
            )
            return 0
        parts: list[Buffer] = []
        for message in messages:
            parts += encode_parts(message, self.max_frame_size)
        with self._post_lock:
            self._outgoing[0].extend(parts)
        return sum(map(len, parts))

    def flush(self) -> None:
        """Send what was posted; waits while the session does not take it."""
        with self._send_lock:
            if not self._is_sending and self._outgoing[0]:
                self._send_outgoing()

    def _send_outgoing(self) -> None:
        try:
            self._is_sending = True
            while True:
                fresh: tuple[list[Buffer], int, deque[int]] = ([], 0, deque())
                with self._post_lock:
                    frames, index, taken = self._outgoing
                    if not taken:
                        _join(frames, index)
                    try:
                        frame = frames[index]
                    except IndexError:
                        # No call between that look and this: a signal handler that posts
                        # something does it before the one or after the other.
                        self._outgoing = fresh
                        return
                done = sum(taken)
                if done == len(frame):
                    self._outgoing = (frames, index + 1, deque())
                    continue
                rest = memoryview(frame)[done:] if done else frame
                taken.extend(map(self._sock.send, (rest,)))
        except (BrokenPipeError, ConnectionResetError):
            # The session's process is gone, and the lifeline is about to end this one.
            self._outgoing = ([], 0, deque())
        finally:
            self._is_sending = False

    # --------------------------------------------------------------- receiving

    def receive(self) -> Message:
        """The next message; waits for it.

        Raises:
            ChannelClosed: The session has closed its end.
        """
        while True:
            with self._read_lock:
                message = self._next_message()
                if message is not None:
                    return message
                self._read()

    def receive_nowait(self) -> Message | None:
        """The next message if one has arrived; None otherwise.

        Raises:
            ChannelClosed: The session has closed its end.
        """
        return self.receive_within(0)

    def receive_within(self, timeout: float) -> Message | None:
        """The next message; None when nothing arrives for ``timeout`` seconds.

        Raises:
            ChannelClosed: The session has closed its end.
        """
        with self._read_lock:
            while (message := self._next_message()) is None and self.wait(timeout):
                self._read()
            return message

    def _read(self) -> None:
        try:
            self._received.extend(map(self._sock.recv, (_CHUNK,)))
        except ConnectionResetError:
            # It has closed its end with something of ours unread, a cell's last output perhaps.
            raise ChannelClosed from None

    def _next_message(self) -> Message | None:
        while self._received:
            data = self._received.popleft()
            if not data:
                raise ChannelClosed
            self._decoder.feed(data)
        return self._decoder.next_message()

    def wait(self, timeout: float) -> bool:
        """Whether something arrives within ``timeout`` seconds."""
        if not self.is_attached:
            return False
        poll = select.poll()
        poll.register(self._sock.fileno(), select.POLLIN)
        return bool(poll.poll(timeout * 1000))


def _with_room(sock: socket.socket) -> socket.socket:
    """The socket, with room for a large piece: fewer wakings of either side. As far as allowed."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _ROOM)
    return sock


def _join(parts: list[Buffer], index: int) -> None:
    """Make one of the small parts from an index on: one system call, one reader woken."""
    end, size = index, 0
    while end < len(parts) and size < _CHUNK and len(parts[end]) < _CHUNK:
        size += len(parts[end])
        end += 1
    if end - index > 1:
        joined = b"".join(parts[index:end])
        # In place: a signal handler may have added more in the meantime.
        parts[index:end] = (joined,)
