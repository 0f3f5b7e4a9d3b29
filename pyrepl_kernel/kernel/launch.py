"""Starts the kernel. The order is what makes it quick:

1. read the connection file, listen on its five ports   clients may connect from here on
2. start the worker                                     it imports IPython on another core
3. import asyncio and zmq, and take the ports over      meanwhile
"""

from __future__ import annotations

import os
import signal
import sys

from pyrepl_kernel.kernel.connection import ConnectionError_, open_connection
from pyrepl_kernel.kernel.options import UsageError, parse
from pyrepl_kernel.session.spawn import spawn_worker

__all__ = ["main"]


def main() -> None:
    """Be a kernel, until told to end."""
    # A front end's SIGINT may come at any moment; until there is a cell, it means nothing.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        options = parse(sys.argv[1:])
        connection = open_connection(options.connection_file)
        spawned = spawn_worker(sys.executable, os.environ)
    except (UsageError, ConnectionError_, OSError) as error:
        sys.exit(f"pyrepl-kernel: {error}")

    import asyncio
    import logging

    from pyrepl_kernel.kernel.kernel import Kernel

    async def run() -> int:
        return await Kernel(connection, options, spawned).run()

    level = os.environ.get("PYREPL_LOG", "WARNING").upper()
    logging.basicConfig(
        level=level, format="%(relativeCreated)d [%(levelname)s %(name)s] %(message)s"
    )
    sys.exit(asyncio.run(run()))
