"""The limit: a cell between two bare processes that were written for nothing else.

::

    client ──▶ this process: pyzmq, signatures ──▶ socket pair, msgpack ──▶ a fork of it: exec

It runs one client's cells one after the other, with the messages that Jupyter asks for, and can do
nothing else but send buffers over a comm, which go through a second pair of sockets: no display, no
error, no interrupt. What a kernel takes beyond it is what it does beyond it. ``python -m
benchmarks`` knows it as the kernel ``bare``.

With ``--alone`` there is no second process, and the code runs in the first: the limit of a kernel
that ends when the user's code crashes. That is the kernel ``alone``.
"""

import argparse
import hashlib
import hmac
import json
import os
import socket
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

import msgpack
import zmq

Buffer = bytes | memoryview

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

    def __init__(self, send_buffers: Callable[[list[bytes]], None]) -> None:
        self._send_buffers = send_buffers

    def on_msg(self, callback: Any) -> None:
        """Nothing ever comes."""

    def send(self, data: dict[str, Any], buffers: list[bytes]) -> None:
        """Send the buffers."""
        self._send_buffers(buffers)


class Runner:
    """What runs the code, and counts it."""

    def __init__(self, send_buffers: Callable[[list[bytes]], None]) -> None:
        self._send_buffers = send_buffers
        self._namespace: dict[str, Any] = {}
        self._count = 0

    def run(self, code: str) -> dict[str, Any]:
        """Run a code, and tell how many that were."""
        if "create_comm" in code:
            import comm

            comm.create_comm = lambda **_: Comm(self._send_buffers)
        exec(code, self._namespace)
        self._count += 1
        return {"status": "ok", "execution_count": self._count}


def work(sock: socket.socket, bulk: socket.socket) -> None:
    """Be the worker: execute each code that comes."""

    def send_buffers(buffers: list[bytes]) -> None:
        sock.send(msgpack.packb({"buffers": [len(buffer) for buffer in buffers]}))
        for buffer in buffers:
            bulk.sendall(buffer)

    runner = Runner(send_buffers)
    while data := sock.recv(1 << 20):
        sock.send(msgpack.packb(runner.run(msgpack.unpackb(data)["code"])))


class Bare:
    """The kernel's process."""

    def __init__(self, path: str) -> None:
        with open(path, encoding="utf-8") as file:
            info = json.load(file)
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
        shown = json.dumps({"code": content["code"], "execution_count": 0}).encode()
        self._begin(content["code"])
        self._publish("execute_input", shown, header)
        return {**self._run(content["code"], header), "user_expressions": {}, "payload": []}

    def _begin(self, code: str) -> None:
        """A cell has come; what is to be done before anybody is told."""

    def _run(self, code: str, header: bytes) -> dict[str, Any]:
        """Run it, and return the content of its reply."""
        raise NotImplementedError

    def _publish_buffers(self, buffers: Sequence[Buffer], header: bytes) -> None:
        told = b'{"comm_id": "bench", "data": {}}'
        self._send(self._iopub, [b"comm_msg"], "comm_msg", told, header, buffers)

    def _publish(self, kind: str, content: bytes, parent: bytes) -> None:
        self._send(self._iopub, [kind.encode()], kind, content, parent)

    def _send(
        self,
        sock: zmq.Socket[bytes],
        to: list[bytes],
        kind: str,
        content: bytes,
        parent: bytes,
        buffers: Sequence[Buffer] = (),
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


class WithWorker(Bare):
    """The kernel's process, which has another one run the code."""

    def __init__(self, path: str, worker: socket.socket, bulk: socket.socket) -> None:
        super().__init__(path)
        self._worker = worker
        self._bulk = bulk
        self._memory = bytearray()

    def _begin(self, code: str) -> None:
        self._worker.send(msgpack.packb({"code": code}))

    def _run(self, code: str, header: bytes) -> dict[str, Any]:
        while True:
            said: dict[str, Any] = msgpack.unpackb(self._worker.recv(1 << 16))
            if "buffers" not in said:
                return said
            self._publish_buffers(self._receive(said["buffers"]), header)

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


class Alone(Bare):
    """The kernel's process, which runs the code itself."""

    def __init__(self, path: str) -> None:
        super().__init__(path)
        self._runner = Runner(self._send_buffers)
        self._header = b"{}"

    def _run(self, code: str, header: bytes) -> dict[str, Any]:
        self._header = header
        return self._runner.run(code)

    def _send_buffers(self, buffers: list[bytes]) -> None:
        self._publish_buffers(buffers, self._header)


def main() -> None:
    """Serve the connection file that the command line names."""
    parser = argparse.ArgumentParser(description="A kernel that can do next to nothing.")
    parser.add_argument("connection_file")
    parser.add_argument("--alone", action="store_true", help="run the code in this process")
    options = parser.parse_args()
    if options.alone:
        Alone(options.connection_file).serve()
        return
    ours, theirs = socket.socketpair()
    bulk, their_bulk = socket.socketpair()
    if not os.fork():
        ours.close()
        bulk.close()
        work(theirs, their_bulk)
        os._exit(0)
    theirs.close()
    their_bulk.close()
    WithWorker(options.connection_file, ours, bulk).serve()


if __name__ == "__main__":
    main()
