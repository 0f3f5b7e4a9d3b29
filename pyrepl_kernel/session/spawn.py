"""Starts a worker process. Imports next to nothing, for the kernel does this before all else.

What the worker finds:

    fd 0  /dev/null                     the user's code reads end-of-file
    fd 1  a pipe to the session         what C code and children write to stdout
    fd 2  a pipe to the session         likewise stderr, and a dying interpreter's last words
    fd 3  a socket to the session       the protocol
    fd 4  a pipe nobody writes to       its end means that the session's process is gone
    fd 5  a socket to the session       the debugger, which must be heard while a cell runs
"""

from __future__ import annotations

import _socket
import fcntl
import os
import signal
import sys
from collections.abc import Mapping

__all__ = ["DEBUG_FD", "LIFELINE_FD", "PROTOCOL_FD", "Spawned", "spawn_worker"]

PROTOCOL_FD = 3
LIFELINE_FD = 4
DEBUG_FD = 5

# The working directory must not shadow what the worker imports on its way up, so the empty
# entry that -c puts on sys.path goes until the user's code is to run.
_BOOT = "import sys; del sys.path[0]; {path}from pyrepl_kernel.worker.__main__ import main; main()"


class Spawned:
    """A worker process just started, and this side's ends of what ties it to us.

    Attributes:
        pid: The process, leader of a process group of its own.
        socket: The protocol's socket, as a descriptor.
        stdout: Reading end of the worker's descriptor 1.
        stderr: Reading end of the worker's descriptor 2.
        lifeline: The pipe that keeps the worker alive as long as it is open.
        debug_socket: The debugger's socket, as a descriptor.
    """

    __slots__ = ("debug_socket", "lifeline", "pid", "socket", "stderr", "stdout")

    def __init__(
        self, pid: int, socket: int, stdout: int, stderr: int, lifeline: int, debug_socket: int
    ) -> None:
        self.pid = pid
        self.socket = socket
        self.stdout = stdout
        self.stderr = stderr
        self.lifeline = lifeline
        self.debug_socket = debug_socket


def spawn_worker(python: str, env: Mapping[str, str]) -> Spawned:
    """Start a worker process.

    Args:
        python: The interpreter, which must be able to import ``pyrepl_kernel``.
        env: Its whole environment.

    Raises:
        OSError: The interpreter could not be started.
    """
    ours: list[int] = []
    theirs: list[int] = []
    try:
        ours_socket, their_socket = (s.detach() for s in _socket.socketpair())
        ours.append(ours_socket)
        theirs.append(their_socket)
        for _ in range(2):
            reading, writing = os.pipe()
            ours.append(reading)
            theirs.append(writing)
        alive, lifeline = os.pipe()
        ours.append(lifeline)
        theirs.append(alive)
        our_debug, their_debug = (s.detach() for s in _socket.socketpair())
        ours.append(our_debug)
        theirs.append(their_debug)
        pid = _posix_spawn(python, env, theirs)
    except BaseException:
        for fd in ours:
            os.close(fd)
        raise
    finally:
        for fd in theirs:
            os.close(fd)
    return Spawned(pid, *ours)


def _posix_spawn(python: str, env: Mapping[str, str], theirs: list[int]) -> int:
    socket, out, err, alive, debug = theirs
    # Out of the way of the numbers that they are to have.
    high = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 10) for fd in (out, err, socket, alive, debug)]
    actions: list[tuple[int, ...] | tuple[int, int, str, int, int]] = [
        (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0)
    ]
    actions += [
        (os.POSIX_SPAWN_DUP2, fd, number)
        for fd, number in zip(high, (1, 2, PROTOCOL_FD, LIFELINE_FD, DEBUG_FD), strict=True)
    ]
    try:
        return os.posix_spawn(
            python,
            [python, *_interpreter_options(python), "-c", _BOOT.format(path=_extra_path(python))],
            env,
            file_actions=actions,
            setpgroup=0,
            setsigmask=[],
            setsigdef=[signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT],
        )
    finally:
        for fd in high:
            os.close(fd)


def _interpreter_options(python: str) -> list[str]:
    """This interpreter's -X and -W options, for a worker of the same interpreter."""
    if python != sys.executable:
        return []
    options = [f"-W{option}" for option in sys.warnoptions]
    for name, value in sys._xoptions.items():
        options += ["-X", name if value is True else f"{name}={value}"]
    return options


def _extra_path(python: str) -> str:
    """What lets the worker find this package where it is not installed but lies on our path."""
    if python != sys.executable:
        return ""
    home = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    return f"sys.path += [p for p in [{home!r}] if p not in sys.path]; "
