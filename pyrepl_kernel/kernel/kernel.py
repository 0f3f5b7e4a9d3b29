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
import re
import signal
import sys
from collections import OrderedDict
from collections.abc import Coroutine, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from pyrepl_kernel.errors import (
    PyreplError,
    SessionClosed,
    SessionError,
    WarmupError,
    WorkerDied,
)
from pyrepl_kernel.kernel.cell import CellRun
from pyrepl_kernel.kernel.channels import Channel, Heartbeat, Publisher, make_context
from pyrepl_kernel.kernel.connection import Connection
from pyrepl_kernel.kernel.crashes import Crashes
from pyrepl_kernel.kernel.debug import Debugging
from pyrepl_kernel.kernel.exchange import Exchange, LateIdle, error_content
from pyrepl_kernel.kernel.handlers import (
    CONTROL_HANDLERS,
    SHELL_HANDLERS,
    Handler,
    dispatch,
    fail_unknown_subshell,
)
from pyrepl_kernel.kernel.info import kernel_info
from pyrepl_kernel.kernel.interruptions import Interruptions
from pyrepl_kernel.kernel.options import Options, parse
from pyrepl_kernel.kernel.output import as_output
from pyrepl_kernel.kernel.restarts import Restarts
from pyrepl_kernel.kernel.restoration import Restoration
from pyrepl_kernel.kernel.spares import Spares
from pyrepl_kernel.kernel.status import Status, StatusPort
from pyrepl_kernel.kernel.usage import UsageMeter
from pyrepl_kernel.kernel.warm import working_directory
from pyrepl_kernel.kernel.wire import Request, Wire, WireError, from_json, to_json
from pyrepl_kernel.protocol.messages import (
    Buffer,
    CommMessage,
    ImportsMessage,
    InputMessage,
    Message,
    OutputMessage,
    SendMessage,
    new_id,
)
from pyrepl_kernel.session.forked import Forked
from pyrepl_kernel.session.limits import Limits
from pyrepl_kernel.session.process import ProcessWatch
from pyrepl_kernel.session.session import Session, SessionConfig
from pyrepl_kernel.session.spawn import Spawned

if TYPE_CHECKING:
    from pyrepl_kernel.kernel.learning import LearningSpares

__all__ = ["Kernel"]

log = logging.getLogger("pyrepl_kernel.kernel")

_SPARES_DELAY = 1.0  # seconds until spares are made, if the first cell has not ended before
_STARTING = b'{"execution_state": "starting"}'
_EXIT_DELAY = 1.0  # seconds; clients that find a dead kernel do not look for its last reply
_ASK_AGAIN_FIRST = 0.02  # seconds until a client that had not connected to stdin is asked again
_ASK_AGAIN_MOST = 1.0
_PARENTS = 1000  # executions whose late output still finds its cell


_is_word = re.compile(r"[\w.-]+").fullmatch


