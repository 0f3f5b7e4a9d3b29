"""jupyter_client's provisioner for this kernel: a restart keeps the kernel process.

A kernelspec names it in its metadata, and jupyter_client then has it start and end the kernel:

    "kernel_provisioner": {"provisioner_name": "pyrepl-provisioner"}

What a manager does for a restart, and what becomes of it here:

    shutdown_requested(restart=True), or kill()   the worker ends
    poll(), wait()                                "the kernel process is gone", at once
    cleanup(restart=True)                         nothing; with restart=False it ends for good
    pre_launch(), launch_kernel()                 a new worker in the same kernel process

A restart that asks for something else than what runs (other arguments, another environment, other
ports) gets a new process, and so does one whose kernel process is dead, or does not answer.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from jupyter_client.connect import KernelConnectionInfo, port_names
from jupyter_client.kernelspec import KernelSpec
from jupyter_client.provisioning.local_provisioner import LocalProvisioner

from pyrepl_kernel.errors import ProtocolError
from pyrepl_kernel.kernel.leash import (
    VARIABLE,
    aside,
    changes,
    describe,
    is_for_the_process,
)
from pyrepl_kernel.ports import ReservedPorts
from pyrepl_kernel.protocol.framing import FrameDecoder, encode_message
from pyrepl_kernel.protocol.messages import (
    LeashReplyMessage,
    Message,
    RetireMessage,
    SwapMessage,
)

__all__ = ["PyreplProvisioner"]

_GRACEFUL_LIMIT = 4.0
"""Seconds that a kernel process has to let its worker go; it may still be starting."""
_KILL_LIMIT = 1.0
"""Seconds until a kernel process that does not answer is killed itself."""
_SWAP_LIMIT = 10.0
"""Seconds until one that does not swap is replaced."""
_END_LIMIT = 5.0
"""Seconds that one without a worker has to end."""
_SHUTDOWN_LIMIT = 1.0
"""Seconds in which most kernels end when told; the manager looks only each 100 ms after that."""
_POLL = 0.02


class PyreplProvisioner(LocalProvisioner):
    """Starts, restarts and ends a kernel; what it does not say is as in its base class."""

    _leash: _Leash | None = None
    _launched: _Launch | None = None
    _standby: Any = None  # the process that has retired, until the next launch
    _exit_code: int | None = None  # what a process that has retired is said to have ended with
    _spec_stamp: tuple[int, ...] | None = None
    _ports: ReservedPorts | None = None

    # ------------------------------------------------------------------ launching

    async def pre_launch(self, **kwargs: Any) -> dict[str, Any]:
        """As in the base class; a kernelspec that was installed anew since counts.

        Nobody else gets the kernel's ports before it has bound them, now or in a restart.
        """
        self._read_spec_again()
        self._reserve_ports()
        return await super().pre_launch(**kwargs)

    def _reserve_ports(self) -> None:
        manager: Any = self.parent
        if manager is None or self.ports_cached:
            return
        if manager.transport != "tcp" or not manager.cache_ports:
            return
        try:
            self._ports = ReservedPorts(manager.ip, port_names)
        except OSError as error:
            # The base class looks for some too, and says better what is wrong with the address.
            self.log.debug("no ports can be reserved on %s: %s", manager.ip, error)
            return
        for name, port in self._ports.ports.items():
            setattr(manager, name, port)
        self.ports_cached = True

    def _read_spec_again(self) -> None:
        directory = getattr(self.kernel_spec, "resource_dir", "")
        stamp = _stamp(os.path.join(directory, "kernel.json")) if directory else None
        before, self._spec_stamp = self._spec_stamp, stamp
        if before is None or stamp is None or stamp == before:
            return
        try:
            spec = KernelSpec.from_resource_dir(directory)
        except (OSError, ValueError) as error:
            self.log.warning("%s cannot be read; it is used as it was: %s", directory, error)
            return
        self.kernel_spec = spec
        if self.parent is not None:
            self.parent._kernel_spec = spec

    async def launch_kernel(self, cmd: list[str], **kwargs: Any) -> KernelConnectionInfo:
        """Start the kernel, or have the process that has retired go on with a new worker."""
        wanted = _Launch.of(cmd, kwargs, self.connection_info)
        if await self._swap(wanted):
            self.cwd = wanted.cwd
            return self.connection_info
        await self._end_process(self.process)
        ours, theirs = socket.socketpair()
        self._launched = wanted
        try:
            kwargs["env"] = {**wanted.env, VARIABLE: describe(theirs.fileno())}
            kwargs["pass_fds"] = (*kwargs.get("pass_fds", ()), theirs.fileno())
            await super().launch_kernel(cmd, **kwargs)
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        self._exit_code = None
        self._leash = _Leash(ours)
        return self.connection_info

    async def _swap(self, wanted: _Launch) -> bool:
        process = self._standby or self.process
        if self._leash is None or self._launched is None or process is None:
            return False
        if difference := self._launched.difference(wanted):
            self.log.info("the kernel restarts in a new process: %s", difference)
            return False
        env, unset = changes(self._launched.env, wanted.env)
        reply = await self._leash.ask(SwapMessage(str(wanted.cwd), env, unset), _SWAP_LIMIT)
        if reply is None or reply.error:
            reason = reply.error if reply else "the old one does not answer"
            self.log.info("the kernel restarts in a new process: %s", reason)
            return False
        self._launched = wanted
        self.process, self._standby, self._exit_code = process, None, None
        return True

    # --------------------------------------------------------------------- ending

    @property
    def _has_retired(self) -> bool:
        return self._exit_code is not None

    async def poll(self) -> int | None:
        """The exit code; None while the kernel runs. One that has retired is said to be gone."""
        return self._exit_code if self._has_retired else await super().poll()

    async def wait(self) -> int | None:
        """Wait until the kernel is gone."""
        if self._has_retired:
            if self.process is not None:
                self._standby, self.process = self.process, None
            return self._exit_code
        if self.process is not None:
            await _gone(self.process, None)
        return await super().wait()

    async def shutdown_requested(self, restart: bool = False) -> None:
        """A shutdown_request was sent; before a restart, the old worker is done with after this.

        Requests on the shell channel may overtake it, so its arrival is waited for.
        """
        if restart:
            await self._retire(kill=False)
        elif self.process is not None and not self._has_retired:
            await _gone(self.process, _SHUTDOWN_LIMIT)

    async def kill(self, restart: bool = False) -> None:
        """End the worker at once, and the kernel process too if it does not answer.

        What for is not known here: an immediate restart says the same as an immediate shutdown,
        and only ``cleanup`` tells them apart.
        """
        if not self._has_retired and not await self._retire(kill=True):
            await super().kill(restart)

    async def terminate(self, restart: bool = False) -> None:
        """Tell the kernel process to end."""
        if not self._has_retired:
            self._drop_leash()
            await super().terminate(restart)

    async def _retire(self, kill: bool) -> bool:
        process = self.process or self._standby
        if process is None or self._leash is None:
            return False
        limit = _KILL_LIMIT if kill else _GRACEFUL_LIMIT
        reply = await self._leash.ask(RetireMessage(kill), limit)
        if reply is None or reply.error:
            self._drop_leash()
            return False
        self._exit_code = -signal.SIGKILL if kill else 0
        return True

    async def send_signal(self, signum: int) -> None:
        """Signal the kernel's process group.

        An interrupt while it starts is for nobody, and would end an interpreter that is not yet
        prepared for it.
        """
        if signum == signal.SIGINT and self._leash is not None and self._leash.is_starting:
            return
        if not self._has_retired:
            await super().send_signal(signum)

    async def cleanup(self, restart: bool = False) -> None:
        """The kernel is not needed any more, or only until its restart."""
        if not restart:
            await self._end_process(self.process if self._has_retired else None)
            if self._ports is not None:
                self._ports.close()
        await super().cleanup(restart)

    async def _end_process(self, process: Any) -> None:
        """End the kernel process that stands by, or else this one, for good."""
        process = self._standby or process
        is_killed = self._exit_code == -signal.SIGKILL
        self._drop_leash()
        self._standby, self._exit_code = None, None
        if process is None:
            return
        self.process = process  # for the base class to wait for
        if not is_killed:
            await super().send_signal(signal.SIGTERM)
        if is_killed or not await _gone(process, _END_LIMIT):
            await super().send_signal(signal.SIGKILL)
        if await _gone(process, _END_LIMIT):
            await super().wait()
        else:
            self.log.warning("the kernel process %d outlives its SIGKILL", process.pid)
            self.process = None
        self._remove_sockets()

    def _remove_sockets(self) -> None:
        """Remove what a killed process has put aside; see ``Connection.set_aside``."""
        info: Mapping[str, Any] = self._launched.connection_info if self._launched else {}
        if info.get("transport") != "ipc":
            return
        for name, port in info.items():
            if name.endswith("_port"):
                path = aside(f"{info['ip']}-{port}")
                if os.path.exists(path):
                    os.unlink(path)

    def _drop_leash(self) -> None:
        if self._leash is not None:
            self._leash.close()
            self._leash = None

    # ---------------------------------------------------------------- persistence

    async def get_provisioner_info(self) -> dict[str, Any]:
        """What another provisioner needs to take this kernel over."""
        info: dict[str, Any] = await super().get_provisioner_info()
        return info | {"started": None if self.pid is None else _started(self.pid)}

    async def load_provisioner_info(self, provisioner_info: dict[str, Any]) -> None:
        """Take a kernel over that another provisioner has started, if it still runs.

        The link to its process stays with who has started it, so a restart is one of the process.
        """
        await super().load_provisioner_info(provisioner_info)
        started = provisioner_info.get("started")
        if self.pid is not None and started is not None and _started(self.pid) == started:
            adopted: Any = _Adopted(self.pid, started)
            self.process = adopted


@dataclass(frozen=True)
class _Launch:
    """What a kernel process was, or is to be, launched with."""

    cmd: list[str]
    env: dict[str, str]
    cwd: str
    others: dict[str, Any]
    connection_info: dict[str, Any]

    @classmethod
    def of(cls, cmd: list[str], kwargs: Mapping[str, Any], info: Mapping[str, Any]) -> _Launch:
        others = {name: value for name, value in kwargs.items() if name not in ("env", "cwd")}
        env = dict(os.environ if kwargs.get("env") is None else kwargs["env"])
        cwd = os.path.abspath(kwargs.get("cwd") or os.getcwd())
        return cls(list(cmd), env, cwd, others, dict(info))

    def difference(self, other: _Launch) -> str:
        """What of another launch this one's process cannot take on; nothing if it can."""
        env, unset = changes(self.env, other.env)
        if names := sorted(filter(is_for_the_process, [*env, *unset])):
            return f"other environment variables: {', '.join(names)}"
        for what in ("cmd", "connection_info", "others"):
            if getattr(self, what) != getattr(other, what):
                return f"another {what}"
        return ""


