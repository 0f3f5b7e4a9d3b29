"""One execute_request (or comm message) at work, from its turn to its idle."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pyrepl_kernel.errors import SessionClosed, WorkerDied
from pyrepl_kernel.kernel.exchange import Exchange, error_content, outcome_metadata
from pyrepl_kernel.kernel.output import as_output
from pyrepl_kernel.kernel.wire import json_string, now
from pyrepl_kernel.protocol.messages import (
    CommMessage,
    ErrorMessage,
    ExecuteMessage,
    InputMessage,
    Message,
    RequestMessage,
    ResultMessage,
    SendMessage,
)

if TYPE_CHECKING:
    from pyrepl_kernel.kernel.kernel import Kernel
    from pyrepl_kernel.session.execution import Execution

__all__ = ["CellRun"]

_STATUSES = frozenset(("ok", "error", "aborted"))


class CellRun:
    """Turns what a session says of an execution into what Jupyter expects.

    Args:
        kernel: The kernel.
        exchange: The request.
        message: What the worker is to execute.
        stop_on_error: Whether an error aborts the cells that wait behind.
    """

    def __init__(
        self,
        kernel: Kernel,
        exchange: Exchange,
        message: ExecuteMessage | CommMessage | RequestMessage,
        stop_on_error: bool = True,
    ) -> None:
        self.exchange = exchange
        self.message = message
        self.execution: Execution | None = None
        self.count = 0
        """The number that it has as a cell, once it has begun."""
        self._kernel = kernel
        self._stop_on_error = stop_on_error
        self._started = ""

    @property
    def has_begun(self) -> bool:
        """Whether the worker has got it."""
        return bool(self._started)

    @property
    def subshell_id(self) -> str:
        """The subshell that runs it; empty for the main shell."""
        return self.exchange.subshell_id

    @property
    def is_cell(self) -> bool:
        """Whether it is a cell, not a comm message."""
        return isinstance(self.message, ExecuteMessage)

    def begin(self) -> None:
        """Its turn has come."""
        self._started = now()
        self.count = self._kernel.next_count
        self._kernel.remember_parent(self.message.id, self.exchange.request.raw_header)
        if isinstance(self.message, ExecuteMessage):
            self._kernel.crashes.note_cell(self.exchange, self.message)
        if isinstance(self.message, CommMessage) and self.message.kind != "msg":
            self._kernel.note_comm(self.message, self.subshell_id)
        if not isinstance(self.message, ExecuteMessage) or self.message.silent:
            self.exchange.busy()
            return
        code = json_string(self.message.code)
        content = b'{"code": %b, "execution_count": %d}' % (code, self.count)
        if self._counts:
            self._kernel.next_count += 1  # for who begins beside this one
        self.exchange.begin("execute_input", content)
        self._kernel.show_notice(self.exchange)

    def deliver(self, message: Message) -> None:
        """The worker said something."""
        if isinstance(message, InputMessage):
            self._kernel.ask_input(self.exchange, message)
            return
        if isinstance(message, SendMessage):
            self._kernel.send(message, self.exchange)
            return
        if isinstance(message, CommMessage):
            self._kernel.note_comm(message, self.subshell_id)
        output = as_output(message)
        if output is not None:
            self.exchange.publish(*output)

    def end(self, result: ResultMessage | Exception) -> None:
        """It is over."""
        self._kernel.forget_run(self)
        if isinstance(result, Exception):
            self._end_without_result(result)
        elif self.is_cell:
            self._end_with(result)
        elif isinstance(self.message, RequestMessage):
            self._end_request(result)
        else:
            self.exchange.done()

    def _end_request(self, result: ResultMessage) -> None:
        """A handler of the user's has ended; a client that waits gets a reply, whatever it did."""
        if result.status == "ok":
            ename, kind = "NoReply", self.exchange.request.type
            evalue = f"the handler of {kind!r} has sent no reply; let it send one"
        else:
            ename, evalue = result.ename, result.evalue
        self.exchange.fail(ename, evalue)

    def _end_with(self, result: ResultMessage) -> None:
        kernel = self._kernel
        kernel.note_count(result.next_count)
        stops = result.status == "error" and self._stop_on_error and not self._is_silent
        waiting = kernel.waiting_runs(self.subshell_id) if stops else []
        status = result.status if result.status in _STATUSES else "error"
        self.exchange.finish(_reply_content(result, kernel.identity), self.metadata(status))
        for payload in result.payload:
            if payload.get("source") == "ask_exit" and not payload.get("keepkernel"):
                kernel.stop_soon()
        kernel.abort(waiting)

    @property
    def _counts(self) -> bool:
        """Whether IPython will count it."""
        message = self.message
        return (
            isinstance(message, ExecuteMessage)
            and message.store_history
            and not message.silent
            and bool(message.code)
            and not message.code.isspace()
        )

    @property
    def _is_silent(self) -> bool:
        return isinstance(self.message, ExecuteMessage) and self.message.silent

    def _end_without_result(self, error: Exception) -> None:
        """The worker died under it, could not be started, or was shut down."""
        if isinstance(error, SessionClosed) and self.is_cell and not self.has_begun:
            self._finish_aborted()  # a restart, or the kernel ends
            return
        if isinstance(error, WorkerDied) and self.is_cell:
            if not self._kernel.crashes.is_reported(error):
                self._kernel.crashes.end_cell(self, error)
                return
            if not self.has_begun:
                self._finish_aborted()  # it was a cell before this one that the worker died of
                return
            # It ran beside that cell, in another shell.
        ename = type(error).__name__
        evalue = str(error)
        if self.is_cell:
            self.exchange.busy()
            output = as_output(ErrorMessage(ename, evalue, [f"{ename}: {evalue}"]))
            assert output is not None
            self.exchange.publish(*output)
        content = error_content(ename, evalue)
        content["execution_count"] = self.count or self._kernel.next_count
        content |= {"user_expressions": {}, "payload": []}
        self.exchange.finish(content, self.metadata("error"))

    def abort(self) -> None:
        """A cell before it failed, and this one is not to run."""
        self._kernel.forget_run(self)
        self._finish_aborted()

    def _finish_aborted(self) -> None:
        self._started = now()
        self.exchange.finish({"status": "aborted"}, self.metadata("aborted"))

    def metadata(self, status: str) -> bytes:
        """The metadata of its reply, as JSON."""
        return outcome_metadata(self._kernel.identity, status, self._started)


def _reply_content(result: ResultMessage, identity: str) -> dict[str, Any] | bytes:
    if result.status == "ok" and not result.user_expressions and not result.payload:
        # What most cells have to say, without a detour over a dict.
        return (
            b'{"status": "ok", "execution_count": %d, "user_expressions": {}, "payload": []}'
            % result.execution_count
        )
    content: dict[str, Any] = {"status": result.status}
    if result.status == "error":
        content |= {
            "traceback": result.traceback,
            "ename": result.ename,
            "evalue": result.evalue,
            "engine_info": {"engine_uuid": identity, "engine_id": -1, "method": "execute"},
        }
    content |= {
        "execution_count": result.execution_count,
        "user_expressions": result.user_expressions,
        "payload": result.payload,
    }
    return content
