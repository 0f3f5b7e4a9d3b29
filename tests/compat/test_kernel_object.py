"""`get_ipython().kernel`: the lines K of docs/compatibility.md."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.e2e.support import Client

from .support import check, contents, run


@pytest.fixture(autouse=True)
def names(client: Client) -> None:
    """What each test uses."""
    run(client, "ip = get_ipython(); kernel = ip.kernel; import comm, sys")


def test_its_parts(client: Client) -> None:
    """K1: shell, session, handlers, and the rest of what libraries look at."""
    check(client, "kernel.shell is ip and kernel.user_ns is ip.user_ns")
    check(client, "isinstance(kernel.session.msg_id, str) and kernel.session.session != ''")
    check(client, "kernel.session.msg_id != kernel.session.msg_id")
    check(client, "{'execute_request', 'comm_open', 'comm_msg'} <= kernel.shell_handlers.keys()")
    check(client, "'execute_request' in kernel.control_handlers")
    check(client, "kernel.eventloop is None and kernel.pre_handler_hook() is None")
    check(client, "kernel.log.name and kernel.banner and kernel.language_info['name'] == 'python'")


def test_the_session_id_is_that_of_the_messages(client: Client) -> None:
    """K1: `kernel.session.session` is the id that the front end sees."""
    outcome = run(client, "print(kernel.session.session)")
    streams = [m for m in outcome.messages if m["msg_type"] == "stream"]
    assert streams[0]["header"]["session"] == outcome.text.strip()


def test_the_parent_is_the_request(client: Client) -> None:
    """K1: `get_parent()` is the execute_request, and `set_parent` takes it back."""
    msg_id = client.execute("parent = kernel.get_parent(); print(parent['header']['msg_id'])")
    assert client.outcome(msg_id).text.strip() == msg_id
    check(client, "ip.get_parent()['content']['code'].startswith('ip.get_parent')")
    pinned = client.execute("kernel.set_parent([], parent); same = kernel.get_parent() is parent")
    assert client.outcome(pinned).status == "ok"
    check(client, "same")
    check(client, "ip.parent_header['header']['msg_type'] == 'execute_request'")


def test_a_response_is_an_output_of_the_cell(client: Client) -> None:
    """K1: `send_response` on iopub, as wrapper kernels and libraries use it."""
    outcome = run(
        client,
        """
socket = kernel.iopub_socket
kernel.send_response(socket, "stream", {"name": "stderr", "text": "warned"})
kernel.send_response(socket, "display_data", {"data": {"text/plain": "shown"}, "metadata": {}})
kernel.send_response(socket, "clear_output", {"wait": True})
kernel.send_response(socket, "error", {"ename": "E", "evalue": "v", "traceback": ["t"]})
kernel.session.send(socket, kernel.session.msg("stream", {"name": "stdout", "text": "said"}));
""",
    )
    kinds = [kind for kind in outcome.types if kind not in ("status", "execute_input")]
    assert kinds == ["stream", "display_data", "clear_output", "error", "stream"]
    assert contents(outcome.messages, "stream")[0] == {"name": "stderr", "text": "warned"}
    assert contents(outcome.messages, "display_data")[0]["data"] == {"text/plain": "shown"}
    assert outcome.text == "said"


def test_the_comm_manager(client: Client) -> None:
    """K2: `comm.create_comm` and `get_comm_manager` are bound to this kernel, both ways."""
    outcome = run(
        client,
        """
got = []
def target(opened, message):
    got.append((opened.comm_id, message["content"]["data"], message["buffers"]))
    opened.on_msg(lambda m: got.append((m["content"]["data"], m["buffers"])))
    opened.on_close(lambda m: got.append("closed"))
kernel.comm_manager.register_target("t", target)
print(comm.get_comm_manager() is kernel.comm_manager)
one = comm.create_comm("front", data={"a": 1}, buffers=[b"abc", memoryview(b"xyz")[1:]])
one.send({"b": [2]}, metadata={"m": 1})
one.close()
""",
    )
    assert outcome.text.strip() == "True"
    opened, sent, closed = [m for m in outcome.messages if m["msg_type"].startswith("comm_")]
    assert opened["content"]["target_name"] == "front"
    assert opened["content"]["data"] == {"a": 1}
    assert [bytes(buffer) for buffer in opened["buffers"]] == [b"abc", b"yz"]
    assert (sent["content"]["data"], sent["metadata"]) == ({"b": [2]}, {"m": 1})
    assert closed["msg_type"] == "comm_close"
    for kind in ("comm_open", "comm_msg", "comm_close"):
        content = {"comm_id": "c1", "target_name": "t", "data": {"kind": kind}}
        message = client.kc.session.msg(kind, content)
        client.kc.session.send(client.kc.shell_channel.socket, message, buffers=[kind.encode()])
        client.outputs(message["header"]["msg_id"])
    check(
        client,
        "got == [('c1', {'kind': 'comm_open'}, [b'comm_open']),"
        " ({'kind': 'comm_msg'}, [b'comm_msg']), 'closed']",
    )


def test_buffers_are_memoryviews(client: Client) -> None:
    """K2: binary data comes as memoryviews, without a detour through JSON."""
    run(client, "kernel.comm_manager.register_target('b', lambda c, m: got.append(m['buffers']))")
    content = {"comm_id": "c2", "target_name": "b", "data": {}}
    message = client.kc.session.msg("comm_open", content)
    data = bytes(range(256)) * 4000
    client.kc.session.send(client.kc.shell_channel.socket, message, buffers=[data])
    client.outputs(message["header"]["msg_id"])
    check(client, "[type(b) is memoryview and len(b) == 1024000 for b in got[-1]] == [True]")


def test_the_comm_class_of_ipykernel(client: Client) -> None:
    """K3: `ipykernel.comm.Comm`, as old widgets and pyviz_comms make them."""
    outcome = run(
        client,
        """
