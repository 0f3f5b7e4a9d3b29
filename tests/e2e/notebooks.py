"""Notebooks for the tests: made here, or read, and looked into."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import nbformat
from nbformat import NotebookNode

from .support import KERNEL, kernelspec

RAISES = "raises-exception"
"""The tag of a cell that is meant to end in an error; nbclient goes on after it."""


def notebook(*sources: str, tags: dict[int, list[str]] | None = None) -> NotebookNode:
    """A notebook of code cells for the kernel under test; ``tags`` by index of the cell."""
    cells = []
    for index, source in enumerate(sources):
        metadata = {"tags": (tags or {}).get(index, [])}
        cell: NotebookNode = nbformat.v4.new_code_cell(source, metadata=metadata)
        cells.append(cell)
    spec = {"name": KERNEL, "display_name": kernelspec().display_name, "language": "python"}
    made: NotebookNode = nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": spec})
    return made


def read(path: Path) -> NotebookNode:
    """Read a notebook; what is no valid notebook raises."""
    node: NotebookNode = nbformat.read(path, as_version=4)
    nbformat.validate(node)
    return node


def write(node: NotebookNode, path: Path) -> Path:
    """Write a notebook, and return its path."""
    nbformat.write(node, path)
    return path


def code_cells(node: NotebookNode) -> list[NotebookNode]:
    """The cells that are code, and not empty."""
    return [cell for cell in node.cells if cell.cell_type == "code" and cell.source.strip()]


def outputs(node: NotebookNode, output_type: str) -> list[NotebookNode]:
    """All outputs of one type, in order."""
    return [
        output
        for cell in code_cells(node)
        for output in cell.outputs
        if output.output_type == output_type
    ]


def text(cell: NotebookNode, name: str = "stdout") -> str:
    """What a cell printed to one stream."""
    return "".join(
        output.text
        for output in cell.outputs
        if output.output_type == "stream" and output.name == name
    )


def result(cell: NotebookNode) -> str | None:
    """A cell's result as plain text."""
    for output in cell.outputs:
        if output.output_type == "execute_result":
            return str(output.data["text/plain"])
    return None


def pngs(node: NotebookNode) -> list[bytes]:
    """The images that a notebook shows."""
    bundles: list[dict[str, Any]] = [output.data for output in outputs(node, "display_data")]
    return [base64.b64decode(data["image/png"]) for data in bundles if "image/png" in data]


def assert_ran(node: NotebookNode) -> None:
    """All code cells ran in order; those tagged so, and no others, ended in an error."""
    cells = code_cells(node)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    for cell in cells:
        failed = any(output.output_type == "error" for output in cell.outputs)
        assert failed == (RAISES in cell.metadata.get("tags", [])), cell.source
