"""What is found wrong before anything runs, and where outputs go."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nbformat
import pytest

from pyrepl_kernel.batch.plan import Job, check_writable, plan
from pyrepl_kernel.errors import BatchError

from .support import write


def made(tmp_path: Path, names: list[str], sets: list[dict[str, Any]] | None = None) -> list[Job]:
    paths = [write(tmp_path / name, "x = 1", "x") for name in names]
    return plan(paths, sets or [{}], tmp_path / "out")


def outputs(tmp_path: Path, jobs: list[Job]) -> list[str]:
    return [str(job.output.relative_to(tmp_path / "out")) for job in jobs]


def test_outputs_keep_their_names(tmp_path: Path) -> None:
    jobs = made(tmp_path, ["a/one.ipynb", "b/two.ipynb"])
    assert outputs(tmp_path, jobs) == ["one.ipynb", "two.ipynb"]


def test_two_inputs_of_one_name_have_two_outputs(tmp_path: Path) -> None:
    jobs = made(tmp_path, ["a/one.ipynb", "b/c/one.ipynb", "b/two.ipynb"])
    assert outputs(tmp_path, jobs) == ["a/one.ipynb", "b/c/one.ipynb", "two.ipynb"]


def test_names_that_differ_in_case_alone_have_two_outputs(tmp_path: Path) -> None:
    jobs = made(tmp_path, ["a/One.ipynb", "b/one.ipynb"])
    assert outputs(tmp_path, jobs) == ["a/One.ipynb", "b/one.ipynb"]


def test_a_sweep_names_outputs_by_what_differs(tmp_path: Path) -> None:
    sets: list[dict[str, Any]] = [
        {"alpha": 0.1, "same": 1},
        {"alpha": 0.2, "same": 1, "name": "a/b c"},
    ]
    jobs = made(tmp_path, ["one.ipynb"], sets)
    assert outputs(tmp_path, jobs) == ["one-alpha=0.1.ipynb", "one-alpha=0.2,name=a_b_c.ipynb"]
    assert [job.notebook.cells[0].source.splitlines()[1] for job in jobs] == [
        "alpha = 0.1",
        "alpha = 0.2",
    ]
    assert len({job.key for job in jobs}) == 2


def test_a_sweep_over_what_names_cannot_hold(tmp_path: Path) -> None:
    texts = ["x" * 500 + str(i) for i in range(3)] + ["a b", "a?b"]
    sets = [{"text": text} for text in texts]
    names = outputs(tmp_path, made(tmp_path, ["one.ipynb"], sets))
    assert len(set(names)) == 5
    assert all(len(name) < 120 for name in names)


def test_two_sets_that_are_the_same_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BatchError, match="two sets of parameters are the same"):
        made(tmp_path, ["one.ipynb"], [{"x": 1}, {"x": 1}])


def test_all_that_is_missing_is_named_at_once(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(BatchError) as raised:
        plan([tmp_path / "a.ipynb", tmp_path / "folder", tmp_path / "b.ipynb"], [{}], tmp_path)
    said = str(raised.value)
    assert f"{tmp_path}/a.ipynb: there is no such notebook" in said
    assert f"{tmp_path}/b.ipynb: there is no such notebook" in said
    assert f"{tmp_path}/folder: is a folder" in said


@pytest.mark.parametrize("content", ["", "{}", "[1]", '{"cells": 3, "nbformat": 4}', "\x00"])
def test_what_is_no_notebook_is_refused(content: str, tmp_path: Path) -> None:
    path = tmp_path / "a.ipynb"
    path.write_text(content)
    with pytest.raises(BatchError, match=r"a\.ipynb: is no notebook"):
        plan([path], [{}], tmp_path / "out")


def test_another_language_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.ipynb", "x <- 1")
    notebook = nbformat.read(path, as_version=4)
    notebook.metadata.kernelspec.language = "R"
    nbformat.write(notebook, path)
    with pytest.raises(BatchError, match="its language is R"):
        plan([path], [{}], tmp_path / "out")


def test_the_same_notebook_twice_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.ipynb", "1")
    with pytest.raises(BatchError, match="is given 2 times"):
        plan([path, tmp_path / "." / "a.ipynb"], [{}], tmp_path / "out")


def test_an_output_never_takes_the_place_of_an_input(tmp_path: Path) -> None:
    path = write(tmp_path / "a.ipynb", "1")
    with pytest.raises(BatchError, match="would be overwritten by its own output"):
        plan([path], [{}], tmp_path)


def test_an_older_notebook_is_taken(tmp_path: Path) -> None:
    path = tmp_path / "old.ipynb"
    path.write_text(
        '{"nbformat": 3, "nbformat_minor": 0, "metadata": {}, "worksheets": [{"metadata": {}, '
        '"cells": [{"cell_type": "code", "input": ["1 + 1"], "language": "python", "outputs": [],'
        ' "collapsed": false, "metadata": {}}]}]}'
    )
    (job,) = plan([path], [{}], tmp_path / "out")
    assert [cell.source for cell in job.notebook.cells] == ["1 + 1"]


def test_a_key_tells_cells_and_parameters_and_not_outputs(tmp_path: Path) -> None:
    def key(*sources: str, sets: dict[str, Any] | None = None, warmup: str | None = None) -> str:
        path = write(tmp_path / "a.ipynb", *sources)
        return plan([path], [sets or {}], tmp_path / "out", None, (None, warmup))[0].key

    assert key("1") == key("1")
    keys = [
        key("1"),
        key("2"),
        key("1", "1"),
        key("1", sets={"x": 1}),
        key("1", sets={"x": True}),
        key("1", sets={"x": "1"}),
        key("1", warmup="import json"),
    ]
    assert len(set(keys)) == len(keys)

    path = write(tmp_path / "a.ipynb", "1")
    notebook = nbformat.read(path, as_version=4)
    notebook.cells[0].outputs = [nbformat.v4.new_output("stream", text="old")]
    notebook.cells[0].execution_count = 7
    nbformat.write(notebook, path)
    (job,) = plan([path], [{}], tmp_path / "out", None, (None, None))
    assert job.key == keys[0]
    assert job.notebook.cells[0].outputs == []


def test_the_working_directory_is_the_notebooks_own_folder(tmp_path: Path) -> None:
    jobs = made(tmp_path, ["a/one.ipynb", "b/two.ipynb"])
    assert [job.cwd for job in jobs] == [tmp_path / "a", tmp_path / "b"]
    path = tmp_path / "a/one.ipynb"
    assert plan([path], [{}], tmp_path / "out", tmp_path)[0].cwd == tmp_path


def test_a_folder_that_cannot_be_written_is_told_in_time(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(BatchError, match=r"cannot write to .*file/out: Not a directory"):
        check_writable(tmp_path / "file" / "out")
