"""Where the debugger is waited for: a thread that does nothing until a first request comes.

The main thread cannot do this, since it stands still at a breakpoint and is busy in a cell. What
the debugger is made of is imported with that first request, which most sessions never see. What
comes for subshells is heard here for the same reason.
"""

from __future__ import annotations

import _thread
import socket
import sys
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from pyrepl_kernel.protocol.messages import DebugMessage, Message, SubshellMessage
from pyrepl_kernel.worker.capture import OutputBuffer
from pyrepl_kernel.worker.channel import Channel, ChannelClosed
from pyrepl_kernel.worker.interrupts import Interrupts
from pyrepl_kernel.worker.shell import ZMQInteractiveShell

if TYPE_CHECKING:
    from pyrepl_kernel.worker.debugger import Debugger

__all__ = ["MODULES_AT_START", "DebugPort"]

MODULES_AT_START = frozenset(sys.modules)
"""Names of the modules that were there before the user's: IPython and what it is made with. An
exception inside of them is no event in the user's code."""


class DebugPort:
    """The worker's end of the debugger's socket.

    Args:
        output: What is unsent of it goes before the news of a stop.
        shell: Its cells are what is debugged.
        interrupts: Has to end a cell that stands at a breakpoint.
    """

    def __init__(
        self,
        output: OutputBuffer,
        shell: ZMQInteractiveShell,
        interrupts: Interrupts,
    ) -> None:
        self._channel = Channel()
        self._output = output
        self._shell = shell
        self._interrupts = interrupts
        self._debugger: Debugger | None = None
        self._thread = 0
        self._is_running = _thread.allocate_lock()  # held until the thread knows its number
        self._depth = 0  # a comm's handler may run while a cell awaits
        self.on_subshell: Callable[[SubshellMessage], None] = lambda message: None
        """Called, in the thread that listens, with what comes for subshells."""

    def listen(self, sock: socket.socket, max_frame_size: int) -> None:
        """Begin to wait for the first request.

        Args:
            sock: The socket.
            max_frame_size: Largest message either way, in bytes.
        """
        self._channel.max_frame_size = max_frame_size
        self._channel.attach(sock)
        self._is_running.acquire()
        # Not a threading.Thread: the user's threading.enumerate() is the user's.
        _thread.start_new_thread(self._wait, ())
        with self._is_running:  # see OutputBuffer: no crash is to come before it has run
            pass

    def _wait(self) -> None:
        self._thread = threading.get_native_id()
        self._is_running.release()
        try:
            while not isinstance(message := self._channel.receive(), DebugMessage):
                self._pass_on(message)
        except ChannelClosed:
            return
        threading.Thread(target=self._serve, args=(message,), name="debugger", daemon=True).start()

    def _serve(self, request: DebugMessage) -> None:
        from pyrepl_kernel.worker.debugger import Debugger

        self._debugger = Debugger(
            self._channel, self._output, self._shell, self._interrupts, self._pass_on
        )
        self._debugger.serve(request)

    def _pass_on(self, message: Message) -> None:
        if isinstance(message, SubshellMessage):
            self.on_subshell(message)

    @property
    def thread(self) -> int:
        """The number of the thread that waits; 0 before there is one."""
        with self._is_running:
            return self._thread

    def begin(self) -> None:
        """On the main thread: the user's code is about to run, and may stop at breakpoints."""
        self._depth += 1
        if self._debugger is not None and self._depth == 1:
            self._debugger.trace(True)

    def end(self) -> None:
        """On the main thread: the user's code has ended."""
        self._depth -= 1
        if self._debugger is not None and not self._depth:
            self._debugger.trace(False)
