"""Where the templates of a user are found: ``pyrepl/`` in Jupyter's runtime directory.

    <key>.sock   the socket that a template listens on
    <key>.json   what it says of itself once it is warm
    lock         held while one of them appears or goes

A template whose verdict is against forks leaves its state behind, so that nobody makes it in vain.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import socket
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, fields

from pyrepl_kernel.protocol.forking import peer_is_us
from pyrepl_kernel.session.runtime import templates_dir

__all__ = ["TemplateDirectory", "TemplateState", "start_time_of"]

log = logging.getLogger("pyrepl_kernel.session")

_LONGEST_PATH = 107  # bytes, in a socket's address
REMEMBERED = 24 * 3600.0
"""Seconds for which a verdict against forks is believed."""


@dataclass(frozen=True)
class TemplateState:
    """What a template says of itself.

    Attributes:
        key: Its name.
        pid: Its process.
        start_time: When that process began, in the system's ticks since it was booted.
        warmed_at: When the warmup had run, in seconds since the epoch.
        python: Its interpreter.
        warmup: The warmup's first line.
        verdict: ``fork``, ``quiesce+fork`` or ``spawn``.
        reason: Why.
        advice: What can be done about it.
        cwd: The directory in which the warmup ran.
    """

    key: str
    pid: int
    start_time: int
    warmed_at: float
    python: str
    warmup: str
    verdict: str
    reason: str
    advice: str
    cwd: str

    @property
    def is_running(self) -> bool:
        """Whether its process is there."""
        return start_time_of(self.pid) == self.start_time

    @property
    def can_fork(self) -> bool:
        """Whether it would fork."""
        return self.verdict != "spawn" and self.is_running

    @property
    def is_against_forks(self) -> bool:
        """Whether there is no use in making such a template."""
        return self.verdict == "spawn" and 0 <= time.time() - self.warmed_at < REMEMBERED


_NUMBERS: dict[str, tuple[type, ...]] = {
    "pid": (int,),
    "start_time": (int,),
    "warmed_at": (int, float),
}
_KINDS = {field.name: _NUMBERS.get(field.name, (str,)) for field in fields(TemplateState)}


def start_time_of(pid: int) -> int:
    """When a process began, in ticks since the system was booted; 0 when there is none."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            # The name, in parentheses, may contain anything.
            return int(file.read().rpartition(b")")[2].split()[19])
    except (OSError, ValueError, IndexError):
        return 0


