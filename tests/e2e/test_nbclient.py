"""nbclient, which nbconvert, papermill, voila and jupyter execute build on."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
from nbformat import NotebookNode

from .notebooks import RAISES, assert_ran, code_cells, notebook, outputs, pngs, read, result, text
from .support import IS_OURS, KERNEL, TIMEOUT, TOUR, kernel_processes, wait_gone

PID = "import os; os.getpid()"


def client_of(node: NotebookNode, **options: Any) -> NotebookClient:
    """A client that executes ``node`` in place, on the kernel under test."""
    options = {"kernel_name": KERNEL, "timeout": int(TIMEOUT), **options}
    return NotebookClient(node, **options)


def pid(cell: NotebookNode) -> int:
    """The process id that a cell had as its result."""
    answer = result(cell)
    assert answer is not None, cell.outputs
    return int(answer)


@pytest.mark.parametrize("path", [TOUR], ids=lambda path: path.name)
def test_the_tour_runs_through(path: Path) -> None:
    tour = read(path)
    client_of(tour, resources={"metadata": {"path": path.parent}}).execute()

    assert_ran(tour)
    assert any(png.startswith(b"\x89PNG") for png in pngs(tour))
    assert any(text(cell).strip() for cell in code_cells(tour))
    assert outputs(tour, "execute_result")
    assert outputs(tour, "error"), "the tour shows an error, too"
    for error in outputs(tour, "error"):
        assert error.ename
        assert any(error.ename in line for line in error.traceback)


def test_outputs_are_of_the_cell_that_made_them() -> None:
    node = notebook(
        "print('one')",
        "import sys; print('two', file=sys.stderr); 2",
        "for i in range(1000): print(i)",
        "handle = display('before', display_id=True)",
        "handle.update('after')",
    )
    client_of(node).execute()
    one, two, many, shown, updating = node.cells
    assert text(one) == "one\n"
    assert text(two, "stderr") == "two\n"
    assert result(two) == "2"
    assert text(many) == "".join(f"{i}\n" for i in range(1000))
    assert shown.outputs[0].data["text/plain"] == "'after'"
    assert not updating.outputs


def test_an_error_ends_the_run_and_later_cells_are_not_run() -> None:
    node = notebook("kept = 1", "1 / 0", "print('never')")
    with pytest.raises(CellExecutionError, match="ZeroDivisionError") as raised:
        client_of(node).execute()
    assert raised.value.ename == "ZeroDivisionError"
    assert node.cells[1].outputs[0].output_type == "error"
    assert node.cells[2].execution_count is None
    assert not node.cells[2].outputs


def test_an_error_that_was_expected_does_not_end_the_run() -> None:
    node = notebook("1 / 0", "print('here')", tags={0: [RAISES]})
    client_of(node).execute()
    assert node.cells[0].outputs[0].ename == "ZeroDivisionError"
    assert text(node.cells[1]) == "here\n"


def test_input_is_an_error_and_not_a_hang() -> None:
    with pytest.raises(CellExecutionError) as raised:
        client_of(notebook("input()")).execute()
    assert raised.value.ename == "StdinNotImplementedError"


def test_a_timeout_ends_the_run_and_the_kernel() -> None:
    node = notebook(PID, "import time; time.sleep(600)", "print('never')")
    with pytest.raises(CellTimeoutError):
        client_of(node, timeout=1).execute()
    assert wait_gone(pid(node.cells[0]), TIMEOUT)
    assert node.cells[2].execution_count is None


def test_a_timeout_can_interrupt_and_go_on() -> None:
    node = notebook("kept = 1", "while True: pass", "kept", tags={1: [RAISES]})
    client_of(node, timeout=1, interrupt_on_timeout=True).execute()
    assert node.cells[1].outputs[0].ename == "KeyboardInterrupt"
    assert result(node.cells[2]) == "1"


@pytest.mark.parametrize(
    ("code", "cause"),
    [("os._exit(3)", "3"), ("os.kill(os.getpid(), signal.SIGKILL)", "SIGKILL")],
    ids=["exited", "killed"],
)
def test_a_death_ends_the_run(code: str, cause: str, jupyter_dirs: Path) -> None:
    """ipykernel is gone without a word; ours may first say why, as the error of the dying cell."""
    node = notebook("import os, signal; kept = 1", code, "kept")
    ends = (DeadKernelError, CellExecutionError) if IS_OURS else DeadKernelError
    with pytest.raises(ends) as raised:
        client_of(node).execute()
    if isinstance(raised.value, CellExecutionError):
        assert cause in raised.value.evalue
    assert node.cells[2].execution_count is None
    assert not kernel_processes(jupyter_dirs / "runtime")


def test_no_cell_runs_in_the_empty_namespace_after_a_death() -> None:
    """With errors allowed nbclient goes on after an error; it must not after a death."""
    node = notebook("import os; kept = 1", "os._exit(3)", "print('never')", "print('never')")
    with pytest.raises(DeadKernelError):
        client_of(node, allow_errors=True).execute()
    assert not any(text(cell) for cell in node.cells)


def test_nothing_is_left_behind(jupyter_dirs: Path) -> None:
    runtime = jupyter_dirs / "runtime"
    files = set(runtime.iterdir())
    node = notebook(PID)
    client_of(node).execute()
    assert wait_gone(pid(node.cells[0]), TIMEOUT)
    assert not kernel_processes(runtime)
    assert not [path for path in set(runtime.iterdir()) - files if path.match("kernel-*.json")]


def test_notebooks_run_side_by_side() -> None:
    nodes = [notebook(PID, f"mine = {i}", "mine", "print(mine)") for i in range(3)]

    async def run_all() -> None:
        async with asyncio.timeout(TIMEOUT):
            await asyncio.gather(*(client_of(node).async_execute() for node in nodes))

    asyncio.run(run_all())
    assert [result(node.cells[2]) for node in nodes] == ["0", "1", "2"]
    assert [text(node.cells[3]) for node in nodes] == ["0\n", "1\n", "2\n"]
    pids = [pid(node.cells[0]) for node in nodes]
    assert len(set(pids)) == 3
    assert all(wait_gone(each, TIMEOUT) for each in pids)
