"""Restarts in which the kernel process lives on: its worker retires, and another takes over.

    provisioner            kernel process                               clients
    RetireMessage ───────▶ the worker ends in the background,
                           its cells are aborted                        what they send waits here
                  ◀─────── LeashReplyMessage
    SwapMessage ─────────▶ cwd, environment, ipc sockets; new worker
                  ◀─────── LeashReplyMessage, `starting`                … and goes to the new worker

If no swap follows, the kernel process ends: the shutdown was one after all, or who asked is gone.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

from pyrepl_kernel import _version
from pyrepl_kernel.kernel.wire import Request
from pyrepl_kernel.protocol.messages import (
    LeashReplyMessage,
    Message,
    RetireMessage,
    SwapMessage,
)
from pyrepl_kernel.protocol.transport import PipeTransport

if TYPE_CHECKING:
    from pyrepl_kernel.kernel.kernel import Kernel

__all__ = ["Restarts"]

log = logging.getLogger("pyrepl_kernel.kernel")

_SWAP_LIMIT = 10.0
"""Seconds that a kernel process without a worker waits for the swap."""
_REQUEST_LIMIT = 1.0
"""Seconds after a retirement in which the shutdown_request that belongs to it arrives."""
_RETIREMENT_LIMIT = 4.0
"""Seconds after a shutdown_request for a restart in which its retirement arrives. The manager sends
one right after the other, but a busy machine may keep it from that for a while; and a new process
costs the clients what it says before their sockets are connected again."""
_LATE = 30.0
"""Seconds in which a shutdown_request that came after all is known for what it is."""
_HAND_OVER = 0.25
"""Seconds that the new worker's first cell waits for the old worker to be gone, with the ports and
files that it held; longer than a worker takes that has no exit handlers."""

_UNDER_WAY = 0.01
"""Seconds after a retirement in which what arrives was sent before it, and is aborted like the rest
of the old worker's. No restart is quicker: jupyter_client itself pauses for as long."""

_ANSWERED_MEANWHILE = frozenset({"interrupt_request", "kernel_info_request", "shutdown_request"})


