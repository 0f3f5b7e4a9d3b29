"""What a batch reports: of the whole, of each notebook, of each cell."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

__all__ = [
    "BatchResult",
    "CellResult",
    "NotebookError",
    "NotebookResult",
    "Status",
    "plain",
]

Status = Literal["ok", "failed", "interrupted", "not run"]
"""``interrupted``: the batch was stopped while it ran; ``not run``: before it began."""

_ANSI = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]")


def plain(text: str) -> str:
    """A text without the colours that tracebacks have."""
    return _ANSI.sub("", text)


@dataclass(frozen=True)
class CellResult:
    """A cell that was executed.

    Attributes:
        index: Its place in the executed notebook, markdown cells counted, from 0.
        source: Its first line that is not empty.
        seconds: From its request to its end.
        ok: Whether it ended as it should; a cell tagged ``raises-exception`` may raise.
    """

    index: int
    source: str
    seconds: float
    ok: bool = True


@dataclass(frozen=True)
class NotebookError:
    """Why a notebook failed.

    Attributes:
        kind: ``raised``: a cell raised; ``timeout``: a cell took too long; ``died``: its worker or
            kernel process ended; ``start``: no kernel came up for it; ``output``: its results
            could not be written; ``memory``: it was ended because its node ran out of memory.
        message: What happened, in a line or a few.
        cell: Index of the cell at work; None when there was none.
        source: That cell's source.
        traceback: As the kernel reported it, colours included; empty when there is none.
    """

    kind: Literal["raised", "timeout", "died", "start", "output", "memory"]
    message: str
    cell: int | None = None
    source: str = ""
    traceback: str = ""


@dataclass(frozen=True)
class NotebookResult:
    """What became of a notebook.

    Attributes:
        source: The notebook.
        output: Where its executed copy is.
        parameters: What was injected.
        status: How it ended.
        seconds: From taking a worker to the saved output.
        started: When that was, in ISO 8601, UTC; empty when it was not run.
        cells: The cells that ran.
        peak_memory: The most memory that its worker's processes were seen to use, in bytes; None
            where nobody could tell.
        error: Why it failed.
        log: What its kernel process wrote to its standard error.
        resumed: Whether an earlier run did it, and this one only found it done.
        node: The address of the Dask worker that ran it; empty for this machine.
    """

    source: Path
    output: Path
    parameters: Mapping[str, Any] = field(default_factory=dict)
    status: Status = "not run"
    seconds: float = 0.0
    started: str = ""
    cells: Sequence[CellResult] = ()
    peak_memory: int | None = None
    error: NotebookError | None = None
    log: str = ""
    resumed: bool = False
    node: str = ""

    @property
    def ok(self) -> bool:
        """Whether every cell ended as it should."""
        return self.status == "ok"

    def to_json(self) -> dict[str, Any]:
        """As plain values; `from_json` is the way back."""
        return {**asdict(self), "source": str(self.source), "output": str(self.output)}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> NotebookResult:
        """Make one from what `to_json` gave."""
        error = values["error"]
        made: dict[str, Any] = {
            **values,
            "source": Path(values["source"]),
            "output": Path(values["output"]),
            "cells": tuple(CellResult(**cell) for cell in values["cells"]),
            "error": None if error is None else NotebookError(**error),
        }
        return cls(**made)

    def found_done(self) -> NotebookResult:
        """The same, as a later run reports it that had nothing to do."""
        return replace(self, resumed=True)


@dataclass(frozen=True)
class BatchResult:
    """What became of a batch.

    Attributes:
        notebooks: One for each notebook and set of parameters, in the order given.
        seconds: The time of the whole.
        started: When it began, in ISO 8601, UTC.
        interrupted: Whether it was told to stop before it was done.
    """

    notebooks: Sequence[NotebookResult]
    seconds: float
    started: str
    interrupted: bool = False

    @property
    def ok(self) -> bool:
        """Whether all notebooks ran without a failure."""
        return not self.interrupted and all(each.ok for each in self.notebooks)

    @property
    def failed(self) -> list[NotebookResult]:
        """Those that failed."""
        return [each for each in self.notebooks if each.status == "failed"]

    @property
    def exit_status(self) -> int:
        """What the command line ends with: 0 all ok, 1 some failed, 130 interrupted."""
        if self.interrupted:
            return 130
        return 0 if self.ok else 1


def now() -> str:
    """This moment, in ISO 8601, UTC."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
