"""``pyrepl-kernel batch``.

Exit status: 0 when all notebooks ran without a failure, 1 when some failed, 2 when it could not be
run as asked (nothing was run), 130 when Ctrl-C ended it, 143 when SIGTERM did.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pyrepl_kernel.batch import DEFAULT_OUTPUT_DIR, DEFAULT_RETRIES
from pyrepl_kernel.batch.results import BatchResult, NotebookResult, plain
from pyrepl_kernel.commands import CommandError
from pyrepl_kernel.errors import BatchError

if TYPE_CHECKING:
    from pyrepl_kernel.batch.driver import Batch

__all__ = ["add_to"]

_STOPPED = {signal.SIGINT: 130, signal.SIGTERM: 143}
_TRACEBACK_LINES = 40


def add_to(commands: Any) -> None:
    """Add the command to argparse's subparsers."""
    parser = commands.add_parser(
        "batch",
        help="run notebooks, each in a fresh warm worker",
        description="Run notebooks, each in a fresh warm worker, and save executed copies. Exit "
        "status: 0 all ok, 1 some failed, 2 nothing was run, 130 interrupted.",
    )
    parser.add_argument("notebooks", nargs="+", metavar="NOTEBOOK")
    parser.add_argument(
        "-o",
        "--output-dir",
        metavar="DIR",
        default=DEFAULT_OUTPUT_DIR,
        help="where the executed copies go (%(default)s)",
    )
    parser.add_argument(
        "-j",
        "--jobs",
        metavar="N",
        type=int,
        help="how many run at a time (one on each processor)",
    )
    parser.add_argument(
        "-p",
        dest="assignments",
        metavar="NAME=VALUE",
        action="append",
        default=[],
        help="a parameter, its value in YAML or JSON; wins over --parameters",
    )
    parser.add_argument(
        "--parameters",
        metavar="FILE.yaml",
        help="a map of parameters; of a list of maps, each notebook is run with every one",
    )
    parser.add_argument(
        "--timeout", metavar="S", type=float, help="seconds that a cell may take (no limit)"
    )
    parser.add_argument(
        "--warmup",
        metavar="FILE_OR_CODE",
        help="code, or a file of it, that each worker has run before its notebook",
    )
    parser.add_argument("--kernel", metavar="NAME", help="another kernelspec than this package")
    parser.add_argument(
        "--cwd", metavar="DIR", help="working directory of all cells (each notebook's own folder)"
    )
    parser.add_argument("--report", metavar="FILE.html", help="write a report with charts")
    parser.add_argument("--junit", metavar="FILE.xml", help="write JUnit XML")
    parser.add_argument(
        "--resume",
        action="store_true",
        help="run only what an earlier run into the same DIR has not done",
    )
    parser.add_argument(
        "--dask", metavar="SCHEDULER_ADDRESS", help="run on the workers of a Dask cluster"
    )
    parser.add_argument(
        "--retries",
        metavar="N",
        type=int,
        default=DEFAULT_RETRIES,
        help="how often a notebook whose Dask worker is lost is tried again (%(default)s)",
    )
    parser.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> int:
    try:
        return _run_batch(args)
    except KeyboardInterrupt:  # before or after the time in which a signal is a way to stop
        print("stopped", file=sys.stderr)
        return _STOPPED[signal.SIGINT]


def _run_batch(args: argparse.Namespace) -> int:
    import asyncio

    from pyrepl_kernel.batch import check_installed

    try:
        check_installed()
        from pyrepl_kernel.batch.progress import make_display
        from pyrepl_kernel.batch.quick_import import import_nbformat

        import_nbformat()
        _check_report_paths(args)
        batch = _prepare(args, make_display(sys.stderr))
        result, status = asyncio.run(_run_until_signal(batch))
    except BatchError as error:
        # A warmup that fails brings IPython's traceback along.
        text = str(error) if sys.stderr.isatty() else plain(str(error))
        raise CommandError(text, status=2) from error
    _write_reports(result, args)
    _show(result)
    return status if status is not None else result.exit_status


def _check_report_paths(args: argparse.Namespace) -> None:
    from pyrepl_kernel.batch.plan import check_writable

    for path in (args.report, args.junit):
        if path is not None:
            if os.path.isdir(path):
                raise BatchError(f"{path} is a folder; name a file")
            check_writable(Path(path).absolute().parent)


def _prepare(args: argparse.Namespace, display: Any) -> Batch:
    from pyrepl_kernel.batch import prepare
    from pyrepl_kernel.batch.parameters import parse_assignment, read_file

    sets = read_file(Path(args.parameters)) if args.parameters is not None else [{}]
    given = dict(parse_assignment(text) for text in args.assignments)
    return prepare(
        args.notebooks,
        output_dir=Path(args.output_dir),
        jobs=args.jobs,
        parameter_sets=[{**each, **given} for each in sets],
        timeout=args.timeout,
        warmup=args.warmup,
        kernel=args.kernel,
        cwd=None if args.cwd is None else Path(args.cwd),
        resume=args.resume,
        dask=args.dask,
        retries=args.retries,
        display=display,
    )


async def _run_until_signal(batch: Batch) -> tuple[BatchResult, int | None]:
    """Run a batch; a first signal ends it in order, a second one at once."""
    import asyncio

    loop = asyncio.get_running_loop()
    status: int | None = None

    def stop(number: signal.Signals) -> None:
        nonlocal status
        if status is None:
            print("stopping; once more to leave at once", file=sys.stderr)
            status = _STOPPED[number]
            batch.stop()
        else:
            # What belongs to this process ends with it.
            os._exit(status)

    for number in _STOPPED:
        loop.add_signal_handler(number, stop, number)
    try:
        return await batch.run(), status
    finally:
        for number in _STOPPED:
            loop.remove_signal_handler(number)


def _write_reports(result: BatchResult, args: argparse.Namespace) -> None:
    from pyrepl_kernel.batch.junit import junit_xml
    from pyrepl_kernel.batch.report import html_report
    from pyrepl_kernel.batch.store import write_atomically

    wanted: list[tuple[str | None, Callable[[BatchResult], str]]] = [
        (args.report, html_report),
        (args.junit, junit_xml),
    ]
    for path, make in wanted:
        if path is not None:
            write_atomically(Path(path).absolute(), make(result).encode())


def _show(result: BatchResult) -> None:
    """Say how it went; each failure with its cell and traceback."""
    colours = sys.stdout.isatty()
    for notebook in result.failed:
        text = _failure(notebook)
        print(text if colours else plain(text))
    counts = {
        status: sum(each.status == status for each in result.notebooks)
        for status in ("ok", "failed", "interrupted", "not run")
    }
    said = ", ".join(f"{count} {status}" for status, count in counts.items() if count)
    done = sum(each.resumed for each in result.notebooks)
    earlier = f" ({done} of them by an earlier run)" if done else ""
    print(f"{said}{earlier}, in {result.seconds:.1f} s")


def _failure(notebook: NotebookResult) -> str:
    error = notebook.error
    assert error is not None
    where = "" if error.cell is None else f", cell {error.cell + 1}"
    lines = [f"--- {notebook.source}{where}: {error.message}"]
    lines += [f"    {line}" for line in error.source.splitlines()[:_TRACEBACK_LINES]]
    traceback = error.traceback.splitlines()
    if len(traceback) > _TRACEBACK_LINES:
        half = _TRACEBACK_LINES // 2
        traceback = [*traceback[:half], "[...]", *traceback[-half:]]
    lines += traceback
    lines.append(f"    saved as {notebook.output}\n")
    return "\n".join(lines)
