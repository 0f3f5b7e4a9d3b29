"""The messaging protocol, spoken to a real kernel process.

Each test holds on any kernel unless it is marked ``only_ours``. Nothing here sleeps to get an
order: a cell is known to run once it printed, and cells wait for the test at a named pipe.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import zmq
from jupyter_client.session import Session

from .support import IS_OURS, TIMEOUT, Client, KernelProcess, is_idle, only_ours, running_kernel

SPIN = "print('running', flush=True)\nwhile True: pass"


@pytest.fixture(scope="module")
def kernel() -> Iterator[KernelProcess]:
    """One kernel for the whole module: no test here may end it."""
    with running_kernel() as kernel:
        yield kernel


@pytest.fixture(scope="module")
def client(kernel: KernelProcess) -> Client:
    """A client of the shared kernel."""
    return kernel.client()


class Gate:
    """A named pipe that a cell waits at until the test opens it; neither end blocks the test."""

    def __init__(self, path: Path) -> None:
        os.mkfifo(path)
        self._descriptor = os.open(path, os.O_RDWR | os.O_NONBLOCK)
        self.wait = f"open({str(path)!r}).readline()"
        """The code that waits."""

    def open(self) -> None:
        """Let the cell pass."""
        os.write(self._descriptor, b"go\n")

    def close(self) -> None:
        """Close this end, which also lets a cell pass that still waits."""
        os.close(self._descriptor)


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[Gate]:
    """A gate of this test's own."""
    gate = Gate(tmp_path / "gate")
    yield gate
    gate.close()


# ── what every request gets ──

SHELL_REQUESTS: dict[str, dict[str, object]] = {
    "kernel_info": {},
    "execute": {"code": "6 * 7", "silent": False},
    "complete": {"code": "zi", "cursor_pos": 2},
    "inspect": {"code": "zip", "cursor_pos": 3, "detail_level": 0},
    "is_complete": {"code": "for i in range(3):"},
    "history": {"hist_access_type": "tail", "n": 3, "output": False, "raw": True},
    "comm_info": {},
    "connect": {},
}
CONTROL_REQUESTS: dict[str, dict[str, object]] = {"kernel_info": {}, "connect": {}, "interrupt": {}}
REQUESTS = [
    *[("shell", name, content) for name, content in SHELL_REQUESTS.items()],
    *[("control", name, content) for name, content in CONTROL_REQUESTS.items()],
]


@pytest.mark.parametrize(
    ("channel", "name", "content"), REQUESTS, ids=[f"{r[0]}-{r[1]}" for r in REQUESTS]
)
def test_a_request_gets_one_reply_between_one_busy_and_one_idle(
    client: Client, channel: str, name: str, content: dict[str, object]
) -> None:
    request = client.send(f"{name}_request", content, channel=channel)
    reply = client.reply(request, channel=channel)
    published = client.outputs(request)

    assert reply["msg_type"] == f"{name}_reply"
    assert reply["content"]["status"] == ("incomplete" if name == "is_complete" else "ok")
    assert reply["parent_header"]["msg_id"] == request
    assert reply["parent_header"]["session"] == client.kc.session.session
    assert published[0]["content"] == {"execution_state": "busy"}
    assert published[-1]["content"] == {"execution_state": "idle"}
    assert not client.unread(request, channel), "a second reply"
    states = [m["content"]["execution_state"] for m in published if m["msg_type"] == "status"]
    assert states == ["busy", "idle"]


@only_ours
def test_an_idle_that_waits_for_a_cell_comes_when_that_has_ended(client: Client) -> None:
    asked = client.send("is_complete_request", {"code": "1"})
    client.reply(asked)
    # Longer than an idle is kept back without a cell.
    ran = client.execute("import time; time.sleep(0.5)")
    assert client.reply(ran)["content"]["status"] == "ok"
    assert is_idle(client.outputs(asked)[-1])
    assert is_idle(client.outputs(ran)[-1])


