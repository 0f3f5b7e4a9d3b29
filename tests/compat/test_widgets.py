"""Widgets and comm messages: the lines W of docs/compatibility.md."""

from __future__ import annotations

from typing import Any

import pytest

from tests.e2e.support import Client, Message

from .support import check, contents, run

pytest.importorskip("ipywidgets")


@pytest.fixture(autouse=True)
def names(client: Client) -> None:
    """What each test uses."""
    run(
        client,
        "import asyncio, threading, time\nimport ipywidgets as widgets\n"
        "from IPython.display import display",
    )


def model_ids(messages: list[Message], name: str) -> list[str]:
    """The ids of the models of a name that were opened, in order."""
    return [
        content["comm_id"]
        for content in contents(messages, "comm_open")
        if content["data"]["state"].get("_model_name") == name
    ]


def update(client: Client, model_id: str, state: dict[str, Any]) -> str:
    """Do what a front end does when a user moves a slider."""
    data = {"method": "update", "state": state, "buffer_paths": []}
    return client.send("comm_msg", {"comm_id": model_id, "data": data})


def click(client: Client, model_id: str) -> str:
    """Press a button."""
    data = {"method": "custom", "content": {"event": "click"}}
    return client.send("comm_msg", {"comm_id": model_id, "data": data})


def test_interact(client: Client) -> None:
    """W1: a slider that the front end moves runs the function; its output is the widget's."""
    outcome = run(client, "@widgets.interact(x=(0, 10))\ndef f(x): print('x is', x)")
    (slider,) = model_ids(outcome.messages, "IntSliderModel")
    (output,) = model_ids(outcome.messages, "OutputModel")
    message = update(client, slider, {"value": 7})
    messages = client.outputs(message)
    states = [
        content["data"]["state"]
        for content in contents(messages, "comm_msg")
        if content["comm_id"] == output and content["data"]["method"] == "update"
    ]
    # Front ends give the output widget what they see for this request between these two.
    assert states == [{"msg_id": message}, {"msg_id": ""}]
    assert contents(messages, "clear_output") == [{"wait": True}]
    assert "x is 7\n" in [content["text"] for content in contents(messages, "stream")]
    kinds = [m["msg_type"] for m in messages]
    inside = kinds[kinds.index("clear_output") - 1 : kinds.index("stream") + 2]
    assert inside == ["comm_msg", "clear_output", "stream", "comm_msg"]


def test_an_output_widget_captures_a_cell(client: Client) -> None:
    """W2: `with out:` names the cell, whose output the front end then puts into the widget."""
    msg_id = client.execute(
        "out = widgets.Output()\nprint('before')\n"
        "with out:\n    print('inside'); display(5)\nprint('after')"
    )
    outcome = client.outcome(msg_id)
    parts: list[Any] = []
    for message in outcome.messages:
        content = message["content"]
        if message["msg_type"] == "stream":
            parts.append(content["text"])
        elif message["msg_type"] == "display_data":
            parts.append("display")
        elif message["msg_type"] == "comm_msg":
            parts.append(content["data"]["state"])
    assert parts == [
        "before\n",
        {"msg_id": msg_id},
        "inside\n",
        "display",
        {"msg_id": ""},
        "after\n",
    ]


def test_an_error_in_an_output_widget(client: Client) -> None:
    """W2: it is shown there, and the cell goes on."""
    outcome = run(client, "with out:\n    1/0\nprint('went on')")
    assert contents(outcome.messages, "error")[0]["ename"] == "ZeroDivisionError"
    assert outcome.text == "went on\n"


def test_a_handlers_output_is_its_messages(client: Client) -> None:
    """W2: a button's handler prints to the message that pressed it, and in `out` if it says so."""
    outcome = run(
        client,
        """
button = widgets.Button()
def pressed(_):
    print("plain")
    with out:
        print("captured")
button.on_click(pressed)
display(button)
""",
    )
    (model,) = model_ids(outcome.messages, "ButtonModel")
    message = click(client, model)
    messages = client.outputs(message)
    assert "".join(c["text"] for c in contents(messages, "stream")) == "plain\ncaptured\n"
    assert contents(messages, "comm_msg")[0]["data"]["state"] == {"msg_id": message}


