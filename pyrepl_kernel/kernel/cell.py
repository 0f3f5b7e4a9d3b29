"""One execute_request (or comm message) at work, from its turn to its idle."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from pyrepl_kernel.errors import WorkerDied
from pyrepl_kernel.kernel.exchange import Exchange, error_content
from pyrepl_kernel.kernel.output import as_output
from pyrepl_kernel.kernel.wire import to_json
from pyrepl_kernel.protocol.messages import (
    CommMessage,
    ErrorMessage,
    ExecuteMessage,
    InputMessage,
    Message,
    ResultMessage,
)

if TYPE_CHECKING:
    from pyrepl_kernel.kernel.kernel import Kernel
    from pyrepl_kernel.session.execution import Execution

__all__ = ["CellRun"]


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
        message: ExecuteMessage | CommMessage,
        stop_on_error: bool = True,
    ) -> None:
        self.exchange = exchange
        self.message = message
        self.execution: Execution | None = None
        self._kernel = kernel
        self._stop_on_error = stop_on_error
        self._started = ""

    @property
    def has_begun(self) -> bool:
        """Whether the worker has got it."""
        return bool(self._started)

    @property
    def is_cell(self) -> bool:
        """Whether it is a cell, not a comm message."""
        return isinstance(self.message, ExecuteMessage)

    def begin(self) -> None:
        """Its turn has come."""
        self._started = _now()
        self._kernel.remember_parent(self.message.id, self.exchange.request.raw_header)
        self.exchange.busy()
        if isinstance(self.message, CommMessage):
            self._kernel.note_comm(self.message)
        if isinstance(self.message, ExecuteMessage) and not self.message.silent:
            content = {"code": self.message.code, "execution_count": self._kernel.next_count}
            self.exchange.publish("execute_input", to_json(content))
            self._kernel.show_notice(self.exchange)

    def deliver(self, message: Message) -> None:
        """The worker said something."""
        if isinstance(message, InputMessage):
            self._kernel.ask_input(self.exchange, message)
            return
        if isinstance(message, CommMessage):
            self._kernel.note_comm(message)
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
        else:
            self.exchange.done()

    def _end_with(self, result: ResultMessage) -> None:
        kernel = self._kernel
        kernel.next_count = result.next_count
        stops = result.status == "error" and self._stop_on_error and not self._is_silent
        waiting = kernel.waiting_runs() if stops else []
        self.exchange.finish(_reply_content(result, kernel.identity), self._metadata(result.status))
        for payload in result.payload:
            if payload.get("source") == "ask_exit" and not payload.get("keepkernel"):
                kernel.stop_soon()
        kernel.abort(waiting)

    @property
    def _is_silent(self) -> bool:
        return isinstance(self.message, ExecuteMessage) and self.message.silent

    def _end_without_result(self, error: Exception) -> None:
        """The worker died under it, could not be started, or was shut down."""
        if self.is_cell and not self.has_begun and isinstance(error, WorkerDied):
            self._finish_aborted()  # it was a cell before this one that the worker died of
            return
        ename = type(error).__name__
        evalue = str(error)
        if self.is_cell:
            self.exchange.busy()
            output = as_output(ErrorMessage(ename, evalue, [f"{ename}: {evalue}"]))
            assert output is not None
            self.exchange.publish(*output)
        content = error_content(ename, evalue)
        content["execution_count"] = self._kernel.next_count
        content |= {"user_expressions": {}, "payload": []}
        if isinstance(error, WorkerDied) and self.is_cell:
            self._kernel.after_crash(self.message)
        self.exchange.finish(content, self._metadata("error"))

    def abort(self) -> None:
        """A cell before it failed, and this one is not to run."""
        self._kernel.forget_run(self)
        self._finish_aborted()

    def _finish_aborted(self) -> None:
        self._started = _now()
        self.exchange.finish({"status": "aborted"}, self._metadata("aborted"))

    def _metadata(self, status: str) -> dict[str, Any]:
        return {
            "started": self._started or _now(),
            "dependencies_met": True,
            "engine": self._kernel.identity,
            "status": status,
        }


def _now() -> str:
    return datetime.now(UTC).isoformat().replace("+00:00", "Z")


def _reply_content(result: ResultMessage, identity: str) -> dict[str, Any]:
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
