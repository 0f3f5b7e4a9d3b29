"""A gate for what must not grow: counts, which do not depend on what else the machine does.

::

    python -m benchmarks.gate             # count, compare with bounds.json, fail if one has grown
    python -m benchmarks.gate --update    # what it costs now is what it may cost from now on

What is counted, for the kernel process and for the worker:

- instructions of the user's half of the processor for a cell, by callgrind: the same from run to
  run within a percent or two, but not between versions of Python, for each of which there is a
  bound of its own;
- system calls for a cell, by strace;
- bytes between both processes for a cell;
- modules loaded before the first cell ends.

A count may exceed its bound by the tolerance that stands with it. Where valgrind or strace is
missing, or may not trace, what they count is left out and said to be.
"""

import argparse
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

from .clients import Kernel
from .counting import bytes_for, modules_of_kernel_process, modules_of_worker
from .errors import KernelFault
from .memory import processes_of

BOUNDS = Path(__file__).with_name("bounds.json")
TOLERANCES = {"instructions": 0.08, "system calls": 0.25, "bytes": 0.02, "modules": 0.06}
CELLS = 60
SETTLING = 40

_LAUNCH = (
    "import os, sys; "
    # valgrind does not know pidfds; for as long as this takes, nobody need hear of a death.
    "os.pidfd_open = lambda pid, flags=0: os.pipe()[0]; "
    "from pyrepl_kernel.kernel.launch import main; main()"
)
_VERSION = f"{platform.python_implementation()} {sys.version_info[0]}.{sys.version_info[1]}"

Counts = dict[str, float]


def _kernelspec(folder: Path, prefix: list[str], launch: list[str]) -> None:
    """A kernelspec ``counted`` that starts our kernel under another program."""
    target = folder / "kernels" / "counted"
    target.mkdir(parents=True)
    argv = [*prefix, sys.executable, *launch, "-f", "{connection_file}", "--start-method", "spawn"]
    spec = {"argv": argv, "display_name": "counted", "language": "python"}
    (target / "kernel.json").write_text(json.dumps(spec))
    os.environ["JUPYTER_PATH"] = str(folder)


def _run_cells(kernel: Kernel, code: str, count: int) -> None:
    for _ in range(count):
        kernel.cell(code)


def _names(kernel: Kernel) -> dict[int, str]:
    """Process id → which of ours it is."""
    assert kernel.pid is not None
    found = sorted(processes_of(kernel))
    return {pid: "kernel process" if pid == kernel.pid else "worker" for pid in found}


def count_instructions(folder: Path) -> Counts:
    """Instructions for a cell, in each process."""
    output = folder / "callgrind.%p"
    prefix = ["valgrind", "-q", "--tool=callgrind", "--trace-children=yes", "--instr-atstart=no"]
    _kernelspec(folder, [*prefix, f"--callgrind-out-file={output}"], ["-P", "-c", _LAUNCH])
    kernel = Kernel("counted", folder, {"PYTHONHASHSEED": "0"})
    counts: Counts = {}

    def control(*options: str) -> None:
        for pid in names:
            command = ["callgrind_control", *options, str(pid)]
            subprocess.run(command, check=True, capture_output=True, timeout=60)

    try:
        kernel.start()
        kernel.subscribe()
        _run_cells(kernel, "pass", 5)
        names = _names(kernel)
        control("-i", "on")
        for number, code in enumerate(("pass", "print(1)"), start=1):
            _run_cells(kernel, code, SETTLING)
            control("-z")
            _run_cells(kernel, code, CELLS)
            control("-d")
            for pid, name in names.items():
                text = (folder / f"callgrind.{pid}.{number}").read_text(errors="replace")
                total = re.search(r"^(?:totals|summary): (\d+)", text, re.MULTILINE)
                if total is None:
                    raise KernelFault(f"callgrind has written no total for process {pid}")
                counts[f"instructions, {code}, {name}"] = int(total[1]) // CELLS
    finally:
        kernel.close(now=True)
    return counts


