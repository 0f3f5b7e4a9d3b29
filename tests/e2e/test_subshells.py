"""Subshells (JEP 91): cells, completion and comm messages beside a cell of the main shell's."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from .support import Client, KernelProcess, Message, Outcome, only_ours, running_kernel

pytestmark = only_ours

# Ends when told to by a subshell; a bound of its own, should that never come.
BUSY = """
import time as _time
print('busy', flush=True)
is_free, _end = False, _time.monotonic() + 60
while not is_free and _time.monotonic() < _end: pass
print('free')
"""
HOLD_THE_GIL = "import ctypes\nprint('holding', flush=True)\nctypes.PyDLL(None).usleep(12_000_000)"


class Subshell:
    """A subshell, and a client that speaks to it."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.id: str = control(client, "create_subshell_request")["subshell_id"]

    def send(self, msg_type: str, content: Message, buffers: list[bytes] | None = None) -> str:
        """Send a request to the subshell."""
        message = self.client.kc.session.msg(msg_type, content)
        message["header"]["subshell_id"] = self.id
        if buffers:
            message["buffers"] = buffers
        self.client.kc.shell_channel.send(message)
        msg_id = str(message["header"]["msg_id"])
        self.client.asked.append(msg_id)
        return msg_id

    def execute(self, code: str, **options: object) -> str:
        """Send a cell."""
        content = {"code": code, "silent": False, "store_history": True, "allow_stdin": False}
        return self.send("execute_request", content | options)

    def run(self, code: str, **options: object) -> Outcome:
        """Run a cell to its end."""
        return self.client.outcome(self.execute(code, **options))

    def ask(self, msg_type: str, **content: Any) -> Message:
        """The content of the reply to a request."""
        reply: Message = self.client.reply(self.send(msg_type, content))["content"]
        return reply

    def delete(self) -> Message:
        """Delete it."""
        return control(self.client, "delete_subshell_request", subshell_id=self.id)


def control(client: Client, msg_type: str, **content: Any) -> Message:
    """The content of the reply to a control request."""
    request = client.send(msg_type, content, channel="control")
    reply: Message = client.reply(request, channel="control")["content"]
    return reply


@contextlib.contextmanager
def kernel_with_subshells() -> Iterator[KernelProcess]:
    """A kernel that was started with the option."""
    with contextlib.ExitStack() as stack:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("PYREPL_SUBSHELLS", "true")
            kernel = stack.enter_context(running_kernel())
        yield kernel


@pytest.fixture(scope="module")
def kernel() -> Iterator[KernelProcess]:
    """A kernel for the tests of this module."""
    with kernel_with_subshells() as kernel:
        yield kernel


@pytest.fixture
def client(kernel: KernelProcess) -> Iterator[Client]:
    """A client; the subshells go with it."""
    client = kernel.client()
    yield client
    for subshell_id in control(client, "list_subshell_request")["subshell_id"]:
        control(client, "delete_subshell_request", subshell_id=subshell_id)


@pytest.fixture
def subshell(client: Client) -> Subshell:
    """A subshell."""
    return Subshell(client)


@pytest.fixture
def busy(client: Client, subshell: Subshell) -> Iterator[str]:
    """A cell of the main shell's that runs until the test has ended."""
    cell = client.execute(BUSY)
    client.wait_printed(cell)
    yield cell
    assert subshell.run("is_free = True").status == "ok"
    assert client.outcome(cell).text == "busy\nfree\n"


# ------------------------------------------------------------------- the option


def test_they_are_announced_where_they_are_on(client: Client) -> None:
    reply = client.reply(client.send("kernel_info_request", {}))["content"]
    assert "kernel subshells" in reply["supported_features"]


def test_without_the_option_there_are_none() -> None:
    with running_kernel() as kernel:
        client = kernel.client()
        reply = client.reply(client.send("kernel_info_request", {}))["content"]
        assert "kernel subshells" not in reply["supported_features"]
        for kind in ("create", "list", "delete"):
            reply = control(client, f"{kind}_subshell_request", subshell_id="x")
            assert reply["status"] == "error"
            assert "--subshells" in reply["evalue"]
        assert client.run("%subshell").text == "Kernel does not support subshells\n"


