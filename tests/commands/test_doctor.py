"""The doctor finds what is broken, and says what to type."""

import json
import os
import sqlite3
import sys
from pathlib import Path

import pytest

from pyrepl_kernel.cli import main
from pyrepl_kernel.commands import doctor
from pyrepl_kernel.commands.doctor import Finding, Level, examine


@pytest.fixture(autouse=True)
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Directories of its own, so that the findings are those that a test has made."""
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "first"))
    monkeypatch.setenv("JUPYTER_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(tmp_path / "runtime"))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))


def write_spec(folder: Path, name: str, argv: list[str], **metadata: object) -> Path:
    place = folder / "kernels" / name
    place.mkdir(parents=True)
    spec = {"argv": argv, "display_name": name, "language": "python", "metadata": metadata}
    (place / "kernel.json").write_text(json.dumps(spec), encoding="utf-8")
    return place


def of(title: str) -> list[Finding]:
    return dict(examine())[title]


def argv(*options: str, python: str = sys.executable) -> list[str]:
    return [python, "-m", "pyrepl_kernel", "-f", "{connection_file}", *options]


def test_a_healthy_environment(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor"]) == 0
    shown = capsys.readouterr().out
    assert f"on Python {sys.version.split()[0]}" in shown
    assert "Kernelspecs\n  ok    pyrepl: version" in shown
    assert "CurveZMQ is there" in shown


def test_an_interpreter_that_is_gone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_spec(tmp_path / "first", "old", argv(python="/nowhere/python"))
    assert main(["doctor"]) == 1
    shown = capsys.readouterr().out
    assert "bad   old: its interpreter /nowhere/python is gone" in shown
    assert "→ pyrepl-kernel install --name old" in shown


def test_an_interpreter_without_the_package(tmp_path: Path) -> None:
    fake = tmp_path / "python"
    fake.write_text("#!/bin/sh\nexit 1\n", encoding="utf-8")
    fake.chmod(0o755)
    write_spec(tmp_path / "first", "bare", argv(python=str(fake)))
    bad = [finding for finding in of("Kernelspecs") if finding.level is Level.BAD]
    assert [finding.what.split(" (")[0] for finding in bad] == [
        f"bare: {fake} cannot import pyrepl_kernel"
    ]


def test_a_kernelspec_that_hides_another(tmp_path: Path) -> None:
    first = write_spec(tmp_path / "first", "twin", ["python", "-m", "ipykernel"])
    second = write_spec(tmp_path / "data", "twin", argv())
    (hidden,) = [finding for finding in of("Kernelspecs") if "hidden" in finding.what]
    assert hidden.what == f"{second} is hidden by {first}"
    assert f"rm -r {second}" in hidden.do


def test_an_option_that_makes_no_sense(tmp_path: Path) -> None:
    place = write_spec(tmp_path / "first", "odd", argv("--spares=few"))
    (bad,) = [finding for finding in of("Kernelspecs") if finding.level is Level.BAD]
    assert "odd: the command line: spares is 'few'; it must be auto or a whole number" in bad.what
    assert str(place / "kernel.json") in bad.do


def test_a_jupyter_that_cannot_load_the_provisioner(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tmp_path / "bin" / "other-python"
    other.parent.mkdir()
    other.write_text("#!/bin/sh\necho local-provisioner\n", encoding="utf-8")
    jupyter = tmp_path / "bin" / "jupyter-lab"
    jupyter.write_text(f"#!{other}\n", encoding="utf-8")
    for path in (other, jupyter):
        path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    write_spec(
        tmp_path / "first",
        "quick",
        argv(),
        kernel_provisioner={"provisioner_name": "pyrepl-provisioner"},
    )
    bad = [finding for finding in of("Provisioner") if str(other) in finding.what]
    assert [finding.level for finding in bad] == [Level.BAD]
    assert "quick" in bad[0].what


def test_a_runtime_directory_that_others_read(tmp_path: Path) -> None:
    (tmp_path / "runtime").mkdir(mode=0o755)
    (finding,) = [f for f in of("Runtime directory") if "others" in f.what]
    assert finding.do == f"chmod 700 {tmp_path / 'runtime'}"


def test_a_history_that_is_locked(tmp_path: Path) -> None:
    profile = tmp_path / "ipython" / "profile_default"
    profile.mkdir(parents=True)
    with sqlite3.connect(profile / "history.sqlite") as holder:
        holder.execute("BEGIN EXCLUSIVE")
        (finding,) = of("History")
        holder.rollback()
    holder.close()
    assert finding.level is Level.NOTE and "locked" in finding.what
    assert of("History")[0].level is Level.GOOD


def test_a_check_that_fails_does_not_end_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> list[Finding]:
        raise OSError("no such thing")

    monkeypatch.setitem(doctor.CHECKS, "Ports", fail)
    results = dict(examine())
    assert results["Ports"][0].what == "this could not be looked at: OSError: no such thing"
    assert results["Encryption"][0].level is Level.GOOD
