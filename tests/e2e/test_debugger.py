"""The debugger, as front ends speak to it: debug_request on control, debug_event on iopub."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator
from typing import Any

import pytest
from jupyter_client.manager import KernelManager

from pyrepl_kernel.protocol.cell_names import murmur2

from . import support
from .support import TIMEOUT, Client, Message, kernelspec, only_ours, running_kernel

pytestmark = only_ours

FUNCTION = "def double(value):\n    result = value * 2\n    return result\n\ndouble(21)"
LOOP = "total = 0\nfor i in range(10):\n    total += i\ntotal"
CLIENT = {"clientID": "tests", "adapterID": "python", "pathFormat": "path"}


class DebugClient(Client):
    """A front end that debugs."""

    def __init__(self, connection_file: str) -> None:
        super().__init__(connection_file)
        self._seq = 0
        self._seen: set[str] = set()

    def send_debug(self, command: str, **arguments: Any) -> str:
        """Send a request, and return its message's id."""
        self._seq += 1
        content = {"type": "request", "seq": self._seq, "command": command, "arguments": arguments}
        return self.send("debug_request", content, channel="control")

    def debug_reply(self, msg_id: str) -> Message:
        """The response to a request."""
        content: Message = self.reply(msg_id, channel="control")["content"]
        return content

    def ask(self, command: str, **arguments: Any) -> Message:
        """Send a request, and return its response, successful or not."""
        response = self.debug_reply(self.send_debug(command, **arguments))
        assert (response["request_seq"], response["command"]) == (self._seq, command)
        return response

    def debug(self, command: str, **arguments: Any) -> Message:
        """Send a request, which must succeed, and return its response's body."""
        response = self.ask(command, **arguments)
        assert response["success"], response
        body: Message = response.get("body", {})
        return body

    def wait_event(self, name: str) -> Message:
        """The next event of that name."""
        while (event := self._next_event(name)) is None:
            self._receive_until("iopub", lambda message: message["msg_type"] == "debug_event")
        return event

    def _next_event(self, name: str) -> Message | None:
        for message in self.events():
            if message["msg_id"] not in self._seen and message["content"]["event"] == name:
                self._seen.add(message["msg_id"])
                body: Message = message["content"].get("body", {})
                return body
        return None

    def events(self) -> list[Message]:
        """All debug_event messages so far."""
        filed = self._filed["iopub"].values()
        return [m for messages in filed for m in messages if m["msg_type"] == "debug_event"]

    def forget_events(self) -> None:
        """Wait for no event that was told until now: it is another test's."""
        self.outputs(self.send_debug("debugInfo"))  # what was told before is read by then
        self._seen.update(message["msg_id"] for message in self.events())

    # ── common steps ──

    def attach(self) -> None:
        """Begin to debug, as JupyterLab does."""
        self.forget_events()
        self.debug("initialize", **CLIENT)
        self.debug("attach")
        self.debug("configurationDone")

    def set_breakpoints(self, code: str, *lines: int, **more: str) -> str:
        """Set breakpoints in a cell, and return its path."""
        path = str(self.debug("dumpCell", code=code)["sourcePath"])
        breakpoints = [{"line": line, **more} for line in lines]
        body = self.debug("setBreakpoints", source={"path": path}, breakpoints=breakpoints)
        assert [entry["line"] for entry in body["breakpoints"]] == list(lines)
        return path

    def run_to_stop(self, code: str, reason: str = "breakpoint") -> str:
        """Execute a cell until it stops; its message's id."""
        msg_id = self.execute(code)
        assert self.wait_event("stopped")["reason"] == reason
        return msg_id

    def frames(self) -> list[Message]:
        """The main thread's frames."""
        frames: list[Message] = self.debug("stackTrace", threadId=1)["stackFrames"]
        return frames

    def stack(self) -> list[tuple[str, int]]:
        """Name and line of each of them."""
        return [(frame["name"], frame["line"]) for frame in self.frames()]

    def locals(self) -> dict[str, str]:
        """The innermost frame's variables."""
        scope = self.debug("scopes", frameId=self.frames()[0]["id"])["scopes"][0]
        found = self.debug("variables", variablesReference=scope["variablesReference"])
        return {variable["name"]: variable["value"] for variable in found["variables"]}

    def go_on(self, msg_id: str) -> Message:
        """Continue, and return the cell's reply."""
        self.debug("continue", threadId=1)
        reply: Message = self.reply(msg_id)["content"]
        return reply

    @property
    def worker(self) -> int:
        """The process that runs the cells."""
        return int(self.value("__import__('os').getpid()"))


