"""The two kernels side by side, and a scenario played on both.

    Pair ──┬── Kernel("python3") ── thread ──▶ ipykernel        each in a directory of its own
           └── Kernel("pyrepl")  ── thread ──▶ this kernel

Both play a scenario at the same time. What came back on each channel is a ``Transcript``.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import zmq
from jupyter_client.blocking.client import BlockingKernelClient
from jupyter_client.connect import port_names, write_connection_file
from jupyter_client.kernelspec import KernelSpecManager

from pyrepl_kernel.ports import ReservedPorts

from .steps import INTERRUPT, Ask, Beside, Create, Delete, Queue, Run, Scenario, Step, Until

__all__ = ["OURS", "THEIRS", "Kernel", "Message", "Pair", "Transcript"]

THEIRS = "python3"
OURS = "pyrepl"
TIMEOUT = 30.0
"""Seconds that any step may take: a bound, and no expectation of speed."""

Message = dict[str, Any]

_RESET = """
def _reset(shell, cwd):
    import os
    os.chdir(cwd)
    shell.reset(new_session=True)
    shell.user_ns["__spec__"] = None  # which multiprocessing asks the main module for
    # The types of completions, which are left out when they are not found in time: 400 ms.
    shell.Completer.jedi_compute_type_timeout = 60_000
    history = shell.history_manager
    history._i = history._ii = history._iii = history._i00 = ""
    with open({pid_file!r}, "w") as file:
        file.write(str(os.getpid()))
