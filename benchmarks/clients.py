"""A kernel under measurement, and the exchanges with it.

::

    Kernel.ask() ──► shell ───────────────────────► kernel
                                                      │
    Kernel.wait() ◄── one zmq poll ◄── shell, iopub ◄─┘
         └── each message goes to the Exchange whose request is its parent; others are dropped

The sockets are those of jupyter_client's blocking client, read directly: its ``get_*_msg`` run an
event loop for each message and watch one channel at a time, which would be part of every figure.
"""

import math
import os
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import zmq
from jupyter_client.blocking.client import BlockingKernelClient
from jupyter_client.manager import KernelManager

from .errors import KernelFault
from .guards import time_limit, uninterrupted

MARK = "KERNEL_BENCHMARK_ID"
"""Variable in a kernel's environment, a different value for each kernel that is started."""

LIBRARIES = "import pandas, numpy, matplotlib.pyplot"

VARIANTS = {
    "warm": f"with --warmup={LIBRARIES!r}, for kernels that have that option",
    "relaunch": "without the provisioner that its kernelspec names: a restart is a new process",
}
"""What may follow a kernelspec's name, as in ``pyrepl+warm+relaunch``."""

START_LIMIT = 60.0
STOP_LIMIT = 20.0
REPLY_LIMIT = 120.0
QUIET_LIMIT = 10.0
"""Seconds without any message, after the reply, until an idle status counts as lost."""

_SUBSCRIPTION_PROBE = 0.2
_SLICE_MS = 1000
_MESSAGES_A_POLL = 64

Content = dict[str, Any]


@dataclass(slots=True)
class Exchange:
    """One request and what has come back for it. Times are of ``time.perf_counter``."""

    id: str
    sent_at: float
    on_display: Callable[[Content], None] | None = None
    on_comm: Callable[[Content, list[bytes]], None] | None = None
    reply: Content | None = None
    replied_at: float = 0.0
    idle_at: float = 0.0
    text: list[str] = field(default_factory=list)
    result: str | None = None

    @property
    def is_done(self) -> bool:
        """Whether the reply and the idle status have both come."""
        return self.reply is not None and self.idle_at > 0.0

    @property
    def round_trip(self) -> float:
        """Seconds from the request to the last of reply and idle status."""
        return max(self.replied_at, self.idle_at) - self.sent_at

    def require_ok(self) -> Content:
        """Returns the reply's content; raises ``KernelFault`` unless it says ok."""
        if self.reply is None:
            raise KernelFault("no reply")
        if self.reply.get("status") != "ok":
            name, value = self.reply.get("ename"), self.reply.get("evalue")
            raise KernelFault(f"{self.reply.get('status')} reply: {name}: {value}")
        return self.reply


