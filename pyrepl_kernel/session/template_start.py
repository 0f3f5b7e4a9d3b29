"""Starts a template process. What it finds:

fd 0, 1  /dev/null
fd 2, 6  a file in memory, where its starter finds the last words of one that died
fd 4     a pipe nobody writes to, until it is warm: a warmup does not outlive who wants it
fd 7     a file in memory: its orders
fd 8     a socket to listen on, or one that is connected to its only user
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping

from pyrepl_kernel.protocol.forking import TemplateMessage
from pyrepl_kernel.protocol.framing import encode_message
from pyrepl_kernel.session.spawn import (
    DEFAULT_SIGNALS,
    LAST_FD,
    LIFELINE_FD,
    STACKS_FD,
    FileActions,
    interpreter_command,
)

__all__ = ["ORDER_FD", "SOCKET_FD", "StartedTemplate", "start_template"]

ORDER_FD = LAST_FD + 1
SOCKET_FD = LAST_FD + 2
_LAST_WORDS = 4096


class StartedTemplate:
    """A template process that this process has started.

    Attributes:
        pid: The process, leader of a session of its own.
    """

    def __init__(self, pid: int, lifeline: int, words: int) -> None:
        self.pid = pid
        self._lifeline = lifeline
        self._words = words
        self._last_words = ""

    @property
    def last_words(self) -> str:
        """The end of what it wrote to its standard error, until ``close``."""
        if self._words < 0:
            return self._last_words
        size = os.fstat(self._words).st_size
        return os.pread(self._words, _LAST_WORDS, max(0, size - _LAST_WORDS)).decode(
            "utf-8", "replace"
        )

    def close(self) -> None:
        """Let go of it: one that is warm lives on, another is killed."""
        self._last_words = self.last_words
        for fd in (self._lifeline, self._words):
            if fd >= 0:
                os.close(fd)
        self._lifeline = self._words = -1


def start_template(
    python: str, env: Mapping[str, str], order: TemplateMessage, sock: socket.socket
) -> StartedTemplate:
    """Start a template.

    Args:
        python: Its interpreter.
        env: Its whole environment.
        order: What it is to do.
        sock: The socket that it listens on, or by which it is connected to its only user.

    Raises:
        OSError: It could not be started.
    """
    opened: list[int] = []
    alive, lifeline = os.pipe()
    try:
        opened.append(alive)
        orders = os.memfd_create("orders", os.MFD_CLOEXEC)
        opened.append(orders)
        _write_all(orders, encode_message(order))
        words = os.memfd_create("stderr", os.MFD_CLOEXEC)
        opened.append(words)
        null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        opened.append(null)
        pid = _exec(
            python,
            env,
            [
                (null, 1),
                (words, 2),
                (alive, LIFELINE_FD),
                (words, STACKS_FD),
                (orders, ORDER_FD),
                (sock.fileno(), SOCKET_FD),
            ],
        )
        opened.remove(words)
    except BaseException:
        os.close(lifeline)
        raise
    finally:
        for fd in opened:
            os.close(fd)
    return StartedTemplate(pid, lifeline, words)


def _exec(python: str, env: Mapping[str, str], pairs: list[tuple[int, int]]) -> int:
    with FileActions(pairs, above=SOCKET_FD) as actions:
        return os.posix_spawn(
            python,
            interpreter_command(python, "template"),
            env,
            file_actions=actions,
            setsid=True,
            setsigmask=[],
            setsigdef=DEFAULT_SIGNALS,
        )


def _write_all(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]
    os.lseek(fd, 0, os.SEEK_SET)
