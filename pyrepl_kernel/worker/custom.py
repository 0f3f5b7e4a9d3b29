"""Requests of types that the user's code has registered a handler for.

kernel.shell_handlers["my_request"] = f      ──▶ HandlersMessage ──▶ session: "offer me these"
session ──▶ RequestMessage ──▶ f(stream, ident, message) ──▶ kernel.session.send(stream, …)
                                                                        │
client  ◀── my_reply ◀── kernel process ◀── SendMessage ◀───────────────┘
"""

from __future__ import annotations

import inspect
import traceback
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from pyrepl_kernel.protocol.messages import HandlersMessage, RequestMessage, ResultMessage
from pyrepl_kernel.worker.interrupts import Interrupts
from pyrepl_kernel.worker.parent import current_execution

if TYPE_CHECKING:
    from pyrepl_kernel.worker.loop import CellLoop
    from pyrepl_kernel.worker.shell import ZMQInteractiveShell

__all__ = ["Handler", "Handlers", "serve"]

Handler = Callable[..., Any]
"""Gets the stream to reply on, the client's identities, and the message; may be a coroutine."""


class Handlers(dict[str, Handler]):
    """Message type → handler, as libraries change it; the session hears of each change.

    Args:
        channel: ``shell`` or ``control``.
        own: The handlers that the kernel has by itself.
        send: Sends a protocol message.
    """

    def __init__(self, channel: str, own: Mapping[str, Handler], send: Callable[..., None]) -> None:
        super().__init__(own)
        self._channel = channel
        self._own = dict(own)
        self._send = send
        self._announced: list[str] = []

    def _announce(self) -> None:
        types = sorted(kind for kind, handler in self.items() if self._own.get(kind) != handler)
        if types != self._announced:
            self._announced = types
            self._send(HandlersMessage(self._channel, types))

    def __setitem__(self, kind: str, handler: Handler) -> None:
        super().__setitem__(kind, handler)
        self._announce()

    def __delitem__(self, kind: str) -> None:
        super().__delitem__(kind)
        self._announce()

    def update(self, *args: Any, **kwargs: Any) -> None:
        """As of a dict."""
        super().update(*args, **kwargs)
        self._announce()

    def pop(self, *args: Any) -> Any:
        """As of a dict."""
        handler = super().pop(*args)
        self._announce()
        return handler

    def setdefault(self, kind: str, default: Handler | None = None) -> Any:
        """As of a dict."""
        handler = super().setdefault(kind, default)  # type: ignore[arg-type]
        self._announce()
        return handler

    def clear(self) -> None:
        """As of a dict."""
        super().clear()
        self._announce()

    def __ior__(self, other: Any) -> Handlers:  # type: ignore[override,misc]
        self.update(other)
        return self


def serve(
    shell: ZMQInteractiveShell,
    message: RequestMessage,
    interrupts: Interrupts,
    get_loop: Callable[[bool], CellLoop | None],
    is_interrupted: Callable[[str], bool],
) -> ResultMessage:
    """Call the handler of a request, and say how that ended.

    Args:
        shell: IPython.
        message: The request.
        interrupts: Told when user code runs.
        get_loop: Gives the asyncio loop: None where none is needed yet, unless one is asked for.
        is_interrupted: Asked, when a signal came before the handler began, whether it was meant.
    """
    parent = {
        "header": message.parent,
        "parent_header": {},
        "metadata": message.metadata,
        "content": message.content,
        "buffers": [memoryview(buffer) for buffer in message.buffers],
        "msg_id": message.parent.get("msg_id", message.id),
        "msg_type": message.msg_type,
    }
    current_execution.begin(message.id, parent)
    problem: BaseException | None = None
    try:
        try:
            if interrupts.begin() and is_interrupted(message.id):
                raise KeyboardInterrupt
            _call(shell, message, parent, interrupts, get_loop)
        finally:
            interrupts.is_listening = False  # no call, as in the executor
            interrupts.task = None
            interrupts.install()
    except (Exception, KeyboardInterrupt) as error:
        problem = error
        traceback.print_exc()
    return ResultMessage(
        message.id,
        "ok" if problem is None else "error",
        ename=type(problem).__name__ if problem else "",
        evalue=str(problem or ""),
        next_count=shell.execution_count,
    )


def _call(
    shell: ZMQInteractiveShell,
    message: RequestMessage,
    parent: dict[str, Any],
    interrupts: Interrupts,
    get_loop: Callable[[bool], CellLoop | None],
) -> None:
    kernel = shell.kernel
    is_control = message.channel == "control"
    handler = (kernel.control_handlers if is_control else kernel.shell_handlers)[message.msg_type]
    stream = kernel.control_stream if is_control else kernel.shell_stream
    loop = get_loop(False)
    if loop is not None:
        loop.show()
    try:
        result = handler(stream, message.identities, parent)
    finally:
        loop = get_loop(False)  # perhaps it is there only since the handler ran
        if loop is not None:
            loop.hide()
    if not inspect.isawaitable(result):
        return
    loop = get_loop(True)
    assert loop is not None

    async def wait() -> None:
        await result

    def on_task(task: Any) -> None:
        interrupts.task = task

    loop.run(wait(), on_task, interrupts.guard)
