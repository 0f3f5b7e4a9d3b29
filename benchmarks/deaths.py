"""What a user of a kernel gets when a cell ends its process: how soon, and what works afterwards.

    python -m benchmarks.deaths [--runs 50] [--kernels pyrepl python3] [--only segfault killed]

Each death is made as often as asked. Times are from the death (as the cell or this program saw it)
to the error reply, and from sending the next cell to its result. ``PYREPL_SPARES=1`` in the
environment makes sure that a spare stands ready.
"""

from __future__ import annotations

import argparse
import os
import signal
import statistics
import sys
import time
import uuid
from contextlib import suppress
from dataclasses import dataclass, field
from queue import Empty
from typing import Any

import psutil
from jupyter_client.blocking.client import BlockingKernelClient
from jupyter_client.manager import KernelManager

MARK = ("KERNEL_DEATHS_ID", uuid.uuid4().hex)
_PATIENCE = 5.0  # seconds for a reply that may never come
_LINGER = 45.0  # seconds that a template stays for the next kernel, and some more
_SETTLE = 0.6  # seconds for a spare to be made
_END = 5.0  # seconds in which what was killed must be gone

_STUCK = """
while True:
    try:
        print("begun", flush=True)
        import ctypes
        ctypes.PyDLL(None).sleep(600)
    except BaseException:
        pass
"""
_BOMB = """
import os, signal, time
for _ in range(50):
    if os.fork() == 0:
        time.sleep(600)
print(time.time(), flush=True)
time.sleep(0.05)
os.kill(os.getpid(), signal.SIGKILL)
"""
_NOW = "import time; print(time.time(), flush=True); time.sleep(0.05)\n"
"""The time, which arrives before the death that follows."""

DEATHS = {
    "segfault": _NOW + "import ctypes; ctypes.string_at(0)",
    "abort": _NOW + "import os; os.abort()",
    "killed": "import os; print(os.getpid(), flush=True)\nimport time; time.sleep(600)",
    "exit 3": _NOW + "import os; os._exit(3)",
    "stack overflow": _NOW
    + "import ctypes, sys; sys.setrecursionlimit(10**7)\n"
    + "@ctypes.CFUNCTYPE(None)\ndef deeper(): deeper()\ndeeper()",
    "memory": "b = []\nimport time\nwhile True:\n    try:\n        b.append(b'x' * 10_000_000)\n"
    "    except BaseException: pass\n    print(time.time(), flush=True)",
    "third interrupt": _STUCK,
    "fork bomb": _BOMB,
    "arrays back": _NOW + "import ctypes; ctypes.string_at(0)",
    "objects back": _NOW + "import ctypes; ctypes.string_at(0)",
}

SETUPS = {
    "arrays back": "%autocheckpoint on\nbefore = 1\n"
    "import numpy as np; data = [np.random.rand(2_500_000) for _ in range(50)]",
    "objects back": "%autocheckpoint on\nbefore = 1\ndata = [bytes(960) for _ in range(1_000_000)]",
}
"""Sessions of 1 GB that a segfault takes back to their last checkpoint: 50 arrays, in huge pages
where the system has them, or a million objects, in small ones."""


@dataclass
class Figures:
    """What came of one kind of death."""

    to_reply: list[float] = field(default_factory=list)
    to_next: list[float] = field(default_factory=list)
    no_reply: int = 0
    dead: int = 0
    is_empty: int = 0
    left: int = 0
    said: str = ""


class Watched:
    """A kernel, and what it says of one request at a time."""

    def __init__(self, name: str) -> None:
        self.manager = KernelManager(kernel_name=name)
        self.manager.start_kernel(env={**os.environ, MARK[0]: MARK[1]})
        self.client: BlockingKernelClient = self.manager.client()
        self.client.start_channels()
        self.client.wait_for_ready(timeout=60)
        self.text = ""
        self.replied_at = 0.0

    def send(self, code: str) -> str:
        """Send a cell, as a person's front end does."""
        self.text = ""
        return str(self.client.execute(code, allow_stdin=True))

    def printed(self, msg_id: str) -> str:
        """Wait until a cell has printed."""
        while not self.text.strip():
            self._take(msg_id, _PATIENCE)
        return self.text

    def _take(self, msg_id: str, timeout: float) -> None:
        message = self.client.get_iopub_msg(timeout=timeout)
        if message["parent_header"].get("msg_id") == msg_id and message["msg_type"] == "stream":
            self.text += message["content"]["text"]

    def reply(self, msg_id: str) -> dict[str, Any] | None:
        """The reply, when all that came with it has been read; None if none comes."""
        with suppress(Empty):
            while True:
                message = self.client.get_shell_msg(timeout=_PATIENCE)
                self.replied_at = time.time()
                if message["parent_header"].get("msg_id") == msg_id:
                    content: dict[str, Any] = message["content"]
                    with suppress(Empty):
                        while True:
                            self._take(msg_id, 0.05)
                    return content
        return None

    def close(self) -> None:
        """End it."""
        self.client.stop_channels()
        self.manager.shutdown_kernel(now=True)


