"""Notebooks for the tests of batches, and what came of them."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nbformat

from tests.session.support import BOUND

COMMAND = [sys.executable, "-m", "pyrepl_kernel.cli", "batch"]


def write(path: Path, *sources: str, tags: dict[int, list[str]] | None = None) -> Path:
    """Write a notebook of code cells, for ipykernel as most are; ``tags`` by index."""
    cells = [
        nbformat.v4.new_code_cell(source, metadata={"tags": (tags or {}).get(index, [])})
        for index, source in enumerate(sources)
    ]
    spec = {"name": "python3", "display_name": "Python 3", "language": "python"}
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": spec}), path)
    return path


def read(path: Path) -> Any:
    """Read a notebook, which must be a valid one."""
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    return notebook


def printed(path: Path) -> str:
    """All that a notebook's cells printed."""
    return "".join(
        output.text
        for cell in read(path).cells
        for output in cell.get("outputs", ())
        if output.output_type == "stream"
    )


def run_command(*args: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run the command to its end."""
    return subprocess.run(
        [*COMMAND, *map(str, args)], capture_output=True, text=True, cwd=cwd, timeout=100
    )


def start_command(*args: str | Path, cwd: Path) -> subprocess.Popen[str]:
    """Start the command."""
    return subprocess.Popen(
        [*COMMAND, *map(str, args)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=cwd,
        env=os.environ,
    )


def wait_until(condition: Callable[[], object], what: str) -> None:
    """Wait for what another process does to a file, which has no event to wait for."""
    deadline = time.monotonic() + 3 * BOUND
    while not condition():
        assert time.monotonic() < deadline, f"it did not come to this: {what}"
        time.sleep(0.02)