def test_jslink_and_link(client: Client) -> None:
    """W3: `jslink` is a model of the front end's; `link` runs in the worker."""
    outcome = run(
        client,
        "a, b, c = widgets.IntSlider(), widgets.IntText(), widgets.IntText()\n"
        "widgets.jslink((a, 'value'), (b, 'value')); widgets.link((a, 'value'), (c, 'value'));",
    )
    assert model_ids(outcome.messages, "LinkModel")
    (slider,) = model_ids(outcome.messages, "IntSliderModel")
    client.outputs(update(client, slider, {"value": 42}))
    check(client, "(a.value, c.value) == (42, 42)")


def test_a_request_for_all_states(client: Client) -> None:
    """W3: what a front end asks when it connects to widgets that are there already."""
    content = {"comm_id": "control", "target_name": "jupyter.widget.control", "data": {}}
    message = client.kc.session.msg("comm_open", content, metadata={"version": "1.0.0"})
    client.kc.session.send(client.kc.shell_channel.socket, message)
    assert "comm_close" not in [m["msg_type"] for m in client.outputs(message["header"]["msg_id"])]
    asked = client.send("comm_msg", {"comm_id": "control", "data": {"method": "request_states"}})
    (answer,) = contents(client.outputs(asked), "comm_msg")
    assert answer["data"]["method"] == "update_states" and answer["data"]["states"]
    info = client.reply(client.send("comm_info_request", {"target_name": "jupyter.widget"}))
    assert set(answer["data"]["states"]) <= set(info["content"]["comms"])


def test_binary_traits(client: Client) -> None:
    """W4: binary data both ways, as ipympl and images send it."""
    outcome = run(client, "image = widgets.Image(value=b'12345')")
    (opened,) = [
        m
        for m in outcome.messages
        if m["msg_type"] == "comm_open"
        and m["content"]["data"]["state"]["_model_name"] == "ImageModel"
    ]
    assert [bytes(b) for b in opened["buffers"]] == [b"12345"]
    data = {"method": "update", "state": {}, "buffer_paths": [["value"]]}
    content = {"comm_id": opened["content"]["comm_id"], "data": data}
    message = client.kc.session.msg("comm_msg", content)
    client.kc.session.send(client.kc.shell_channel.socket, message, buffers=[b"\x00\xff"])
    client.outputs(message["header"]["msg_id"])
    check(client, "bytes(image.value) == b'\\x00\\xff'")


def test_anywidget(client: Client) -> None:
    """W4: anywidget's models, with custom messages and buffers."""
    pytest.importorskip("anywidget")
    outcome = run(
        client,
        """
import anywidget, traitlets
class Counter(anywidget.AnyWidget):
    _esm = "export default {render() {}}"
    value = traitlets.Int(0).tag(sync=True)
counter = Counter(); heard = []
def hear(widget, content, buffers): heard.append((content, [bytes(b) for b in buffers]))
counter.on_msg(hear)
counter.send({"hello": 1}, buffers=[b"xy"])
""",
    )
    (model,) = model_ids(outcome.messages, "AnyModel")
    sent = [m for m in outcome.messages if m["msg_type"] == "comm_msg"][-1]
    assert sent["content"]["data"]["content"] == {"hello": 1}
    assert [bytes(b) for b in sent["buffers"]] == [b"xy"]
    content = {"comm_id": model, "data": {"method": "custom", "content": {"a": 1}}}
    message = client.kc.session.msg("comm_msg", content)
    client.kc.session.send(client.kc.shell_channel.socket, message, buffers=[b"in"])
    client.outputs(message["header"]["msg_id"])
    client.outputs(update(client, model, {"value": 3}))
    check(client, "heard == [({'a': 1}, [b'in'])] and counter.value == 3")


