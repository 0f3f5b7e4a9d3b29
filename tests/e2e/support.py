"""What the tests with real front ends share: the kernel under test, and a client that talks to it.

    KernelProcess ── the kernelspec's command line, a connection file: what any launcher does
         │
      Client ─────── requests out; each message that comes is filed under the request it answers

``PYREPL_E2E_KERNEL`` names the kernelspec to test, ``pyrepl`` unless set. With ``python3`` the same
tests run on ipykernel, so that a difference between the two is seen and not assumed.
"""

from __future__ import annotations

import contextlib
import os
import select
import subprocess
import sys
import time
import uuid
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from queue import Empty
from typing import Any

import psutil
import pytest
import zmq
from jupyter_client.blocking.client import BlockingKernelClient
from jupyter_client.connect import port_names, write_connection_file
from jupyter_client.kernelspec import KernelSpec, KernelSpecManager
from jupyter_core.paths import jupyter_runtime_dir

from pyrepl_kernel.ports import ReservedPorts

KERNEL = os.environ.get("PYREPL_E2E_KERNEL", "pyrepl")
IS_OURS = KERNEL != "python3"

STOP_ON_ERROR = IS_OURS
"""Whether an error aborts what is queued behind it, where a test does not say. Front ends have it
so, but ipykernel then aborts for a moment also what is sent after the reply to the failing cell."""

only_ours = pytest.mark.skipif(
    not IS_OURS,
    reason=f"{KERNEL} does not promise this; unset PYREPL_E2E_KERNEL to run it on pyrepl",
)

TOUR = Path(__file__).resolve().parents[2] / "examples" / "tour.ipynb"
"""The example notebook, which each front end runs."""

TIMEOUT = 30.0
"""Seconds that anything may take before a test fails: a bound, and no expectation of speed."""


Message = dict[str, Any]


def kernelspec() -> KernelSpec:
    """The spec of the kernel under test."""
    return KernelSpecManager().get_kernel_spec(KERNEL)


def command(connection_file: str) -> list[str]:
    """The command line that starts the kernel under test."""
    spec = kernelspec()
    python, *arguments = spec.argv
    if python in {"python", "python3"}:
        python = sys.executable
    places = {"{connection_file}": connection_file, "{resource_dir}": spec.resource_dir}
    for place, value in places.items():
        arguments = [argument.replace(place, value) for argument in arguments]
    return [python, *arguments]


def wait_gone(pid: int, timeout: float) -> bool:
    """Whether the process ends within ``timeout`` seconds; one that nobody reaped has ended."""
    if sys.platform == "linux":
        try:
            descriptor = os.pidfd_open(pid)
        except ProcessLookupError:
            return True
        try:
            readable, _, _ = select.select([descriptor], [], [], timeout)
        finally:
            os.close(descriptor)
        return bool(readable)
    try:
        psutil.Process(pid).wait(timeout)
    except psutil.NoSuchProcess:
        return True
    except psutil.TimeoutExpired:
        return False
    return True


def kernel_processes(runtime_dir: Path) -> set[int]:
    """Pids of the running processes that were given a connection file in ``runtime_dir``."""
    prefix = str(runtime_dir / "kernel-")
    found = set()
    for process in psutil.process_iter(["cmdline", "status"]):
        arguments: list[str] = process.info["cmdline"] or []
        if process.info["status"] != psutil.STATUS_ZOMBIE and any(
            prefix in argument for argument in arguments
        ):
            found.add(process.pid)
    return found