def test_the_input_comes_before_what_it_puts_out(client: Client) -> None:
    outcome = client.run("print('text')\n'value'")
    assert outcome.types == ["status", "execute_input", "stream", "execute_result", "status"]
    echo = outcome.messages[1]["content"]
    assert echo["code"] == "print('text')\n'value'"
    assert echo["execution_count"] == outcome.reply["content"]["execution_count"]


def test_each_of_two_clients_gets_its_own_replies_and_all_outputs(
    kernel: KernelProcess, client: Client
) -> None:
    other = kernel.client()
    mine = client.execute("'mine'")
    theirs = other.execute("'theirs'")
    assert client.outcome(mine).result == "'mine'"
    assert other.outcome(theirs).result == "'theirs'"
    assert [m["msg_type"] for m in client.outputs(theirs)] == [
        m["msg_type"] for m in other.outputs(theirs)
    ]
    assert not client.unread(theirs, "shell")


@only_ours
@pytest.mark.parametrize(
    "code",
    [
        "import os; os.write(1, b'out')",
        "import os; os.system('printf out')",
        "print('out', end='')",
    ],
    ids=["descriptor", "child", "print"],
)
def test_what_a_cell_put_out_comes_before_its_idle(client: Client, code: str) -> None:
    assert client.run(f"{code};").text == "out"


# ── execute_request's options ──


def test_a_silent_cell_is_neither_echoed_nor_counted(client: Client) -> None:
    before = client.run("pass").reply["content"]["execution_count"]
    outcome = client.run("quiet = 5\nquiet", silent=True)
    assert outcome.status == "ok"
    assert outcome.types == ["status", "status"]
    assert client.value("quiet") == "5"
    assert client.run("pass").reply["content"]["execution_count"] == before + 2


def test_a_cell_without_history_is_not_counted(client: Client) -> None:
    before = client.run("pass").reply["content"]["execution_count"]
    outcome = client.run("'unrecorded'", store_history=False)
    assert outcome.result == "'unrecorded'"
    after = client.run("pass")
    assert after.reply["content"]["execution_count"] == before + 1
    tail = client.send("history_request", {**SHELL_REQUESTS["history"], "n": 2})
    sources = [entry[2] for entry in client.reply(tail)["content"]["history"]]
    assert sources == ["pass", "pass"]


def test_an_error_aborts_the_executions_queued_behind_it(client: Client, gate: Gate) -> None:
    failing = client.execute(
        f"print('at the gate', flush=True); {gate.wait}; 1 / 0", stop_on_error=True
    )
    queued = [client.execute(f"ran = {i}") for i in range(5)]
    completion = client.send("complete_request", SHELL_REQUESTS["complete"])
    client.wait_printed(failing)
    gate.open()

    assert client.outcome(failing).error == "ZeroDivisionError"
    for request in queued:
        outcome = client.outcome(request)
        assert outcome.status == "aborted"
        assert outcome.types == ["status", "status"]
    assert client.reply(completion)["content"]["status"] == "ok"
    assert client.value("'ran' in globals()") == "False"


@only_ours
def test_what_is_sent_after_the_reply_to_an_error_is_run(client: Client) -> None:
    for _ in range(20):
        client.reply(client.execute("1 / 0", stop_on_error=True))
        assert client.value("1 + 1") == "2"


def test_without_stop_on_error_the_queue_goes_on(client: Client, gate: Gate) -> None:
    failing = client.execute(
        f"print('at the gate', flush=True); {gate.wait}; 1 / 0", stop_on_error=False
    )
    queued = [client.execute(f"{i} + 100") for i in range(3)]
    client.wait_printed(failing)
    gate.open()

    assert client.outcome(failing).error == "ZeroDivisionError"
    assert [client.outcome(request).result for request in queued] == ["100", "101", "102"]


def test_an_error_has_its_traceback_on_iopub_and_in_the_reply(client: Client) -> None:
    outcome = client.run("def f():\n    raise KeyError('lost')\nf()")
    assert outcome.status == "error"
    assert outcome.types == ["status", "execute_input", "error", "status"]
    published = outcome.messages[2]["content"]
    for field in ("ename", "evalue", "traceback"):
        assert published[field] == outcome.reply["content"][field]
    assert published["ename"] == "KeyError"
    assert published["evalue"] == "'lost'"
    assert any("raise" in line for line in published["traceback"])


