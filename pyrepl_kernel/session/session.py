"""A session: one worker process, and everything that is asked of it, in order.

    execute(), run()          submit()           request()
           │                     │                   │
           ▼                     ▼                   ▼
       Inbox ◀── Execution ── Dispatch: lanes     Replies: a future each
           ▲                     │                   │
           │                     ▼                   ▼
           │        ┌──────────  WorkerLink  ────────────┐
           └─route──┤  one reader, for the whole life    │◀──▶ worker
                    └────────────────────────────────────┘

The main shell has a lane, and so has each subshell, whose messages go by the debugger's socket:
it is heard while the worker's main thread runs a cell. What comes back takes the same way for all.

Everything here runs on the event loop; there is no thread. What a worker wrote to its pipes
before it sent a result is delivered before that result.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import time
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import suppress
from functools import partial
from itertools import count
from typing import Any, Self

from pyrepl_kernel.errors import (
    CheckpointError,
    DeathCause,
    ExecutionTimeout,
    ProtocolError,
    SessionClosed,
    SessionError,
    StartError,
    UnknownSubshell,
    WarmupError,
    WorkerDied,
)
from pyrepl_kernel.protocol.framing import encode_message
from pyrepl_kernel.protocol.messages import (
    CONTROL_SHELL,
    WARMUP_MARK,
    CheckpointListMessage,
    CheckpointMessage,
    CheckpointReplyMessage,
    CommInfoReplyMessage,
    CommMessage,
    CompleteReplyMessage,
    DebugEventMessage,
    DebugMessage,
    DebugReplyMessage,
    DisplayMessage,
    DropMessage,
    ErrorMessage,
    ExecuteMessage,
    HandlersMessage,
    HandOverMessage,
    HeartbeatMessage,
    HistoryReplyMessage,
    ImportsMessage,
    InputMessage,
    InputResponseMessage,
    InspectReplyMessage,
    IsCompleteReplyMessage,
    LimitMessage,
    Message,
    OutputMessage,
    ReadyMessage,
    ReceptiveMessage,
    RequestMessage,
    ResetMessage,
    RestoreMessage,
    ResultMessage,
    SendMessage,
    ShutdownMessage,
    StartMessage,
    StatusMessage,
    SubshellMessage,
    SubshellReplyMessage,
    message_from_map,
)
from pyrepl_kernel.session.checkpoints import Checkpoint, CheckpointStore
from pyrepl_kernel.session.config import SessionConfig, SessionInfo
from pyrepl_kernel.session.death import Evidence
from pyrepl_kernel.session.dispatch import Dispatch
from pyrepl_kernel.session.execution import End, Execution, Inbox, Outcome
from pyrepl_kernel.session.forked import Forked
from pyrepl_kernel.session.guard import Force, Guard
from pyrepl_kernel.session.lane import Lane
from pyrepl_kernel.session.limits import Limits
from pyrepl_kernel.session.link import WorkerLink
from pyrepl_kernel.session.replies import Replies
from pyrepl_kernel.session.spawn import Spawned, spawn_worker
from pyrepl_kernel.session.states import SessionState, StateMachine

__all__ = ["Session", "SessionConfig", "SessionInfo"]

log = logging.getLogger("pyrepl_kernel.session")

_S = SessionState
_numbers = count(1)


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
        self.on_restored: Callable[[Checkpoint], None] | None = None
        """Called when the session goes back to a checkpoint, before its worker is ready."""
        self.on_debug_event: Callable[[DebugEventMessage], None] | None = None
        """Called with each event of the worker's debugger."""
        self.checkpoints = CheckpointStore(self.config.checkpoint_memory)
        """States of this session that it can go back to."""
        self.on_imports: Callable[[ImportsMessage], None] | None = None
        """Called when the user's code has imported something, with ``learn_imports`` set."""
        self.describe: Callable[[], DisplayMessage | None] = lambda: None
        """What ``%kernel`` shows."""
        self.capabilities: dict[str, Any] = {}
        self.request_types: dict[str, frozenset[str]] = {}
        """Channel → the types of requests that the user's code has handlers for."""
        self._python = python
        self._cwd = os.path.abspath(cwd) if cwd is not None else None
        self._env = dict(env) if env is not None else {}
        self._machine = StateMachine(self.session_id)
        self._created_at = time.time()
        self._started_at: float | None = None
        self._has_started = False
        self._link: WorkerLink | None = None
        self._going_back: asyncio.Task[None] | None = None
        self._evidence = Evidence()
        self._guard = self._make_guard(self.config.limits)
        self._dispatch = Dispatch(self._machine, self._on_background)
        self._lanes = self._dispatch.lanes
        self._replies = Replies()
        self._ready: asyncio.Future[ReadyMessage] | None = None
        self._is_ending = False  # for good, and not only its worker
        self._ended = asyncio.Event()
        self._handlers: dict[type[Message], Callable[[Any], None]] = {
            OutputMessage: self._dispatch.on_output,
            DisplayMessage: self._dispatch.on_output,
            ErrorMessage: self._dispatch.on_output,
            InputMessage: self._dispatch.on_output,
            CommMessage: self._dispatch.on_output,
            SendMessage: self._dispatch.on_output,
            HandlersMessage: self._on_handlers,
            ResultMessage: self._dispatch.on_result,
            ReadyMessage: self._on_ready,
            ReceptiveMessage: self._dispatch.on_receptive,
            LimitMessage: self._on_limit,
            CheckpointListMessage: self._list_checkpoints,
            RestoreMessage: self._on_restore,
            DropMessage: self._on_drop,
            ImportsMessage: self._on_imports,
            StatusMessage: self._on_status,
            HeartbeatMessage: lambda message: self._replies.arrive(message.id, message),
            ResetMessage: lambda message: self._replies.arrive(message.id, message),
        } | {
            reply: lambda message: self._replies.arrive(message.request_id, message)
            for reply in (
                CheckpointReplyMessage,
                CompleteReplyMessage,
                InspectReplyMessage,
                IsCompleteReplyMessage,
                HistoryReplyMessage,
                CommInfoReplyMessage,
                SubshellReplyMessage,
            )
        }

    def _make_guard(self, limits: Limits) -> Guard:
        return Guard(limits, self._send_interrupt, self._kill, self._evidence)

    def __repr__(self) -> str:
        pid = f" pid={self.pid}" if self.pid else ""
        queue = self._lanes.main.queue
        waiting = f" queued={len(queue)}" if queue else ""
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
        return self._lanes.is_executing

    @property
    def executions(self) -> int:
        """How many executions were finished, the warmup not counted."""
        return self._dispatch.executions

    @property
    def last_used(self) -> float:
        """When the last one was, or when the session became ready, by ``time.monotonic``."""
        return self._dispatch.last_used

    def is_shell_executing(self, subshell_id: str = "") -> bool:
        """The same of the main shell alone, or of a subshell."""
        lanes = self._lanes
        lane = lanes.subshells.get(subshell_id) if subshell_id else lanes.main
        return lane is not None and lane.is_executing

    @property
    def subshells(self) -> list[str]:
        """The ids of the subshells."""
        return [name for name in self._lanes.subshells if name != CONTROL_SHELL]

    @property
    def has_subshells(self) -> bool:
        """Whether anything can run beside the main shell."""
        return self._lanes.are_many

    def _lane(self, subshell_id: str) -> Lane:
        if not subshell_id:
            return self._lanes.main
        try:
            return self._lanes.subshells[subshell_id]
        except KeyError:
            raise self._unknown(subshell_id) from None

    @property
    def limits(self) -> Limits:
        """What each cell may use; it may be set at any time."""
        return self._guard.limits

    @limits.setter
    def limits(self, limits: Limits) -> None:
        self._guard.limits = limits

    @property
    def pid(self) -> int | None:
        """The worker's process; None without one."""
        return self._link.process.pid if self._link else None

    @property
    def has_lost_worker(self) -> bool:
        """Whether the worker has ended, though the session may not have heard of it yet."""
        return self._link is not None and self._link.process.has_ended

    @property
    def is_forked(self) -> bool:
        """Whether the worker is the fork of another process."""
        return self._link is not None and self._link.process.is_forked

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

    async def start(self, spawned: Spawned | None = None) -> None:
        """Start the worker and run the warmup code.

        Args:
            spawned: A worker process that has been started already, to be taken over.

        Raises:
            StartError: The worker did not come up.
            WarmupError: The warmup code raised; no process is left.
            SessionError: The session was started before.
        """
        self.launch(spawned)
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
        is_forked = isinstance(spawned, Forked)
        start = StartMessage(
            self.session_id,
            # A fork has the directory and the environment of another process.
            cwd=self._cwd or (_working_directory() if is_forked else None),
            env=(os.environ | self._env) if is_forked else (self._env or None),
            env_is_whole=is_forked,
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
        self._ready = asyncio.get_running_loop().create_future()
        self._link = WorkerLink(
            spawned,
            self.session_id,
            self.checkpoints,
            self._evidence,
            self.config.max_frame_size,
            on_message=self._route,
            on_text=self._dispatch.on_text,
            on_stacks=self._guard.on_stacks,
            on_debug_event=self._on_debug_event,
            on_gone=self._on_gone,
        )
        self._dispatch.begin_worker(self._link, self._evidence, self._guard)
        self._link.send(start)

    async def wait_ready(self) -> None:
        """Wait until the worker is up, and run the warmup code; errors as ``start``."""
        try:
            await self._wait_until_up()
            self._machine.move(_S.WARMING)
            if self.warmup_code:
                await self._warm_up(self.warmup_code)
        except BaseException:
            # Its checkpoints stay: one more attempt, or another of them, may succeed.
            await self._kill_at_once()
            raise
        self._machine.move(_S.READY)
        self._started_at = time.time()
        self._dispatch.last_used = time.monotonic()
        self._dispatch.pump_all()

    async def _wait_until_up(self) -> None:
        assert self._ready is not None and self._link is not None
        try:
            async with asyncio.timeout(self.config.start_timeout):
                ready = await self._ready
        except TimeoutError:
            raise StartError(
                self.session_id,
                f"the worker did not get ready within {self.config.start_timeout:g} s",
                self._link.process.stderr.tail,
            ) from None
        except WorkerDied as death:
            raise StartError(
                self.session_id,
                f"the worker ({self._python}) {death.reason} before it was ready",
                death.stderr,
            ) from death
        self.capabilities = ready.capabilities

    async def _warm_up(self, code: str) -> None:
        result = _result_of_template(self.capabilities) or await self._run_warmup(code)
        if result.status != "ok":
            error = WarmupError(self.session_id, result.ename, result.evalue, result.traceback)
            if not self.config.keep_failed_warmup:
                raise error
            self.warmup_error = error

    async def _run_warmup(self, code: str) -> ResultMessage:
        inbox = Inbox(self._pause, self._resume)
        message = ExecuteMessage(
            code, silent=True, store_history=False, metadata={WARMUP_MARK: True}
        )
        execution = Execution(message, inbox.put, inbox.end)
        # Ahead of whatever came in from outside in the meantime.
        self._dispatch.warmup = execution
        self._lanes.main.queue.appendleft(execution)
        self._dispatch.pump(self._lanes.main)
        while not isinstance(result := await inbox.get(), ResultMessage):
            log.debug("session %s: warmup said %r", self.session_id, result)
        return result

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.shutdown()

    # -------------------------------------------------------------- executing

    def submit(
        self,
        message: ExecuteMessage | CommMessage | RequestMessage,
        on_message: Callable[[Message], None],
        on_end: End,
        on_begin: Callable[[], None] | None = None,
        subshell_id: str = "",
    ) -> Execution:
        """Queue an execution and follow it by callbacks; ``execute`` is this with an iterator.

        Args:
            message: What is to be executed.
            on_message: Called with each of its messages as it arrives, but the result.
            on_end: Called once, with the result or with the error that came instead.
            on_begin: Called when its turn has come, before anything of it comes back.
            subshell_id: Where it is to run; in the main shell unless given.

        Raises:
            SessionClosed: The session has ended, or was never started.
            UnknownSubshell: There is no such subshell.
        """
        self._check_alive()
        lane = self._lane(subshell_id)
        execution = Execution(message, on_message, on_end, on_begin)
        lane.queue.append(execution)
        self._dispatch.pump(lane)
        return execution

    async def execute(
        self, message: ExecuteMessage | str, timeout: float | None = None
    ) -> AsyncGenerator[Message]:
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
        if self.withdraw(execution) or self._lanes.main.current is not execution:
            return  # no interrupt reaches a subshell: its cell runs on, and nobody listens
        self._send_interrupt()
        loop = asyncio.get_running_loop()
        loop.call_later(self.config.abandon_grace, self._kill_if_at_work, execution)

    def withdraw(self, execution: Execution) -> bool:
        """Take an execution out of the queue; False when it has been sent already."""
        return not execution.is_sent and self._lanes.withdraw(execution)

    def _kill_if_at_work(self, execution: Execution) -> None:
        if self._lanes.main.current is execution:
            log.warning(
                "session %s: an abandoned cell ignored its interrupt for %g s; killing its worker",
                self.session_id,
                self.config.abandon_grace,
            )
            self._kill(
                DeathCause.ABANDONED,
                "was killed because nobody waited for its cell any more, and the cell ignored its "
                f"interrupt for {self.config.abandon_grace:g} s",
            )

    def _kill(self, cause: DeathCause, reason: str) -> None:
        """Kill the worker, for a reason that all will be told who wait."""
        if self._link is not None:
            self._link.kill(cause, reason)

    # -------------------------------------------------------------- subshells

    async def create_subshell(self) -> str:
        """Create a subshell: a thread that runs cells beside the main shell; its id.

        Raises:
            SessionClosed: The session has ended, or was never started.
            SessionError: The worker could not start another thread.
        """
        import uuid  # 12 ms that no kernel's start needs

        self._check_alive()
        subshell_id = str(uuid.uuid4())
        reply = await self._ask_beside(SubshellMessage(subshell_id, "create"))
        if reply.error:
            raise SessionError(self.session_id, f"cannot create a subshell: {reply.error}")
        self._check_alive()
        self._lanes.subshells[subshell_id] = Lane(subshell_id)
        return subshell_id

    async def delete_subshell(self, subshell_id: str) -> None:
        """Delete a subshell, and wait for the cell that it runs; one that awaits is cancelled.

        What waits behind that cell gets ``UnknownSubshell``.

        Raises:
            UnknownSubshell: There is no such subshell.
            SessionClosed: The session ended meanwhile.
            WorkerDied: The worker did.
        """
        self._check_alive()
        try:
            waiting = self._lanes.close(subshell_id)
        except KeyError:
            raise self._unknown(subshell_id) from None
        for execution in waiting:
            execution.end(self._unknown(subshell_id))
        try:
            await self._ask_beside(SubshellMessage(subshell_id, "delete"))
        finally:
            self._lanes.forget(subshell_id)

    def open_control_shell(self) -> None:
        """Have the subshell that serves the user's handlers of the control channel."""
        self._check_alive()
        if CONTROL_SHELL in self._lanes.subshells:
            return
        self._lanes.subshells[CONTROL_SHELL] = lane = Lane(CONTROL_SHELL)

        def created(answer: asyncio.Future[SubshellReplyMessage]) -> None:
            if answer.cancelled() or answer.exception() or not answer.result().error:
                return
            self._lanes.subshells.pop(CONTROL_SHELL, None)
            for execution in lane.take_all():
                execution.end(SessionError(self.session_id, answer.result().error))

        self._ask_beside(SubshellMessage(CONTROL_SHELL, "create")).add_done_callback(created)

    def _unknown(self, subshell_id: str) -> UnknownSubshell:
        return UnknownSubshell(
            self.session_id, f"there is no subshell {subshell_id!r}; create one first"
        )

    # --------------------------------------------------------------- requests

    def request(self, message: Message, subshell_id: str = "") -> asyncio.Future[Any]:
        """Send a request (completion, inspection, …); the future gets its reply message.

        Requests are answered between cells, and while a cell awaits.

        Args:
            message: The request.
            subshell_id: Who is to answer it; the main shell unless given.

        Raises:
            SessionClosed: The session has ended, or was never started.
            UnknownSubshell: There is no such subshell.
        """
        self._check_alive()
        lane = self._lane(subshell_id)
        self._dispatch.send(lane, message)
        return self._replies.expect(message.id)

    def _ask_beside(self, message: Message) -> asyncio.Future[Any]:
        """Send a request on the debugger's socket, which is heard while a cell runs."""
        assert self._link is not None
        self._link.send_beside(message)
        return self._replies.expect(message.id)

    def debug(self, request: dict[str, Any]) -> asyncio.Future[DebugReplyMessage]:
        """Send the debugger a request (Debug Adapter Protocol); the future gets its reply.

        It is heard while a cell runs too, and while one stands still at a breakpoint.

        Raises:
            SessionClosed: The session has ended, or was never started.
        """
        self._check_alive()
        assert self._link is not None
        return self._link.debug.request(DebugMessage(request))

    def _on_debug_event(self, message: DebugEventMessage) -> None:
        if self.on_debug_event is not None:
            self.on_debug_event(message)

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
        for subshell_id in list(self._lanes.subshells):
            await self.delete_subshell(subshell_id)
        reply: ResetMessage = await self.request(ResetMessage())
        if reply.error:
            raise SessionError(self.session_id, f"reset failed: {reply.error}")
        if self.state is _S.IDLE:
            self._machine.move(_S.READY)

    def hand_over(
        self,
        *,
        cwd: str | os.PathLike[str] | None = None,
        env: Mapping[str, str] | None = None,
        variables: Mapping[str, str] | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        """Let the worker work elsewhere, or for somebody else, from the next execution on.

        Args:
            cwd: The working directory; None to leave it.
            env: The whole environment, to which the changes of the warmup's are applied again;
                None to leave it.
            variables: Environment variables on top of all others.
            options: Options as in ``SessionConfig``, those that change.

        Raises:
            NotADirectoryError: ``cwd`` is no directory.
            SessionClosed: The session has ended, or was never started.
        """
        self._check_alive()
        directory = None if cwd is None else os.path.abspath(cwd)
        if directory is not None and not os.path.isdir(directory):
            raise NotADirectoryError(f"cwd {directory!r} is no directory")
        assert self._link is not None
        self._link.send(
            HandOverMessage(
                directory,
                None if env is None else dict(env),
                dict(variables or {}),
                dict(options or {}),
            )
        )

    async def input_response(self, value: str, *, eof: bool = False) -> None:
        """Answer the cell's ``input()``.

        Raises:
            SessionClosed: The session has ended.
        """
        self.send_input(value, eof=eof)

    def send_input(self, value: str, *, eof: bool = False, execution_id: str = "") -> None:
        """As ``input_response``, for callers that cannot wait.

        Args:
            value: The line.
            eof: The user has closed the input.
            execution_id: Who has asked; the main shell's cell unless given.
        """
        self._check_alive()
        lane = self._lanes.find(execution_id) or self._lanes.main
        execution_id = lane.current.id if lane.current else ""
        self._dispatch.send(lane, InputResponseMessage(value, eof=eof, execution_id=execution_id))

    async def interrupt(self, force: Force = Force.INTERRUPT) -> None:
        """Interrupt the main shell's cell, and the processes it started; none runs: do nothing.

        The processes that subshells have started are interrupted too; their cells are not, since
        signals reach a process's main thread only.

        Args:
            force: ``Force.STACKS`` also shows where the worker's threads are, as output of the
                cell; ``Force.KILL`` kills the worker, if the cell runs on for another moment.
        """
        self.send_interrupt(force)

    def send_interrupt(self, force: Force = Force.INTERRUPT) -> bool:
        """As ``interrupt``; True when there was a cell to interrupt."""
        return self._guard.interrupt(force)

    def _send_interrupt(self) -> bool:
        current = self._lanes.main.current
        is_at_work = current is not None or any(lane.current for lane in self._lanes)
        if not is_at_work or self._link is None:
            return False
        self._link.interrupt(current.id if current else "")
        return True

    # ------------------------------------------------- what the worker says

    def _route(self, message: Message) -> None:
        handler = self._handlers.get(type(message))
        if handler is None:
            raise ProtocolError(f"a worker may not send {message.type} messages")
        handler(message)

    def _on_background(self, message: Message) -> None:
        if self.on_background is not None:
            self.on_background(message)
        else:
            log.debug("session %s: background: %r", self.session_id, message)

    def _on_limit(self, message: LimitMessage) -> None:
        try:
            text, stream = self._guard.change(message.changes), "stdout"
        except (TypeError, ValueError) as error:
            text, stream = f"The limits stay as they were: {error}\n", "stderr"
        self._dispatch.on_output(OutputMessage(text, stream, message.execution_id))

    def _on_imports(self, message: ImportsMessage) -> None:
        if self.on_imports is not None:
            self.on_imports(message)

    def _on_status(self, message: StatusMessage) -> None:
        shown = self.describe()
        if shown is None:
            text = f"{self!r}\nThis session belongs to no kernel.\n"
            self._dispatch.on_output(OutputMessage(text, "stdout", message.execution_id))
        else:
            values = shown.to_map() | {"execution_id": message.execution_id}
            del values["type"]
            self._dispatch.on_output(DisplayMessage(**values))

    def _on_ready(self, message: ReadyMessage) -> None:
        if self.state is _S.SHUTTING_DOWN:
            return  # it was not wanted any more before it had come up
        if self._ready is not None and self._ready.cancelled():
            return  # who waited for it has given up, and is about to end it
        if self._ready is None or self._ready.done():
            raise ProtocolError("a second ready message")
        self._ready.set_result(message)

    def _on_handlers(self, message: HandlersMessage) -> None:
        self.request_types[message.channel] = frozenset(message.msg_types)

    def _pause(self) -> None:
        if self._link is not None:
            self._link.pause()

    def _resume(self) -> None:
        if self._link is not None:
            self._link.resume()

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
        if self._link is None or self.state is _S.TERMINATED:
            return await self.terminate()
        self.begin_shutdown(restart=restart)
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

    def begin_shutdown(self, *, restart: bool = False) -> None:
        """The part of ``shutdown`` that waits for nothing: the worker and all who wait are told."""
        self._is_ending = True
        if self._link is None or self.state in (_S.SHUTTING_DOWN, _S.TERMINATED):
            return
        self._link.process.is_expected_to_end = True
        self._machine.move(_S.SHUTTING_DOWN)
        self._send_interrupt()
        self._link.send(ShutdownMessage(restart))
        self._fail_all(SessionClosed(self.session_id, "it was shut down"))

    async def terminate(self) -> None:
        """Kill the worker and its children at once, and wait until they are gone.

        Nothing can bring the session back but ``restart``: its checkpoints are given up.
        """
        self._is_ending = True
        self.checkpoints.close()
        await self._kill_at_once()

    async def _kill_at_once(self) -> None:
        if self._link is None:
            if self.state is not _S.TERMINATED:
                self._machine.move(_S.TERMINATED)
            self._fail_all(SessionClosed(self.session_id, "it has ended"))
            return
        if self.state not in (_S.SHUTTING_DOWN, _S.TERMINATED):
            self._machine.move(_S.SHUTTING_DOWN)
        self._link.kill_at_once()
        await self._ended.wait()

    async def restart(self) -> None:
        """End the worker and start another, with the warmup run anew.

        Raises:
            StartError: The new worker did not come up.
            WarmupError: The warmup code raised in the new worker.
        """
        await self.shutdown(restart=True)
        self._begin_anew()
        self.warmup_error = None
        self._dispatch.executions = 0
        await self.start()

    def _begin_anew(self) -> None:
        """Be as before ``launch``: another worker is to come."""
        self._machine.move(_S.CREATING)
        self._has_started = False
        self._link = None
        self._ready = None
        self._evidence = Evidence()
        self._guard = self._make_guard(self._guard.limits)
        self._is_ending = False
        self._ended = asyncio.Event()

    # ------------------------------------------------------------ checkpoints

    async def checkpoint(self, name: str = "") -> Checkpoint:
        """Keep the state of the session.

        Args:
            name: Its name; a checkpoint that has it already is replaced.

        Raises:
            CheckpointError: There can be none now; the text says why.
            SessionError: A cell is running.
            SessionClosed: The session has ended, or was never started.
        """
        if self.is_executing:
            raise SessionError(self.session_id, "no checkpoint can be taken while a cell runs")
        name = name or f"checkpoint-{len(self.checkpoints) + 1}"
        reply: CheckpointReplyMessage = await self.request(CheckpointMessage(name))
        if reply.error:
            raise CheckpointError(f"session {self.session_id}: {reply.error}")
        assert self._link is not None
        self._link.port.drain()
        return self.checkpoints.find(name)

    async def rollback(self, name: str = "") -> None:
        """Go back to a checkpoint: the worker is given up for one in the state that was kept.

        After the worker has died it brings the session back to life.

        Args:
            name: Which; the latest unless given.

        Raises:
            CheckpointError: There is no such checkpoint, or it could not be gone back to.
            SessionError: A cell is running.
        """
        if self.is_executing:
            raise SessionError(self.session_id, "cannot go back to a checkpoint while a cell runs")
        self.revive(await self._fork_of(name))
        await self.wait_ready()

    async def _fork_of(self, name: str) -> Forked:
        if self._link is not None:
            self._link.port.drain()
        return await self.checkpoints.fork(self.checkpoints.find(name))

    def revive(self, spawned: Forked) -> None:
        """Go on in a worker that a checkpoint has made; ``wait_ready`` does the rest.

        The worker that there is, if any, is given up; executions that wait go to the new one.
        """
        if self._link is not None and not self._link.is_gone:
            self._give_up_worker(self._link)
        if self.state is not _S.TERMINATED:
            self._machine.move(_S.TERMINATED)
        evidence = self._evidence
        self._begin_anew()
        origin = self.checkpoints.origin
        if origin is not None:
            self._evidence = evidence.succeed(origin.execution_count + 1)
            self._guard = self._make_guard(self._guard.limits)
            if self.on_restored is not None:
                self.on_restored(origin)
        self.launch(spawned)

    def _give_up_worker(self, link: WorkerLink) -> None:
        link.abandon()
        error = SessionClosed(self.session_id, "it went back to a checkpoint")
        for execution in self._lanes.take_subshells():
            execution.end(error)
        self._fail_requests(error)

    def _on_restore(self, message: RestoreMessage) -> None:
        current = self._lanes.main.current
        if current is not None and message.execution_id == current.id:
            self._dispatch.instead = partial(self._go_back, message.name)

    def _go_back(self, key: str, execution: Execution, result: ResultMessage) -> None:
        """A cell has ended whose last wish is another state of the session."""
        self._going_back = asyncio.create_task(self._end_by_going_back(key, execution, result))

    def _on_drop(self, message: DropMessage) -> None:
        assert self._link is not None
        self._link.port.drain()
        with suppress(CheckpointError):  # it may have been thinned out meanwhile
            self.checkpoints.drop(self.checkpoints.find(message.key))

    async def _end_by_going_back(
        self, key: str, execution: Execution, result: ResultMessage
    ) -> None:
        try:
            self.revive(await self._fork_of(key))
            # The cell stays at work until it has ended: its error aborts those that wait.
            await self.wait_ready()
            values: dict[str, Any] = {"next_count": self.capabilities.get("next_count", 1)}
        except (CheckpointError, SessionError) as error:
            values = {"status": "error", "ename": type(error).__name__, "evalue": str(error)}
            values["traceback"] = [f"{type(error).__name__}: {error}"]
        ended = ResultMessage.from_map({**result.to_map(), **values})
        self._dispatch.end_late(execution, ended)

    def _list_checkpoints(self, message: CheckpointListMessage) -> None:
        assert self._link is not None
        self._link.port.drain()
        self._link.send(CheckpointListMessage(message.id, self.checkpoints.as_items()))

    def _on_gone(self, death: WorkerDied) -> None:
        """The worker is gone and all that it said was heard."""
        expected = self.state is _S.SHUTTING_DOWN
        self._guard.end()
        if self.state is not _S.TERMINATED:
            self._machine.move(_S.TERMINATED)
        if self._is_ending:
            self.checkpoints.close()
        self._ended.set()
        if not expected and self.on_death is not None:
            self.on_death(death)
        self._fail_all(SessionClosed(self.session_id, "it was shut down") if expected else death)

    def _fail_all(self, error: SessionError) -> None:
        """End everything that waits, with the same error."""
        self.request_types.clear()
        for execution in self._lanes.take_all():
            execution.end(error)
        self._fail_requests(error)

    def _fail_requests(self, error: SessionError) -> None:
        if self._ready is not None and not self._ready.done():
            self._ready.set_exception(error)
            self._ready.exception()  # seen; whoever waits still gets it
        self._replies.fail(error)
        if self._link is not None:
            self._link.debug.fail(error)


def _working_directory() -> str | None:
    try:
        return os.getcwd()
    except FileNotFoundError:
        return None  # it was removed


def _result_of_template(capabilities: Mapping[str, Any]) -> ResultMessage | None:
    """What came of the warmup where a worker's template has run it; None where none has.

    Raises:
        ProtocolError: The worker says something else that makes no sense.
    """
    warmup = capabilities.get("warmup")
    if warmup is None:
        return None
    result = message_from_map(warmup) if isinstance(warmup, dict) else None
    if not isinstance(result, ResultMessage):
        raise ProtocolError(f"a worker's warmup is no result: {warmup!r}")
    return result
