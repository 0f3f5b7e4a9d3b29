"""Kernels by the dozen: each answers the first thing that it is asked, and leaves nothing behind.

``PYREPL_STARTS`` is how many start one after the other, ``PYREPL_STARTS_AT_ONCE`` how many do in
batches of eight.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.session.support import marked

from .support import TIMEOUT, Client, KernelProcess, kernel_processes, running_kernel, wait_gone

STARTS = int(os.environ.get("PYREPL_STARTS", "5"))
AT_ONCE = int(os.environ.get("PYREPL_STARTS_AT_ONCE", "8"))
BATCH = 8

pytestmark = pytest.mark.timeout(60 + 5 * (STARTS + AT_ONCE))


@pytest.fixture(autouse=True)
def nothing_left(jupyter_dirs: Path) -> Iterator[None]:
    """Fails a test that leaves a process or a connection file behind."""
    runtime = jupyter_dirs / "runtime"
    before, files = marked(), set(runtime.glob("kernel-*.json"))
    yield
    left = [pid for pid in marked() - before if not wait_gone(pid, TIMEOUT)]
    assert not left
    assert not kernel_processes(runtime)
    assert not set(runtime.glob("kernel-*.json")) - files


def answer(client: Client, number: int) -> None:
    """The first request, sent as soon as there is a connection file, and the shutdown after it."""
    outcome = client.reply(client.execute(f"print({number})"))["content"]
    assert (outcome["status"], outcome["execution_count"]) == ("ok", 1)


def end(kernel: KernelProcess, client: Client) -> None:
    request = client.send("shutdown_request", {"restart": False}, channel="control")
    assert client.reply(request, channel="control")["content"]["status"] == "ok"
    assert kernel.process.wait(TIMEOUT) == 0


def test_one_after_the_other(capsys: pytest.CaptureFixture[str]) -> None:
    times = []
    for number in range(STARTS):
        began = time.monotonic()
        with running_kernel() as kernel:
            client = kernel.connect()
            answer(client, number)
            times.append(time.monotonic() - began)
            end(kernel, client)
    with capsys.disabled():
        print(f" {STARTS} starts: median {statistics.median(times):.2f} s, max {max(times):.2f} s")


def test_batches_at_once() -> None:
    for first in range(0, AT_ONCE, BATCH):
        numbers = range(first, min(first + BATCH, AT_ONCE))
        with ExitStack() as stack:
            kernels = [stack.enter_context(running_kernel()) for _ in numbers]
            clients = [kernel.connect() for kernel in kernels]
            requests = [c.execute(f"print({n})") for c, n in zip(clients, numbers, strict=True)]
            for client, request in zip(clients, requests, strict=True):
                assert client.reply(request)["content"]["status"] == "ok"
            for kernel, client in zip(kernels, clients, strict=True):
                end(kernel, client)