class Restarts:
    """The kernel's side of restarts.

    Args:
        kernel: The kernel.
        fd: The socket to the provisioner; None when something else has started the kernel.
    """

    def __init__(self, kernel: Kernel, fd: int | None) -> None:
        self._kernel = kernel
        self._loop = asyncio.get_running_loop()
        self._is_retired = False
        self._retired_at = 0.0
        self._is_holding = False  # from the retirement until the old worker has made room
        self._held: list[Callable[[], None]] = []
        self._endings: set[asyncio.Task[None]] = set()
        self._release: asyncio.Task[None] | None = None
        self._deadline: asyncio.TimerHandle | None = None
        self._announced: asyncio.TimerHandle | None = None  # a shutdown_request, no retirement yet
        self._unmet: dict[str, asyncio.TimerHandle] = {}  # retirements, no shutdown_request yet
        self._late_until = 0.0
        self._installed = _installed()
        self._leash: PipeTransport | None = None
        if fd is not None:
            sock = socket.socket(fileno=fd)
            self._leash = PipeTransport(sock, sink=self._on_message, on_end=self._on_end)
            self._leash.start_now()
            self._leash.send_nowait(LeashReplyMessage())

    # ------------------------------------------------- what clients send meanwhile

    def holds(self, request: Request) -> bool:
        """Whether a request has to wait for the new worker."""
        if self._is_retired and self._loop.time() < self._retired_at + _UNDER_WAY:
            return False
        return self._is_holding and request.type not in _ANSWERED_MEANWHILE

    def hold(self, serve: Callable[[], None]) -> None:
        """Serve a request when the new worker is there, or the kernel ends."""
        self._held.append(serve)

    @property
    def is_retired(self) -> bool:
        """Whether there is no worker, and none is to be started before the swap."""
        return self._is_retired

    def on_shutdown_request(self, restart: bool) -> None:
        """A client wants the kernel to end, or a restart to begin.

        With a provisioner, a restart comes here and on the leash, and either may be first.
        """
        if not restart or self._leash is None:
            self._kernel.stop()
        elif self._unmet:
            request_id, timer = self._unmet.popitem()
            timer.cancel()
            self._reply(request_id)
        elif self._loop.time() < self._late_until:
            self._late_until = 0.0
        elif self._announced is None:
            self._announced = self._loop.call_later(_RETIREMENT_LIMIT, self._stop_for_client)

    def _stop_for_client(self) -> None:
        """The provisioner knows nothing of the restart: a client wants this process gone."""
        log.warning(
            "a client has asked for a restart by itself: this process ends, to be started anew"
        )
        self._kernel.stop()

    # ------------------------------------------------------------------- the leash

    def _on_message(self, message: Message) -> None:
        if self._kernel.is_stopping:
            self._reply(message.id, "the kernel process is ending")
        elif isinstance(message, RetireMessage):
            self._retire(message)
        elif isinstance(message, SwapMessage):
            self._swap(message)
        else:
            log.warning("the provisioner sent a %s message, which means nothing here", message.type)

    def _on_end(self, error: Exception | None) -> None:
        """The provisioner is gone; a worker that runs stays, as with any other launcher."""
        if error is not None and self._leash is not None:
            log.warning("the link to the provisioner is lost: %s", error)
        self._leash = None
        if self._is_retired:
            self._kernel.stop()

    def _reply(self, request_id: str, error: str = "") -> None:
        if self._leash is not None and not self._leash.is_closed:
            self._leash.send_nowait(LeashReplyMessage(request_id, error))

    # ---------------------------------------------------------------- retire, swap

    def _retire(self, message: RetireMessage) -> None:
        self._end_worker(message.kill)
        has_announced, self._announced = self._announced, None
        if has_announced is not None:
            has_announced.cancel()
        if message.kill or has_announced is not None:
            self._reply(message.id)
        else:
            # Were it answered before, the request could arrive after the swap, and end the new one.
            self._unmet[message.id] = self._loop.call_later(
                _REQUEST_LIMIT, self._answer_without_request, message.id
            )

    def _answer_without_request(self, request_id: str) -> None:
        del self._unmet[request_id]
        self._late_until = self._loop.time() + _LATE
        self._reply(request_id)

    def _end_worker(self, kill: bool) -> None:
        if not self._is_retired:
            # What the clients have sent by now belongs to this worker, and goes with it.
            self._stop_holding()
            self._kernel.receive_requests()
            self._is_retired = self._is_holding = True
            self._retired_at = self._loop.time()
            self._kernel.connection.set_aside()
        self._set_deadline()
        session = self._kernel.leave_session()
        session.begin_shutdown(restart=True)
        ending = session.terminate() if kill else session.shutdown(restart=True)
        task = asyncio.create_task(ending)
        self._endings.add(task)
        task.add_done_callback(self._endings.discard)

    def _set_deadline(self) -> None:
        self._cancel_deadline()
        self._deadline = self._loop.call_later(_SWAP_LIMIT, self._kernel.stop)

    def _cancel_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _swap(self, message: SwapMessage) -> None:
        if self._installed != _installed():
            self._reply(message.id, "another version of the kernel has been installed")
            return
        try:
            os.chdir(message.cwd)
        except OSError as error:
            self._reply(message.id, f"cannot go to {message.cwd}: {error.strerror}")
            return
        if not self._is_retired:
            self._end_worker(kill=True)
        self._cancel_deadline()
        os.environ.update(message.env)
        for name in message.unset:
            os.environ.pop(name, None)
        try:
            self._kernel.begin_generation()
        except Exception as error:
            log.exception("a restart failed")
            self._reply(message.id, f"{type(error).__name__}: {error}")
            self._kernel.stop(1)
            return
        self._is_retired = False
        self._reply(message.id)
        self._release = asyncio.create_task(self._hand_over())

    async def _hand_over(self) -> None:
        if self._endings:
            await asyncio.wait(self._endings, timeout=_HAND_OVER)
        self._release = None
        self._stop_holding()

    def _stop_holding(self) -> None:
        if self._release is not None:
            self._release.cancel()
            self._release = None
        self._is_holding = False
        held, self._held = self._held, []
        for serve in held:
            serve()

    # ----------------------------------------------------------------------- its end

    async def close(self) -> None:
        """The kernel ends: old workers have their grace, what waits is answered."""
        self._cancel_deadline()
        timers = [*self._unmet.values(), *([self._announced] if self._announced else [])]
        for timer in timers:
            timer.cancel()
        self._is_retired = False
        self._stop_holding()
        if self._endings:
            await asyncio.wait(self._endings)  # each is bounded by its session's grace
        leash, self._leash = self._leash, None
        if leash is not None:
            await leash.close()


def _installed() -> tuple[int, ...]:
    """Changes when this package or the interpreter is installed anew.

    New workers would run the new code, which this process might not understand.
    """
    found: list[int] = []
    for path in (_version.__file__, sys.executable):
        status = os.stat(path)
        found += [status.st_ino, status.st_mtime_ns]
    return tuple(found)
