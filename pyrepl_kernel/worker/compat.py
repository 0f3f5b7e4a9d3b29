"""Fits the worker's objects into ipykernel's modules, when the user's code imports those.

Libraries ask ``isinstance(get_ipython(), ipykernel.zmqshell.ZMQInteractiveShell)`` and
``IPKernelApp.initialized()``. Nothing of ipykernel is imported for that unless they do it.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

from pyrepl_kernel.worker.capture import OutStream
from pyrepl_kernel.worker.imports import when_imported
from pyrepl_kernel.worker.shell import CellDisplayHook, CellDisplayPublisher, ZMQInteractiveShell
from pyrepl_kernel.worker.standins import stand_in_for

__all__ = ["fit_into_ipykernel"]


def fit_into_ipykernel(shell: ZMQInteractiveShell) -> None:
    """Let ipykernel's modules know this shell as the running kernel's, once they are imported."""

    def replace(module: str, name: str, ours: type) -> None:
        # traitlets' metaclass takes no virtual subclasses, so the name stands for our class.
        when_imported(module, lambda loaded: setattr(loaded, name, ours))

    def instance(module: str, name: str, ours: str) -> None:
        def announce(loaded: ModuleType) -> None:
            # Whoever asks for the class's instance, or whether there is one, gets ours.
            kernel: Any = shell.kernel
            getattr(loaded, name)._instance = kernel if ours == "kernel" else kernel.parent

        when_imported(module, announce)

    replace("ipykernel.zmqshell", "ZMQInteractiveShell", ZMQInteractiveShell)
    replace("ipykernel.zmqshell", "ZMQDisplayPublisher", CellDisplayPublisher)
    replace("ipykernel.displayhook", "ZMQShellDisplayHook", CellDisplayHook)
    instance("ipykernel.kernelbase", "Kernel", "kernel")
    instance("ipykernel.kernelapp", "IPKernelApp", "app")
    when_imported("ipykernel.iostream", lambda loaded: loaded.OutStream.register(OutStream))
    # ipykernel's own looks for a stream between two of its threads where there are subshells.
    when_imported(
        "ipykernel.eventloops",
        lambda loaded: setattr(loaded, "get_shell_stream", lambda kernel: kernel.shell_stream),
    )
    stand_in_for("ipykernel")
    stand_in_for("ipykernel.zmqshell")
