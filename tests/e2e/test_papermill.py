"""papermill: a notebook with parameters, run as a job."""

from __future__ import annotations

from pathlib import Path

import papermill
import pytest
from papermill.exceptions import PapermillExecutionError

from .notebooks import RAISES, assert_ran, code_cells, notebook, pngs, read, result, text, write
from .support import KERNEL, TIMEOUT, TOUR, kernel_processes


def run(source: Path, target: Path, parameters: dict[str, object] | None = None) -> None:
    """Execute a notebook on the kernel under test."""
    papermill.execute_notebook(
        source,
        target,
        parameters=parameters,
        kernel_name=KERNEL,
        progress_bar=False,
        start_timeout=int(TIMEOUT),
        execution_timeout=int(TIMEOUT),
        cwd=source.parent,
    )


def test_parameters_reach_the_cells(tmp_path: Path) -> None:
    node = notebook(
        "name = 'nobody'\ncount = 1",
        "', '.join([name] * count)",
        "print(extra, ratio, flag, nothing)",
        tags={0: ["parameters"]},
    )
    source = write(node, tmp_path / "source.ipynb")
    given = {
        "name": 'Zoë "Z"',
        "count": 3,
        "extra": [1, {"a": None}],
        "ratio": 0.5,
        "flag": True,
        "nothing": None,
    }
    run(source, tmp_path / "target.ipynb", given)

    ran = read(tmp_path / "target.ipynb")
    assert_ran(ran)
    defaults, injected, joined, printed = code_cells(ran)
    assert "injected-parameters" in injected.metadata.tags
    assert not defaults.outputs
    assert result(joined) == repr(", ".join(['Zoë "Z"'] * 3))
    assert text(printed) == "[1, {'a': None}] 0.5 True None\n"
    assert ran.metadata.papermill.exception is None


def test_a_failing_notebook_raises_and_is_saved(tmp_path: Path, jupyter_dirs: Path) -> None:
    source = write(notebook("print('before')", "1 / 0", "print('never')"), tmp_path / "a.ipynb")
    with pytest.raises(PapermillExecutionError, match="ZeroDivisionError") as raised:
        run(source, tmp_path / "b.ipynb")

    assert raised.value.ename == "ZeroDivisionError"
    saved = code_cells(read(tmp_path / "b.ipynb"))
    assert [cell.execution_count for cell in saved] == [1, 2, None]
    assert text(saved[0]) == "before\n"
    assert not kernel_processes(jupyter_dirs / "runtime")


@pytest.mark.parametrize("path", [TOUR], ids=lambda path: path.name)
def test_the_tour_runs_through(path: Path, tmp_path: Path) -> None:
    """papermill runs on after a cell that may raise, and raises for its error at the end."""
    target = tmp_path / path.name
    expected = [i for i, c in enumerate(read(path).cells) if RAISES in c.metadata.get("tags", [])]
    with pytest.raises(PapermillExecutionError) as raised:
        run(path, target)

    assert raised.value.cell_index == expected[0]
    ran = read(target)
    assert_ran(ran)
    assert {cell.metadata.papermill.status for cell in code_cells(ran)} == {"completed"}
    assert any(png.startswith(b"\x89PNG") for png in pngs(ran))