def debug_client(kernel: support.KernelProcess) -> DebugClient:
    """A client that debugs."""
    client = DebugClient(kernel.connection_file)
    client.wait_ready()
    return client


@pytest.fixture(scope="module")
def shared() -> Iterator[DebugClient]:
    """A kernel that the tests below share; each finds it and leaves it without a debugger."""
    with running_kernel() as kernel:
        client = debug_client(kernel)
        yield client
        client.close()


@pytest.fixture
def client(shared: DebugClient) -> Iterator[DebugClient]:
    """The shared kernel, attached to."""
    shared.attach()
    yield shared
    shared.ask("disconnect", restart=False, terminateDebuggee=False)


@pytest.fixture
def fresh() -> Iterator[DebugClient]:
    """A kernel of a test's own."""
    with running_kernel() as kernel:
        client = debug_client(kernel)
        yield client
        client.close()


# ─── before anything is debugged ───


def test_it_is_announced(shared: DebugClient) -> None:
    info = shared.reply(shared.send("kernel_info_request", {}))["content"]
    assert "debugger" in info["supported_features"]
    assert info["debugger"] is True
    assert kernelspec().metadata["debugger"] is True


def test_it_costs_nothing_until_it_is_used(fresh: DebugClient) -> None:
    assert fresh.debug("debugInfo")["isStarted"] is False
    assert fresh.debug("debugInfo")["stoppedThreads"] == []
    fresh.run("import sys, threading")
    assert fresh.value("[name for name in sys.modules if 'pydevd' in name]") == "[]"
    assert fresh.value("len([t for t in threading.enumerate() if 'IPython' not in t.name])") == "1"
    assert fresh.value("sys.gettrace()  or 'untraced'") == "'untraced'"


def test_what_needs_a_debugger_is_refused_without_one(shared: DebugClient) -> None:
    for command in ("attach", "setBreakpoints", "stackTrace", "dumpCell", "no such command"):
        response = shared.ask(command)
        assert response["success"] is False
        assert "initialize" in response["message"]
    assert shared.ask("disconnect")["success"] is True


def test_a_request_without_a_command_is_refused(shared: DebugClient) -> None:
    msg_id = shared.send("debug_request", {"type": "request", "seq": 1}, channel="control")
    reply = shared.reply(msg_id, channel="control")["content"]
    assert reply["status"] == "error"
    assert "command" in reply["evalue"]


def test_variables_are_shown_without_a_debugger(shared: DebugClient) -> None:
    shared.run("numbers = [10, 20]\nnested = {'key': numbers}\n_private = 1\n_ = 5")
    found = {v["name"]: v for v in shared.debug("inspectVariables")["variables"]}
    assert found["numbers"]["value"] == "[10, 20]"
    assert found["numbers"]["type"] == "list"
    assert "_private" in found
    assert not {"In", "Out", "_", "exit", "get_ipython", "_i1", "__builtins__"} & found.keys()
    reference = found["nested"]["variablesReference"]
    inner = shared.debug("variables", variablesReference=reference)["variables"]
    assert "[10, 20]" in [variable["value"] for variable in inner]
    assert shared.ask("variables", variablesReference=1)["success"] is False


def test_a_variable_is_shown_in_its_rich_form(shared: DebugClient) -> None:
    shared.run("class Rich:\n    def _repr_html_(self): return '<b>rich</b>'\nrich = Rich()")
    data = shared.debug("richInspectVariables", variableName="rich")["data"]
    assert data["text/html"] == "<b>rich</b>"
    assert shared.debug("richInspectVariables", variableName="nowhere")["data"] == {}
    assert shared.ask("richInspectVariables", variableName="1 + 1")["success"] is False
    assert shared.ask("richInspectVariables", variableName="special variables")["success"] is True


# ─── a cell at a breakpoint ───


