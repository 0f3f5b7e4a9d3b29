"""A parameter sweep on a Dask cluster: one notebook, many parameters, the results in a table.

    python examples/sweep_dask.py [SCHEDULER_ADDRESS]

Without an address it makes a cluster of two worker processes on this machine.
"""

import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import nbformat
from distributed import LocalCluster

from pyrepl_kernel import batch

NOTEBOOK = Path(__file__).with_name("population.ipynb")
SWEEP = [{"growth": growth} for growth in (2.8, 3.2, 3.5, 3.55, 3.83, 3.9)]


def main() -> int:
    """Run the sweep; 0 when all notebooks ran."""
    with tempfile.TemporaryDirectory() as folder, address() as scheduler:
        done = batch.run(
            [NOTEBOOK],
            parameters=SWEEP,
            output_dir=folder,
            dask=scheduler,
            progress=True,
        )
        for notebook in done.notebooks:
            assert notebook.ok, notebook.error
            growth = notebook.parameters["growth"]
            count = result(notebook.output)
            print(f"growth {growth:<5}  {count:>3} values   ran on {notebook.node}")
    return done.exit_status


@contextmanager
def address() -> Iterator[str]:
    """The scheduler that was named, or one with two worker processes on this machine."""
    if len(sys.argv) > 1:
        yield sys.argv[1]
        return
    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster:
        yield cluster.scheduler_address


def result(path: Path) -> str:
    """The value of a notebook's last cell, as text."""
    outputs = nbformat.read(path, as_version=4).cells[-1].outputs
    return str(next(each.data["text/plain"] for each in outputs if "data" in each))


if __name__ == "__main__":
    sys.exit(main())
