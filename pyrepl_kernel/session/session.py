"""A session: one worker process, and everything that is asked of it, in order.

    execute(), run()          submit()           request()
           │                     │                   │
           ▼                     ▼                   │
       Inbox ◀── Execution ── queue, one at work     │ future per request
           ▲                     │                   │
           │               send  ▼                   ▼
           │        ┌───────  PipeTransport  ────────────┐
           └─route──┤  one reader, for the whole life    │◀──▶ worker's protocol socket
                    └────────────────────────────────────┘
           ▲                OutputPipe x 2               ◀──── worker's descriptors 1 and 2
           │                ProcessWatch                 ◀──── worker's end
           └─ _on_text, _on_exit

Everything here runs on the event loop; there is no thread. What a worker wrote to its pipes
before it sent a result is delivered before that result.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import sys
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from typing import Any, Self

from pyrepl_kernel.errors import (
    ExecutionTimeout,
    ProtocolError,
    SessionClosed,
    SessionError,
    StartError,
    WarmupError,
    WorkerDied,
)
from pyrepl_kernel.protocol.framing import MAX_FRAME_SIZE, encode_message
from pyrepl_kernel.protocol.messages import (
    WARMUP_MARK,
    CommInfoReplyMessage,
    CommMessage,
    CompleteReplyMessage,
    DebugEventMessage,
    DebugMessage,
    DebugReplyMessage,
    DisplayMessage,
    ErrorMessage,
    ExecuteMessage,
    HeartbeatMessage,
    HistoryReplyMessage,
    InputMessage,
    InputResponseMessage,
    InspectReplyMessage,
    InterruptMessage,
    IsCompleteReplyMessage,
    Message,
    OutputMessage,
    ReadyMessage,
    ReceptiveMessage,
    ResetMessage,
    ResultMessage,
    ShutdownMessage,
    StartMessage,
)
from pyrepl_kernel.protocol.transport import PipeTransport
from pyrepl_kernel.session.debug import DebugLink
from pyrepl_kernel.session.execution import End, Execution, Inbox, Outcome
from pyrepl_kernel.session.process import ExitStatus, WorkerProcess
from pyrepl_kernel.session.spawn import Spawned, spawn_worker
from pyrepl_kernel.session.states import SessionState, StateMachine

__all__ = ["Session", "SessionConfig", "SessionInfo"]

log = logging.getLogger("pyrepl_kernel.session")

_S = SessionState
_numbers = count(1)


@dataclass(frozen=True)
class SessionConfig:
    """How a session treats its worker.

    Attributes:
        start_timeout: Seconds that a worker has to come up (its warmup not counted).
        shutdown_grace: Seconds that exit handlers have before the worker is killed.
        abandon_grace: Seconds that an abandoned or timed-out cell has, after its interrupt,
            before the worker is killed.
        max_frame_size: Largest message either way, in bytes.
        keep_failed_warmup: Start even when the warmup code raised; ``Session.warmup_error`` has
            the error.
        options: Options of the worker, as it takes them in its start message.
    """

    start_timeout: float = 60.0
    shutdown_grace: float = 3.0
    abandon_grace: float = 5.0
    max_frame_size: int = MAX_FRAME_SIZE
    keep_failed_warmup: bool = False
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class SessionInfo:
    """What a session says of itself.

    Attributes:
        session_id: Its name.
        state: Where it is in its life.
        pid: Its worker's process; None without one.
        executions: How many cells it has finished, the warmup not counted.
        created_at: When the session was made, in seconds since the epoch.
        started_at: When it became ready; None before.
    """

    session_id: str
    state: SessionState
    pid: int | None
    executions: int
    created_at: float
    started_at: float | None


class Session:
    """An isolated Python worker process that runs cells.

    Args:
        session_id: A name; made up when not given.
        python: The worker's interpreter; it must be able to import this package.
        warmup_code: Run once in the worker before ``start()`` returns.
        cwd: The worker's working directory; this process's when not given.
        env: Environment variables on top of this process's.
        config: Timeouts and limits.

    Example:
        >>> async with Session(warmup_code="import math") as session:
        ...     async for message in session.execute("print(math.pi)"):
        ...         print(message)
    """

    def __init__(
        self,
        session_id: str | None = None,
        *,
        python: str = sys.executable,
        warmup_code: str | None = None,
        cwd: str | os.PathLike[str] | None = None,
        env: Mapping[str, str] | None = None,
        config: SessionConfig | None = None,
    ) -> None:
        self.session_id = session_id or f"session-{os.getpid()}-{next(_numbers)}"
        self.config = config or SessionConfig()
        self.warmup_code = warmup_code
        self.warmup_error: WarmupError | None = None
        self.on_background: Callable[[Message], None] | None = None
        """Called with each message that belongs to no execution at work: a thread's output
        after its cell has ended, say. Such messages are dropped when nobody listens."""
        self.on_death: Callable[[WorkerDied], None] | None = None
        """Called when the worker ended without having been told to."""
        self.on_debug_event: Callable[[DebugEventMessage], None] | None = None
        """Called with each event of the worker's debugger."""
        self.capabilities: dict[str, Any] = {}
        self.executions = 0
        self.last_used = time.monotonic()
        self._python = python
        self._cwd = os.path.abspath(cwd) if cwd is not None else None
        self._env = dict(env) if env is not None else {}
        self._machine = StateMachine(self.session_id)
        self._created_at = time.time()
        self._started_at: float | None = None
        self._has_started = False
        self._process: WorkerProcess | None = None
        self._transport: PipeTransport | None = None
        self._debug: DebugLink | None = None
        self._queue: deque[Execution] = deque()
        self._current: Execution | None = None
        self._aside: dict[str, Execution] = {}  # comm messages that are served within it
        self._is_receptive = False
        self._warmup: Execution | None = None
        self._last_id = ""
        self._replies: dict[str, asyncio.Future[Any]] = {}
        self._ready: asyncio.Future[ReadyMessage] | None = None
        self._stream_error: Exception | None = None
        self._stream_ended = False
        self._ended = asyncio.Event()
        self._handlers: dict[type[Message], Callable[[Any], None]] = {
            OutputMessage: self._on_output,
            DisplayMessage: self._on_output,
            ErrorMessage: self._on_output,
            InputMessage: self._on_output,
            CommMessage: self._on_output,
            ResultMessage: self._on_result,
            ReadyMessage: self._on_ready,
            ReceptiveMessage: self._on_receptive,
            HeartbeatMessage: lambda message: self._on_reply(message.id, message),
            ResetMessage: lambda message: self._on_reply(message.id, message),
        } | {
            reply: lambda message: self._on_reply(message.request_id, message)
            for reply in (
                CompleteReplyMessage,
                InspectReplyMessage,
                IsCompleteReplyMessage,
                HistoryReplyMessage,
                CommInfoReplyMessage,
            )
        }

    def __repr__(self) -> str:
        pid = f" pid={self._process.pid}" if self._process else ""
        waiting = f" queued={len(self._queue)}" if self._queue else ""
        return f"<Session {self.session_id} {self.state}{pid}{waiting}>"

    # ------------------------------------------------------------ what it is

    @property
    def state(self) -> SessionState:
        """Where the session is in its life."""
        return self._machine.state

    @property
    def is_alive(self) -> bool:
        """Whether there is a worker that can be used, now or when it has warmed up."""
        return self._has_started and self.state not in (_S.SHUTTING_DOWN, _S.TERMINATED)

    @property
    def is_executing(self) -> bool:
        """Whether an execution is at work or waits."""
        return self._current is not None or bool(self._queue)

    @property
    def pid(self) -> int | None:
        """The worker's process; None without one."""
        return self._process.pid if self._process else None

    @property
    def info(self) -> SessionInfo:
        """All of that, at this moment."""
        return SessionInfo(
            self.session_id,
            self.state,
            self.pid,
            self.executions,
            self._created_at,
            self._started_at,
        )

    # --------------------------------------------------------------- starting

    async def start(self) -> None:
        """Start the worker and run the warmup code.

        Raises:
            StartError: The worker did not come up.
            WarmupError: The warmup code raised; no process is left.
            SessionError: The session was started before.
        """
        self.launch()
        await self.wait_ready()

    def launch(self, spawned: Spawned | None = None) -> None:
        """Begin to start: from here on executions may be queued. ``wait_ready`` does the rest.

        Args:
            spawned: A worker process that has been started already, to be taken over.

        Raises:
            StartError: There is no such interpreter.
            SessionError: The session was started before.
            TypeError: An option is of a type that no message can carry.
        """
        if self._has_started:
            raise SessionError(self.session_id, "it was started before")
        start = StartMessage(
            self.session_id,
            cwd=self._cwd,
            env=self._env or None,
            options=dict(self.config.options),
            max_frame_size=self.config.max_frame_size,
        )
        encode_message(start, self.config.max_frame_size)  # what is wrong with it shows by now
        self._has_started = True
        if spawned is None:
            try:
                spawned = spawn_worker(self._python, os.environ | self._env)
            except OSError as error:
                self._machine.move(_S.TERMINATED)
                raise StartError(
                    self.session_id,
                    f"cannot start the interpreter {self._python!r}: {error.strerror or error}",
                ) from error
        self._transport = PipeTransport(
            socket.socket(fileno=spawned.socket),
            sink=self._route,
            on_end=self._on_stream_end,
            max_frame_size=self.config.max_frame_size,
        )
        self._debug = DebugLink(
            spawned.debug_socket,
            self._on_debug_event,
            self._on_debug_broken,
            self.config.max_frame_size,
        )
        self._process = WorkerProcess(spawned, self._on_text, self._on_exit)
        self._ready = asyncio.get_running_loop().create_future()
        self._transport.start_now()
        self._transport.send_nowait(start)

    async def wait_ready(self) -> None:
        """Wait until the worker is up, and run the warmup code; errors as ``start``."""
        try:
            await self._wait_until_up()
            self._machine.move(_S.WARMING)
            if self.warmup_code:
                await self._warm_up(self.warmup_code)
        except BaseException:
            await self.terminate()
            raise
        self._machine.move(_S.READY)
        self._started_at = time.time()
        self.last_used = time.monotonic()
        self._pump()

    async def _wait_until_up(self) -> None:
        assert self._ready is not None and self._process is not None
        try:
            async with asyncio.timeout(self.config.start_timeout):
                ready = await self._ready
        except TimeoutError:
            raise StartError(
                self.session_id,
                f"the worker did not get ready within {self.config.start_timeout:g} s",
                self._process.stderr.tail,
            ) from None
        except WorkerDied as death:
            raise StartError(
                self.session_id,
                f"the worker ({self._python}) {death.reason} before it was ready",
                death.stderr,
            ) from death
        self.capabilities = ready.capabilities

    async def _warm_up(self, code: str) -> None:
        inbox = Inbox(self._pause, self._resume)
        message = ExecuteMessage(
            code, silent=True, store_history=False, metadata={WARMUP_MARK: True}
        )
        execution = Execution(message, inbox.put, inbox.end)
        # Ahead of whatever came in from outside in the meantime.
        self._warmup = execution
        self._queue.appendleft(execution)
        self._pump()
        while not isinstance(result := await inbox.get(), ResultMessage):
            log.debug("session %s: warmup said %r", self.session_id, result)
        if result.status != "ok":
            error = WarmupError(self.session_id, result.ename, result.evalue, result.traceback)
            if not self.config.keep_failed_warmup:
                raise error
            self.warmup_error = error

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.shutdown()

    # -------------------------------------------------------------- executing

    def submit(
        self,
        message: ExecuteMessage | CommMessage,
        on_message: Callable[[Message], None],
        on_end: End,
        on_begin: Callable[[], None] | None = None,
    ) -> Execution:
        """Queue an execution and follow it by callbacks; ``execute`` is this with an iterator.

        Args:
            message: What is to be executed.
            on_message: Called with each of its messages as it arrives, but the result.
            on_end: Called once, with the result or with the error that came instead.
            on_begin: Called when its turn has come, just before the worker gets it.

        Raises:
            SessionClosed: The session has ended, or was never started.
        """
        self._check_alive()
        execution = Execution(message, on_message, on_end, on_begin)
        self._queue.append(execution)
        self._pump()
        return execution

    async def execute(
        self, message: ExecuteMessage | str, timeout: float | None = None
    ) -> AsyncIterator[Message]:
        """Run a cell, and give each of its messages as it comes; the result is the last.

        Executions of one session run in the order in which they were begun. Leaving the iterator
        before its end interrupts the cell; the session stays usable.

        Args:
            message: The cell, or just its source.
            timeout: Seconds after which the cell is interrupted; None for no limit.

        Raises:
            ExecutionTimeout: The cell ran longer than ``timeout``.
            WorkerDied: The worker ended meanwhile.
            SessionClosed: The session has ended, or was never started.
        """
        if isinstance(message, str):
            message = ExecuteMessage(message)
        inbox = Inbox(self._pause, self._resume)
        execution = self.submit(message, inbox.put, inbox.end)
        timer = None
        if timeout is not None:
            error = ExecutionTimeout(self.session_id, f"the cell ran longer than {timeout:g} s")
            timer = asyncio.get_running_loop().call_later(timeout, inbox.end, error)
        try:
            while True:
                item = await inbox.get()
                yield item
                if isinstance(item, ResultMessage):
                    return
        finally:
            if timer is not None:
                timer.cancel()
            inbox.close()
            self.abandon(execution)

    async def run(self, code: ExecuteMessage | str, timeout: float | None = None) -> Outcome:
        """Run a cell to its end and collect what came of it; errors as ``execute``."""
        return Outcome.collect([message async for message in self.execute(code, timeout)])

    def abandon(self, execution: Execution) -> None:
        """Nobody waits for this execution any more: interrupt it, or never begin it."""
        if execution.is_done:
            return
        execution.disown()
        if self.withdraw(execution):
            return
        self._send_interrupt()
        loop = asyncio.get_running_loop()
        loop.call_later(self.config.abandon_grace, self._kill_if_at_work, execution)

    def withdraw(self, execution: Execution) -> bool:
        """Take an execution out of the queue; False when it has been sent already."""
        if execution.is_sent or execution not in self._queue:
            return False
        self._queue.remove(execution)
        return True

    def _kill_if_at_work(self, execution: Execution) -> None:
        if self._current is execution and self._process is not None:
            log.warning(
                "session %s: an abandoned cell ignored its interrupt for %g s; killing its worker",
                self.session_id,
                self.config.abandon_grace,
            )
            self._process.signal_group(signal.SIGKILL)

    def _pump(self) -> None:
        """Send the next execution if none is at work and the state allows one."""
        state = self._machine.state
        if not self._queue or self._is_losing_worker:
            return
        if self._current is not None:
            if self._is_receptive:
                self._pump_aside()
            return
        if state is _S.READY or state is _S.IDLE:
            self._machine.move(_S.BUSY)
        elif state is not _S.WARMING or self._queue[0] is not self._warmup:
            return
        execution = self._queue.popleft()
        self._current = execution
        self._last_id = execution.id
        assert self._transport is not None
        execution.begin()
        try:
            self._transport.send_nowait(execution.message)
        except (ProtocolError, TypeError) as error:
            # Nothing of it reached the worker; this one fails, and the next may come.
            self._current = None
            if state is not _S.WARMING:
                self._machine.move(_S.IDLE)
            execution.end(error)
            self._pump()
            return
        execution.is_sent = True

    def _pump_aside(self) -> None:
        """Send the comm messages that wait to the cell at work, past the cells that wait."""
        assert self._transport is not None
        for execution in [e for e in self._queue if isinstance(e.message, CommMessage)]:
            self._queue.remove(execution)
            execution.begin()
            try:
                self._transport.send_nowait(execution.message)
            except (ProtocolError, TypeError) as error:
                execution.end(error)
            else:
                execution.is_sent = True
                self._aside[execution.id] = execution

    # --------------------------------------------------------------- requests

    def request(self, message: Message) -> asyncio.Future[Any]:
        """Send a request (completion, inspection, …); the future gets its reply message.

        Requests are answered between cells, and while a cell awaits.

        Raises:
            SessionClosed: The session has ended, or was never started.
        """
        self._check_alive()
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        assert self._transport is not None
        if not self._is_losing_worker:
            self._transport.send_nowait(message)
        self._replies[message.id] = future
        future.add_done_callback(partial(self._forget_request, message.id))
        return future

    def debug(self, request: dict[str, Any]) -> asyncio.Future[DebugReplyMessage]:
        """Send the debugger a request (Debug Adapter Protocol); the future gets its reply.

        It is heard while a cell runs too, and while one stands still at a breakpoint.

        Raises:
            SessionClosed: The session has ended, or was never started.
        """
        self._check_alive()
        assert self._debug is not None
        return self._debug.request(DebugMessage(request))

    def _on_debug_event(self, message: DebugEventMessage) -> None:
        if self.on_debug_event is not None:
            self.on_debug_event(message)

    def _on_debug_broken(self, error: Exception | None) -> None:
        if self._process is not None and self.state is not _S.SHUTTING_DOWN:
            if error is not None:
                log.error("session %s: its debugger broke the protocol: %s", self.session_id, error)
            self._process.signal_group(signal.SIGKILL)

    def _forget_request(self, request_id: str, _future: asyncio.Future[Any]) -> None:
        self._replies.pop(request_id, None)

    @property
    def _is_losing_worker(self) -> bool:
        """Whether nothing reaches the worker any more; when it is gone, all who wait are told."""
        return self._transport is not None and self._transport.is_closed

    async def ping(self, timeout: float) -> bool:
        """Whether the worker's loop answers within ``timeout`` seconds."""
        try:
            await asyncio.wait_for(self.request(HeartbeatMessage()), timeout)
        except (TimeoutError, SessionError):
            return False
        return True

    async def reset(self) -> None:
        """Bring the namespace back to what it was after the warmup.

        Raises:
            SessionError: A cell is running, or the worker could not do it.
        """
        if self.is_executing:
            raise SessionError(self.session_id, "cannot be reset while a cell runs")
        reply: ResetMessage = await self.request(ResetMessage())
        if reply.error:
            raise SessionError(self.session_id, f"reset failed: {reply.error}")
        if self.state is _S.IDLE:
            self._machine.move(_S.READY)

    async def input_response(self, value: str, *, eof: bool = False) -> None:
        """Answer the cell's ``input()``.

        Raises:
            SessionClosed: The session has ended.
        """
        self.send_input(value, eof=eof)

    def send_input(self, value: str, *, eof: bool = False) -> None:
        """As ``input_response``, for callers that cannot wait."""
        self._check_alive()
        assert self._transport is not None
        if self._is_losing_worker:
            return
        execution_id = self._current.id if self._current else ""
        self._transport.send_nowait(InputResponseMessage(value, eof=eof, execution_id=execution_id))

    async def interrupt(self) -> None:
        """Interrupt the cell that runs, and the processes it started; none runs: do nothing."""
        self._send_interrupt()

    def send_interrupt(self) -> bool:
        """As ``interrupt``; True when there was a cell to interrupt."""
        return self._send_interrupt()

    def _send_interrupt(self) -> bool:
        current = self._current
        if current is None or self._process is None or self._transport is None:
            return False
        if not self._transport.is_closed:
            # Names the cell that is meant, should the signal arrive before the cell or after it.
            self._transport.send_nowait(InterruptMessage(current.id))
        self._process.signal_group(signal.SIGINT)
        return True

    # ------------------------------------------------- what the worker says

    def _route(self, message: Message) -> None:
        handler = self._handlers.get(type(message))
        if handler is None:
            raise ProtocolError(f"a worker may not send {message.type} messages")
        handler(message)

    def _on_output(self, message: Any) -> None:
        current = self._current
        if current is not None and message.execution_id == current.id:
            current.deliver(message)
        elif (aside := self._aside.get(message.execution_id)) is not None:
            aside.deliver(message)
        elif self.on_background is not None:
            self.on_background(message)
        else:
            log.debug("session %s: background: %r", self.session_id, message)

    def _on_text(self, stream: str, text: str) -> None:
        self._on_output(OutputMessage(text, stream, self._last_id))

    def _on_result(self, message: ResultMessage) -> None:
        assert self._process is not None
        current = self._current
        if (aside := self._aside.pop(message.execution_id, None)) is not None:
            self._process.drain_output()
            aside.end(message)
            return
        if current is None or message.execution_id != current.id:
            raise ProtocolError(f"a result for {message.execution_id!r}, which is not at work")
        self._process.drain_output()
        self._is_receptive = False
        # A comm message that came too late to be served within the cell is the worker's next.
        self._current = self._aside.pop(next(iter(self._aside), ""), None)
        self.last_used = time.monotonic()
        if self.state is _S.BUSY:
            self.executions += 1
            if self._current is None:
                self._machine.move(_S.IDLE)
        current.end(message)
        self._pump()

    def _on_receptive(self, message: ReceptiveMessage) -> None:
        current = self._current
        if self.state is _S.BUSY and current is not None and message.execution_id == current.id:
            self._is_receptive = True
            self._pump()

    def _on_ready(self, message: ReadyMessage) -> None:
        if self._ready is None or self._ready.done():
            raise ProtocolError("a second ready message")
        self._ready.set_result(message)

    def _on_reply(self, request_id: str, message: Message) -> None:
        future = self._replies.get(request_id)
        if future is not None and not future.done():
            future.set_result(message)

    def _pause(self) -> None:
        if self._transport is not None and self._process is not None:
            self._transport.pause_reading()
            self._process.stdout.pause()
            self._process.stderr.pause()

    def _resume(self) -> None:
        if self._transport is not None and self._process is not None:
            self._transport.resume_reading()
            self._process.stdout.resume()
            self._process.stderr.resume()

    pause_output = _pause
    resume_output = _resume

    # ----------------------------------------------------------------- ending

    def _check_alive(self) -> None:
        if not self._has_started:
            raise SessionClosed(self.session_id, "it was never started; call start() first")
        if not self.is_alive:
            raise SessionClosed(self.session_id, "it has ended")

    async def shutdown(self, *, restart: bool = False) -> None:
        """End the worker; its exit handlers run, for at most ``shutdown_grace`` seconds.

        A cell that runs is interrupted. Whatever waits gets ``SessionClosed``.
        """
        if self._process is None or self.state is _S.TERMINATED:
            return await self.terminate()
        if self.state is not _S.SHUTTING_DOWN:
            self._machine.move(_S.SHUTTING_DOWN)
            self._send_interrupt()
            assert self._transport is not None
            if not self._transport.is_closed:
                self._transport.send_nowait(ShutdownMessage(restart))
            self._fail_all(SessionClosed(self.session_id, "it was shut down"))
        try:
            async with asyncio.timeout(self.config.shutdown_grace):
                await self._ended.wait()
        except TimeoutError:
            log.warning(
                "session %s: its exit handlers took longer than %g s; killing the worker",
                self.session_id,
                self.config.shutdown_grace,
            )
        await self.terminate()

    async def terminate(self) -> None:
        """Kill the worker and its children at once, and wait until they are gone."""
        if self._process is None:
            if self.state is not _S.TERMINATED:
                self._machine.move(_S.TERMINATED)
            self._fail_all(SessionClosed(self.session_id, "it has ended"))
            return
        if self.state not in (_S.SHUTTING_DOWN, _S.TERMINATED):
            self._machine.move(_S.SHUTTING_DOWN)
        self._process.signal_group(signal.SIGKILL)
        await self._ended.wait()

    async def restart(self) -> None:
        """End the worker and start another, with the warmup run anew.

        Raises:
            StartError: The new worker did not come up.
            WarmupError: The warmup code raised in the new worker.
        """
        await self.shutdown(restart=True)
        self._machine.move(_S.CREATING)
        self._has_started = False
        self._process = None
        self._transport = None
        self._ready = None
        self._stream_error = None
        self._stream_ended = False
        self._ended = asyncio.Event()
        self.warmup_error = None
        self.executions = 0
        await self.start()

    def _on_exit(self, status: ExitStatus) -> None:
        assert self._process is not None and self._transport is not None
        log.debug("session %s: its worker %s", self.session_id, status)
        self._process.close()
        if self._stream_ended:
            self._conclude()
        else:
            self._transport.finish()  # the rest of its words, then _on_stream_end

    def _on_stream_end(self, error: Exception | None) -> None:
        if self._stream_ended:
            return
        self._stream_ended = True
        self._stream_error = error
        assert self._process is not None
        if self._process.exit is not None:
            self._conclude()
            return
        if error is not None and self.state is not _S.SHUTTING_DOWN:
            log.error("session %s: its worker broke the protocol: %s", self.session_id, error)
        if error is not None or self.state is not _S.SHUTTING_DOWN:
            # Without its socket a worker is of no use; with SHUTTING_DOWN it ends by itself.
            self._process.signal_group(signal.SIGKILL)

    def _conclude(self) -> None:
        """The worker is gone and all that it said was heard."""
        assert self._process is not None and self._process.exit is not None
        status = self._process.exit
        expected = self.state is _S.SHUTTING_DOWN
        reason = str(status)
        if isinstance(self._stream_error, ProtocolError) and not expected:
            reason = f"{reason} after it broke the protocol: {self._stream_error}"
        death = WorkerDied(
            self.session_id,
            reason,
            exit_code=status.code,
            signal=status.signal,
            stderr=self._process.stderr.tail,
        )
        if self.state is not _S.TERMINATED:
            self._machine.move(_S.TERMINATED)
        assert self._transport is not None
        self._transport.close_now()
        if self._debug is not None:
            self._debug.close()
        self._ended.set()
        if not expected and self.on_death is not None:
            self.on_death(death)
        self._fail_all(SessionClosed(self.session_id, "it was shut down") if expected else death)

    def _fail_all(self, error: SessionError) -> None:
        """End everything that waits, with the same error."""
        waiting = [self._current] if self._current is not None else []
        waiting += [*self._aside.values(), *self._queue]
        self._current = None
        self._aside.clear()
        self._queue.clear()
        for execution in waiting:
            execution.end(error)
        for future in [*self._replies.values(), *([self._ready] if self._ready else [])]:
            if not future.done():
                future.set_exception(error)
                future.exception()  # seen; whoever waits still gets it
        self._replies.clear()
        if self._debug is not None:
            self._debug.fail(error)