class Kernel:
    """One kernel: started, asked, restarted and shut down through jupyter_client.

    Args:
        spec: name of the kernelspec, with variants after it (see ``VARIANTS``).
        folder: where IPython's profile and the kernel's own log go, so that a benchmark leaves
            no trace in the user's history and finds nothing of it in the way.
        env: environment variables of its own.
    """

    def __init__(self, spec: str, folder: Path, env: Mapping[str, str] | None = None) -> None:
        self.spec = spec
        self._folder = folder
        self._siblings: list[Kernel] = []
        self.mark = uuid.uuid4().hex
        self.env = {**os.environ, "IPYTHONDIR": str(folder / "ipython"), MARK: self.mark}
        self.env.update(env or {})
        # Without cached bytecode a start would measure Python's compiler.
        self.env.pop("PYTHONDONTWRITEBYTECODE", None)
        self._log_path = folder / f"{spec}-{self.mark}.log"
        self._log = self._log_path.open("wb")
        name, *variants = spec.split("+")
        self._manager = KernelManager(kernel_name=name)
        self._arguments = [f"--warmup={LIBRARIES}"] if "warm" in variants else []
        if "relaunch" in variants and self._manager.kernel_spec is not None:
            self._manager.kernel_spec.metadata.pop("kernel_provisioner", None)
        # Looked up here, so that a start does not time the search for kernelspecs.
        self._argv = self._manager.kernel_spec.argv if self._manager.kernel_spec else []
        self._client: BlockingKernelClient | None = None
        self._poller = zmq.Poller()
        self._open: dict[str, Exchange] = {}

    def __repr__(self) -> str:
        return f"<Kernel {self.spec} pid={self.pid} open={len(self._open)}>"

    @property
    def pid(self) -> int | None:
        """The kernel's process, None before the start and when its provisioner has none."""
        return getattr(self._manager.provisioner, "pid", None)

    @property
    def unfinished(self) -> int:
        """How many exchanges still lack their reply or their idle status."""
        return len(self._open)

    @property
    def siblings(self) -> list["Kernel"]:
        """The kernels that this one has been given as company."""
        return self._siblings

    # Life

    def sibling(self) -> "Kernel":
        """Another kernel of the same kind, not started; it is closed with this one."""
        self._siblings.append(Kernel(self.spec, self._folder, self.env | {MARK: self.mark}))
        return self._siblings[-1]

    def start(self) -> None:
        """Launches the kernel and opens the channels; does not wait for anything from it."""
        # Ctrl-C between the launch and its book-keeping would leave a process nobody knows.
        with uninterrupted(), time_limit(START_LIMIT, "start_kernel"):
            self._manager.start_kernel(
                extra_arguments=self._arguments,
                env=self.env,
                stdout=self._log,
                stderr=self._log,
            )
        self._open_channels()

    def restart(self) -> None:
        """Restarts politely. The channels are opened anew: what a socket sends while its old
        peer is going can be lost, and would be measured as a hang."""
        self._close_channels()
        with uninterrupted(), time_limit(START_LIMIT, "restart_kernel"):
            self._manager.restart_kernel(now=False)
        self._open_channels()

    def interrupt(self) -> None:
        """Interrupts in the way that the kernelspec asks for: a signal or a message."""
        with time_limit(STOP_LIMIT, "interrupt_kernel"):
            self._manager.interrupt_kernel()

    def close(self, *, now: bool = False) -> None:
        """Shuts the kernel down, politely unless ``now``; does nothing the second time."""
        for sibling in self._siblings:
            sibling.close(now=now)
        self._siblings.clear()
        if self._log.closed:
            return
        self._close_channels()
        try:
            if self._manager.has_kernel:
                with time_limit(STOP_LIMIT, "shutdown_kernel"):
                    self._manager.shutdown_kernel(now=now)
        finally:
            self._log.close()

    def _open_channels(self) -> None:
        client = self._manager.client()
        # No heartbeat: it is a thread of the client's own, waking up between the measurements.
        client.start_channels(hb=False)
        self._poller = zmq.Poller()
        self._poller.register(client.shell_channel.socket, zmq.POLLIN)
        self._poller.register(client.iopub_channel.socket, zmq.POLLIN)
        self._poller.register(client.control_channel.socket, zmq.POLLIN)
        self._client = client

    def _close_channels(self) -> None:
        self._open.clear()
        if self._client is not None:
            self._client.stop_channels()
            self._client = None

    # Exchanges

    def ask(
        self,
        send: Callable[[BlockingKernelClient], str],
        on_display: Callable[[Content], None] | None = None,
    ) -> Exchange:
        """Sends a request and returns its exchange at once.

        Args:
            send: sends through the client and returns the message's id.
            on_display: called with the mime bundle of each display while it arrives.
        """
        if self._client is None:
            raise KernelFault("the kernel is not running")
        sent_at = time.perf_counter()
        exchange = Exchange(send(self._client), sent_at, on_display)
        self._open[exchange.id] = exchange
        return exchange

    def cell(
        self,
        code: str,
        *,
        on_display: Callable[[Content], None] | None = None,
        on_comm: Callable[[Content, list[bytes]], None] | None = None,
        describe: Callable[[Exchange], str] | None = None,
    ) -> Exchange:
        """Runs a cell as a front end does, until its reply and its idle status have come.

        Args:
            code: the cell.
            on_display: called with the mime bundle of each display while it arrives.
            on_comm: called with the content and the buffers of each comm message.
            describe: says what has arrived, for the error when the idle status does not.
        """
        exchange = self.ask(lambda client: client.execute(code), on_display)
        exchange.on_comm = on_comm
        self.replied(exchange, "the reply")
        try:
            self.done(exchange, "the idle status", quiet=QUIET_LIMIT)
        except KernelFault as fault:
            if describe is None:
                raise
            raise KernelFault(f"{fault}; {describe(exchange)}") from None
        exchange.require_ok()
        return exchange

    def ask_comm(
        self, comm_id: str, data: Content, on_comm: Callable[[Content, list[bytes]], None]
    ) -> Exchange:
        """Sends a message to a comm and returns its exchange, which has no reply."""

        def send(client: BlockingKernelClient) -> str:
            content = {"comm_id": comm_id, "data": data}
            message = client.session.msg("comm_msg", content)
            client.shell_channel.send(message)
            return str(message["header"]["msg_id"])

        exchange = self.ask(send)
        exchange.on_comm = on_comm
        return exchange

    def info(self) -> Content:
        """Asks for kernel_info and returns the reply's content."""
        exchange = self.ask(lambda client: client.kernel_info())
        self.replied(exchange, "the kernel_info reply", START_LIMIT)
        return exchange.require_ok()

    def ask_control(self, msg_type: str) -> Exchange:
        """Sends a request without content on the control channel; returns its exchange at once."""

        def send(client: BlockingKernelClient) -> str:
            message = client.session.msg(msg_type, {})
            client.control_channel.send(message)
            return str(message["header"]["msg_id"])

        return self.ask(send)

    def listen(self, seconds: float) -> None:
        """Receives whatever comes within some time."""
        end = time.perf_counter() + seconds
        while (left := end - time.perf_counter()) > 0:
            self._receive(math.ceil(left * 1000))

    def subscribe(self) -> None:
        """Asks until an idle status arrives: only then has the iopub subscription got through."""
        deadline = time.perf_counter() + START_LIMIT
        while time.perf_counter() < deadline:
            exchange = self.ask(lambda client: client.kernel_info())
            self.replied(exchange, "a kernel_info reply", START_LIMIT)
            try:
                self.done(exchange, "an idle status", _SUBSCRIPTION_PROBE)
            except KernelFault:
                continue
            self.drain()
            return
        raise KernelFault(f"no iopub message within {START_LIMIT:g} s of the first reply")

    def replied(self, exchange: Exchange, what: str, seconds: float = REPLY_LIMIT) -> None:
        """Waits for an exchange's reply."""
        self.wait(lambda: exchange.reply is not None, what, seconds)

    def done(
        self,
        exchange: Exchange,
        what: str,
        seconds: float = REPLY_LIMIT,
        quiet: float | None = None,
    ) -> None:
        """Waits for an exchange's reply and idle status."""
        self.wait(lambda: exchange.is_done, what, seconds, quiet)

    def wait(
        self,
        condition: Callable[[], bool],
        what: str,
        seconds: float = REPLY_LIMIT,
        quiet: float | None = None,
    ) -> None:
        """Receives messages until the condition holds.

        Args:
            condition: looked at after each batch of messages.
            what: what is waited for, for the error's text.
            seconds: the limit for all of it.
            quiet: the limit for a time without any message, if that is to be shorter.

        Raises:
            KernelFault: the time is up, or the kernel has died.
        """
        patience = seconds if quiet is None else quiet
        now = time.perf_counter()
        end, deadline = now + seconds, now + patience
        while not condition():
            left = min(end, deadline) - time.perf_counter()
            if left <= 0:
                limit = f"{seconds:g} s" if end <= deadline else f"{patience:g} s without a message"
                raise KernelFault(f"waited {limit} for {what}")
            if self._receive(min(math.ceil(left * 1000), _SLICE_MS)):
                deadline = time.perf_counter() + patience
            elif not self._manager.is_alive():
                raise KernelFault(self._obituary())

    def drain(self) -> None:
        """Drops what is still in the sockets and forgets all open exchanges."""
        self._open.clear()
        while self._receive(0):
            pass

    def _receive(self, timeout_ms: int) -> int:
        """Takes what has arrived, a bounded number for each channel; returns how many."""
        client = self._client
        if client is None:
            raise KernelFault("the kernel is not running")
        count = 0
        for socket, _ in self._poller.poll(timeout_ms):
            for _ in range(_MESSAGES_A_POLL):
                _, message = client.session.recv(socket, zmq.NOBLOCK)
                if message is None:
                    break
                count += 1
                self._route(message)
        return count

    def _route(self, message: Content) -> None:
        parent = (message["parent_header"] or {}).get("msg_id", "")  # xeus says null for none
        exchange = self._open.get(parent)
        if exchange is None:
            return
        kind, content = message["msg_type"], message["content"]
        if kind.endswith("_reply"):
            exchange.reply, exchange.replied_at = content, time.perf_counter()
        elif kind == "status" and content["execution_state"] == "idle":
            exchange.idle_at = time.perf_counter()
        elif kind == "stream" and content["name"] == "stdout":
            exchange.text.append(content["text"])
        elif kind == "display_data" and exchange.on_display is not None:
            exchange.on_display(content["data"])
        elif kind == "comm_msg" and exchange.on_comm is not None:
            exchange.on_comm(content, message["buffers"])
        elif kind == "execute_result":
            exchange.result = content["data"].get("text/plain")
        if exchange.is_done:
            del self._open[parent]

    def _obituary(self) -> str:
        process = getattr(self._manager.provisioner, "process", None)
        status = getattr(process, "returncode", None)
        words = " / ".join(self._log_path.read_text(errors="replace")[-200:].split("\n")).strip(
            " /"
        )
        return f"the kernel died with exit status {status}; its last words: {words or 'none'}"