class _Leash:
    """The provisioner's end of the socket to the kernel process.

    Managers run their coroutines now on this event loop and now on that, so nothing here belongs
    to a loop for longer than a call.
    """

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self._fd = sock.detach()
        self._socket = socket.socket(fileno=self._fd)
        self._decoder = FrameDecoder()
        self._replies: dict[str, LeashReplyMessage] = {}
        self._waiting: set[asyncio.Future[None]] = set()  # of all who ask, on whatever loop
        self._unsent = b""
        self._is_up = False
        self._is_closed = False

    def __del__(self) -> None:
        self.close()

    def close(self) -> None:
        """Let go; a kernel process that has retired then ends."""
        self._is_closed = True
        self._socket.close()

    @property
    def is_starting(self) -> bool:
        """Whether the kernel process has not said yet that it is up."""
        try:
            self._read()
        except (OSError, ProtocolError):
            return False
        return not self._is_up

    async def ask(self, message: Message, seconds: float) -> LeashReplyMessage | None:
        """Ask for something; None when no answer comes, after which there is no use in asking."""
        deadline = time.monotonic() + seconds
        self._unsent += encode_message(message)
        try:
            await self._send(deadline)
            while message.id not in self._replies:
                await self._wait(deadline)
                self._read()
        except (OSError, ProtocolError):  # TimeoutError is an OSError
            return None
        return self._replies.pop(message.id)

    async def _send(self, deadline: float) -> None:
        while self._unsent:
            try:
                sent = self._socket.send(self._unsent)
            except BlockingIOError:
                await self._wait(deadline, for_room=True)
            else:
                self._unsent = self._unsent[sent:]

    def _read(self) -> None:
        while not self._is_closed:
            try:
                data = self._socket.recv(1 << 16)
            except BlockingIOError:
                return
            if not data:
                break
            self._decoder.feed(data)
            while (message := self._decoder.next_message()) is not None:
                if isinstance(message, LeashReplyMessage):
                    self._is_up = True
                    if message.request_id:
                        self._replies[message.request_id] = message
                        self._wake_all()
        raise ConnectionError("the kernel process has closed its end")

    def _wake_all(self) -> None:
        """Let each look for its reply: whoever has read it leaves nothing to wait for."""
        for ready in self._waiting:
            loop = ready.get_loop()
            if not loop.is_closed():
                loop.call_soon_threadsafe(_set, ready)

    async def _wait(self, deadline: float, for_room: bool = False) -> None:
        """Wait until there is something to read, or room to write, or somebody has read."""
        loop = asyncio.get_running_loop()
        ready = loop.create_future()
        # A descriptor of this call's own: a loop has one callback for each, and there may be
        # others who wait.
        fd = os.dup(self._socket.fileno())
        add, remove = (
            (loop.add_writer, loop.remove_writer)
            if for_room
            else (loop.add_reader, loop.remove_reader)
        )
        self._waiting.add(ready)
        try:
            add(fd, _set, ready)
            async with asyncio.timeout(max(0.0, deadline - time.monotonic())):
                await ready
        finally:
            self._waiting.discard(ready)
            remove(fd)
            os.close(fd)


