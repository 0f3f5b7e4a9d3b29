"""``--warmup`` and ``--spares``: what a kernel has ready before it is asked."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pytest

from .support import TIMEOUT, Client, command, only_ours, wait_gone
from .test_transports import wait_ports

pytestmark = only_ours

WARMUP = "warm = ['up']\nimport os\npid = os.getpid()"


@contextmanager
def warm_kernel(path: Path, *arguments: str) -> Iterator[tuple[subprocess.Popen[bytes], Client]]:
    """A kernel with these arguments, and a client."""
    process = subprocess.Popen([*command(str(path)), *arguments], start_new_session=True)
    try:
        wait_ports(path, process)
        client = Client(str(path))
        try:
            client.wait_ready()
            yield process, client
        finally:
            client.close()
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(TIMEOUT)


def workers(process: subprocess.Popen[bytes]) -> set[int]:
    """The pids of a kernel's workers, spawned by it or forked from its template."""
    found = set()
    for child in psutil.Process(process.pid).children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            if child.name() != "pyrepl-template":
                found.add(child.pid)
    return found


def wait_workers(process: subprocess.Popen[bytes], count: int) -> set[int]:
    """Wait until a kernel has so many workers."""
    deadline = time.monotonic() + TIMEOUT
    while len(workers(process)) != count:
        assert time.monotonic() < deadline, f"{workers(process)} are not {count} workers"
    return workers(process)


def test_the_names_of_the_warmup_are_there_in_the_first_cell(tmp_path: Path) -> None:
    with warm_kernel(tmp_path / "k.json", f"--warmup={WARMUP}") as (_, client):
        outcome = client.run("warm, pid == __import__('os').getpid()")
        assert outcome.result == "(['up'], True)"
        assert outcome.reply["content"]["execution_count"] == 1


def test_the_warmup_may_stand_in_a_file(tmp_path: Path) -> None:
    file = tmp_path / "warm.py"
    file.write_text("import asyncio\nawait asyncio.sleep(0)\nfrom_file = %pwd\n")
    with warm_kernel(tmp_path / "k.json", "--warmup", str(file)) as (_, client):
        assert client.value("type(from_file)") == "str"


def test_a_failing_warmup_shows_its_traceback_with_the_first_cell(tmp_path: Path) -> None:
    code = "before = 1\ndef fails(): return before / 0\nfails()"
    with warm_kernel(tmp_path / "k.json", f"--warmup={code}") as (_, client):
        first, second = client.run("before"), client.run("2")
        said = "".join(m["content"]["text"] for m in first.messages if m["msg_type"] == "stream")
        assert "ZeroDivisionError" in said
        assert "fails()" in said
        assert first.result == "1"
        assert "stream" not in second.types


def test_a_missing_warmup_file_is_said_and_not_fatal(tmp_path: Path) -> None:
    with warm_kernel(tmp_path / "k.json", f"--warmup={tmp_path}/none.py") as (_, client):
        outcome = client.run("'goes on'")
        assert outcome.result == "'goes on'"
        assert any("none.py" in str(m["content"]) for m in outcome.messages)


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_spares_are_made_after_the_first_cell_and_take_over(tmp_path: Path, method: str) -> None:
    arguments = [f"--warmup={WARMUP}", "--spares=2", f"--start-method={method}"]
    with warm_kernel(tmp_path / "k.json", *arguments) as (process, client):
        first = int(client.value("os.getpid()"))
        spares = wait_workers(process, 3) - {first}
        outcome = client.run("os.kill(os.getpid(), 9)", allow_stdin=True)
        assert outcome.status == "error"
        assert wait_gone(first, TIMEOUT)
        # A spare that was still warming up would be passed over, for a worker of its own.
        second = client.run("os.getpid(), warm", allow_stdin=True)
        assert second.reply["content"]["execution_count"] == 1
        assert int(str(second.result).strip("(").split(",")[0]) in spares
        wait_workers(process, 3)
        pids = workers(process)
    assert all(wait_gone(pid, TIMEOUT) for pid in pids)
