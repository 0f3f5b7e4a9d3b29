"""Where a worker process begins."""

from __future__ import annotations

import faulthandler
import os
import socket
import sys

from pyrepl_kernel.session.spawn import DEBUG_FD, LIFELINE_FD, PROTOCOL_FD
from pyrepl_kernel.worker.lifeline import hold_on_to

__all__ = ["main"]


def main() -> None:
    """Serve the session at the other end of descriptor 3 until it ends."""
    # What the host left open for its children, by mistake or not, is not meant for this one.
    os.closerange(DEBUG_FD + 1, 65536)
    hold_on_to(LIFELINE_FD)
    os.set_inheritable(PROTOCOL_FD, False)
    os.set_inheritable(DEBUG_FD, False)
    faulthandler.enable()
    # What takes longest is imported before the session has said anything.
    from pyrepl_kernel.worker.start import serve

    serve(socket.socket(fileno=PROTOCOL_FD), socket.socket(fileno=DEBUG_FD))


if __name__ == "__main__":
    sys.exit("a worker is started by its session; see pyrepl_kernel.Session")
