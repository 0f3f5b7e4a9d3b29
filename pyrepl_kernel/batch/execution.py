"""One notebook at work: its cells, by nbclient, in the worker of a lane."""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from nbclient.client import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
from nbformat import NotebookNode

from pyrepl_kernel.batch.lane import KernelNotStarted, Lane
from pyrepl_kernel.batch.results import CellResult, NotebookError, Status, now, plain
from pyrepl_kernel.batch.store import Saver

__all__ = ["Execution", "Outcome", "Watcher"]

_LOOK_AT_MEMORY = 1.0  # seconds
_WORKER_DIED = "WorkerDied"
# nbclient logs what it raises; ours is the report of it.
_QUIET = logging.getLogger("pyrepl_kernel.batch.nbclient")
_QUIET.addHandler(logging.NullHandler())
_QUIET.propagate = False


class Watcher(Protocol):
    """Who looks on while a notebook runs."""

    def cell(self, index: int, source: str) -> None:
        """A cell is about to run."""

    def memory(self, size: int) -> None:
        """The worker's processes use so many bytes."""


@dataclass
class Outcome:
    """What an execution came to."""

    status: Status = "ok"
    error: NotebookError | None = None
    cells: list[CellResult] = field(default_factory=list)
    started: str = ""
    seconds: float = 0.0
    peak_memory: int | None = None
    log: str = ""
    content: bytes = b""


