"""The memory of a kernel: PSS, which splits a shared page among those who share it."""

import os
import time
from collections.abc import Iterable
from pathlib import Path

from .clients import MARK, Kernel
from .errors import KernelFault

_PROC = Path("/proc")
_INTERVAL = 0.5
_STEADY_SAMPLES = 4
_TOLERANCE = 0.01
_LIMIT = 30.0


def resting_pss(kernel: Kernel) -> int:
    """Waits until a kernel's memory no longer changes, and returns it.

    Args:
        kernel: a started kernel that is idle.

    Returns:
        The sum over its processes, in bytes.

    Raises:
        KernelFault: it does not come to rest, or the system does not tell (no Linux).
    """
    if not (_PROC / "self" / "smaps_rollup").exists():
        raise KernelFault("memory is read from /proc/PID/smaps_rollup, which is Linux only")
    deadline = time.perf_counter() + _LIMIT
    samples: list[int] = []
    while time.perf_counter() < deadline:
        samples.append(pss_of(processes_of(kernel)))
        recent = samples[-_STEADY_SAMPLES:]
        if len(recent) == _STEADY_SAMPLES and max(recent) <= min(recent) * (1 + _TOLERANCE):
            return recent[-1]
        time.sleep(_INTERVAL)
    raise KernelFault(f"memory still changes after {_LIMIT:g} s: {samples[-3:]} bytes")


def processes_of(kernel: Kernel) -> set[int]:
    """The kernel's process, all below it, and all that inherited its mark.

    The mark finds what has left the tree, as a daemon that serves several kernels does.
    """
    marked = f"{MARK}={kernel.mark}".encode()
    children: dict[int, list[int]] = {}
    found = {kernel.pid} if kernel.pid is not None else set()
    for entry in _PROC.iterdir():
        if not entry.name.isdigit():
            continue
        pid = int(entry.name)
        try:
            # The name in brackets may hold spaces; state and parent follow the last bracket.
            parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            children.setdefault(parent, []).append(pid)
            if marked in (entry / "environ").read_bytes().split(b"\0"):
                found.add(pid)
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue
    waiting = list(found)
    while waiting:
        for child in children.get(waiting.pop(), ()):
            if child not in found:
                found.add(child)
                waiting.append(child)
    if not found or os.getpid() in found:
        raise KernelFault(f"the processes of {kernel!r} cannot be told from others")
    return found


def pss_of(pids: Iterable[int]) -> int:
    """The sum over some processes, in bytes, at this moment."""
    return sum(map(_pss, pids))


def _pss(pid: int) -> int:
    try:
        lines = (_PROC / str(pid) / "smaps_rollup").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:")), 0)
