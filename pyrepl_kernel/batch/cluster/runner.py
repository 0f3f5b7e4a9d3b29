"""The side of the client: notebooks as Dask tasks, their results collected."""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distributed import Client, KilledWorker
from distributed.client import FutureCancelledError
from nbformat.notebooknode import NotebookNode

from pyrepl_kernel.batch.cluster.plugin import RESOURCE, NotebookPool, PoolLost, run_on_node
from pyrepl_kernel.batch.execution import Outcome
from pyrepl_kernel.batch.lane import KernelChoice
from pyrepl_kernel.batch.local import as_result
from pyrepl_kernel.batch.plan import Job
from pyrepl_kernel.batch.progress import Progress
from pyrepl_kernel.batch.results import CellResult, NotebookError, NotebookResult
from pyrepl_kernel.batch.store import write_atomically
from pyrepl_kernel.errors import BatchError

if TYPE_CHECKING:
    from pyrepl_kernel.batch.execution import Watcher

__all__ = ["DaskRunner"]

log = logging.getLogger("pyrepl_kernel.batch")

_CONNECT_TIMEOUT = 15.0  # seconds
_NO_WORKER_TIMEOUT = 60.0
_LINGER = 60.0  # that a pool process stays whose client was lost
_LOOK = 2.0
_LEAVE_TIMEOUT = 20.0