def marked() -> set[int]:
    """The living processes that belong to these kernels."""
    found = set()
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            if process.environ().get(MARK[0]) == MARK[1]:
                found.add(process.pid)
    return found - {os.getpid()}


def die(watched: Watched, death: str) -> tuple[float, dict[str, Any] | None, float]:
    """End the worker; when it died, the reply, and when that came."""
    if death == "memory":
        watched.reply(watched.send("%limit memory 400M 400M"))
    msg_id = watched.send(DEATHS[death])
    if death == "killed":
        pid = int(watched.printed(msg_id))
        died = time.time()
        os.kill(pid, 9)
    elif death == "third interrupt":
        with suppress(Empty):  # ipykernel's thread for output needs the GIL, which the cell holds
            watched.printed(msg_id)
        for pause in (0.7, 1.3, 0.0):
            watched.manager.interrupt_kernel()
            died = time.time()
            time.sleep(pause)
    else:
        died = float(watched.printed(msg_id).split()[-1]) if death != "memory" else 0.0
    reply = watched.reply(msg_id)
    if death == "memory" and watched.text.split():
        died = float(watched.text.split()[-1])  # the last sign of life
    elif death != "killed" and death != "third interrupt":
        died += 0.05
    return died, reply, watched.replied_at


def measure(name: str, death: str, runs: int) -> Figures:
    """Make one kind of death again and again."""
    figures = Figures()
    watched: Watched | None = None
    try:
        for _ in range(runs):
            if name == "python3" and (death == "memory" or death in SETUPS):
                return figures  # it has no limit, and no checkpoints
            if watched is None:
                watched = Watched(name)
                watched.reply(watched.send(SETUPS.get(death, "pass")))
            begun = watched.send("import os; before = 1; print(os.getpid())")
            worker = int(watched.printed(begun))
            watched.reply(begun)
            time.sleep(_SETTLE)
            died, reply, replied = die(watched, death)
            if reply is None:
                figures.no_reply += 1
                figures.dead += not watched.manager.is_alive()
                figures.left += _left(worker)
                with suppress(ProcessLookupError):
                    os.killpg(worker, signal.SIGKILL)
                watched.close()
                watched = None
                continue
            figures.said = str(reply.get("evalue", ""))
            figures.to_reply.append(replied - died)
            sent = time.time()
            answer = watched.send("print('before' in globals())")
            watched.printed(answer)
            figures.to_next.append(time.time() - sent)
            figures.is_empty += watched.text.strip() == "False"
            watched.reply(answer)
            figures.left += _left(worker)
    finally:
        if watched is not None:
            watched.close()
    return figures


def _left(worker: int) -> int:
    """How many processes of a dead worker's are still there when they have had time to end."""
    deadline = time.monotonic() + _END
    while (left := len(_group(worker))) and time.monotonic() < deadline:
        time.sleep(0.1)
    return left


def _group(leader: int) -> list[int]:
    members = []
    for pid in marked():
        with suppress(OSError):
            if os.getpgid(pid) == leader:
                members.append(pid)
    return members


def _p95(values: list[float]) -> str:
    if not values:
        return "-"
    ordered = sorted(values)
    worst = ordered[min(len(ordered) - 1, int(0.95 * len(ordered)))]
    return f"{statistics.median(values) * 1000:.0f} / {worst * 1000:.0f} ms"


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--runs", type=int, default=50)
    parser.add_argument("--kernels", nargs="*", default=["pyrepl", "python3"])
    parser.add_argument("--only", nargs="*", default=list(DEATHS), choices=list(DEATHS))
    arguments = parser.parse_args()
    print("median / p95; an empty namespace afterwards; no reply, and then a dead kernel;")
    print("processes of the dead worker's left")
    print("at the end ... back: a session of 1 GB that goes back to its last checkpoint\n")
    print("| death | kernel | to the reply | to the next result | empty | silent | dead | left |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for death in arguments.only:
        for name in arguments.kernels:
            figures = measure(name, death, arguments.runs)
            print(
                f"| {death} | {name} | {_p95(figures.to_reply)} | {_p95(figures.to_next)} "
                f"| {figures.is_empty}/{len(figures.to_next)} | {figures.no_reply} "
                f"| {figures.dead} | {figures.left} | {figures.said[:90]}",
                flush=True,
            )
    deadline = time.monotonic() + _LINGER
    while (left := marked()) and time.monotonic() < deadline:
        time.sleep(1)
    if left:
        sys.exit(f"left behind: {left}")


if __name__ == "__main__":
    main()
