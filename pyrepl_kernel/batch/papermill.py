"""The engine ``pyrepl`` for papermill: notebooks in warm workers.

    papermill in.ipynb out.ipynb --engine pyrepl
    papermill.execute_notebook("in.ipynb", "out.ipynb", engine_name="pyrepl")

A process that executes notebooks one after the other keeps its kernel, which is restarted in place
between two of them.
"""

from __future__ import annotations

import atexit
import os
import threading
from typing import Any

from jupyter_client.kernelspec import KernelSpecManager, NoSuchKernel
from jupyter_core.utils import run_sync
from papermill.clientwrap import PapermillNotebookClient
from papermill.engines import NBClientEngine
from papermill.log import logger
from papermill.utils import merge_kwargs, remove_args

from pyrepl_kernel.batch.lane import KernelChoice, Lane

__all__ = ["PyreplEngine"]

# A client's sockets belong to the event loop of the thread that made them, and to its process.
_Key = tuple[int, int, KernelChoice, float]
_lanes: dict[_Key, Lane] = {}


class PyreplEngine(NBClientEngine):
    """Executes notebooks on this kernel.

    A notebook (or ``-k``) that names a kernelspec of this package gets that one, with its options;
    any other name of a Python kernel gets this package in this environment.
    """

    @classmethod
    def execute_managed_notebook(
        cls,
        nb_man: Any,
        kernel_name: str,
        log_output: bool = False,
        stdout_file: Any = None,
        stderr_file: Any = None,
        start_timeout: float = 60,
        execution_timeout: int | None = None,
        warmup: str | None = None,
        **kwargs: Any,
    ) -> Any:
        """Execute a notebook that has its parameters; what papermill calls.

        Args:
            nb_man: papermill's notebook.
            kernel_name: The kernel that is asked for.
            log_output: Whether outputs go to papermill's log too.
            stdout_file: Where what cells print goes too.
            stderr_file: As ``stdout_file``.
            start_timeout: Seconds that a kernel may take to come up.
            execution_timeout: Seconds that a cell may take; None for any.
            warmup: Code that a worker has run before the notebook.
            **kwargs: For nbclient.
        """
        arguments = merge_kwargs(
            remove_args(["input_path", "timeout", "startup_timeout"], **kwargs),
            timeout=execution_timeout or kwargs.get("timeout"),
            kernel_name=kernel_name,
            log=logger,
            log_output=log_output,
            stdout_file=stdout_file,
            stderr_file=stderr_file,
        )
        lane = _lane(KernelChoice(_own_spec(kernel_name), warmup), start_timeout)
        run_sync(lane.renew)(os.getcwd())
        lane.use()
        client = PapermillNotebookClient(nb_man, km=lane.manager, **arguments)
        client.kc = lane.client
        return client.execute()


def _own_spec(kernel_name: str) -> str | None:
    """The name, if it is that of a kernelspec of this package."""
    try:
        argv = KernelSpecManager().get_kernel_spec(kernel_name).argv
    except NoSuchKernel:
        return None
    return kernel_name if "pyrepl_kernel" in argv else None


def _lane(choice: KernelChoice, start_timeout: float) -> Lane:
    key = (os.getpid(), threading.get_ident(), choice, start_timeout)
    if key not in _lanes:
        _lanes[key] = Lane(choice, start_timeout)
    return _lanes[key]


@atexit.register
def close() -> None:
    """End this thread's kernels in order. (They would end with this process in any case.)"""
    for key in list(_lanes):
        if key[:2] == (os.getpid(), threading.get_ident()):
            run_sync(_lanes.pop(key).close)()