@only_ours
def test_a_client_that_connects_to_stdin_late_is_asked(kernel: KernelProcess) -> None:
    info = kernel.connection
    session = Session(key=info["key"].encode() if isinstance(info["key"], str) else info["key"])
    context = zmq.Context()

    def connect(channel: str) -> zmq.Socket[bytes]:
        socket = context.socket(zmq.DEALER)
        socket.identity = session.bsession
        socket.rcvtimeo = int(TIMEOUT * 1000)
        socket.connect(f"tcp://{info['ip']}:{info[f'{channel}_port']}")
        return socket

    try:
        shell = connect("shell")
        content = {"code": "print(input('late? '))", "allow_stdin": True, "silent": False}
        session.send(shell, "execute_request", content)
        # Far longer than the question takes, and not too long for a client that is slow.
        assert not shell.poll(500)
        stdin = connect("stdin")
        _, question = session.feed_identities(stdin.recv_multipart())
        assert session.deserialize(question)["content"]["prompt"] == "late? "
        session.send(stdin, "input_reply", {"value": "yes"})
        _, reply = session.feed_identities(shell.recv_multipart())
        assert session.deserialize(reply)["content"]["status"] == "ok"
    finally:
        context.destroy(linger=0)


@pytest.mark.parametrize("ask", ["input('name? ')", "import getpass; getpass.getpass()"])
def test_input_without_stdin_is_an_error_and_not_a_hang(client: Client, ask: str) -> None:
    assert client.run(ask, allow_stdin=False).error == "StdinNotImplementedError"


def test_input_is_asked_of_the_client_that_runs_the_cell(
    kernel: KernelProcess, client: Client
) -> None:
    other = kernel.client()
    request = other.execute("'hello ' + input('name? ')", allow_stdin=True)
    question = other.reply(request, channel="stdin")
    assert question["msg_type"] == "input_request"
    assert question["content"] == {"prompt": "name? ", "password": False}
    other.send("input_reply", {"value": "Ada"}, channel="stdin")
    assert other.outcome(request).result == "'hello Ada'"
    assert not client.unread(request, "stdin")


def test_user_expressions_are_evaluated_after_the_cell(client: Client) -> None:
    outcome = client.run("base = 20", user_expressions={"sum": "base + 2", "bad": "1 / 0"})
    answers = outcome.reply["content"]["user_expressions"]
    assert outcome.status == "ok"
    assert answers["sum"]["status"] == "ok"
    assert answers["sum"]["data"]["text/plain"] == "22"
    assert answers["bad"]["status"] == "error"
    assert answers["bad"]["ename"] == "ZeroDivisionError"


# ── what is not as it should be ──


def test_a_message_with_a_wrong_signature_is_dropped(kernel: KernelProcess, client: Client) -> None:
    forger = Session(key=b"not the key of this kernel")
    code = {"code": "forged = True", "silent": False}
    forged = forger.send(client.kc.shell_channel.socket, "execute_request", content=code)
    assert client.value("'forged' in globals()") == "False"
    assert forged is not None
    assert not client.outputs_so_far(forged["header"]["msg_id"])


def test_a_message_sent_twice_runs_once(client: Client) -> None:
    client.run("runs = 0")
    request = client.send_twice("execute_request", {"code": "runs += 1", "silent": False})
    assert client.outcome(request).status == "ok"
    assert client.value("runs") == "1"
    assert not client.unread(request, "shell")


MALFORMED = {
    "no-code": {},
    "code-is-a-number": {"code": 5},
    "code-is-null": {"code": None},
    "expressions-are-a-list": {"code": "1", "user_expressions": [1]},
    "content-is-a-list": b"[1, 2]",
    "content-is-text": b'"text"',
}


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(c, id=i, marks=() if i == "no-code" else only_ours)
        for i, c in MALFORMED.items()
    ],
)
def test_malformed_content_still_comes_to_an_idle(client: Client, content: object) -> None:
    request = client.send("execute_request", content)
    assert is_idle(client.outputs(request)[-1])
    if IS_OURS:
        assert client.reply(request)["content"]["status"] == "error"
    assert client.value("'still ' + 'here'") == "'still here'"


