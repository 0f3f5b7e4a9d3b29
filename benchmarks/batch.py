"""Short notebooks by the dozen: ``jupyter execute``, papermill and ``pyrepl-kernel batch``.

    python -m benchmarks.batch [--notebooks 40] [--rounds 3] [--jobs N] [--only NAME ...]

Each round runs all of them, one after the other, on the same notebooks; the medians are compared,
and the outputs must be equal.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import nbformat

from .errors import BenchmarkError

_WARMUP = "import pandas, matplotlib"
_CELLS = (
    "import pandas, matplotlib",
    "frame = pandas.DataFrame({{'a': range({size}), 'b': [x * x for x in range({size})]}})\nframe",
    "print(frame.b.sum(), matplotlib.__name__)",
    "frame.describe()",
)
# A process that executes its notebooks one after the other, without papermill's start-up each time.
_PAPERMILL = """
import sys, papermill
for source in sys.argv[2:]:
    name = source.rpartition("/")[2]
    papermill.execute_notebook(source, f"{sys.argv[1]}/{name}", progress_bar=False)
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures and reports; 0 when all went well."""
    options = _parser().parse_args(arguments)
    times: dict[str, list[float]] = {name: [] for name in options.only}
    with tempfile.TemporaryDirectory() as folder:
        sources = [_write(Path(folder, f"n{i:03}.ipynb"), i) for i in range(options.notebooks)]
        for number in range(options.rounds):
            reference: list[Any] | None = None
            for name in options.only:
                out = Path(folder, f"{number}-{name}")
                out.mkdir()
                began = time.perf_counter()
                _ENTRANTS[name](sources, out, options.jobs)
                times[name].append(time.perf_counter() - began)
                print(f"round {number + 1}: {name}: {times[name][-1]:.2f} s", file=sys.stderr)
                outputs = [_outputs(out / source.name) for source in sources]
                reference = reference or outputs
                if outputs != reference:
                    raise BenchmarkError(f"{name} has other outputs than {options.only[0]}")
    ours = statistics.median(times.get("pyrepl", [float("nan")]))
    print(f"{options.notebooks} notebooks, median of {options.rounds}; all outputs equal")
    for name, taken in times.items():
        middle = statistics.median(taken)
        print(f"  {name:<16} {middle:8.2f} s   {middle / ours:6.1f} x the time of pyrepl")
    return 0


def _write(path: Path, index: int) -> Path:
    cells = [nbformat.v4.new_code_cell(each.format(size=index + 3)) for each in _CELLS]
    spec = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": spec}), path)
    return path


def _outputs(path: Path) -> list[Any]:
    notebook = nbformat.read(path, as_version=4)
    return [(cell.execution_count, cell.outputs) for cell in notebook.cells]


# ------------------------------------------------------------------ entrants


def _run(*command: str | Path) -> None:
    ran = subprocess.run(
        [sys.executable, *map(str, command)], capture_output=True, text=True, check=False
    )
    if ran.returncode != 0:
        raise BenchmarkError(f"{' '.join(map(str, command[:4]))} failed:\n{ran.stderr[-2000:]}")


def _jupyter_execute(sources: list[Path], out: Path, jobs: int | None) -> None:
    for source in sources:
        target = out / source.name
        target.write_bytes(source.read_bytes())
        _run("-m", "jupyter", "execute", "--inplace", target)


def _papermill(sources: list[Path], out: Path, jobs: int | None) -> None:
    """Two processes at a time, each of which executes half of the notebooks."""
    halves = [
        subprocess.Popen(
            [sys.executable, "-c", _PAPERMILL, str(out), *map(str, sources[start::2])],
            stderr=subprocess.PIPE,
            text=True,
        )
        for start in (0, 1)
    ]
    for half in halves:
        _, said = half.communicate()
        if half.returncode != 0:
            raise BenchmarkError(f"papermill failed:\n{said[-2000:]}")


def _papermill_commands(sources: list[Path], out: Path, jobs: int | None) -> None:
    """Two at a time of papermill's command line, a process for each notebook."""
    loop = 'set -e; for f; do "$0" -m papermill --no-progress-bar "$f" "$OUT/${f##*/}"; done'
    halves = [
        subprocess.Popen(
            ["sh", "-c", loop, sys.executable, *map(str, sources[start::2])],
            env={**os.environ, "OUT": str(out)},
            stderr=subprocess.DEVNULL,
        )
        for start in (0, 1)
    ]
    if any(half.wait() for half in halves):
        raise BenchmarkError("papermill's command failed")


def _pyrepl(sources: list[Path], out: Path, jobs: int | None) -> None:
    command: list[str | Path] = [
        "-m",
        "pyrepl_kernel.cli",
        "batch",
        *sources,
        "-o",
        out,
        "--warmup",
        _WARMUP,
    ]
    _run(*command, *(() if jobs is None else ("-j", str(jobs))))


_ENTRANTS: dict[str, Callable[[list[Path], Path, int | None], None]] = {
    "jupyter-execute": _jupyter_execute,
    "papermill": _papermill,
    "papermill-cli": _papermill_commands,
    "pyrepl": _pyrepl,
}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.batch", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--notebooks", type=int, default=40, metavar="N")
    parser.add_argument("--rounds", type=int, default=3, metavar="N")
    parser.add_argument("--jobs", type=int, metavar="N", help="for pyrepl-kernel batch -j")
    parser.add_argument(
        "--only", nargs="+", choices=list(_ENTRANTS), default=list(_ENTRANTS), metavar="NAME"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
