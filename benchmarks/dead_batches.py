"""What becomes of a batch whose fifth of eight cells segfaults: how soon it ends, and how.

python -m benchmarks.dead_batches [--runs 5] [--kernels pyrepl python3]
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import nbformat
import papermill
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, DeadKernelError
from papermill.exceptions import PapermillExecutionError

CELLS = [
    "kept = 1",
    "import time",
    "kept += 1",
    "print(time.time())",
    "import ctypes; ctypes.string_at(0)",
    "print('never')",
    "print(kept)",
    "print('never')",
]
CRASHES = 4  # the index of the cell that does


def new_notebook() -> nbformat.NotebookNode:
    """Eight cells, the fifth of which ends its process."""
    return nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in CELLS])


def by_nbclient(kernel: str) -> nbformat.NotebookNode:
    """Run it as nbconvert does."""
    return _by_nbclient(kernel, allow_errors=False)


def by_nbclient_allowing_errors(kernel: str) -> nbformat.NotebookNode:
    """The same with ``allow_errors``, which goes on after a cell that raises."""
    return _by_nbclient(kernel, allow_errors=True)


class Ended(Exception):
    """The run was given up; with the error's name, and the notebook as far as it came."""

    def __init__(self, name: str, notebook: nbformat.NotebookNode) -> None:
        super().__init__(name)
        self.name = name
        self.notebook = notebook


def _by_nbclient(kernel: str, *, allow_errors: bool) -> nbformat.NotebookNode:
    notebook = new_notebook()
    client = NotebookClient(notebook, kernel_name=kernel, timeout=60, allow_errors=allow_errors)
    try:
        client.execute()
    except (DeadKernelError, CellExecutionError) as error:
        raise Ended(type(error).__name__, notebook) from error
    return notebook


def by_papermill(kernel: str) -> nbformat.NotebookNode:
    """Run it by papermill."""
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder, "a.ipynb"), Path(folder, "b.ipynb")
        nbformat.write(new_notebook(), source)
        try:
            papermill.execute_notebook(source, target, kernel_name=kernel, progress_bar=False)
        except (DeadKernelError, PapermillExecutionError) as error:
            raise Ended(type(error).__name__, nbformat.read(target, 4)) from error
        return nbformat.read(target, 4)


RUNNERS: dict[str, Callable[[str], nbformat.NotebookNode]] = {
    "nbclient": by_nbclient,
    "nbclient, allow_errors": by_nbclient_allowing_errors,
    "papermill": by_papermill,
}


def measure(run: Callable[[str], nbformat.NotebookNode], kernel: str, runs: int) -> str:
    """A row of the table, from the second column on."""
    seconds: list[float] = []
    ends: Counter[str] = Counter()
    ran = reported = 0
    for _ in range(runs):
        try:
            notebook, end = run(kernel), "ended as if all were well"
        except Ended as ended:
            notebook, end = ended.notebook, ended.name
        seconds.append(time.time() - float(notebook.cells[CRASHES - 1].outputs[0].text))
        ends[end] += 1
        ran += sum(cell.execution_count is not None for cell in notebook.cells[CRASHES + 1 :])
        reported += any(one.output_type == "error" for one in notebook.cells[CRASHES].outputs)
    how = ", ".join(f"{name} {number}" for name, number in ends.items())
    times = f"{statistics.median(seconds):.2f} / {max(seconds):.2f} s"
    return f"{times} | {how} | {reported}/{runs} | {ran}"


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--kernels", nargs="*", default=["pyrepl", "python3"])
    arguments = parser.parse_args()
    print(
        "| by | kernel | crash to end: median / most | ended with | report | cells run after it |"
    )
    print("| --- | --- | --- | --- | --- | --- |")
    for name, run in RUNNERS.items():
        for kernel in arguments.kernels:
            print(f"| {name} | {kernel} | {measure(run, kernel, arguments.runs)} |", flush=True)


if __name__ == "__main__":
    main()