def test_a_cell_stops_shows_its_frames_and_goes_on(client: DebugClient) -> None:
    path = client.set_breakpoints(FUNCTION, 3)
    msg_id = client.execute(FUNCTION)
    event = client.wait_event("stopped")
    assert (event["reason"], event["threadId"], event["allThreadsStopped"]) == (
        "breakpoint",
        1,
        True,
    )
    info = client.debug("debugInfo")
    assert info["isStarted"] is True
    assert 1 in info["stoppedThreads"]
    assert info["breakpoints"] == [{"source": path, "breakpoints": [{"line": 3}]}]
    assert client.stack() == [("double", 3), ("<module>", 5)]
    assert {frame["source"]["path"] for frame in client.frames()} == {path}
    assert client.locals() == {"value": "21", "result": "42"}
    control = client.send("kernel_info_request", {}, channel="control")
    assert client.reply(control, channel="control")["content"]["status"] == "ok"
    assert client.go_on(msg_id)["status"] == "ok"
    client.wait_event("continued")
    assert client.debug("debugInfo")["stoppedThreads"] == []


def test_cells_are_named_by_their_hash(client: DebugClient) -> None:
    info = client.debug("debugInfo")
    for code in ("x = 1", "\n\nx = 'ä€𝄞'\r\n", ""):
        path = client.debug("dumpCell", code=code)["sourcePath"]
        name = f"{info['tmpFilePrefix']}{murmur2(code, info['hashSeed'])}{info['tmpFileSuffix']}"
        assert path == name
        with open(path, newline="", encoding="utf-8") as file:
            assert file.read() == code
    source = client.debug("source", source={"path": path})
    assert source["content"] == ""
    assert client.ask("source", source={"path": "/nowhere"})["success"] is False


def test_empty_lines_at_the_top_count(client: DebugClient) -> None:
    code = "\n\n\nfirst = 1\nsecond = 2"
    client.set_breakpoints(code, 5)
    msg_id = client.run_to_stop(code)
    assert client.stack() == [("<module>", 5)]
    client.go_on(msg_id)


def test_what_was_printed_comes_before_the_stop(client: DebugClient) -> None:
    code = "print('printed')\nstop_here = 1"
    client.set_breakpoints(code, 2)
    msg_id = client.run_to_stop(code)
    printed = [m for m in client.outputs_so_far(msg_id) if m["msg_type"] == "stream"]
    assert printed[0]["content"]["text"] == "printed\n"
    client.go_on(msg_id)


def test_steps(client: DebugClient) -> None:
    client.set_breakpoints(FUNCTION, 5)
    msg_id = client.run_to_stop(FUNCTION)
    for command, stack in (
        ("stepIn", [("double", 2), ("<module>", 5)]),
        ("next", [("double", 3), ("<module>", 5)]),
        ("stepOut", [("<module>", 5)]),
    ):
        client.debug(command, threadId=1)
        assert client.wait_event("stopped")["reason"] == "step"
        assert client.stack() == stack
    # The last step leaves the cell, and no frame of the kernel's is stopped in.
    client.debug("next", threadId=1)
    assert client.reply(msg_id)["content"]["status"] == "ok"


@pytest.mark.parametrize(
    ("kind", "value"), [("condition", "i == 7"), ("hitCondition", "== 8")], ids=["if", "hits"]
)
def test_conditions(client: DebugClient, kind: str, value: str) -> None:
    client.set_breakpoints(LOOP, 3, **{kind: value})
    assert client.debug("debugInfo")["breakpoints"][0]["breakpoints"] == [{"line": 3, kind: value}]
    msg_id = client.run_to_stop(LOOP)
    assert client.locals()["i"] == "7"
    assert client.go_on(msg_id)["status"] == "ok"


def test_log_points(client: DebugClient) -> None:
    client.set_breakpoints(LOOP, 3, logMessage="i is {i}")
    assert client.run(LOOP).result == "45"
    while "i is 9" not in (event := client.wait_event("output"))["output"]:
        assert "i is" in event["output"]


def test_function_breakpoints(client: DebugClient) -> None:
    client.debug("setFunctionBreakpoints", breakpoints=[{"name": "double"}])
    msg_id = client.run_to_stop(FUNCTION, "function breakpoint")
    assert client.stack()[0][0] == "double"
    client.go_on(msg_id)
    client.debug("setFunctionBreakpoints", breakpoints=[])
    assert client.run(FUNCTION).result == "42"


