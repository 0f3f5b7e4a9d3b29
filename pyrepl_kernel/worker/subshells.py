"""Subshells (JEP 91): threads that run cells beside the main shell, in the same namespace.

    debugger's socket ──▶ Subshells.receive ──▶ Subshell.post ──▶ its thread ──▶ Executor ─▶ IPython
                                                                      │
    protocol's socket ◀── Channel ◀── OutputBuffer ◀──────────────────┘

A subshell's messages are heard while the main thread runs a cell; what comes of them goes out with
all other output, in order. Imported when the first subshell is created: until then there is no
thread of theirs, and no asyncio.

No signal reaches a subshell. An interrupt ends the main shell's cell.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import threading
import traceback
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from queue import SimpleQueue
from typing import Any

from IPython.core.error import UsageError

from pyrepl_kernel.protocol.messages import (
    CONTROL_SHELL,
    CommInfoMessage,
    CommInfoReplyMessage,
    CommMessage,
    ExecuteMessage,
    InputMessage,
    InputResponseMessage,
    Message,
    RequestMessage,
    ResultMessage,
    SubshellMessage,
    SubshellReplyMessage,
    message_from_map,
)
from pyrepl_kernel.worker import custom, requests
from pyrepl_kernel.worker.comms import CommInbox, Comms
from pyrepl_kernel.worker.dap import hide_thread
from pyrepl_kernel.worker.executor import Executor, parent_of, send_result
from pyrepl_kernel.worker.interrupts import Interrupts
from pyrepl_kernel.worker.loop import CellLoop
from pyrepl_kernel.worker.parent import current_execution, let_threads_inherit
from pyrepl_kernel.worker.shell import ZMQInteractiveShell

__all__ = ["Subshell", "Subshells"]

log = logging.getLogger("pyrepl_kernel.worker")

_DEFAULT_SWITCH = 0.005
"""Seconds after which Python lets another thread run, unless the user has set it."""

Send = Callable[..., None]


class Subshells:
    """All subshells of a worker.

    Args:
        shell: IPython, which all of them share.
        comms: The comms, likewise.
        send: Sends a message, after the text written before it.
        flush: Pushes out what C's stdout holds back.
    """

    def __init__(
        self,
        shell: ZMQInteractiveShell,
        comms: Comms,
        send: Send,
        flush: Callable[[], None],
    ) -> None:
        self._shell = shell
        self._comms = comms
        self._send = send
        self._flush = flush
        self._by_id: dict[str, Subshell] = {}
        let_threads_inherit()
        # IPython counts how many cells are at work to put back what builtins and displayhook were
        # when the last has ended, and two threads can miscount. From here on one is at work.
        shell.builtin_trap.__enter__()
        shell.display_trap.__enter__()
        if sys.getswitchinterval() == _DEFAULT_SWITCH:
            # Beside a Python loop, whoever gives up the GIL (to read a file, say) waits for so
            # long to get it back. A first completion, which imports jedi, does that 500 times.
            sys.setswitchinterval(_DEFAULT_SWITCH / 10)
        # First, since the main shell's transformer takes that line away.
        shell.input_transformers_cleanup.insert(0, self._refuse_transaction)

    def _refuse_transaction(self, lines: list[str]) -> list[str]:
        """IPython's input transformer: ``%%transaction`` is for the main shell.

        Raises:
            UsageError: The cell is a subshell's.
        """
        if lines and lines[0].strip() == "%%transaction" and self.of_thread() is not None:
            raise UsageError(
                "%%transaction has to be in the main shell: to go back would undo the other "
                "shells' cells too. Nothing of this cell has run"
            )
        return lines

    @property
    def ids(self) -> list[str]:
        """The ids of the subshells."""
        return [subshell_id for subshell_id in list(self._by_id) if subshell_id != CONTROL_SHELL]

    def of_thread(self) -> Subshell | None:
        """The subshell whose thread this is."""
        ident = threading.get_ident()
        subshells = list(self._by_id.values())
        return next((subshell for subshell in subshells if subshell.thread.ident == ident), None)

    def receive(self, message: SubshellMessage) -> None:
        """Something for a subshell has come; called in the thread that listens."""
        if message.action == "create":
            self._create(message)
        elif (subshell := self._by_id.get(message.subshell_id)) is None:
            log.warning("a message for the subshell %r, which is gone", message.subshell_id)
        elif message.action == "delete":
            subshell.end(message)
        else:
            subshell.post(message_from_map(message.message))

    def _create(self, message: SubshellMessage) -> None:
        error = ""
        try:
            subshell = Subshell(
                message.subshell_id, self._shell, self._comms, self._send, self._flush, self._forget
            )
            self._by_id[subshell.id] = subshell
            subshell.thread.start()
        except RuntimeError as problem:  # there are too many threads
            self._by_id.pop(message.subshell_id, None)
            error = str(problem)
        self._send(SubshellReplyMessage(message.id, error))

    def _forget(self, subshell: Subshell) -> None:
        self._by_id.pop(subshell.id, None)


class _NoInterrupts(Interrupts):
    """Knows what is at work in a thread that no signal reaches."""

    def install(self) -> None:
        """Leave SIGINT to the main thread."""


class Subshell:
    """One subshell and its thread.

    Args:
        subshell_id: Its id.
        shell: IPython.
        comms: The comms.
        send: Sends a message, after the text written before it.
        flush: Pushes out what C's stdout holds back.
        on_end: Called, in its thread, when it has ended.

    Attributes:
        id: Its id.
        thread: Its thread.
        allows_stdin: Whether the cell at work may ask the front end.
    """

    def __init__(
        self,
        subshell_id: str,
        shell: ZMQInteractiveShell,
        comms: Comms,
        send: Send,
        flush: Callable[[], None],
        on_end: Callable[[Subshell], None],
    ) -> None:
        self.id = subshell_id
        self.thread = threading.Thread(
            target=self._run, name=f"subshell-{subshell_id}", daemon=True
        )
        hide_thread(self.thread)
        self.allows_stdin = False
        self._shell = shell
        self._comms = comms
        self._send = send
        self._flush = flush
        self._on_end = on_end
        self._interrupts = _NoInterrupts()
        self._inbox = CommInbox(
            comms, shell, send, self._interrupts, self._get_loop, lambda execution_id: False
        )
        self._executor = Executor(shell, self._interrupts, self._get_loop, self._inbox.open)
        self._arrived: deque[Message] = deque()  # by the thread that listens
        self._waiting: deque[Message] = deque()  # taken from there, but not its turn yet
        self._answers: SimpleQueue[InputResponseMessage] = SimpleQueue()
        self._loop: CellLoop | None = None
        self._is_up = threading.Event()
        self._ending: SubshellMessage | None = None
        self._handlers: dict[type[Message], Callable[[Any], None]] = {
            ExecuteMessage: self._execute,
            CommMessage: self._inbox.receive,
            CommInfoMessage: self._answer_comm_info,
            RequestMessage: self._serve_request,
            **dict.fromkeys(requests.HANDLERS, self._answer),
        }

    # -------------------------------------------- in the thread that listens

    def post(self, message: Message) -> None:
        """A message has come for it."""
        if isinstance(message, InputResponseMessage):
            self._answers.put(message)
            return
        self._arrived.append(message)
        self._wake()

    def end(self, message: SubshellMessage) -> None:
        """End when the cell at work has ended; one that awaits is cancelled."""
        self._ending = message
        self._wake()

    def _wake(self) -> None:
        self._is_up.wait()
        assert self._loop is not None
        with suppress(RuntimeError):  # it has ended in this moment, and its loop is closed
            self._loop.loop.call_soon_threadsafe(self._on_arrival)

    # ---------------------------------------------------------- in its thread

    def _run(self) -> None:
        current_execution.begin_subshell()
        loop = self._loop = CellLoop()
        self._is_up.set()
        while True:
            self._take_arrived()
            if self._waiting:
                self._handle(self._waiting.popleft())
            elif self._ending is not None:
                break
            else:
                loop.run_forever()
        self._on_end(self)
        loop.close()
        self._send(SubshellReplyMessage(self._ending.id))

    def _get_loop(self, is_needed: bool) -> CellLoop | None:
        return self._loop

    def _take_arrived(self) -> None:
        while self._arrived:
            self._waiting.append(self._arrived.popleft())

    def _on_arrival(self) -> None:
        """Something has arrived while the loop runs: between cells, or for a cell that awaits."""
        assert self._loop is not None
        task = self._interrupts.task
        if not self._interrupts.is_listening:
            self._loop.stop()
        elif task is not None and self._ending is not None:
            task.cancel()
        elif task is not None:
            self._take_arrived()
            in_order = (ExecuteMessage, RequestMessage)
            for message in [m for m in self._waiting if not isinstance(m, in_order)]:
                self._waiting.remove(message)
                self._handle(message)

    def _handle(self, message: Message) -> None:
        try:
            self._handlers[type(message)](message)
        except BaseException as error:
            # SystemExit, say, in a comm's handler: it ends no more than what raised it.
            traceback.print_exc()
            if isinstance(message, (ExecuteMessage, CommMessage, RequestMessage)):
                self._send(
                    ResultMessage(
                        message.id,
                        "error",
                        ename=type(error).__name__,
                        evalue=str(error),
                        next_count=self._shell.execution_count,
                    )
                )
            if isinstance(error, asyncio.CancelledError):
                raise

    def _execute(self, message: ExecuteMessage) -> None:
        self._inbox.begin_cell(message.id)
        self.allows_stdin = message.allow_stdin
        current_execution.begin(message.id, parent_of(message))
        result = self._executor.run(message, lambda: False)
        self.allows_stdin = False
        self._flush()
        send_result(self._send, result)

    def _serve_request(self, message: RequestMessage) -> None:
        self._send(
            custom.serve(self._shell, message, self._interrupts, self._get_loop, lambda _: False)
        )

    def _answer(self, message: Message) -> None:
        self._send(requests.answer(self._shell, message))

    def _answer_comm_info(self, message: CommInfoMessage) -> None:
        comms = self._comms.open_comms(message.target_name)
        self._send(CommInfoReplyMessage(message.id, {"status": "ok", "comms": comms}))

    def poll(self) -> None:
        """Serve the comm messages that have arrived, in the middle of a cell."""
        self._inbox.open()
        self._take_arrived()
        for message in [m for m in self._waiting if isinstance(m, CommMessage)]:
            self._waiting.remove(message)
            self._inbox.receive(message)

    def ask(self, prompt: str, password: bool) -> InputResponseMessage:
        """Ask the front end for a line; the answer."""
        while not self._answers.empty():  # of a question that is no longer asked
            self._answers.get()
        self._send(InputMessage(prompt, password, execution_id=current_execution()))
        return self._answers.get()
