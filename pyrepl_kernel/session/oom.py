"""Tells a kill by the system that ran out of memory from any other SIGKILL.

The signal is the same. What differs is a counter: each control group counts the processes that
were killed in it for want of memory (``memory.events`` of version 2, ``memory.oom_control`` of
version 1); where there is no such file, ``/proc/vmstat`` counts for the whole machine.
"""

from __future__ import annotations

import os

__all__ = ["OutOfMemoryKills", "counter_files"]

_VMSTAT = "proc/vmstat"


class OutOfMemoryKills:
    """Counts the kills for want of memory where a process lives.

    Args:
        pid: The process.
        root: Where ``/proc`` and the control groups are found.
    """

    def __init__(self, pid: int, root: str = "/") -> None:
        self._fd = -1
        for path in counter_files(pid, root):
            try:
                fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            except OSError:
                continue
            self._fd = fd
            if self._read() is not None:
                break
            self.close()
        self._seen = self._read()

    def _read(self) -> int | None:
        if self._fd < 0:
            return None
        try:
            text = os.pread(self._fd, 1 << 16, 0)
        except OSError:
            return None  # the control group was removed
        for line in text.splitlines():
            name, _, value = line.partition(b" ")
            if name == b"oom_kill" and value.strip().isdigit():
                return int(value)
        return None

    @property
    def is_known(self) -> bool:
        """Whether this system counts at all."""
        return self._seen is not None

    def note(self) -> None:
        """What happened until now is not of interest."""
        self._seen = self._read()

    def has_grown(self) -> bool:
        """Whether a process was killed for want of memory since the last ``note``."""
        now = self._read()
        return now is not None and self._seen is not None and now > self._seen

    def close(self) -> None:
        """Count no longer."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def counter_files(pid: int, root: str = "/") -> list[str]:
    """Where the kills of a process's control group may be counted, the best place first."""
    places = []
    for controllers, path in _groups_of(pid, root):
        if controllers and "memory" not in controllers:
            continue
        name = "memory.oom_control" if controllers else "memory.events"
        for mount, top in _mounts_of(controllers, pid, root):
            inside = path[len(top) :] if top != "/" and path.startswith(top) else path
            places += [os.path.join(mount, inside.strip("/"), name), os.path.join(mount, name)]
    places.append(os.path.join(root, _VMSTAT))
    return places


def _lines(path: str) -> list[str]:
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            return file.read().splitlines()
    except OSError:
        return []  # no such process any more, or no such system


def _groups_of(pid: int, root: str) -> list[tuple[list[str], str]]:
    """A process's control groups: their controllers (none with version 2), and their paths."""
    found = []
    for line in _lines(os.path.join(root, f"proc/{pid}/cgroup")):
        _, controllers, path = line.split(":", 2)
        found.append((controllers.split(",") if controllers else [], path))
    return found


def _mounts_of(controllers: list[str], pid: int, root: str) -> list[tuple[str, str]]:
    """Where a hierarchy is mounted, and which of its groups is at the top of that mount."""
    found = []
    for line in _lines(os.path.join(root, f"proc/{pid}/mountinfo")):
        before, _, after = line.partition(" - ")
        kind, _, rest = after.partition(" ")
        options = rest.partition(" ")[2]
        fields = before.split(" ")
        if controllers:
            is_it = kind == "cgroup" and "memory" in options.split(",")
        else:
            is_it = kind == "cgroup2"
        if is_it and len(fields) > 4:
            found.append((os.path.join(root, fields[4].lstrip("/")), fields[3]))
    return found