def test_exception_breakpoints(client: DebugClient) -> None:
    code = "def fail():\n    return 1 / 0\nfail()"
    client.debug("setExceptionBreakpoints", filters=["raised"])
    msg_id = client.run_to_stop(code, "exception")
    assert client.stack() == [("fail", 2), ("<module>", 3)]
    assert client.debug("exceptionInfo", threadId=1)["exceptionId"] == "ZeroDivisionError"
    client.debug("setExceptionBreakpoints", filters=[])
    assert client.go_on(msg_id)["ename"] == "ZeroDivisionError"
    client.debug("setExceptionBreakpoints", filters=["userUnhandled"])
    msg_id = client.run_to_stop(code, "exception")
    client.debug("setExceptionBreakpoints", filters=[])
    assert client.go_on(msg_id)["ename"] == "ZeroDivisionError"
    assert client.run("try:\n    1 / 0\nexcept ZeroDivisionError:\n    pass").status == "ok"


def test_a_stopped_cell_can_be_asked_and_changed(client: DebugClient) -> None:
    client.set_breakpoints(FUNCTION, 3)
    msg_id = client.run_to_stop(FUNCTION)
    frame = client.frames()[0]["id"]
    scope = client.debug("scopes", frameId=frame)["scopes"][0]["variablesReference"]
    assert client.debug("evaluate", expression="value + 1", frameId=frame)["result"] == "22"
    client.debug("copyToGlobals", srcVariableName="value", dstVariableName="kept", srcFrameId=frame)
    refused = client.ask(
        "copyToGlobals", srcVariableName="1", dstVariableName="kept", srcFrameId=frame
    )
    assert refused["success"] is False
    rich = client.debug("richInspectVariables", variableName="value", frameId=frame)
    assert rich["data"] == {"text/plain": "21"}
    assert (
        client.ask("richInspectVariables", variableName="nowhere", frameId=frame)["success"]
        is False
    )
    client.debug("setVariable", variablesReference=scope, name="result", value="-1")
    client.go_on(msg_id)
    results = [m for m in client.outputs(msg_id) if m["msg_type"] == "execute_result"]
    assert results[0]["content"]["data"]["text/plain"] == "-1"
    assert client.value("kept") == "21"
    late = client.ask("evaluate", expression="value", frameId=frame)
    assert late["success"] is False


def test_a_cell_that_awaits(client: DebugClient) -> None:
    code = "import asyncio\nawait asyncio.sleep(0)\nafter = 1\nafter"
    client.set_breakpoints(code, 3)
    msg_id = client.run_to_stop(code)
    assert client.stack() == [("<module>", 3)]
    client.go_on(msg_id)
    results = [m for m in client.outputs(msg_id) if m["msg_type"] == "execute_result"]
    assert results[0]["content"]["data"]["text/plain"] == "1"


def test_a_thread_of_the_users(client: DebugClient) -> None:
    code = (
        "import threading\n"
        "def work():\n"
        "    inside = 1\n"
        "thread = threading.Thread(target=work, name='worker')\n"
        "thread.start()\n"
        "thread.join()"
    )
    client.set_breakpoints(code, 3)
    msg_id = client.execute(code)
    stopped = client.wait_event("stopped")["threadId"]
    threads = {t["id"]: t["name"] for t in client.debug("threads")["threads"]}
    assert threads[stopped] == "worker"
    assert threads[1] == "MainThread"
    assert set(threads.values()) == {"MainThread", "worker"}
    assert set(client.debug("debugInfo")["stoppedThreads"]) == set(threads)
    assert client.go_on(msg_id)["status"] == "ok"


def test_a_forked_child_does_not_stop(client: DebugClient) -> None:
    code = (
        "import os\n"
        "child = os.fork()\n"
        "if not child:\n"
        "    passed = 1\n"
        "    os._exit(7)\n"
        "os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])"
    )
    client.set_breakpoints(code, 4)
    assert client.run(code).result == "7"


# ─── a debugger that comes and goes ───


def test_it_attaches_while_a_cell_runs(shared: DebugClient) -> None:
    code = "going = True\nprint('runs', flush=True)\nwhile going:\n    again = 1"
    msg_id = shared.execute(code)
    shared.wait_printed(msg_id)
    shared.attach()
    shared.set_breakpoints(code, 4)
    assert shared.wait_event("stopped")["reason"] == "breakpoint"
    frame = shared.frames()[0]["id"]
    shared.debug("evaluate", expression="globals().update(going=False)", frameId=frame)
    shared.debug("disconnect")
    assert shared.reply(msg_id)["content"]["status"] == "ok"


def test_a_pause_stops_a_cell_and_an_interrupt_ends_it(client: DebugClient) -> None:
    msg_id = client.execute("print('runs', flush=True)\nwhile True:\n    again = 1")
    client.wait_printed(msg_id)
    client.debug("pause", threadId=1)
    assert client.wait_event("stopped")["reason"] == "pause"
    client.interrupt()
    assert client.reply(msg_id)["content"]["ename"] == "KeyboardInterrupt"


