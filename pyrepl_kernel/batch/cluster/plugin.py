"""The side of a Dask worker: a plugin that owns its pool process, and the task that uses it."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from typing import Any

from distributed import get_worker
from distributed.diagnostics.plugin import WorkerPlugin
from distributed.worker import Worker

from pyrepl_kernel.batch.cluster import frames
from pyrepl_kernel.errors import BatchError

__all__ = ["RESOURCE", "NotebookPool", "PoolLost", "run_on_node"]

log = logging.getLogger("pyrepl_kernel.batch")

RESOURCE = "pyrepl"
"""The Dask resource of which a notebook takes one; a worker has as many as it runs at a time."""

_LOOK = 1.0
_GRACE = 10.0


class PoolLost(RuntimeError):
    """The pool process ended while a notebook ran in it; Dask tries that notebook again."""


class NotebookPool(WorkerPlugin):
    """A warm pool beside a Dask worker: a process of its own, started by exec.

    Args:
        name: Its name, and the topic of its events; one for each batch.
        kernel: Name of a kernelspec; None for this package there.
        warmup: Code that each worker process has run before its notebook.
        lanes: How many notebooks run at a time; None for the worker's resource ``pyrepl``, or
            else its number of threads.
        timeout: Seconds that a cell may take.
        linger: Seconds that a pool process without a notebook is kept.
    """

    idempotent = True

    def __init__(
        self,
        name: str,
        kernel: str | None,
        warmup: str | None,
        lanes: int | None,
        timeout: float | None,
        linger: float,
    ) -> None:
        self.name = name
        self._linger = linger
        self._kernel = kernel
        self._warmup = warmup
        self._lanes = lanes
        self._timeout = timeout
        self._worker: Worker | None = None
        self._process: asyncio.subprocess.Process | None = None
        self._reading: asyncio.Task[None] | None = None
        self._starting: asyncio.Lock | None = None
        self._answers: dict[str, asyncio.Future[dict[str, Any]]] = {}
        self._ready: asyncio.Future[None] | None = None
        self._memory = 0
        self._idle: asyncio.TimerHandle | None = None

    # ------------------------------------------------------------ Dask's calls

    async def setup(self, worker: Worker) -> None:
        """Offer the slots, and have the pool warm before the first notebook comes."""
        self._worker = worker
        self._starting = asyncio.Lock()
        lanes = self._lanes or worker.state.total_resources.get(RESOURCE) or worker.state.nthreads
        self._lanes = int(lanes)
        await worker.set_resources(**{RESOURCE: self._lanes})
        # The nanny and Dask's own figures know this process alone.
        worker.metrics["pyrepl_memory"] = lambda _: self._memory
        await self._start()
        self._end_when_idle()

    async def teardown(self, worker: Worker) -> None:
        """End the pool process and all in it."""
        worker.metrics.pop("pyrepl_memory", None)
        await self._end()

    # -------------------------------------------------------- the pool process

    async def _start(self) -> None:
        assert self._worker is not None and self._starting is not None
        async with self._starting:
            if self._process is not None and self._process.returncode is None:
                return
            self._process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-P",
                "-m",
                "pyrepl_kernel.batch.cluster",
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                start_new_session=True,
            )
            assert self._process.stdin is not None and self._process.stdout is not None
            settings = {
                "kernel": self._kernel,
                "warmup": self._warmup,
                "lanes": self._lanes,
                "timeout": self._timeout,
                "memory_limit": self._worker.memory_manager.memory_limit or None,
                "parent": os.getpid(),
            }
            frames.write(self._process.stdin, settings)
            self._ready = asyncio.get_running_loop().create_future()
            self._reading = asyncio.create_task(self._read(self._process.stdout))
            await self._ready

    async def _read(self, reader: asyncio.StreamReader) -> None:
        assert self._ready is not None
        while (message := await frames.read(reader)) is not None:
            if message.get("ready"):
                self._ready.set_result(None)
            elif "refused" in message:
                self._ready.set_exception(BatchError(message["refused"]))
            elif "memory" in message:
                self._memory = message["memory"]
            elif "outcome" in message:
                if answer := self._answers.pop(message["key"], None):
                    answer.set_result(message["outcome"])
            else:
                assert self._worker is not None
                self._worker.log_event(self.name, message)
        lost = PoolLost("the pool process of this Dask worker ended")
        if not self._ready.done():
            self._ready.set_exception(lost)
        for answer in self._answers.values():
            answer.set_exception(lost)
        self._answers.clear()
        self._memory = 0

    async def _end(self) -> None:
        if self._idle is not None:
            self._idle.cancel()
        process, self._process = self._process, None
        if process is None:
            return
        assert process.stdin is not None
        process.stdin.close()
        try:
            async with asyncio.timeout(_GRACE):
                await process.wait()
        except TimeoutError:
            log.warning("the pool process did not end in order, and was killed")
            process.kill()  # its kernels end with it
            await process.wait()
        if self._reading is not None:
            await self._reading

    def _end_when_idle(self) -> None:
        """A client that is gone does not come back to unregister its plugin."""
        if self._idle is not None:
            self._idle.cancel()
        loop = asyncio.get_running_loop()
        self._idle = loop.call_later(self._linger, self._end_if_idle)

    def _end_if_idle(self) -> None:
        if self._process is not None and not self._answers:
            assert self._process.stdin is not None
            self._process.stdin.close()
            self._process = None

    # ---------------------------------------------------------------- notebooks

    async def run(self, key: str, job: dict[str, Any]) -> dict[str, Any]:
        """Run a notebook.

        Args:
            key: Its task's.
            job: ``notebook``, as JSON values, and ``cwd``.

        Returns:
            The outcome, and the executed notebook in ``content``.

        Raises:
            PoolLost: The pool process ended.
        """
        await self._start()
        assert self._process is not None and self._process.stdin is not None
        assert self._worker is not None
        answer: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._answers[key] = answer
        stdin = self._process.stdin
        frames.write(stdin, {"key": key, **job})
        while True:
            done, _ = await asyncio.wait([answer], timeout=_LOOK)
            if done:
                break
            # Dask cannot interrupt a task that nobody wants any more; this can.
            task = self._worker.state.tasks.get(key)
            if task is None or task.state == "cancelled":
                frames.write(stdin, {"key": key, "stop": True})
        self._end_when_idle()
        return {**answer.result(), "node": self._worker.address}


async def run_on_node(plugin: str, key: str, job: dict[str, Any]) -> dict[str, Any]:
    """The task: run a notebook in the pool of the Dask worker that has got it."""
    pool = get_worker().plugins[plugin]
    assert isinstance(pool, NotebookPool)
    return await pool.run(key, job)
