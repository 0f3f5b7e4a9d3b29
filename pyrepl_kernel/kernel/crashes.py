"""What the kernel does when its worker has died: tells, and goes on with another or ends."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from pyrepl_kernel.errors import WorkerDied
from pyrepl_kernel.kernel.crash_report import Aftermath, full_report, summary
from pyrepl_kernel.kernel.exchange import Exchange, error_content
from pyrepl_kernel.kernel.output import as_output
from pyrepl_kernel.protocol.messages import ErrorMessage, ExecuteMessage

if TYPE_CHECKING:
    from pyrepl_kernel.kernel.cell import CellRun
    from pyrepl_kernel.kernel.kernel import Kernel

__all__ = ["Crashes"]

log = logging.getLogger("pyrepl_kernel.kernel")

_NAME = WorkerDied.__name__


class Crashes:
    """The deaths of a kernel's workers.

    Args:
        kernel: The kernel.
        on_crash: ``respawn``, ``exit``, or ``auto``: exit where the client allows no input, as
            nbclient's and papermill's do.
    """

    def __init__(self, kernel: Kernel, on_crash: str) -> None:
        self._kernel = kernel
        self._on_crash = on_crash
        self._latest: Exchange | None = None  # of a cell
        self._is_batch = False
        self._reported: WorkerDied | None = None
        self._held: list[CellRun] | None = None

    def note_cell(self, exchange: Exchange, message: ExecuteMessage) -> None:
        """A cell begins."""
        self._latest = exchange
        self._is_batch = not message.allow_stdin

    def holds(self, run: CellRun) -> bool:
        """Whether a request came too early to run: before its client could know of a death."""
        if self._held is None:
            return False
        self._held.append(run)
        return True

    def is_reported(self, death: WorkerDied) -> bool:
        """Whether a cell has told of this death; those behind it are just aborted."""
        return self._reported is death

    def on_death(self, death: WorkerDied, has_cells: bool) -> None:
        """A worker has died; if it was under a cell, or others wait, they will tell.

        Args:
            death: Why.
            has_cells: Whether there are such cells.
        """
        log.error("%s", death)
        if not has_cells:
            self._report_idle(death)

    def _report_idle(self, death: WorkerDied) -> None:
        """Tell of a death between two cells: under the last one, and with the next."""
        ends_kernel = self._ends_kernel(self._is_batch)
        aftermath = self._aftermath(ends_kernel)
        if self._latest is not None:
            self._publish(self._latest, death, full_report(death, aftermath))
        if ends_kernel:
            self._kernel.stop(1)
        else:
            lost = "All variables and imports are lost; a new process has taken over."
            what = aftermath.restored or " ".join(filter(None, [lost, aftermath.advice]))
            self._kernel.notify(f"Between two cells, {summary(death)}. {what}\n")

    def end_cell(self, run: CellRun, death: WorkerDied) -> None:
        """Tell of a death under a cell, as its end.

        In a batch nobody must go on with an empty namespace. The kernel ends, and that is the
        answer: an error reply would let a client that allows errors send its next cell.
        """
        self._reported = death
        self._held = []
        aborted = len(self._kernel.waiting_runs(None))
        held, self._held = self._held, None
        message = run.message
        is_batch = isinstance(message, ExecuteMessage) and not message.allow_stdin
        ends_kernel = self._ends_kernel(is_batch)
        report = full_report(death, self._aftermath(ends_kernel, aborted))
        run.exchange.busy()
        self._publish(run.exchange, death, report)
        if ends_kernel:
            run.exchange.done()
            self._kernel.stop(1)
        else:
            content = error_content(_NAME, summary(death), report)
            content["execution_count"] = run.count or self._kernel.next_count
            content |= {"user_expressions": {}, "payload": []}
            run.exchange.finish(content, run.metadata("error"))
        for late in held:
            late.abort()

    def _ends_kernel(self, is_batch: bool) -> bool:
        return self._on_crash == "exit" or (self._on_crash == "auto" and is_batch)

    def _aftermath(self, ends_kernel: bool, aborted: int = 0) -> Aftermath:
        restoration = self._kernel.restoration
        return Aftermath(
            ends_kernel,
            aborted,
            bool(self._kernel.options.warmup),
            "" if ends_kernel else restoration.prepare(),
            restoration.advice(),
        )

    def _publish(self, exchange: Exchange, death: WorkerDied, report: list[str]) -> None:
        output = as_output(ErrorMessage(_NAME, summary(death), report))
        assert output is not None
        exchange.publish(*output)
