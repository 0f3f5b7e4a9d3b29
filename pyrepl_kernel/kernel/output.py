"""What a worker's message is called in Jupyter, and how it looks there."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from pyrepl_kernel.kernel.wire import to_json
from pyrepl_kernel.protocol.messages import (
    CommMessage,
    DisplayMessage,
    ErrorMessage,
    Message,
    OutputMessage,
)

__all__ = ["Output", "as_output"]


class Output(NamedTuple):
    """A message for iopub, its content and metadata as JSON."""

    type: str
    content: bytes
    metadata: bytes = b"{}"
    buffers: Sequence[bytes] = ()


def _stream(message: OutputMessage) -> Output:
    return Output("stream", to_json({"name": message.stream, "text": message.data}))


_DISPLAY_TYPES = {"display": "display_data", "update": "update_display_data"}


def _display(message: DisplayMessage) -> Output:
    if message.kind == "clear":
        return Output("clear_output", to_json({"wait": message.wait}))
    content: dict[str, Any] = {"data": message.data, "metadata": message.metadata}
    if message.kind == "result":
        content["execution_count"] = message.execution_count
        return Output("execute_result", to_json(content), buffers=message.buffers)
    content["transient"] = message.transient
    kind = _DISPLAY_TYPES.get(message.kind, "display_data")
    return Output(kind, to_json(content), buffers=message.buffers)


def _error(message: ErrorMessage) -> Output:
    content = {
        "traceback": message.traceback,
        "ename": message.ename,
        "evalue": message.evalue,
    }
    return Output("error", to_json(content))


def _comm(message: CommMessage) -> Output:
    content = {"data": message.data, "comm_id": message.comm_id, **message.content}
    return Output(
        f"comm_{message.kind}", to_json(content), to_json(message.metadata), message.buffers
    )


_FORMS: dict[type[Message], Callable[[Any], Output]] = {
    OutputMessage: _stream,
    DisplayMessage: _display,
    ErrorMessage: _error,
    CommMessage: _comm,
}


def as_output(message: Message) -> Output | None:
    """The iopub message that stands for a worker's message; None if there is none."""
    form = _FORMS.get(type(message))
    return None if form is None else form(message)
