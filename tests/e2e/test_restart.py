"""A restart through jupyter_client: what the clients of a kernel see of it."""

from __future__ import annotations

import asyncio
import json
import os
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from jupyter_client.manager import AsyncKernelManager, KernelManager

from .managed import Managed, managed
from .support import TIMEOUT, Client, is_idle, only_ours, wait_gone

pytestmark = only_ours

WORKER = "__import__('os').getpid()"
FRESH = "('marker' in globals(), __import__('os').getpid())"

TRANSPORTS: dict[str, dict[str, Any]] = {
    "tcp": {},
    "ipc": {"transport": "ipc"},
    "curve": {"transport_encryption": "required"},
    "ipc-curve": {"transport": "ipc", "transport_encryption": "required"},
}


@pytest.fixture
def kernel() -> Iterator[Managed]:
    """A kernel of this test's own."""
    with managed() as kernel:
        yield kernel


def starting(client: Client) -> list[Any]:
    """The `starting` statuses that were read, which answer no request."""
    return [
        message
        for message in client.outputs_so_far("")
        if message["content"].get("execution_state") == "starting"
    ]


@pytest.mark.parametrize("now", [False, True], ids=["graceful", "now"])
@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize("manager_class", [KernelManager, AsyncKernelManager])
def test_a_restart_keeps_the_kernel_process_and_nothing_else(
    manager_class: type[KernelManager], transport: str, now: bool, tmp_path: Path
) -> None:
    traits = TRANSPORTS[transport] | {"connection_file": str(tmp_path / "kernel.json")}
    with managed(manager_class, **traits) as kernel:
        pid, client = kernel.pid, kernel.client()
        sessions = [client.run("marker = 1").reply["header"]["session"]]
        at_first = len(starting(client))
        # The sockets' files are lost to jupyter_client at each restart, not only at the first.
        for count in range(1, 4):
            before = client.value(WORKER)
            kernel.call("restart_kernel", now=now)
            assert kernel.call("is_alive")
            assert kernel.pid == pid
            outcome = client.run(FRESH)
            assert outcome.reply["content"]["execution_count"] == 1
            assert outcome.result is not None
            fresh = json.loads(outcome.result.replace("(", "[").replace(")", "]").lower())
            assert fresh[0] is False
            assert fresh[1] != int(before)
            assert wait_gone(int(before), TIMEOUT)
            sessions.append(outcome.reply["header"]["session"])
            client.run("marker = 1")
            assert len(starting(client)) == at_first + count
            assert kernel.client().value("marker") == "1"
        assert len(set(sessions)) == 4
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize("now", [False, True], ids=["graceful", "now"])
def test_what_is_sent_right_after_a_restart_runs_in_the_new_worker(
    kernel: Managed, now: bool
) -> None:
    client = kernel.client()
    seen = {client.value(WORKER)}
    for number in range(100 if not now else 30):
        client.run("marker = 1")
        kernel.call("restart_kernel", now=now)
        request = client.execute("pass", user_expressions={"fresh": FRESH})
        content = client.reply(request)["content"]
        assert content["status"] == "ok", f"restart {number}: {content}"
        value = content["user_expressions"]["fresh"]["data"]["text/plain"]
        is_old, worker = value.strip("()").split(", ")
        assert is_old == "False", f"restart {number} met the old worker"
        assert worker not in seen
        seen.add(worker)


def test_what_is_sent_during_a_restart_waits_for_the_new_worker(kernel: Managed) -> None:
    client = kernel.client()
    client.run("marker = 1")
    kernel.call("shutdown_kernel", restart=True)
    assert not kernel.call("is_alive")
    cell = client.execute(FRESH)
    completion = client.send("complete_request", {"code": "mark", "cursor_pos": 4})
    usage = client.send("usage_request", {}, channel="control")
    info = client.send("kernel_info_request", {}, channel="control")
    assert client.reply(info, channel="control")["content"]["status"] == "ok"
    kernel.call("start_kernel")
    outcome = client.outcome(cell)
    assert outcome.result is not None and outcome.result.startswith("(False, ")
    assert outcome.reply["content"]["execution_count"] == 1
    assert "marker" not in client.reply(completion)["content"]["matches"]
    worker = outcome.result.strip("()").split(", ")[1]
    assert client.reply(usage, channel="control")["content"]["pid"] == int(worker)


BUSY = {
    "python": "while True: pass",
    "sleep": "import time; time.sleep(600)",
    "input": "input()",
    "await": "import asyncio; await asyncio.sleep(600)",
    "gil": "sum(range(10**14))",  # in C, without a look at signals
    "deaf": textwrap.dedent("""
        while True:
            try:
                while True: pass
            except KeyboardInterrupt: pass
    """),
}


@pytest.mark.parametrize("now", [False, True], ids=["graceful", "now"])
@pytest.mark.parametrize("busy", BUSY)
def test_a_restart_ends_a_cell_whatever_it_does(kernel: Managed, busy: str, now: bool) -> None:
    client = kernel.client()
    old = client.run("marker = 1").reply["header"]["session"]
    worker = int(client.value(WORKER))
    running = client.execute(f"print('running', flush=True)\n{BUSY[busy]}", allow_stdin=True)
    client.wait_printed(running)
    queued = [client.execute("marker = 2") for _ in range(70)]
    client.reply(client.send("kernel_info_request", {}))  # all of them have arrived by now
    kernel.call("restart_kernel", now=now)
    assert client.run(FRESH).text == ""
    ended = client.outcome(running)
    assert ended.status == "error"
    assert is_idle(ended.messages[-1])
    for request in queued:
        outcome = client.outcome(request)
        # The interrupt that comes first may have let some of them begin, in the old worker.
        assert outcome.status == "aborted" or busy not in {"gil", "deaf"}
        assert outcome.reply["header"]["session"] == old
    assert client.value("'marker' in globals()") == "False"
    assert wait_gone(worker, TIMEOUT)
    assert len(client.outputs_so_far(running)) == len(ended.messages), "late output"