@dataclass(frozen=True)
class Outcome:
    """What came of one execute_request: its reply, and all on iopub from busy to idle."""

    reply: Message
    messages: list[Message]

    @property
    def status(self) -> str:
        """``ok``, ``error`` or ``aborted``."""
        return str(self.reply["content"]["status"])

    @property
    def error(self) -> str:
        """The name of the error that was replied; nothing where there was none."""
        return str(self.reply["content"].get("ename", ""))

    @property
    def types(self) -> list[str]:
        """The types of the messages on iopub, in order."""
        return [message["msg_type"] for message in self.messages]

    @property
    def text(self) -> str:
        """What was printed to stdout."""
        return "".join(
            message["content"]["text"]
            for message in self.messages
            if message["msg_type"] == "stream" and message["content"]["name"] == "stdout"
        )

    @property
    def result(self) -> str | None:
        """The result as plain text."""
        for message in self.messages:
            if message["msg_type"] == "execute_result":
                return str(message["content"]["data"]["text/plain"])
        return None


def is_idle(message: Message) -> bool:
    """Whether this is the status that ends a request."""
    return bool(message["msg_type"] == "status" and message["content"]["execution_state"] == "idle")


class Client:
    """A front end of one kernel. Each wait ends with ``TimeoutError`` when its time is up."""

    def __init__(self, connection_file: str) -> None:
        self._context = zmq.Context()
        self.kc = BlockingKernelClient(connection_file=connection_file, context=self._context)
        self.kc.load_connection_file()
        self.kc.start_channels(hb=False)
        self._get: dict[str, Callable[..., Message]] = {
            "shell": self.kc.get_shell_msg,
            "control": self.kc.get_control_msg,
            "stdin": self.kc.get_stdin_msg,
            "iopub": self.kc.get_iopub_msg,
        }
        self._filed: dict[str, dict[str, list[Message]]] = {
            channel: defaultdict(list) for channel in self._get
        }
        self.asked: list[str] = []
        """Ids of the requests, in the order of asking."""

    def wait_ready(self) -> None:
        """Wait until the kernel answers and iopub is subscribed.

        A subscription is known to be there once something came. Not each kernel welcomes each
        subscriber, so requests, which all have a status, are sent until one is heard of.
        """
        deadline = time.monotonic() + TIMEOUT
        while True:
            self.reply(self.send("kernel_info_request", {}))
            try:
                self._receive_until("iopub", lambda message: bool(message["msg_type"]), timeout=0.2)
            except TimeoutError:
                if time.monotonic() > deadline:
                    raise
            else:
                break
        self.outputs(self.send("kernel_info_request", {}))

    def close(self) -> None:
        """Close the sockets."""
        self.kc.stop_channels()
        self._context.destroy(linger=0)

    # ── out ──

    def send(self, msg_type: str, content: Any, *, channel: str = "shell") -> str:
        """Send one request, its content as it stands, and return its id."""
        message = self.kc.session.msg(msg_type, content)
        getattr(self.kc, f"{channel}_channel").send(message)
        return self._remember(message)

    def send_twice(self, msg_type: str, content: Message) -> str:
        """Send the very same frames two times."""
        message = self.kc.session.msg(msg_type, content)
        frames = self.kc.session.serialize(message)
        for _ in range(2):
            self.kc.shell_channel.socket.send_multipart(frames)
        return self._remember(message)

    def execute(self, code: str, **options: object) -> str:
        """Send an execute_request with the defaults of an interactive front end."""
        content = {
            "code": code,
            "silent": False,
            "store_history": True,
            "user_expressions": {},
            "allow_stdin": False,
            "stop_on_error": STOP_ON_ERROR,
        }
        return self.send("execute_request", content | options)

    def interrupt(self) -> Message:
        """Interrupt by message, and return the reply."""
        return self.reply(self.send("interrupt_request", {}, channel="control"), channel="control")

    # ── in ──

    def reply(self, msg_id: str, *, channel: str = "shell", timeout: float = TIMEOUT) -> Message:
        """The reply to a request."""
        replies = self._filed[channel][msg_id]
        self._receive_until(channel, lambda _: bool(replies), timeout=timeout)
        return replies.pop(0)

    def outputs(self, msg_id: str) -> list[Message]:
        """All that iopub said about a request, up to its idle."""
        messages = self._filed["iopub"][msg_id]
        self._receive_until("iopub", lambda _: bool(messages) and is_idle(messages[-1]))
        return messages

    def outputs_so_far(self, msg_id: str) -> list[Message]:
        """What of iopub was read for a request until now."""
        return self._filed["iopub"][msg_id]

    def wait_printed(self, msg_id: str) -> None:
        """Wait until a running cell printed something: from then on it is known to run."""
        messages = self._filed["iopub"][msg_id]
        self._receive_until("iopub", lambda _: any(m["msg_type"] == "stream" for m in messages))

    def outcome(self, msg_id: str) -> Outcome:
        """Wait for the end of an execution."""
        reply = self.reply(msg_id)
        return Outcome(reply, self.outputs(msg_id))

    def run(self, code: str, **options: object) -> Outcome:
        """Execute code and wait for its end."""
        return self.outcome(self.execute(code, **options))

    def value(self, expression: str) -> str:
        """The plain text of an expression's value."""
        outcome = self.run(expression)
        assert outcome.result is not None, outcome.reply["content"]
        return outcome.result

    def unread(self, msg_id: str, channel: str) -> list[Message]:
        """What came for a request and was not taken, known to be all by a round trip."""
        self.run("pass")
        return self._filed[channel][msg_id]

    def _remember(self, message: Message) -> str:
        msg_id = str(message["header"]["msg_id"])
        self.asked.append(msg_id)
        return msg_id

    def _receive_until(
        self, channel: str, done: Callable[[Message], bool], *, timeout: float = TIMEOUT
    ) -> None:
        deadline = time.monotonic() + timeout
        message: Message = {"msg_type": ""}
        while not done(message):
            try:
                message = self._get[channel](timeout=max(0.0, deadline - time.monotonic()))
            except Empty:
                last = [
                    (one["msg_type"], one["parent_header"].get("msg_id", "")[-6:])
                    for filed in self._filed[channel].values()
                    for one in filed[-2:]
                ]
                raise TimeoutError(
                    f"{channel}: nothing more within {timeout} s; the last for each request: "
                    f"{last[-8:]}; asked last: {[one[-6:] for one in self.asked[-1:]]}"
                ) from None
            self._filed[channel][message["parent_header"].get("msg_id", "")].append(message)


