"""``pyrepl-kernel batch`` as a user runs it: exit status, what is said, Ctrl-C, kill -9."""

from __future__ import annotations

import importlib.util
import os
import pty
import signal
import subprocess
from functools import partial
from pathlib import Path

import pytest

from pyrepl_kernel import batch
from pyrepl_kernel.cli import main
from tests.session.support import marked, wait_gone

from .support import COMMAND, printed, run_command, start_command, wait_until, write

pytestmark = pytest.mark.usefixtures("no_process_left")

WAITS = """\
import pathlib, time
print("begun", flush=True)
while not pathlib.Path({gate!r}).exists():
    time.sleep(0.01)
print("done")
"""


def has_begun(path: Path) -> bool:
    return path.exists() and printed(path).endswith("begun\n")


def test_all_ok(tmp_path: Path) -> None:
    write(tmp_path / "a.ipynb", "x = 0", "print(x, y)", tags={0: ["parameters"]})
    (tmp_path / "p.yaml").write_text("x: 1\ny: [a]\n")
    ran = run_command(
        "a.ipynb", "-o", "out", "--parameters", "p.yaml", "-p", "x=2",
        "--report", "r/report.html", "--junit", "j/junit.xml", cwd=tmp_path,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    assert printed(tmp_path / "out" / "a.ipynb") == "2 ['a']\n"
    assert ran.stdout.startswith("1 ok, in ")
    assert "[1/1] ok     a.ipynb" in ran.stderr
    assert "a.ipynb" in (tmp_path / "r" / "report.html").read_text()
    assert 'tests="1"' in (tmp_path / "j" / "junit.xml").read_text()


def test_what_is_not_installed_is_named_with_what_to_type(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    find_spec = importlib.util.find_spec
    missing = ("rich", "yaml")
    monkeypatch.setattr(
        "importlib.util.find_spec", lambda name: None if name in missing else find_spec(name)
    )
    assert main(["batch", "a.ipynb"]) == 2
    said = "a batch needs rich, pyyaml; type: pip install 'pyrepl-kernel[batch]'"
    assert said in capsys.readouterr().err
    with pytest.raises(batch.BatchError, match="a batch needs rich, pyyaml"):
        batch.run(["a.ipynb"], progress=True)


def test_some_failed(tmp_path: Path) -> None:
    write(tmp_path / "a.ipynb", "print(1)")
    write(tmp_path / "b.ipynb", "x = 1", "def f():\n    return x / 0\nf()", "print('never')")
    ran = run_command("a.ipynb", "b.ipynb", "-j", "1", cwd=tmp_path)
    assert ran.returncode == 1
    assert "--- b.ipynb, cell 2: ZeroDivisionError: division by zero" in ran.stdout
    assert "----> 2     return x / 0" in ran.stdout
    assert "1 ok, 1 failed" in ran.stdout
    assert "\x1b" not in ran.stdout
    assert (tmp_path / "executed" / "a.ipynb").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "required: NOTEBOOK"),
        (["none.ipynb"], "none.ipynb: there is no such notebook"),
        (["a.ipynb", "-p", "x"], "-p x: write it as NAME=VALUE"),
        (["a.ipynb", "--parameters", "bad.yaml"], "bad.yaml: is no YAML"),
        (["a.ipynb", "-o", "bad.yaml/out"], "cannot write to bad.yaml/out"),
        (["a.ipynb", "--report", "bad.yaml/r.html"], "cannot write to"),
        (["a.ipynb", "--junit", "."], ". is a folder; name a file"),
        (["a.ipynb", "-j", "0"], "0 notebooks at a time"),
        (["a.ipynb", "-o", "."], "would be overwritten by its own output"),
        (["a.ipynb", "--warmup", "auto"], "--warmup auto learns what one notebook imports"),
        (["a.ipynb", "--warmup", "none.py"], "--warmup none.py: No such file"),
        (["a.ipynb", "--warmup", "x ="], "invalid syntax"),
        (["a.ipynb", "--paramters", "p.yaml"], "did you mean --parameters?"),
    ],
)
def test_usage(
    arguments: list[str],
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "a.ipynb", "print(1)")
    (tmp_path / "bad.yaml").write_text("[1")
    before = set(tmp_path.rglob("*.ipynb"))
    assert main(["batch", *arguments]) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith("pyrepl-kernel: ")
    assert said in shown.err
    assert "\x1b" not in shown.err
    assert set(tmp_path.rglob("*.ipynb")) == before


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["int", "term"]
)
def test_an_interrupt_ends_it_with_what_is_done_written(
    number: signal.Signals, status: int, tmp_path: Path
) -> None:
    write(tmp_path / "a.ipynb", "print('a')")
    write(tmp_path / "b.ipynb", "print('first')", WAITS.format(gate="never"))
    write(tmp_path / "c.ipynb", "print('c')")
    out = tmp_path / "executed"
    process = start_command(
        "a.ipynb", "b.ipynb", "c.ipynb", "-j", "1", "--junit", "j.xml", cwd=tmp_path
    )
    wait_until(partial(has_begun, out / "b.ipynb"), "b.ipynb begun")
    process.send_signal(number)
    said, _ = process.communicate(timeout=60)
    assert process.returncode == status, said
    assert "1 ok, 1 interrupted, 1 not run" in said
    assert printed(out / "a.ipynb") == "a\n"
    assert printed(out / "b.ipynb") == "first\nbegun\n"
    assert not (out / "c.ipynb").exists()
    assert 'skipped="2"' in (tmp_path / "j.xml").read_text()

    (tmp_path / "never").write_text("")
    ran = run_command("a.ipynb", "b.ipynb", "c.ipynb", "--resume", cwd=tmp_path)
    assert ran.returncode == 0, ran.stdout
    assert "3 ok (1 of them by an earlier run)" in ran.stdout


