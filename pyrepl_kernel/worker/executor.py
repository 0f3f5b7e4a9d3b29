"""Runs one cell in IPython, and says what came of it."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from IPython.core.async_helpers import _asyncio_runner

from pyrepl_kernel.protocol.messages import ExecuteMessage, ResultMessage
from pyrepl_kernel.worker.interrupts import Interrupts
from pyrepl_kernel.worker.shell import ZMQInteractiveShell, of_thread, text_of

if TYPE_CHECKING:
    from pyrepl_kernel.worker.loop import CellLoop

__all__ = ["Executor", "parent_of", "send_result"]


class Executor:
    """Runs cells.

    Args:
        shell: IPython.
        interrupts: Told when user code runs.
        get_loop: Gives the asyncio loop: None where none is needed yet, unless one is asked for.
        on_await: Called when a cell is about to run that may await.
    """

    def __init__(
        self,
        shell: ZMQInteractiveShell,
        interrupts: Interrupts,
        get_loop: Callable[[bool], CellLoop | None],
        on_await: Callable[[], None],
    ) -> None:
        self._shell = shell
        self._interrupts = interrupts
        self._get_loop = get_loop
        self._on_await = on_await

    def run(self, message: ExecuteMessage, is_interrupted: Callable[[], bool]) -> ResultMessage:
        """Run a cell to its end.

        Args:
            message: The cell.
            is_interrupted: Asked, when a signal came before the cell began, whether it was meant.
        """
        shell = self._shell
        interrupts = self._interrupts
        count = shell.execution_count
        try:
            try:
                if interrupts.begin() and is_interrupted():
                    raise interrupts.make_exception()
                outcome = self._run_cell(message)
                return self._result(message, outcome)
            finally:
                # No call: in one, the next signal could raise before anything has changed.
                interrupts.is_listening = False
                interrupts.task = None
                interrupts.install()
        except (KeyboardInterrupt, Exception) as error:
            # It came when IPython was not in charge: before the cell, or after it.
            problem = _interrupt_behind(error) or self._interrupt_before(error) or error
            shell.showtraceback((type(problem), problem, None), tb_offset=0)
            return self._failure(message, problem, count)

    def _interrupt_before(self, error: BaseException) -> KeyboardInterrupt | None:
        """The interrupt that left IPython without a result to return; None for other errors.

        A second one, while IPython says what the first has ended, is swallowed there, and the next
        statement fails.
        """
        return self._interrupts.raised if type(error) is UnboundLocalError else None

    def _real_error(self, error: BaseException | None) -> BaseException | None:
        """The error that a cell ended with: where a limit has cancelled it, that limit."""
        reason = self._interrupts.cancelled_by
        is_limit = reason is not None and type(reason) is not KeyboardInterrupt
        return reason if is_limit and type(error).__name__ == "CancelledError" else error

    def _run_cell(self, message: ExecuteMessage) -> Any:
        shell = self._shell
        code = message.code
        of_thread.keeps_source = message.capture_source
        of_thread.before_code = self._interrupts.begin_code
        of_thread.real_error = self._real_error
        arguments: dict[str, Any] = {
            "store_history": message.store_history and message.capture_source,
            "silent": message.silent,
            "cell_id": message.cell_id,
            **_metadata_argument(message),
        }
        if "await" in code or "async" in code:
            self._on_await()
            transformed, problem = self._transform(code)
            if self._is_async(code, transformed, problem):
                return self._run_async(code, transformed, problem, arguments)
        loop = self._get_loop(False)
        if loop is None:
            return shell.run_cell(code, **arguments)
        loop.show()
        try:
            return shell.run_cell(code, **arguments)
        finally:
            loop = self._get_loop(True)
            assert loop is not None
            loop.hide()

    def _transform(self, code: str) -> tuple[str, Any]:
        try:
            return self._shell.transform_cell(code), None
        except Exception:
            return code, sys.exc_info()

    def _is_async(self, code: str, transformed: str, problem: Any) -> bool:
        shell = self._shell
        # Trio and curio cells are run by IPython's own runners.
        return shell.loop_runner is _asyncio_runner and shell.should_run_async(
            code, transformed_cell=transformed, preprocessing_exc_tuple=problem
        )

    def _run_async(
        self, code: str, transformed: str, problem: Any, arguments: dict[str, Any]
    ) -> Any:
        shell = self._shell
        of_thread.last_traceback = None
        of_thread.failed_display = False
        loop = self._get_loop(True)
        assert loop is not None
        coroutine = shell.run_cell_async(
            code, transformed_cell=transformed, preprocessing_exc_tuple=problem, **arguments
        )

        def on_task(task: Any) -> None:
            self._interrupts.task = task

        outcome = None
        try:
            outcome = loop.run(coroutine, on_task, self._interrupts.guard)
        finally:
            self._interrupts.task = None
            shell.events.trigger("post_execute")
            if not arguments["silent"]:
                shell.events.trigger("post_run_cell", outcome)
        return outcome

    def _result(self, message: ExecuteMessage, outcome: Any) -> ResultMessage:
        shell = self._shell
        error = of_thread.real_error(outcome.error_before_exec or outcome.error_in_exec)
        count = shell.execution_count - 1
        if outcome.info.store_history and outcome.execution_count and not message.silent:
            count = outcome.execution_count  # a subshell may have counted on meanwhile
        if not outcome.success or of_thread.failed_display:
            return self._failure(message, error, count)
        expressions = message.user_expressions
        return ResultMessage(
            message.id,
            "ok",
            execution_count=count,
            user_expressions=shell.user_expressions(expressions) if expressions else {},
            payload=self._take_payload(),
            next_count=shell.execution_count,
        )

    def _failure(
        self, message: ExecuteMessage, error: BaseException | None, count: int
    ) -> ResultMessage:
        shell = self._shell
        return ResultMessage(
            message.id,
            "error",
            execution_count=count,
            payload=self._take_payload(),
            ename=type(error).__name__,
            evalue=text_of(error),
            traceback=list(of_thread.last_traceback or []),
            next_count=shell.execution_count,
        )

    def _take_payload(self) -> list[Any]:
        manager = self._shell.payload_manager
        payload: list[Any] = manager.read_payload()
        if payload:
            manager.clear_payload()
        return payload


def parent_of(message: ExecuteMessage) -> dict[str, Any]:
    """The execute_request that stands behind a cell."""
    return {
        "header": message.parent or {"msg_id": message.id, "msg_type": "execute_request"},
        "parent_header": {},
        "metadata": message.metadata,
        "content": {"code": message.code, "silent": message.silent},
        "msg_id": message.parent.get("msg_id", message.id),
        "msg_type": "execute_request",
        "buffers": [],
    }


def send_result(send: Callable[..., None], result: ResultMessage) -> None:
    """Send a cell's result, or say why it cannot be sent."""
    try:
        send(result)
    except Exception as error:
        # User expressions or payloads of the user's own making that no message can carry.
        send(
            ResultMessage(
                result.execution_id,
                "error",
                execution_count=result.execution_count,
                ename=type(error).__name__,
                evalue=f"the cell's reply cannot be sent: {error}",
                next_count=result.next_count,
            )
        )


def _interrupt_behind(error: BaseException) -> KeyboardInterrupt | None:
    """The interrupt that an error goes back to: IPython stumbles over one that comes while it
    deals with another."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, KeyboardInterrupt):
        cause = cause.__context__
    return cause


_TAKES_METADATA = "cell_meta" in inspect.signature(ZMQInteractiveShell.run_cell_async).parameters
"""Whether this IPython passes a cell's metadata on to its events."""


def _metadata_argument(message: ExecuteMessage) -> dict[str, Any]:
    return {"cell_meta": message.metadata} if _TAKES_METADATA else {}
