"""The worker: takes messages from the session one by one and does what they ask.

    session ──▶ Channel ──▶ Worker ──┬─ execute ─▶ Executor ─▶ IPython ─▶ user's code
                   ▲                 ├─ complete, inspect, … ─▶ requests
                   │                 └─ comm ─▶ Comms
                   │
                   └── OutputBuffer ◀── sys.stdout, sys.stderr, displays, errors, results

Everything happens on the main thread, where signals arrive and where user code expects to run.
"""

from __future__ import annotations

import builtins
import logging
import os
import platform
import socket
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable
from contextlib import nullcontext
from types import ModuleType
from typing import TYPE_CHECKING, Any, NoReturn

from IPython.core import release
from IPython.core.error import StdinNotImplementedError

from pyrepl_kernel.errors import ProtocolError
from pyrepl_kernel.protocol.messages import (
    WARMUP_MARK,
    CheckpointListMessage,
    CheckpointMessage,
    CommInfoMessage,
    CommInfoReplyMessage,
    CommMessage,
    ExecuteMessage,
    HandOverMessage,
    HeartbeatMessage,
    InputMessage,
    InputResponseMessage,
    InterruptMessage,
    Message,
    ReadyMessage,
    RequestMessage,
    ResetMessage,
    ResultMessage,
    ShutdownMessage,
    StartMessage,
    SubshellMessage,
)
from pyrepl_kernel.worker import requests
from pyrepl_kernel.worker.capture import OutputBuffer
from pyrepl_kernel.worker.channel import Channel, ChannelClosed
from pyrepl_kernel.worker.comms import CommInbox, Comms
from pyrepl_kernel.worker.compat import fit_into_ipykernel
from pyrepl_kernel.worker.debug import DebugPort
from pyrepl_kernel.worker.executor import Executor, parent_of, send_result
from pyrepl_kernel.worker.imports import guard_imports, when_imported
from pyrepl_kernel.worker.interrupts import Interrupts, SignalledWait
from pyrepl_kernel.worker.parent import current_execution
from pyrepl_kernel.worker.pdb_hooks import replace_pdb
from pyrepl_kernel.worker.shell import ZMQInteractiveShell, cell_directory
from pyrepl_kernel.worker.surroundings import Surroundings, begin_here, introduce

if TYPE_CHECKING:
    from pyrepl_kernel.worker.checkpoints import Checkpoints
    from pyrepl_kernel.worker.gui import GuiLoop
    from pyrepl_kernel.worker.history import LazyHistory
    from pyrepl_kernel.worker.learned import ImportLog
    from pyrepl_kernel.worker.loop import CellLoop
    from pyrepl_kernel.worker.subshells import Subshell, Subshells

__all__ = ["Worker", "end_process", "receive_start"]

log = logging.getLogger("pyrepl_kernel.worker")

_IN_ORDER = (ExecuteMessage, HandOverMessage, CheckpointMessage)
"""What waits for the end of a cell that awaits; anything else is served within it."""

_TRANSACTION = "%%transaction"
_IDLE_PAUSE = 0.1  # seconds without a message before what can wait is done


