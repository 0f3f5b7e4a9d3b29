"""How costs grow: kernels of one user, messages and output of one session.

``python -m benchmarks.scale --kernels 50 --json docs/scale.json``

- ``kernels``: start and memory of the nth kernel while the others stay, without a warmup and with
  one that imports pandas, numpy and matplotlib, whose template they share.
- ``cells``: milliseconds of a ``pass`` cell after so many cells in the same session.
- ``output``: seconds for printing so many lines in one cell.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

from .clients import LIBRARIES, Kernel
from .memory import processes_of, pss_of
from .scenarios import WARM

Points = list[list[float]]


def kernels(count: int, env: Mapping[str, str], cell: str, folder: Path) -> Points:
    """For each kernel: its number, seconds to its first result, bytes of all that there are."""
    first = Kernel("pyrepl", folder, env)
    members = [first]
    points: Points = []
    try:
        for number in range(1, count + 1):
            if number > 1:
                members.append(first.sibling())
            began = time.perf_counter()
            members[-1].start()
            exchange = members[-1].ask(lambda client: client.execute(cell))
            members[-1].replied(exchange, "the first reply")
            taken = time.perf_counter() - began
            members[-1].drain()
            points.append([number, taken, float(pss_of(processes_of(first)))])
    finally:
        first.close(now=True)
    return points


def cells(total: int, folder: Path) -> Points:
    """Cells so far, and the median milliseconds of the last hundred."""
    kernel = Kernel("pyrepl", folder)
    points: Points = []
    try:
        kernel.start()
        kernel.subscribe()
        for done in range(100, total + 1, 100):
            times = [kernel.cell("pass").round_trip for _ in range(100)]
            points.append([done, statistics.median(times) * 1000])
    finally:
        kernel.close(now=True)
    return points


def output(most: int, folder: Path) -> Points:
    """Lines printed in a cell, and its seconds."""
    kernel = Kernel("pyrepl", folder)
    points: Points = []
    try:
        kernel.start()
        kernel.subscribe()
        count = most // 16
        while count <= most:
            exchange = kernel.cell(f"for i in range({count}): print(i)")
            points.append([count, exchange.round_trip])
            count *= 2
    finally:
        kernel.close(now=True)
    return points


def main(arguments: list[str] | None = None) -> int:
    """Measure, print, and perhaps save."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scale", description=__doc__)
    parser.add_argument("--kernels", type=int, default=50, metavar="N")
    parser.add_argument("--cells", type=int, default=5000, metavar="N")
    parser.add_argument("--lines", type=int, default=1_600_000, metavar="N")
    parser.add_argument("--json", type=Path, metavar="PATH")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="scale-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        curves = {
            "kernels": kernels(options.kernels, {}, "1 + 1", folder),
            "warm kernels": kernels(options.kernels, WARM, LIBRARIES, folder),
            "cells": cells(options.cells, folder),
            "output": output(options.lines, folder),
        }
    for name, points in curves.items():
        print(f"{name}: first {points[0]}, last {points[-1]}")
    if options.json is not None:
        options.json.write_text(json.dumps(curves) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