class Kernel:
    """A Jupyter kernel.

    Args:
        connection: Its connection file, with the sockets that listen.
        options: Its command line.
        spawned: The first worker, which is on its way up already.
        leash: The socket to the provisioner; None when something else has started this kernel.
    """

    def __init__(
        self,
        connection: Connection,
        options: Options,
        spawned: Spawned,
        leash: int | None = None,
    ) -> None:
        self.connection = connection
        self.options = options
        self.wire = Wire(connection.key, connection.info["signature_scheme"])
        self.identity = new_id()
        self.usage = UsageMeter()
        self.debugging = Debugging(self)
        self.crashes = Crashes(self, options.on_crash)
        self.restoration = Restoration(self)
        self.late_idle = LateIdle(lambda: bool(self._runs))
        self._interruptions = Interruptions(self)
        self.next_count = 1
        self._topic = f"kernel.{self.identity}.".encode()
        self._is_new = True  # until something has been published
        self._runs: dict[str, CellRun] = {}  # by execution id, in the order in which they came
        self._parents: OrderedDict[str, bytes] = OrderedDict()
        self._asking: dict[str, str] = {}  # input_request's id → the execution that asks
        # Open comms, which a new worker knows nothing of, and the subshells that use them.
        self._comms: dict[str, str] = {}
        self._notice = "".join(f"{notice}\n" for notice in options.notices)
        self._warned_of: Session | None = None
        self._stopped = asyncio.Event()
        self._exit_code = 0
        self._watch: ProcessWatch | None = None
        self._spares_timer: asyncio.TimerHandle | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._context = make_context()
        self._publisher = Publisher(
            self._context,
            connection,
            self._welcome,
            lambda: self.session.pause_output(),
            lambda: self.session.resume_output(),
        )
        self._limits = self._limits_of_options()
        self.session = self._new_session()
        self._spares = self._make_spares(spawned)
        self.restarts = Restarts(self, leash)
        self.status = Status(self)
        self._status_port = StatusPort(self.status.as_dict)
        self._start_session(spawned)
        self._shell = self._make_channel("shell", self._on_shell)
        self._control = self._make_channel("control", self._on_control)
        self._stdin = self._make_channel("stdin", self._on_stdin)
        self._heartbeat = Heartbeat(self._context, connection)
        self._channels: dict[str, Channel] = {
            "shell": self._shell,
            "control": self._control,
            "stdin": self._stdin,
            "hb": self._heartbeat,
            "iopub": self._publisher,
        }

    def _make_channel(self, name: str, on_frames: Any) -> Channel:
        return Channel(self._context, self.connection, name, on_frames)

    # ------------------------------------------------------------ its own life

    async def run(self) -> int:
        """Serve until told to stop; the exit code."""
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGINT, self.interrupt)
        loop.add_signal_handler(signal.SIGTERM, self.stop)
        self._watch_parent()
        self._fill_spares_later()
        await self._stopped.wait()
        await self._end()
        return self._exit_code

    def _fill_spares_later(self) -> None:
        if self._spares_timer is not None:
            self._spares_timer.cancel()
        loop = asyncio.get_running_loop()
        self._spares_timer = loop.call_later(_SPARES_DELAY, lambda: self._spares.fill())

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

    @property
    def is_stopping(self) -> bool:
        """Whether the kernel ends."""
        return self._stopped.is_set()

    def stop_soon(self) -> None:
        """End the kernel, but let the client hear first that it was its own cell that asked."""
        asyncio.get_running_loop().call_later(_EXIT_DELAY, self.stop)

    async def _end(self) -> None:
        if self._spares_timer is not None:
            self._spares_timer.cancel()
        for task in self._tasks:
            task.cancel()
        self._status_port.close()
        await asyncio.gather(self.restarts.close(), self.session.shutdown())
        await self._spares.stop()
        if self._watch is not None:
            self._watch.close()
        for channel in self._channels.values():
            channel.close()
        self.connection.remove_files()
        self._context.term()

    # ----------------------------------------------------------- the session

    def _session_config(self) -> SessionConfig:
        return SessionConfig(
            keep_failed_warmup=True,
            limits=self._limits,
            checkpoint_memory=self.options.checkpoint_memory,
            options={
                "history": True,
                "argv": sys.argv,
                "ipython": self.options.ipython,
                "connection_file": os.path.abspath(self.connection.path),
                "session": self.wire.session,
                "subshells": self.options.subshells,
                "autocheckpoint": self.options.autocheckpoint,
                "learn_imports": self.options.learned is not None,
            },
        )

    def _limits_of_options(self) -> Limits:
        options = self.options
        hard = options.memory_hard_limit
        if hard is not None and options.memory_limit is not None and hard < options.memory_limit:
            self.notify("memory-hard-limit is below memory-limit, and is ignored\n")
            hard = None
        return Limits(
            options.memory_limit,
            hard,
            options.cell_timeout,
            options.output_limit,
            options.output_folder,
            options.interrupt_timeout,
        )

    def _new_session(self) -> Session:
        return Session(warmup_code=self.options.warmup, config=self._session_config())

    @property
    def spares(self) -> Spares | LearningSpares:
        """The workers that stand ready."""
        return self._spares

    def _make_spares(self, first: Spawned | None) -> Spares | LearningSpares:
        config = self._session_config()
        if self.options.learned is None:
            return Spares(self.options, config, first)
        from pyrepl_kernel.kernel.learning import LearningSpares

        return LearningSpares(
            self.options, config, first, lambda: self.session, lambda: bool(self._runs)
        )

    def _on_imports(self, message: ImportsMessage) -> None:
        if isinstance(spares := self._spares, Spares):
            return  # it was learned before a restart with other options
        self.notify(spares.on_imports(message))

    def _listen(self, session: Session) -> None:
        session.on_imports = self._on_imports
        session.describe = self.status.display
        session.on_background = self._on_background
        session.on_death = self._on_death
        session.on_debug_event = self.debugging.on_event
        self.restoration.watch(session)

    def _start_session(self, spawned: Spawned | None) -> None:
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
            if session is not self.session or self.restarts.is_retired:
                return  # it was ended on its way up
            # What waits has been told; the next cell tries again.
            if isinstance(error, WorkerDied) or isinstance(error.__cause__, WorkerDied):
                return  # it is told of as a death
            log.error("%s", error)
            self.notify(f"{error}\n")

    def _renew_session(self) -> None:
        """Go on with a new worker: a spare that is warm already, or one that is started now."""
        self._close_comms()
        self.debugging.end()
        self.wire.renew_session()
        self.next_count = 1
        old = self.session
        self._run(self._spares.give_back(old))
        limits = old.limits  # as the user has set them, perhaps
        spare = self._spares.take()
        if spare is None:
            self.session = self._new_session()
            self._start_session(self._spares.fork())
        else:
            self.session = spare
            self._listen(spare)
            spare.hand_over(
                cwd=working_directory(),
                env=dict(os.environ),
                options={"session": self.wire.session},
            )
        self.session.limits = limits
        if not old.is_alive:
            self.session.checkpoints.take_over(old.checkpoints)

    def _revive_session(self, spawned: Forked) -> None:
        """Go on with the dead session in a worker that a checkpoint has made."""
        self.session.revive(spawned)
        self._run(self._bring_up(self.session))

    def leave_session(self) -> Session:
        """Hear no more of the session, which is to end for a restart."""
        session = self.session
        session.on_background = session.on_death = session.on_debug_event = None
        return session

    def begin_generation(self) -> None:
        """Begin anew, as after a restart of the process."""
        learned = self.options.learned
        self.options = parse(sys.argv[1:])  # a file of warmup code is read again
        self.options.recall(learned)
        for channel in self.connection.bring_back():
            self._channels[channel].listen(self.connection)
        self._asking.clear()
        self._parents.clear()
        self.crashes = Crashes(self, self.options.on_crash)
        self._notice = "".join(f"{notice}\n" for notice in self.options.notices)
        if not self._spares.is_current(self.options):
            stale = self._spares
            self._spares = self._make_spares(None)
            self._run(stale.stop())
            self._fill_spares_later()
        self.status.note_restart()
        self.session.checkpoints.close()  # of states that the user has left behind
        self._renew_session()
        self._limits = self.session.limits = self._limits_of_options()
        self.publish("status", _STARTING)

    def receive_requests(self) -> None:
        """Take in all that the clients have sent on shell so far."""
        while self._channels["shell"].receive_all():
            continue

    def _on_death(self, death: WorkerDied) -> None:
        self.debugging.end()
        self.status.note_death(death)
        self.crashes.on_death(death, any(run.is_cell for run in self._runs.values()))

    def notify(self, notice: str) -> None:
        """Have something shown with the next cell."""
        self._notice += notice

    def note_comm(self, message: CommMessage, subshell_id: str = "") -> None:
        """Keep count of the open comms, by what either side says of them, and in which shell."""
        if message.kind == "close":
            self._comms.pop(message.comm_id, None)
        elif message.kind == "open" or message.comm_id in self._comms:
            self._comms[message.comm_id] = subshell_id

    def shell_of_comm(self, comm_id: str) -> str:
        """The subshell that used a comm last: a cell of it may await an answer there."""
        subshell_id = self._comms.get(comm_id, "")
        return subshell_id if subshell_id and subshell_id in self.session.subshells else ""

    def open_comms(self) -> dict[str, str]:
        """The comms that are open now, and the shells that use them."""
        return dict(self._comms)

    def keep_comms(self, known: dict[str, str]) -> None:
        """Go on with a worker that knows these comms, and no others."""
        self._comms = {key: value for key, value in self._comms.items() if key not in known}
        self._close_comms()
        self._comms = dict(known)

    def _close_comms(self) -> None:
        """Tell the front ends that their widgets are dead, for nobody is left to answer them."""
        for comm_id in self._comms:
            self.publish("comm_close", to_json({"comm_id": comm_id, "data": {}}))
        self._comms.clear()

    # -------------------------------------------------------------- executing

    def execution_id(self, message_id: str) -> str:
        """The id under which a request runs: its own, unless that is taken."""
        return new_id() if message_id in self._runs else message_id

    def live_session(self) -> Session:
        """The session, or a new one where it has ended, unless that was meant."""
        if not (self.session.is_alive or self.is_stopping or self.restarts.is_retired):
            prepared = self.restoration.take()
            if prepared is None:
                self._renew_session()
            else:
                self._revive_session(prepared)
        return self.session

    def submit(self, run: CellRun) -> None:
        """Queue a cell or comm message."""
        self._runs[run.message.id] = run
        if self.crashes.holds(run):
            return
        session = self.live_session()
        try:
            run.execution = session.submit(
                run.message, run.deliver, run.end, run.begin, run.subshell_id
            )
        except SessionError as error:
            run.end(error)

    def note_count(self, next_count: int) -> None:
        """A cell has ended, and the next is to have this number, unless it has begun already."""
        is_another_at_work = self.session.has_subshells and any(
            run.has_begun and run.is_cell for run in self._runs.values()
        )
        self.next_count = max(next_count, self.next_count) if is_another_at_work else next_count

    def forget_run(self, run: CellRun) -> None:
        """A run has ended."""
        del self._runs[run.message.id]
        if self._asking:
            ended = run.message.id
            self._asking = {asked: who for asked, who in self._asking.items() if who != ended}
        if not self._runs:
            self.late_idle.end()
            self._spares.fill()  # the first cell is done, and nobody waits now

    def waiting_runs(self, subshell_id: str | None = "") -> list[CellRun]:
        """The cells that wait now, in one shell (None: in any): what a failing cell aborts.

        Asked before the failing cell's reply is sent: what a client sends after it has read that
        reply is a new beginning, and runs.
        """
        # What the clients have sent by now waits too, even if it is still in zmq's hands.
        self._shell.receive_all()
        return [
            run
            for run in self._runs.values()
            if run.is_cell and not run.has_begun and subshell_id in (None, run.subshell_id)
        ]

    def abort(self, runs: list[CellRun]) -> None:
        """Abort cells that wait."""
        for run in runs:
            if run.execution is not None and self.session.withdraw(run.execution):
                run.abort()

    def answer_later(self, exchange: Exchange, work: Coroutine[Any, Any, dict[str, Any]]) -> None:
        """Reply with what comes of some work that takes its time."""
        exchange.busy()

        async def answer() -> None:
            try:
                exchange.finish({"status": "ok", **await work})
            except PyreplError as error:
                exchange.finish(error_content(type(error).__name__, str(error)))

        self._run(answer())

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
            notice += self._warmup_notice(self.session.warmup_error)
        if notice:
            output = as_output(OutputMessage(notice, "stderr"))
            assert output is not None
            exchange.publish(*output)

    def _warmup_notice(self, error: WarmupError) -> str:
        origin = self.options.origin["warmup"]
        place = "" if origin == "the command line" else f", from {origin},"
        traceback = "\n".join(error.traceback)
        return (
            f"The warmup{place} failed with {error.ename}: {error.evalue}\n"
            "Cells run without what it has not done. Mend it, and restart the kernel.\n"
            f"{traceback}\n"
        )

    def interrupt(self) -> None:
        """Interrupt the cell that runs, if one does."""
        self._interruptions.interrupt()

    def running_cell(self) -> CellRun | None:
        """The cell that the main shell runs."""
        for run in self._runs.values():
            if run.is_cell and run.has_begun and not run.subshell_id:
                return run
        return None

    def ask_input(self, exchange: Exchange, message: InputMessage) -> None:
        """Ask the client of a cell for a line."""
        content = to_json({"prompt": message.prompt, "password": message.password})
        request = exchange.request
        frames = self.wire.build(request.identities, "input_request", content, request.raw_header)
        header = from_json(bytes(frames[len(request.identities) + 2]))
        self._asking[header["msg_id"]] = message.execution_id
        self._put_question(frames, header["msg_id"], _ASK_AGAIN_FIRST)

    def _put_question(self, frames: Sequence[Buffer], msg_id: str, pause: float) -> None:
        """Send a question as soon as its client has connected to stdin, while it is open."""
        if msg_id in self._asking and not self._stdin.try_send(frames):
            again = min(2 * pause, _ASK_AGAIN_MOST)
            loop = asyncio.get_running_loop()
            loop.call_later(pause, self._put_question, frames, msg_id, again)

    def send(self, message: SendMessage, exchange: Exchange) -> None:
        """Send a message of the user's own making, which refers to a request."""
        if not _is_word(message.msg_type):
            log.warning("a worker wants to send a message of type %r", message.msg_type)
        elif message.channel == "iopub":
            output = as_output(message)
            assert output is not None
            exchange.publish(*output)
        else:
            exchange.forward(message)

    def _send_late(self, message: SendMessage) -> None:
        """Likewise, where that request has ended."""
        parent = self._parents.get(message.execution_id, b"{}")
        content, metadata = to_json(message.content), to_json(message.metadata)
        if not _is_word(message.msg_type):
            log.warning("a worker wants to send a message of type %r", message.msg_type)
        elif message.channel == "iopub":
            self.publish(message.msg_type, content, parent, metadata, message.buffers)
        elif message.identities:
            frames = self.wire.build(
                message.identities, message.msg_type, content, parent, metadata, message.buffers
            )
            self.send_on(message.channel, frames)
        else:
            log.warning("%s comes too late: it does not say for whom it is", message.msg_type)

    def send_on(self, channel: str, frames: list[Buffer]) -> None:
        """Send frames to a client."""
        channels = {"shell": self._shell, "control": self._control, "stdin": self._stdin}
        if channel in channels:
            if not channels[channel].try_send(frames):
                log.warning("the user's code sends on %s to a client that is not there", channel)
        else:
            log.warning("a worker wants to send on %r, which is no channel", channel)

    # --------------------------------------------------------------- channels

    @property
    def publisher(self) -> Publisher:
        """iopub."""
        return self._publisher

    def _parse(self, channel: str, frames: list[bytes]) -> Request | None:
        try:
            return self.wire.parse(frames)
        except WireError as error:
            log.warning("%s: message dropped: %s", channel, error)
            return None

    def _on_shell(self, frames: list[bytes]) -> None:
        request = self._parse("shell", frames)
        if request is not None:
            self._serve(SHELL_HANDLERS, self._shell, request)

    def _on_control(self, frames: list[bytes]) -> None:
        request = self._parse("control", frames)
        if request is not None:
            self._serve(CONTROL_HANDLERS, self._control, request)

    def _serve(self, handlers: Mapping[str, Handler], channel: Channel, request: Request) -> None:
        if self.restarts.holds(request):
            self.restarts.hold(partial(self._serve, handlers, channel, request))
            return
        subshell_id = request.header.get("subshell_id") or "" if channel is self._shell else ""
        exchange = Exchange(self, channel, request, subshell_id)
        if subshell_id and subshell_id not in self.session.subshells:
            fail_unknown_subshell(self, exchange, subshell_id)
        else:
            dispatch(handlers, self, exchange)

    def _on_stdin(self, frames: list[bytes]) -> None:
        request = self._parse("stdin", frames)
        if request is None or request.type != "input_reply" or not self._asking:
            return
        # Some clients do not say which question they answer: it is the one that came last.
        asked = str(request.parent.get("msg_id"))
        execution_id = self._asking.pop(asked, None) or self._asking.popitem()[1]
        value = request.content.get("value", "")
        try:
            self.session.send_input(
                value if isinstance(value, str) else "", execution_id=execution_id
            )
        except SessionClosed as error:
            log.warning("stdin: an answer came too late: %s", error)

    def _on_background(self, message: Message) -> None:
        """Output that belongs to no cell at work: a thread's, after its cell."""
        if isinstance(message, InputMessage):
            log.warning("input() outside of a cell cannot be answered")
            return
        if isinstance(message, SendMessage):
            self._send_late(message)
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
        buffers: Sequence[Buffer] = (),
    ) -> None:
        """Publish a message on iopub."""
        self._publisher.send(self.publication(message_type, content, parent, metadata, buffers))

    def publication(
        self,
        message_type: str,
        content: bytes,
        parent: bytes = b"{}",
        metadata: bytes = b"{}",
        buffers: Sequence[Buffer] = (),
    ) -> list[Buffer]:
        """The frames of a message that is about to be published."""
        self._is_new = False
        topic = self._topic + message_type.encode()
        return self.wire.build([topic], message_type, content, parent, metadata, buffers)

    def _welcome(self, topic: bytes) -> None:
        content = to_json({"subscription": topic.decode("utf-8", "replace")})
        self._publisher.send(self.wire.build([topic] if topic else [], "iopub_welcome", content))
        if self._is_new:  # said before there is anybody to hear it, it would be lost
            self.publish("status", _STARTING)

    def info(self) -> dict[str, Any]:
        """The content of ``kernel_info_reply``."""
        return kernel_info(self.options.subshells)
