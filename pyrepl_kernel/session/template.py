"""Templates, seen from those who need workers: found or started, asked for forks, heard of.

    fork() ──▶ Template ──▶ TemplateLink ──ForkMessage + descriptors──▶ the template's process
                   │             │                                             │ fork
                   │ lost:       ◀────────── ForkedMessage + pidfd ────────────┤
                   ▼ again       ◀────────── ExitedMessage ────────────────────┘
              registry, or a
              process of our own

A template may be gone at any moment: whoever asked gets ``TemplateError`` and spawns instead. The
workers that were forked before live on.
"""

from __future__ import annotations

import asyncio
import logging
import os
import select
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress

from pyrepl_kernel.errors import ProtocolError, TemplateError
from pyrepl_kernel.protocol.forking import (
    ExitedMessage,
    ForkedMessage,
    TemplateMessage,
    WarmMessage,
    receive,
)
from pyrepl_kernel.session.forked import Forked, ForkRequest
from pyrepl_kernel.session.process import ProcessWatch
from pyrepl_kernel.session.template_start import StartedTemplate, start_template
from pyrepl_kernel.session.templates import TemplateDirectory

__all__ = ["PrivateTemplate", "SharedTemplate", "Template", "TemplateLink"]

log = logging.getLogger("pyrepl_kernel.session.template")

FORK_TIMEOUT = 10.0
"""Seconds that a warm template has for a fork."""
_LOCK_TIMEOUT = 10.0
_END_TIMEOUT = 2.0
_ATTEMPTS = 3
_FORK_ATTEMPTS = 2  # the second is for one that was killed; what the warmup does, it does again
_PAUSE = 60.0  # seconds without a further attempt after so many failures in a row

IS_SUPPORTED = sys.platform == "linux"
"""Whether there are templates on this platform."""


