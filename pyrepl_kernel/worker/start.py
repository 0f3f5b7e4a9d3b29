"""From a bare process to a worker that is ready."""

from __future__ import annotations

import faulthandler
import socket
import sys
import traceback
from collections.abc import Sequence
from functools import partial
from typing import Any, NoReturn

from pyrepl_kernel.collection import resume_collection
from pyrepl_kernel.protocol.messages import ReadyMessage, StartMessage
from pyrepl_kernel.session.spawn import NOTES_FD, STACKS_FD
from pyrepl_kernel.worker.capture import OutputBuffer, OutStream
from pyrepl_kernel.worker.channel import Channel
from pyrepl_kernel.worker.debug import DebugPort
from pyrepl_kernel.worker.interrupts import Interrupts
from pyrepl_kernel.worker.notes import interruption
from pyrepl_kernel.worker.profile import Profile
from pyrepl_kernel.worker.shell import ZMQInteractiveShell
from pyrepl_kernel.worker.surroundings import Surroundings, begin_here, introduce
from pyrepl_kernel.worker.worker import Worker, end_process, receive_start

__all__ = ["Body", "serve"]


class Body:
    """A worker that has not met its session yet.

    Args:
        channel: The protocol; it may have no socket yet.
        interrupts: SIGINT's handler, which is installed already.
        surroundings: Where it works.
        ipython: Arguments of IPython's, perhaps none; None to load no configuration of the user's.
    """

    def __init__(
        self,
        channel: Channel,
        interrupts: Interrupts,
        surroundings: Surroundings,
        ipython: Sequence[str] | None,
    ) -> None:
        self._channel = channel
        self._interrupts = interrupts
        self._surroundings = surroundings
        self.output = OutputBuffer(channel, interrupts.guard)
        sys.stdout = OutStream(self.output, "stdout", 1)
        sys.stderr = OutStream(self.output, "stderr", 2)
        self._profile = Profile(ipython)
        self.shell = make_shell(self.output, self._profile)
        self._debug = DebugPort(self.output, self.shell, interrupts)
        self.worker = Worker(
            channel, self.output, self.shell, interrupts, self._debug, surroundings
        )
        resume_collection()  # the user's code is next

    def live(self, start: StartMessage, debug_sock: socket.socket) -> NoReturn:
        """Serve the session until it ends, and end the process.

        Args:
            start: The session's first message. Its options are

                - ``history`` (bool): keep the user's history;
                - ``connection_file`` (str): path of the kernel's connection file;
                - ``subshells`` (bool): front ends may create subshells;
                - ``autocheckpoint`` (bool): a checkpoint is taken after each cell;
                - ``learn_imports`` (bool): tell the session what the user's code imports;
                - ``session`` (str): the session id of the kernel's messages;
                - ``argv`` (list of str): what ``sys.argv`` is to be;
                - ``ipython`` (list of str): as in the constructor.
            debug_sock: The debugger's socket.
        """
        shell = self.shell
        introduce(shell, {"connection_file": "", "session": start.session_id, **start.options})
        shell.has_subshells = bool(start.options.get("subshells"))
        self.worker.learns_imports = bool(start.options.get("learn_imports"))
        if start.options.get("history"):
            shell.history_manager.postpone()
        if start.options.get("autocheckpoint"):
            self.worker.get_checkpoints().is_automatic = True
        self._channel.send(ReadyMessage(start.session_id, self.worker.capabilities))
        self._debug.listen(debug_sock, start.max_frame_size)
        try:
            self._profile.run(shell, self._interrupts)
            self.worker.run()
        except BaseException:
            # A fault of ours. It belongs on the descriptor, where the session looks for last words.
            traceback.print_exc(file=sys.__stderr__)
            end_process(1)
        end_process()

    def live_forked(self, sock: socket.socket, debug_sock: socket.socket) -> NoReturn:
        """The same for a process that was forked from one that was made without sockets.

        Args:
            sock: The protocol's socket.
            debug_sock: The debugger's socket.
        """
        from pyrepl_kernel.worker.renewal import renew

        self._channel.attach(sock)
        start = receive_start(self._channel)
        self._surroundings.enter(start)
        self.worker.notices += renew()
        faulthandler.enable(STACKS_FD)
        self.worker.attach()
        if not self._surroundings.has_moved:
            begin_here(self.shell)
        self.live(start, debug_sock)


def serve(sock: socket.socket, debug_sock: socket.socket) -> NoReturn:
    """Be a worker: wait for the start message, get ready, serve, and end the process.

    Args:
        sock: The protocol's socket.
        debug_sock: The debugger's socket.
    """
    channel = Channel(sock)
    interrupts = Interrupts(partial(interruption, NOTES_FD))
    interrupts.install()
    start = receive_start(channel)
    surroundings = Surroundings()
    surroundings.enter(start)
    Body(channel, interrupts, surroundings, start.options.get("ipython")).live(start, debug_sock)


def make_shell(output: OutputBuffer, profile: Profile) -> ZMQInteractiveShell:
    """Build IPython.

    Args:
        output: Where its displays and errors go.
        profile: The configuration.
    """
    traits: dict[str, Any] = {"send": output.send_soon}
    shell = profile.make_shell(ZMQInteractiveShell, **traits)
    # IPython's applications load it; here it is loaded when it is used.
    shell.magics_manager.register_lazy("store", "IPython.extensions.storemagic")
    for name in ("checkpoint", "rollback", "checkpoints", "autocheckpoint"):
        shell.magics_manager.register_lazy(name, "pyrepl_kernel.worker.checkpoint_magics")
    return shell
