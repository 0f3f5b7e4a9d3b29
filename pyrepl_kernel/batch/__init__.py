"""Many notebooks, each in a fresh warm worker: on this machine, or on a Dask cluster.

    from pyrepl_kernel import batch

    result = batch.run(["a.ipynb", "b.ipynb"], output_dir="out", parameters={"year": 2024})
    for notebook in result.failed:
        print(notebook.source, notebook.error.message)

The command line's `pyrepl-kernel batch` does the same. What is imported here is light; nbclient and
the rest come with the first batch.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pyrepl_kernel.batch.results import (
    BatchResult,
    CellResult,
    NotebookError,
    NotebookResult,
    Status,
)
from pyrepl_kernel.errors import BatchError

if TYPE_CHECKING:
    from pyrepl_kernel.batch.driver import Batch, Runner
    from pyrepl_kernel.batch.progress import Display

__all__ = [
    "BatchError",
    "BatchResult",
    "CellResult",
    "NotebookError",
    "NotebookResult",
    "Status",
    "run",
    "run_async",
]

DEFAULT_OUTPUT_DIR = "executed"
DEFAULT_RETRIES = 2

_NEEDED = {
    "nbclient": "nbclient",
    "nbformat": "nbformat",
    "psutil": "psutil",
    "rich": "rich",
    "yaml": "pyyaml",
}
"""What the extra ``batch`` installs: module → package."""


def run(
    notebooks: Iterable[str | os.PathLike[str]],
    *,
    output_dir: str | os.PathLike[str] = DEFAULT_OUTPUT_DIR,
    jobs: int | None = None,
    parameters: Mapping[str, Any] | Sequence[Mapping[str, Any]] | None = None,
    timeout: float | None = None,
    warmup: str | None = None,
    kernel: str | None = None,
    cwd: str | os.PathLike[str] | None = None,
    resume: bool = False,
    dask: str | None = None,
    retries: int = DEFAULT_RETRIES,
    progress: bool = False,
) -> BatchResult:
    """Run notebooks and wait for all of them.

    Args:
        notebooks: Their paths.
        output_dir: Where the executed copies go.
        jobs: How many run at a time; None for one on each processor. On a cluster, how many on
            each worker; None for what the worker offers.
        parameters: Injected into each; of several sets, each notebook is run with every one.
        timeout: Seconds that a cell may take; None for any.
        warmup: Code, or a file of it, that each worker has run before its notebook.
        kernel: Name of a kernelspec; None for this package in this environment.
        cwd: The working directory of all cells; None for each notebook's own folder.
        resume: Skip what an earlier run with the same output folder has done.
        dask: Address of a Dask scheduler, to run on its workers.
        retries: How often a notebook is tried again there when its worker is lost.
        progress: Show on standard error how it goes.

    Returns:
        What became of each. A notebook that fails raises nothing.

    Raises:
        BatchError: It cannot be run as asked; no notebook was run.
        KeyboardInterrupt: Ctrl-C; what was done is in the output folder.
    """
    import asyncio

    return asyncio.run(
        run_async(
            notebooks,
            output_dir=output_dir,
            jobs=jobs,
            parameters=parameters,
            timeout=timeout,
            warmup=warmup,
            kernel=kernel,
            cwd=cwd,
            resume=resume,
            dask=dask,
            retries=retries,
            progress=progress,
        )
    )


async def run_async(
    notebooks: Iterable[str | os.PathLike[str]],
    *,
    output_dir: str | os.PathLike[str] = DEFAULT_OUTPUT_DIR,
    jobs: int | None = None,
    parameters: Mapping[str, Any] | Sequence[Mapping[str, Any]] | None = None,
    timeout: float | None = None,
    warmup: str | None = None,
    kernel: str | None = None,
    cwd: str | os.PathLike[str] | None = None,
    resume: bool = False,
    dask: str | None = None,
    retries: int = DEFAULT_RETRIES,
    progress: bool = False,
) -> BatchResult:
    """As `run`, in an event loop that runs already, such as a notebook's.

    Cancelling it ends the notebooks that run; what is done stays written.
    """
    check_installed()
    prepared = prepare(
        notebooks,
        output_dir=Path(output_dir),
        jobs=jobs,
        parameter_sets=_sets(parameters),
        timeout=timeout,
        warmup=warmup,
        kernel=kernel,
        cwd=None if cwd is None else Path(cwd),
        resume=resume,
        dask=dask,
        retries=retries,
        display=_display(progress),
    )
    return await prepared.run()


def check_installed() -> None:
    """Look for the packages that a batch needs, before any is imported.

    Raises:
        BatchError: Some are not installed.
    """
    from importlib.util import find_spec

    missing = [package for module, package in _NEEDED.items() if find_spec(module) is None]
    if missing:
        raise BatchError(
            f"a batch needs {', '.join(missing)}; type: pip install 'pyrepl-kernel[batch]'"
        )


def _sets(
    parameters: Mapping[str, Any] | Sequence[Mapping[str, Any]] | None,
) -> Sequence[Mapping[str, Any]]:
    if parameters is None:
        return [{}]
    return [parameters] if isinstance(parameters, Mapping) else list(parameters)


def _display(progress: bool) -> Display:
    import sys

    from pyrepl_kernel.batch.progress import Silence, make_display

    return make_display(sys.stderr) if progress else Silence()


def prepare(
    notebooks: Iterable[str | os.PathLike[str]],
    *,
    output_dir: Path,
    jobs: int | None,
    parameter_sets: Sequence[Mapping[str, Any]],
    timeout: float | None,
    warmup: str | None,
    kernel: str | None,
    cwd: Path | None,
    resume: bool,
    dask: str | None,
    retries: int,
    display: Display,
) -> Batch:
    """Check all that can be checked without running anything, and make the batch.

    Raises:
        BatchError: It cannot be run as asked.
    """
    from pyrepl_kernel.batch.driver import Batch
    from pyrepl_kernel.batch.lane import KernelChoice
    from pyrepl_kernel.batch.plan import check_writable, plan

    if jobs is not None and jobs < 1:
        raise BatchError(f"{jobs} notebooks at a time is too few; 1 is the least")
    if timeout is not None and timeout <= 0:
        raise BatchError(f"a timeout of {timeout:g} s leaves no time; leave it out for none")
    if cwd is not None and not cwd.is_dir():
        raise BatchError(f"the working directory {cwd} is no folder")
    warmup_code = None if warmup is None else _warmup_code(warmup)
    choice = KernelChoice(kernel, warmup_code)
    choice.specs()
    planned = plan(notebooks, parameter_sets, output_dir, cwd, (kernel, warmup_code))
    for folder in sorted({output_dir, *(job.output.parent for job in planned)}):
        check_writable(folder)
    runner = _runner(choice, jobs, timeout, dask, retries)
    return Batch(planned, runner, output_dir, display, resume)


def _warmup_code(warmup: str) -> str:
    """The code itself, or that of the file that is named."""
    if warmup == "auto":
        raise BatchError(
            "--warmup auto learns what one notebook imports, and a batch's kernels serve many: "
            "name the imports, as in --warmup 'import pandas'"
        )
    is_name = "\n" not in warmup and warmup.endswith(".py")
    try:
        if is_name or os.path.isfile(warmup):
            return Path(warmup).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise BatchError(f"--warmup {warmup}: {reason}") from error
    except ValueError:
        pass  # a NUL byte, which no path has: the kernel says what is wrong with such code
    return warmup


def _runner(
    choice: Any, jobs: int | None, timeout: float | None, dask: str | None, retries: int
) -> Runner:
    if dask is not None:
        try:
            from pyrepl_kernel.batch.cluster.runner import DaskRunner
        except ModuleNotFoundError as error:
            raise BatchError(
                f"a cluster needs {error.name}; type: pip install 'pyrepl-kernel[dask]'"
            ) from error
        return DaskRunner(dask, choice, jobs, timeout, retries)
    from pyrepl_kernel.batch.local import LocalRunner

    return LocalRunner(choice, jobs or _processors(), timeout)


def _processors() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
