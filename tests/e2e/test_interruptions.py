"""A cell that ignores interrupts: the second shows where it hangs, the third ends it."""

from __future__ import annotations

import re
import time

import pytest

from .support import Client, only_ours, running_kernel

pytestmark = only_ours

STUCK = """import ctypes
def hang():
    while True:
        try:
            print("running", flush=True)
            ctypes.PyDLL(None).sleep(600)
        except BaseException:
            pass
hang()
"""
"""Holds the GIL in C, and swallows what an interrupt raises when it comes back."""


def stderr(client: Client, msg_id: str) -> str:
    return "".join(
        m["content"]["text"]
        for m in client.outputs_so_far(msg_id)
        if m["msg_type"] == "stream" and m["content"]["name"] == "stderr"
    )


def wait_stderr(client: Client, msg_id: str, text: str) -> None:
    client._receive_until("iopub", lambda _: text in stderr(client, msg_id))


def test_the_second_shows_and_the_third_kills() -> None:
    with running_kernel() as kernel:
        client = kernel.client()
        client.run("before = 1")
        running = client.execute(STUCK, allow_stdin=True)
        client.wait_printed(running)
        client.interrupt()
        client.interrupt()  # an impatient hand's
        time.sleep(0.6)
        assert "Main thread" not in stderr(client, running)
        client.interrupt()
        wait_stderr(client, running, "Interrupt it once more to kill its process")
        wait_stderr(client, running, "In [2], line 6, in hang\n    ctypes.PyDLL(None).sleep(600)")
        client.interrupt()  # too early to have read that
        assert client.reply(client.send("kernel_info_request", {}))["content"]["status"] == "ok"
        time.sleep(1.1)
        client.interrupt()
        outcome = client.outcome(running)
        assert "did not end on interrupts" in outcome.reply["content"]["evalue"]
        report = re.sub(r"\x1b\[[0-9;]*m", "", "\n".join(outcome.reply["content"]["traceback"]))
        assert "In [2], line 9, in <module>\n    hang()\n  In [2], line 6, in hang" in report
        assert client.run("'before' in globals()", allow_stdin=True).result == "False"


def test_interrupts_of_one_cell_do_not_count_for_the_next() -> None:
    with running_kernel() as kernel:
        client = kernel.client()
        for _ in range(4):
            running = client.execute("print('running', flush=True)\nwhile True: pass")
            client.wait_printed(running)
            client.interrupt()
            assert client.outcome(running).error == "KeyboardInterrupt"
            assert stderr(client, running) == ""
        client.interrupt()  # of no cell
        assert client.value("1") == "1"


def test_a_timeout_for_interrupts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYREPL_INTERRUPT_TIMEOUT", "0.5s")
    with running_kernel() as kernel:
        client = kernel.client()
        running = client.execute(STUCK, allow_stdin=True)
        client.wait_printed(running)
        client.interrupt()
        said = client.outcome(running).reply["content"]["evalue"]
        assert "ran on for 0.5 s after an interrupt" in said


@pytest.mark.parametrize(
    ("name", "value", "code", "error"),
    [
        ("MEMORY_LIMIT", "300M", "b = []\nwhile True: b.append(b'x' * 10_000_000)", "MemoryLimit"),
        ("CELL_TIMEOUT", "0.5", "while True: pass", "CellTimeout"),
    ],
)
def test_limits_of_the_command_line(
    name: str, value: str, code: str, error: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(f"PYREPL_{name}", value)
    with running_kernel() as kernel:
        client = kernel.client()
        assert client.run(code).error.startswith(error)
        assert client.value("2") == "2"


def test_a_limit_set_in_a_cell_outlives_a_crash() -> None:
    with running_kernel() as kernel:
        client = kernel.client()
        client.run("%limit time 600")
        client.run("import os; os._exit(3)", allow_stdin=True)
        assert "time       600 s" in client.run("%limit", allow_stdin=True).text


def test_the_output_limit_of_the_command_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYREPL_OUTPUT_LIMIT", "1K")
    with running_kernel() as kernel:
        outcome = kernel.client().run("for i in range(10_000): print(i)")
        assert len(outcome.text) < 1300
        assert "characters were left out" in outcome.text
        assert outcome.text.endswith("9999\n")
