"""What a person sees while a batch runs: bars on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol, TextIO

from pyrepl_kernel.batch.results import NotebookResult, plain

if TYPE_CHECKING:
    from pyrepl_kernel.batch.execution import Watcher
    from pyrepl_kernel.batch.plan import Job

__all__ = ["Bars", "Display", "Lines", "Progress", "Silence", "make_display", "size_text"]


class Progress(Protocol):
    """Who is told of each notebook by what runs it."""

    def begin(self, job: Job) -> Watcher:
        """A notebook begins; the answer hears of its cells."""

    def end(self, job: Job, result: NotebookResult, content: bytes) -> None:
        """It has ended.

        Args:
            job: The notebook.
            result: What became of it.
            content: Its output, as it was saved; empty when there is none.
        """


class Display(Protocol):
    """Shows a batch to a person."""

    def open(self, total: int, done: int) -> None:
        """A batch begins, some of it done by an earlier run."""

    def begin(self, job: Job) -> Watcher:
        """A notebook begins."""

    def end(self, job: Job, result: NotebookResult) -> None:
        """A notebook has ended."""

    def close(self) -> None:
        """The batch has ended."""


def make_display(stream: TextIO) -> Display:
    """The display that suits a stream."""
    if stream.isatty():
        try:
            return Bars(stream)
        except ImportError:
            pass  # without rich there are lines
    return Lines(stream)


def size_text(size: int | None) -> str:
    """A size in words; empty for None."""
    return "" if size is None else f"{size / 1e6:.0f} MB" if size < 1e9 else f"{size / 1e9:.1f} GB"


class Silence:
    """Shows nothing."""

    def open(self, total: int, done: int) -> None:
        """A batch begins."""

    def begin(self, job: Job) -> Watcher:
        """A notebook begins."""
        return self

    def end(self, job: Job, result: NotebookResult) -> None:
        """A notebook has ended."""

    def close(self) -> None:
        """The batch has ended."""

    def cell(self, index: int, source: str) -> None:
        """A cell is about to run."""

    def memory(self, size: int) -> None:
        """The worker's processes use so many bytes."""


class Lines(Silence):
    """A line for each notebook that has ended.

    Args:
        stream: Where they go.
    """

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stderr
        self._total = self._done = 0

    def open(self, total: int, done: int) -> None:
        """A batch begins."""
        self._total, self._done = total, done
        if done:
            print(f"{done} of {total} notebooks are done already", file=self._stream, flush=True)

    def end(self, job: Job, result: NotebookResult) -> None:
        """A notebook has ended."""
        self._done += 1
        width = len(str(self._total))
        print(
            f"[{self._done:{width}}/{self._total}] {_summary(result)}",
            file=self._stream,
            flush=True,
        )


def _summary(result: NotebookResult) -> str:
    name = result.output.name
    parts = [f"{result.status:<6} {name}", f"{result.seconds:.2f} s", size_text(result.peak_memory)]
    if result.error is not None:
        where = "" if result.error.cell is None else f"cell {result.error.cell + 1}: "
        parts.append(where + plain(result.error.message).partition("\n")[0])
    return "  ".join(part for part in parts if part)


class Bars:
    """A bar for the whole, and one for each notebook at work: its cell, time and memory.

    Args:
        stream: A terminal.
    """

    def __init__(self, stream: TextIO) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

        self._bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=20),
            MofNCompleteColumn(),
            TextColumn("{task.fields[time]}"),
            TextColumn("{task.fields[memory]}"),
            TextColumn("[dim]{task.fields[cell]}"),
            console=Console(file=stream),
            transient=True,
            get_time=time.monotonic,
        )
        self._whole: Any = None
        self._shown: dict[str, _Bar] = {}

    def open(self, total: int, done: int) -> None:
        """A batch begins."""
        self._whole = self._bars.add_task(
            "[bold]notebooks", total=total, completed=done, time="", memory="", cell=""
        )
        self._bars.start()

    def begin(self, job: Job) -> Watcher:
        """A notebook begins."""
        cells = [c for c in job.notebook.cells if c.cell_type == "code" and c.source.strip()]
        bar = _Bar(self._bars, job.output.name, len(cells))
        self._shown[str(job.output)] = bar
        return bar

    def end(self, job: Job, result: NotebookResult) -> None:
        """A notebook has ended; one that failed stays to be seen."""
        self._shown.pop(str(job.output)).remove()
        self._bars.advance(self._whole)
        if not result.ok:
            self._bars.console.print(_summary(result), style="red", markup=False, highlight=False)

    def close(self) -> None:
        """The batch has ended."""
        self._bars.stop()


class _Bar:
    def __init__(self, bars: Any, name: str, cells: int) -> None:
        self._bars = bars
        self._began = time.monotonic()
        # rich reads [words] as markup
        self._task = bars.add_task(
            name.replace("[", r"\["), total=cells, time="", memory="", cell="starting"
        )
        self._ran = 0
        bars.update(self._task, time=_Clock(self._began))

    def cell(self, index: int, source: str) -> None:
        self._bars.update(
            self._task, completed=self._ran, cell=source.replace("[", r"\[")[:60], refresh=False
        )
        self._ran += 1

    def memory(self, size: int) -> None:
        self._bars.update(self._task, memory=size_text(size))

    def remove(self) -> None:
        self._bars.remove_task(self._task)


class _Clock:
    """Seconds since a moment; rich formats it at each refresh."""

    def __init__(self, began: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._began = began
        self._clock = clock

    def __format__(self, spec: str) -> str:
        return f"{self._clock() - self._began:.0f} s"
