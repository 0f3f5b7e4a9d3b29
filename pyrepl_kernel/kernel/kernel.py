"""The kernel: wires Jupyter's channels to a session.

    shell ───┐                               ┌── execute, comm ──▶ CellRun ──▶ Session.submit
    control ─┼──▶ Wire.parse ──▶ dispatch ───┼── complete, inspect, … ───────▶ Session.request
    stdin ───┘    (signature)    (a table)   └── kernel_info, interrupt, …     answered here
                                                        │
    iopub ◀──── Wire.build ◀──── as_output ◀────────────┴──── CellRun ◀──── what the worker says

All of it runs on one event loop, which user code never blocks: it is in another process.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from collections import OrderedDict
from collections.abc import Coroutine, Sequence
from typing import Any

from pyrepl_kernel.errors import PyreplError, SessionClosed, WorkerDied
from pyrepl_kernel.kernel.cell import CellRun
from pyrepl_kernel.kernel.channels import Channel, Heartbeat, Publisher, make_context
from pyrepl_kernel.kernel.connection import Connection
from pyrepl_kernel.kernel.debug import Debugging
from pyrepl_kernel.kernel.exchange import Exchange
from pyrepl_kernel.kernel.handlers import CONTROL_HANDLERS, SHELL_HANDLERS, dispatch
from pyrepl_kernel.kernel.info import kernel_info
from pyrepl_kernel.kernel.options import Options
from pyrepl_kernel.kernel.output import as_output
from pyrepl_kernel.kernel.spares import Spares
from pyrepl_kernel.kernel.usage import UsageMeter
from pyrepl_kernel.kernel.wire import Request, Wire, WireError, to_json
from pyrepl_kernel.protocol.messages import (
    CommMessage,
    ExecuteMessage,
    InputMessage,
    Message,
    OutputMessage,
    new_id,
)
from pyrepl_kernel.session.process import ProcessWatch
from pyrepl_kernel.session.session import Session, SessionConfig
from pyrepl_kernel.session.spawn import Spawned

__all__ = ["Kernel"]

log = logging.getLogger("pyrepl_kernel.kernel")

_EXIT_DELAY = 1.0  # seconds; clients that find a dead kernel do not look for its last reply
_PARENTS = 1000  # executions whose late output still finds its cell


class Kernel:
    """A Jupyter kernel.

    Args:
        connection: Its connection file, with the sockets that listen.
        options: Its command line.
        spawned: The first worker, which is on its way up already.
    """

    def __init__(self, connection: Connection, options: Options, spawned: Spawned) -> None:
        self.connection = connection
        self.options = options
        self.wire = Wire(connection.key, connection.info["signature_scheme"])
        self.identity = new_id()
        self.usage = UsageMeter()
        self.debugging = Debugging(self)
        self.next_count = 1
        self._spawned: Spawned | None = spawned
        self._topic = f"kernel.{self.identity}.".encode()
        self._runs: list[CellRun] = []
        self._parents: OrderedDict[str, bytes] = OrderedDict()
        self._asking: Exchange | None = None
        self._comms: set[str] = set()  # open ones, which a new worker knows nothing of
        self._notice = ""
        self._warned_of: Session | None = None
        self._stopped = asyncio.Event()
        self._exit_code = 0
        self._watch: ProcessWatch | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._context = make_context()
        self._publisher = Publisher(
            self._context,
            connection,
            self._welcome,
            lambda: self.session.pause_output(),
            lambda: self.session.resume_output(),
        )
        self.session = self._new_session()
        self._spares = Spares(options.spares, options.warmup, self._session_config())
        self._start_session()
        self._shell = self._make_channel("shell", self._on_shell)
        self._control = self._make_channel("control", self._on_control)
        self._stdin = self._make_channel("stdin", self._on_stdin)
        self._heartbeat = Heartbeat(self._context, connection)

    def _make_channel(self, name: str, on_frames: Any) -> Channel:
        return Channel(self._context, self.connection, name, on_frames)

    # ------------------------------------------------------------ its own life

    async def run(self) -> int:
        """Serve until told to stop; the exit code."""
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGINT, self.interrupt)
        loop.add_signal_handler(signal.SIGTERM, self.stop)
        self._watch_parent()
        self.publish("status", b'{"execution_state": "starting"}')
        await self._stopped.wait()
        await self._end()
        return self._exit_code

    def _watch_parent(self) -> None:
        """End when the process that started this kernel has ended."""
        parent = int(os.environ.get("JPY_PARENT_PID") or 0)
        if parent <= 1:
            return
        for pid in (parent, os.getppid()):
            if pid <= 1:
                continue  # nobody but init is left above us
            try:
                self._watch = ProcessWatch(pid, self.stop)
            except ProcessLookupError:
                continue  # of another pid namespace, perhaps; ours is the process above us
            except OSError as error:
                log.warning("cannot watch the process that started this kernel: %s", error)
            return
        self.stop()

    def stop(self, exit_code: int = 0) -> None:
        """End the kernel."""
        self._exit_code = self._exit_code or exit_code
        self._stopped.set()

    def stop_soon(self) -> None:
        """End the kernel, but let the client hear first that it was its own cell that asked."""
        asyncio.get_running_loop().call_later(_EXIT_DELAY, self.stop)

    async def _end(self) -> None:
        for task in self._tasks:
            task.cancel()
        await self.session.shutdown()
        await self._spares.stop()
        if self._watch is not None:
            self._watch.close()
        for channel in (
            self._shell,
            self._control,
            self._stdin,
            self._heartbeat,
            self._publisher,
        ):
            channel.close()
        self.connection.remove_files()
        self._context.term()

    # ----------------------------------------------------------- the session

    def _session_config(self) -> SessionConfig:
        return SessionConfig(
            keep_failed_warmup=True,
            options={
                "history": True,
                "argv": sys.argv,
                "ipython": self.options.ipython,
                "connection_file": os.path.abspath(self.connection.path),
                "session": self.wire.session,
            },
        )

    def _new_session(self) -> Session:
        return Session(warmup_code=self.options.warmup, config=self._session_config())

    def _listen(self, session: Session) -> None:
        session.on_background = self._on_background
        session.on_death = self._on_death
        session.on_debug_event = self.debugging.on_event

    def _start_session(self) -> None:
        spawned, self._spawned = self._spawned, None
        self._listen(self.session)
        self.session.launch(spawned)
        self._run(self._bring_up(self.session))

    def _run(self, work: Coroutine[Any, Any, None]) -> None:
        """Do something in the background, until the kernel ends."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _bring_up(self, session: Session) -> None:
        try:
            await session.wait_ready()
        except PyreplError as error:
            # What waits has been told; the next cell tries again.
            log.error("%s", error)
            self._notice = f"{error}\n"

    def _renew_session(self) -> None:
        """Go on with a new worker: a spare that is warm already, or one that is started now."""
        self._close_comms()
        self.debugging.end()
        self.wire.renew_session()
        self.next_count = 1
        self._run(self._spares.give_back(self.session))
        spare = self._spares.take()
        if spare is None:
            self.session = self._new_session()
            self._start_session()
        else:
            self.session = spare
            self._listen(spare)

    def _on_death(self, death: WorkerDied) -> None:
        log.error("%s", death)
        self.debugging.end()
        if not self._runs:
            self._notice = f"{death}\nAll variables are lost; a new worker has taken over.\n"

    def after_crash(self, message: ExecuteMessage | CommMessage) -> None:
        """A cell's worker has died under it.

        A batch (which allows no input) must not go on in an empty namespace, so the kernel ends
        as ipykernel would have; a person gets a new worker.
        """
        if isinstance(message, ExecuteMessage) and not message.allow_stdin:
            self.stop(1)

    def note_comm(self, message: CommMessage) -> None:
        """Keep count of the open comms, by what either side says of them."""
        if message.kind == "open":
            self._comms.add(message.comm_id)
        elif message.kind == "close":
            self._comms.discard(message.comm_id)

    def _close_comms(self) -> None:
        """Tell the front ends that their widgets are dead, for nobody is left to answer them."""
        for comm_id in self._comms:
            self.publish("comm_close", to_json({"comm_id": comm_id, "data": {}}))
        self._comms.clear()

    # -------------------------------------------------------------- executing

    def execution_id(self, message_id: str) -> str:
        """The id under which a request runs: its own, unless that is taken."""
        taken = any(run.message.id == message_id for run in self._runs)
        return new_id() if taken else message_id

    def live_session(self) -> Session:
        """The session, or a new one where it has ended; not while the kernel ends."""
        if not self.session.is_alive and not self._stopped.is_set():
            self._renew_session()
        return self.session

    def submit(self, run: CellRun) -> None:
        """Queue a cell or comm message."""
        session = self.live_session()
        self._runs.append(run)
        try:
            run.execution = session.submit(run.message, run.deliver, run.end, run.begin)
        except SessionClosed as error:
            run.end(error)

    def forget_run(self, run: CellRun) -> None:
        """A run has ended."""
        self._runs.remove(run)
        if not self._runs:
            self._spares.fill()  # the first cell is done, and nobody waits now

    def waiting_runs(self) -> list[CellRun]:
        """The cells that wait now: what a failing cell aborts.

        Asked before the failing cell's reply is sent: what a client sends after it has read that
        reply is a new beginning, and runs.
        """
        # What the clients have sent by now waits too, even if it is still in zmq's hands.
        self._shell.receive_all()
        return [run for run in self._runs if run.is_cell and not run.has_begun]

    def abort(self, runs: list[CellRun]) -> None:
        """Abort cells that wait."""
        for run in runs:
            if run.execution is not None and self.session.withdraw(run.execution):
                run.abort()

    def remember_parent(self, execution_id: str, raw_header: bytes) -> None:
        """Keep a request's header for output that comes after its end."""
        self._parents[execution_id] = raw_header
        if len(self._parents) > _PARENTS:
            self._parents.popitem(last=False)

    def show_notice(self, exchange: Exchange) -> None:
        """Show with a cell what went wrong since the last one, and a warmup that failed."""
        notice, self._notice = self._notice, ""
        if self.session.warmup_error is not None and self._warned_of is not self.session:
            self._warned_of = self.session
            notice += f"{self.session.warmup_error}\n"
        if notice:
            output = as_output(OutputMessage(notice, "stderr"))
            assert output is not None
            exchange.publish(*output)

    def interrupt(self) -> None:
        """Interrupt the cell that runs, if one does."""
        self.session.send_interrupt()

    def ask_input(self, exchange: Exchange, message: InputMessage) -> None:
        """Ask the client of a cell for a line."""
        self._asking = exchange
        content = to_json({"prompt": message.prompt, "password": message.password})
        request = exchange.request
        self._stdin.send(
            self.wire.build(request.identities, "input_request", content, request.raw_header)
        )

    # --------------------------------------------------------------- channels

    def _parse(self, channel: str, frames: list[bytes]) -> Request | None:
        try:
            return self.wire.parse(frames)
        except WireError as error:
            log.warning("%s: message dropped: %s", channel, error)
            return None

    def _on_shell(self, frames: list[bytes]) -> None:
        request = self._parse("shell", frames)
        if request is not None:
            dispatch(SHELL_HANDLERS, self, Exchange(self, self._shell, request))

    def _on_control(self, frames: list[bytes]) -> None:
        request = self._parse("control", frames)
        if request is not None:
            dispatch(CONTROL_HANDLERS, self, Exchange(self, self._control, request))

    def _on_stdin(self, frames: list[bytes]) -> None:
        request = self._parse("stdin", frames)
        if request is None or request.type != "input_reply" or self._asking is None:
            return
        self._asking = None
        value = request.content.get("value", "")
        try:
            self.session.send_input(value if isinstance(value, str) else "")
        except SessionClosed as error:
            log.warning("stdin: an answer came too late: %s", error)

    def _on_background(self, message: Message) -> None:
        """Output that belongs to no cell at work: a thread's, after its cell."""
        if isinstance(message, InputMessage):
            log.warning("input() outside of a cell cannot be answered")
            return
        if isinstance(message, CommMessage):
            self.note_comm(message)
        output = as_output(message)
        if output is not None:
            execution_id = getattr(message, "execution_id", "")
            parent = self._parents.get(execution_id, b"{}")
            self.publish(output.type, output.content, parent, output.metadata, output.buffers)

    def publish(
        self,
        message_type: str,
        content: bytes,
        parent: bytes = b"{}",
        metadata: bytes = b"{}",
        buffers: Sequence[bytes] = (),
    ) -> None:
        """Publish a message on iopub."""
        topic = self._topic + message_type.encode()
        self._publisher.send(
            self.wire.build([topic], message_type, content, parent, metadata, buffers)
        )

    def _welcome(self, topic: bytes) -> None:
        content = to_json({"subscription": topic.decode("utf-8", "replace")})
        self._publisher.send(self.wire.build([topic] if topic else [], "iopub_welcome", content))

    def info(self) -> dict[str, Any]:
        """The content of ``kernel_info_reply``."""
        return kernel_info()