def test_no_thread_is_made_before_the_first_one() -> None:
    made = (
        "import sys, threading\n"
        "'asyncio' in sys.modules, [t.name for t in threading.enumerate() if 'subshell' in t.name]"
    )
    with kernel_with_subshells() as kernel:
        client = kernel.client()
        assert client.value(made) == "(False, [])"
        subshell = Subshell(client)
        assert client.value(made) == f"(True, ['subshell-{subshell.id}'])"


# ------------------------------------------------------- create, list and delete


def test_create_list_and_delete(client: Client) -> None:
    first, second = Subshell(client), Subshell(client)
    assert control(client, "list_subshell_request")["subshell_id"] == [first.id, second.id]
    assert first.delete() == {"status": "ok"}
    assert control(client, "list_subshell_request")["subshell_id"] == [second.id]


def test_they_are_created_and_deleted_while_the_main_shell_is_busy(
    client: Client, busy: str
) -> None:
    other = Subshell(client)
    assert other.run("1 + 1").result == "2"
    assert other.delete()["status"] == "ok"


@pytest.mark.parametrize(
    ("kind", "content"),
    [
        ("execute_request", {"code": "1"}),
        ("complete_request", {"code": "pri", "cursor_pos": 3}),
        ("kernel_info_request", {}),
        ("comm_msg", {"comm_id": "x", "data": {}}),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_one_that_is_not_there_gets_an_error(
    client: Client, subshell: Subshell, kind: str, content: Message
) -> None:
    assert subshell.delete()["status"] == "ok"
    request = subshell.send(kind, content)
    if kind.endswith("_request"):
        reply = client.reply(request)
        assert reply["content"]["ename"] == "UnknownSubshellError"
        assert subshell.id in reply["content"]["evalue"]
        assert reply["msg_type"] == kind.replace("_request", "_reply")
    states = [m["content"]["execution_state"] for m in client.outputs(request)]
    assert states == ["busy", "idle"]
    assert subshell.delete()["ename"] == "UnknownSubshellError"


def test_deletion_waits_for_the_cell_at_work_and_aborts_what_waits(
    client: Client, subshell: Subshell
) -> None:
    client.run("go_on = False")
    cell = subshell.execute(
        "import time\nprint('at work', flush=True)\nwhile not go_on: time.sleep(0.01)\n'done'"
    )
    client.wait_printed(cell)
    waiting = subshell.execute("print('never')")
    deletion = client.send(
        "delete_subshell_request", {"subshell_id": subshell.id}, channel="control"
    )
    assert client.outcome(waiting).status == "aborted"
    # It is gone for others, and nobody else has to wait.
    assert subshell.run("1").error == "UnknownSubshellError"
    assert control(client, "list_subshell_request")["subshell_id"] == []
    assert client.run("go_on = True").status == "ok"
    assert client.outcome(cell).result == "'done'"
    assert client.reply(deletion, channel="control")["content"] == {"status": "ok"}


def test_deletion_cancels_a_cell_that_awaits(client: Client, subshell: Subshell) -> None:
    cell = subshell.execute(
        "import asyncio\nprint('awaits', flush=True)\nawait asyncio.sleep(1000)"
    )
    client.wait_printed(cell)
    assert subshell.delete()["status"] == "ok"
    assert client.outcome(cell).status == "error"


# -------------------------------------------------------------------- executing


def test_a_cell_runs_while_the_main_shell_is_busy(subshell: Subshell, busy: str) -> None:
    outcome = subshell.run("made_aside = 5\nprint('out')\nmade_aside + 1")
    assert (outcome.status, outcome.text, outcome.result) == ("ok", "out\n", "6")


def test_the_namespace_is_the_same(client: Client, subshell: Subshell) -> None:
    client.run("shared = [1]")
    subshell.run("shared.append(2)")
    assert client.value("shared") == "[1, 2]"


def test_each_output_has_its_own_parent(client: Client, subshell: Subshell) -> None:
    client.run("import threading; turn = threading.Barrier(2, timeout=30)")
    code = """
import sys
from IPython.display import display
def speak_{0}():
    for n in range(20):
        turn.wait()
        print('{0}', n)
        print('{0}', file=sys.stderr)
        display('{0}')
        child = threading.Thread(target=print, args=('{0} thread',))
        child.start()
        child.join()
    turn.wait()
    return '{0} result'
speak_{0}()
"""
    cells = {
        "sub": subshell.execute(code.format("sub")),
        "main": client.execute(code.format("main")),
    }
    for name, cell in cells.items():
        outcome = client.outcome(cell)
        assert outcome.status == "ok"
        assert outcome.text == "".join(f"{name} {n}\n{name} thread\n" for n in range(20))
        assert outcome.types.count("display_data") == 20
        assert outcome.result == f"'{name} result'"
        other = "main" if name == "sub" else "sub"
        said = [m["content"] for m in outcome.messages if m["msg_type"] != "execute_input"]
        assert other not in str(said)


def test_each_error_is_its_own(client: Client, subshell: Subshell) -> None:
    client.run("import threading; turn = threading.Barrier(2, timeout=30)")
    cells = {
        "KeyError": subshell.execute("turn.wait(); raise KeyError('sub')"),
        "ValueError": client.execute("turn.wait(); raise ValueError('main')"),
    }
    for name, cell in cells.items():
        outcome = client.outcome(cell)
        assert outcome.error == name
        assert name in str(outcome.reply["content"]["traceback"])


def test_counts_go_on_and_each_result_has_its_own(client: Client, subshell: Subshell) -> None:
    first = int(client.run("1").reply["content"]["execution_count"])
    cell = client.execute(BUSY + "\n'main'")
    client.wait_printed(cell)
    aside = subshell.run("'aside'")
    assert subshell.run("is_free = True").status == "ok"
    counts = []
    for outcome in (client.outcome(cell), aside):
        shown = {
            message["content"]["execution_count"]
            for message in outcome.messages
            if message["msg_type"] in ("execute_input", "execute_result")
        }
        counts.append(outcome.reply["content"]["execution_count"])
        assert shown == {counts[-1]}
    assert counts == [first + 1, first + 2]
    assert client.run("1").reply["content"]["execution_count"] == first + 4
    assert client.value(f"Out[{first + 1}], Out[{first + 2}]") == "('main', 'aside')"


def test_the_cells_of_one_run_one_after_the_other(client: Client, subshell: Subshell) -> None:
    client.run("order = []")
    cells = [subshell.execute(f"order.append({n})") for n in range(20)]
    for cell in cells:
        assert client.outcome(cell).status == "ok"
    assert client.value("order == list(range(20))") == "True"


def test_two_of_them_run_at_the_same_time(client: Client) -> None:
    client.run("import threading; meeting = threading.Barrier(3, timeout=30)")
    cells = [Subshell(client).execute("meeting.wait() >= 0") for _ in range(2)]
    cells.append(client.execute("meeting.wait() >= 0"))
    assert [client.outcome(cell).result for cell in cells] == ["True"] * 3


def test_an_error_aborts_what_waits_in_the_same_shell_alone(
    client: Client, subshell: Subshell, busy: str
) -> None:
    waiting_in_main = client.execute("'main runs'")
    failing = subshell.execute("import time\nprint(1, flush=True)\ntime.sleep(0.3)\n1/0")
    client.wait_printed(failing)
    waiting = subshell.execute("'never'")
    assert client.outcome(failing).error == "ZeroDivisionError"
    assert client.outcome(waiting).status == "aborted"
    assert subshell.run("is_free = True").status == "ok"
    assert client.outcome(waiting_in_main).result == "'main runs'"


def test_an_interrupt_ends_the_main_shells_cell_alone(client: Client, subshell: Subshell) -> None:
    client.run("go_on = False")
    aside = subshell.execute(
        "import time\nprint('aside', flush=True)\nwhile not go_on: time.sleep(0.01)\n'done'"
    )
    client.wait_printed(aside)
    cell = client.execute("print('main', flush=True)\nwhile True: pass")
    client.wait_printed(cell)
    client.interrupt()
    assert client.outcome(cell).error == "KeyboardInterrupt"
    client.interrupt()  # with no cell in the main shell
    assert client.run("go_on = True").status == "ok"
    assert client.outcome(aside).result == "'done'"


def test_an_interrupt_ends_a_child_process_of_a_subshell(
    client: Client, subshell: Subshell
) -> None:
    cell = subshell.execute("print('sleeps', flush=True)\nimport os\nos.system('exec sleep 1000')")
    client.wait_printed(cell)
    for _ in range(30):
        client.interrupt()
        # The child may not have been there yet.
        with contextlib.suppress(TimeoutError):
            assert client.reply(cell, timeout=1)["content"]["status"] == "ok"
            break
    results = [m for m in client.outputs(cell) if m["msg_type"] == "execute_result"]
    assert results[0]["content"]["data"]["text/plain"] == "2"


def test_asyncio_in_a_subshell(client: Client, subshell: Subshell, busy: str) -> None:
    assert subshell.run("import asyncio\nawait asyncio.sleep(0)\n'awaited'").result == "'awaited'"
    assert subshell.run("async def f(): return 7\nasyncio.run(f())").result == "7"
    subshell.run("done = asyncio.Event()\ntask = asyncio.create_task(done.wait())")
    subshell.run("async def finish(): done.set()\nbetween = asyncio.create_task(finish())")
    assert subshell.run("await asyncio.wait_for(task, 10)").result == "True"


def test_the_main_shell_has_its_loop_when_a_subshell_imported_asyncio() -> None:
    with kernel_with_subshells() as kernel:
        client = kernel.client()
        Subshell(client).run("import asyncio")
        code = "import asyncio\nasync def f(): return 3\ntask = asyncio.create_task(f())"
        assert client.run(code).status == "ok"
        assert client.value("await task") == "3"


def test_both_ask_for_input_at_the_same_time(client: Client, subshell: Subshell) -> None:
    cells = {
        "sub": subshell.execute("input('sub? ')", allow_stdin=True),
        "main": client.execute("input('main? ')", allow_stdin=True),
    }
    questions = {}
    for _ in cells:
        question = client.kc.get_stdin_msg(timeout=30)
        questions[question["parent_header"]["msg_id"]] = question
    for name, cell in cells.items():
        question = questions[cell]
        assert question["content"]["prompt"] == f"{name}? "
        session = client.kc.session
        answer = session.msg("input_reply", {"value": f"for {name}"}, parent=question)
        client.kc.stdin_channel.send(answer)
    for name, cell in cells.items():
        assert client.outcome(cell).result == f"'for {name}'"


def test_output_of_a_child_process(subshell: Subshell, busy: str) -> None:
    outcome = subshell.run("import subprocess\nsubprocess.run(['echo', 'child']).returncode")
    assert (outcome.text, outcome.result) == ("child\n", "0")


def test_the_magic(client: Client, subshell: Subshell, busy: str) -> None:
    lines = dict(line.split(": ", 1) for line in subshell.run("%subshell").text.splitlines())
    assert lines["subshell id"] == subshell.id
    assert lines["subshell list"] == str([subshell.id])
    assert lines["thread id"] != lines["main thread id"]


# ------------------------------------------------------------------ other requests


@pytest.mark.parametrize("is_known", [False, True], ids=["the first one", "after one"])
def test_a_transaction_is_refused(own: Client, is_known: bool) -> None:
    if is_known:
        assert own.run("%%transaction\nin_main = 1").status == "ok"
    subshell = Subshell(own)
    outcome = subshell.run("%%transaction\nin_subshell = 1")
    assert outcome.error == "UsageError"
    assert "main shell" in outcome.reply["content"]["evalue"]
    assert subshell.run("print('in_subshell' in globals())").text == "False\n"


def test_completion_and_the_like_while_the_main_shell_is_busy(
    subshell: Subshell, busy: str
) -> None:
    subshell.run("a_name_to_complete = 1")
    reply = subshell.ask("complete_request", code="a_name_to_c", cursor_pos=11)
    assert reply["matches"] == ["a_name_to_complete"]
    reply = subshell.ask("inspect_request", code="len", cursor_pos=3, detail_level=0)
    assert reply["found"]
    assert subshell.ask("is_complete_request", code="for x in y:")["status"] == "incomplete"
    assert subshell.ask("comm_info_request")["comms"] == {}
    reply = subshell.ask("history_request", hist_access_type="tail", n=3, raw=True, output=False)
    assert "a_name_to_complete = 1" in str(reply["history"])


def test_completion_is_given_up_while_c_code_holds_the_gil(
    client: Client, subshell: Subshell
) -> None:
    cell = client.execute(HOLD_THE_GIL)
    client.wait_printed(cell)
    assert subshell.ask("complete_request", code="pri", cursor_pos=3)["matches"] == []
    with pytest.raises(TimeoutError):
        client.reply(cell, timeout=0.1)  # it holds it still
    assert client.outcome(cell).status == "ok"


def test_a_widget_is_served_while_the_main_shell_is_busy(
    client: Client, subshell: Subshell
) -> None:
    client.run(
        "from comm import get_comm_manager, create_comm\n"
        "def opened(comm, msg):\n"
        "    comm.on_msg(lambda m: (print('got', m['content']['data']['x']),"
        " comm.send({'echo': bytes(m['buffers'][0]).decode()})))\n"
        "get_comm_manager().register_target('aside', opened)"
    )
    opening = client.send("comm_open", {"comm_id": "c1", "target_name": "aside", "data": {}})
    client.outputs(opening)
    cell = client.execute(BUSY)
    client.wait_printed(cell)
    message = subshell.send("comm_msg", {"comm_id": "c1", "data": {"x": 3}}, [b"bytes"])
    said = [(m["msg_type"], m["content"]) for m in client.outputs(message)]
    assert ("stream", {"name": "stdout", "text": "got 3\n"}) in said
    assert ("comm_msg", {"comm_id": "c1", "data": {"echo": "bytes"}}) in said
    assert subshell.run("is_free = True").status == "ok"
    assert client.outcome(cell).status == "ok"


def test_a_cell_that_awaits_a_comm_message(client: Client, subshell: Subshell, busy: str) -> None:
    code = """
import asyncio, comm
answer = asyncio.get_running_loop().create_future()
c = comm.create_comm('front', comm_id='c2')
c.on_msg(lambda m: answer.set_result(m['content']['data']))
print('asked', flush=True)
await asyncio.wait_for(answer, 30)
"""
    cell = subshell.execute(code)
    client.wait_printed(cell)
    # The front end need not know in which shell the comm was made.
    client.send("comm_msg", {"comm_id": "c2", "data": {"value": 4}})
    assert client.outcome(cell).result == "{'value': 4}"


# ------------------------------------------------------------------- life and death


@pytest.fixture
def own() -> Iterator[Client]:
    """A client of a kernel of the test's own."""
    with kernel_with_subshells() as kernel:
        yield kernel.client()


@pytest.mark.parametrize("killer", ["main", "subshell"])
def test_a_death_ends_what_subshells_do(own: Client, killer: str) -> None:
    subshell = Subshell(own)
    runs: dict[str, Callable[..., str]] = {"main": own.execute, "subshell": subshell.execute}
    victim = "subshell" if killer == "main" else "main"
    wait = "import time\nprint('waits', flush=True)\ntime.sleep(1000)"
    cell = runs[victim](wait, allow_stdin=True)
    own.wait_printed(cell)
    fatal = runs[killer]("import os\nos.kill(os.getpid(), 9)", allow_stdin=True)
    for ended in (cell, fatal):
        assert own.outcome(ended).error == "WorkerDied"
    # The new worker has none.
    assert own.run("'lives'").result == "'lives'"
    assert control(own, "list_subshell_request")["subshell_id"] == []
    assert subshell.run("1").error == "UnknownSubshellError"
    assert Subshell(own).run("'again'").result == "'again'"


def test_shutdown_ends_a_busy_subshell(own: Client) -> None:
    cell = Subshell(own).execute("print('busy', flush=True)\nwhile True: pass")
    own.wait_printed(cell)
    assert control(own, "shutdown_request", restart=False)["status"] == "ok"
    assert own.outcome(cell).status == "error"


def test_beside_a_breakpoint(own: Client) -> None:
    pytest.importorskip("debugpy", reason="the debugger is not installed; install debugpy")
    subshell = Subshell(own)

    def debug(command: str, **arguments: Any) -> Message:
        content = {"type": "request", "seq": 1, "command": command, "arguments": arguments}
        return control(own, "debug_request", **content)

    assert debug("initialize", clientID="test", adapterID="", pathFormat="path")["success"]
    assert debug("attach")["success"]
    code = "stopped = 1\nstopped = 2\n"
    path = debug("dumpCell", code=code)["body"]["sourcePath"]
    debug("setBreakpoints", source={"path": path}, breakpoints=[{"line": 2}])
    debug("configurationDone")
    cell = own.execute(code)
    deadline = time.monotonic() + 30
    while not debug("debugInfo")["body"]["stoppedThreads"]:
        assert time.monotonic() < deadline
    assert subshell.run("stopped").result == "1"
    thread = debug("debugInfo")["body"]["stoppedThreads"][0]
    debug("continue", threadId=thread)
    assert own.outcome(cell).status == "ok"
    assert subshell.run("stopped").result == "2"