def test_ipympl(client: Client) -> None:
    """W4: `%matplotlib widget` shows a canvas, and answers the front end's events with pixels."""
    pytest.importorskip("ipympl")
    outcome = run(
        client,
        "%matplotlib widget\nimport matplotlib.pyplot as plt\n"
        "figure, axes = plt.subplots(); axes.plot([1, 2]); display(figure.canvas)",
    )
    (canvas,) = model_ids(outcome.messages, "MPLCanvasModel")
    for event in ({"type": "initialized"}, {"type": "draw"}):
        data = {"method": "custom", "content": event}
        answer = client.outputs(client.send("comm_msg", {"comm_id": canvas, "data": data}))
    buffers = [m["buffers"] for m in answer if m["msg_type"] == "comm_msg" and m["buffers"]]
    assert bytes(buffers[-1][0]).startswith(b"\x89PNG")
    run(client, "plt.close('all')\n%matplotlib inline")


def test_tqdm_bars(client: Client) -> None:
    """W5: `tqdm.notebook` shows a bar and moves it."""
    pytest.importorskip("tqdm")
    outcome = run(
        client,
        "from tqdm.notebook import tqdm\nfor i in tqdm(range(3), mininterval=0): pass",
    )
    (bar,) = model_ids(outcome.messages, "FloatProgressModel")
    values = [
        content["data"]["state"]["value"]
        for content in contents(outcome.messages, "comm_msg")
        if content["comm_id"] == bar and "value" in content["data"]["state"]
    ]
    assert values[-1] == 3.0
    assert any(
        "application/vnd.jupyter.widget-view+json" in content["data"]
        for content in contents(outcome.messages, "display_data")
    )


def test_a_comm_message_reaches_a_cell_that_awaits(client: Client) -> None:
    """W6: and passes the cells that wait behind it."""
    outcome = run(client, "event = asyncio.Event(); asker = widgets.Button(); display(asker)")
    (model,) = model_ids(outcome.messages, "ButtonModel")
    run(client, "asker.on_click(lambda _: (print('pressed'), event.set()));")
    waiting = client.execute("print('at it', flush=True); await event.wait(); print('done')")
    behind = client.execute("print('behind')")
    client.wait_printed(waiting)
    message = click(client, model)
    assert "".join(c["text"] for c in contents(client.outputs(message), "stream")) == "pressed\n"
    assert client.outcome(waiting).text == "at it\ndone\n"
    assert client.outcome(behind).text == "behind\n"


def test_a_comm_message_waits_for_a_cell_that_does_not_await(client: Client) -> None:
    """W6: it is served after the cells that were sent before it, as on ipykernel."""
    outcome = run(client, "order = []; plain = widgets.Button(); display(plain)")
    (model,) = model_ids(outcome.messages, "ButtonModel")
    run(client, "plain.on_click(lambda _: order.append('click'));")
    first = client.execute("print('at it', flush=True); time.sleep(0.1); order.append(1)")
    second = client.execute("order.append(2)")
    client.wait_printed(first)
    client.outputs(click(client, model))
    client.outcome(first)
    client.outcome(second)
    check(client, "order == [1, 2, 'click']")


POLLERS = {
    "kernel": """
loop = asyncio.new_event_loop()
while not pressed:
    loop.run_until_complete(get_ipython().kernel.do_one_iteration())
""",
    "kernel, await": """
while not pressed:
    await get_ipython().kernel.do_one_iteration()
""",
    "jupyter_ui_poll": """
from jupyter_ui_poll import ui_events
with ui_events() as poll:
    while not pressed:
        poll(10)
""",
    "jupyter_ui_poll, await": """
from jupyter_ui_poll import ui_events
async with ui_events() as poll:
    while not pressed:
        await poll(10)
""",
}


@pytest.mark.parametrize("poller", POLLERS)
def test_a_cell_polls_for_comm_messages(client: Client, poller: str) -> None:
    """W7: `kernel.do_one_iteration`, as jupyter_ui_poll uses it, in the middle of a cell."""
    if "ui_poll" in poller:
        pytest.importorskip("jupyter_ui_poll")
    outcome = run(client, "pressed = []; asker = widgets.Button(); display(asker)")
    (model,) = model_ids(outcome.messages, "ButtonModel")
    run(client, "asker.on_click(lambda _: (print('pressed'), pressed.append(1)));")
    polling = client.execute(f"print('at it', flush=True)\n{POLLERS[poller]}\nprint('done')")
    behind = client.execute("print('behind')")
    client.wait_printed(polling)
    message = click(client, model)
    assert "".join(c["text"] for c in contents(client.outputs(message), "stream")) == "pressed\n"
    assert client.outcome(polling).text == "at it\ndone\n"
    assert client.outcome(behind).text == "behind\n"


