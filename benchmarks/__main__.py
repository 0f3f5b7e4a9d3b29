"""The command line: ``python -m benchmarks``."""

import argparse
import os
import signal
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from .clients import VARIANTS
from .errors import BenchmarkError, KernelNotInstalled
from .report import Report
from .runner import Entrant, Lab, Samples, entrants, installed_kernels
from .scenarios import SCENARIOS

_DEFAULT_KERNELS = ("python3", "pyrepl", "xpython", "async", "py", "bare", "alone")
_DEFAULT_RUNS = 9


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures and reports.

    Returns:
        0 when all was measured, 1 when something failed, 2 for a wrong command line, 130 after
        Ctrl-C or SIGTERM.
    """
    options = _parser().parse_args(arguments)
    if options.list:
        _list()
        return 0
    # Where the kernelspec of the bare processes is.
    path = [str(Path(__file__).parent), os.environ.get("JUPYTER_PATH", "")]
    os.environ["JUPYTER_PATH"] = os.pathsep.join(filter(None, path))
    try:
        specs = options.kernels or _installed(_DEFAULT_KERNELS)
        participants, baseline = _participants(specs, options.baseline)
    except BenchmarkError as error:
        print(error, file=sys.stderr)
        return 2
    # Ends like Ctrl-C: with kernels shut down and what was measured so far.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    report = Report([entrant.label for entrant in participants], baseline, options.runs)
    try:
        with Lab() as lab:
            _measure(lab, participants, options.only, report)
    except KeyboardInterrupt:
        report.is_interrupted = True
    _progress("")
    print(report.table())
    if options.json is not None:
        report.save(options.json)
    if report.is_interrupted:
        return 130
    return 1 if report.failures else 0


def _measure(lab: Lab, participants: Sequence[Entrant], names: Sequence[str], to: Report) -> None:
    able = []
    for entrant in participants:
        _progress(f"trying {entrant.label}")
        try:
            info = lab.identify(entrant)
        except Exception as error:  # a kernel that cannot start must not stop the others
            to.kernels[entrant.label] = {"spec": entrant.spec, "failure": str(error)}
            continue
        version = f"{info.get('implementation')} {info.get('implementation_version')}"
        to.kernels[entrant.label] = {"spec": entrant.spec, "implementation": version}
        able.append(entrant)
    if not able:
        return
    for position, name in enumerate(names, start=1):
        prefix = f"[{position}/{len(names)}] {name}: "
        results: dict[str, Samples] = {}
        to.results[name] = results
        lab.run(SCENARIOS[name], able, to.runs, results, partial(_round, prefix))
        _progress(prefix + to.line(name), keep=True)


def _installed(specs: Sequence[str]) -> list[str]:
    """Those that are installed; says of the others how they would be."""
    found = installed_kernels()
    for spec in specs:
        if spec not in found:
            print(f"without {KernelNotInstalled(spec, found)}", file=sys.stderr)
    return [spec for spec in specs if spec in found]


def _participants(specs: Sequence[str], baseline: str | None) -> tuple[list[Entrant], str]:
    """The kernels that take part and the label of the baseline, which always does."""
    if baseline is None:
        return entrants(specs), "python3" if "python3" in specs else specs[0]
    return entrants(specs if baseline in specs else [baseline, *specs]), baseline


def _progress(text: str, *, keep: bool = False) -> None:
    """Writes to stderr: what is kept on a line of its own, the rest only to a terminal."""
    if sys.stderr.isatty():
        print(f"\r\x1b[K{text}", end="\n" if keep else "", file=sys.stderr, flush=True)
    elif keep:
        print(text, file=sys.stderr, flush=True)


def _round(prefix: str, text: str) -> None:
    _progress(prefix + text)


def _list() -> None:
    width = max(map(len, SCENARIOS))
    print("scenarios (--only):")
    for scenario in SCENARIOS.values():
        note = " (long)" if scenario.is_long else ""
        print(f"  {scenario.name.ljust(width)}  {scenario.summary}{note}")
    print("\ninstalled kernels (--kernels):")
    for name in installed_kernels():
        print(f"  {name}")
    print("\nvariants of a kernel (NAME+VARIANT):")
    for name, what in VARIANTS.items():
        print(f"  {name.ljust(width)}  {what}")


def _positive(text: str) -> int:
    if (number := int(text)) < 1:
        raise argparse.ArgumentTypeError("at least 1")
    return number


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Measures Jupyter kernels side by side, in alternating rounds.",
    )
    parser.add_argument(
        "--kernels",
        nargs="+",
        metavar="KERNEL",
        help="installed kernelspecs; one named twice runs against itself "
        f"(default: those of {' '.join(_DEFAULT_KERNELS)} that are installed)",
    )
    parser.add_argument(
        "--baseline",
        metavar="KERNEL",
        help="what ratios divide by; takes part in any case "
        "(default: python3 if it takes part, else the first)",
    )
    parser.add_argument(
        "--only",
        nargs="+",
        metavar="SCENARIO",
        choices=SCENARIOS,
        default=[scenario.name for scenario in SCENARIOS.values() if not scenario.is_long],
        help="these scenarios, in this order (default: all of --list but the long ones)",
    )
    parser.add_argument(
        "--runs",
        type=_positive,
        metavar="N",
        default=_DEFAULT_RUNS,
        help="rounds that count, after one that does not (default: %(default)s)",
    )
    parser.add_argument("--json", type=Path, metavar="PATH", help="also write all samples there")
    parser.add_argument("--list", action="store_true", help="show scenarios and kernels, and end")
    return parser


if __name__ == "__main__":
    sys.exit(main())