def test_a_killed_batch_leaves_no_process_and_resume_runs_what_is_missing(tmp_path: Path) -> None:
    names = [f"n{index}.ipynb" for index in range(8)]
    for index, name in enumerate(names):
        noted = f"with open({str(tmp_path / 'log')!r}, 'a') as log: log.write('{index} ')"
        gate = str(tmp_path / "gate")
        write(tmp_path / name, WAITS.format(gate=gate) if index >= 4 else "pass", noted)
    before = marked()
    process = start_command(*names, "-j", "2", "-o", "out", cwd=tmp_path)
    for name in ("n4.ipynb", "n5.ipynb"):
        wait_until(partial(has_begun, tmp_path / "out" / name), f"{name} begun")
    process.kill()
    process.communicate(timeout=60)
    left = marked() - before
    assert all(wait_gone(pid, 10) for pid in left)
    assert printed(tmp_path / "out" / "n4.ipynb") == "begun\n"
    assert sorted((tmp_path / "log").read_text().split()) == ["0", "1", "2", "3"]

    (tmp_path / "gate").write_text("")
    ran = run_command(*names, "-j", "2", "-o", "out", "--resume", cwd=tmp_path)
    assert ran.returncode == 0, ran.stdout
    assert "8 ok (4 of them by an earlier run)" in ran.stdout
    assert sorted((tmp_path / "log").read_text().split()) == [str(i) for i in range(8)]
    leftovers = [path.name for path in (tmp_path / "out").iterdir() if ".ipynb-" in path.name]
    assert not leftovers


def test_on_a_terminal_there_are_bars(tmp_path: Path) -> None:
    write(tmp_path / "a [b].ipynb", "import time; time.sleep(1.5)  # [red]")
    write(tmp_path / "c.ipynb", "1 / 0")
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [*COMMAND, "a [b].ipynb", "c.ipynb"],
        stdin=theirs, stdout=theirs, stderr=theirs, cwd=tmp_path,
        env={**os.environ, "TERM": "xterm", "COLUMNS": "120"},
    )  # fmt: skip
    os.close(theirs)
    said = b""
    while True:
        try:
            data = os.read(ours, 65536)
        except OSError:  # how Linux says that the other side was closed
            break
        if not data:
            break
        said += data
    os.close(ours)
    assert process.wait(60) == 1
    text = said.decode()
    for part in ("notebooks", "a [b].ipynb", "time.sleep(1.5)  # [red]", "MB", "1/2"):
        assert part in text, text
    assert "failed c.ipynb" in text
