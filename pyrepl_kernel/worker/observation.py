"""What a process has that a fork would share or lose: threads, descriptors, children, memory.

Read from /proc, so for Linux alone. To whom a thread of a library belongs is read off its stack:
a thread that waits stands in a function of the library that started it.
"""

from __future__ import annotations

import bisect
import os
import re
import struct
import sys
import threading
import time
from collections.abc import Collection, Iterator
from contextlib import suppress
from dataclasses import dataclass

__all__ = ["Glance", "Thread", "children", "glance", "native_threads", "shared_memory"]

_STACK = 4096  # bytes of a stack that are looked at
_PATIENCE = 0.1  # seconds until a thread that computes is taken as it is
_OF_EVERYBODY = re.compile(r"(libc|libpthread|libm|libdl|ld|librt|libstdc\+\+|libgcc_s)[-.]")


@dataclass(frozen=True)
class Thread:
    """A thread that Python's ``threading`` did not start.

    Attributes:
        tid: Its number.
        name: As the operating system knows it, 15 characters.
        library: Path of the library that it waits in; empty when that cannot be told.
    """

    tid: int
    name: str
    library: str


@dataclass(frozen=True)
class Glance:
    """What can be seen in tens of microseconds.

    Attributes:
        threads: The numbers of this process's threads.
        descriptors: Each open descriptor, and what it leads to.
        children: The numbers of the main thread's child processes.
    """

    threads: frozenset[int] = frozenset()
    descriptors: frozenset[tuple[int, str]] = frozenset()
    children: frozenset[int] = frozenset()


def glance() -> Glance:
    """Look at this process's threads, descriptors and children."""
    if sys.platform != "linux":
        return Glance()
    return Glance(
        frozenset(int(name) for name in os.listdir("/proc/self/task")),
        frozenset(_descriptors()),
        frozenset(map(int, _read(f"/proc/self/task/{os.getpid()}/children").split())),
    )


def _descriptors() -> Iterator[tuple[int, str]]:
    for name in os.listdir("/proc/self/fd"):
        with suppress(OSError):  # listdir's own is gone by now
            yield int(name), os.readlink(f"/proc/self/fd/{name}")


def native_threads(known: Collection[int] = ()) -> list[Thread]:
    """The threads that are neither known nor started by ``threading``.

    Args:
        known: Numbers of threads to leave out.
    """
    python = {thread.native_id for thread in threading.enumerate()}
    others = sorted(glance().threads - python - set(known) - {os.getpid()})
    if not others:
        return []
    code = _Code()
    memory = os.open("/proc/self/mem", os.O_RDONLY | os.O_CLOEXEC)
    deadline = time.monotonic() + _PATIENCE
    try:
        return [found for tid in others if (found := _thread(tid, code, memory, deadline))]
    finally:
        os.close(memory)


def _thread(tid: int, code: _Code, memory: int, deadline: float) -> Thread | None:
    try:
        name = _read(f"/proc/self/task/{tid}/comm").strip()
        library = ""
        while not library:
            call = _read(f"/proc/self/task/{tid}/syscall").split()
            if len(call) > 1:
                library = code.owner(memory, int(call[-2], 16))
                break
            # It computes, as OpenMP's and BLAS's do for a moment while they look for more work.
            if time.monotonic() >= deadline:
                break
            time.sleep(0.001)
    except (FileNotFoundError, ProcessLookupError):
        return None  # it has just ended
    except OSError:
        library = ""  # hidden from us: its name has to do
    return Thread(tid, name, library)


class _Code:
    """Which library an address of code belongs to."""

    def __init__(self) -> None:
        self._ranges: list[tuple[int, int, str]] = []
        for line in _read("/proc/self/maps").splitlines():
            fields = line.split(None, 5)
            if "x" in fields[1] and len(fields) == 6 and fields[5].startswith("/"):
                start, _, end = fields[0].partition("-")
                self._ranges.append((int(start, 16), int(end, 16), fields[5]))
        self._starts = [start for start, _, _ in self._ranges]

    def owner(self, memory: int, stack: int) -> str:
        """The innermost caller on a stack that is no library of everybody's."""
        try:
            content = os.pread(memory, _STACK, stack)
        except OSError:
            return ""
        for (word,) in struct.iter_unpack("@P", content[: len(content) // 8 * 8]):
            at = bisect.bisect_right(self._starts, word) - 1
            if at >= 0 and word < self._ranges[at][1]:
                path = self._ranges[at][2]
                if not _OF_EVERYBODY.match(os.path.basename(path)):
                    return path
        return ""


def children() -> dict[int, str]:
    """This process's children that have not ended, with their command lines."""
    found = {}
    for tid in glance().threads:
        with suppress(OSError):
            for pid in map(int, _read(f"/proc/self/task/{tid}/children").split()):
                with suppress(OSError):
                    name, _, rest = _read(f"/proc/{pid}/stat").partition("(")[2].rpartition(")")
                    if not rest.startswith((" Z", " X")):  # ended, and not waited for
                        command = _read(f"/proc/{pid}/cmdline").replace("\0", " ").strip()
                        found[pid] = command or name
    return found


def shared_memory() -> frozenset[str]:
    """Mappings without a file that forks would write to in common."""
    found = set()
    for line in _read("/proc/self/maps").splitlines():
        fields = line.split(None, 5)
        is_nameless = len(fields) == 6 and fields[5].endswith("(deleted)")
        # A semaphore is made anew in the child; see renewal.py.
        if fields[1].startswith("rw") and fields[1].endswith("s") and is_nameless:
            if fields[5].startswith(("/dev/zero", "/dev/shm/pym-")):
                found.add(f"{fields[0]} {fields[5]}")
    return frozenset(found)


def _read(path: str) -> str:
    with open(path, encoding="utf-8", errors="surrogateescape") as file:
        return file.read()
