"""The command line ``pyrepl-kernel``, and the kernelspec that the wheel brings."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hatchling.builders.wheel import WheelBuilder
from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.manager import KernelManager

from pyrepl_kernel._version import __version__
from pyrepl_kernel.cli import main

ROOT = Path(__file__).parents[1]
LOGOS = {"logo-32x32.png", "logo-64x64.png", "logo-svg.svg"}
BASE_ARGV = [sys.executable, "-P", "-m", "pyrepl_kernel", "-f", "{connection_file}"]


def spec_dir(prefix: Path, name: str = "pyrepl") -> Path:
    return prefix / "share" / "jupyter" / "kernels" / name


def read_spec(prefix: Path, name: str = "pyrepl") -> dict[str, Any]:
    spec: dict[str, Any] = json.loads((spec_dir(prefix, name) / "kernel.json").read_text())
    return spec


def install(prefix: Path, *options: str) -> None:
    assert main(["install", "--prefix", str(prefix), *options]) == 0


def run_program(*args: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Run the command as a user does, in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "pyrepl_kernel.cli", *args],
        capture_output=True,
        text=True,
        env={**os.environ, **(env or {})},
        cwd=ROOT,
    )


def fails(capsys: pytest.CaptureFixture[str], status: int, args: Sequence[str], *said: str) -> None:
    """Assert that the command ends with ``status`` and one line on stderr that says ``said``."""
    assert main(args) == status
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("pyrepl-kernel: ")
    assert captured.err.count("\n") == 1
    for part in said:
        assert part in captured.err


# ------------------------------------------------------------------ install


def test_version_is_the_packages() -> None:
    result = run_program("--version")
    assert (result.returncode, result.stdout) == (0, f"pyrepl-kernel {__version__}\n")


def test_install_writes_a_kernelspec_for_this_interpreter(tmp_path: Path) -> None:
    install(tmp_path)
    assert read_spec(tmp_path)["argv"] == BASE_ARGV
    assert read_spec(tmp_path)["display_name"] == "Python 3 (pyrepl)"
    assert read_spec(tmp_path)["language"] == "python"


def test_install_copies_the_logos(tmp_path: Path) -> None:
    install(tmp_path)
    assert {path.name for path in spec_dir(tmp_path).iterdir()} == LOGOS | {"kernel.json"}


def test_install_says_where_and_what_next(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "share" / "jupyter"))
    install(tmp_path, "--name", "mine", "--display-name", "My Python")
    said = capsys.readouterr().out
    assert str(spec_dir(tmp_path, "mine")) in said
    assert "'My Python'" in said
    assert "jupyter console --kernel mine" in said


def test_install_outside_jupyters_path_says_how_to_be_found(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    install(tmp_path)
    assert f"JUPYTER_PATH={tmp_path / 'share' / 'jupyter'}" in capsys.readouterr().out


def test_install_again_replaces(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    install(tmp_path, "--spares", "2")
    install(tmp_path)
    assert "Replaced" in capsys.readouterr().out
    assert read_spec(tmp_path)["argv"] == BASE_ARGV


def test_another_name_gets_another_display_name(tmp_path: Path) -> None:
    install(tmp_path, "--name", "Warm-3")
    assert read_spec(tmp_path, "warm-3")["display_name"] == "Python 3 (warm-3)"


def test_user_install_goes_to_the_users_data_folder(tmp_path: Path) -> None:
    result = run_program("install", "--user", env={"JUPYTER_DATA_DIR": str(tmp_path)})
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "kernels" / "pyrepl" / "kernel.json").is_file()
    assert "--user" in result.stdout


@pytest.mark.parametrize("in_environment", [True, False])
def test_without_a_place_install_chooses_one_and_says_so(
    in_environment: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    prefix, data = tmp_path / "prefix", tmp_path / "data"
    monkeypatch.setattr(sys, "prefix", str(prefix))
    monkeypatch.setattr(sys, "base_prefix", "elsewhere" if in_environment else str(prefix))
    monkeypatch.setenv("JUPYTER_DATA_DIR", str(data))
    assert main(["install"]) == 0
    chosen, said = (
        (spec_dir(prefix), "--sys-prefix, chosen because")
        if in_environment
        else (data / "kernels" / "pyrepl", "--user, chosen because")
    )
    assert (chosen / "kernel.json").is_file()
    assert said in capsys.readouterr().out


def test_a_conda_environment_counts_as_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "conda-meta").mkdir()
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    monkeypatch.setattr(sys, "base_prefix", str(tmp_path))
    assert main(["install"]) == 0
    assert (spec_dir(tmp_path) / "kernel.json").is_file()


def test_jupyter_launches_what_was_installed(tmp_path: Path) -> None:
    install(tmp_path, "--warmup", "x = {'a': 1}\nprint(f'{prefix}')", "--spares", "1")
    manager = KernelManager(connection_file=str(tmp_path / "c.json"))
    manager.kernel_spec_manager = KernelSpecManager(kernel_dirs=[str(spec_dir(tmp_path).parent)])
    manager.kernel_name = "pyrepl"
    command = manager.format_kernel_cmd()
    assert command[:6] == [*BASE_ARGV[:-1], os.path.realpath(tmp_path / "c.json")]
    assert command[-1] == "--spares=1"


# -------------------------------------------------------------- provisioner

PROVISIONER = {"provisioner_name": "pyrepl-provisioner"}


def provisioner_in(directory: Path) -> object:
    spec = json.loads((directory / "kernel.json").read_text())
    return spec["metadata"].get("kernel_provisioner")


@pytest.mark.parametrize("options", [["--sys-prefix"], ["--prefix", "here"], []])
def test_the_kernelspec_of_this_environment_names_the_provisioner(
    options: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "link").symlink_to(tmp_path)
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    place = [str(tmp_path / "link") if option == "here" else option for option in options]
    assert main(["install", *place]) == 0
    assert provisioner_in(spec_dir(tmp_path)) == PROVISIONER


def test_one_that_other_environments_find_names_it_only_when_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("JUPYTER_DATA_DIR", str(tmp_path / "data"))
    for place, directory in (
        (["--user"], tmp_path / "data" / "kernels" / "pyrepl"),
        (["--prefix", str(tmp_path)], spec_dir(tmp_path)),
    ):
        assert main(["install", *place]) == 0
        assert provisioner_in(directory) is None
        assert "--provisioner" in capsys.readouterr().out
        assert main(["install", *place, "--provisioner"]) == 0
        assert provisioner_in(directory) == PROVISIONER


# ------------------------------------------------------------------- warmup


def test_warmup_code_goes_into_argv(tmp_path: Path) -> None:
    code = "%matplotlib inline\nimport json\nawait thing()\n!ls"
    install(tmp_path, "--warmup", code)
    assert read_spec(tmp_path)["argv"] == [*BASE_ARGV, f"--warmup={code}"]


def test_warmup_file_goes_into_argv_by_its_absolute_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    warmup = tmp_path / "warm up.py"
    warmup.write_text("import json\n")
    monkeypatch.chdir(tmp_path)
    install(tmp_path, "--warmup", "warm up.py")
    assert read_spec(tmp_path)["argv"] == [*BASE_ARGV, f"--warmup={warmup}"]


def test_warmup_code_that_jupyter_would_rewrite_is_stored_beside_the_kernelspec(
    tmp_path: Path,
) -> None:
    code = "prefix = 'a'\ntext = f'{prefix}/{connection_file}'"
    install(tmp_path, "--warmup", code)
    stored = spec_dir(tmp_path) / "warmup.py"
    assert read_spec(tmp_path)["argv"] == [*BASE_ARGV, f"--warmup={stored}"]
    assert stored.read_text() == code


def test_the_stored_warmup_is_not_lost_when_it_is_named_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    install(tmp_path, "--warmup", "text = f'{prefix}'")
    capsys.readouterr()
    stored = spec_dir(tmp_path) / "warmup.py"
    args = ["install", "--prefix", str(tmp_path), "--warmup", str(stored)]
    fails(capsys, 2, args, str(stored), "is replaced")
    assert stored.is_file()


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("x = 1\nimport json as", "line 2"),
        ("def f(:\n    pass", "line 1"),
        ("%matplotlib inline\nif True:\npass", "line 3"),
        ("x = '''", "line 1"),
        ("(1,", "line 1"),
    ],
)
def test_warmup_code_with_a_syntax_error_names_the_line(
    code: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fails(capsys, 2, ["install", "--prefix", str(tmp_path), "--warmup", code], said)
    assert not spec_dir(tmp_path).exists()


def test_warmup_file_with_a_syntax_error_names_file_and_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    warmup = tmp_path / "w.py"
    warmup.write_text("import json\n1 +\n")
    args = ["install", "--prefix", str(tmp_path), "--warmup", str(warmup)]
    fails(capsys, 2, args, f"{warmup}, line 2", "1 +")


def test_warmup_path_that_does_not_exist(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    args = ["install", "--prefix", str(tmp_path), "--warmup", "no/such/warm.py"]
    fails(capsys, 2, args, "no/such/warm.py", "no such file")


def test_warmup_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    args = ["install", "--prefix", str(tmp_path), "--warmup", str(tmp_path)]
    fails(capsys, 2, args, "is a folder")


def test_warmup_file_that_is_no_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    warmup = tmp_path / "w.py"
    warmup.write_bytes(b"x = '\xff\xfe'\n")
    args = ["install", "--prefix", str(tmp_path), "--warmup", str(warmup)]
    fails(capsys, 2, args, str(warmup), "no Python source")


# ------------------------------------------------------------------- spares


@pytest.mark.parametrize("number", ["0", "3"])
def test_spares_go_into_argv(number: str, tmp_path: Path) -> None:
    install(tmp_path, "--spares", number)
    assert read_spec(tmp_path)["argv"] == [*BASE_ARGV, f"--spares={number}"]


@pytest.mark.parametrize("number", ["-1", "two", "1.5", ""])
def test_spares_must_be_a_whole_number(
    number: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    args = ["install", "--prefix", str(tmp_path), f"--spares={number}"]
    fails(capsys, 2, args, "--spares", "whole number", repr(number))


# ------------------------------------------------------------------- errors


@pytest.mark.parametrize("name", ["", "a b", "a/b", "..", ".hidden", "ü"])
@pytest.mark.parametrize("command", ["install", "uninstall"])
def test_a_bad_name_is_refused(
    command: str, name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    args = [command, "--prefix", str(tmp_path), "--name", name]
    fails(capsys, 2, args, "--name", repr(name))


def test_a_misspelt_option_is_named_with_what_is_near(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    args = ["install", "--prefix", str(tmp_path), "--memory-limt", "4G"]
    fails(capsys, 2, args, "does not know --memory-limt; did you mean --memory-limit?", "--help")
    fails(capsys, 2, ["status", "extra"], "'pyrepl-kernel status' does not know extra (see")
    assert not spec_dir(tmp_path).exists()


@pytest.mark.parametrize("flag", ["--autocheckpoint", "--subshells", "--folder-config"])
def test_a_flag_alone_means_yes(flag: str, tmp_path: Path) -> None:
    install(tmp_path, flag)
    assert read_spec(tmp_path)["argv"] == [*BASE_ARGV, f"{flag}=true"]
    install(tmp_path, flag, "no")
    assert read_spec(tmp_path)["argv"] == [*BASE_ARGV, f"{flag}=no"]


def test_two_places_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    fails(capsys, 2, ["install", "--user", "--prefix", "x"], "--prefix", "--user")


def test_no_command_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    fails(capsys, 2, [], "COMMAND", "--help")


def test_a_place_that_cannot_be_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "share").write_text("a file where a folder is needed")
    args = ["install", "--prefix", str(tmp_path)]
    fails(capsys, 1, args, f"cannot install to {spec_dir(tmp_path)}")


def test_an_error_is_no_traceback(tmp_path: Path) -> None:
    result = run_program("install", "--prefix", str(tmp_path), "--name", "..")
    assert result.returncode == 2
    assert result.stdout == ""
    assert result.stderr.count("\n") == 1


# ---------------------------------------------------------------- uninstall


def test_uninstall_removes_what_install_wrote(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    install(tmp_path)
    assert main(["uninstall", "--prefix", str(tmp_path)]) == 0
    assert not spec_dir(tmp_path).exists()
    assert f"from {spec_dir(tmp_path)}" in capsys.readouterr().out


def test_uninstall_without_a_place_removes_what_jupyter_finds_first(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    install(first, "--name", "twice")
    install(second, "--name", "twice")
    found = os.pathsep.join(str(prefix / "share" / "jupyter") for prefix in (first, second))
    result = run_program("uninstall", "--name", "twice", env={"JUPYTER_PATH": found})
    assert result.returncode == 0, result.stderr
    assert not spec_dir(first, "twice").exists()
    assert spec_dir(second, "twice").exists()
    assert f"now finds the kernelspec twice in {spec_dir(second, 'twice')}" in result.stdout


def test_uninstall_of_what_is_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    args = ["uninstall", "--prefix", str(tmp_path), "--name", "absent"]
    fails(capsys, 1, args, "absent", str(spec_dir(tmp_path).parent))


@pytest.mark.parametrize(
    "content", ['{"argv": ["python", "-m", "ipykernel_launcher"]}', "not json", "{}"]
)
def test_uninstall_leaves_other_kernels_alone(
    content: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = spec_dir(tmp_path, "other")
    other.mkdir(parents=True)
    (other / "kernel.json").write_text(content)
    args = ["uninstall", "--prefix", str(tmp_path), "--name", "other"]
    fails(capsys, 1, args, str(other), "another kernel")
    assert (other / "kernel.json").is_file()


# ---------------------------------------------------------------- the wheel


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    builder = WheelBuilder(str(ROOT))
    target = str(tmp_path_factory.mktemp("wheel"))
    [path] = builder.build(directory=target, versions=["standard"])
    return zipfile.ZipFile(path)


def test_the_wheel_brings_a_kernelspec_to_jupyter(wheel: zipfile.ZipFile) -> None:
    shared = f"pyrepl_kernel-{__version__}.data/data/share/jupyter/kernels/pyrepl/"
    brought = {name.removeprefix(shared) for name in wheel.namelist() if name.startswith(shared)}
    assert brought == LOGOS | {"kernel.json"}
    spec = json.loads(wheel.read(f"{shared}kernel.json"))
    # A bare "python" becomes the interpreter that runs jupyter_client.
    assert spec["argv"] == ["python", *BASE_ARGV[1:]]
    assert spec["metadata"]["kernel_provisioner"] == PROVISIONER


def test_the_wheel_holds_what_install_copies(wheel: zipfile.ZipFile, tmp_path: Path) -> None:
    wheel.extractall(tmp_path / "site")
    result = run_isolated(tmp_path / "site", "install", "--prefix", str(tmp_path))
    assert result.returncode == 0, result.stderr
    assert {path.name for path in spec_dir(tmp_path).iterdir()} == LOGOS | {"kernel.json"}


def test_the_wheel_is_typed_and_has_the_command(wheel: zipfile.ZipFile) -> None:
    assert "pyrepl_kernel/py.typed" in wheel.namelist()
    entry_points = wheel.read(f"pyrepl_kernel-{__version__}.dist-info/entry_points.txt").decode()
    assert "pyrepl-kernel = pyrepl_kernel.cli:main" in entry_points
    assert "[jupyter_client.kernel_provisioners]" in entry_points
    assert "pyrepl-provisioner = pyrepl_kernel.provisioner:PyreplProvisioner" in entry_points


def run_isolated(site: Path, *args: str) -> subprocess.CompletedProcess[str]:
    """Run the command from the package that was unpacked to ``site``, not from the checkout."""
    code = "import sys; from pyrepl_kernel.cli import main; sys.exit(main(sys.argv[1:]))"
    return subprocess.run(
        [sys.executable, "-P", "-c", code, *args],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(site)},
    )


@pytest.mark.parametrize(("size", "name"), [(32, "logo-32x32.png"), (64, "logo-64x64.png")])
def test_logos_have_the_size_that_their_names_say(size: int, name: str) -> None:
    head = (ROOT / "kernelspec" / name).read_bytes()[:24]
    assert head[:8] == b"\x89PNG\r\n\x1a\n"
    assert struct.unpack(">II", head[16:24]) == (size, size)