class _Adopted:
    """A process that somebody else has started, as far as it can stand in for a ``Popen``."""

    stdin = stdout = stderr = None

    def __init__(self, pid: int, started: str) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self._started = started

    def poll(self) -> int | None:
        """None while it runs; 0 after that, as nobody but its parent knows more."""
        if self.returncode is None and _started(self.pid) != self._started:
            self.returncode = 0
        return self.returncode

    def wait(self) -> int | None:
        """The exit code; it has ended when this is called."""
        return self.poll()

    def send_signal(self, signum: int) -> None:
        """Send it a signal."""
        if self.poll() is None:
            os.kill(self.pid, signum)

    def kill(self) -> None:
        """Kill it."""
        self.send_signal(signal.SIGKILL)

    def terminate(self) -> None:
        """Tell it to end."""
        self.send_signal(signal.SIGTERM)


async def _gone(process: Any, seconds: float | None) -> bool:
    """Whether a process ends, within so many seconds."""
    if process.poll() is not None:
        return True
    loop = asyncio.get_running_loop()
    try:
        fd = os.pidfd_open(process.pid)
    except (AttributeError, OSError):  # not on this platform, or ended just now
        fd = -1
    try:
        async with asyncio.timeout(seconds):
            if fd >= 0:
                ended = loop.create_future()
                loop.add_reader(fd, _set, ended)
                await ended
            # Without a pidfd there is nothing to wait for.
            while process.poll() is None:  # noqa: ASYNC110
                await asyncio.sleep(_POLL)
    except TimeoutError:
        return False
    finally:
        if fd >= 0:
            loop.remove_reader(fd)
            os.close(fd)
    return True


def _set(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def _stamp(path: str) -> tuple[int, ...] | None:
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns, status.st_size


def _started(pid: int) -> str | None:
    """A mark by which a process is told from a later one of the same pid; None without one.

    A zombie is none: it has ended, and waits only for its parent.
    """
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            fields = file.read().rpartition(")")[2].split()
    except FileNotFoundError:
        return None if os.path.isdir("/proc/self") else _started_elsewhere(pid)
    return None if fields[0] in "ZX" else fields[19]


def _started_elsewhere(pid: int) -> str | None:
    import subprocess

    command = ["ps", "-o", "stat=,lstart=", "-p", str(pid)]
    said = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    state, _, started = said.strip().partition(" ")
    return None if not state or state.startswith("Z") else started.strip()