@pytest.mark.parametrize("now", [False, True], ids=["graceful", "now"])
@pytest.mark.parametrize("is_up", [False, True], ids=["just launched", "kernel process up"])
def test_a_restart_during_the_first_start(is_up: bool, now: bool) -> None:
    with managed(start=False) as kernel:
        kernel.call("start_kernel")
        pid = kernel.pid
        if is_up:
            client = Client(kernel.manager.connection_file)
            client.reply(client.send("kernel_info_request", {}))
            client.close()
        kernel.call("restart_kernel", now=now)
        client = kernel.client()
        outcome = client.run(FRESH)
        assert outcome.result is not None and outcome.result.startswith("(False, ")
        assert outcome.reply["content"]["execution_count"] == 1
        assert "stream" not in outcome.types, outcome.messages  # no notice of a failed start
        if is_up:
            assert kernel.pid == pid


def test_exit_handlers_run_behind_a_restart(kernel: Managed, tmp_path: Path) -> None:
    client = kernel.client()
    begun, ended = tmp_path / "begun", tmp_path / "ended"
    os.mkfifo(tmp_path / "fifo")
    handler = f"""
        import atexit, pathlib
        def at_exit():
            pathlib.Path({str(begun)!r}).touch()
            open({str(tmp_path / "fifo")!r}).read()
            pathlib.Path({str(ended)!r}).touch()
        atexit.register(at_exit)
    """
    client.run(textwrap.dedent(handler))
    worker = int(client.value(WORKER))
    kernel.call("restart_kernel")
    assert client.value("1 + 1") == "2"  # while the handler waits for us
    assert begun.exists() and not ended.exists()
    (tmp_path / "fifo").open("w").close()
    assert wait_gone(worker, TIMEOUT)
    assert ended.exists()


def test_exit_handlers_that_never_end_are_ended(kernel: Managed) -> None:
    client = kernel.client()
    client.run("import atexit, time; atexit.register(time.sleep, 600)")
    worker = int(client.value(WORKER))
    kernel.call("restart_kernel")
    assert client.value("1 + 1") == "2"
    assert wait_gone(worker, TIMEOUT)


def test_open_comms_are_closed(kernel: Managed) -> None:
    client = kernel.client()
    client.run("from comm import create_comm; c = create_comm(target_name='t', comm_id='c1')")
    kernel.call("restart_kernel")
    client.value("1")
    closed = [m for m in client.outputs_so_far("") if m["msg_type"] == "comm_close"]
    assert [message["content"]["comm_id"] for message in closed] == ["c1"]


def debug(client: Client, command: str, **arguments: Any) -> dict[str, Any]:
    """The body of a debug reply."""
    content = {"type": "request", "seq": 1, "command": command, "arguments": arguments}
    request = client.send("debug_request", content, channel="control")
    reply: dict[str, Any] = client.reply(request, channel="control")["content"]
    assert reply.get("success", True), reply
    body: dict[str, Any] = reply.get("body", {})
    return body


def test_the_debugger_is_reset(kernel: Managed) -> None:
    client = kernel.client()
    debug(client, "initialize", clientID="t", adapterID="")
    debug(client, "attach")
    assert debug(client, "debugInfo")["isStarted"] is True
    kernel.call("restart_kernel")
    assert debug(client, "debugInfo")["isStarted"] is False
    ended = [
        m["content"]["event"] for m in client.outputs_so_far("") if m["msg_type"] == "debug_event"
    ]
    assert client.value("1") == "1"
    assert debug(client, "debugInfo")["breakpoints"] == []
    assert ended.count("terminated") <= 1


def test_interrupts_reach_the_new_worker(kernel: Managed) -> None:
    client = kernel.client()
    for _ in range(2):
        kernel.call("restart_kernel")
        request = client.execute("print('in', flush=True)\nwhile True: pass")
        client.wait_printed(request)
        kernel.call("interrupt_kernel")
        assert client.outcome(request).error == "KeyboardInterrupt"


def test_two_restarts_at_once() -> None:
    with managed(AsyncKernelManager) as kernel:
        client, pid = kernel.client(), kernel.pid

        async def both() -> None:
            # The manager itself is not made for it, and may fail one of them after the fact.
            restarts = [kernel.manager._async_restart_kernel() for _ in range(2)]
            outcomes = await asyncio.gather(*restarts, return_exceptions=True)
            assert all(isinstance(o, (type(None), asyncio.InvalidStateError)) for o in outcomes)

        for _ in range(5):
            client.run("marker = 1")
            kernel.wait(both)
            outcome = client.run(FRESH)
            assert outcome.result is not None and outcome.result.startswith("(False, ")
            assert kernel.pid == pid
            kernel.settled(int(outcome.result.strip("()").split(", ")[1]))