def test_an_interrupt_ends_a_stopped_cell_and_the_next_one_stops_again(client: DebugClient) -> None:
    client.set_breakpoints(FUNCTION, 3)
    for _ in range(2):
        msg_id = client.run_to_stop(FUNCTION)
        client.interrupt()
        reply = client.reply(msg_id)["content"]
        assert reply["ename"] == "KeyboardInterrupt"
        traceback = "\n".join(reply["traceback"])
        assert "pydevd" not in traceback
        assert "interrupts.py" not in traceback
        client.wait_event("continued")
        assert client.debug("debugInfo")["stoppedThreads"] == []
    assert client.value("1 + 1") == "2"


def test_an_awaiting_cell_is_interrupted_where_it_stands(client: DebugClient) -> None:
    code = "import asyncio\nawait asyncio.sleep(0)\nstands = 1\nraise RuntimeError('ran on')"
    client.set_breakpoints(code, 3)
    msg_id = client.run_to_stop(code)
    client.interrupt()
    assert client.reply(msg_id)["content"]["ename"] == "KeyboardInterrupt"
    assert client.run("await asyncio.sleep(0)").status == "ok"


def test_disconnecting_lets_the_cell_run_on_untraced(shared: DebugClient) -> None:
    for _ in range(3):
        shared.attach()
        shared.set_breakpoints(FUNCTION, 3)
        msg_id = shared.run_to_stop(FUNCTION)
        shared.debug("disconnect", restart=False, terminateDebuggee=False)
        assert shared.reply(msg_id)["content"]["status"] == "ok"
        assert shared.debug("debugInfo")["isStarted"] is False
        assert shared.value("__import__('sys').gettrace() or 'untraced'") == "'untraced'"
        names = "sorted(t.name for t in __import__('threading').enumerate() if not t.daemon)"
        assert shared.value(names) == "['MainThread']"


def test_terminating_does_not_end_the_kernel(shared: DebugClient) -> None:
    worker = shared.worker
    shared.attach()
    shared.debug("terminate")
    shared.attach()
    shared.debug("disconnect", terminateDebuggee=True)
    assert shared.worker == worker


def test_a_request_that_nothing_can_answer_is_refused(client: DebugClient) -> None:
    assert client.ask("no such command")["success"] is False
    assert client.ask("initialize", **CLIENT)["success"] is False
    assert client.ask("stackTrace", threadId=99)["success"] is False
    assert client.ask("dumpCell")["success"] is False
    assert client.debug("continue", threadId=1) == {"allThreadsContinued": True}


def test_what_is_sent_is_numbered_in_order(fresh: DebugClient) -> None:
    numbers = []
    fresh.debug("debugInfo")
    fresh.attach()
    fresh.set_breakpoints(FUNCTION, 3)
    msg_id = fresh.run_to_stop(FUNCTION)
    numbers.append(fresh.ask("threads")["seq"])
    fresh.go_on(msg_id)
    fresh.wait_event("continued")
    numbers.append(fresh.ask("disconnect")["seq"])
    events = [message["content"]["seq"] for message in fresh.events()]
    assert events == sorted(set(events))
    assert not set(events) & set(numbers)
    assert max(events) < numbers[-1]


def test_debug_info_is_answered_while_nothing_else_can_run(fresh: DebugClient) -> None:
    fresh.attach()
    code = "import ctypes\nprint('runs', flush=True)\nctypes.PyDLL(None).usleep(2_000_000)"
    msg_id = fresh.execute(code)
    fresh.wait_printed(msg_id)
    begin = time.monotonic()
    assert fresh.debug("debugInfo")["isStarted"] is True
    taken = time.monotonic() - begin
    assert fresh.reply(msg_id)["content"]["status"] == "ok"
    assert taken < 1


# ─── deaths ───


