"""Where a worker process begins."""

from __future__ import annotations

import os
import sys

from pyrepl_kernel.collection import pause_collection
from pyrepl_kernel.session.spawn import LAST_FD, STACKS_FD
from pyrepl_kernel.worker.descriptors import claim_descriptors, protocol_sockets
from pyrepl_kernel.worker.stacks import write_stacks_to

__all__ = ["main"]


def main() -> None:
    """Serve the session at the other end of descriptor 3 until it ends."""
    pause_collection()
    # What the host left open for its children, by mistake or not, is not meant for this one.
    os.closerange(LAST_FD + 1, 65536)
    claim_descriptors()
    write_stacks_to(STACKS_FD)
    # What takes longest is imported before the session has said anything.
    from pyrepl_kernel.worker.start import serve

    serve(*protocol_sockets())


if __name__ == "__main__":
    sys.exit("a worker is started by its session; see pyrepl_kernel.Session")