def test_a_comm_message_that_comes_too_late_for_the_poll(client: Client) -> None:
    """W7: the cell polls no more; the message is served after it, and nothing is lost."""
    outcome = run(client, "late = []; asker = widgets.Button(); display(asker)")
    (model,) = model_ids(outcome.messages, "ButtonModel")
    run(client, "asker.on_click(lambda _: late.append(1));")
    polling = client.execute(
        "await get_ipython().kernel.do_one_iteration(); print('at it', flush=True)\n"
        "time.sleep(0.2); seen = len(late)"
    )
    client.wait_printed(polling)
    client.outputs(click(client, model))
    assert client.outcome(polling).status == "ok"
    check(client, "(seen, late) == (0, [1])")


def test_a_handler_may_use_asyncio(client: Client) -> None:
    """W8: a handler between cells finds the running loop, and its tasks go on."""
    outcome = run(
        client,
        """
finished = threading.Event()
async def later():
    await asyncio.sleep(0)
    print("from a task"); finished.set()
asker = widgets.Button()
asker.on_click(lambda _: asyncio.ensure_future(later()))
display(asker)
""",
    )
    (model,) = model_ids(outcome.messages, "ButtonModel")
    message = click(client, model)
    client.outputs(message)
    run(client, "await asyncio.wait_for(asyncio.to_thread(finished.wait), 10)")
    texts = [c["text"] for c in contents(client.outputs_so_far(message), "stream")]
    assert texts == ["from a task\n"]


def test_an_error_in_a_handler(client: Client) -> None:
    """W8: it is shown for the message, and the comm lives on."""
    outcome = run(client, "asker = widgets.Button(); display(asker)")
    (model,) = model_ids(outcome.messages, "ButtonModel")
    run(client, "asker.on_click(lambda _: 1/0)\nasker.on_click(lambda _: print('second'));")
    messages = client.outputs(click(client, model))
    assert "ZeroDivisionError" in str([m["content"] for m in messages])
    check(client, "not asker.comm._closed")


def test_user_handlers_for_comm_messages(client: Client) -> None:
    """W9: a library replaces `kernel.shell_handlers["comm_msg"]`, and is asked."""
    run(
        client,
        """
kernel = get_ipython().kernel
real = kernel.shell_handlers["comm_msg"]
log = []
def mine(stream, ident, message):
    log.append(message["content"]["comm_id"])
    return real(stream, ident, message)
kernel.shell_handlers["comm_msg"] = mine
asker = widgets.Button()
""",
    )
    run(client, "asker.on_click(lambda _: log.append('clicked'));")
    model = run(client, "print(asker.model_id)").text.strip()
    client.outputs(click(client, model))
    run(client, "kernel.shell_handlers['comm_msg'] = real")
    check(client, f"log == [{model!r}, 'clicked']")


def test_the_comms_of_a_dead_worker_are_closed(client: Client) -> None:
    """W10: front ends are told that the widgets of a dead worker are dead, each once."""
    run(
        client, "import comm\nleft = [comm.create_comm('front') for _ in range(3)]\nleft[2].close()"
    )
    ids = run(client, "print(*[c.comm_id for c in left])").text.split()
    assert client.run("import os; os.kill(os.getpid(), 9)", allow_stdin=True).status == "error"
    run(client, "1")  # the next worker's
    of_no_request = client.outputs_so_far("")
    closed = [content["comm_id"] for content in contents(of_no_request, "comm_close")]
    assert [closed.count(comm_id) for comm_id in ids] == [1, 1, 0]
    assert client.reply(client.send("comm_info_request", {}))["content"]["comms"] == {}