class DaskRunner:
    """Runs jobs on the workers of a Dask cluster.

    Args:
        address: The scheduler's.
        choice: Which kernel, there.
        lanes: How many notebooks at a time on each worker; None for what it offers.
        timeout: Seconds that a cell may take; None for any.
        retries: How often a notebook is tried again whose pool process is lost.
    """

    def __init__(
        self,
        address: str,
        choice: KernelChoice,
        lanes: int | None,
        timeout: float | None,
        retries: int,
    ) -> None:
        self._address = address
        self._choice = choice
        self._lanes = lanes
        self._timeout = timeout
        self._retries = retries
        self._name = f"pyrepl-batch-{uuid.uuid4().hex[:12]}"
        self._stopping = asyncio.Event()
        self._is_deserted = False
        self._watchers: dict[str, Watcher] = {}
        self._jobs: dict[str, Job] = {}

    def stop(self) -> None:
        """End what runs."""
        self._stopping.set()

    async def run(self, jobs: Sequence[Job], progress: Progress) -> None:
        """Run all jobs; each one's end is told to ``progress``.

        Raises:
            BatchError: There is no such cluster, or its workers cannot run notebooks.
        """
        client = await self._connect()
        try:
            await self._prepare(client)
            self._jobs = {f"{self._name}-{index}": job for index, job in enumerate(jobs)}
            client.subscribe_topic(self._name, lambda event: self._on_event(event[1], progress))
            await self._run_all(client, progress)
        finally:
            await self._leave(client)

    async def _connect(self) -> Client:
        try:
            client = await Client(
                self._address,
                asynchronous=True,
                timeout=_CONNECT_TIMEOUT,
                set_as_default=False,
            )
        except (OSError, ValueError, TimeoutError) as error:
            raise BatchError(
                f"no Dask scheduler answers at {self._address}: {error}; start one with "
                "`dask scheduler`, and name the address that it prints"
            ) from error
        return client

    async def _prepare(self, client: Client) -> None:
        try:
            await client.wait_for_workers(1, timeout=_CONNECT_TIMEOUT)
        except TimeoutError as error:
            raise BatchError(
                f"the cluster at {self._address} has no workers; start some with "
                f"`dask worker {self._address}`"
            ) from error
        choice = self._choice
        pool = NotebookPool(
            self._name, choice.name, choice.warmup, self._lanes, self._timeout, _LINGER
        )
        try:
            await client.register_plugin(pool, name=self._name)
        except BatchError:
            raise
        except Exception as error:
            raise BatchError(
                f"the workers at {self._address} cannot run notebooks: {error}; the same "
                "pyrepl-kernel[dask] must be installed there"
            ) from error

    # ------------------------------------------------------------------ tasks

    async def _run_all(self, client: Client, progress: Progress) -> None:
        futures = {
            key: client.submit(
                run_on_node,
                self._name,
                key,
                {"notebook": _plain(job.notebook), "cwd": str(job.cwd)},
                key=key,
                resources={RESOURCE: 1},
                retries=self._retries,
                pure=False,
            )
            for key, job in self._jobs.items()
        }
        pending = {
            asyncio.create_task(self._collect(key, future, progress))
            for key, future in futures.items()
        }
        stopping = asyncio.create_task(self._stopping.wait())
        deserted = asyncio.create_task(self._watch_workers(client))
        try:
            while pending and not stopping.done():
                done, _ = await asyncio.wait(
                    {*pending, stopping}, return_when=asyncio.FIRST_COMPLETED
                )
                pending -= done
        finally:
            for task in (*pending, stopping, deserted):
                task.cancel()
            await asyncio.gather(*pending, stopping, deserted, return_exceptions=True)
            self._give_up(progress)
            await client.cancel(list(futures.values()), force=True)

    async def _collect(self, key: str, future: Any, progress: Progress) -> None:
        job = self._jobs[key]
        content = b""
        try:
            answer = await future
        except (KilledWorker, PoolLost, FutureCancelledError, AssertionError, KeyError) as error:
            reason = str(error).partition("\n")[0]
            result = _lost(job, f"Dask gave it up: {type(error).__name__}: {reason}")
        else:
            result, content = await asyncio.to_thread(_received, job, answer)
        self._end(key, result, content, progress)

    def _end(self, key: str, result: NotebookResult, content: bytes, progress: Progress) -> None:
        job = self._jobs.pop(key)
        if self._watchers.pop(key, None) is None:
            progress.begin(job)  # its end was quicker than the news of its beginning
        progress.end(job, result, content)

    def _give_up(self, progress: Progress) -> None:
        """What is left when there was a stop, or no worker any more."""
        for key, job in list(self._jobs.items()):
            if self._is_deserted:
                self._end(key, _lost(job, "no Dask worker was left for it"), b"", progress)
            elif key in self._watchers:
                interrupted = as_result(job, Outcome(status="interrupted"))
                self._end(key, interrupted, b"", progress)

    async def _watch_workers(self, client: Client) -> None:
        """Stop when there is nobody left who could run anything."""
        loop = asyncio.get_running_loop()
        seen = loop.time()
        while loop.time() - seen < _NO_WORKER_TIMEOUT:
            await asyncio.sleep(_LOOK)
            try:
                identity = await client.scheduler.identity()
            except OSError:
                continue  # the scheduler is away; when it is gone, Dask cancels the futures
            if identity["workers"]:
                seen = loop.time()
        self._is_deserted = True
        self._stopping.set()

    def _on_event(self, event: dict[str, Any], progress: Progress) -> None:
        key = event.get("key", "")
        job = self._jobs.get(key)
        if job is None:
            return  # it has ended
        if key not in self._watchers:
            self._watchers[key] = progress.begin(job)
        if "cell" in event:
            self._watchers[key].cell(event["cell"], event["source"])
        elif "size" in event:
            self._watchers[key].memory(event["size"])

    async def _leave(self, client: Client) -> None:
        try:
            async with asyncio.timeout(_LEAVE_TIMEOUT):
                client.unsubscribe_topic(self._name)
                await client.unregister_worker_plugin(self._name)
        except Exception as error:  # a lost scheduler, which has told its own error before
            log.debug("the plugin could not be unregistered: %s", error)
        await client.close(timeout=_LEAVE_TIMEOUT)


def _plain(notebook: NotebookNode) -> Any:
    """A notebook as dicts and lists, which need no nbformat of the same version to unpickle."""
    if isinstance(notebook, dict):
        return {name: _plain(value) for name, value in notebook.items()}
    return [_plain(each) for each in notebook] if isinstance(notebook, list) else notebook


def _received(job: Job, answer: dict[str, Any]) -> tuple[NotebookResult, bytes]:
    """Save an executed notebook, and make a result of what came with it."""
    content = answer.pop("content").encode()
    node = answer.pop("node")
    error = answer.pop("error")
    cells = [CellResult(**cell) for cell in answer.pop("cells")]
    outcome = Outcome(
        **answer, cells=cells, error=None if error is None else NotebookError(**error)
    )
    try:
        _save(job.output, content)
    except OSError as reason:
        outcome.status = "failed"
        outcome.error = NotebookError("output", f"cannot write {job.output}: {reason.strerror}")
    return as_result(job, outcome, node), content


def _save(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, content)


def _lost(job: Job, reason: str) -> NotebookResult:
    return as_result(job, Outcome(status="failed", error=NotebookError("start", reason)))
