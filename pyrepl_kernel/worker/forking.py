"""Serves forks of this process: on request it forks, and the child becomes a worker.

    connection ──▶ ForkMessage + descriptors ──▶ fork ──▶ child: serve() returns the truth there,
        ▲                                         │              and its descriptors are in place
        │                                         ▼
        └──── ForkedMessage, ExitedMessage ◀── a pidfd for each child

The process has one thread, and waits for nothing but descriptors. It keeps none of a worker's.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import sys
import traceback
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from time import monotonic

from pyrepl_kernel.errors import ProtocolError
from pyrepl_kernel.protocol.forking import (
    ExitedMessage,
    ForkedMessage,
    ForkMessage,
    peer_is_us,
    receive,
    send,
)
from pyrepl_kernel.protocol.messages import Message
from pyrepl_kernel.session.groups import end_group, group_members
from pyrepl_kernel.session.spawn import WORKER_FDS
from pyrepl_kernel.worker.descriptors import claim_descriptors, place_descriptors

__all__ = ["ForkRefused", "Forker"]


class ForkRefused(Exception):
    """This process is not to be forked; the message says why."""


@dataclass(slots=True)
class _Child:
    """A worker that was forked, and the connection that asked for it."""

    pid: int
    asker: int


class Forker:
    """Serves forks of this process.

    Args:
        greeting: Sent to each who connects; None for nothing.
        before_fork: Called just before each fork; may raise ``ForkRefused``.
        after_fork: Called in each child, when its descriptors are in place.
    """

    def __init__(
        self,
        greeting: Message | None = None,
        before_fork: Callable[[], None] = lambda: None,
        after_fork: Callable[[], None] = lambda: None,
    ) -> None:
        self._greeting = greeting
        self._before_fork = before_fork
        self._after_fork = after_fork
        self._listener: socket.socket | None = None
        self._connections: dict[int, socket.socket] = {}
        self._children: dict[int, _Child] = {}  # by their pidfd
        self._poll = select.poll()
        self._wakeup: tuple[int, int] | None = None
        self._is_told_to_end = False
        self._previous_handler: object = None
        self._previous_wakeup = -1

    # ------------------------------------------------------------ whom it serves

    def listen(self, listener: socket.socket) -> None:
        """Serve all of this user's processes that connect."""
        listener.setblocking(False)
        self._listener = listener
        self._poll.register(listener, select.POLLIN)

    def connect(self, sock: socket.socket) -> None:
        """Serve the process at the other end."""
        sock.setblocking(False)
        self._connections[sock.fileno()] = sock
        self._poll.register(sock, select.POLLIN)
        if self._greeting is not None:
            self._tell(sock.fileno(), self._greeting)

    def serve(self, linger: float, may_leave: Callable[[], bool] = lambda: True) -> bool:
        """Serve until nobody is connected, or SIGTERM comes.

        Args:
            linger: Seconds to go on when nobody is connected.
            may_leave: Asked when they are over; False when somebody has connected just now.

        Returns:
            True in each forked process, once; False in this one, in the end.
        """
        self._listen_to_signals()
        while not self._is_told_to_end:
            alone_since = monotonic()
            while not self._connections:
                left = alone_since + linger - monotonic()
                if left <= 0 and self._accept_all() == 0 and may_leave():
                    return False
                if self._turn(max(0.0, left)):
                    return True
                if self._is_told_to_end:
                    return False
            if self._turn(None):
                return True
        return False

    def _turn(self, timeout: float | None) -> bool:
        """Wait for something, and deal with it; True in a child."""
        for fd, _ in self._poll.poll(None if timeout is None else timeout * 1000):
            if fd in self._children:
                self._reap(fd)
            elif fd in self._connections:
                if self._answer(fd):
                    return True
            elif self._wakeup is not None and fd == self._wakeup[0]:
                os.read(fd, 4096)
            else:
                self._accept_all()
        return False

    def _accept_all(self) -> int:
        """Take in all who wait; how many there were."""
        number = 0
        while self._listener is not None:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                break  # nobody any more, or one who has gone again
            if not peer_is_us(sock):
                sock.close()
                continue
            self.connect(sock)
            number += 1
        return number

    def _listen_to_signals(self) -> None:
        if self._wakeup is not None:
            return
        reading, writing = os.pipe()
        os.set_blocking(writing, False)
        self._wakeup = reading, writing
        self._poll.register(reading, select.POLLIN)
        self._previous_wakeup = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
        self._previous_handler = signal.signal(signal.SIGTERM, self._end)

    def _end(self, *_: object) -> None:
        self._is_told_to_end = True

    # -------------------------------------------------------------------- asked

    def _answer(self, fd: int) -> bool:
        """Read a connection's message and do what it asks; True in a child."""
        try:
            message, descriptors = receive(self._connections[fd])
        except (BlockingIOError, InterruptedError):
            return False
        except (OSError, ProtocolError):
            self._drop(fd)
            return False
        if not isinstance(message, ForkMessage) or len(descriptors) != len(WORKER_FDS):
            _close_all(descriptors)
            self._drop(fd)
            return False
        return self._fork(fd, message, descriptors)

    def _fork(self, asker: int, request: ForkMessage, descriptors: list[int]) -> bool:
        try:
            self._before_fork()
            pid = _fork()
        except (OSError, ForkRefused) as error:
            _close_all(descriptors)
            reason = f"cannot fork: {error.strerror}" if isinstance(error, OSError) else str(error)
            self._tell(asker, ForkedMessage(request.id, error=reason))
            return False
        if pid == 0:
            self._be_child(descriptors)
            return True
        _close_all(descriptors)
        with suppress(OSError):  # the child does it too; whoever is first
            os.setpgid(pid, pid)
        try:
            pidfd = os.pidfd_open(pid)
        except OSError as error:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            self._tell(asker, ForkedMessage(request.id, error=f"no pidfd: {error.strerror}"))
            return False
        self._children[pidfd] = _Child(pid, asker)
        self._poll.register(pidfd, select.POLLIN)
        self._tell(asker, ForkedMessage(request.id, pid), [pidfd])
        return False

    def _be_child(self, descriptors: Sequence[int]) -> None:
        try:
            os.setpgid(0, 0)
            place_descriptors(descriptors)
            claim_descriptors()
            self._forget_all()
            self._after_fork()
        except BaseException:
            # On the worker's stderr, if that is in place; never on into the forker's own loop.
            os.write(2, traceback.format_exc().encode())
            os._exit(1)

    def _forget_all(self) -> None:
        """In a child: close what is the forker's."""
        signal.set_wakeup_fd(self._previous_wakeup)
        signal.signal(signal.SIGTERM, self._previous_handler)  # type: ignore[arg-type]
        _close_all([*self._children, *(self._wakeup or ())])
        for sock in self._connections.values():
            sock.close()
        if self._listener is not None:
            self._listener.close()
            self._listener = None
        self._children.clear()
        self._connections.clear()
        self._wakeup = None
        self._poll = select.poll()

    # ------------------------------------------------------------------- telling

    def _tell(self, fd: int, message: Message, descriptors: list[int] | None = None) -> None:
        if fd not in self._connections:
            return
        try:
            send(self._connections[fd], message, descriptors)
        except OSError:
            # Gone, or it has not read for so long that there is no room: it asks again.
            self._drop(fd)

    def _drop(self, fd: int) -> None:
        self._poll.unregister(fd)
        self._connections.pop(fd).close()
        for child in self._children.values():
            if child.asker == fd:
                child.asker = -1  # another connection may get the number

    def _reap(self, pidfd: int) -> None:
        child = self._children.pop(pidfd)
        self._poll.unregister(pidfd)
        os.close(pidfd)
        children = len(group_members(child.pid))
        # Its children go with it, and first: until the leader is reaped, nobody else can come by
        # the number of its process group.
        end_group(child.pid)
        try:
            _, status, usage = os.wait4(child.pid, 0)
        except ChildProcessError:
            # The user's warmup ignores SIGCHLD: nobody knows.
            self._tell(child.asker, ExitedMessage(child.pid, -1))
            return
        memory = usage.ru_maxrss * 1024
        self._tell(child.asker, ExitedMessage(child.pid, status, memory, children))


def _fork() -> int:
    if sys.version_info < (3, 12):
        return os.fork()
    with warnings.catch_warnings():
        # Threads of native libraries are judged before anything is forked here.
        warnings.simplefilter("ignore", DeprecationWarning)
        return os.fork()


def _close_all(descriptors: Sequence[int]) -> None:
    for fd in descriptors:
        os.close(fd)