class Worker:
    """One worker process's main thread.

    Args:
        channel: The protocol.
        output: Where streams and displays go.
        shell: IPython.
        interrupts: SIGINT's handler.
        debug: Told when the user's code runs.
        surroundings: Where it works.

    Attributes:
        warm_up_result: What came of the warmup; None before there was one.
        notices: Shown to the user with the next cell, on stderr.
        learns_imports: Whether the session is told what the user's code imports.
    """

    def __init__(
        self,
        channel: Channel,
        output: OutputBuffer,
        shell: ZMQInteractiveShell,
        interrupts: Interrupts,
        debug: DebugPort,
        surroundings: Surroundings,
    ) -> None:
        self.warm_up_result: ResultMessage | None = None
        self.notices: list[str] = []
        self.learns_imports = False
        self._imports: ImportLog | None = None
        shell.history_manager.notify = self.notices.append
        self._surroundings = surroundings
        self._channel = channel
        self._debug = debug
        self._output = output
        self._shell = shell
        self._interrupts = interrupts
        send = output.send_after_output
        self.comms = Comms(shell, send, output.send_soon)
        self._subshells: Subshells | None = None
        self._inbox = CommInbox(
            self.comms, shell, send, interrupts, self._get_loop, self._is_interrupted
        )
        self.comms.when_bound = self._inbox.open_if_awaiting
        self._executor = Executor(shell, interrupts, self._get_loop, self._inbox.open)
        self._waiting: deque[Message] = deque()  # read, but not its turn yet
        self._answers: deque[InputResponseMessage] = deque()
        self._checkpoints: Checkpoints | None = None
        self._last_code = ""
        self._interrupted_id = ""
        self._busy_until = 0.0
        self._allow_stdin = False
        self._loop: CellLoop | None = None
        self._gui: GuiLoop | None = None
        self._was_imported_aside = False
        self._has_ended = False
        self._when_idle: list[Callable[[], None]] = [
            self._prepare_history,
            self._load_libc,
            self._open_history,
        ]
        self._fflush: Callable[[None], int] | None = None
        self._warm_namespace: dict[str, Any] = {}
        handlers: dict[type[Message], Callable[[Any], None]] = {
            ExecuteMessage: self._execute,
            CommMessage: self._receive_comm,
            CommInfoMessage: self._answer_comm_info,
            RequestMessage: self._serve_request,
            HeartbeatMessage: self._channel.send,
            ResetMessage: self._reset,
            HandOverMessage: self._take_over,
            CheckpointMessage: lambda message: self.get_checkpoints().take_for(message),
            InterruptMessage: self._note_interrupt,
            InputResponseMessage: self._answers.append,
            ShutdownMessage: self._end,
        }
        handlers.update(dict.fromkeys(requests.HANDLERS, self._answer))
        self._handlers = handlers
        guard_imports(interrupts.guard)
        builtins.input = self._input
        when_imported("getpass", self._replace_getpass)
        when_imported("asyncio", self._make_loop)
        replace_pdb()
        debug.on_subshell = self._on_subshell
        shell.make_kernel = self._make_kernel
        shell.get_checkpoints = self.get_checkpoints
        fit_into_ipykernel(shell)

    # --------------------------------------------------------------- the loop

    def run(self) -> None:
        """Serve until the session says that it is enough, or is gone."""
        try:
            while not self._has_ended:
                try:
                    message = self._next_message()
                except (ChannelClosed, ProtocolError):
                    raise
                except Exception:
                    traceback.print_exc()  # of a signal handler of the user's, between two cells
                    continue
                if message is not None:
                    self._handlers[type(message)](message)
        except ChannelClosed:
            log.debug("the session has gone")
        if self._gui is not None:
            self._gui.end()

    def _next_message(self) -> Message | None:
        if self._waiting:
            return self._waiting.popleft()
        if self._gui is not None and self._gui.is_on:
            while self._when_idle:  # at once: a toolkit's loop ends with the next message only
                self._when_idle.pop(0)()
            self._gui.run()
            return None
        if self._when_idle and self._shell.execution_count > 1:
            if self._loop is None:
                return self._message_or_idle_work()
            self._put_off_idle_work(self._loop)
        if self._loop is None:
            return self._channel.receive()
        self._on_readable()
        if not self._waiting:
            self._loop.run_forever()
        return None

    def _message_or_idle_work(self) -> Message | None:
        message = self._channel.receive_within(_IDLE_PAUSE)
        if message is None:
            self._when_idle.pop(0)()
        return message

    def _put_off_idle_work(self, loop: CellLoop) -> None:
        """Do it when the loop has run for a while: the user's tasks go on meanwhile."""
        work, self._when_idle = self._when_idle, []

        def do_next() -> None:
            if not self._is_awaiting:
                work.pop(0)()
            if work:
                loop.loop.call_later(_IDLE_PAUSE, do_next)

        loop.loop.call_later(_IDLE_PAUSE, do_next)

    def _on_readable(self) -> None:
        """Something has arrived while the asyncio loop runs."""
        try:
            while (message := self._channel.receive_nowait()) is not None:
                if self._is_awaiting and type(message) not in _IN_ORDER:
                    # A cell awaits: the front end need not wait for it.
                    self._handlers[type(message)](message)
                else:
                    self._keep(message)
        except ChannelClosed:
            self._has_ended = True
            self._waiting.append(ShutdownMessage())
        if self._loop is not None and not self._is_awaiting and self._waiting:
            self._loop.stop()

    @property
    def _is_awaiting(self) -> bool:
        """Whether the loop, which runs, does so for the user's code, and not between cells."""
        return self._interrupts.is_listening

    def _make_loop(self, _module: ModuleType) -> None:
        # asyncio has just been imported, most likely by a cell that runs without a loop.
        if threading.current_thread() is threading.main_thread():
            loop = self._get_loop(True)
            if loop is not None and self._interrupts.is_listening:
                loop.show()
        else:
            self._was_imported_aside = True  # the next cell finds the loop

    def _get_loop(self, is_needed: bool) -> CellLoop | None:
        if self._loop is None and (is_needed or self._was_imported_aside):
            # An interrupt in the middle would leave half of it imported, or, where C code meets
            # it, an error of another kind.
            with self._interrupts.guard:
                import asyncio  # noqa: F401  # its import makes the loop, by way of _make_loop

                if self._loop is None:
                    from pyrepl_kernel.worker.loop import CellLoop

                    self._loop = CellLoop()
                    if self._channel.is_attached:
                        self._loop.watch(self._channel.fileno(), self._on_readable)
        return self._loop

    # --------------------------------------------------------------- forking

    def warm_up(self, code: str) -> ResultMessage:
        """Run the warmup where no session asks for it: in a process that is to be forked."""
        self._execute(
            ExecuteMessage(code, silent=True, store_history=False, metadata={WARMUP_MARK: True})
        )
        assert self.warm_up_result is not None
        return self.warm_up_result

    def prepare_fork(self) -> None:
        """Let go of what forks must not share."""
        if self._loop is not None:
            self._loop.close()
            self._loop = None
            self._was_imported_aside = True  # whoever runs the next cell makes it anew

    def get_checkpoints(self) -> Checkpoints:
        """What takes checkpoints of this process; made when it is first asked for."""
        if self._checkpoints is None:
            from pyrepl_kernel.worker.checkpoints import Checkpoints

            self._checkpoints = Checkpoints(self, self._channel, self._output, self._shell)
        return self._checkpoints

    @property
    def last_code(self) -> str:
        """The source of the user's cell that ran last, or runs."""
        return self._last_code

    @property
    def loop_problem(self) -> str:
        """Why a fork could not go on with the event loop; empty where it can."""
        return "" if self._loop is None else self._loop.problem

    @property
    def own_threads(self) -> set[int]:
        """The numbers of threads that are none of the user's."""
        history: LazyHistory = self._shell.history_manager
        return {os.getpid(), self._output.thread, self._debug.thread, *history.threads}

    @property
    def own_descriptors(self) -> set[int]:
        """Descriptors of the event loop's."""
        return set() if self._loop is None else self._loop.descriptors()

    def flush(self) -> None:
        """Send all that was written so far, by Python and by C."""
        self._flush_descriptors()
        self._output.flush()

    def resume(self, sock: socket.socket, debug_sock: socket.socket) -> None:
        """In a restored worker: begin anew with a session that knows nothing of this process.

        Args:
            sock: The protocol's socket.
            debug_sock: The debugger's socket.
        """
        old = self._channel.fileno()
        self._channel.attach(sock)
        start = receive_start(self._channel)
        self._waiting.clear()
        self._answers.clear()
        self._output.attach()
        self._shell.history_manager.renew()
        self.when_idle(self._prepare_history)
        self.when_idle(self._open_history)
        if self._loop is not None:
            self._loop.renew(old)
            self._loop.watch(self._channel.fileno(), self._on_readable)
        introduce(self._shell, start.options)
        self._interrupts.install()
        self._channel.send(
            ReadyMessage(
                start.session_id, {**self.capabilities, "next_count": self._shell.execution_count}
            )
        )
        self._debug.listen(debug_sock, start.max_frame_size)

    @property
    def capabilities(self) -> dict[str, Any]:
        """What the session is told when this worker is ready."""
        warm_up = self.warm_up_result
        return {
            "python": platform.python_version(),
            "implementation": sys.implementation.name,
            "ipython": release.version,
            "pid": os.getpid(),
            "cell_directory": cell_directory(),
            # That the warmup has run, and how it ended; the session need not ask for it.
            "warmup": None if warm_up is None else warm_up.to_map(),
        }

    def ask_for_checkpoints(self) -> list[dict[str, Any]]:
        """In a cell: the checkpoints that the session keeps, the oldest first."""
        question = CheckpointListMessage()
        self._output.send_after_output(question)
        with SignalledWait(self._channel.fileno()) as wait:
            while True:
                message = self._channel.receive_nowait()
                if message is None:
                    wait()
                elif isinstance(message, CheckpointListMessage):
                    if message.request_id == question.id:
                        return message.items
                else:
                    self._keep(message)

    def attach(self) -> None:
        """In a fork: the channel was attached to a socket of this process's own."""
        self._output.attach()

    # --------------------------------------------------------------- handlers

    def _execute(self, message: ExecuteMessage) -> None:
        if message.code.startswith(_TRANSACTION) and self.get_checkpoints().begin_transaction():
            return
        self._inbox.begin_cell(message.id)
        self._allow_stdin = message.allow_stdin
        if message.store_history and not message.silent:
            self._last_code = message.code
        current_execution.begin(message.id, parent_of(message))
        is_warmup = bool(message.metadata.get(WARMUP_MARK))
        self._show_notices(message)
        log_of_imports = self._log_of_imports() if self.learns_imports and not is_warmup else None
        began = time.perf_counter()
        self._debug.begin()
        self._shell.compile.is_warmup = is_warmup
        with self._surroundings.watch_warmup() if is_warmup else nullcontext():
            result = self._executor.run(message, lambda: self._is_interrupted(message.id))
        self._debug.end()
        self._allow_stdin = False
        self._flush_descriptors()
        if is_warmup:
            self._shell.compile.is_warmup = False
            self.warm_up_result = result
            self._remember_warm_namespace()
        if self._checkpoints is None:
            send_result(self._output.send_after_output, result)
        else:
            self._checkpoints.end_cell(
                result,
                time.perf_counter() - began,
                lambda result: send_result(self._output.send_after_output, result),
            )
        if log_of_imports is not None:
            log_of_imports.end()
        if self._shell.exit_now:
            self._shell.exit_now = False

    def _log_of_imports(self) -> ImportLog:
        """The log, at the beginning of a cell."""
        if self._imports is None:
            from pyrepl_kernel.worker.learned import ImportLog

            self._imports = ImportLog(self._output.send_after_output)
        self._imports.begin()
        return self._imports

    def _show_notices(self, message: ExecuteMessage) -> None:
        if self.notices and not message.silent:
            sys.stderr.write("".join(self.notices))
            self.notices.clear()

    def _take_over(self, message: HandOverMessage) -> None:
        try:
            self._surroundings.take_over(message)
        except (OSError, ValueError) as error:
            self.notices.append(f"The session could not be taken over as asked: {error}\n")
        introduce(self._shell, message.options)
        if message.cwd is not None:
            begin_here(self._shell)

    def _receive_comm(self, message: CommMessage) -> None:
        self._debug.begin()
        self._inbox.receive(message)
        self._debug.end()

    def _serve_request(self, message: RequestMessage) -> None:
        from pyrepl_kernel.worker import custom

        self._debug.begin()
        result = custom.serve(
            self._shell, message, self._interrupts, self._get_loop, self._is_interrupted
        )
        self._debug.end()
        self._output.send_after_output(result)

    def _is_interrupted(self, execution_id: str) -> bool:
        """Whether the signal that came before this execution began was meant for it."""
        while (message := self._channel.receive_nowait()) is not None:
            self._keep(message)
        return self._interrupted_id == execution_id

    def _keep(self, message: Message) -> None:
        """Put a message off, but for one that says which cell a signal is meant for."""
        if type(message) is InterruptMessage:
            self._note_interrupt(message)
        else:
            self._waiting.append(message)

    def _note_interrupt(self, message: InterruptMessage) -> None:
        self._interrupted_id = message.execution_id

    def _make_kernel(self) -> Any:
        from pyrepl_kernel.worker.gui import GuiLoop, ShellStream
        from pyrepl_kernel.worker.surface import IPythonKernel

        kernel = IPythonKernel(self._shell, self, self._output.send_after_output)
        self.comms.handlers = kernel.shell_handlers
        stream = ShellStream(self._channel.fileno, self._take_in, lambda: self._loop)
        kernel.shell_stream = stream
        self._gui = GuiLoop(kernel, stream, self._channel.wait, self.notices.append)
        return kernel

    def _take_in(self) -> int:
        """While a toolkit's event loop runs: read what has arrived; how many messages wait."""
        self._on_readable()
        return len(self._waiting)

    @property
    def asyncio_loop(self) -> Any:
        """The main thread's asyncio loop; made if it is not there yet."""
        loop = self._get_loop(True)
        assert loop is not None
        return loop.loop

    @property
    def subshell(self) -> Subshell | None:
        """The subshell whose thread this is; None in the main shell, and in other threads."""
        return self._subshells.of_thread() if self._subshells is not None else None

    @property
    def subshell_ids(self) -> list[str]:
        """The ids of the subshells."""
        return self._subshells.ids if self._subshells is not None else []

    def _on_subshell(self, message: SubshellMessage) -> None:
        """In the thread that hears the debugger's socket: something for a subshell has come."""
        if self._subshells is None:
            from pyrepl_kernel.worker.subshells import Subshells

            self._subshells = Subshells(
                self._shell, self.comms, self._output.send_after_output, self._flush_stdout
            )
        self._subshells.receive(message)

    def poll(self) -> None:
        """Serve the comm messages that have arrived, in the middle of a cell."""
        if (subshell := self.subshell) is not None:
            subshell.poll()
            return
        self._inbox.open()
        try:
            while (message := self._channel.receive_nowait()) is not None:
                self._keep(message)
        except ChannelClosed:
            self._has_ended = True
            return
        for waiting in [m for m in self._waiting if isinstance(m, CommMessage)]:
            self._waiting.remove(waiting)
            self._inbox.receive(waiting)

    def _answer_comm_info(self, message: CommInfoMessage) -> None:
        comms = self.comms.open_comms(message.target_name)
        self._channel.send(CommInfoReplyMessage(message.id, {"status": "ok", "comms": comms}))

    def _answer(self, message: Any) -> None:
        self._output.send_after_output(requests.answer(self._shell, message))

    def _remember_warm_namespace(self) -> None:
        """Take the namespace as it is now for what ``reset`` goes back to."""
        shell = self._shell
        self._warm_namespace = {
            name: value for name, value in shell.user_ns.items() if name not in shell.user_ns_hidden
        }

    def _reset(self, message: ResetMessage) -> None:
        shell, error = self._shell, ""
        try:
            shell.reset()
            shell.user_ns.update(self._warm_namespace)
            introduce(shell, {})
            history = shell.history_manager
            history._i = history._ii = history._iii = history._i00 = ""
        except Exception as problem:
            error = f"{type(problem).__name__}: {problem}"
        self._channel.send(ResetMessage(error, id=message.id))

    def _end(self, message: ShutdownMessage) -> None:
        self._has_ended = True

    # ------------------------------------------------------------------ input

    def _input(self, prompt: object = "") -> str:
        return self._ask(str(prompt), password=False)

    def _getpass(self, prompt: str = "Password: ", stream: Any = None, **options: Any) -> str:
        return self._ask(prompt, password=True)

    def _replace_getpass(self, module: ModuleType) -> None:
        module.getpass = self._getpass  # type: ignore[attr-defined]

    def _ask(self, prompt: str, password: bool) -> str:
        subshell = self.subshell
        if not (self._allow_stdin if subshell is None else subshell.allows_stdin):
            name = "getpass" if password else "raw_input"
            raise StdinNotImplementedError(
                f"{name} was called, but this frontend does not support input requests."
            )
        if subshell is not None:
            return _line(subshell.ask(prompt, password))
        self._answers.clear()
        question = InputMessage(prompt, password, execution_id=current_execution())
        try:
            self._output.send_after_output(question)
            with SignalledWait(self._channel.fileno()) as wait:
                while not self._answers:
                    self._receive_answer(wait)
        except KeyboardInterrupt:
            # Without the frames of the waiting, which are none of the user's.
            raise KeyboardInterrupt("Interrupted by user") from None
        return _line(self._answers.popleft())

    def _receive_answer(self, wait: SignalledWait) -> None:
        message = self._channel.receive_nowait()
        if message is None:
            wait()
        elif type(message) is InputResponseMessage:
            self._answers.append(message)
        else:
            self._keep(message)

    # -------------------------------------------------------------- idle work

    def _prepare_history(self) -> None:
        self._shell.history_manager.prepare()

    def when_idle(self, work: Callable[[], None]) -> None:
        """Do something when no message has come for a moment."""
        if work not in self._when_idle:
            self._when_idle.append(work)

    def handle_next(self, message: Message) -> None:
        """Handle a message between two cells, as if the session had sent it."""
        self._waiting.append(message)
        if self._loop is not None and not self._is_awaiting:
            self._loop.stop()

    def _open_history(self) -> None:
        self._shell.history_manager.open()

    def _load_libc(self) -> None:
        import ctypes

        self._fflush = ctypes.CDLL(None).fflush

    def _flush_stdout(self) -> None:
        """In a subshell: push out what C's stdout holds back.

        Not all of C's streams: one may be locked, by a read of the main thread's that waits.
        """
        if "ctypes" in sys.modules:
            import ctypes

            libc = ctypes.CDLL(None)
            name = "__stdoutp" if sys.platform == "darwin" else "stdout"
            libc.fflush(ctypes.c_void_p.in_dll(libc, name))

    def _flush_descriptors(self) -> None:
        """Push out what C's and the interpreter's own streams hold back."""
        if self._fflush is None and "ctypes" in sys.modules:
            self._load_libc()
        if self._fflush is not None:
            self._fflush(None)
        for stream in (sys.__stdout__, sys.__stderr__):
            if stream is not None:
                stream.flush()


def _line(answer: InputResponseMessage) -> str:
    if answer.eof or answer.value == "\x04":
        raise EOFError
    return answer.value


def receive_start(channel: Channel) -> StartMessage:
    """The session's first message; ends the process when there is none."""
    try:
        start = channel.receive()
    except ChannelClosed:
        os._exit(0)
    if not isinstance(start, StartMessage):
        sys.exit(f"expected a start message, got {start!r}")
    channel.max_frame_size = start.max_frame_size
    return start


def end_process(code: int = 0) -> NoReturn:
    """Run the exit handlers, and end without taking the interpreter apart.

    Taking it apart costs tens of milliseconds, and in a process that was forked from one with
    native libraries at work it can crash.
    """
    import atexit

    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr, sys.__stdout__, sys.__stderr__):
        if stream is not None:
            stream.flush()
    os._exit(code)
