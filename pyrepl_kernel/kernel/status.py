"""What a kernel says of itself: to ``%kernel``, and to ``pyrepl-kernel status``.

    pyrepl-kernel status ──▶ pyrepl-kernels/<pid>.sock in Jupyter's runtime directory
                         ◀── one JSON text; the connection is closed

Nothing is written while the kernel works: whoever wants to know asks.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import socket
import sys
import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from pyrepl_kernel._version import __version__
from pyrepl_kernel.protocol.forking import peer_is_us
from pyrepl_kernel.protocol.messages import DisplayMessage
from pyrepl_kernel.session.runtime import kernels_dir
from pyrepl_kernel.session.templates import TemplateDirectory

if TYPE_CHECKING:
    from pyrepl_kernel.errors import WorkerDied
    from pyrepl_kernel.kernel.kernel import Kernel

__all__ = ["Status", "StatusPort"]

log = logging.getLogger("pyrepl_kernel.kernel")

_DEATHS = 5


class Status:
    """The state of a kernel, and what has happened to it.

    Args:
        kernel: The kernel.
    """

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._started_at = time.time()
        self._restarts = 0
        self._died = 0
        self._deaths: deque[dict[str, Any]] = deque(maxlen=_DEATHS)

    def note_restart(self) -> None:
        """The worker has been swapped for a restart."""
        self._restarts += 1

    def note_death(self, death: WorkerDied) -> None:
        """A worker has died."""
        self._died += 1
        self._deaths.append({"at": time.time(), "reason": death.reason})

    def as_dict(self) -> dict[str, Any]:
        """All of it, but for the memory of the processes, which whoever asks can measure.

        Times are in seconds since the epoch.
        """
        kernel = self._kernel
        method, reason, advice = kernel.spares.method
        return {
            "pid": os.getpid(),
            "version": __version__,
            "python": sys.executable,
            "notebook": os.environ.get("JPY_SESSION_NAME", ""),
            "connection_file": os.path.abspath(kernel.connection.path),
            "started_at": self._started_at,
            "warmup": self._warmup(),
            "start_method": method,
            "start_reason": reason,
            "start_advice": advice,
            "restarts": self._restarts,
            "deaths": self._died,
            "last_deaths": list(self._deaths),
            "processes": self._processes(),
        }

    def _warmup(self) -> str:
        options = self._kernel.options
        if options.learned is not None:
            return f"auto: {len(options.learned.names)} modules"
        lines = [line for line in (options.warmup or "").splitlines() if line.strip()]
        return lines[0] if lines else ""

    def _processes(self) -> list[dict[str, Any]]:
        kernel, session = self._kernel, self._kernel.session
        found: list[tuple[str, int | None, str]] = [("kernel", os.getpid(), "")]
        cells = f"{session.executions} cell{'s' * (session.executions != 1)}"
        found.append(("worker", session.pid, f"{session.state}, {cells}"))
        found += [("spare", spare.pid, "ready") for spare in kernel.spares.ready]
        for checkpoint in session.checkpoints:
            found.append(("checkpoint", checkpoint.pid, checkpoint.name or "automatic"))
        if (template := kernel.spares.template) is not None:
            found.append(("template", template.pid, "shared with kernels of the same warmup"))
        return [
            {"role": role, "pid": pid, "state": state}
            for role, pid, state in found
            if pid is not None
        ]

    def display(self) -> DisplayMessage:
        """The table that ``%kernel`` shows."""
        from pyrepl_kernel.kernel.status_table import as_html, as_text, measure

        status = measure(self.as_dict())
        return DisplayMessage(
            "display", {"text/plain": as_text(status), "text/html": as_html(status)}
        )


class StatusPort:
    """The socket on which a kernel is asked for its status.

    Args:
        answer: Gives it.
    """

    def __init__(self, answer: Callable[[], dict[str, Any]]) -> None:
        self._answer = answer
        self._directory = TemplateDirectory(kernels_dir())
        self._key = str(os.getpid())
        self._sock: socket.socket | None = None
        if sys.platform != "linux":
            return  # elsewhere a socket does not say who asks
        try:
            self._directory.prepare()
            remove_leftovers(self._directory.path)
            sock = self._directory.listen(self._key)
        except OSError as error:
            log.warning("pyrepl-kernel status cannot ask this kernel: %s", error)
            return
        sock.setblocking(False)
        self._sock = sock
        asyncio.get_running_loop().add_reader(sock.fileno(), self._accept)

    def _accept(self) -> None:
        assert self._sock is not None
        try:
            sock, _ = self._sock.accept()
        except OSError:
            return  # who asked has gone
        with sock:
            if not peer_is_us(sock):
                return
            sock.setblocking(False)
            try:
                sock.send(json.dumps(self._answer()).encode())
            except OSError as error:
                log.debug("the status could not be sent: %s", error)

    def close(self) -> None:
        """Answer no more."""
        if self._sock is not None:
            asyncio.get_running_loop().remove_reader(self._sock.fileno())
            self._sock.close()
            self._sock = None
            self._directory.remove(self._key)


def remove_leftovers(path: str) -> None:
    """Remove the sockets of kernels that were killed."""
    for name in os.listdir(path):
        pid = name.removesuffix(".sock")
        if pid.isdecimal() and not os.path.exists(f"/proc/{pid}"):
            try:
                os.unlink(os.path.join(path, name))
            except FileNotFoundError:
                continue  # another kernel was quicker
