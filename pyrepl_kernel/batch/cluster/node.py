"""The pool process of a Dask worker: kernels, and notebooks that run in them.

Started by the plugin, with frames on descriptors 0 and 1. It ends when the plugin closes them, and
when the Dask worker's process is gone, which a pidfd tells even if somebody inherited the
descriptors.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import nbformat
import psutil

from pyrepl_kernel.batch.cluster import frames
from pyrepl_kernel.batch.execution import Execution, Outcome
from pyrepl_kernel.batch.lane import KernelChoice, Lane
from pyrepl_kernel.batch.local import check_warmup
from pyrepl_kernel.batch.progress import size_text
from pyrepl_kernel.batch.results import NotebookError
from pyrepl_kernel.errors import BatchError
from pyrepl_kernel.session.process import ProcessWatch

__all__ = ["Node", "main"]

log = logging.getLogger("pyrepl_kernel.batch")

_COUNT_EVERY = 1.0  # seconds
_MEMORY_SHARE = 0.95  # of the limit, as Dask's nanny does by default


class Node:
    """Runs notebooks for one Dask worker.

    Args:
        settings: ``kernel``, ``warmup``, ``lanes``, ``timeout``, ``memory_limit``, ``parent``.
        writer: Where messages go.
    """

    def __init__(self, settings: dict[str, Any], writer: asyncio.StreamWriter) -> None:
        self._writer = writer
        self._timeout: float | None = settings["timeout"]
        self._limit: int | None = settings["memory_limit"]
        self._parent: int = settings["parent"]
        self._choice = KernelChoice(settings["kernel"], settings["warmup"])
        self._lanes = [Lane(self._choice) for _ in range(settings["lanes"])]
        self._free: asyncio.Queue[Lane] = asyncio.Queue()
        for lane in self._lanes:
            self._free.put_nowait(lane)
        self._running: dict[str, Execution] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._elsewhere = tempfile.TemporaryDirectory(prefix="pyrepl-batch-")

    async def run(self, reader: asyncio.StreamReader) -> None:
        """Serve until the Dask worker is done with it, or gone."""
        ended = asyncio.Event()
        watch: ProcessWatch | None = None
        tasks: list[asyncio.Task[Any]] = []
        try:
            watch = ProcessWatch(self._parent, ended.set)
            tasks = [
                asyncio.create_task(self._serve(reader)),
                asyncio.create_task(ended.wait()),
                asyncio.create_task(self._watch_memory()),
            ]
            await asyncio.wait(tasks[:2], return_when=asyncio.FIRST_COMPLETED)
        except ProcessLookupError:
            pass  # it is gone already
        finally:
            if watch is not None:
                watch.close()
            await self._end([*tasks, *self._tasks])

    async def _end(self, tasks: list[asyncio.Task[Any]]) -> None:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.gather(*(lane.discard() for lane in self._lanes))
        self._elsewhere.cleanup()

    async def _serve(self, reader: asyncio.StreamReader) -> None:
        try:
            if self._choice.warmup is not None:
                await check_warmup(self._lanes[0], Path(self._elsewhere.name))
        except BatchError as error:
            frames.write(self._writer, {"refused": str(error)})
            return
        frames.write(self._writer, {"ready": True})
        while (message := await frames.read(reader)) is not None:
            key = message["key"]
            if message.get("stop"):
                if key in self._running:
                    self._running[key].stop()
            else:
                task = asyncio.create_task(self._run_notebook(key, message))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)

    async def _run_notebook(self, key: str, message: dict[str, Any]) -> None:
        lane = await self._free.get()
        try:
            outcome = await self._execute(key, message, lane)
        finally:
            self._free.put_nowait(lane)
        content = outcome.content.decode()
        values = {**asdict(outcome), "content": content}
        frames.write(self._writer, {"key": key, "outcome": values})
        await self._writer.drain()

    async def _execute(self, key: str, message: dict[str, Any], lane: Lane) -> Outcome:
        notebook = nbformat.from_dict(message["notebook"])
        cwd = self._folder(message["cwd"])
        watcher = _Reporter(key, self._writer)
        execution = Execution(notebook, lane, cwd, None, self._timeout, watcher)
        self._running[key] = execution
        frames.write(self._writer, {"key": key, "begun": True})
        try:
            return await execution.run()
        finally:
            del self._running[key]

    def _folder(self, wanted: str) -> Path:
        """The folder of a notebook where the machines share it, else one of our own."""
        return Path(wanted if os.path.isdir(wanted) else self._elsewhere.name)

    # ----------------------------------------------------------------- memory

    async def _watch_memory(self) -> None:
        """Count what the nanny does not see, and end a notebook before the machine suffers."""
        while True:
            await asyncio.sleep(_COUNT_EVERY)
            if not self._running:
                continue
            used = await asyncio.to_thread(self._count)
            frames.write(self._writer, {"memory": used["pool"]})
            if self._limit is None or used["all"] <= _MEMORY_SHARE * self._limit:
                continue
            heaviest = max(self._running.values(), key=lambda each: each.memory, default=None)
            if heaviest is not None:
                heaviest.end(
                    NotebookError(
                        "memory",
                        f"its Dask worker and the notebooks there used {size_text(used['all'])} of "
                        f"{size_text(self._limit)}, and of these this one used the most: "
                        f"{size_text(heaviest.memory)}",
                    )
                )

    def _count(self) -> dict[str, int]:
        """Bytes of this pool, workers included, and of the Dask worker with it."""
        ours = psutil.Process()
        pids = {ours.pid, *(child.pid for child in ours.children(recursive=True))}
        # Workers may be another process's children: those of a template.
        workers = {each.worker for each in self._running.values() if each.worker}
        pool = sum(_size(pid) for pid in pids | workers)
        return {"pool": pool, "all": pool + _size(self._parent)}


def _size(pid: int) -> int:
    try:
        info = psutil.Process(pid).memory_full_info()
    except psutil.Error:
        return 0  # gone since it was listed
    return int(getattr(info, "pss", info.rss))


class _Reporter:
    """Tells the plugin how a notebook goes."""

    def __init__(self, key: str, writer: asyncio.StreamWriter) -> None:
        self._key = key
        self._writer = writer

    def cell(self, index: int, source: str) -> None:
        frames.write(self._writer, {"key": self._key, "cell": index, "source": source})

    def memory(self, size: int) -> None:
        frames.write(self._writer, {"key": self._key, "size": size})


async def _main() -> None:
    # Descriptor 1 is for frames alone; what anything here prints goes to the log.
    sending = os.dup(1)
    os.dup2(2, 1)
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(0, "rb"))
    transport, protocol = await loop.connect_write_pipe(
        asyncio.streams.FlowControlMixin, os.fdopen(sending, "wb")
    )
    writer = asyncio.StreamWriter(transport, protocol, reader, loop)
    settings = await frames.read(reader)
    if settings is not None:
        await Node(settings, writer).run(reader)


def main() -> None:
    """Be the pool process of a Dask worker."""
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr)
    asyncio.run(_main())
