"""Batches on real kernels: what comes of notebooks that go well, fail, hang and die."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from pyrepl_kernel import batch
from pyrepl_kernel.batch.lane import KernelChoice, Lane
from pyrepl_kernel.batch.store import Manifest

from .support import printed, read, write

pytestmark = pytest.mark.usefixtures("no_process_left")


def test_each_notebook_has_a_fresh_worker_in_its_own_folder(tmp_path: Path) -> None:
    code = [
        "import os; print(os.getcwd()); print('earlier' in globals()); earlier = 1",
        "print(os.getpid(), name); warm",
    ]
    paths = [write(tmp_path / f"{i}" / f"n{i}.ipynb", *code) for i in range(4)]
    done = batch.run(
        paths,
        output_dir=tmp_path / "out",
        jobs=2,
        warmup="warm = '{cwd}'",
        parameters={"name": "Zoë"},
    )
    assert done.ok
    assert done.exit_status == 0
    assert [each.source for each in done.notebooks] == paths
    pids = set()
    for index, result in enumerate(done.notebooks):
        assert result.output == tmp_path / "out" / f"n{index}.ipynb"
        said = printed(result.output).splitlines()
        assert said[:2] == [str(tmp_path / f"{index}"), "False"]
        pid, name = said[2].split()
        pids.add(pid)
        assert name == "Zoë"
        saved = read(result.output)
        assert [cell.execution_count for cell in saved.cells] == [1, 2, 3]
        assert saved.cells[2].outputs[-1].data["text/plain"] == "'{cwd}'"
        assert saved.metadata.language_info.name == "python"
        assert [cell.index for cell in result.cells] == [0, 1, 2]
        assert 0 < sum(cell.seconds for cell in result.cells) <= result.seconds
        assert result.peak_memory is not None and result.peak_memory > 1e6
    assert len(pids) == 4


def test_a_failure_is_its_notebooks_own(tmp_path: Path) -> None:
    write(tmp_path / "raises.ipynb", "print('before')", "1 / 0", "print('never')")
    write(tmp_path / "dies.ipynb", "import os\nprint('before')", "os._exit(3)", "print('never')")
    write(tmp_path / "slow.ipynb", "print('before')", "import time; time.sleep(100)")
    allowed = {1: ["raises-exception"]}
    write(tmp_path / "ok.ipynb", "print('before')", "1 / 0", "print('after')", tags=allowed)
    write(
        tmp_path / "dies-allowed.ipynb", "import os", "os._exit(4)", "print('never')", tags=allowed
    )
    done = batch.run(sorted(tmp_path.glob("*.ipynb")), output_dir=tmp_path / "out", timeout=2.5)
    assert done.exit_status == 1
    by_name = {each.source.stem: each for each in done.notebooks}
    assert by_name["ok"].ok
    assert printed(by_name["ok"].output) == "before\nafter\n"

    for name, kind, said, cell in (
        ("raises", "raised", "ZeroDivisionError: division by zero", 1),
        ("dies", "died", "exited with code 3", 1),
        ("slow", "timeout", "the cell took longer than 2.5 s", 1),
    ):
        error = by_name[name].error
        assert error is not None, name
        assert (error.kind, error.cell) == (kind, cell)
        assert said in error.message
        assert error.source == read(by_name[name].output).cells[1].source
        assert printed(by_name[name].output) == "before\n"
        assert [each.ok for each in by_name[name].cells] == [True, False]
    assert "ZeroDivisionError" in by_name["raises"].error.traceback  # type: ignore[union-attr]

    # A death is no error that a notebook may allow: nothing runs in the empty namespace.
    error = by_name["dies-allowed"].error
    assert error is not None and error.kind == "died"
    assert "exited with code 4" in error.message
    assert printed(by_name["dies-allowed"].output) == ""


def test_a_kernel_that_was_killed_is_replaced(tmp_path: Path) -> None:
    code = "import os, signal; os.kill(os.getppid(), signal.SIGKILL); import time; time.sleep(60)"
    write(tmp_path / "a.ipynb", "print('a')", code)
    write(tmp_path / "b.ipynb", "print('b')")
    done = batch.run(sorted(tmp_path.glob("*.ipynb")), output_dir=tmp_path / "out", jobs=1)
    assert [each.status for each in done.notebooks] == ["failed", "ok"]
    error = done.notebooks[0].error
    assert error is not None and error.kind == "died"
    assert printed(done.notebooks[1].output) == "b\n"


def test_resume_runs_what_is_missing(tmp_path: Path) -> None:
    log = tmp_path / "log"
    for name in ("a", "b"):
        write(tmp_path / f"{name}.ipynb", f"with open({str(log)!r}, 'a') as f: f.write('{name}')")
    fails = f"import pathlib\nassert pathlib.Path({str(tmp_path / 'gate')!r}).exists()"
    write(tmp_path / "c.ipynb", fails)
    paths = sorted(tmp_path.glob("*.ipynb"))
    first = batch.run(paths, output_dir=tmp_path / "out", jobs=1)
    assert [each.status for each in first.notebooks] == ["ok", "ok", "failed"]

    (tmp_path / "gate").write_text("")
    write(tmp_path / "b.ipynb", f"with open({str(log)!r}, 'a') as f: f.write('B')")
    second = batch.run(paths, output_dir=tmp_path / "out", jobs=1, resume=True)
    assert second.ok
    assert [each.resumed for each in second.notebooks] == [True, False, False]
    assert log.read_text() == "abB"
    assert second.notebooks[0].cells == first.notebooks[0].cells


def test_a_sweep_runs_a_notebook_with_each_set(tmp_path: Path) -> None:
    path = write(tmp_path / "a.ipynb", "x = 0", "print(x * 2)", tags={0: ["parameters"]})
    done = batch.run([path], output_dir=tmp_path / "out", parameters=[{"x": i} for i in range(3)])
    assert [printed(each.output) for each in done.notebooks] == ["0\n", "2\n", "4\n"]
    assert [each.parameters for each in done.notebooks] == [{"x": 0}, {"x": 1}, {"x": 2}]


def test_a_warmup_that_fails_is_told_before_any_notebook_runs(tmp_path: Path) -> None:
    path = write(tmp_path / "a.ipynb", "print(1)")
    with pytest.raises(batch.BatchError, match="no_such_module"):
        batch.run([path], output_dir=tmp_path / "out", warmup="import no_such_module")
    assert [each.name for each in (tmp_path / "out").iterdir()] == [Manifest.NAME]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"jobs": 0}, "0 notebooks at a time"),
        ({"timeout": 0.0}, "leaves no time"),
        ({"cwd": "nowhere"}, "nowhere is no folder"),
        ({"kernel": "nowhere"}, "there is no kernel nowhere"),
        ({"kernel": "python3", "warmup": "1"}, "takes no --warmup"),
        ({"parameters": {"a b": 1}}, "'a b' cannot be the name"),
        ({"parameters": {"a": {1}}}, "a set cannot be written"),
    ],
)
def test_what_makes_no_sense_is_told_at_once(
    arguments: dict[str, object], said: str, tmp_path: Path
) -> None:
    path = write(tmp_path / "a.ipynb", "print(1)")
    with pytest.raises(batch.BatchError, match=said):
        batch.run([path], output_dir=tmp_path / "out", **arguments)  # type: ignore[arg-type]


async def test_cancelling_keeps_what_is_done(tmp_path: Path) -> None:
    write(tmp_path / "a.ipynb", "print('a')")
    started = tmp_path / "started"
    waits = f"print('begun', flush=True); open({str(started)!r}, 'w'); import time; time.sleep(100)"
    write(tmp_path / "b.ipynb", waits)
    run = batch.run_async(sorted(tmp_path.glob("*.ipynb")), output_dir=tmp_path / "out", jobs=1)
    task = asyncio.create_task(run)
    async with asyncio.timeout(60):
        while not started.exists():
            await asyncio.sleep(0.05)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert printed(tmp_path / "out" / "a.ipynb") == "a\n"
    assert printed(tmp_path / "out" / "b.ipynb") == "begun\n"
    lines = (tmp_path / "out" / Manifest.NAME).read_text().split("\n")
    assert [json.loads(line)["output"] for line in lines if line] == ["a.ipynb"]


async def test_a_lane_keeps_one_client_and_hears_the_first_word_of_each_worker(
    tmp_path: Path,
) -> None:
    lane = Lane(KernelChoice())
    try:
        for generation in range(4):
            await lane.renew(tmp_path)
            lane.use()
            asked = lane.client.execute(f"print({generation})")
            async with asyncio.timeout(30):
                said = ""
                while True:
                    message = await lane.client.get_iopub_msg(timeout=None)
                    if message["parent_header"].get("msg_id") != asked:
                        continue
                    if message["msg_type"] == "stream":
                        said += message["content"]["text"]
                    if message["content"].get("execution_state") == "idle":
                        break
            assert said == f"{generation}\n"
    finally:
        await lane.close()