_reset(get_ipython(), {cwd!r})
"""


class Transcript:
    """What a kernel said to a scenario.

    Attributes:
        messages: Channel → messages, in order. What control requests caused on iopub is kept
            apart, as ``iopub of control``: it comes from another thread.
        requests: Message id → the number of the request, from 1.
        directory: The kernel's working directory.
    """

    def __init__(self, directory: str) -> None:
        self.messages: dict[str, list[Message]] = {
            name: [] for name in ("shell", "control", "stdin", "iopub", "iopub of control")
        }
        self.requests: dict[str, int] = {}
        self.directory = directory

    @property
    def printed(self) -> str:
        """All text of streams so far."""
        return "".join(
            message["content"]["text"]
            for message in self.messages["iopub"]
            if message["msg_type"] == "stream"
        )


class Kernel:
    """One kernel, and a front end for it.

    Args:
        name: Of the kernelspec.
        base: A directory for the kernel's own ones.
    """

    def __init__(self, name: str, base: Path) -> None:
        self.name = name
        self.directory = base / "work"
        for path in (self.directory, base / "ipython", base / "home"):
            path.mkdir(parents=True)
        self._pid_file = base / "pid"
        self._ports = ReservedPorts("127.0.0.1", port_names)
        ports: dict[str, Any] = self._ports.ports
        self.file, _ = write_connection_file(str(base / "kernel.json"), kernel_name=name, **ports)
        spec = KernelSpecManager().get_kernel_spec(name)
        arguments = [
            sys.executable if part in ("python", "python3") else part for part in spec.argv
        ]
        places = {"{connection_file}": self.file, "{resource_dir}": spec.resource_dir}
        for place, value in places.items():
            arguments = [part.replace(place, value) for part in arguments]
        environment = os.environ | spec.env
        environment |= {
            "IPYTHONDIR": str(base / "ipython"),
            "HOME": str(base / "home"),
            "PYDEVD_DISABLE_FILE_VALIDATION": "1",
            "PYREPL_SUBSHELLS": "true",  # as ipykernel has them
        }
        # ipykernel leaves descriptors alone where it finds itself in a test.
        environment.pop("PYTEST_CURRENT_TEST", None)
        with open(base / "kernel.log", "wb") as log:
            self.process = subprocess.Popen(
                arguments,
                cwd=self.directory,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self._context = zmq.Context()
        self._client = BlockingKernelClient(connection_file=self.file, context=self._context)
        self._client.load_connection_file()
        self._client.start_channels(hb=False)
        self._poller = zmq.Poller()
        self._channels = {
            getattr(self._client, f"{name}_channel").socket: name
            for name in ("shell", "control", "stdin", "iopub")
        }
        for socket in self._channels:
            self._poller.register(socket, zmq.POLLIN)
        self._controls: set[str] = set()
        self._seen: dict[str, list[Message]] = {}
        self._transcript = Transcript(str(self.directory))
        self._deadline = 0.0
        self._subshells: dict[str, str] = {}  # name → id
        self.is_used = False

    def close(self) -> None:
        """End all of it."""
        self._client.stop_channels()
        self._context.destroy(linger=0)
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(5)
            except subprocess.TimeoutExpired:
                self.process.kill()
        self.process.wait(TIMEOUT)
        self._ports.close()

    # --------------------------------------------------------------- scenarios

    def wait_ready(self) -> None:
        """Wait until the kernel answers, and iopub is heard."""
        deadline = time.monotonic() + TIMEOUT
        # ipykernel loses now and then what comes while it starts; ours may not.
        patience = 3.0 if self.name == THEIRS else TIMEOUT
        while True:
            msg_id = self._send(Ask("kernel_info_request", {}))
            try:
                self._wait(partial(self._has_come, msg_id, "shell", 1), patience)
                self._wait(partial(self._is_idle, msg_id), 0.3)
                return
            except TimeoutError:
                if time.monotonic() > deadline:
                    raise

    def play(self, scenario: Scenario) -> Transcript:
        """Play a scenario; a kernel that has been used before is reset."""
        if self.is_used or not scenario.fresh:
            code = _RESET.format(cwd=str(self.directory), pid_file=str(self._pid_file))
            self._finish(self._send(_silent(code)))
        self.is_used = True
        self._seen.clear()
        transcript = self._transcript = Transcript(str(self.directory))
        for step in scenario.steps:
            self._take(step)
        if scenario.ends:
            self.process.wait(TIMEOUT)
            self._receive(0.0)
        else:
            # What was sent before a further round trip began has come by its end.
            known = dict(transcript.requests)
            self._finish(self._send(Ask("kernel_info_request", {})))
            transcript.requests = known
        return transcript

    def _take(self, step: Step) -> None:
        if isinstance(step, Until):
            self._wait(lambda: step.text in self._transcript.printed)
        elif isinstance(step, Queue):
            sent = [self._send(run) for run in step.runs]
            for run, msg_id in zip(step.runs, sent, strict=True):
                self._attend(run, msg_id)
            for msg_id in sent:
                self._finish(msg_id)
        elif isinstance(step, Beside):
            cell = self._send(step.run)
            # Not just until it prints: ipykernel asks whether input is allowed of the cell that
            # began last, in whatever shell.
            self._wait(partial(self._has_come, cell, "stdin", 1))
            for other in step.steps:
                self._take(other)
            self._attend(step.run, cell)
            self._finish(cell)
        elif isinstance(step, Create):
            msg_id = self._send(Ask("create_subshell_request", {}, "control"))
            self._finish(msg_id)
            reply = next(m for m in self._seen[msg_id] if m["channel"] == "control")
            self._subshells[step.subshell] = reply["content"]["subshell_id"]
        elif isinstance(step, Delete):
            content = {"subshell_id": self._subshells[step.subshell]}
            self._finish(self._send(Ask("delete_subshell_request", content, "control")))
        else:
            msg_id = self._send(step)
            if isinstance(step, Run):
                self._attend(step, msg_id)
            self._finish(msg_id)

    def _attend(self, step: Run, msg_id: str) -> None:
        """Be there for a cell that asks, or that is to be interrupted."""
        for number, answer in enumerate(step.answers, 1):
            self._wait(partial(self._has_asked_or_ended, msg_id, number))
            if not self._has_come(msg_id, "stdin", number):
                return
            if answer is INTERRUPT:
                self._interrupt(is_busy=True)  # ipykernel asks again and again for the answer
            else:
                self._client.input(str(answer))
        if step.interrupt_at:
            self._wait(lambda: step.interrupt_at in self._transcript.printed)
            self._interrupt(step.is_busy)

    def _interrupt(self, is_busy: bool = False) -> None:
        """Interrupt the cell, once it has come to where it stays."""
        if not is_busy:
            self._wait_blocked()
        self._finish(self._send(Ask("interrupt_request", {}, "control")))

    def _wait_blocked(self) -> None:
        """Wait until the main thread of the cell's process sleeps, and not just for the GIL.

        There is no event for that. A thread that waits for the GIL wakes up every few
        milliseconds, which shows in the number of its context switches.
        """
        process = psutil.Process(int(self._pid_file.read_text()))
        deadline = time.monotonic() + TIMEOUT
        before = None
        while time.monotonic() < deadline:
            now = (process.status(), process.num_ctx_switches())
            if now == before and now[0] == psutil.STATUS_SLEEPING:
                return
            before = now
            time.sleep(0.05)
        raise TimeoutError(f"{self.name}: the cell has not blocked within {TIMEOUT} s")

    def _send(self, step: Run | Ask) -> str:
        session = self._client.session
        if isinstance(step, Run):
            content: dict[str, object] = {
                "code": step.code,
                "silent": False,
                "store_history": True,
                "user_expressions": {},
                "allow_stdin": False,
                "stop_on_error": True,
            }
            content.update(step.options)
            message = session.msg("execute_request", content, metadata=dict(step.metadata))
            channel = "shell"
        else:
            message = session.msg(step.msg_type, dict(step.content))
            message["buffers"] = list(step.buffers)
            channel = step.channel
        if step.subshell:
            message["header"]["subshell_id"] = self._subshells[step.subshell]
        msg_id = str(message["header"]["msg_id"])
        self._transcript.requests[msg_id] = len(self._transcript.requests) + 1
        if channel == "control":
            self._controls.add(msg_id)
        socket = getattr(self._client, f"{channel}_channel").socket
        session.send(socket, message, buffers=message.get("buffers"))
        return msg_id

    def _finish(self, msg_id: str) -> None:
        """Wait for a request's idle, and for the reply where there will be one."""
        self._wait(lambda: self._is_idle(msg_id))
        kind = next(message["parent_header"]["msg_type"] for message in self._seen[msg_id])
        if kind.endswith("_request"):
            channel = "control" if msg_id in self._controls else "shell"
            self._wait(partial(self._has_come, msg_id, channel, 1))

    # ---------------------------------------------------------------- messages

    def _has_come(self, msg_id: str, channel: str, number: int) -> bool:
        """Whether so many messages came on a channel in answer to a request."""
        channels = [message["channel"] for message in self._seen.get(msg_id, ())]
        return channels.count(channel) >= number

    def _has_asked_or_ended(self, msg_id: str, number: int) -> bool:
        return self._has_come(msg_id, "stdin", number) or self._is_idle(msg_id)

    def _is_idle(self, msg_id: str) -> bool:
        return any(
            message["content"].get("execution_state") == "idle"
            for message in self._seen.get(msg_id, ())
        )

    def _wait(self, is_there: Callable[[], bool], timeout: float = TIMEOUT) -> None:
        deadline = time.monotonic() + timeout
        while not is_there():
            left = deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError(f"{self.name}: nothing more within {timeout} s")
            self._receive(left)

    def _receive(self, timeout: float) -> None:
        """Take in what has come, having waited for something."""
        ready = dict(self._poller.poll(int(timeout * 1000)))
        for socket, channel in self._channels.items():
            while socket in ready:
                _, message = self._client.session.recv(socket, mode=zmq.NOBLOCK)
                if message is None:
                    break
                self._file(channel, message)

    def _file(self, channel: str, message: Message) -> None:
        message["channel"] = channel
        msg_id = message["parent_header"].get("msg_id", "")
        self._seen.setdefault(msg_id, []).append(message)
        name = "iopub of control" if channel == "iopub" and msg_id in self._controls else channel
        self._transcript.messages[name].append(message)