class TemplateLink:
    """A connection to a template.

    Args:
        sock: The connection, which this object owns.
        on_lost: Called once when the other end is gone.

    Attributes:
        warm: What the template said once it was warm; fails with ``TemplateError`` when it died.
        is_lost: Whether the other end is gone, or this one was closed.
    """

    def __init__(self, sock: socket.socket, on_lost: Callable[[], None]) -> None:
        sock.setblocking(False)
        self._sock = sock
        self._on_lost = on_lost
        self._loop = asyncio.get_running_loop()
        self._requests: dict[str, tuple[ForkRequest, asyncio.Future[Forked]]] = {}
        self._reports: dict[int, ExitedMessage | None] = {}  # of our forks; None while they live
        self._callbacks: dict[int, Callable[[ExitedMessage | None], None]] = {}
        self.warm: asyncio.Future[WarmMessage] = self._loop.create_future()
        self.is_lost = False
        self._loop.add_reader(sock.fileno(), self._read)

    def adopt(self, warm: WarmMessage, forked: Forked) -> None:
        """What went over this connection before there was an event loop."""
        self.warm.set_result(warm)
        self._take(forked)

    def _take(self, forked: Forked) -> Forked:
        forked.reports = self
        self._reports[forked.pid] = None
        return forked

    async def fork(self) -> Forked:
        """A worker.

        Raises:
            TemplateError: None could be made.
        """
        request, future = self._ask()
        try:
            async with asyncio.timeout(FORK_TIMEOUT):
                return await future
        except TimeoutError:
            raise TemplateError(f"the template has not forked within {FORK_TIMEOUT:g} s") from None
        finally:
            if self._requests.pop(request.id, None) is not None:
                request.drop()

    def fork_now(self, timeout: float) -> Forked:
        """The same, while the event loop stands still; errors likewise.

        Args:
            timeout: Seconds that it may take.
        """
        request, future = self._ask()
        poll = select.poll()
        poll.register(self._sock, select.POLLIN)
        deadline = time.monotonic() + timeout
        while not future.done() and (left := deadline - time.monotonic()) > 0:
            if poll.poll(left * 1000):
                self._read()
        if not future.done():
            self._requests.pop(request.id)
            request.drop()
            raise TemplateError(f"the template has not forked within {timeout:g} s")
        return future.result()

    def _ask(self) -> tuple[ForkRequest, asyncio.Future[Forked]]:
        try:
            if self.is_lost:
                raise TemplateError("the template has gone")
            request = ForkRequest(self._sock)
        except BlockingIOError as error:
            raise TemplateError("the template does not hear") from error
        except OSError as error:
            self.close()
            raise TemplateError(f"the template cannot be asked: {error}") from error
        future: asyncio.Future[Forked] = self._loop.create_future()
        self._requests[request.id] = request, future
        return request, future

    def when_reaped(self, pid: int, callback: Callable[[ExitedMessage | None], None]) -> bool:
        """See ``ExitReports``."""
        report = self._reports.get(pid)
        if report is not None:
            del self._reports[pid]
            callback(report)
        elif self.is_lost or pid not in self._reports:
            return False
        else:
            self._callbacks[pid] = callback
        return True

    # ------------------------------------------------------------------ reading

    def _read(self) -> None:
        while not self.is_lost:
            try:
                message, descriptors = receive(self._sock)
            except (BlockingIOError, InterruptedError):
                return
            except ConnectionResetError:  # it has gone with a request of ours unread
                self.close()
                return
            except (OSError, ProtocolError) as error:
                log.warning("a template's connection broke: %s", error)
                self.close()
                return
            if isinstance(message, ForkedMessage):
                self._on_forked(message, descriptors)
                continue
            for fd in descriptors:
                os.close(fd)
            if isinstance(message, WarmMessage) and not self.warm.done():
                self.warm.set_result(message)
            elif isinstance(message, ExitedMessage):
                self._on_exited(message)
            else:
                self.close()

    def _on_forked(self, message: ForkedMessage, descriptors: list[int]) -> None:
        request, future = self._requests.pop(message.request_id, (None, None))
        if request is None or future is None or future.done():
            for fd in descriptors:
                os.close(fd)
            if request is not None:
                request.drop()
            return
        try:
            future.set_result(self._take(request.take(message, descriptors)))
        except TemplateError as error:
            future.set_exception(error)

    def _on_exited(self, message: ExitedMessage) -> None:
        if message.pid not in self._reports:
            return
        if (callback := self._callbacks.pop(message.pid, None)) is not None:
            del self._reports[message.pid]
            callback(message)
        else:
            self._reports[message.pid] = message

    def close(self) -> None:
        """Let go of the template. Who waits gets an error; workers that were forked live on."""
        if self.is_lost:
            return
        self.is_lost = True
        self._loop.remove_reader(self._sock.fileno())
        self._sock.close()
        error = TemplateError("the template has gone")
        if not self.warm.done():
            self.warm.set_exception(error)
            self.warm.exception()  # seen; whoever waits still gets it
        requests, self._requests = self._requests, {}
        for request, future in requests.values():
            request.drop()
            if not future.done():
                future.set_exception(error)
        callbacks, self._callbacks = self._callbacks, {}
        for callback in callbacks.values():
            callback(None)
        self._on_lost()


