"""What requests carry into the worker: the lines M of docs/compatibility.md."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import zmq

from tests.e2e.support import TIMEOUT, Client, KernelProcess, running_kernel

from .support import check


def test_cell_id_and_metadata_reach_the_cell(client: Client) -> None:
    """M2: `cellId` of the request's metadata reaches `run_cell`; the rest is the parent's."""
    setup = client.run(
        "seen = []\nget_ipython().events.register('pre_run_cell', lambda i: seen.append(i.cell_id))"
    )
    assert setup.status == "ok"
    content = {"code": "meta = get_ipython().get_parent()['metadata']", "silent": False}
    metadata = {"cellId": "c-1", "tags": ["x"]}
    message = client.kc.session.msg("execute_request", content, metadata=metadata)
    client.kc.session.send(client.kc.shell_channel.socket, message)
    client.outputs(message["header"]["msg_id"])
    check(client, "seen[0] == 'c-1' and meta == {'cellId': 'c-1', 'tags': ['x']}")


def test_globals_of_front_ends_are_left_alone(client: Client) -> None:
    """M2: `__vsc_ipynb_file__`, which VS Code sets, stays, and is no name of the user's."""
    outcome = client.run("__vsc_ipynb_file__ = '/a/b.ipynb'", store_history=False, silent=True)
    assert outcome.status == "ok"
    check(client, "__vsc_ipynb_file__ == '/a/b.ipynb'")
    check(client, "'__vsc_ipynb_file__' not in get_ipython().run_line_magic('who_ls', '')")


class Subscriber:
    """A bare subscription of iopub."""

    def __init__(self, socket: zmq.Socket[bytes]) -> None:
        self._socket = socket

    def next(self) -> tuple[str, dict[str, Any]]:
        """Type and content of the next message."""
        assert self._socket.poll(int(TIMEOUT * 1000)), "nothing more"
        frames = self._socket.recv_multipart()
        parts = frames[frames.index(b"<IDS|MSG>") + 2 :]
        return json.loads(parts[0])["msg_type"], json.loads(parts[3])


@contextmanager
def subscriber(kernel: KernelProcess) -> Iterator[Subscriber]:
    """Subscribe, and take leave again."""
    with zmq.Context() as context, context.socket(zmq.SUB) as socket:
        socket.linger = 0
        socket.subscribe(b"")
        socket.connect(f"tcp://127.0.0.1:{kernel.connection['iopub_port']}")
        yield Subscriber(socket)


def test_starting_is_heard() -> None:
    """M4: to whoever hears iopub before anything else was said, and not again for a new worker."""
    with running_kernel() as kernel, subscriber(kernel) as first:
        assert first.next()[0] == "iopub_welcome"
        kind, content = first.next()
        assert (kind, content) == ("status", {"execution_state": "starting"})
        client = kernel.client()
        client.run("import os; os._exit(1)", allow_stdin=True)
        client.run("1", allow_stdin=True)
        with subscriber(kernel) as second:
            assert second.next()[0] == "iopub_welcome"
            last = client.execute("print('last')")
            client.outcome(last)
            assert second.next()[1] == {"execution_state": "busy"}
        states = []
        while not (kind == "stream" and content["text"] == "last\n"):
            kind, content = first.next()
            states.append(content.get("execution_state"))
        assert "starting" not in states
