"""``%kernel`` in a cell, and ``pyrepl-kernel status`` beside it, of a real kernel."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from .managed import Managed, managed
from .support import TIMEOUT, only_ours

pytestmark = only_ours

on_linux = pytest.mark.skipif(sys.platform != "linux", reason="kernels are asked on Linux alone")


@pytest.fixture
def kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Managed]:
    """A kernel, in a runtime directory of its own."""
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(tmp_path))
    with managed() as kernel:
        yield kernel


def status() -> list[dict[str, Any]]:
    """What the command says."""
    command = [sys.executable, "-m", "pyrepl_kernel.cli", "status", "--json"]
    done = subprocess.run(command, capture_output=True, timeout=TIMEOUT, check=True)
    return json.loads(done.stdout)  # type: ignore[no-any-return]


def only_status() -> dict[str, Any]:
    """The same of the only kernel."""
    (found,) = status()
    return found


def roles(found: dict[str, Any]) -> dict[str, int]:
    """Its processes: what for → pid."""
    return {process["role"]: process["pid"] for process in found["processes"]}


def test_the_magic_shows_the_kernel_as_text_and_html(kernel: Managed) -> None:
    client = kernel.client()
    outcome = client.run("import os\n%kernel\nprint(os.getpid())")
    assert outcome.types[2:] == ["display_data", "stream", "status"]
    data = outcome.messages[2]["content"]["data"]
    for shown in (data["text/plain"], data["text/html"]):
        for text in (kernel.manager.connection_file, str(kernel.pid), outcome.text.strip(), "busy"):
            assert text in shown
    assert data["text/html"].startswith("<div>")


@on_linux
def test_the_command_says_what_processes_there_are(kernel: Managed) -> None:
    client = kernel.client()
    worker = int(client.value("__import__('os').getpid()"))
    deadline = time.monotonic() + TIMEOUT
    while len(roles(only_status())) < 4:
        assert time.monotonic() < deadline, "there is no spare"
    found = only_status()
    processes = roles(found)
    family = kernel.settled(worker)  # without the trial fork, which ends before there are spares
    assert processes["kernel"] == kernel.pid == found["pid"]
    assert processes["worker"] == worker
    assert {processes["spare"], processes["template"], worker} == family
    assert all(process["memory"] > 2**19 for process in found["processes"])
    assert (found["start_method"], found["deaths"], found["restarts"]) == ("fork", 0, 0)
    assert found["connection_file"] == os.path.realpath(kernel.manager.connection_file)


@on_linux
def test_restarts_and_deaths_are_counted(kernel: Managed) -> None:
    client = kernel.client()
    client.run("pass")
    client.run("import os; os._exit(3)", allow_stdin=True)
    client.run("pass", allow_stdin=True)
    kernel.call("restart_kernel")
    client.run("pass")
    found = only_status()
    assert (found["restarts"], found["deaths"]) == (1, 1)
    assert found["last_deaths"][0]["reason"] == "exited with code 3"
    assert abs(found["last_deaths"][0]["at"] - time.time()) < TIMEOUT


@on_linux
def test_a_kernel_that_ends_or_is_killed_is_not_shown(kernel: Managed) -> None:
    kernel.client().run("pass")
    assert only_status()["pid"] == kernel.pid
    psutil.Process(kernel.pid).kill()
    deadline = time.monotonic() + TIMEOUT
    while status():
        assert time.monotonic() < deadline
    assert os.listdir(Path(os.environ["JUPYTER_RUNTIME_DIR"], "pyrepl-kernels")) == []