class Template:
    """A template of which workers are forked; connected to when first needed, and when lost again.

    Args:
        order: What the template is told if it has to be started.

    Attributes:
        warmth: What the template said of itself last; None before.
    """

    def __init__(self, order: TemplateMessage) -> None:
        self._order = order
        self.warmth: WarmMessage | None = None
        self._link: TemplateLink | None = None
        self._started: StartedTemplate | None = None
        # One that has died may still be here when the next is started.
        self._unreaped: set[StartedTemplate] = set()
        self._all_reaped = asyncio.Event()
        self._opening: asyncio.Task[WarmMessage] | None = None
        self._failures = 0
        self._again_at = 0.0
        self._last_failure = ""
        self._is_closed = False

    @property
    def pid(self) -> int | None:
        """The template's process; None when it is not known, or not there."""
        link = self._link
        if link is None or link.is_lost or self.warmth is None:
            return None
        return self.warmth.pid

    async def fork(self) -> Forked:
        """A worker, as soon as the template is warm.

        Raises:
            TemplateError: None can be had this way.
        """
        for attempt in range(1, _FORK_ATTEMPTS + 1):
            warm = await self.warm()
            if warm.verdict == "spawn":
                raise TemplateError(warm.reason)
            link = self._link
            if link is None or link.is_lost:
                raise TemplateError("the template has gone")
            try:
                return await link.fork()
            except TemplateError:
                # One that has died meanwhile is replaced.
                if not link.is_lost or self._is_closed or attempt == _FORK_ATTEMPTS:
                    raise
        raise AssertionError("unreachable")

    def fork_now(self, timeout: float) -> Forked | None:
        """A worker, if the template is warm and at hand, while the event loop stands still.

        Args:
            timeout: Seconds that it may take.

        Raises:
            TemplateError: The template could not fork.
        """
        link = self._link
        if link is None or link.is_lost or not link.warm.done():
            return None
        if link.warm.result().verdict == "spawn":
            return None
        return link.fork_now(timeout)

    async def warm(self) -> WarmMessage:
        """Connect, starting a template if there is none, and wait until it is warm.

        Raises:
            TemplateError: There can be none.
        """
        if self._is_closed:
            raise TemplateError("no template is wanted any more")
        if self._link is not None and not self._link.is_lost and self._link.warm.done():
            return self._link.warm.result()
        if self._opening is None:
            if self._failures >= _ATTEMPTS and time.monotonic() < self._again_at:
                raise TemplateError(self._last_failure)
            self._opening = asyncio.create_task(self._open_and_wait(), name="template")
            self._opening.add_done_callback(self._opened)
        return await asyncio.shield(self._opening)

    def _opened(self, task: asyncio.Task[WarmMessage]) -> None:
        self._opening = None
        if task.cancelled():
            return
        if (error := task.exception()) is None:
            self._failures = 0
            return
        self._failures += 1
        self._again_at = time.monotonic() + _PAUSE
        self._last_failure = str(error)
        log.warning("%s", error)

    async def _open_and_wait(self) -> WarmMessage:
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                sock, started = await self._open()
            except OSError as error:
                raise TemplateError(f"no template can be had: {error}") from error
            if started is not None:
                self._watch_process(started)
            self._link = TemplateLink(sock, self._on_lost)
            try:
                self.warmth = await asyncio.shield(self._link.warm)
                return self.warmth
            except TemplateError:
                # One that we found may have been about to leave, or was its starter's own.
                if started is not None or attempt == _ATTEMPTS:
                    words = "" if started is None else started.last_words.strip()
                    raise TemplateError(
                        "the template died before it was warm" + (f":\n{words}" if words else "")
                    ) from None
        raise AssertionError("unreachable")

    async def _open(self) -> tuple[socket.socket, StartedTemplate | None]:
        """A connection, and the template if it had to be started for it."""
        raise NotImplementedError

    def adopt(self, sock: socket.socket, warm: WarmMessage, forked: Forked) -> None:
        """Go on with a connection over which a worker was forked already."""
        forked.origin = None
        self.warmth = warm
        self._link = TemplateLink(sock, self._on_lost)
        self._link.adopt(warm, forked)

    def _watch_process(self, started: StartedTemplate) -> None:
        self._started = started
        self._unreaped.add(started)
        self._all_reaped.clear()
        try:
            ProcessWatch(started.pid, lambda: self._reap(started))
        except ProcessLookupError:
            self._reap(started)

    def _reap(self, started: StartedTemplate) -> None:
        with suppress(ChildProcessError):
            _, status = os.waitpid(started.pid, 0)
            if status != 0 and not self._is_closed:
                code, words = os.waitstatus_to_exitcode(status), started.last_words.strip()
                how = f"signal {-code}" if code < 0 else f"exit code {code}"
                log.warning("a template died, %s%s", how, f":\n{words}" if words else "")
        started.close()
        self._unreaped.discard(started)
        if not self._unreaped:
            self._all_reaped.set()

    def _on_lost(self) -> None:
        if not self._is_closed:
            log.debug("the template has gone")

    def renew(self) -> None:
        """Let go of the template that there is; the next fork asks for another."""
        if self._link is not None:
            self._link.close()

    def close(self) -> None:
        """Let go of it for good."""
        self._is_closed = True
        if self._opening is not None:
            self._opening.cancel()
        self.renew()
        if self._started is not None:
            self._started.close()


