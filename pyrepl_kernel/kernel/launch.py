"""Starts the kernel. The order is what makes it quick:

1. read the connection file, listen on its five ports   clients may connect from here on
2. start the worker                                     it imports IPython on another core;
                                                        or it is forked, and has imported it
3. import asyncio and zmq, and take the ports over      meanwhile
"""

from __future__ import annotations

import os
import signal
import sys
from types import ModuleType
from typing import Any

from pyrepl_kernel.collection import pause_collection, resume_collection
from pyrepl_kernel.kernel.connection import ConnectionError_, open_connection
from pyrepl_kernel.kernel.leash import take
from pyrepl_kernel.kernel.options import Options, UsageError, parse
from pyrepl_kernel.session.runtime import templates_dir
from pyrepl_kernel.session.spawn import Spawned, spawn_worker

__all__ = ["import_asyncio", "main"]


def main() -> None:
    """Be a kernel, until told to end."""
    # A front end's SIGINT may come at any moment; until there is a cell, it means nothing.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    pause_collection()
    leash = take(os.environ)
    try:
        options = parse(sys.argv[1:])
        options.recall()
        connection = open_connection(options.connection_file)
        spawned = _first_worker(options)
    except (UsageError, ConnectionError_, OSError) as error:
        sys.exit(f"pyrepl-kernel: {error}")

    asyncio = import_asyncio()
    import logging

    from pyrepl_kernel.kernel.kernel import Kernel

    async def run() -> int:
        kernel = Kernel(connection, options, spawned, leash)
        resume_collection()
        return await kernel.run()

    level = os.environ.get("PYREPL_LOG", "WARNING").upper()
    logging.basicConfig(
        level=level, format="%(relativeCreated)d [%(levelname)s %(name)s] %(message)s"
    )
    sys.exit(asyncio.run(run()))


def import_asyncio() -> ModuleType:
    """asyncio without TLS, which it can do without, and which no kernel speaks: 2 MB of memory."""
    absent: Any = None
    added = sys.modules.setdefault("ssl", absent) is None
    import asyncio

    if added:
        del sys.modules["ssl"]  # whoever else wants it shall have it
    return asyncio


def _first_worker(options: Options) -> Spawned:
    """A fork of a template that is warm already, or else a worker that is spawned.

    Raises:
        OSError: The interpreter could not be started.
    """
    if options.start_method != "spawn" and _may_have_templates():
        from pyrepl_kernel.kernel.warm import first_fork

        forked = first_fork(options)
        if forked is not None:
            return forked
    return spawn_worker(sys.executable, os.environ)


def _may_have_templates() -> bool:
    """Whether it is worth looking for a template; most kernels find none when they start."""
    try:
        names = os.listdir(templates_dir()) if sys.platform == "linux" else []
    except OSError:
        return False
    return any(name.endswith(".sock") for name in names)
