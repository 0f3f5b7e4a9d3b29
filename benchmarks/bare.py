"""The limit: a cell between two bare processes that were written for nothing else.

::

    client ──▶ this process: pyzmq, signatures ──▶ socket pair, msgpack ──▶ a fork of it: exec

It runs one client's cells one after the other, with the messages that Jupyter asks for, and can do
nothing else but send buffers over a comm, which go through a second pair of sockets: no display, no
error, no interrupt. What a kernel takes beyond it is what it does beyond it. ``python -m
benchmarks`` knows it as the kernel ``bare``.
"""

import hashlib
import hmac
import json
import os
import socket
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import msgpack
import zmq

_DELIMITER = b"<IDS|MSG>"
_INFO = {
    "status": "ok",
    "protocol_version": "5.3",
    "implementation": "bare",
    "implementation_version": "0",
    "language_info": {"name": "python", "version": "3", "mimetype": "", "file_extension": ".py"},
    "banner": "",
    "help_links": [],
}


class Comm:
    """A comm that can do no more than send buffers."""

    def __init__(self, sock: socket.socket, bulk: socket.socket) -> None:
        self._sock = sock
        self._bulk = bulk

    def on_msg(self, callback: Any) -> None:
        """Nothing ever comes."""

    def send(self, data: dict[str, Any], buffers: list[bytes]) -> None:
        """Tell how long the buffers are, and send them."""
        self._sock.send(msgpack.packb({"buffers": [len(buffer) for buffer in buffers]}))
        for buffer in buffers:
            self._bulk.sendall(buffer)


def work(sock: socket.socket, bulk: socket.socket) -> None:
    """Be the worker: execute each code that comes, and tell how often that was."""
    namespace: dict[str, Any] = {}
    count = 0
    while data := sock.recv(1 << 20):
        code = msgpack.unpackb(data)["code"]
        if "create_comm" in code:
            import comm

            comm.create_comm = lambda **_: Comm(sock, bulk)
        exec(code, namespace)
        count += 1
        sock.send(msgpack.packb({"status": "ok", "execution_count": count}))


class Bare:
    """The kernel's process."""

    def __init__(self, path: str, worker: socket.socket, bulk: socket.socket) -> None:
        with open(path, encoding="utf-8") as file:
            info = json.load(file)
        self._worker = worker
        self._bulk = bulk
        self._memory = bytearray()
        self._mac = hmac.new(info["key"].encode(), digestmod=hashlib.sha256)
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._shell = self._bind(info, "shell", zmq.ROUTER)
        self._control = self._bind(info, "control", zmq.ROUTER)
        self._iopub = self._bind(info, "iopub", zmq.PUB)
        self._number = 0

    def _bind(self, info: dict[str, Any], name: str, kind: int) -> zmq.Socket[bytes]:
        sock = self._context.socket(kind)
        sock.bind(f"tcp://{info['ip']}:{info[f'{name}_port']}")
        return sock

    def serve(self) -> None:
        """Answer until told to shut down."""
        poller = zmq.Poller()
        poller.register(self._shell, zmq.POLLIN)
        poller.register(self._control, zmq.POLLIN)
        while True:
            for sock, _ in poller.poll():
                frames = sock.recv_multipart()
                at = frames.index(_DELIMITER)
                header = frames[at + 2]
                kind = json.loads(header)["msg_type"]
                self._publish("status", b'{"execution_state": "busy"}', header)
                content = self._answer(kind, json.loads(frames[at + 5]), header)
                reply = kind.replace("_request", "_reply")
                self._send(sock, frames[:at], reply, json.dumps(content).encode(), header)
                self._publish("status", b'{"execution_state": "idle"}', header)
                if kind == "shutdown_request":
                    self._context.destroy(linger=500)
                    return

    def _answer(self, kind: str, content: dict[str, Any], header: bytes) -> dict[str, Any]:
        if kind != "execute_request":
            return _INFO if kind == "kernel_info_request" else {"status": "ok"}
        self._worker.send(msgpack.packb({"code": content["code"]}))
        shown = json.dumps({"code": content["code"], "execution_count": 0}).encode()
        self._publish("execute_input", shown, header)
        result: dict[str, Any]
        while "buffers" in (result := msgpack.unpackb(self._worker.recv(1 << 16))):
            buffers = self._receive(result["buffers"])
            told = b'{"comm_id": "bench", "data": {}}'
            self._send(self._iopub, [b"comm_msg"], "comm_msg", told, header, buffers)
        return {**result, "user_expressions": {}, "payload": []}

    def _receive(self, lengths: list[int]) -> list[memoryview]:
        """Buffers of the worker's, in memory that is used again each time."""
        if len(self._memory) < sum(lengths):
            self._memory = bytearray(sum(lengths))
        view = memoryview(self._memory)
        at = 0
        while at < sum(lengths):
            at += self._bulk.recv_into(view[at : sum(lengths)])
        buffers, at = [], 0
        for length in lengths:
            buffers.append(view[at : at + length])
            at += length
        return buffers

    def _publish(self, kind: str, content: bytes, parent: bytes) -> None:
        self._send(self._iopub, [kind.encode()], kind, content, parent)

    def _send(
        self,
        sock: zmq.Socket[bytes],
        to: list[bytes],
        kind: str,
        content: bytes,
        parent: bytes,
        buffers: Sequence[memoryview] = (),
    ) -> None:
        self._number += 1
        header = (
            f'{{"msg_id": "{self._number}", "session": "bare", "username": "", "version": "5.3", '
            f'"msg_type": "{kind}", "date": "{datetime.now(UTC).isoformat()}"}}'
        ).encode()
        mac = self._mac.copy()
        for part in (header, parent, b"{}", content):
            mac.update(part)
        signature = mac.hexdigest().encode()
        frames = [*to, _DELIMITER, signature, header, parent, b"{}", content]
        sock.send_multipart([*frames, *buffers], copy=not buffers)


def main() -> None:
    """Serve the connection file that the command line names."""
    ours, theirs = socket.socketpair()
    bulk, their_bulk = socket.socketpair()
    if not os.fork():
        ours.close()
        bulk.close()
        work(theirs, their_bulk)
        os._exit(0)
    theirs.close()
    their_bulk.close()
    Bare(sys.argv[1], ours, bulk).serve()


if __name__ == "__main__":
    main()
