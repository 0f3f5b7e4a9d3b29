"""Starts a worker process. Imports next to nothing, for the kernel does this before all else.

What the worker finds:

    fd 0  /dev/null                     the user's code reads end-of-file
    fd 1  a pipe to the session         what C code and children write to stdout
    fd 2  a pipe to the session         likewise stderr, and a dying interpreter's last words
    fd 3  a socket to the session       the protocol
    fd 4  a pipe nobody writes to       its end means that the session's process is gone
    fd 5  a socket to the session       the debugger, which must be heard while a cell runs
    fd 6  a pipe to the session         Python stacks: at a crash, and when a hang is looked into
    fd 7  a file that the session has   why the cell at work is interrupted, if it is not the user
    fd 8  a socket to the session       the sockets of its checkpoints

``WORKER_FDS`` has the same as a table, for whoever hands them to a worker.
"""

from __future__ import annotations

import _socket
import fcntl
import os
import signal
import sys
from collections.abc import Callable, Iterable, Mapping

__all__ = [
    "CHECKPOINTS_FD",
    "DEBUG_FD",
    "DEFAULT_SIGNALS",
    "LAST_FD",
    "LIFELINE_FD",
    "NOTES_FD",
    "PROTOCOL_FD",
    "STACKS_FD",
    "STACKS_SIGNAL",
    "WORKER_FDS",
    "FileActions",
    "Spawned",
    "interpreter_command",
    "make_ends",
    "spawn_worker",
]

STDOUT_FD = 1
STDERR_FD = 2
PROTOCOL_FD = 3
LIFELINE_FD = 4
DEBUG_FD = 5
STACKS_FD = 6
NOTES_FD = 7
CHECKPOINTS_FD = 8
LAST_FD = CHECKPOINTS_FD

STACKS_SIGNAL: int = signal.SIGRTMAX - 3 if hasattr(signal, "SIGRTMAX") else 7  # SIGEMT
"""Upon this signal a worker writes the stacks of its threads, whatever they are doing. Nobody else
is known to use it; the user's code has SIGUSR1 and SIGUSR2 to itself."""

# The working directory must not shadow what the worker imports on its way up, so the empty
# entry that -c puts on sys.path goes until the user's code is to run. Python 3.13 keeps this line
# as the source of "<string>", which tracebacks and pdb would show for whatever the user evaluates.
_BOOT = (
    "import sys; del sys.path[0]; {path}"
    "'linecache' in sys.modules and sys.modules['linecache'].clearcache(); "
    "from pyrepl_kernel.worker.{module} import main; main()"
)


def _socketpair() -> tuple[int, int]:
    ours, theirs = _socket.socketpair()
    return ours.detach(), theirs.detach()


def _packet_socketpair() -> tuple[int, int]:
    # Where there are none of this kind there are no checkpoints, and any socket will do.
    kind = _socket.SOCK_SEQPACKET if sys.platform == "linux" else _socket.SOCK_DGRAM
    ours, theirs = _socket.socketpair(_socket.AF_UNIX, kind)
    return ours.detach(), theirs.detach()


def _pipe_from_worker() -> tuple[int, int]:
    reading, writing = os.pipe()
    return reading, writing


def _pipe_to_worker() -> tuple[int, int]:
    reading, writing = os.pipe()
    return writing, reading


def _shared_file() -> tuple[int, int]:
    if hasattr(os, "memfd_create"):
        fd = os.memfd_create("pyrepl-notes")
    else:
        import tempfile

        with tempfile.TemporaryFile() as file:
            fd = os.dup(file.fileno())
    return fd, os.dup(fd)


WORKER_FDS: tuple[tuple[str, int, Callable[[], tuple[int, int]]], ...] = (
    ("socket", PROTOCOL_FD, _socketpair),
    ("stdout", STDOUT_FD, _pipe_from_worker),
    ("stderr", STDERR_FD, _pipe_from_worker),
    ("lifeline", LIFELINE_FD, _pipe_to_worker),
    ("debug_socket", DEBUG_FD, _socketpair),
    ("stacks", STACKS_FD, _pipe_from_worker),
    ("notes", NOTES_FD, _shared_file),
    ("checkpoints", CHECKPOINTS_FD, _packet_socketpair),
)
"""All that ties a worker to its session: the name of our end (as in ``Spawned``), the number that
the worker knows its own end by, and what makes the two ends."""