class KernelProcess:
    """A kernel's process, started by its spec's command line and a connection file.

    Args:
        under: A command that gets the kernel's command line as its arguments, and starts it.
    """

    def __init__(self, under: Sequence[str] = ()) -> None:
        path = Path(jupyter_runtime_dir()) / f"kernel-{uuid.uuid4()}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        self._ports = ReservedPorts("127.0.0.1", port_names)
        ports: dict[str, Any] = self._ports.ports
        self.connection_file: str
        self.connection: Mapping[str, Any]
        self.connection_file, self.connection = write_connection_file(
            str(path), key=uuid.uuid4().hex.encode(), kernel_name=KERNEL, **ports
        )
        self._clients: list[Client] = []
        self.process = subprocess.Popen(
            [*under, *command(self.connection_file)],
            env={**os.environ, **kernelspec().env},
            start_new_session=True,
        )

    def client(self) -> Client:
        """A further client, ready to use."""
        client = self.connect()
        client.wait_ready()
        return client

    def connect(self) -> Client:
        """A further client, which does not wait for the kernel."""
        client = Client(self.connection_file)
        self._clients.append(client)
        return client

    def close(self) -> None:
        """Close the clients, and kill what still runs."""
        for client in self._clients:
            client.close()
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(TIMEOUT)
        self._ports.close()
        Path(self.connection_file).unlink(missing_ok=True)


@contextlib.contextmanager
def running_kernel(under: Sequence[str] = ()) -> Iterator[KernelProcess]:
    """A kernel process for the length of a ``with`` block."""
    kernel = KernelProcess(under)
    try:
        yield kernel
    finally:
        kernel.close()
