"""Kernels under jupyter_client's managers, as servers have them."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Awaitable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import psutil
from jupyter_client.manager import AsyncKernelManager, KernelManager

from .support import KERNEL, TIMEOUT, Client, wait_gone


class Managed:
    """A manager, whether its methods are coroutines or not, and clients of its kernel.

    Args:
        manager: It has not started its kernel yet.
    """

    def __init__(self, manager: KernelManager) -> None:
        self.manager = manager
        self._runner = asyncio.Runner()
        self._clients: list[Client] = []

    def call(self, method: str, *args: Any, **kwargs: Any) -> Any:
        """Call a method of the manager's, and wait for what it returns."""
        return self.wait(lambda: getattr(self.manager, method)(*args, **kwargs))

    def wait(self, function: Any) -> Any:
        """The result of a function, on the manager's event loop if it has one."""
        if not isinstance(self.manager, AsyncKernelManager):
            return function()

        async def run() -> Any:
            result = function()
            return await result if inspect.isawaitable(result) else result

        return self._runner.run(run())

    def provisioner(self, method: str, *args: Any) -> Any:
        """Call a coroutine of the provisioner's."""
        coroutine: Awaitable[Any] = getattr(self.manager.provisioner, method)(*args)

        async def run() -> Any:
            return await coroutine

        return self._runner.run(run())

    def client(self) -> Client:
        """A further client, ready to use."""
        client = Client(self.manager.connection_file)
        self._clients.append(client)
        client.wait_ready()
        return client

    @property
    def pid(self) -> int:
        """The kernel process."""
        pid = self.manager.provisioner.pid  # type: ignore[union-attr]
        assert isinstance(pid, int)
        return pid

    def settled(self, worker: int) -> set[int]:
        """All of the kernel's processes, once they are a worker, its spare and their template."""
        deadline = time.monotonic() + TIMEOUT
        while True:
            family = {}
            for child in psutil.Process(self.pid).children(recursive=True):
                with suppress(psutil.NoSuchProcess):
                    if child.status() != psutil.STATUS_ZOMBIE:
                        family[child.pid] = child.name()
            # A template that is not yet warm has a child as well, of the same name: a trial fork.
            others = sorted(name for pid, name in family.items() if pid != worker)
            if worker in family and others == ["pyrepl-template", "pyrepl-worker"]:
                return set(family)
            assert time.monotonic() < deadline, f"worker {worker} is not one of three in {family}"

    def close(self) -> None:
        """End the kernel, if there is one, and close everything."""
        for client in self._clients:
            client.close()
        pid = getattr(self.manager.provisioner, "pid", None)
        family = _family(pid)
        if self.manager.provisioner is not None:
            self.call("shutdown_kernel", now=True)
        self.call("cleanup_resources")
        self._runner.close()
        left = [member for member in family if not wait_gone(member, TIMEOUT)]
        assert not left, f"processes {left} are left behind"


def _family(pid: int | None) -> list[int]:
    if pid is None:
        return []
    try:
        process = psutil.Process(pid)
        return [pid, *(child.pid for child in process.children(recursive=True))]
    except psutil.NoSuchProcess:
        return []


@contextmanager
def managed(
    manager_class: type[KernelManager] = KernelManager, start: bool = True, **traits: Any
) -> Iterator[Managed]:
    """A kernel under a manager with these traits; nothing of it is left afterwards."""
    kernel = Managed(manager_class(**{"kernel_name": KERNEL} | traits))
    try:
        if start:
            kernel.call("start_kernel")
        yield kernel
    finally:
        kernel.close()
