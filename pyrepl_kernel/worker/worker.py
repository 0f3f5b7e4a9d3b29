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
import sys
import threading
import traceback
from collections import deque
from collections.abc import Callable
from types import ModuleType
from typing import TYPE_CHECKING, Any

from IPython.core.error import StdinNotImplementedError

from pyrepl_kernel.errors import ProtocolError
from pyrepl_kernel.protocol.messages import (
    WARMUP_MARK,
    CommInfoMessage,
    CommInfoReplyMessage,
    CommMessage,
    ExecuteMessage,
    HeartbeatMessage,
    InputMessage,
    InputResponseMessage,
    InterruptMessage,
    Message,
    ResetMessage,
    ResultMessage,
    ShutdownMessage,
)
from pyrepl_kernel.worker import requests
from pyrepl_kernel.worker.capture import OutputBuffer
from pyrepl_kernel.worker.channel import Channel, ChannelClosed
from pyrepl_kernel.worker.comms import CommInbox, Comms
from pyrepl_kernel.worker.compat import fit_into_ipykernel
from pyrepl_kernel.worker.debug import DebugPort
from pyrepl_kernel.worker.executor import Executor
from pyrepl_kernel.worker.imports import when_imported
from pyrepl_kernel.worker.interrupts import Interrupts, SignalledWait
from pyrepl_kernel.worker.parent import current_execution
from pyrepl_kernel.worker.pdb_hooks import replace_pdb
from pyrepl_kernel.worker.shell import ZMQInteractiveShell

if TYPE_CHECKING:
    from pyrepl_kernel.worker.loop import CellLoop

__all__ = ["Worker"]

log = logging.getLogger("pyrepl_kernel.worker")

_IDLE_PAUSE = 0.1  # seconds without a message before what can wait is done


