"""K1: messages and handlers of the user's own, as wrapper kernels and libraries have them."""

from __future__ import annotations

from typing import Any

import pytest

from tests.compat.support import check, contents, run
from tests.e2e.support import Client, Message

SETUP = "kernel = get_ipython().kernel\nimport time, asyncio"

ECHO = """
def echo(stream, ident, message):
    buffers = [bytes(buffer).decode() for buffer in message["buffers"]]
    content = {"got": message["content"], "buffers": buffers}
    print("echoes")
    kernel.session.send(stream, "echo_reply", content, parent=message, ident=ident)
"""


@pytest.fixture(autouse=True)
def names(client: Client) -> None:
    """The names that the cells use, and no handlers."""
    run(client, SETUP)


def ask(client: Client, kind: str, channel: str = "shell", **content: Any) -> Message:
    """The content of the reply to a request."""
    request = client.send(kind, content, channel=channel)
    reply = client.reply(request, channel=channel)
    assert reply["msg_type"] == kind.replace("_request", "_reply")
    assert [c["execution_state"] for c in contents(client.outputs(request), "status")] == [
        "busy",
        "idle",
    ]
    content_of_reply: Message = reply["content"]
    return content_of_reply


def test_a_message_of_any_type_on_iopub(client: Client) -> None:
    """K1: what a library sends on iopub arrives, in order, whatever its type."""
    outcome = run(
        client,
        """
iopub = kernel.iopub_socket
kernel.send_response(iopub, "my_news", {"a": [1, None]}, metadata={"m": 1}, buffers=[b"raw"])
kernel.session.send(iopub, "data_pub", {"b": 2})
print("after")
""",
    )
    ours = ("status", "execute_input")
    news, pub, after = [m for m in outcome.messages if m["msg_type"] not in ours]
    assert (news["msg_type"], news["content"]) == ("my_news", {"a": [1, None]})
    assert news["metadata"] == {"m": 1}
    assert [bytes(buffer) for buffer in news["buffers"]] == [b"raw"]
    assert (pub["msg_type"], pub["content"]) == ("data_pub", {"b": 2})
    assert after["msg_type"] == "stream"


def test_a_type_that_is_no_word(client: Client) -> None:
    """K1: a type that would break the header is refused where it is sent."""
    code = "kernel.send_response(kernel.iopub_socket, 'two words', {})"
    assert client.run(code).error == "ValueError"


def test_a_handler_of_the_shell_channel(client: Client) -> None:
    """K1: a registered handler answers, once, until it is taken away."""
    assert ask(client, "echo_request", x=1)["ename"] == "UnknownMessageType"
    run(client, ECHO + "kernel.shell_handlers['echo_request'] = echo")
    message = client.kc.session.msg("echo_request", {"x": 2})
    message["buffers"] = [b"bytes"]
    client.kc.shell_channel.send(message)
    request = client._remember(message)
    assert client.reply(request)["content"] == {"got": {"x": 2}, "buffers": ["bytes"]}
    assert "echoes\n" in [m["content"].get("text") for m in client.outputs(request)]
    assert client.unread(request, "shell") == []  # one reply
    run(client, "del kernel.shell_handlers['echo_request']")
    assert ask(client, "echo_request")["ename"] == "UnknownMessageType"


def test_a_handler_runs_in_its_turn(client: Client) -> None:
    """K1: a handler of the shell channel runs when the cells before it have ended."""
    run(
        client,
        """
def tell(stream, ident, message):
    kernel.send_response(stream, "state_reply", {"state": state}, ident)
kernel.shell_handlers["state_request"] = tell
""",
    )
    cell = client.execute("state = 1\nprint('busy', flush=True)\ntime.sleep(0.5)\nstate = 2")
    client.wait_printed(cell)
    assert ask(client, "state_request") == {"state": 2}
    assert client.outcome(cell).status == "ok"


def test_a_handler_of_the_control_channel_while_a_cell_runs(client: Client) -> None:
    """K1: a handler of the control channel does not wait."""
    run(client, ECHO + "kernel.control_handlers['echo_request'] = echo")
    cell = client.execute("go_on = True\nprint('busy', flush=True)\nwhile go_on: pass")
    client.wait_printed(cell)
    assert ask(client, "echo_request", "control", y=3)["got"] == {"y": 3}
    assert ask(client, "echo_request")["ename"] == "UnknownMessageType"  # on shell
    client.interrupt()
    assert client.outcome(cell).error == "KeyboardInterrupt"
    run(client, "kernel.control_handlers.pop('echo_request')")


def test_a_coroutine_as_a_handler(client: Client) -> None:
    """K1: a handler may be a coroutine function."""
    run(
        client,
        """
async def later(stream, ident, message):
    await asyncio.sleep(0)
    kernel.send_response(stream, "later_reply", {"status": "ok"})
kernel.shell_handlers["later_request"] = kernel.control_handlers["later_request"] = later
""",
    )
    for channel in ("shell", "control"):
        assert ask(client, "later_request", channel) == {"status": "ok"}


def test_a_handler_that_fails_or_says_nothing(client: Client) -> None:
    """K1: the client gets a reply all the same."""
    run(
        client,
        """
def fails(stream, ident, message): raise KeyError("why")
kernel.shell_handlers["fails_request"] = fails
kernel.shell_handlers["silent_request"] = lambda stream, ident, message: None
""",
    )
    assert ask(client, "fails_request")["ename"] == "KeyError"
    assert ask(client, "silent_request")["ename"] == "NoReply"


def test_an_interrupt_of_a_handler(client: Client) -> None:
    """K1: a handler can be interrupted, and the client hears of it."""
    run(
        client,
        "def spins(stream, ident, message):\n    print('spins', flush=True)\n    while True: pass\n"
        "kernel.shell_handlers['spins_request'] = spins",
    )
    request = client.send("spins_request", {})
    client.wait_printed(request)
    client.interrupt()
    assert client.reply(request)["content"]["ename"] == "KeyboardInterrupt"
    check(client, "True")


def test_a_reply_that_comes_later(client: Client) -> None:
    """K1: a handler may keep the identities, and answer when it has ended."""
    run(
        client,
        """
asked = []
kernel.shell_handlers["slow"] = lambda *arguments: asked.append(arguments)
""",
    )
    request = client.send("slow", {})
    client.outputs(request)
    run(client, "s, i, m = asked[0]\nkernel.session.send(s, 'slow_answer', {'late': 1}, m, i);")
    reply = client.reply(request)
    assert (reply["msg_type"], reply["content"]) == ("slow_answer", {"late": 1})


def test_a_handler_that_wraps_the_kernels_own(client: Client) -> None:
    """K1: a library looks at completion requests and passes them on."""
    run(
        client,
        """
own = kernel.shell_handlers["complete_request"]
seen = []
def wrapper(stream, ident, message):
    seen.append(message["content"]["code"])
    return own(stream, ident, message)
kernel.shell_handlers["complete_request"] = wrapper
""",
    )
    assert "print" in ask(client, "complete_request", code="prin", cursor_pos=4)["matches"]
    run(client, "kernel.shell_handlers['complete_request'] = own")
    check(client, "seen == ['prin']")


def test_a_new_worker_knows_none_of_them(client: Client) -> None:
    """K1: handlers go with the worker in which they were registered."""
    run(client, ECHO + "kernel.shell_handlers['echo_request'] = echo")
    client.run("import os; os.kill(os.getpid(), 9)", allow_stdin=True)
    assert ask(client, "echo_request")["ename"] == "UnknownMessageType"
    check(client, "'echo_request' not in get_ipython().kernel.shell_handlers")
