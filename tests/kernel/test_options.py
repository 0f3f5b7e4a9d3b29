"""Where the kernel's options come from, and what becomes of values that make no sense."""

from collections.abc import Callable
from pathlib import Path

import pytest

from pyrepl_kernel.cli import main
from pyrepl_kernel.kernel.options import CONFIG_NAME, Options, UsageError, config_files, parse

Parse = Callable[..., Options]


@pytest.fixture
def read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Parse:
    """``parse`` with a config directory of its own, ``tmp_path / "jupyter"``."""
    home = tmp_path / "jupyter"
    home.mkdir()
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")

    def parse_here(*arguments: str, **environ: str) -> Options:
        return parse(arguments, {"JUPYTER_CONFIG_DIR": str(home), **environ})

    return parse_here


def write(folder: Path, text: str) -> Path:
    path = folder / CONFIG_NAME
    path.write_text(text, encoding="utf-8")
    return path


def test_the_order_of_the_places(read: Parse, tmp_path: Path) -> None:
    assert (read().spares, read().origin["spares"]) == (None, "default")
    path = write(tmp_path / "jupyter", "spares = 1")
    assert (read().spares, read().origin["spares"]) == (1, str(path))
    options = read(PYREPL_SPARES="2")
    assert (options.spares, options.origin["spares"]) == (2, "PYREPL_SPARES")
    options = read("--spares", "3", PYREPL_SPARES="2")
    assert (options.spares, options.origin["spares"]) == (3, "the command line")
    assert options.notices == []


@pytest.mark.parametrize("arguments", [["--spares=many"], ["--spares", "-1"]])
def test_a_value_that_makes_no_sense_leaves_the_next_place_in_force(
    arguments: list[str], read: Parse
) -> None:
    options = read(*arguments, PYREPL_SPARES="2")
    assert options.spares == 2
    (notice,) = options.notices
    assert "the command line: spares is" in notice and "whole number" in notice


def test_a_missing_value_is_an_error(read: Parse) -> None:
    with pytest.raises(UsageError, match="--spares needs a value"):
        read("--spares")


def test_what_is_not_ours_is_ipythons(read: Parse) -> None:
    options = read("--HistoryManager.hist_file=:memory:", "-f", "c.json", "spares=2", "--sparesx=1")
    assert options.connection_file == "c.json"
    assert options.ipython == [
        "--HistoryManager.hist_file=:memory:",
        "spares=2",
        "--sparesx=1",
    ]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("spares = ", "is no TOML file"),
        ("spare = 1", "there is no option 'spare'; there are autocheckpoint, "),
        ("spares = 'x'", "spares is 'x'; it must be auto or a whole number"),
    ],
)
def test_a_mistake_in_a_file_is_told_with_its_path(
    text: str, words: str, read: Parse, tmp_path: Path
) -> None:
    path = write(tmp_path / "jupyter", text)
    options = read()
    (notice,) = options.notices
    assert str(path) in notice and words in notice
    assert options.spares is None


def test_a_warmup_file_is_named_from_where_the_config_file_stands(
    read: Parse, tmp_path: Path
) -> None:
    (tmp_path / "jupyter" / "warm.py").write_text("x = 1\n", encoding="utf-8")
    write(tmp_path / "jupyter", 'warmup = "warm.py"')
    assert read().warmup == "x = 1\n"


def test_a_file_beside_the_notebook_counts_only_if_it_is_allowed(
    read: Parse, tmp_path: Path
) -> None:
    beside = write(tmp_path / "work", "spares = 9\nfolder_config = true")
    assert read().spares is None
    write(tmp_path / "jupyter", "folder_config = true\nspares = 1")
    assert (read().spares, read().origin["spares"]) == (9, str(beside))


def test_the_users_file_counts_more_than_the_environments(tmp_path: Path) -> None:
    environ = {"JUPYTER_CONFIG_DIR": str(tmp_path / "a"), "JUPYTER_CONFIG_PATH": str(tmp_path)}
    assert config_files(environ)[:2] == [
        str(tmp_path / "a" / CONFIG_NAME),
        str(tmp_path / CONFIG_NAME),
    ]
    assert config_files({**environ, "JUPYTER_NO_CONFIG": "1"}) == []


def test_the_command_shows_values_and_origins(
    read: Parse, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path / "jupyter", "spares = 4")
    monkeypatch.setenv("JUPYTER_CONFIG_DIR", str(tmp_path / "jupyter"))
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "share" / "jupyter"))
    assert main(["install", "--prefix", str(tmp_path), "--name", "w", "--warmup", "y = 2"]) == 0
    capsys.readouterr()
    assert main(["config", "--name", "w"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert f"config file {path}" in lines
    assert any(line.split() == ["spares", "4", str(path)] for line in lines)
    assert any(
        line.split() == ["warmup", "y", "=", "2", "the", "command", "line"] for line in lines
    )


def test_the_command_fails_on_a_mistake(
    read: Parse, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path / "jupyter", "spares = -4")
    monkeypatch.setenv("JUPYTER_CONFIG_DIR", str(tmp_path / "jupyter"))
    assert main(["config"]) == 1
    assert "Not in force: " in capsys.readouterr().out
    assert main(["config", "--name", "no-such"]) == 1
    assert "no kernelspec no-such" in capsys.readouterr().err
