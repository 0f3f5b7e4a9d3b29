"""What the kernel does for each type of message. The tables at the end say which is which."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from pyrepl_kernel.errors import PyreplError, SubshellsOff
from pyrepl_kernel.kernel.cell import CellRun
from pyrepl_kernel.kernel.exchange import Exchange, error_content, outcome_metadata
from pyrepl_kernel.kernel.wire import to_json
from pyrepl_kernel.protocol.messages import (
    CONTROL_SHELL,
    CommInfoMessage,
    CommMessage,
    CompleteMessage,
    ExecuteMessage,
    HistoryMessage,
    InspectMessage,
    IsCompleteMessage,
    Message,
    RequestMessage,
)

if TYPE_CHECKING:
    from pyrepl_kernel.kernel.kernel import Kernel

__all__ = [
    "CONTROL_HANDLERS",
    "SHELL_HANDLERS",
    "Handler",
    "dispatch",
    "fail_unknown_subshell",
]

log = logging.getLogger("pyrepl_kernel.kernel")

PATIENCE = 0.5
"""Seconds that completion and the like wait for a busy worker before the answer is empty."""

_HINDERED = 10
"""Times that, where only a cell of another shell's runs."""

Handler = Callable[["Kernel", Exchange], None]


def dispatch(handlers: Mapping[str, Handler], kernel: Kernel, exchange: Exchange) -> None:
    """Answer a request by the handler that its type has in a table.

    Content that makes no sense, and types that nobody knows, get an error reply and an idle.
    """
    kind = exchange.request.type
    if kind in kernel.session.request_types.get(exchange.channel.name, ()) and kind not in _OURS:
        handler: Handler | None = offer
    else:
        handler = handlers.get(kind)
    if handler is None:
        log.warning("%s: unknown message type %r", exchange.channel.name, kind)
        exchange.fail("UnknownMessageType", f"this kernel does not know {kind!r}")
        return
    try:
        handler(kernel, exchange)
    except KeyError as error:
        exchange.fail("InvalidContent", f"{kind} lacks the field {error}")
    except (TypeError, PyreplError) as error:
        exchange.fail(type(error).__name__, str(error))
    except Exception as error:
        log.exception("%s failed", kind)
        exchange.fail(type(error).__name__, str(error))


def execute(kernel: Kernel, exchange: Exchange) -> None:
    """Run a cell, when those before it have ended."""
    request = exchange.request
    content = request.content
    silent = bool(content.get("silent", False))
    cell_id = request.metadata.get("cellId")
    message = ExecuteMessage(
        content["code"],
        silent=silent,
        store_history=bool(content.get("store_history", not silent)),
        user_expressions=content.get("user_expressions") or {},
        allow_stdin=bool(content.get("allow_stdin", False)),
        cell_id=cell_id if isinstance(cell_id, str) else None,
        metadata=request.metadata,
        parent=request.header,
        id=kernel.execution_id(request.id),
    )
    kernel.submit(CellRun(kernel, exchange, message, bool(content.get("stop_on_error", True))))


def comm(kernel: Kernel, exchange: Exchange) -> None:
    """Pass a comm message on to the worker, to the shell that the client names, if it names one."""
    request = exchange.request
    content = dict(request.content)
    exchange.subshell_id = exchange.subshell_id or kernel.shell_of_comm(str(content["comm_id"]))
    message = CommMessage(
        request.type.removeprefix("comm_"),
        content.pop("comm_id"),
        data=content.pop("data", {}),
        metadata=request.metadata,
        buffers=request.buffers,
        content=content,
        parent=request.header,
        id=kernel.execution_id(request.id),
    )
    kernel.submit(CellRun(kernel, exchange, message))


def offer(kernel: Kernel, exchange: Exchange) -> None:
    """Give a request to the handler that the user's code has registered for its type.

    Those of the control channel have a thread in the worker, and need not wait for a cell.
    """
    request = exchange.request
    if exchange.channel.name == "control":
        kernel.live_session().open_control_shell()
        exchange.subshell_id = CONTROL_SHELL
    message = RequestMessage(
        exchange.channel.name,
        request.type,
        content=request.content,
        metadata=request.metadata,
        buffers=request.buffers,
        identities=request.identities,
        parent=request.header,
        id=kernel.execution_id(request.id),
    )
    kernel.submit(CellRun(kernel, exchange, message))


