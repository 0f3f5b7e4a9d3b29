"""Notebooks on this machine: some lanes, and whoever is free takes the next."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from pathlib import Path

from pyrepl_kernel.batch.execution import Execution, Outcome
from pyrepl_kernel.batch.lane import KernelChoice, KernelNotStarted, Lane
from pyrepl_kernel.batch.plan import Job
from pyrepl_kernel.batch.progress import Progress
from pyrepl_kernel.batch.results import NotebookResult
from pyrepl_kernel.errors import BatchError

__all__ = ["LocalRunner"]


class LocalRunner:
    """Runs jobs in kernels of this machine.

    Args:
        choice: Which kernel.
        lanes: How many at a time.
        timeout: Seconds that a cell may take; None for any.
    """

    def __init__(self, choice: KernelChoice, lanes: int, timeout: float | None) -> None:
        self._choice = choice
        self._count = lanes
        self._timeout = timeout
        self._running: set[Execution] = set()
        self._is_stopped = False

    def stop(self) -> None:
        """End what runs, and begin nothing more."""
        self._is_stopped = True
        for execution in self._running:
            execution.stop()

    async def run(self, jobs: Sequence[Job], progress: Progress) -> None:
        """Run all jobs; each one's end is told to ``progress``.

        Raises:
            BatchError: The warmup fails.
        """
        waiting = deque(jobs)
        lanes = [Lane(self._choice) for _ in range(min(self._count, len(jobs)))]
        try:
            if self._choice.warmup is not None and waiting:
                await check_warmup(lanes[0], waiting[0].cwd)
            async with asyncio.TaskGroup() as group:
                for lane in lanes:
                    group.create_task(self._serve(lane, waiting, progress))
        finally:
            await asyncio.gather(*(lane.close() for lane in lanes))

    async def _serve(self, lane: Lane, waiting: deque[Job], progress: Progress) -> None:
        while waiting and not self._is_stopped:
            job = waiting.popleft()
            watcher = progress.begin(job)
            execution = Execution(job.notebook, lane, job.cwd, job.output, self._timeout, watcher)
            self._running.add(execution)
            try:
                outcome = await execution.run()
            finally:
                self._running.discard(execution)
            progress.end(job, as_result(job, outcome), outcome.content)


async def check_warmup(lane: Lane, cwd: Path) -> None:
    """See that a kernel comes up and its warmup does not fail, before any notebook meets it.

    Raises:
        BatchError: It fails.
    """
    try:
        await lane.renew(cwd)
        said = await lane.stderr_of_nothing()
    except KernelNotStarted as error:
        raise BatchError(str(error)) from error
    except TimeoutError as error:
        raise BatchError("the warmup does not end, so no notebook was run") from error
    if said:
        raise BatchError(f"the warmup fails, so no notebook was run:\n{said}")


def as_result(job: Job, outcome: Outcome, node: str = "") -> NotebookResult:
    """What is reported of a job."""
    return NotebookResult(
        source=job.source,
        output=job.output,
        parameters=job.parameters,
        status=outcome.status,
        seconds=outcome.seconds,
        started=outcome.started,
        cells=tuple(outcome.cells),
        peak_memory=outcome.peak_memory,
        error=outcome.error,
        log=outcome.log,
        node=node,
    )
