"""The limit: a cell between two bare processes that were written for nothing else.

::

    client ──▶ this process: pyzmq, signatures ──▶ socket pair, msgpack ──▶ a fork of it: exec

It runs one client's cells one after the other, with the messages that Jupyter asks for, and can do
nothing else: no display, no error, no interrupt. What a kernel takes beyond it is what it does
beyond it. ``python -m benchmarks`` knows it as the kernel ``bare``.
"""

import hashlib
import hmac
import json
import os
import socket
import sys
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


def work(sock: socket.socket) -> None:
    """Be the worker: execute each code that comes, and tell how often that was."""
    namespace: dict[str, Any] = {}
    count = 0
    while data := sock.recv(1 << 20):
        exec(msgpack.unpackb(data)["code"], namespace)
        count += 1
        sock.send(msgpack.packb({"status": "ok", "execution_count": count}))


class Bare:
    """The kernel's process."""

    def __init__(self, path: str, worker: socket.socket) -> None:
        with open(path, encoding="utf-8") as file:
            info = json.load(file)
        self._worker = worker
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
        result: dict[str, Any] = msgpack.unpackb(self._worker.recv(1 << 20))
        return {**result, "user_expressions": {}, "payload": []}

    def _publish(self, kind: str, content: bytes, parent: bytes) -> None:
        self._send(self._iopub, [kind.encode()], kind, content, parent)

    def _send(
        self, sock: zmq.Socket[bytes], to: list[bytes], kind: str, content: bytes, parent: bytes
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
        sock.send_multipart([*to, _DELIMITER, signature, header, parent, b"{}", content])


def main() -> None:
    """Serve the connection file that the command line names."""
    ours, theirs = socket.socketpair()
    if not os.fork():
        ours.close()
        work(theirs)
        os._exit(0)
    theirs.close()
    Bare(sys.argv[1], ours).serve()


if __name__ == "__main__":
    main()