def _ask(
    kernel: Kernel,
    exchange: Exchange,
    message: Message,
    empty: dict[str, Any] | None = None,
    finish: Callable[[dict[str, Any]], None] | None = None,
) -> None:
    """Ask the worker, and reply with the content of its answer.

    Args:
        kernel: The kernel.
        exchange: The request.
        message: What the worker is asked.
        empty: The reply if a cell keeps the worker busy for too long; None to wait.
        finish: Sends the reply; the exchange's own unless given.
    """
    finish = finish or exchange.finish
    exchange.busy()
    future = kernel.session.request(message, exchange.subshell_id)
    if empty is not None:
        _give_up_when_busy(kernel, future, exchange.subshell_id)

    def answered(answer: asyncio.Future[Any]) -> None:
        if answer.cancelled():
            finish(empty or {"status": "aborted"})
        elif (error := answer.exception()) is not None:
            finish(empty or error_content(type(error).__name__, str(error)))
        else:
            reply = answer.result()
            content = getattr(reply, "content", None) or empty
            finish(content or {"status": "aborted"})

    future.add_done_callback(answered)


def _give_up_when_busy(kernel: Kernel, future: asyncio.Future[Any], subshell_id: str) -> None:
    """Cancel the future if a cell keeps its shell from answering for longer than ``PATIENCE``.

    A shell that is not busy may take its time: the first completion imports jedi. If it is one
    of several, then a cell of another one's slows it down, and stops it while it holds the GIL.
    """
    loop = asyncio.get_running_loop()

    def look(was_busy: bool, times: int) -> None:
        is_busy = kernel.session.is_shell_executing(subshell_id)
        is_hindered = times >= _HINDERED and kernel.session.is_executing
        if (was_busy and is_busy) or is_hindered:
            future.cancel()
        elif not future.done():
            loop.call_later(PATIENCE, look, is_busy, times + 1)

    loop.call_later(PATIENCE, look, kernel.session.is_shell_executing(subshell_id), 1)


def complete(kernel: Kernel, exchange: Exchange) -> None:
    """Complete the code at the cursor."""
    content = exchange.request.content
    code = content["code"]
    message = CompleteMessage(code, content.get("cursor_pos"))
    cursor = len(code) if message.cursor_pos is None else message.cursor_pos
    empty = {
        "matches": [],
        "cursor_start": cursor,
        "cursor_end": cursor,
        "metadata": {},
        "status": "ok",
    }
    _ask(kernel, exchange, message, empty)


def inspect(kernel: Kernel, exchange: Exchange) -> None:
    """Describe the object at the cursor."""
    content = exchange.request.content
    message = InspectMessage(
        content["code"],
        content.get("cursor_pos"),
        content.get("detail_level", 0),
        list(content.get("omit_sections") or []),
    )
    empty = {"status": "ok", "data": {}, "metadata": {}, "found": False}
    _ask(kernel, exchange, message, empty)


def is_complete(kernel: Kernel, exchange: Exchange) -> None:
    """Say whether the code would run as it stands."""
    message = IsCompleteMessage(exchange.request.content["code"])

    def finish(content: dict[str, Any]) -> None:
        # While a cell is at work, an idle that comes late could be taken for that cell's.
        if kernel.session.is_executing or not exchange.request.is_of_jupyter_client:
            exchange.finish(content)
        else:
            kernel.late_idle.finish(exchange, content)

    _ask(kernel, exchange, message, {"status": "unknown"}, finish)


_HISTORY_FIELDS = (
    "hist_access_type",
    "output",
    "raw",
    "session",
    "start",
    "stop",
    "n",
    "pattern",
    "unique",
)


def history(kernel: Kernel, exchange: Exchange) -> None:
    """Give lines of the history."""
    content = exchange.request.content
    # A client says null where it means the default.
    fields = {name: content[name] for name in _HISTORY_FIELDS if content.get(name) is not None}
    fields.setdefault("hist_access_type", content["hist_access_type"])
    _ask(kernel, exchange, HistoryMessage(**fields))


def comm_info(kernel: Kernel, exchange: Exchange) -> None:
    """List the open comms."""
    message = CommInfoMessage(exchange.request.content.get("target_name"))
    _ask(kernel, exchange, message, {"comms": {}, "status": "ok"})


