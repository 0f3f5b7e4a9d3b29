"""Signals and deaths: what becomes of the kernel's processes, and of those who wait for them.

A kernel process here is started as any launcher does it, without jupyter_client's manager, so that
an exit code and a signal are the kernel's own.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from .support import TIMEOUT, KernelProcess, is_idle, only_ours, running_kernel, wait_gone

SPIN = "print('running', flush=True)\nwhile True: pass"
SOON = 5.0
"""Seconds after which a process that should be gone has been left behind."""


@pytest.fixture
def kernel() -> Iterator[KernelProcess]:
    """A kernel of this test's own, which may end it."""
    with running_kernel() as kernel:
        yield kernel


def test_sigint_interrupts_the_cell_and_the_kernel_goes_on(kernel: KernelProcess) -> None:
    client = kernel.client()
    client.run("kept = 'kept'")
    for _ in range(2):
        request = client.execute(SPIN)
        client.wait_printed(request)
        os.kill(kernel.process.pid, signal.SIGINT)
        assert client.outcome(request).error == "KeyboardInterrupt"
    assert client.value("kept") == "'kept'"


def test_sigint_interrupts_a_sleep(kernel: KernelProcess) -> None:
    client = kernel.client()
    request = client.execute("import time; print('asleep', flush=True); time.sleep(600)")
    client.wait_printed(request)
    os.kill(kernel.process.pid, signal.SIGINT)
    assert client.outcome(request).error == "KeyboardInterrupt"


@only_ours
def test_sigint_interrupts_an_async_cell_at_once(kernel: KernelProcess) -> None:
    client = kernel.client()
    code = "import asyncio; print('asleep', flush=True); await asyncio.sleep(600)"
    request = client.execute(code)
    client.wait_printed(request)
    os.kill(kernel.process.pid, signal.SIGINT)
    assert client.outcome(request).error in {"KeyboardInterrupt", "CancelledError"}
    assert client.value("1 + 1") == "2"


@pytest.mark.parametrize("channel", ["control", "shell"])
@pytest.mark.parametrize("restart", [False, True])
def test_shutdown_is_answered_and_both_processes_end(
    kernel: KernelProcess, channel: str, restart: bool
) -> None:
    client = kernel.client()
    worker = int(client.value("__import__('os').getpid()"))
    request = client.send("shutdown_request", {"restart": restart}, channel=channel)
    reply = client.reply(request, channel=channel)
    assert reply["content"] == {"status": "ok", "restart": restart}
    assert kernel.process.wait(TIMEOUT) == 0
    assert wait_gone(worker, SOON)


@only_ours
def test_shutdown_ends_a_cell_that_runs(kernel: KernelProcess) -> None:
    client = kernel.client()
    worker = int(client.value("__import__('os').getpid()"))
    running = client.execute(SPIN)
    client.wait_printed(running)
    request = client.send("shutdown_request", {"restart": False}, channel="control")
    assert client.reply(request, channel="control")["content"]["status"] == "ok"
    assert client.outcome(running).status in {"error", "aborted"}
    assert kernel.process.wait(TIMEOUT) == 0
    assert wait_gone(worker, SOON)


@pytest.mark.parametrize("busy", [False, True], ids=["idle", "busy"])
def test_sigterm_ends_both_processes(kernel: KernelProcess, busy: bool) -> None:
    client = kernel.client()
    worker = int(client.value("__import__('os').getpid()"))
    if busy:
        client.wait_printed(client.execute(SPIN))
    kernel.process.terminate()
    assert kernel.process.wait(TIMEOUT) in {0, -signal.SIGTERM}
    assert wait_gone(worker, SOON)


@only_ours
def test_sigterm_lets_the_users_exit_handlers_run(kernel: KernelProcess, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    code = f"import atexit, pathlib; atexit.register(pathlib.Path({str(mark)!r}).touch)"
    assert kernel.client().run(code).status == "ok"
    kernel.process.terminate()
    kernel.process.wait(TIMEOUT)
    assert mark.exists()


@pytest.mark.parametrize("busy", [False, True], ids=["idle", "busy"])
def test_a_killed_kernel_process_takes_its_worker_with_it(
    kernel: KernelProcess, busy: bool
) -> None:
    client = kernel.client()
    worker = int(client.value("__import__('os').getpid()"))
    if busy:
        client.wait_printed(client.execute(SPIN))
    kernel.process.kill()
    assert wait_gone(worker, 2.0)


PARENT = """
import os, subprocess, sys
subprocess.run(sys.argv[1:], env={**os.environ, "JPY_PARENT_PID": str(os.getpid())})
"""


def test_a_kernel_ends_when_its_parent_was_killed() -> None:
    with running_kernel(under=[sys.executable, "-c", PARENT]) as launched:
        worker = int(launched.client().value("__import__('os').getpid()"))
        (kernel,) = psutil.Process(launched.process.pid).children()
        try:
            launched.process.kill()
            assert wait_gone(kernel.pid, SOON)
            assert wait_gone(worker, SOON)
        finally:
            with contextlib.suppress(psutil.NoSuchProcess):
                kernel.kill()


# ── a worker that dies, with a client that waits ──


@only_ours
@pytest.mark.parametrize(
    ("code", "cause"),
    [
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "SIGKILL"),
        ("import os; os._exit(3)", "3"),
        ("import ctypes; ctypes.string_at(0)", "SIGSEGV"),
    ],
    ids=["killed", "exited", "crashed"],
)
def test_the_death_of_a_worker_is_an_error_that_says_why(
    kernel: KernelProcess, code: str, cause: str
) -> None:
    client = kernel.client()
    client.run("before = 1")
    outcome = client.run(f"print('last words', flush=True)\n{code}", allow_stdin=True)
    assert outcome.status == "error"
    assert cause in outcome.reply["content"]["evalue"]
    assert outcome.text == "last words\n"
    assert outcome.types.count("error") == 1
    fresh = client.run("'before' in globals()", allow_stdin=True)
    assert fresh.result == "False"
    assert fresh.reply["content"]["execution_count"] == 1


@only_ours
def test_what_was_queued_behind_a_death_is_aborted(kernel: KernelProcess) -> None:
    client = kernel.client()
    running = client.execute(
        "import os, time; print(os.getpid(), flush=True); time.sleep(600)", allow_stdin=True
    )
    queued = [client.execute(f"ran = {i}", allow_stdin=True) for i in range(5)]
    client.wait_printed(running)
    text = next(m for m in client.outputs_so_far(running) if m["msg_type"] == "stream")
    os.kill(int(text["content"]["text"]), signal.SIGKILL)
    assert client.outcome(running).status == "error"
    for request in queued:
        outcome = client.outcome(request)
        assert outcome.status == "aborted"
        assert is_idle(outcome.messages[-1])
    assert client.value("'ran' in globals()") == "False"


@only_ours
def test_a_child_that_a_cell_started_ends_with_the_kernel(kernel: KernelProcess) -> None:
    client = kernel.client()
    code = """
        import subprocess, sys
        child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
        child.pid
    """
    child = int(client.value(textwrap.dedent(code)))
    client.send("shutdown_request", {"restart": False}, channel="control")
    kernel.process.wait(TIMEOUT)
    assert wait_gone(child, SOON)