class Execution:
    """Runs a notebook in a lane; the notebook gets the outputs.

    Args:
        notebook: The notebook.
        lane: The kernel; nobody else uses it meanwhile.
        cwd: The working directory of the cells.
        output: The file that is kept up to date; None for none.
        timeout: Seconds that a cell may take; None for any.
        watcher: Who looks on.

    Attributes:
        worker: The worker's process, once it was asked for; None before.
        memory: What it used last, in bytes.
    """

    def __init__(
        self,
        notebook: Any,
        lane: Lane,
        cwd: Path,
        output: Path | None,
        timeout: float | None,
        watcher: Watcher,
    ) -> None:
        self._notebook = notebook
        self._lane = lane
        self._cwd = cwd
        self._timeout = timeout
        self._watcher = watcher
        self._saver = Saver(notebook, output)
        self._outcome = Outcome()
        self._cell: int | None = None
        self._ending: NotebookError | None = None
        self._is_stopped = False
        self._task: asyncio.Task[None] | None = None
        self.worker: int | None = None
        self.memory = 0

    async def run(self) -> Outcome:
        """Run it to its end. What goes wrong is in the outcome; nothing is raised but
        `asyncio.CancelledError`."""
        outcome = self._outcome
        outcome.started = now()
        began = time.perf_counter()
        self._task = asyncio.create_task(self._run_cells())
        try:
            await asyncio.wait([self._task])
        except asyncio.CancelledError:
            self.stop()
            await asyncio.wait([self._task])
            raise
        finally:
            self._close()
            outcome.seconds = time.perf_counter() - began
        self._task.result()  # it caught all but what is a mistake of ours
        return outcome

    def stop(self) -> None:
        """End it where it is; what it has is kept."""
        self._is_stopped = True
        if self._task is not None:
            self._task.cancel()

    def end(self, error: NotebookError) -> None:
        """End it as failed, for a reason from outside."""
        if self._task is not None and not self._task.done():
            self._ending = error
            self._task.cancel()

    # ---------------------------------------------------------------- at work

    async def _run_cells(self) -> None:
        looking: asyncio.Task[None] | None = None
        try:
            await self._lane.renew(self._cwd)
            self._lane.use()
            self._notebook.metadata["language_info"] = self._lane.language_info
            looking = asyncio.create_task(self._look_at_memory())
            await self._execute()
            await self._measure()
        except (Exception, asyncio.CancelledError) as error:
            self._fail(error)
            if not self._is_over():
                await self._lane.discard()
        finally:
            if looking is not None:
                looking.cancel()

    async def _execute(self) -> None:
        client = _Client(self._notebook, self._lane, self._timeout, self._saver.changed)
        try:
            for index, cell in enumerate(self._notebook.cells):
                if cell.cell_type == "code" and cell.source.strip():
                    await self._execute_cell(client, index, cell)
            client.set_widgets_metadata()
        finally:
            client.forget()

    async def _execute_cell(self, client: _Client, index: int, cell: Any) -> None:
        self._cell = index
        source = _first_line(cell.source)
        self._watcher.cell(index, source)
        began = time.perf_counter()
        is_ok = False
        try:
            await client.async_execute_cell(
                cell, index, execution_count=client.code_cells_executed + 1
            )
            is_ok = True
        finally:
            took = time.perf_counter() - began
            self._outcome.cells.append(CellResult(index, source, took, is_ok))
            self._saver.changed()

    async def _look_at_memory(self) -> None:
        while True:
            # A short notebook is looked at once, when it is done; each look costs a millisecond
            # or more of the kernel process.
            await asyncio.sleep(_LOOK_AT_MEMORY)
            await self._measure()

    async def _measure(self) -> None:
        usage = await self._lane.usage()
        if usage is None:
            return
        self.worker = usage.pid
        if usage.memory is not None:
            self._outcome.peak_memory = max(self._outcome.peak_memory or 0, usage.memory)
            self.memory = usage.memory
            self._watcher.memory(usage.memory)

    # ----------------------------------------------------------------- its end

    def _is_over(self) -> bool:
        """Whether no cell runs any more, in a kernel that is of further use."""
        error = self._outcome.error
        return error is not None and error.kind == "raised"

    def _fail(self, error: BaseException) -> None:
        outcome = self._outcome
        outcome.status = "failed"
        if self._is_stopped:
            outcome.status = "interrupted"
        elif self._ending is not None:
            outcome.error = self._ending
        else:
            outcome.error = self._explain(error)

    def _explain(self, error: BaseException) -> NotebookError:
        cell = self._cell
        source = "" if cell is None else self._notebook.cells[cell].source
        if isinstance(error, KernelNotStarted):
            return NotebookError("start", str(error))
        if isinstance(error, CellTimeoutError):
            message = f"the cell took longer than {self._timeout:g} s"
            return NotebookError("timeout", message, cell, source)
        if isinstance(error, DeadKernelError):
            return self._death(cell, source)
        if isinstance(error, CellExecutionError):
            if error.ename == _WORKER_DIED:
                return self._death(cell, source)
            message = f"{error.ename}: {error.evalue}" if error.evalue else error.ename
            return NotebookError("raised", message, cell, source, self._traceback(error))
        logging.getLogger("pyrepl_kernel.batch").error("a notebook failed", exc_info=error)
        return NotebookError("died", f"{type(error).__name__}: {error}", cell, source)

    def _traceback(self, error: CellExecutionError) -> str:
        for output in reversed(self._notebook.cells[self._cell].outputs):
            if output.output_type == "error":
                return "\n".join(output.traceback)
        return str(error.traceback)

    def _death(self, cell: int | None, source: str) -> NotebookError:
        """Why the kernel is gone, as far as anybody said."""
        for ran in self._notebook.cells[: (cell or 0) + 1]:
            for output in ran.get("outputs", ()):
                if output.output_type == "error" and output.ename == _WORKER_DIED:
                    report = "\n".join(output.traceback)
                    return NotebookError("died", _reason(output.evalue), cell, source, report)
        said = plain(self._lane.said())
        words = f"; its last words:\n{said}" if said else ""
        return NotebookError("died", f"the kernel process ended{words}", cell, source)

    def _close(self) -> None:
        outcome = self._outcome
        outcome.log = plain(self._lane.said())
        try:
            outcome.content = self._saver.close()
        except OSError as error:
            if outcome.error is None:
                outcome.status = "failed"
                reason = f"cannot write {error.filename}: {error.strerror}"
                outcome.error = NotebookError("output", reason)


def _reason(evalue: object) -> str:
    # Which of its sessions a kernel speaks of says nothing to the reader of a report.
    return re.sub(r"^session \S+: ", "", str(evalue))


def _first_line(source: str) -> str:
    return next((line.strip() for line in source.splitlines() if line.strip()), "")[:200]


class _Client(NotebookClient):
    """nbclient's, on a kernel and a client that are there already."""

    def __init__(
        self, notebook: Any, lane: Lane, timeout: float | None, on_output: Callable[[], None]
    ) -> None:
        super().__init__(
            notebook,
            km=lane.manager,
            # Unlike `timeout`, this may give a fraction of a second.
            timeout_func=lambda cell: timeout,
            log=_QUIET,
        )
        self.kc = lane.client
        self._on_output = on_output
        self._watching: asyncio.Task[Any] | None = None

    def process_message(
        self, msg: dict[str, Any], cell: NotebookNode, cell_index: int
    ) -> NotebookNode | None:
        output = super().process_message(msg, cell, cell_index)
        self._on_output()
        return output

    async def _async_poll_kernel_alive(self) -> None:
        self._watching = asyncio.current_task()
        await super()._async_poll_kernel_alive()

    def forget(self) -> None:
        """Leave nothing running: nbclient goes on watching when a cell of its is cancelled."""
        if self._watching is not None:
            self._watching.cancel()
