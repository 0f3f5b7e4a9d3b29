"""``pyrepl-kernel status``: what is shown of which kernels."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pyrepl_kernel.cli import main
from pyrepl_kernel.kernel.status import StatusPort
from pyrepl_kernel.session.runtime import kernels_dir
from pyrepl_kernel.session.templates import TemplateDirectory

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="kernels are asked on Linux alone")


@pytest.fixture(autouse=True)
def runtime(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A runtime directory of the test's own."""
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(tmp_path))
    return tmp_path


def status(**changes: Any) -> dict[str, Any]:
    """What a kernel might say."""
    return {
        "pid": os.getpid(),
        "version": "1.2.3",
        "python": sys.executable,
        "notebook": "/home/me/<analysis>.ipynb",
        "connection_file": "/run/kernel-1.json",
        "started_at": time.time() - 130,
        "warmup": "import pandas",
        "start_method": "fork",
        "start_reason": "nothing speaks against it",
        "start_advice": "",
        "restarts": 2,
        "deaths": 1,
        "last_deaths": [{"at": time.time() - 7300, "reason": "was killed by SIGSEGV"}],
        "processes": [
            {"role": "kernel", "pid": os.getpid(), "state": ""},
            {"role": "worker", "pid": 2**22 + 1, "state": "idle, 3 cells"},
        ],
    } | changes


async def command(*arguments: str) -> int:
    """The command, while this process's kernels go on."""
    return await asyncio.to_thread(main, ["status", *arguments])


async def test_none(capsys: pytest.CaptureFixture[str], runtime: Path) -> None:
    assert await command() == 0
    assert capsys.readouterr().out == f"No kernel runs (looked in {runtime}/pyrepl-kernels).\n"
    assert await command("--json") == 0
    assert json.loads(capsys.readouterr().out) == []


async def test_a_kernel_is_shown_with_what_matters(capsys: pytest.CaptureFixture[str]) -> None:
    port = StatusPort(status)
    try:
        assert await command() == 0
        shown = capsys.readouterr().out
        assert await command("--json") == 0
        (told,) = json.loads(capsys.readouterr().out)
    finally:
        port.close()
    for text in (
        "notebook: /home/me/<analysis>.ipynb",
        "running for: 2 min",
        "workers are made by: fork, for nothing speaks against it",
        "restarts: 2",
        "died: 2 h ago: the worker was killed by SIGSEGV",
    ):
        assert text in shown
    first, second = told["processes"]
    assert first["memory"] > 2**20
    assert second["memory"] is None  # it has ended since
    assert "advice" not in shown
    assert await command() == 0
    assert "No kernel runs" in capsys.readouterr().out


async def test_what_killed_kernels_leave_is_removed(capsys: pytest.CaptureFixture[str]) -> None:
    directory = TemplateDirectory(kernels_dir())
    directory.prepare()
    directory.listen("1").close()  # process 1 runs, but is no kernel
    assert await command() == 0
    assert "No kernel runs" in capsys.readouterr().out
    directory.listen("99999999").close()
    StatusPort(status).close()  # the next kernel tidies up as well
    assert os.listdir(directory.path) == []


async def test_a_kernel_that_says_nothing_is_named(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pyrepl_kernel.commands.status._ANSWER_TIME", 0.05)
    directory = TemplateDirectory(kernels_dir())
    directory.prepare()
    with directory.listen("1"):
        port = StatusPort(status)
        assert await command() == 1
        port.close()
    said = capsys.readouterr()
    assert "pid 1 does not answer" in said.err
    assert "restarts: 2" in said.out


@pytest.mark.parametrize("answer", [lambda: {}, lambda: {"a": 1}])
async def test_an_answer_that_is_no_status_is_no_crash(
    answer: Callable[[], dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    port = StatusPort(answer)
    assert await command() == 1
    port.close()
    assert f"pid {os.getpid()} does not answer" in capsys.readouterr().err


async def test_nobody_else_may_look_into_the_directory() -> None:
    port = StatusPort(status)
    assert os.stat(kernels_dir()).st_mode & 0o077 == 0
    port.close()