class TemplateDirectory:
    """The directory of a user's templates.

    Args:
        path: Where it is; below Jupyter's runtime directory when not given.
    """

    def __init__(self, path: str = "") -> None:
        self.path = path or templates_dir()

    def prepare(self) -> None:
        """Make it if it is not there, and see that it is nobody else's.

        Raises:
            OSError: It cannot be made, or is not to be trusted.
        """
        os.makedirs(os.path.dirname(self.path), mode=0o700, exist_ok=True)
        with suppress(FileExistsError):
            os.mkdir(self.path, mode=0o700)
        self._check()

    def _check(self) -> None:
        info = os.lstat(self.path)
        if not stat.S_ISDIR(info.st_mode):
            raise NotADirectoryError(f"{self.path} is no directory; remove it")
        if info.st_uid != os.geteuid():
            raise PermissionError(f"{self.path} belongs to user {info.st_uid}; remove it")
        if info.st_mode & 0o077:
            os.chmod(self.path, 0o700)

    def take_lock(self, *, wait: bool = True) -> int:
        """Keep others from starting or ending a template here, until the descriptor is closed.

        Raises:
            BlockingIOError: Somebody else does; only with ``wait=False``.
            OSError: The directory is not there, or not ours.
        """
        path = os.path.join(self.path, "lock")
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BaseException:
            os.close(fd)
            raise
        return fd

    @contextmanager
    def lock(self) -> Iterator[None]:
        """The same for a block; errors likewise."""
        fd = self.take_lock()
        try:
            yield
        finally:
            os.close(fd)

    # ---------------------------------------------------------------- sockets

    def connect(self, key: str) -> socket.socket:
        """Connect to a template; at once, even if it is warming up.

        Raises:
            FileNotFoundError: There is none.
            ConnectionRefusedError: It has died.
            OSError: It cannot be connected to.
        """
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            # Not to wait where others fill the backlog.
            sock.setblocking(False)
            with self._address(key) as address:
                sock.connect(address)
            if not peer_is_us(sock):
                raise PermissionError(f"{self.path}/{key}.sock: another user listens there")
        except BaseException:
            sock.close()
            raise
        return sock

    def listen(self, key: str) -> socket.socket:
        """Make the socket of a template, in place of what a dead one has left.

        Raises:
            OSError: It cannot be made.
        """
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            with suppress(FileNotFoundError):
                os.unlink(self._file(key, "sock"))
            with self._address(key) as address:
                sock.bind(address)
            sock.listen(1024)
        except BaseException:
            sock.close()
            raise
        return sock

    @contextmanager
    def _address(self, key: str) -> Iterator[str]:
        path = self._file(key, "sock")
        if len(os.fsencode(path)) <= _LONGEST_PATH:
            yield path
            return
        fd = os.open(self.path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            yield f"/proc/self/fd/{fd}/{key}.sock"
        finally:
            os.close(fd)

    def _file(self, key: str, kind: str) -> str:
        return os.path.join(self.path, f"{key}.{kind}")

    # ------------------------------------------------------------------ states

    def state(self, key: str) -> TemplateState | None:
        """What a template has said of itself; None when it has not, or not in a way we know."""
        try:
            with open(self._file(key, "json"), encoding="utf-8") as file:
                values = json.load(file)
            state = TemplateState(**{name: values[name] for name in _KINDS})
        except (OSError, ValueError, KeyError, TypeError):
            return None
        is_sound = all(isinstance(getattr(state, name), kind) for name, kind in _KINDS.items())
        return state if is_sound and state.key == key else None

    def states(self) -> list[TemplateState]:
        """Those of all templates that run, the oldest first."""
        found = [self.state(key) for key in self.keys("json")]
        running = [state for state in found if state is not None and state.is_running]
        return sorted(running, key=lambda state: state.warmed_at)

    def write_state(self, state: TemplateState) -> None:
        """Let everybody know; whole or not at all.

        Raises:
            OSError: It cannot be written.
        """
        path = self._file(state.key, "json")
        temporary = f"{path}.{os.getpid()}"
        with open(temporary, "w", encoding="utf-8") as file:
            json.dump(asdict(state), file)
        os.replace(temporary, path)

    def inode(self, key: str) -> tuple[int, int] | None:
        """Which file a template's socket is; None when there is none."""
        try:
            info = os.lstat(self._file(key, "sock"))
        except OSError:
            return None
        return info.st_dev, info.st_ino

    def keys(self, kind: str) -> list[str]:
        """Those of which there is a file of a kind, ``sock`` or ``json``."""
        try:
            names = os.listdir(self.path)
        except OSError:
            return []
        return [name.removesuffix(f".{kind}") for name in names if name.endswith(f".{kind}")]

    def remove(self, key: str, *, state: bool = True) -> None:
        """Remove a template's files; with the lock held."""
        for kind in ("sock", "json") if state else ("sock",):
            try:
                os.unlink(self._file(key, kind))
            except FileNotFoundError:
                continue
            except OSError as error:
                log.warning("%s cannot be removed: %s", self._file(key, kind), error.strerror)

    def sweep(self) -> None:
        """Remove what dead templates have left; with the lock held."""
        for key in self.keys("json"):
            state = self.state(key)
            if state is None or not (state.is_running or state.is_against_forks):
                self.remove(key)
        for key in self.keys("sock"):
            if (state := self.state(key)) is not None and state.is_running:
                continue
            try:
                self.connect(key).close()
            except (ConnectionRefusedError, FileNotFoundError):
                self.remove(key, state=False)
            except OSError:
                continue  # it is there, and busy; or it is none of ours
