"""What stays on disk: whole files, and a manifest that a kill cannot spoil."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path
from typing import Any

import nbformat
import pytest

from pyrepl_kernel.batch.plan import Job, plan
from pyrepl_kernel.batch.results import CellResult, NotebookError, NotebookResult
from pyrepl_kernel.batch.store import Manifest, Saver, serialise, slot, write_atomically

from .support import read, write


@pytest.fixture
def jobs(tmp_path: Path) -> list[Job]:
    paths = [write(tmp_path / f"{name}.ipynb", name) for name in "abc"]
    made = plan(paths, [{"x": [1, "two"]}], tmp_path / "out")
    (tmp_path / "out").mkdir()
    return made


def result_of(job: Job, status: str = "ok") -> NotebookResult:
    return NotebookResult(
        job.source,
        job.output,
        job.parameters,
        status=status,  # type: ignore[arg-type]
        seconds=1.5,
        cells=(CellResult(0, "a", 0.5), CellResult(1, "b", 1.0, ok=False)),
        error=None if status == "ok" else NotebookError("raised", "no", 1, "b", "trace"),
    )


def do(manifest: Manifest, job: Job, status: str = "ok") -> None:
    content = serialise(job.notebook)
    write_atomically(job.output, content)
    manifest.add(job, result_of(job, status), content)


def test_what_is_done_is_found_with_its_result(jobs: list[Job], tmp_path: Path) -> None:
    do(Manifest(tmp_path / "out"), jobs[0])
    do(Manifest(tmp_path / "out"), jobs[1], "failed")
    found = Manifest(tmp_path / "out").done(jobs)
    assert list(found) == [slot(jobs[0])]
    result = found[slot(jobs[0])]
    assert result.resumed
    assert result.to_json() == {**result_of(jobs[0]).to_json(), "resumed": True}


def test_a_result_comes_back_from_json_as_it_was(jobs: list[Job]) -> None:
    result = result_of(jobs[0], "failed")
    assert NotebookResult.from_json(json.loads(json.dumps(result.to_json()))) == result


def test_an_output_that_was_changed_or_deleted_is_made_again(
    jobs: list[Job], tmp_path: Path
) -> None:
    manifest = Manifest(tmp_path / "out")
    for job in jobs:
        do(manifest, job)
    jobs[0].output.write_text("edited")
    jobs[1].output.unlink()
    assert list(manifest.done(jobs)) == [slot(jobs[2])]


def test_a_changed_notebook_is_run_again(jobs: list[Job], tmp_path: Path) -> None:
    manifest = Manifest(tmp_path / "out")
    do(manifest, jobs[0])
    write(jobs[0].source, "a = 'new'")
    changed = plan([jobs[0].source], [{"x": [1, "two"]}], tmp_path / "out")
    assert not manifest.done(changed)


def test_a_line_that_a_kill_cut_off_counts_as_none(jobs: list[Job], tmp_path: Path) -> None:
    manifest = Manifest(tmp_path / "out")
    do(manifest, jobs[0])
    path = tmp_path / "out" / Manifest.NAME
    whole = path.read_bytes()
    do(manifest, jobs[1])
    for cut in range(len(whole) + 1, path.stat().st_size - 1, 37):
        torn = path.read_bytes()[:cut]
        path.write_bytes(torn)
        do(manifest, jobs[2])
        assert list(manifest.done(jobs)) == [slot(jobs[0]), slot(jobs[2])], cut
        path.write_bytes(whole)
        do(manifest, jobs[1])


def test_what_is_made_anew_is_forgotten_and_the_rest_is_not(
    jobs: list[Job], tmp_path: Path
) -> None:
    manifest = Manifest(tmp_path / "out")
    for job in jobs:
        do(manifest, job)
    manifest.forget(jobs[:2])
    assert list(manifest.done(jobs)) == [slot(jobs[2])]


def test_a_failed_write_leaves_the_file_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.ipynb"
    write_atomically(path, b"before")

    def full(*args: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="No space left"):
        write_atomically(path, b"after")
    assert path.read_bytes() == b"before"
    assert [each.name for each in tmp_path.iterdir()] == ["a.ipynb"]


def test_a_file_has_the_mode_that_any_new_file_has(tmp_path: Path) -> None:
    write_atomically(tmp_path / "ours", b"")
    (tmp_path / "other").write_bytes(b"")
    assert (tmp_path / "ours").stat().st_mode == (tmp_path / "other").stat().st_mode


async def test_a_notebook_that_changes_is_saved_soon(tmp_path: Path) -> None:
    path = tmp_path / "a.ipynb"
    notebook = nbformat.v4.new_notebook()
    saver = Saver(notebook, path)
    saver.changed()
    notebook.cells.append(nbformat.v4.new_markdown_cell("hello"))
    async with asyncio.timeout(10):
        while not path.exists():
            await asyncio.sleep(0.05)
    assert read(path).cells[0].source == "hello"
    notebook.cells[0].source = "goodbye"
    saver.close()
    assert read(path).cells[0].source == "goodbye"
