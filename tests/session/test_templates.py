"""The registry of templates: where it is, by which name one is found, and what it says."""

from __future__ import annotations

import os
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from jupyter_core.paths import jupyter_runtime_dir

from pyrepl_kernel.session import template_key as keys
from pyrepl_kernel.session.runtime import runtime_dir
from pyrepl_kernel.session.template_key import is_placeless, template_key
from pyrepl_kernel.session.templates import TemplateDirectory, TemplateState, start_time_of

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="there are no templates elsewhere")

STATE = TemplateState(
    key="a" * 24,
    pid=os.getpid(),
    start_time=start_time_of(os.getpid()),
    warmed_at=time.time(),
    python=sys.executable,
    warmup="import json",
    verdict="fork",
    reason="nothing speaks against it",
    advice="",
    cwd="/",
)


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"XDG_DATA_HOME": "/some/where"},
        {"JUPYTER_DATA_DIR": "/data"},
        {"JUPYTER_RUNTIME_DIR": "/runtime", "JUPYTER_DATA_DIR": "/data"},
        {"JUPYTER_PLATFORM_DIRS": "1"},
        {"JUPYTER_PLATFORM_DIRS": "no", "HOME": "/root"},
        {"HOME": "/tmp/../tmp"},
    ],
)
def test_the_runtime_directory_is_jupyters(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str]
) -> None:
    for name in ("JUPYTER_RUNTIME_DIR", "JUPYTER_DATA_DIR", "XDG_DATA_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert runtime_dir() == jupyter_runtime_dir()


# ------------------------------------------------------------------ the key


def key(warmup: str = "import json", **changes: Any) -> str:
    """A key under the usual circumstances, but for what is given."""
    values: dict[str, Any] = {"ipython": [], "cwd": "/", "environ": {"PATH": "/bin", "HOME": "/h"}}
    return template_key(warmup, **(values | changes))


def test_the_same_gives_the_same_key() -> None:
    assert key() == key()
    assert len(key()) == 24


@pytest.mark.parametrize(
    "changes",
    [
        {"warmup": "import pickle"},
        {"ipython": None},
        {"ipython": ["--profile=other"]},
        {"environ": {"PATH": "/bin", "HOME": "/h", "OMP_NUM_THREADS": "2"}},
        {"environ": {"PATH": "/usr/bin", "HOME": "/h"}},
    ],
)
def test_whatever_the_warmup_may_depend_on_gives_another_key(changes: dict[str, Any]) -> None:
    assert key(**changes) != key()


@pytest.mark.parametrize(
    "name", ["JPY_PARENT_PID", "JPY_SESSION_NAME", "PWD", "TERM", "SSH_CONNECTION", "PYREPL_SPARES"]
)
def test_what_tells_one_kernel_from_another_does_not(name: str) -> None:
    assert key(environ={"PATH": "/bin", "HOME": "/h", name: "x"}) == key()


def test_something_installed_gives_another_key(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    site = tmp_path / "site-packages"
    site.mkdir()
    monkeypatch.setattr(sys, "path", [str(site)])
    before = key()
    (site / "new_package").mkdir()
    changed = key()
    assert changed != before
    (site / "more.pth").write_text("/elsewhere")
    os.utime(site, (0, 0))
    assert key() not in {before, changed}


def test_a_changed_profile_gives_another_key(tmp_path: Path) -> None:
    environ = {"IPYTHONDIR": str(tmp_path)}
    before = key(environ=environ)
    profile = tmp_path / "profile_default"
    profile.mkdir()
    (profile / "history.sqlite").touch()
    assert key(environ=environ) == before
    (profile / "ipython_config.py").touch()
    assert key(environ=environ) != before


def test_our_own_files_count(monkeypatch: pytest.MonkeyPatch) -> None:
    before = key()
    monkeypatch.setattr(keys, "_package_files", lambda: iter([("other.py", 0, 0, 0)]))
    assert key() != before


def test_only_what_depends_on_its_place_has_one(tmp_path: Path) -> None:
    code = "import json, os.path\nfrom pathlib import Path"
    assert key(code, cwd=str(tmp_path)) == key(code)
    assert key("open('data.csv')", cwd=str(tmp_path)) != key("open('data.csv')")


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("", True),
        ("import json", True),
        ("import json as j\nfrom os import path", True),
        ("import mine", False),
        ("import mine.deeper", False),
        ("from mine import x", False),
        ("from . import x", False),
        ("x = 1", False),
        ("%matplotlib inline", False),
        ("import json\0", False),
    ],
)
def test_imports_of_what_is_installed_are_placeless(
    code: str, expected: bool, tmp_path: Path
) -> None:
    (tmp_path / "mine.py").touch()
    assert is_placeless(code, str(tmp_path)) is expected


# ------------------------------------------------------------------ states


@pytest.fixture
def directory(tmp_path: Path) -> TemplateDirectory:
    """An empty registry."""
    directory = TemplateDirectory(str(tmp_path / "pyrepl"))
    directory.prepare()
    return directory


def test_a_state_is_read_as_it_was_written(directory: TemplateDirectory) -> None:
    directory.write_state(STATE)
    assert directory.state(STATE.key) == STATE
    assert directory.states() == [STATE]
    assert STATE.can_fork and not STATE.is_against_forks


def test_a_state_of_a_process_that_is_gone_is_none_to_fork_from(
    directory: TemplateDirectory,
) -> None:
    gone = replace(STATE, start_time=STATE.start_time + 1)
    directory.write_state(gone)
    assert not gone.can_fork
    assert directory.states() == []
    directory.sweep()
    assert directory.state(STATE.key) is None


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "{}", "null", '{"key": 1}', '{"pid": "x"}', "\xff"],
)
def test_a_broken_state_is_none(directory: TemplateDirectory, text: str) -> None:
    Path(directory.path, f"{STATE.key}.json").write_text(text, encoding="latin-1")
    assert directory.state(STATE.key) is None
    assert directory.states() == []


def test_a_verdict_against_forks_outlives_the_template(directory: TemplateDirectory) -> None:
    against = replace(STATE, start_time=1, verdict="spawn")
    directory.write_state(against)
    directory.sweep()
    assert directory.state(STATE.key) == against
    directory.write_state(replace(against, warmed_at=0.0))
    directory.sweep()
    assert directory.state(STATE.key) is None


def test_nobody_else_holds_the_lock_at_the_same_time(directory: TemplateDirectory) -> None:
    with directory.lock(), pytest.raises(BlockingIOError):
        directory.take_lock(wait=False)
    os.close(directory.take_lock(wait=False))
