"""A batch from beginning to end.

plan ──▶ jobs ──▶ manifest: what is done already ──▶ runner: this machine, or a cluster
                     ▲                                  │ begin, end
                     └────────── Recorder ◀─────────────┘
                                    └──▶ display: bars or lines
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from pyrepl_kernel.batch.plan import Job
from pyrepl_kernel.batch.progress import Display, Progress
from pyrepl_kernel.batch.results import BatchResult, NotebookResult, now
from pyrepl_kernel.batch.store import Manifest, slot

if TYPE_CHECKING:
    from pyrepl_kernel.batch.execution import Watcher

__all__ = ["Batch", "Runner"]


log = logging.getLogger("pyrepl_kernel.batch")


class Runner(Protocol):
    """What runs jobs."""

    async def run(self, jobs: Sequence[Job], progress: Progress) -> None:
        """Run all of them, and tell of each one's end."""

    def stop(self) -> None:
        """End what runs, and begin nothing more; `run` then returns soon."""


class Batch:
    """Runs jobs, skips those that are done, and notes what it did.

    Args:
        jobs: What to run.
        runner: What runs it.
        folder: The folder of the outputs, where the manifest is.
        display: Who shows it.
        resume: Whether jobs that an earlier run has done are skipped.
    """

    def __init__(
        self,
        jobs: Sequence[Job],
        runner: Runner,
        folder: Path,
        display: Display,
        resume: bool = False,
    ) -> None:
        self._jobs = jobs
        self._runner = runner
        self._manifest = Manifest(folder)
        self._display = display
        self._resume = resume
        self._is_stopped = False

    def stop(self) -> None:
        """End it in order, with what is done written."""
        self._is_stopped = True
        self._runner.stop()

    async def run(self) -> BatchResult:
        """Run it.

        Raises:
            BatchError: It cannot be run as asked; no notebook was.
        """
        started, began = now(), time.perf_counter()
        done = self._manifest.done(self._jobs) if self._resume else {}
        missing = [job for job in self._jobs if slot(job) not in done]
        self._manifest.forget(missing)
        recorder = _Recorder(self._manifest, self._display, done)
        self._display.open(len(self._jobs), len(done))
        try:
            if missing and not self._is_stopped:
                await self._runner.run(missing, recorder)
        finally:
            self._display.close()
        results = [recorder.results.get(slot(job)) or _not_run(job) for job in self._jobs]
        took = time.perf_counter() - began
        return BatchResult(results, took, started, self._is_stopped)


class _Recorder:
    def __init__(
        self, manifest: Manifest, display: Display, results: dict[str, NotebookResult]
    ) -> None:
        self._manifest = manifest
        self._display = display
        self.results = results

    def begin(self, job: Job) -> Watcher:
        return self._display.begin(job)

    def end(self, job: Job, result: NotebookResult, content: bytes) -> None:
        # What was interrupted is to be run again, and no notebook is reported twice.
        self.results[slot(job)] = result
        if result.status in ("ok", "failed"):
            try:
                self._manifest.add(job, result, content)
            except OSError as error:
                log.warning("%s will be run again by --resume: %s", job.source, error)
        self._display.end(job, result)


def _not_run(job: Job) -> NotebookResult:
    return NotebookResult(job.source, job.output, job.parameters)
