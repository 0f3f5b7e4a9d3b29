"""Streams, threads and their parents: the lines S of docs/compatibility.md."""

from __future__ import annotations

import pytest

from tests.e2e.support import Client

from .support import check, contents, run


@pytest.fixture(autouse=True)
def names(client: Client) -> None:
    """What each test uses."""
    run(client, "import asyncio, contextlib, io, os, subprocess, sys, threading")


def test_what_a_stream_says_of_itself(client: Client) -> None:
    """S1: `isatty`, `encoding`, `errors`, `buffer`, `fileno`, `writable`."""
    check(client, "(sys.stdout.isatty(), sys.stdout.writable()) == (False, True)")
    check(client, "sys.stdout.encoding.lower() == 'utf-8' and sys.stdout.errors == 'strict'")
    outcome = run(
        client,
        "print('a', flush=True); sys.stdout.buffer.write(b'b\\n'); sys.stdout.flush()\n"
        "os.write(sys.stdout.fileno(), b'c\\n');",
    )
    assert sorted(outcome.text.split()) == ["a", "b", "c"]


def test_a_threads_output_is_the_latest_cells(client: Client) -> None:
    """S2: by default."""
    run(
        client,
        """
go, done = threading.Event(), threading.Event()
def say():
    go.wait(10); print("said"); done.set()
threading.Thread(target=say).start()
""",
    )
    assert run(client, "go.set(); done.wait(10);").text == "said\n"


@pytest.mark.parametrize(
    "pin",
    [
        "get_ipython().set_parent(parent)",
        "get_ipython().kernel.set_parent([], parent)",
        "sys.stdout.set_parent(parent)",
        "sys.stdout.parent_header = parent['header']",
        "get_ipython().display_pub.set_parent(parent)",
        "get_ipython().set_thread_parent(parent)",
    ],
)
def test_a_thread_pins_its_cell(client: Client, pin: str) -> None:
    """S2: `set_parent` in a thread: its output goes to that cell, whichever runs."""
    first = client.execute(f"""
from IPython.display import display
parent = get_ipython().get_parent()
go, done = threading.Event(), threading.Event()
def say():
    {pin}
    go.wait(10); print("said"); sys.stdout.flush(); display("shown"); done.set()
threading.Thread(target=say).start()
""")
    assert client.outcome(first).status == "ok"
    second = run(client, "go.set(); done.wait(10); print('second')")
    assert second.text == "second\n"
    assert not contents(second.messages, "display_data")
    messages = client.outputs_so_far(first)
    assert contents(messages, "stream") == [{"name": "stdout", "text": "said\n"}]
    assert contents(messages, "display_data")[0]["data"] == {"text/plain": "'shown'"}


def test_a_pin_is_taken_back(client: Client) -> None:
    """S2: `reset_thread_parent`."""
    first = client.execute("parent = get_ipython().get_parent()")
    client.outcome(first)
    second = run(
        client,
        "token = get_ipython().set_thread_parent(parent); print('first')\n"
        "get_ipython().reset_thread_parent(token); print('second')",
    )
    assert second.text == "second\n"
    assert contents(client.outputs_so_far(first), "stream")[0]["text"] == "first\n"


def test_a_tasks_output_is_its_cells(client: Client) -> None:
    """S2: a task carries the context of the cell that made it."""
    first = client.execute("""
ready = asyncio.Event(); over = asyncio.Event()
async def say():
    await ready.wait(); print("from the task"); over.set()
task = asyncio.create_task(say())
""")
    assert client.outcome(first).status == "ok"
    second = run(client, "ready.set(); await over.wait(); print('second')")
    assert second.text == "second\n"
    assert contents(client.outputs_so_far(first), "stream")[0]["text"] == "from the task\n"


def test_output_of_children_and_of_c(client: Client) -> None:
    """S3: `os.system`, `subprocess.run`, `!cmd` and C reach the cell before its end."""
    outcome = run(
        client,
        """
os.system("echo system")
subprocess.run(["echo", "subprocess"])
!echo shell
import ctypes; libc = ctypes.CDLL(None); libc.printf(b"from C\\n");
""",
    )
    assert sorted(outcome.text.split()) == ["C", "from", "shell", "subprocess", "system"]


def test_swapped_streams(client: Client) -> None:
    """S4: `%%capture` and `contextlib.redirect_stdout`."""
    outcome = run(
        client,
        "with contextlib.redirect_stdout(io.StringIO()) as said: print('hidden')\n"
        "print(repr(said.getvalue()))",
    )
    assert outcome.text == "'hidden\\n'\n"
    assert run(client, "%%capture captured\nprint('hidden'); 5").text == ""
    check(client, "captured.stdout == 'hidden\\n'")


def test_faulthandler(client: Client) -> None:
    """S5: `faulthandler.enable()` finds a real descriptor, and dumps into the notebook."""
    outcome = run(
        client, "import faulthandler; faulthandler.enable(); faulthandler.dump_traceback()"
    )
    text = "".join(c["text"] for c in contents(outcome.messages, "stream"))
    assert "most recent call first" in text


def test_pdb_and_input(client: Client) -> None:
    """S5: `input`, `getpass` and `breakpoint()` ask the front end."""
    code = "import getpass\nname, word = input('n'), getpass.getpass('p')\nbreakpoint()"
    asked = client.execute(code, allow_stdin=True)
    prompts = []
    for answer in ("Ada", "secret", "c"):
        message = client.kc.get_stdin_msg(timeout=20)
        prompts.append((message["content"]["prompt"], message["content"]["password"]))
        client.kc.input(answer)
    assert client.outcome(asked).status == "ok"
    assert prompts == [("n", False), ("p", True), ("ipdb> ", False)]
    check(client, "(name, word) == ('Ada', 'secret')")
