"""Output without end, and a client that reads it slowly."""

from __future__ import annotations

import json
import threading
import time

import psutil
import zmq

from .support import TIMEOUT, Client, KernelProcess, only_ours, running_kernel

pytestmark = only_ours

FLOOD = """import itertools
text = "x" * 1_000_000
for n in itertools.count():
    print(n, text)
"""
SECONDS = 5.0
MEMORY = 120 << 20


class SlowReader(threading.Thread):
    """Reads iopub, 20 messages a second, and from ``hurry`` on as fast as it goes."""

    def __init__(self, kernel: KernelProcess) -> None:
        super().__init__(daemon=True)
        self.context = zmq.Context()
        self._socket = self.context.socket(zmq.SUB)
        self._socket.rcvhwm = 8  # or this process would hold what the kernel's does not
        self._socket.subscribe(b"")
        self._socket.connect(f"tcp://127.0.0.1:{kernel.connection['iopub_port']}")
        self.welcome = self._receive()
        self.hurry = threading.Event()
        self.cell = ""
        self.numbers: list[int] = []
        self.messages = 0
        self.is_idle = False
        self._tail = ""

    def _receive(self) -> list[bytes]:
        if not self._socket.poll(int(TIMEOUT * 1000)):
            raise TimeoutError(f"iopub: nothing more within {TIMEOUT} s")
        frames = self._socket.recv_multipart()
        return frames[frames.index(b"<IDS|MSG>") + 2 :]

    def run(self) -> None:
        while not self.is_idle:
            header, parent, _, content, *_ = map(json.loads, self._receive()[:4])
            self.messages += 1
            if parent.get("msg_id") == self.cell and header["msg_type"] == "stream":
                self._take(content["text"])
            elif parent.get("msg_id") == self.cell and header["msg_type"] == "status":
                self.is_idle = content["execution_state"] == "idle"
            self.hurry.wait(1 / 20)
        self._socket.close(linger=0)

    def _take(self, text: str) -> None:
        *lines, self._tail = (self._tail + text).split("\n")
        self.numbers += [int(line.split()[0]) for line in lines]


def flood(client: Client, reader: SlowReader, process: psutil.Process) -> int:
    """Have the cell run for a while; the peak of the kernel process's memory."""
    reader.cell = client.execute(FLOOD)
    reader.start()
    peak = 0
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        client.reply(
            client.send("kernel_info_request", {}, channel="control"), channel="control", timeout=5
        )
        peak = max(peak, process.memory_info().rss)
    return peak


def test_a_flood_fills_no_memory_holds_up_no_request_and_loses_nothing() -> None:
    with running_kernel() as kernel:
        client = kernel.client()
        client.kc.iopub_channel.stop()
        reader = SlowReader(kernel)
        peak = flood(client, reader, psutil.Process(kernel.process.pid))
        begun = time.monotonic()
        assert client.interrupt()["content"]["status"] == "ok"
        took = time.monotonic() - begun
        assert reader.is_alive(), "it has kept up: this was no flood"
        reader.hurry.set()
        assert client.reply(reader.cell)["content"]["ename"] == "KeyboardInterrupt"
        reader.join(TIMEOUT)
        assert reader.is_idle
        assert reader.numbers == list(range(len(reader.numbers)))
        reader.context.term()
    assert peak < MEMORY, f"{peak:,} bytes"
    assert took < 2