def kernel_info(kernel: Kernel, exchange: Exchange) -> None:
    """Introduce the kernel; the worker is not needed for it."""
    exchange.finish(kernel.info())


def connect(kernel: Kernel, exchange: Exchange) -> None:
    """Tell the ports."""
    exchange.finish({**kernel.connection.ports(), "status": "ok"})


def interrupt(kernel: Kernel, exchange: Exchange) -> None:
    """Interrupt the cell that runs."""
    kernel.interrupt()
    exchange.finish({"status": "ok"})


def shutdown(kernel: Kernel, exchange: Exchange) -> None:
    """End the kernel, or what of it a restart ends."""
    restart = bool(exchange.request.content.get("restart", False))
    content = {"status": "ok", "restart": restart}
    exchange.busy()
    exchange.reply(content)
    exchange.publish("shutdown_reply", to_json(content))
    exchange.done()
    kernel.restarts.on_shutdown_request(restart)


def usage(kernel: Kernel, exchange: Exchange) -> None:
    """Measure what the user's code costs."""
    exchange.finish(kernel.usage.measure(kernel.session.pid))


def debug(kernel: Kernel, exchange: Exchange) -> None:
    """Pass a request on to the debugger."""
    kernel.debugging.answer(exchange)


def _check_subshells(kernel: Kernel) -> None:
    """Fail where subshells are off."""
    if not kernel.options.subshells:
        raise SubshellsOff(
            "this kernel has no subshells; "
            "start it with the argument --subshells (in its kernelspec) to have them"
        )


def create_subshell(kernel: Kernel, exchange: Exchange) -> None:
    """Create a subshell."""
    _check_subshells(kernel)

    async def create() -> dict[str, Any]:
        return {"subshell_id": await kernel.live_session().create_subshell()}

    kernel.answer_later(exchange, create())


def delete_subshell(kernel: Kernel, exchange: Exchange) -> None:
    """Delete a subshell: the cells that wait are aborted, and the one at work is waited for."""
    _check_subshells(kernel)
    subshell_id = exchange.request.content["subshell_id"]
    if subshell_id not in kernel.session.subshells:
        fail_unknown_subshell(kernel, exchange, subshell_id)
        return
    kernel.abort(kernel.waiting_runs(subshell_id))

    async def delete() -> dict[str, Any]:
        await kernel.session.delete_subshell(subshell_id)
        return {}

    kernel.answer_later(exchange, delete())


def list_subshells(kernel: Kernel, exchange: Exchange) -> None:
    """List the subshells."""
    _check_subshells(kernel)
    exchange.finish({"status": "ok", "subshell_id": kernel.session.subshells})


def fail_unknown_subshell(kernel: Kernel, exchange: Exchange, subshell_id: object) -> None:
    """Answer a request for a subshell that is not there."""
    content = error_content("UnknownSubshellError", f"Unknown subshell_id {subshell_id!r}", [])
    exchange.finish(content, outcome_metadata(kernel.identity, "error"))


SHELL_HANDLERS: Mapping[str, Handler] = {
    "execute_request": execute,
    "complete_request": complete,
    "inspect_request": inspect,
    "is_complete_request": is_complete,
    "history_request": history,
    "comm_info_request": comm_info,
    "comm_open": comm,
    "comm_msg": comm,
    "comm_close": comm,
    "kernel_info_request": kernel_info,
    "connect_request": connect,
    "interrupt_request": interrupt,
    "shutdown_request": shutdown,
}

_OURS = frozenset(
    {
        *("execute_request", "comm_open", "comm_msg", "comm_close"),
        *("kernel_info_request", "connect_request", "interrupt_request", "shutdown_request"),
        *("usage_request", "debug_request"),
        *("create_subshell_request", "delete_subshell_request", "list_subshell_request"),
    }
)
"""What no handler of the user's takes the place of; comm messages find theirs in the worker."""

CONTROL_HANDLERS: Mapping[str, Handler] = {
    **SHELL_HANDLERS,
    "usage_request": usage,
    "debug_request": debug,
    "create_subshell_request": create_subshell,
    "delete_subshell_request": delete_subshell,
    "list_subshell_request": list_subshells,
}
"""The control channel takes what shell takes; it is only never waited for."""