def count_system_calls(folder: Path) -> Counts:
    """System calls for a cell, in each process's main thread.

    Those of zmq's thread depend on how often it finds nothing to do, which is up to the machine.
    """
    _kernelspec(folder, [], ["-P", "-m", "pyrepl_kernel"])
    kernel = Kernel("counted", folder)
    counts: Counts = {}
    try:
        kernel.start()
        kernel.subscribe()
        _run_cells(kernel, "pass", SETTLING)
        for pid, name in _names(kernel).items():
            log = folder / f"strace.{pid}"
            tracer = subprocess.Popen(
                ["strace", "-f", "-q", "-o", str(log), "-p", str(pid)], stderr=subprocess.DEVNULL
            )
            try:
                _wait_for_tracer(pid, tracer)
                _run_cells(kernel, "pass", 5)
                before = _calls_in(log, pid)
                _run_cells(kernel, "pass", CELLS)
                after = _calls_in(log, pid)
            finally:
                tracer.terminate()
                tracer.wait()
            counts[f"system calls, pass, {name}"] = round((after - before) / CELLS, 1)
    finally:
        kernel.close(now=True)
    return counts


def _calls_in(log: Path, thread: int) -> int:
    """A thread's lines of a trace, but for those that only tell the end of a call."""
    lines = log.read_text(errors="replace").splitlines()
    return sum(line.startswith(f"{thread} ") and "resumed>" not in line for line in lines)


def _wait_for_tracer(pid: int, tracer: "subprocess.Popen[bytes]") -> None:
    status = Path(f"/proc/{pid}/status")
    while "TracerPid:\t0" in status.read_text():
        if tracer.poll() is not None:
            raise KernelFault(f"strace may not trace process {pid}")


def count_all(say: Callable[[str], None]) -> Counts:
    """All that can be counted here."""
    counts: Counts = {}
    for program, count in (("valgrind", count_instructions), ("strace", count_system_calls)):
        if shutil.which(program) is None:
            say(f"left out, for {program} is not installed: {count.__doc__}")
            continue
        with tempfile.TemporaryDirectory(prefix="gate-", ignore_cleanup_errors=True) as folder:
            counts |= count(Path(folder))
    counts |= bytes_for()
    counts["modules, kernel process"] = len(modules_of_kernel_process())
    counts["modules, worker"] = len(modules_of_worker())
    return counts


def grown(counts: Mapping[str, float], bounds: Mapping[str, float]) -> list[str]:
    """A line for each count that exceeds its bound by more than its tolerance."""
    lines = []
    for name, count in counts.items():
        bound = bounds.get(name)
        tolerance = TOLERANCES[name.partition(",")[0]]
        if bound is not None and count > bound * (1 + tolerance):
            lines.append(
                f"{name}: {count:,} is {count / bound - 1:+.1%} over the bound of {bound:,} "
                f"(allowed: {tolerance:+.0%})"
            )
    return lines


def main(arguments: list[str] | None = None) -> int:
    """Count and compare; 1 when something has grown."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gate", description=__doc__)
    parser.add_argument("--update", action="store_true", help="make the counts the bounds")
    options = parser.parse_args(arguments)
    bounds = json.loads(BOUNDS.read_text()) if BOUNDS.exists() else {}
    ours = bounds.get(_VERSION, {})
    counts = count_all(print)
    width = max(map(len, counts))
    for name, count in counts.items():
        bound = f"{ours[name]:>13,}" if name in ours else f"{'no bound':>13}"
        print(f"{name.ljust(width)} {count:>13,} {bound}")
    if options.update:
        bounds[_VERSION] = ours | counts
        BOUNDS.write_text(json.dumps(bounds, indent=2, sort_keys=True) + "\n")
        return 0
    if not ours:
        print(f"there are no bounds for {_VERSION} in {BOUNDS.name}; --update makes them")
    if lines := grown(counts, ours):
        print("\nThese have grown:", *lines, sep="\n  ")
        print("If that is meant: python -m benchmarks.gate --update, and say why in the commit.")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