class Spawned:
    """A worker process just started, and this side's ends of what ties it to us.

    Attributes:
        pid: The process, leader of a process group of its own.
        socket: The protocol's socket, as a descriptor.
        stdout: Reading end of the worker's descriptor 1.
        stderr: Reading end of the worker's descriptor 2.
        lifeline: The pipe that keeps the worker alive as long as it is open.
        debug_socket: The debugger's socket, as a descriptor.
        stacks: Reading end of the pipe for Python stacks.
        notes: The file that says why a cell is interrupted.
        checkpoints: The socket by which the worker hands over those of its checkpoints.
    """

    __slots__ = (
        "checkpoints",
        "debug_socket",
        "lifeline",
        "notes",
        "pid",
        "socket",
        "stacks",
        "stderr",
        "stdout",
    )

    def __init__(
        self,
        pid: int,
        socket: int,
        stdout: int,
        stderr: int,
        lifeline: int,
        debug_socket: int,
        stacks: int,
        notes: int,
        checkpoints: int,
    ) -> None:
        self.pid = pid
        self.socket = socket
        self.stdout = stdout
        self.stderr = stderr
        self.lifeline = lifeline
        self.debug_socket = debug_socket
        self.stacks = stacks
        self.notes = notes
        self.checkpoints = checkpoints


def make_ends() -> tuple[list[int], list[int]]:
    """Both ends of all that ties a worker to its session: ours and the worker's.

    Both lists are in the order of ``WORKER_FDS``; the caller owns the descriptors.
    """
    ours: list[int] = []
    theirs: list[int] = []
    try:
        for _, _, make in WORKER_FDS:
            our_end, their_end = make()
            ours.append(our_end)
            theirs.append(their_end)
    except BaseException:
        for fd in ours + theirs:
            os.close(fd)
        raise
    return ours, theirs


def spawn_worker(python: str, env: Mapping[str, str]) -> Spawned:
    """Start a worker process.

    Args:
        python: The interpreter, which must be able to import ``pyrepl_kernel``.
        env: Its whole environment.

    Raises:
        OSError: The interpreter could not be started.
    """
    ours, theirs = make_ends()
    numbers = [number for _, number, _ in WORKER_FDS]
    try:
        with FileActions(zip(theirs, numbers, strict=True)) as actions:
            pid = os.posix_spawn(
                python,
                interpreter_command(python, "__main__"),
                env,
                file_actions=actions,
                setpgroup=0,
                setsigmask=[],
                setsigdef=DEFAULT_SIGNALS,
            )
    except BaseException:
        for fd in ours:
            os.close(fd)
        raise
    finally:
        for fd in theirs:
            os.close(fd)
    return Spawned(pid, *ours)


DEFAULT_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
"""Signals that a host may ignore, and that a process of ours begins with as usual."""


class FileActions:
    """The file actions that give descriptors their numbers in a process that is started.

    Args:
        pairs: Descriptors, and the numbers that they are to have there. Number 0 reads
            end-of-file.
        above: The highest of the numbers.
    """

    def __init__(self, pairs: Iterable[tuple[int, int]], above: int = LAST_FD) -> None:
        self._pairs = list(pairs)
        self._above = above
        self._high: list[int] = []

    def __enter__(self) -> list[tuple[int, ...] | tuple[int, int, str, int, int]]:
        # Out of the way of the numbers that they are to have.
        least = self._above + 1
        self._high = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, least) for fd, _ in self._pairs]
        return [
            (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
            *(
                (os.POSIX_SPAWN_DUP2, fd, number)
                for fd, (_, number) in zip(self._high, self._pairs, strict=True)
            ),
        ]

    def __exit__(self, *exc_info: object) -> None:
        for fd in self._high:
            os.close(fd)


def interpreter_command(python: str, module: str) -> list[str]:
    """The command line that runs ``main()`` of a module of the worker's."""
    boot = _BOOT.format(path=_extra_path(python), module=module)
    return [python, *_interpreter_options(python), "-c", boot]


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