class SharedTemplate(Template):
    """The template of all of this user's processes that have the same key.

    Args:
        order: What it is told if it has to be started; with its key and directory.
    """

    _inode: tuple[int, int] | None = None  # of the socket that we have made for it

    @property
    def key(self) -> str:
        """Its name in the registry."""
        return self._order.key

    async def warm(self) -> WarmMessage:
        """See ``Template``. A verdict against forks is believed for a while; nothing is started."""
        link = self._link
        if not self._is_closed and (link is None or link.is_lost) and self._opening is None:
            state = TemplateDirectory(self._order.directory).state(self.key)
            if state is not None and state.is_against_forks:
                self.warmth = WarmMessage(state.pid, "spawn", state.reason, state.advice)
                return self.warmth
        return await super().warm()

    async def _open(self) -> tuple[socket.socket, StartedTemplate | None]:
        directory, key = TemplateDirectory(self._order.directory), self.key
        directory.prepare()
        with suppress(FileNotFoundError, ConnectionRefusedError):
            return directory.connect(key), None
        lock = await _take_lock(directory)
        try:
            with suppress(FileNotFoundError, ConnectionRefusedError):
                return directory.connect(key), None
            directory.sweep()
            with directory.listen(key) as listener:
                self._inode = directory.inode(key)
                started = start_template(sys.executable, os.environ, self._order, listener)
                # The socket has a backlog: we wait there with all others while it warms up.
                return directory.connect(key), started
        finally:
            os.close(lock)

    def close(self) -> None:
        """See ``Template``. One that we have started and that is not warm yet ends with this."""
        super().close()
        directory = TemplateDirectory(self._order.directory)
        with suppress(OSError):  # among them that the lock is taken: whoever has it tidies up
            lock = directory.take_lock(wait=False)
            try:
                is_ours = self._inode is not None and self._inode == directory.inode(self.key)
                if is_ours and self.warmth is None:
                    directory.remove(self.key)
                directory.sweep()
            finally:
                os.close(lock)


async def _take_lock(directory: TemplateDirectory) -> int:
    """The directory's lock; the loop goes on while others hold it, for a few milliseconds."""
    with suppress(BlockingIOError):
        return directory.take_lock(wait=False)
    loop = asyncio.get_running_loop()
    future: asyncio.Future[int] = loop.create_future()

    def hand_over(fd: int) -> None:
        if future.done():
            os.close(fd)
        else:
            future.set_result(fd)

    def wait() -> None:
        fd = directory.take_lock()
        try:
            loop.call_soon_threadsafe(hand_over, fd)
        except RuntimeError:  # the loop is closed
            os.close(fd)

    # A thread of its own, which a process that ends need not wait for.
    threading.Thread(target=wait, name="template lock", daemon=True).start()
    try:
        async with asyncio.timeout(_LOCK_TIMEOUT):
            return await future
    except TimeoutError:
        raise OSError(f"{directory.path}/lock is held by somebody else") from None


class PrivateTemplate(Template):
    """A template of one owner's, which ends with it.

    Args:
        order: What it is told.
        python: Its interpreter.
        env: Its whole environment.
    """

    def __init__(self, order: TemplateMessage, python: str, env: Mapping[str, str]) -> None:
        super().__init__(order)
        self._python = python
        self._env = env

    async def _open(self) -> tuple[socket.socket, StartedTemplate | None]:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            try:
                return ours, start_template(self._python, self._env, self._order, theirs)
            except BaseException:
                ours.close()
                raise

    async def end(self) -> None:
        """Let go of it, and wait until its process is gone, and each that it has replaced."""
        self.close()
        if not self._unreaped:
            return
        try:
            async with asyncio.timeout(_END_TIMEOUT):
                await self._all_reaped.wait()
        except TimeoutError:
            for started in self._unreaped:
                with suppress(ProcessLookupError):
                    os.killpg(started.pid, signal.SIGKILL)
            await self._all_reaped.wait()
