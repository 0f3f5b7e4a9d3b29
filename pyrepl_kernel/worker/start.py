"""From a bare process to a worker that is ready."""

from __future__ import annotations

import os
import platform
import socket
import sys
import traceback
from typing import Any

from IPython.core import release

from pyrepl_kernel.protocol.messages import ReadyMessage, StartMessage
from pyrepl_kernel.worker.capture import OutputBuffer, OutStream
from pyrepl_kernel.worker.channel import Channel, ChannelClosed
from pyrepl_kernel.worker.debug import DebugPort
from pyrepl_kernel.worker.interrupts import Interrupts
from pyrepl_kernel.worker.profile import Profile
from pyrepl_kernel.worker.shell import ZMQInteractiveShell, cell_directory
from pyrepl_kernel.worker.worker import Worker, end_process

__all__ = ["serve"]

_INSTALLED = ("site-packages", "dist-packages")


def serve(sock: socket.socket, debug_sock: socket.socket) -> None:
    """Be a worker: wait for the start message, get ready, serve, and end the process.

    Args:
        sock: The protocol's socket.
        debug_sock: The debugger's socket.
    """
    channel = Channel(sock)
    interrupts = Interrupts()
    interrupts.install()
    try:
        start = channel.receive()
    except ChannelClosed:
        return
    if not isinstance(start, StartMessage):
        sys.exit(f"expected a start message, got {start!r}")
    channel.max_frame_size = start.max_frame_size
    enter_environment(start)
    output = OutputBuffer(channel, interrupts.guard)
    sys.stdout = OutStream(output, "stdout", 1)
    sys.stderr = OutStream(output, "stderr", 2)
    profile = Profile(start.options.get("ipython"))
    shell = make_shell(output, start, profile)
    debug = DebugPort(debug_sock, start.max_frame_size, output, shell, interrupts)
    worker = Worker(channel, output, shell, interrupts, debug)
    channel.send(
        ReadyMessage(
            start.session_id,
            {
                "python": platform.python_version(),
                "implementation": sys.implementation.name,
                "ipython": release.version,
                "pid": os.getpid(),
                "cell_directory": cell_directory(),
            },
        )
    )
    debug.listen()
    try:
        profile.run(shell, interrupts)
        worker.run()
    except BaseException:
        # A fault of ours. It belongs on the descriptor, where the session looks for last words.
        traceback.print_exc(file=sys.__stderr__)
        end_process(1)
    end_process()


def enter_environment(start: StartMessage) -> None:
    """Apply the directory and the environment that the start message gives."""
    if start.env:
        os.environ.update(start.env)
    if start.cwd is not None:
        os.chdir(start.cwd)
    if "" not in sys.path:
        # As under ipykernel: modules of the working directory, wherever that may move to, come
        # before what is installed, but after the standard library.
        ends = [n for n, path in enumerate(sys.path) if path.endswith(_INSTALLED)]
        sys.path.insert(ends[0] if ends else 0, "")
    sys.argv = list(start.options.get("argv") or ["pyrepl_kernel"])
    if not os.environ.get("MPLBACKEND"):
        os.environ["MPLBACKEND"] = "module://matplotlib_inline.backend_inline"


def make_shell(output: OutputBuffer, start: StartMessage, profile: Profile) -> ZMQInteractiveShell:
    """Build IPython.

    Args:
        output: Where its displays and errors go.
        start: Its options are

            - ``history`` (bool): keep the user's history;
            - ``connection_file`` (str): path of the kernel's connection file;
            - ``session`` (str): the session id of the kernel's messages;
            - ``ipython`` (list of str): arguments of IPython's, perhaps none; without this option
              no configuration of the user's is loaded.
        profile: The configuration.
    """
    options = start.options
    traits: dict[str, Any] = {"send": output.send_after_output, "user_ns": {}}
    shell = profile.make_shell(ZMQInteractiveShell, **traits)
    shell.connection_file = options.get("connection_file", "")
    shell.session_name = options.get("session") or start.session_id
    # What some libraries look for instead of the shell's class.
    shell.config.IPKernelApp.connection_file = shell.connection_file
    # IPython's applications load it; here it is loaded when it is used.
    shell.magics_manager.register_lazy("store", "IPython.extensions.storemagic")
    if options.get("history"):
        shell.history_manager.postpone()
    session_name = os.environ.get("JPY_SESSION_NAME")
    if session_name:
        shell.user_ns["__session__"] = session_name
    return shell
