"""What a worker's message is called in Jupyter, and how it looks there."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from pyrepl_kernel.kernel.wire import json_string, object_parts, to_json
from pyrepl_kernel.protocol.messages import (
    Buffer,
    CommMessage,
    DisplayMessage,
    ErrorMessage,
    Message,
    OutputMessage,
    SendMessage,
)

__all__ = ["Output", "as_output"]


class Output(NamedTuple):
    """A message for iopub, its content and metadata as JSON."""

    type: str
    content: bytes
    metadata: bytes = b"{}"
    buffers: Sequence[Buffer] = ()


def _stream(message: OutputMessage) -> Output:
    parts = (
        b'{"name": ',
        json_string(message.stream),
        b', "text": ',
        json_string(message.data),
        b"}",
    )
    return Output("stream", b"".join(parts))


_DISPLAY_TYPES = {"display": "display_data", "update": "update_display_data"}


def _display(message: DisplayMessage) -> Output:
    if message.kind == "clear":
        return Output("clear_output", to_json({"wait": message.wait}))
    parts = [b'{"data": ', *object_parts(message.data)]
    parts += [b', "metadata": ', to_json(message.metadata)]
    if message.kind == "result":
        parts += [b', "execution_count": ', to_json(message.execution_count), b"}"]
        return Output("execute_result", b"".join(parts), buffers=message.buffers)
    parts += [b', "transient": ', to_json(message.transient), b"}"]
    kind = _DISPLAY_TYPES.get(message.kind, "display_data")
    return Output(kind, b"".join(parts), buffers=message.buffers)


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


def _send(message: SendMessage) -> Output:
    return Output(
        message.msg_type, to_json(message.content), to_json(message.metadata), message.buffers
    )


_FORMS: dict[type[Message], Callable[[Any], Output]] = {
    OutputMessage: _stream,
    DisplayMessage: _display,
    ErrorMessage: _error,
    CommMessage: _comm,
    SendMessage: _send,
}


def as_output(message: Message) -> Output | None:
    """The iopub message that stands for a worker's message; None if there is none."""
    form = _FORMS.get(type(message))
    return None if form is None else form(message)