def test_a_death_answers_what_waits_and_a_new_worker_can_be_debugged(fresh: DebugClient) -> None:
    worker = fresh.worker
    fresh.attach()
    fresh.set_breakpoints(FUNCTION, 3)
    cell = fresh.execute(FUNCTION, allow_stdin=True)
    fresh.wait_event("stopped")
    frame = fresh.frames()[0]["id"]
    waits = "print('in', flush=True) or __import__('time').sleep(60)"
    waiting = fresh.send_debug("evaluate", expression=waits, frameId=frame, context="repl")
    fresh.wait_printed(cell)  # a request that came after the death would be refused
    os.kill(worker, signal.SIGKILL)
    response = fresh.debug_reply(waiting)
    assert response["success"] is False
    assert "SIGKILL" in response["message"]
    assert fresh.reply(cell)["content"]["status"] == "error"
    fresh.wait_event("terminated")
    assert fresh.debug("debugInfo")["isStarted"] is False
    assert fresh.debug("debugInfo")["breakpoints"] == []

    fresh.attach()
    fresh.set_breakpoints(FUNCTION, 3)
    msg_id = fresh.run_to_stop(FUNCTION)
    assert fresh.stack()[0] == ("double", 3)
    assert fresh.go_on(msg_id)["status"] == "ok"
    assert fresh.worker != worker


def test_a_kernel_restarts_while_a_cell_stands_still() -> None:
    manager = KernelManager(kernel_name=support.KERNEL)
    manager.start_kernel()
    try:
        for _ in range(2):
            client = DebugClient(manager.connection_file)
            client.wait_ready()
            client.attach()
            client.set_breakpoints(FUNCTION, 3)
            client.run_to_stop(FUNCTION)
            client.close()
            begin = time.monotonic()
            manager.restart_kernel()
            assert time.monotonic() - begin < TIMEOUT / 2
    finally:
        manager.shutdown_kernel(now=True)


# ─── beside ipykernel ───


def tour(client: DebugClient) -> list[tuple[str, bool, list[str]]]:
    """The requests of a usual session: each with its success and the names in its body."""
    taken: list[tuple[str, bool, list[str]]] = []

    def ask(command: str, **arguments: Any) -> Message:
        response = client.ask(command, **arguments)
        body: Message = response.get("body") or {}
        # What a debug adapter can do is told in other words by debugpy itself.
        names = [] if command == "initialize" else sorted(body)
        taken.append((command, response["success"], names))
        return body

    client.run("listed = [1, 2]\nlisted_too = {'a': listed}")
    ask("debugInfo")
    first = {v["name"] for v in ask("inspectVariables")["variables"]}
    taken.append(("names", True, sorted(first)))
    ask("initialize", **CLIENT)
    ask("initialize", **CLIENT)
    ask("attach")
    path = ask("dumpCell", code=FUNCTION)["sourcePath"]
    ask("setBreakpoints", source={"path": path}, breakpoints=[{"line": 3}])
    ask("setExceptionBreakpoints", filters=[])
    ask("configurationDone")
    ask("source", source={"path": path})
    ask("source", source={"path": "/nowhere"})
    msg_id = client.run_to_stop(FUNCTION)
    info = ask("debugInfo")
    taken.append(("breakpoints", True, [json.dumps(b["breakpoints"]) for b in info["breakpoints"]]))
    ask("threads")
    frames = ask("stackTrace", threadId=1)["stackFrames"]
    taken.append(("frames", True, [f"{f['name']}:{f['line']}:{sorted(f)}" for f in frames]))
    scopes = ask("scopes", frameId=frames[0]["id"])["scopes"]
    taken.append(("scopes", True, [scope["name"] for scope in scopes]))
    for scope in scopes:
        found = ask("variables", variablesReference=scope["variablesReference"])["variables"]
        taken.append(("variables", True, sorted(v["name"] for v in found)))
    ask("evaluate", expression="value * 2", frameId=frames[0]["id"], context="repl")
    reference = scopes[0]["variablesReference"]
    ask("setVariable", variablesReference=reference, name="result", value="5")
    ask("next", threadId=1)
    client.wait_event("stopped")
    ask("continue", threadId=1)
    taken.append((str(client.reply(msg_id)["content"]["status"]), True, []))
    ask("setFunctionBreakpoints", breakpoints=[])
    ask("disconnect", restart=False, terminateDebuggee=False)
    ask("debugInfo")
    return taken


def test_a_session_goes_as_with_ipykernel(monkeypatch: pytest.MonkeyPatch) -> None:
    taken = {}
    for name in ("pyrepl", "python3"):
        monkeypatch.setattr(support, "KERNEL", name)
        with running_kernel() as kernel:
            client = debug_client(kernel)
            taken[name] = tour(client)
            client.close()
    assert taken["pyrepl"] == taken["python3"]
