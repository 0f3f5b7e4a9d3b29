"""A kernel that runs one notebook after another, each in a fresh worker.

renew(folder)                   start, or restart in place: a fresh worker in that folder
  │  kernel_info until the answer comes on shell and on iopub
  ▼
execute cells through `client`  one client for as long as the kernel process lives
  │
renew(next folder) …            a kernel that died, or will not restart, is replaced
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from queue import Empty
from typing import IO, Any, BinaryIO

from jupyter_client.asynchronous.client import AsyncKernelClient
from jupyter_client.kernelspec import KernelSpec, KernelSpecManager, NoSuchKernel
from jupyter_client.manager import AsyncKernelManager

from pyrepl_kernel.errors import BatchError, PyreplError

__all__ = ["KernelChoice", "KernelNotStarted", "Lane", "Usage"]

log = logging.getLogger("pyrepl_kernel.batch")

OWN_KERNEL = "pyrepl"

_ASK_AGAIN = 0.25  # seconds; a subscription that was not there in time misses an answer
_LOOK_ALIVE = 0.5
_USAGE_TIMEOUT = 2.0
_ARGUMENT_LENGTH = 16_384
_LOG_LENGTH = 8192  # bytes of a kernel's standard error that a result keeps


class KernelNotStarted(PyreplError):
    """No kernel came up for a notebook."""


@dataclass(frozen=True)
class Usage:
    """What a worker uses.

    Attributes:
        pid: Its process.
        memory: Bytes, of it and of what it started; None where the kernel cannot tell.
    """

    pid: int
    memory: int | None


@dataclass(frozen=True)
class KernelChoice:
    """Which kernel runs the notebooks.

    Attributes:
        name: A kernelspec's name; None for this package in this environment.
        warmup: Code that each worker has run before its notebook; None to leave it to the
            kernelspec.
    """

    name: str | None = None
    warmup: str | None = None

    def specs(self) -> KernelSpecManager:
        """What finds the kernelspec.

        Raises:
            BatchError: There is none of that name, or it takes no warmup.
        """
        if self.name is None:
            return _OwnSpec()
        specs = KernelSpecManager()
        try:
            argv = specs.get_kernel_spec(self.name).argv
        except NoSuchKernel as error:
            known = ", ".join(sorted(specs.find_kernel_specs())) or "none"
            raise BatchError(f"there is no kernel {self.name}; there are: {known}") from error
        if self.warmup is not None and "pyrepl_kernel" not in argv:
            raise BatchError(f"the kernel {self.name} is another's and takes no --warmup")
        return specs


class _OwnSpec(KernelSpecManager):
    """Knows one kernel: this package, in this environment, whatever is installed elsewhere."""

    def get_kernel_spec(self, kernel_name: str) -> KernelSpec:
        package = Path(__file__).parents[1]
        for folder in (package / "_kernelspec", package.parent / "kernelspec"):
            if (folder / "kernel.json").is_file():
                spec = json.loads((folder / "kernel.json").read_text(encoding="utf-8"))
                spec["argv"][0] = sys.executable
                return KernelSpec(resource_dir=str(folder), **spec)
        raise BatchError("this installation lacks its kernelspec; install pyrepl-kernel anew")


class Lane:
    """A kernel, for one notebook at a time.

    Args:
        choice: Which kernel.
        startup_timeout: Seconds until a kernel that does not answer is given up.
    """

    def __init__(self, choice: KernelChoice, startup_timeout: float = 60.0) -> None:
        self._choice = choice
        self._startup_timeout = startup_timeout
        self._manager: AsyncKernelManager | None = None
        self._client: AsyncKernelClient | None = None
        self._process: object = None
        self._is_fresh = False
        self._cwd = ""
        self._tells_usage = True
        self._warmup: IO[str] | None = None
        self._log: BinaryIO = tempfile.TemporaryFile()
        self._log_start = 0
        self.language_info: dict[str, Any] = {}

    @property
    def manager(self) -> AsyncKernelManager:
        """The kernel's manager; after `renew`."""
        assert self._manager is not None
        return self._manager

    @property
    def client(self) -> AsyncKernelClient:
        """The kernel's client; after `renew`."""
        assert self._client is not None
        return self._client

    # ------------------------------------------------------------ its kernel

    async def renew(self, cwd: str | os.PathLike[str]) -> None:
        """Have a fresh worker, in a working directory.

        Raises:
            KernelNotStarted: None came up.
        """
        if self._is_fresh and os.fspath(cwd) == self._cwd:
            return
        self._log_start = os.fstat(self._log.fileno()).st_size
        self._cwd = os.fspath(cwd)
        if self._manager is not None:
            try:
                await self.manager.restart_kernel(cwd=str(cwd))
                await self._connect()
                self._is_fresh = True
                return
            except (KernelNotStarted, RuntimeError, OSError) as error:
                log.warning("a kernel would not restart, and is replaced: %s", error)
            await self.discard()
        try:
            await self._start(cwd)
            await self._connect()
            self._is_fresh = True
        except (KernelNotStarted, RuntimeError, OSError) as error:
            said = self.said()
            await self.discard()
            raise KernelNotStarted(
                f"no kernel came up: {error}" + (f"\n{said}" if said else "")
            ) from error

    def use(self) -> None:
        """A notebook is about to run: what comes next needs a fresh worker."""
        self._is_fresh = False

    async def _start(self, cwd: str | os.PathLike[str]) -> None:
        self._manager = AsyncKernelManager(
            kernel_name=self._choice.name or OWN_KERNEL,
            kernel_spec_manager=self._choice.specs(),
        )
        await self._manager.start_kernel(
            cwd=str(cwd),
            extra_arguments=self._arguments(),
            stdout=self._log,
            stderr=self._log,
        )

    def _arguments(self) -> list[str]:
        """What is added to the kernel's command line."""
        # A batch has no place in the history of what a person typed.
        arguments = ["--HistoryManager.hist_file=:memory:"]
        code = self._choice.warmup
        if code is None:
            return arguments
        if "{" in code or len(code) > _ARGUMENT_LENGTH:
            # jupyter_client replaces {words} in arguments.
            if self._warmup is None:
                self._warmup = tempfile.NamedTemporaryFile("w", suffix=".py", encoding="utf-8")
                self._warmup.write(code)
                self._warmup.flush()
            code = self._warmup.name
        return [*arguments, f"--warmup={code}"]

    async def _connect(self) -> None:
        """Wait until the kernel answers and its output is heard."""
        process = getattr(self.manager.provisioner, "pid", None)
        if self._client is None or process is None or process != self._process:
            self._close_client()
            self._client = self.manager.client()
            # Not the heartbeat: whether a kernel lives is asked of its process.
            self._client.start_channels(hb=False)
            self._client.allow_stdin = False
            self._process = process
        try:
            async with asyncio.timeout(self._startup_timeout):
                while not await self._is_heard():
                    pass
        except TimeoutError as error:
            raise KernelNotStarted(
                f"it did not answer within {self._startup_timeout:g} s"
            ) from error

    async def _is_heard(self) -> bool:
        """Ask the kernel something; whether the answer came on both channels.

        jupyter_client's `wait_for_ready` does the same and then waits for 200 ms of silence.
        """
        asked = self.client.kernel_info()
        while True:
            try:
                reply = await self.client.get_shell_msg(timeout=_LOOK_ALIVE)
            except Empty:
                if not await self.manager.is_alive():
                    raise KernelNotStarted("its process ended") from None
                continue
            if reply["parent_header"].get("msg_id") == asked:
                break
        self.language_info = reply["content"].get("language_info", {})
        try:
            while True:
                message = await self.client.get_iopub_msg(timeout=_ASK_AGAIN)
                if message["parent_header"].get("msg_id") == asked:
                    return True
        except Empty:
            return False

    def _close_client(self) -> None:
        if self._client is not None:
            self._client.stop_channels()
            self._client = None

    async def discard(self) -> None:
        """End the kernel at once; the next notebook gets another."""
        await self._end(now=True)

    async def close(self) -> None:
        """End the kernel in order."""
        await self._end(now=False)
        self._log.close()
        if self._warmup is not None:
            self._warmup.close()

    async def _end(self, now: bool) -> None:
        manager, self._manager = self._manager, None
        self._is_fresh = False
        self._close_client()
        if manager is None:
            return
        try:
            if manager.has_kernel:
                await manager.shutdown_kernel(now=now)
            else:
                await manager.cleanup_resources()
        except (RuntimeError, OSError) as error:
            log.warning("a kernel did not end in order: %s", error)
        if manager.ready.done() and not manager.ready.cancelled():
            manager.ready.exception()  # told already; asyncio warns of what nobody looked at

    # -------------------------------------------------------------- looking

    async def stderr_of_nothing(self) -> str:
        """What the kernel says with a cell that does nothing: the failure of its warmup."""
        asked = self.client.execute("pass", store_history=False)
        said = []
        async with asyncio.timeout(self._startup_timeout):
            while True:
                message = await self.client.get_iopub_msg(timeout=None)
                if message["parent_header"].get("msg_id") != asked:
                    continue
                content = message["content"]
                if message["msg_type"] == "stream":
                    said.append(content["text"])
                elif message["msg_type"] == "error":
                    said.append("\n".join(content["traceback"]))
                elif content.get("execution_state") == "idle":
                    return "".join(said).strip()

    async def usage(self) -> Usage | None:
        """What the worker uses now; None where the kernel does not say."""
        if not self._tells_usage:
            return None
        channel = self.client.control_channel
        request = self.client.session.msg("usage_request", {})
        channel.send(request)
        try:
            async with asyncio.timeout(_USAGE_TIMEOUT):
                while True:
                    reply = await channel.get_msg(timeout=None)
                    if reply["parent_header"].get("msg_id") == request["header"]["msg_id"]:
                        break
        except TimeoutError:
            # A kernel that lives and does not answer has no such message.
            self._tells_usage = not await self.manager.is_alive()
            return None
        content = reply["content"]
        return Usage(int(content.get("pid", 0)), content.get("kernel_memory"))

    def said(self) -> str:
        """What the kernel process wrote to its standard error since the last `renew`."""
        descriptor = self._log.fileno()
        end = os.fstat(descriptor).st_size
        start = max(self._log_start, end - _LOG_LENGTH)
        return os.pread(descriptor, end - start, start).decode("utf-8", "replace").strip()
