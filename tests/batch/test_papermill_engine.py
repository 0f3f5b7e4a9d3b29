"""papermill's engine: warm workers for notebooks that papermill executes."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import papermill
import pytest
from papermill.exceptions import PapermillExecutionError

from pyrepl_kernel.batch import papermill as engine

from .support import printed, read, write

PID = "import os; print(os.getpid(), os.getppid(), 'earlier' in globals()); earlier = 1"


def execute(source: Path, target: Path, **arguments: Any) -> Any:
    return papermill.execute_notebook(
        source, target, engine_name="pyrepl", progress_bar=False, cwd=source.parent, **arguments
    )


@pytest.fixture(autouse=True)
def no_kernel_left() -> Iterator[None]:
    yield
    engine.close()


def test_it_is_registered() -> None:
    (found,) = metadata.entry_points(group="papermill.engine", name="pyrepl")
    assert found.load() is engine.PyreplEngine


def test_each_notebook_has_a_fresh_worker_of_one_lane(tmp_path: Path) -> None:
    write(tmp_path / "in.ipynb", "x = 0", PID, "print(x, warm)", tags={0: ["parameters"]})
    pids = set()
    for number in range(3):
        target = tmp_path / f"out{number}.ipynb"
        execute(tmp_path / "in.ipynb", target, parameters={"x": number}, warmup="warm = 'yes'")
        assert [cell.execution_count for cell in read(target).cells] == [1, 2, 3, 4]
        pid, _, earlier, *rest = printed(target).split()
        pids.add(pid)
        assert earlier == "False"
        assert rest == [str(number), "yes"]
    assert len(pids) == 3
    assert [key[2].warmup for key in engine._lanes].count("warm = 'yes'") == 1


def test_a_failure_and_a_death_are_papermills_errors_and_the_next_runs(tmp_path: Path) -> None:
    raises = write(tmp_path / "raises.ipynb", "print('before')", "1 / 0", "print('never')")
    dies = write(tmp_path / "dies.ipynb", "import os", "os._exit(3)", "print('never')")
    good = write(tmp_path / "good.ipynb", "print('good')")
    with pytest.raises(PapermillExecutionError, match="ZeroDivisionError"):
        execute(raises, tmp_path / "out.ipynb")
    assert printed(tmp_path / "out.ipynb") == "before\n"
    with pytest.raises(Exception, match=r"exited with code 3|Kernel died"):
        execute(dies, tmp_path / "out.ipynb")
    execute(good, tmp_path / "out.ipynb")
    assert printed(tmp_path / "out.ipynb") == "good\n"


@pytest.mark.usefixtures("no_process_left")
def test_its_command_line_leaves_nothing_behind(tmp_path: Path) -> None:
    write(tmp_path / "in.ipynb", "x = 0", "print(x)", tags={0: ["parameters"]})
    ran = subprocess.run(
        [sys.executable, "-m", "papermill", "in.ipynb", "out.ipynb",
         "--engine", "pyrepl", "-p", "x", "3"],
        cwd=tmp_path, capture_output=True, text=True, timeout=100,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    assert "Traceback" not in ran.stderr
    assert printed(tmp_path / "out.ipynb") == "3\n"
