"""docs/compatibility.md and the tests speak of the same."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]
TABLE = TESTS.parent / "docs" / "compatibility.md"


def rows() -> Iterator[tuple[str, str, str]]:
    """Line, tests and state of each row."""
    yield from re.findall(r"^\| ([A-Z]\d+) \| .* \| (.*) \| (.*) \|$", TABLE.read_text(), re.M)


def functions(path: Path) -> dict[str, str]:
    """The tests of a file and their docstrings."""
    return {
        node.name: ast.get_docstring(node) or ""
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.name.startswith("test_")
    }


def named() -> Iterator[tuple[str, Path, str]]:
    """Line, file and function of each test that the table names."""
    for line, tests, _ in rows():
        path = TESTS
        for name in re.findall(r"`([^`]+)`", tests):
            file, _, function = name.partition("::")
            path = TESTS / file if file else path
            yield line, path, function


def test_each_test_that_the_table_names_is_there() -> None:
    missing = [
        f"{line}: {path.name}::{function}"
        for line, path, function in named()
        if function not in functions(path)
    ]
    assert not missing


def test_each_line_has_a_state() -> None:
    lines = [line for line, _, _ in rows()]
    assert len(lines) == len(set(lines)) > 40
    assert all(state.startswith(("works", "partly: ", "not yet")) for _, _, state in rows())


def test_each_test_is_in_the_table() -> None:
    table = {(path.name, function): line for line, path, function in named()}
    for path in Path(__file__).parent.glob("test_*.py"):
        if path.name == Path(__file__).name:
            continue
        for function, text in functions(path).items():
            line = table.get((path.name, function))
            assert line is not None, f"{path.name}::{function} is not in {TABLE.name}"
            assert text.startswith(f"{line}: "), f"{function} is of line {line}, says {text!r}"