def _silent(code: str) -> Run:
    return Run(code, {"silent": True, "store_history": False})


class Pair:
    """ipykernel and this kernel, each used by a thread of its own.

    Args:
        base: A directory for theirs.
    """

    def __init__(self, base: Path) -> None:
        self._base = base
        self._generation = 0
        self._kernels: dict[str, Kernel] = {}
        self._threads = {name: ThreadPoolExecutor(1) for name in (THEIRS, OURS)}

    def play(self, scenario: Scenario) -> tuple[Transcript, Transcript]:
        """Play a scenario on both: ipykernel's transcript, and this kernel's."""
        if scenario.fresh and any(kernel.is_used for kernel in self._kernels.values()):
            self._close_kernels()
        try:
            futures = [
                self._threads[name].submit(self._play, name, scenario) for name in self._threads
            ]
            theirs, ours = (future.result() for future in _wait_all(futures))
        except BaseException:
            self._close_kernels()
            raise
        if scenario.spoils:
            self._close_kernels()
        return theirs, ours

    def _play(self, name: str, scenario: Scenario) -> Transcript:
        kernel = self._kernels.get(name)
        if kernel is None:
            base = self._base / name / str(self._generation)
            kernel = self._kernels[name] = Kernel(name, base)
            kernel.wait_ready()
        return kernel.play(scenario)

    def _close_kernels(self) -> None:
        self._generation += 1
        kernels, self._kernels = self._kernels, {}
        for future in _wait_all([self._threads[n].submit(k.close) for n, k in kernels.items()]):
            future.result()

    def close(self) -> None:
        """End both."""
        self._close_kernels()
        for thread in self._threads.values():
            thread.shutdown()


def _wait_all(futures: list[Any]) -> list[Any]:
    """The futures when all have ended: a failure on one side must not leave the other at work."""
    for future in futures:
        future.exception()
    return futures
