"""What is remembered of a notebook's imports, and what becomes of files that are no good."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from pyrepl_kernel.kernel import learned
from pyrepl_kernel.kernel.learned import LearnedImports
from pyrepl_kernel.kernel.options import AUTO, parse
from pyrepl_kernel.protocol.messages import ImportsMessage


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory of the test's own, and a data directory beside it."""
    (tmp_path / "home").mkdir()
    monkeypatch.chdir(tmp_path / "home")
    monkeypatch.setenv("JUPYTER_DATA_DIR", str(tmp_path / "data"))
    return tmp_path / "home"


def test_a_notebook_is_remembered_and_no_other() -> None:
    assert LearnedImports("/a.ipynb").learn(ImportsMessage(["numpy", "yaml"])) == ""
    assert LearnedImports("/a.ipynb").names == ["numpy", "yaml"]
    assert LearnedImports("/b.ipynb").names == []
    path = LearnedImports("/a.ipynb").path
    assert os.path.dirname(path) == os.path.join(os.environ["JUPYTER_DATA_DIR"], "pyrepl/imports")
    assert os.stat(path).st_mode & 0o077 == 0
    assert os.listdir(os.path.dirname(path)) == [os.path.basename(path)]


def test_without_a_notebook_nothing_is_written(home: Path) -> None:
    known = LearnedImports.of({})
    known.learn(ImportsMessage(["yaml"]))
    assert known.names == ["yaml"]
    assert not (home.parent / "data").exists()


def test_what_lies_beside_the_notebook_is_not_taken_for_a_package(home: Path) -> None:
    known = LearnedImports("/a.ipynb")
    known.learn(ImportsMessage(["yaml", "yaml.nodes", "numpy"]))
    (home / "yaml.py").touch()
    assert known.names == ["numpy"]


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b'{"names": [1], "variables": []}', b'{"names": []}', b"\xff", b"1" * 10**6],
    ids=range(7),
)
def test_a_file_that_is_no_good_is_ignored_and_said(content: bytes) -> None:
    path = Path(LearnedImports("/a.ipynb").path)
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    known = LearnedImports("/a.ipynb")
    assert known.warmup is None
    (notice,) = known.take_notices()
    assert str(path) in notice
    known.learn(ImportsMessage(["yaml"]))
    assert LearnedImports("/a.ipynb").names == ["yaml"]


def test_a_directory_that_cannot_be_written_is_said_once(home: Path) -> None:
    (home.parent / "data").touch()
    known = LearnedImports("/a.ipynb")
    assert "cannot be remembered" in known.learn(ImportsMessage(["yaml"]))
    assert known.learn(ImportsMessage(["yaml", "numpy"])) == ""
    assert known.names == ["yaml", "numpy"]


def test_notebooks_that_were_not_opened_for_longest_are_forgotten(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(learned, "_MOST_FILES", 3)
    for number in range(5):
        known = LearnedImports(f"/{number}.ipynb")
        known.learn(ImportsMessage(["yaml"]))
        os.utime(known.path, (number, number))
        if number == 2:
            LearnedImports("/0.ipynb")  # it is opened again
    kept = [number for number in range(5) if LearnedImports(f"/{number}.ipynb").names]
    assert kept == [0, 3, 4]


def test_a_new_change_of_the_environment_forgets_all_once() -> None:
    known = LearnedImports("/a.ipynb")
    known.learn(ImportsMessage(["yaml", "numpy"]))
    warm = ImportsMessage(["yaml", "numpy"], ["THREADS"], True)
    assert "has changed THREADS" in known.learn(warm)
    assert known.learn(warm) == ""
    assert known.warmup is None
    # The next session imports all by itself, and what comes before the change is known.
    known.learn(ImportsMessage(["yaml"]))
    known.learn(ImportsMessage(["yaml"], ["THREADS"]))
    assert known.learn(ImportsMessage(["yaml"], ["THREADS"], True)) == ""
    assert LearnedImports("/a.ipynb").names == ["yaml"]


def test_the_option_takes_what_the_notebook_has_learned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JPY_SESSION_NAME", "a.ipynb")
    LearnedImports(os.path.abspath("a.ipynb")).learn(ImportsMessage(["yaml"]))
    options = parse(["--warmup=auto"])
    assert options.warmup == AUTO
    options.recall()
    assert "['yaml']" in str(options.warmup)
    again = parse(["--warmup=auto"])
    again.recall(options.learned)
    assert again.learned is options.learned
    other = parse(["--warmup=pass"])
    other.recall()
    assert (other.warmup, other.learned) == ("pass", None)
    assert json.loads(Path(LearnedImports.of(os.environ).path).read_text())["names"] == ["yaml"]