import warnings; warnings.simplefilter("ignore")
from ipykernel.comm import Comm
old = Comm(target_name="old", data={"a": 1}, buffers=[b"zz"])
old.send({"b": 2}); print(old.comm_id in kernel.comm_manager.comms, old.kernel is kernel)
heard = []
old.on_msg(heard.append)
""",
    )
    assert outcome.text.strip() == "True True"
    opened, sent = [m for m in outcome.messages if m["msg_type"].startswith("comm_")]
    assert (opened["content"]["target_name"], bytes(opened["buffers"][0])) == ("old", b"zz")
    comm_id = sent["content"]["comm_id"]
    client.outputs(client.send("comm_msg", {"comm_id": comm_id, "data": {"x": 3}}))
    check(client, "heard[0]['content']['data'] == {'x': 3}")


def test_ipykernels_import_leaves_the_binding(client: Client) -> None:
    """K3: ipykernel binds `comm` to itself when it is imported; ours stays."""
    check(
        client,
        "import ipykernel.ipkernel\n"
        "comm.get_comm_manager() is kernel.comm_manager"
        " and comm.create_comm.__module__.startswith('pyrepl_kernel')",
    )


def test_the_connection_file(client: Client) -> None:
    """K4: `ipykernel.get_connection_file()` in the worker; the kernel's id is in its name."""
    outcome = run(client, "import ipykernel; print(ipykernel.get_connection_file())")
    path = Path(outcome.text.strip())
    assert path.name.startswith("kernel-") and path.is_file()
    info = json.loads(path.read_text())
    check(
        client, f"ipykernel.get_connection_info(unpack=True)['shell_port'] == {info['shell_port']}"
    )
    # Not in the environment, and nowhere among what the worker holds.
    check(client, f"import os; {info['key']!r} not in str(dict(os.environ)) + str(sys.argv)")
    check(client, "ip.kernel.session.key == b''")


def test_the_app(client: Client) -> None:
    """K4: `IPKernelApp.instance()` and `Kernel.instance()` answer."""
    run(
        client,
        "from ipykernel.kernelapp import IPKernelApp; from ipykernel.kernelbase import Kernel\n"
        "from ipykernel.ipkernel import IPythonKernel",
    )
    check(client, "IPKernelApp.initialized() and Kernel.initialized()")
    check(client, "Kernel.instance() is kernel and IPythonKernel.instance() is kernel")
    check(client, "isinstance(kernel, Kernel) and isinstance(IPKernelApp.instance(), IPKernelApp)")
    check(client, "IPKernelApp.instance().kernel is kernel and IPKernelApp.instance().shell is ip")
    check(client, "IPKernelApp.instance().shell_port > 0")


def test_a_hook_sees_a_display(client: Client) -> None:
    """K5: `display_pub.register_hook`: it may change a message, or swallow it."""
    outcome = run(
        client,
        """
from IPython.display import display, clear_output
seen = []
def hook(message):
    seen.append(message["msg_type"])
    if "swallow" in message["content"].get("data", {}).get("text/plain", ""):
        return None
    if "data" in message["content"]:
        message["content"]["data"]["text/plain"] += " changed"
    return message
ip.display_pub.register_hook(hook)
display("swallow"); display("one"); clear_output()
print(ip.display_pub.unregister_hook(hook), ip.display_pub.unregister_hook(hook))
display("two")
""",
    )
    texts = [c["data"]["text/plain"] for c in contents(outcome.messages, "display_data")]
    assert texts == ["'one' changed", "'two'"]
    assert contents(outcome.messages, "clear_output") == [{"wait": False}]
    assert outcome.text.strip() == "True False"
    check(client, "seen == ['display_data', 'display_data', 'clear_output']")


def test_a_hook_sees_a_result(client: Client) -> None:
    """K5: the same for `displayhook`."""
    run(client, "kept = []; keep = lambda m: kept.append(m)\nip.displayhook.register_hook(keep)")
    outcome = run(client, "41 + 1")
    assert outcome.result is None
    run(client, "ip.displayhook.unregister_hook(keep);")
    check(client, "kept[0]['content']['data']['text/plain'] == '42'")
    assert run(client, "41 + 1").result == "42"


def test_a_hook_is_its_threads(client: Client) -> None:
    """K5: another thread's displays pass a hook by."""
    outcome = run(
        client,
        """
import threading
ip.display_pub.register_hook(hook)
thread = threading.Thread(target=lambda: display("swallow"))
thread.start(); thread.join()
ip.display_pub.unregister_hook(hook);
""",
    )
    assert contents(outcome.messages, "display_data")[0]["data"]["text/plain"] == "'swallow'"


def test_what_front_ends_test_suites_ask(client: Client) -> None:
    """K6: `_is_master_process`, `iopub_socket`, `implementation_version` and so on."""
    check(client, "sys.stdout._is_master_process() and kernel.iopub_socket is not None")
    check(client, "tuple(map(int, kernel.implementation_version.split('.')[:2])) >= (2, 1)")
    check(client, "sys.stdout.parent_header['msg_id'] == ip.get_parent()['header']['msg_id']")
    check(client, "kernel.implementation == 'ipython' and kernel.execution_count > 1")


def test_a_forked_child_is_no_master(client: Client) -> None:
    """K6: `_is_master_process` in a child that the user forks."""
    outcome = run(
        client,
        "import os\npid = os.fork()\n"
        "if not pid: print(sys.stdout._is_master_process()); os._exit(0)\n"
        "os.waitpid(pid, 0);",
    )
    assert outcome.text.strip() == "False"