class Worker:
    """One worker process's main thread.

    Args:
        channel: The protocol.
        output: Where streams and displays go.
        shell: IPython.
        interrupts: SIGINT's handler.
        debug: Told when the user's code runs.
    """

    def __init__(
        self,
        channel: Channel,
        output: OutputBuffer,
        shell: ZMQInteractiveShell,
        interrupts: Interrupts,
        debug: DebugPort,
    ) -> None:
        self._channel = channel
        self._debug = debug
        self._output = output
        self._shell = shell
        self._interrupts = interrupts
        send = output.send_after_output
        self.comms = Comms(shell, send)
        self._inbox = CommInbox(self.comms, shell, send, interrupts, self._get_loop)
        self._executor = Executor(shell, interrupts, self._get_loop, self._inbox.open)
        self._waiting: deque[Message] = deque()  # read, but not its turn yet
        self._answers: deque[InputResponseMessage] = deque()
        self._interrupted_id = ""
        self._busy_until = 0.0
        self._allow_stdin = False
        self._loop: CellLoop | None = None
        self._has_ended = False
        self._when_idle: list[Callable[[], None]] = [self._open_history, self._load_libc]
        self._fflush: Callable[[None], int] | None = None
        self._warm_namespace: dict[str, Any] = {}
        handlers: dict[type[Message], Callable[[Any], None]] = {
            ExecuteMessage: self._execute,
            CommMessage: self._receive_comm,
            CommInfoMessage: self._answer_comm_info,
            HeartbeatMessage: self._channel.send,
            ResetMessage: self._reset,
            InterruptMessage: self._note_interrupt,
            InputResponseMessage: self._answers.append,
            ShutdownMessage: self._end,
        }
        handlers.update(dict.fromkeys(requests.HANDLERS, self._answer))
        self._handlers = handlers
        builtins.input = self._input
        when_imported("getpass", self._replace_getpass)
        when_imported("asyncio", self._make_loop)
        replace_pdb()
        shell.make_kernel = self._make_kernel
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

    def _next_message(self) -> Message | None:
        if self._waiting:
            return self._waiting.popleft()
        if self._when_idle and self._shell.execution_count > 1:
            return self._message_or_idle_work()
        if self._loop is None:
            return self._channel.receive()
        self._on_readable()
        if not self._waiting:
            self._loop.run_forever()
        return None

    def _message_or_idle_work(self) -> Message | None:
        message = self._channel.receive_nowait()
        if message is None and not self._channel.wait(_IDLE_PAUSE):
            self._when_idle.pop(0)()
        return message

    def _on_readable(self) -> None:
        """Something has arrived while the asyncio loop runs."""
        try:
            while (message := self._channel.receive_nowait()) is not None:
                if self._is_awaiting and type(message) is not ExecuteMessage:
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

    def _get_loop(self, is_needed: bool) -> CellLoop | None:
        if self._loop is None and is_needed:
            import asyncio  # noqa: F401  # its import makes the loop, by way of _make_loop

        if self._loop is None and is_needed:
            from pyrepl_kernel.worker.loop import CellLoop

            self._loop = CellLoop(self._channel.fileno(), self._on_readable)
        return self._loop

    # --------------------------------------------------------------- handlers

    def _execute(self, message: ExecuteMessage) -> None:
        self._inbox.begin_cell(message.id)
        self._allow_stdin = message.allow_stdin
        parent = {
            "header": message.parent or {"msg_id": message.id, "msg_type": "execute_request"},
            "parent_header": {},
            "metadata": message.metadata,
            "content": {"code": message.code, "silent": message.silent},
            "msg_id": message.parent.get("msg_id", message.id),
            "msg_type": "execute_request",
            "buffers": [],
        }
        current_execution.begin(message.id, parent)
        self._debug.begin()
        result = self._executor.run(message, lambda: self._is_interrupted(message.id))
        self._debug.end()
        self._allow_stdin = False
        self._flush_descriptors()
        if message.metadata.get(WARMUP_MARK):
            self._remember_warm_namespace()
        self._send_result(result)
        if self._shell.exit_now:
            self._shell.exit_now = False

    def _receive_comm(self, message: CommMessage) -> None:
        self._debug.begin()
        self._inbox.receive(message)
        self._debug.end()

    def _send_result(self, result: ResultMessage) -> None:
        try:
            self._output.send_after_output(result)
        except Exception as error:
            # User expressions or payloads of the user's own making that no message can carry.
            self._output.send_after_output(
                ResultMessage(
                    result.execution_id,
                    "error",
                    execution_count=result.execution_count,
                    ename=type(error).__name__,
                    evalue=f"the cell's reply cannot be sent: {error}",
                    next_count=result.next_count,
                )
            )

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
        from pyrepl_kernel.worker.surface import IPythonKernel

        kernel = IPythonKernel(self._shell, self, self._output.send_after_output)
        self.comms.handlers = kernel.shell_handlers
        return kernel

    @property
    def asyncio_loop(self) -> Any:
        """The main thread's asyncio loop; made if it is not there yet."""
        loop = self._get_loop(True)
        assert loop is not None
        return loop.loop

    def poll(self) -> None:
        """Serve the comm messages that have arrived, in the middle of a cell."""
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
        handler, reply_class = requests.HANDLERS[type(message)]
        try:
            self._output.send_after_output(handler(self._shell, message))
        except Exception as error:
            log.exception("a %s request failed", message.type)
            content = {
                "status": "error",
                "ename": type(error).__name__,
                "evalue": str(error),
                "traceback": [],
            }
            self._output.send_after_output(reply_class(message.id, content))

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
        if not self._allow_stdin:
            name = "getpass" if password else "raw_input"
            raise StdinNotImplementedError(
                f"{name} was called, but this frontend does not support input requests."
            )
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
        answer = self._answers.popleft()
        if answer.eof or answer.value == "\x04":
            raise EOFError
        return answer.value

    def _receive_answer(self, wait: SignalledWait) -> None:
        message = self._channel.receive_nowait()
        if message is None:
            wait()
        elif type(message) is InputResponseMessage:
            self._answers.append(message)
        else:
            self._keep(message)

    # -------------------------------------------------------------- idle work

    def _open_history(self) -> None:
        self._shell.history_manager.open()

    def _load_libc(self) -> None:
        import ctypes

        self._fflush = ctypes.CDLL(None).fflush

    def _flush_descriptors(self) -> None:
        """Push out what C's and the interpreter's own streams hold back."""
        if self._fflush is None and "ctypes" in sys.modules:
            self._load_libc()
        if self._fflush is not None:
            self._fflush(None)
        for stream in (sys.__stdout__, sys.__stderr__):
            if stream is not None:
                stream.flush()


def end_process(code: int = 0) -> None:
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
