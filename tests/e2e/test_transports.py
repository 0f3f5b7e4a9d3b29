"""The ways in which a kernel is reached: ipc, CurveZMQ, and connection files of many origins."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from jupyter_client.manager import KernelManager

from .support import KERNEL, TIMEOUT, Client, command, only_ours, wait_gone


@contextmanager
def managed(**traits: Any) -> Iterator[tuple[KernelManager, Client]]:
    """A kernel under a manager with these traits, and a client of it."""
    manager = KernelManager(kernel_name=KERNEL, **traits)
    manager.start_kernel()
    client = Client(manager.connection_file)
    try:
        client.wait_ready()
        yield manager, client
    finally:
        client.close()
        manager.shutdown_kernel(now=True)
        manager.cleanup_resources()


def test_ipc_also_after_a_restart() -> None:
    with managed(transport="ipc") as (manager, client):
        assert client.value("6 * 7") == "42"
        before = client.value("__import__('os').getpid()")
        manager.restart_kernel(now=False)
        after = Client(manager.connection_file)
        try:
            after.wait_ready()
            assert after.value("__import__('os').getpid()") != before
        finally:
            after.close()


@only_ours
def test_curve_encryption() -> None:
    with managed(transport_encryption="required") as (manager, client):
        assert manager.get_connection_info()["curve_publickey"]
        assert client.value("6 * 7") == "42"


@only_ours
def test_a_client_without_the_curve_key_is_not_served() -> None:
    with managed(transport_encryption="required") as (manager, client):
        info = json.loads(Path(manager.connection_file).read_text())
        bare = {name: value for name, value in info.items() if not name.startswith("curve")}
        path = Path(manager.connection_file).with_name("bare.json")
        path.write_text(json.dumps(bare))
        stranger = Client(str(path))
        try:
            request = stranger.send("kernel_info_request", {})
            with pytest.raises(TimeoutError):
                stranger.reply(request, timeout=1.0)
        finally:
            stranger.close()
            path.unlink()
        assert client.value("'still served'") == "'still served'"


@contextmanager
def launched(path: Path, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    """The kernel's command line on a connection file that no manager has written."""
    process = subprocess.Popen([*command(str(path)), *arguments], start_new_session=True)
    try:
        yield process
    finally:
        process.kill()
        process.wait(TIMEOUT)


def wait_ports(path: Path, process: subprocess.Popen[bytes]) -> dict[str, Any]:
    """The content of a connection file, once the kernel has put its ports in."""
    import time

    deadline = time.monotonic() + TIMEOUT
    while time.monotonic() < deadline and process.poll() is None:
        try:
            info: dict[str, Any] = json.loads(path.read_text())
        except (FileNotFoundError, ValueError):
            info = {}
        if info.get("shell_port") and info.get("hb_port"):
            return info
        time.sleep(0.01)
    raise AssertionError(f"no ports in {path} within {TIMEOUT} s; exit code {process.poll()}")


@pytest.mark.parametrize(
    "content", [None, {"ip": "127.0.0.1", "transport": "tcp", "key": "k" * 32}]
)
def test_a_file_without_ports_gets_them(tmp_path: Path, content: dict[str, Any] | None) -> None:
    path = tmp_path / "hand.json"
    if content is not None:
        ports = {f"{name}_port": 0 for name in ("shell", "iopub", "stdin", "control", "hb")}
        scheme = {"signature_scheme": "hmac-sha256"}
        path.write_text(json.dumps(content | ports | scheme))
    with launched(path) as process:
        info = wait_ports(path, process)
        assert content is None or info["key"] == content["key"]
        client = Client(str(path))
        try:
            client.wait_ready()
            assert client.value("6 * 7") == "42"
        finally:
            client.close()
    assert wait_gone(process.pid, TIMEOUT)


@pytest.mark.parametrize(
    "arguments",
    [
        ["--HistoryManager.hist_file=:memory:"],
        ["--matplotlib=inline"],
        ["--IPKernelApp.matplotlib=inline", "--log-level=40"],
        ["--InteractiveShell.cache_size=500", "--quiet"],
    ],
    ids=lambda arguments: arguments[0],
)
def test_arguments_made_for_ipykernel_are_never_fatal(tmp_path: Path, arguments: list[str]) -> None:
    path = tmp_path / "flags.json"
    with launched(path, *arguments) as process:
        wait_ports(path, process)
        client = Client(str(path))
        try:
            client.wait_ready()
            assert client.value("6 * 7") == "42"
        finally:
            client.close()


@only_ours
@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("no json", "cannot read the connection file"),
        ('{"transport": "pigeon"}', "'pigeon'"),
        ('{"shell_port": "x"}', "shell_port"),
        ('{"ip": "203.0.113.1", "shell_port": 1}', "shell channel cannot listen"),
    ],
)
def test_a_bad_connection_file_is_one_clear_line(tmp_path: Path, content: str, said: str) -> None:
    path = tmp_path / "bad.json"
    path.write_text(content)
    done = subprocess.run(
        command(str(path)), capture_output=True, text=True, timeout=TIMEOUT, check=False
    )
    assert done.returncode == 1
    assert said in done.stderr
    assert done.stderr.count("\n") == 1
