"""What a cell may use, and the use of memory, measured."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from pyrepl_kernel.session.process import group_members

__all__ = ["Limits", "MemoryMeter", "MemoryWatch", "proportional", "resident"]

_HARD_SHARE = 4  # a quarter above the soft limit
_HARD_LEAST = 512 << 20  # and at least so much: a cell takes a moment to stop
_GROWTH = 8 << 30  # bytes a second that a process is thought able to take
_SOONEST, _LATEST = 0.005, 1.0  # seconds between two measurements
_COST_SHARE = 4  # a measurement that took a second is not repeated for that many
_GROUP_PAUSE = 5.0  # seconds between searches for processes that left the tree
_LEEWAY = 64 << 20  # bytes by which a cell may grow that begins above the soft limit
_AGAIN = 5.0  # seconds after which a cell that goes on above its limit is interrupted again
_PAGE = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True)
class Limits:
    """What a cell may use. None is no limit.

    Attributes:
        memory: Bytes that the worker and its children may have together. A cell that passes it is
            interrupted by ``MemoryLimitExceeded``; one that begins above it may grow a little.
        memory_hard: Bytes at which the worker is killed; unless given, a quarter
            above ``memory``, and at least 512 MiB.
        time: Seconds that a cell may run. It is interrupted by ``CellTimeout``; if it ignores
            that, its worker is killed.
        output: Characters that a cell may write to its streams. What is between the first and the
            last half of it is counted and left out.
        output_folder: Where the whole text of a cell above its output limit is written to; empty
            for nowhere.
        interrupt_timeout: Seconds after which a worker is killed whose cell was interrupted and
            runs on.

    Raises:
        ValueError: A limit makes no sense.
    """

    memory: int | None = None
    memory_hard: int | None = None
    time: float | None = None
    output: int | None = None
    output_folder: str = ""
    interrupt_timeout: float | None = None

    def __post_init__(self) -> None:
        for name in ("memory", "memory_hard", "time", "output", "interrupt_timeout"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ValueError(f"the limit {name} is {value!r}; it must be above 0, or None")
        if not isinstance(self.output_folder, str):
            raise TypeError(f"output_folder is {self.output_folder!r}; it must be a path, a str")
        if self.memory and self.memory_hard and self.memory_hard < self.memory:
            raise ValueError(
                f"the hard limit of memory ({self.memory_hard}) is below the soft one "
                f"({self.memory})"
            )

    @property
    def memory_kill(self) -> int | None:
        """Bytes at which the worker is killed."""
        if self.memory_hard is not None or self.memory is None:
            return self.memory_hard
        return self.memory + max(self.memory // _HARD_SHARE, _HARD_LEAST)


class MemoryMeter:
    """Measures a process, its descendants, and what is left of its process group.

    Args:
        pid: The process, leader of its group.
    """

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._strays: list[int] = []
        self._searched = time.monotonic()

    def members(self) -> list[int]:
        """The processes, as far as they are known."""
        if time.monotonic() - self._searched > _GROUP_PAUSE:
            self._strays = group_members(self._pid)
            self._searched = time.monotonic()
        found = dict.fromkeys([self._pid, *self._strays])
        todo = list(found)
        while todo:
            for child in _children(todo.pop()):
                if child not in found:
                    found[child] = None
                    todo.append(child)
        return list(found)

    def most(self) -> int:
        """An upper bound, found quickly: pages that processes share count for each of them."""
        return sum(map(resident, self.members()))

    def exact(self) -> int:
        """Bytes; pages that processes share count once. Takes time."""
        return sum(map(proportional, self.members()))


def _children(pid: int) -> list[int]:
    children: list[int] = []
    with suppress(OSError):  # it has ended
        for task in os.listdir(f"/proc/{pid}/task"):
            with suppress(OSError), open(f"/proc/{pid}/task/{task}/children", "rb") as file:
                children += map(int, file.read().split())
    return children


def resident(pid: int) -> int:
    """The memory of a process, in bytes, in which each page counts in full that it shares."""
    try:
        with open(f"/proc/{pid}/statm", "rb") as file:
            return int(file.read().split()[1]) * _PAGE
    except OSError:
        return 0


def proportional(pid: int) -> int:
    """Its share of memory (PSS), in bytes; takes 10 ms for a GB in huge pages, 60 in small ones."""
    try:
        with open(f"/proc/{pid}/smaps_rollup", "rb") as file:
            for line in file:
                if line.startswith(b"Pss:"):
                    return int(line.split()[1]) * 1024
    except OSError:
        pass  # it has ended, or an old system; what follows tells which
    return resident(pid)


class MemoryWatch:
    """Watches memory while a cell runs: the nearer to a limit, the more often.

    Args:
        meter: What is measured.
        limits: Whose memory limits are watched.
        on_soft: Called with the bytes in use when they pass the limit, and again when a while
            later they are still above it.
        on_hard: Called with the bytes in use when they pass the hard limit, once.
    """

    def __init__(
        self,
        meter: MemoryMeter,
        limits: Limits,
        on_soft: Callable[[int], None],
        on_hard: Callable[[int], None],
    ) -> None:
        self._meter = meter
        self._soft = limits.memory
        self._hard = limits.memory_kill
        self._on_soft = on_soft
        self._on_hard = on_hard
        self._interrupted_at = 0.0
        self._is_first = True
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._look()

    def stop(self) -> None:
        """Watch no longer."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self) -> None:
        begun = time.monotonic()
        used = self._meter.most()
        if used >= min(limit for limit in (self._soft, self._hard) if limit is not None):
            used = self._meter.exact()
            if self._soft is not None and self._is_first:
                # Whoever was interrupted must be able to delete what it was for.
                self._soft = max(self._soft, used + max(self._soft // 20, _LEEWAY))
        self._is_first = False
        cost = time.monotonic() - begun
        if self._hard is not None and used >= self._hard:
            self._timer = None
            self._on_hard(used)
            return
        next_limit = self._hard
        if self._soft is not None and used < self._soft:
            next_limit = self._soft
            self._interrupted_at = 0.0
        elif self._soft is not None and begun - self._interrupted_at > _AGAIN:
            self._interrupted_at = begun
            self._on_soft(used)
        distance = _GROWTH if next_limit is None else next_limit - used
        pause = min(max(distance / _GROWTH, _SOONEST), _LATEST)
        self._timer = self._loop.call_later(max(pause, cost * _COST_SHARE), self._look)
