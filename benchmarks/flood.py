"""What a cell that floods its output does to the kernel, while a client reads slowly.

    python -m benchmarks.flood [--seconds 60] [--rate 20] [--kernels pyrepl python3]

The cell prints numbered lines of 1,000 characters without end. The client takes ``--rate`` messages
a second from iopub. Meanwhile the kernel's own process is watched, and kernel_info is asked for on
control. Then the cell is interrupted by a message, and all that is still on its way is read: lines
that are missing between the first and the last one have been lost.
"""

from __future__ import annotations

import argparse
import statistics
import threading
import time
from collections.abc import Callable
from contextlib import contextmanager
from queue import Empty
from typing import Any

import psutil
import zmq
from jupyter_client.blocking.client import BlockingKernelClient
from jupyter_client.manager import KernelManager

FLOOD = """
import itertools
for n in itertools.count():
    print(f"{n:09} " + "x" * 989)
"""
_DIGITS = 9
_ANSWER = 60.0  # seconds that a reply may take
_QUIET = 10.0  # seconds without a message after which nothing more is expected
_SAMPLE = 0.02  # seconds between two looks at the memory
_ASK = 0.5  # seconds between two requests on control


class Reader(threading.Thread):
    """A client's iopub, read slowly, and from ``hurry()`` on as fast as it goes.

    Args:
        client: Whose connection it is.
        rate: Messages a second.
        high_water_mark: Messages that the client's own zmq takes in beyond those read; 0 for its
            default.
    """

    def __init__(self, client: BlockingKernelClient, rate: float, high_water_mark: int) -> None:
        super().__init__()
        self._session = client.session
        self._socket = client.context.socket(zmq.SUB)
        if high_water_mark:
            self._socket.rcvhwm = high_water_mark
        self._socket.subscribe(b"")
        self._socket.connect(client._make_url("iopub"))
        self._pause = 1 / rate
        self._is_hurrying = threading.Event()
        self._tail = ""
        self._next = 0
        self.cell = ""
        self.messages = 0
        self.read_slowly = 0
        self.lost = 0
        self.is_idle = False

    def hurry(self) -> None:
        """Read the rest at once."""
        self.read_slowly = self.messages
        self._is_hurrying.set()

    def run(self) -> None:
        """Read until the cell is idle, or nothing comes any more."""
        while not self.is_idle and self._socket.poll(_QUIET * 1000):
            _, frames = self._session.feed_identities(self._socket.recv_multipart())
            message = self._session.deserialize(frames)
            self.messages += 1
            if message["parent_header"].get("msg_id") == self.cell:
                self._take(message["msg_type"], message["content"])
            self._is_hurrying.wait(self._pause)
        self._socket.close(linger=0)

    def _take(self, kind: str, content: dict[str, Any]) -> None:
        if kind == "status":
            self.is_idle = content["execution_state"] == "idle"
        elif kind == "stream" and content["name"] == "stdout":
            lines = (self._tail + content["text"]).split("\n")
            self._tail = lines.pop()
            for line in lines:
                if line[:_DIGITS].isdigit():
                    number = int(line[:_DIGITS])
                    self.lost += abs(number - self._next)
                    self._next = number + 1


class Memory(threading.Thread):
    """The peak of a process's resident memory."""

    def __init__(self, pid: int) -> None:
        super().__init__()
        self._process = psutil.Process(pid)
        self._is_over = threading.Event()
        self.before = self.peak = self._process.memory_info().rss

    def run(self) -> None:
        """Look until ``stop()``."""
        while not self._is_over.wait(_SAMPLE):
            self.peak = max(self.peak, self._process.memory_info().rss)

    def stop(self) -> None:
        """Look no more."""
        self._is_over.set()
        self.join()


@contextmanager
def _running(name: str) -> Any:
    manager = KernelManager(kernel_name=name)
    manager.start_kernel()
    client = manager.client()
    try:
        client.start_channels(iopub=False, hb=False)
        yield manager, client
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)


def _ask_control(client: BlockingKernelClient, kind: str) -> float:
    """Seconds until a request on control is answered; infinity if it is not."""
    request = client.session.msg(kind, {})
    begun = time.perf_counter()
    client.control_channel.send(request)
    try:
        while True:
            reply = client.get_control_msg(timeout=_ANSWER)
            if reply["parent_header"].get("msg_id") == request["header"]["msg_id"]:
                return time.perf_counter() - begun
    except Empty:
        return float("inf")


def _wait_for(condition: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + _ANSWER
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError(f"waited {_ANSWER:g} s for {what}")
        time.sleep(_SAMPLE)


def measure(name: str, seconds: float, rate: float, high_water_mark: int) -> str:
    """Flood one kernel; a line of the table."""
    with _running(name) as (manager, client):
        reader = Reader(client, rate, high_water_mark)
        client.kernel_info()
        client.get_shell_msg(timeout=_ANSWER)
        reader.start()
        _ask_control(client, "kernel_info_request")
        _wait_for(lambda: reader.messages > 0, "a first message on iopub")
        memory = Memory(manager.provisioner.pid)
        memory.start()
        reader.cell = client.execute(FLOOD)
        latencies = []
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            latencies.append(_ask_control(client, "kernel_info_request"))
            time.sleep(_ASK)
        interrupt = _ask_control(client, "interrupt_request")
        memory.stop()
        reader.hurry()
        reader.join()
    mega = 1 << 20
    return (
        f"| {name} | {memory.before / mega:.0f} → {memory.peak / mega:.0f} MB "
        f"| {interrupt * 1000:.0f} ms | {statistics.median(latencies) * 1000:.1f} / "
        f"{max(latencies) * 1000:.0f} ms | {reader.read_slowly} + "
        f"{reader.messages - reader.read_slowly} | {reader.lost} "
        f"| {'yes' if reader.is_idle else 'no'} |"
    )


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--rate", type=float, default=20, help="messages a second")
    parser.add_argument("--client-hwm", type=int, default=0, help="the client's own zmq's; 0: 1000")
    parser.add_argument("--kernels", nargs="*", default=["pyrepl", "python3"])
    arguments = parser.parse_args()
    print(
        "| kernel | memory, at first → peak | interrupt_reply | kernel_info on control, "
        "median / max | messages read slowly + after the interrupt | lines lost | idle came |"
    )
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for name in arguments.kernels:
        print(measure(name, arguments.seconds, arguments.rate, arguments.client_hwm), flush=True)


if __name__ == "__main__":
    main()
