"""A session's link to one worker, from the moment that its process exists until all is heard.

                        ┌── PipeTransport   ◀──▶ the protocol's socket
    Session ◀── WorkerLink ── DebugLink     ◀──▶ the debugger's, and the subshells'
                        ├── CheckpointPort  ◀─── sockets of frozen processes
                        └── WorkerProcess   ◀─── descriptors 1 and 2, stacks, the process's end

Two things tell of a worker's end, in either order: its process has ended, and its socket has. The
session hears of it once, after the last of the worker's words.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
from collections.abc import Callable

from pyrepl_kernel.errors import (
    DeathCause,
    FrameTruncated,
    ProtocolError,
    TransportClosed,
    WorkerDied,
)
from pyrepl_kernel.protocol.messages import DebugEventMessage, InterruptMessage, Message
from pyrepl_kernel.protocol.transport import PipeTransport
from pyrepl_kernel.session.checkpoints import CheckpointPort, CheckpointStore
from pyrepl_kernel.session.death import Evidence
from pyrepl_kernel.session.debug import DebugLink
from pyrepl_kernel.session.process import ExitStatus, WorkerProcess
from pyrepl_kernel.session.spawn import Spawned

__all__ = ["WorkerLink"]

log = logging.getLogger("pyrepl_kernel.session")

_DYING = 0.5  # seconds that a process may take to be gone after its socket


class WorkerLink:
    """One worker, as its session sees it.

    Args:
        spawned: Its process and this side's ends of its descriptors; this object owns them.
        session_id: Whose worker it is.
        store: Where its checkpoints go.
        evidence: What says one day why it died.
        max_frame_size: Largest message either way, in bytes.
        on_message: Called with each message of its.
        on_text: Called with stream name and text for what reaches descriptors 1 and 2.
        on_stacks: Called with each piece of the stacks that it writes.
        on_debug_event: Called with each event of its debugger.
        on_gone: Called once, when it has ended and all that it said was heard.
    """

    def __init__(
        self,
        spawned: Spawned,
        session_id: str,
        store: CheckpointStore,
        evidence: Evidence,
        max_frame_size: int,
        *,
        on_message: Callable[[Message], None],
        on_text: Callable[[str, str], None],
        on_stacks: Callable[[str], None],
        on_debug_event: Callable[[DebugEventMessage], None],
        on_gone: Callable[[WorkerDied], None],
    ) -> None:
        self._session_id = session_id
        self._evidence = evidence
        self._on_gone = on_gone
        self._stream_ended = False
        self.is_gone = False
        """Whether it has ended and all was heard, or nobody wants to hear it."""
        self._transport = PipeTransport(
            socket.socket(fileno=spawned.socket),
            sink=on_message,
            on_end=self._on_stream_end,
            max_frame_size=max_frame_size,
        )
        self.debug = DebugLink(
            spawned.debug_socket, on_debug_event, self._on_debug_broken, max_frame_size
        )
        self.port = CheckpointPort(spawned.checkpoints, store, self._on_lost_socket)
        self.process = WorkerProcess(spawned, on_text, self._on_exit, on_stacks)
        self._transport.start_now()

    @property
    def is_broken(self) -> bool:
        """Whether nothing reaches the worker any more; when it is gone, all who wait are told."""
        return self._transport.is_closed

    def send(self, message: Message) -> None:
        """Send a message, unless the worker is about to be gone.

        Raises:
            ProtocolError: It is too large; nothing was sent.
            TypeError: It holds what no message can carry.
        """
        if not self.is_broken:
            self._transport.send_nowait(message)

    def send_beside(self, message: Message) -> None:
        """Send a message on the debugger's socket, which is heard while a cell runs; likewise."""
        if not self.is_broken:
            self.debug.send(message)

    def pause(self) -> None:
        """Read nothing of its output: it has to wait."""
        self._transport.pause_reading()
        self.process.stdout.pause()
        self.process.stderr.pause()

    def resume(self) -> None:
        """Go on reading."""
        self._transport.resume_reading()
        self.process.stdout.resume()
        self.process.stderr.resume()

    def interrupt(self, execution_id: str) -> None:
        """Send SIGINT, and the name of the cell that it is for."""
        # The signal may arrive before the cell or after it.
        self.send(InterruptMessage(execution_id))
        self.process.interrupt()

    # ----------------------------------------------------------------- ending

    def kill(self, cause: DeathCause, reason: str) -> None:
        """Kill the worker, for a reason that all will be told who wait."""
        if self.process.exit is None:
            self._evidence.convict(cause, reason)
            self.process.signal_group(signal.SIGKILL)

    def kill_at_once(self) -> None:
        """Kill the worker and its children, as somebody has asked for."""
        self.process.is_expected_to_end = True
        self.process.signal_group(signal.SIGKILL)

    def abandon(self) -> None:
        """Kill the worker; nobody hears of its end, nor of its last words."""
        self.is_gone = True
        self.process.abandon()
        self._close()

    def _close(self) -> None:
        self._evidence.close()
        self._transport.close_now()
        self.debug.close()
        self.port.close()

    def _on_exit(self, status: ExitStatus) -> None:
        log.debug("session %s: its worker %s", self._session_id, status)
        self.process.close()
        if self._stream_ended:
            self._conclude()
        else:
            self._transport.finish()  # the rest of its words, then _on_stream_end

    def _on_stream_end(self, error: Exception | None) -> None:
        if self._stream_ended or isinstance(error, TransportClosed):
            return
        self._stream_ended = True
        if self.process.exit is not None:
            self._conclude()
        elif error is not None or not self.process.is_expected_to_end:
            self._on_lost_socket(error)

    def _on_debug_broken(self, error: Exception | None) -> None:
        if not self.process.is_expected_to_end:
            self._on_lost_socket(error)

    def _on_lost_socket(self, error: Exception | None) -> None:
        """A worker that sends garbage, or has closed a socket of its, is of no use any more."""
        if isinstance(error, ProtocolError) and not isinstance(error, FrameTruncated):
            log.error("session %s: its worker broke the protocol: %s", self._session_id, error)
            self.kill(DeathCause.PROTOCOL, f"was killed because it broke the protocol: {error}")
            return
        # Most likely it is just dying, and why is known in a moment.
        asyncio.get_running_loop().call_later(
            _DYING,
            self.kill,
            DeathCause.PROTOCOL,
            "was killed because it closed its connection to this process; did the cell close "
            "file descriptors that it had not opened?",
        )

    def _conclude(self) -> None:
        """The worker is gone and all that it said was heard."""
        if self.is_gone:
            return
        self.is_gone = True
        death = self._evidence.conclude(self._session_id, self.process)
        self.port.drain()
        self._close()
        self._on_gone(death)