@only_ours
@pytest.mark.parametrize("name", ["complete", "inspect", "is_complete", "history"])
def test_malformed_content_is_answered_with_an_error(client: Client, name: str) -> None:
    request = client.send(f"{name}_request", {"code": [], "hist_access_type": []})
    reply = client.reply(request)
    assert reply["msg_type"] == f"{name}_reply"
    assert reply["content"]["status"] == "error"
    assert is_idle(client.outputs(request)[-1])


@pytest.mark.parametrize("channel", ["shell", "control"])
def test_an_unknown_type_comes_to_an_idle(client: Client, channel: str) -> None:
    request = client.send("levitate_request", {}, channel=channel)
    published = client.outputs(request)
    assert [m["content"]["execution_state"] for m in published] == ["busy", "idle"]
    assert client.value("'still ' + 'here'") == "'still here'"


# ── while a cell runs ──


@pytest.fixture
def spinning(client: Client) -> Iterator[str]:
    """A cell that runs until it is interrupted; the test may do that itself."""
    request = client.execute(SPIN)
    client.wait_printed(request)
    yield request
    if not is_idle(client.outputs_so_far(request)[-1]):
        client.interrupt()
        client.outcome(request)


def test_control_answers_while_a_cell_runs(client: Client, spinning: str) -> None:
    asked = time.monotonic()
    info = client.send("kernel_info_request", {}, channel="control")
    reply = client.reply(info, channel="control", timeout=1.0)
    assert time.monotonic() - asked < 1.0
    assert reply["content"]["status"] == "ok"
    assert not is_idle(client.outputs_so_far(spinning)[-1]), "the cell was to run on"


def test_heartbeats_are_echoed_while_a_cell_runs(kernel: KernelProcess, spinning: str) -> None:
    with zmq.Context() as context, context.socket(zmq.REQ) as heart:
        heart.linger = 0
        heart.connect(f"tcp://{kernel.connection['ip']}:{kernel.connection['hb_port']}")
        heart.send(b"beat")
        assert heart.poll(int(TIMEOUT * 1000))
        assert heart.recv() == b"beat"


def test_an_interrupt_request_ends_the_cell_and_keeps_the_namespace(
    client: Client, spinning: str
) -> None:
    client.interrupt()
    outcome = client.outcome(spinning)
    assert outcome.error == "KeyboardInterrupt"
    assert client.value("1 + 1") == "2"


def test_an_interrupt_of_an_idle_kernel_does_nothing(client: Client) -> None:
    assert client.interrupt()["content"]["status"] == "ok"
    assert client.value("1 + 1") == "2"


# ── about the kernel ──


def test_connect_tells_the_ports_of_the_connection_file(
    kernel: KernelProcess, client: Client
) -> None:
    reply = client.reply(client.send("connect_request", {}))["content"]
    for channel in ("shell", "iopub", "stdin", "hb", "control"):
        name = channel if f"{channel}_port" not in reply else f"{channel}_port"
        assert reply[name] == kernel.connection[f"{channel}_port"]


def test_comm_info_lists_open_comms_by_target(client: Client) -> None:
    client.run("import comm\nopened = comm.create_comm(target_name='e2e')")
    comm_id = client.value("opened.comm_id").strip("'")
    everything = client.reply(client.send("comm_info_request", {}))["content"]["comms"]
    of_target = client.reply(client.send("comm_info_request", {"target_name": "e2e"}))
    of_another = client.reply(client.send("comm_info_request", {"target_name": "none"}))
    assert everything[comm_id] == {"target_name": "e2e"}
    assert of_target["content"]["comms"] == {comm_id: {"target_name": "e2e"}}
    assert of_another["content"]["comms"] == {}
