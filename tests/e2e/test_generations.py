"""What a client hears at the beginning of each generation of the worker."""

from __future__ import annotations

import json

import zmq

from .support import Client, only_ours, running_kernel

pytestmark = only_ours


def _states(client: Client) -> list[str]:
    return [
        message["content"]["execution_state"]
        for messages in client._filed["iopub"].values()
        for message in messages
        if message["msg_type"] == "status"
    ]


def test_starting_is_said_once_and_restarting_never() -> None:
    with running_kernel() as kernel:
        # Subscribed before the kernel is up: zmq connects as soon as it can.
        client = Client(kernel.connection_file)
        try:
            client.wait_ready()
            client.run("1")
            client.run("import os; os.kill(os.getpid(), 9)", allow_stdin=True)
            client.run("2")
            states = _states(client)
            assert states.count("starting") <= 1  # none where the subscription came too late
            assert set(states) <= {"starting", "busy", "idle"}
        finally:
            client.close()


def test_a_new_worker_has_a_new_session_id() -> None:
    with running_kernel() as kernel:
        client = kernel.client()
        before = client.run("1").reply["header"]["session"]
        assert client.run("2").reply["header"]["session"] == before
        client.run("import os; os.kill(os.getpid(), 9)", allow_stdin=True)
        after = client.run("3").reply["header"]["session"]
        assert after != before


def test_each_subscriber_is_welcomed_first() -> None:
    with running_kernel() as kernel:
        kernel.client()
        for _ in range(2):
            with zmq.Context() as context, context.socket(zmq.SUB) as socket:
                socket.linger = 0
                socket.connect(f"tcp://{kernel.connection['ip']}:{kernel.connection['iopub_port']}")
                socket.subscribe(b"")
                assert socket.poll(30_000)
                frames = socket.recv_multipart()
            at = frames.index(b"<IDS|MSG>")
            assert json.loads(frames[at + 2])["msg_type"] == "iopub_welcome"
            assert json.loads(frames[at + 5]) == {"subscription": ""}
