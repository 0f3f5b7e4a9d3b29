"""Execute a notebook with nbclient and show it in the terminal, cell by cell, as it runs.

    python examples/run_notebook.py examples/tour.ipynb [--kernel NAME] [--output FILE]

The executed notebook is written to ``build/``, unless ``--output`` names a file.
"""

from __future__ import annotations

import argparse
import base64
import re
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from textwrap import indent
from typing import Any

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from nbformat import NotebookNode

ANSI = re.compile(r"\x1b\[[0-9;]*m")
# The first of these that an output has is shown; pictures and the like are named with their size.
TEXTS = ("text/markdown", "text/latex", "text/html", "text/plain")


def main() -> int:
    """Run the command line; 0 when every cell ran, 1 when one failed that should not."""
    parser = argparse.ArgumentParser(description="Execute a notebook and show its outputs.")
    parser.add_argument("notebook", type=Path)
    parser.add_argument("--kernel", help="the kernelspec to use instead of the notebook's own")
    parser.add_argument("--output", type=Path, help="where the executed notebook goes")
    args = parser.parse_args()
    notebook = nbformat.read(args.notebook, as_version=4)
    kernel = args.kernel or notebook.metadata.kernelspec.name
    output = args.output or Path("build", f"{args.notebook.stem}.executed.ipynb")
    client = NotebookClient(notebook, kernel_name=kernel, timeout=120, coalesce_streams=True)

    status = 0
    began = time.perf_counter()
    with client.setup_kernel():
        started = time.perf_counter() - began
        for index, cell in enumerate(notebook.cells):
            try:
                client.execute_cell(cell, index)
            except CellExecutionError:
                status = 1
            show(cell)
            if status:
                print("This cell failed, and the notebook ends here.", file=sys.stderr)
                break
    took = time.perf_counter() - began
    output.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(notebook, output)
    print(f"Kernel {kernel}: started in {started:.2f} s, all done in {took:.2f} s.")
    print(f"The executed notebook is in {output}.")
    return status


def show(cell: NotebookNode) -> None:
    """Print a cell's source and, below it, its outputs."""
    if cell.cell_type != "code":
        print(f"{cell.source}\n")
        return
    label = f"In [{cell.execution_count}]: "
    print(label + indent(cell.source, " " * len(label)).lstrip())
    text = "\n".join(line for output in cell.outputs for line in describe(output))
    print(indent(plain(text), "    | ", lambda line: True) + "\n" if text else "")


def plain(text: str) -> str:
    """The text as this output can show it: colours only on a terminal."""
    return text if sys.stdout.isatty() else ANSI.sub("", text)


def describe(output: NotebookNode) -> Iterator[str]:
    """An output as lines of text."""
    if output.output_type == "stream":
        yield output.text.rstrip("\n")
    elif output.output_type == "error":
        yield "\n".join(output.traceback)
    else:
        data = output.data
        others = [mime for mime in data if mime not in TEXTS]
        yield from (f"[{mime}, {size(mime, data[mime])}]" for mime in others)
        shown = next((mime for mime in TEXTS if mime in data), None)
        if shown is not None and not (others and shown == "text/plain"):
            prefix = f"Out[{output.execution_count}]: " if "execution_count" in output else ""
            yield prefix + ("" if shown == "text/plain" else f"[{shown}] ") + data[shown]


def size(mime: str, value: Any) -> str:
    """How big a part of a display is; pixels and bytes of a PNG."""
    if mime == "image/png":
        png = base64.b64decode(value)
        width, height = (int.from_bytes(png[at : at + 4]) for at in (16, 20))
        return f"{width} x {height} pixels, {len(png)} bytes"
    return f"{len(str(value))} characters"


if __name__ == "__main__":
    sys.exit(main())
