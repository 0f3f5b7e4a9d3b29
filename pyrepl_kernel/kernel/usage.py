"""What the user's code costs the machine: the worker's process and all that it started."""

from __future__ import annotations

import os
import socket
from typing import Any

__all__ = ["UsageMeter"]


class UsageMeter:
    """Measures a worker's tree of processes; keeps each process, as its CPU share needs it."""

    def __init__(self) -> None:
        self._known: dict[int, Any] = {}

    def measure(self, pid: int | None) -> dict[str, Any]:
        """The content of ``usage_reply``.

        Memory is in bytes (proportional set size where the system tells it), CPU in percent of
        one core since the last measurement.

        Args:
            pid: The worker; None when there is none.
        """
        content: dict[str, Any] = {"hostname": socket.gethostname(), "pid": pid or os.getpid()}
        try:
            import psutil
        except ImportError:
            content["cpu_count"] = os.cpu_count()
            return content
        cpu, memory = self._tree(psutil, pid)
        content |= {
            "kernel_cpu": cpu,
            "kernel_memory": memory,
            "cpu_count": psutil.cpu_count(logical=True),
            "host_virtual_memory": dict(psutil.virtual_memory()._asdict()),
        }
        if host_cpu := psutil.cpu_percent():  # the first call has nothing to compare with
            content["host_cpu_percent"] = host_cpu
        return content

    def _tree(self, psutil: Any, pid: int | None) -> tuple[float, int]:
        processes: list[Any] = []
        if pid is not None:
            try:
                root = psutil.Process(pid)
                processes = [root, *root.children(recursive=True)]
            except psutil.NoSuchProcess:
                processes = []
        self._known = {p.pid: self._known.get(p.pid, p) for p in processes}
        cpu, memory = 0.0, 0
        for process in self._known.values():
            try:
                cpu += process.cpu_percent()
                info = process.memory_full_info()
                memory += getattr(info, "pss", info.rss)
            except (psutil.NoSuchProcess, psutil.AccessDenied):
                continue  # gone, or another user's, since it was listed
        return cpu, memory
