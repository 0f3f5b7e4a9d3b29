"""Where the debugger is waited for: a thread that does nothing until a first request comes.

The main thread cannot do this, since it stands still at a breakpoint and is busy in a cell. What
the debugger is made of is imported with that first request, which most sessions never see.
"""

from __future__ import annotations

import _thread
import select
import socket
import sys
import threading
from typing import TYPE_CHECKING

from pyrepl_kernel.worker.capture import OutputBuffer
from pyrepl_kernel.worker.channel import Channel
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
        sock: The socket.
        max_frame_size: Largest message either way, in bytes.
        output: What is unsent of it goes before the news of a stop.
        shell: Its cells are what is debugged.
        interrupts: Has to end a cell that stands at a breakpoint.
    """

    def __init__(
        self,
        sock: socket.socket,
        max_frame_size: int,
        output: OutputBuffer,
        shell: ZMQInteractiveShell,
        interrupts: Interrupts,
    ) -> None:
        self._channel = Channel(sock, max_frame_size)
        self._output = output
        self._shell = shell
        self._interrupts = interrupts
        self._debugger: Debugger | None = None
        self._depth = 0  # a comm's handler may run while a cell awaits

    def listen(self) -> None:
        """Begin to wait for the first request."""
        # Not a threading.Thread: the user's threading.enumerate() is the user's.
        _thread.start_new_thread(self._wait, ())

    def _wait(self) -> None:
        poll = select.poll()
        poll.register(self._channel.fileno(), select.POLLIN)
        poll.poll()
        threading.Thread(target=self._serve, name="debugger", daemon=True).start()

    def _serve(self) -> None:
        from pyrepl_kernel.worker.debugger import Debugger

        self._debugger = Debugger(self._channel, self._output, self._shell, self._interrupts)
        self._debugger.serve()

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
