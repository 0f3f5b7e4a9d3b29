"""Jupyter's output messages, as libraries build them, in the terms of our protocol."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

from pyrepl_kernel.protocol.messages import (
    CommMessage,
    DisplayMessage,
    ErrorMessage,
    Message,
    OutputMessage,
    SendMessage,
)
from pyrepl_kernel.worker.comms import as_buffers
from pyrepl_kernel.worker.parent import current_execution

__all__ = ["as_protocol", "new_header"]

_Content = Mapping[str, Any]


def new_header(msg_id: str, msg_type: str, username: str, session: str) -> dict[str, Any]:
    """A Jupyter header, dated now."""
    return {
        "msg_id": msg_id,
        "msg_type": msg_type,
        "username": username,
        "session": session,
        "date": datetime.now(UTC),
        "version": "5.5",
    }


def _stream(content: _Content, cause: str) -> Message:
    return OutputMessage(str(content["text"]), str(content.get("name", "stdout")), cause)


def _display(kind: str) -> Callable[[_Content, str], Message]:
    def convert(content: _Content, cause: str) -> Message:
        return DisplayMessage(
            kind,
            dict(content.get("data") or {}),
            dict(content.get("metadata") or {}),
            dict(content.get("transient") or {}),
            wait=bool(content.get("wait", False)),
            execution_count=content.get("execution_count"),
            execution_id=cause,
        )

    return convert


def _error(content: _Content, cause: str) -> Message:
    traceback = [str(line) for line in content.get("traceback", ())]
    return ErrorMessage(str(content["ename"]), str(content["evalue"]), traceback, cause)


_FORMS: dict[str, Callable[[_Content, str], Message]] = {
    "stream": _stream,
    "display_data": _display("display"),
    "update_display_data": _display("update"),
    "execute_result": _display("result"),
    "clear_output": _display("clear"),
    "error": _error,
}


def as_protocol(
    message: Mapping[str, Any], buffers: Any = None, channel: str = "iopub", ident: Any = None
) -> Message:
    """The protocol message for a Jupyter message.

    Args:
        message: The message, as ``Session.msg`` makes it.
        buffers: Raw bytes beside its content.
        channel: Where it is to go.
        ident: To whom, as zmq's routing prefix: bytes, or a list of them.

    Raises:
        KeyError: The content lacks something that its type needs.
    """
    kind, content = message["msg_type"], message["content"]
    parent = message.get("parent_header")
    cause = current_execution.name_of(parent) if parent else current_execution()
    form = _FORMS.get(kind)
    if channel == "iopub" and form is not None:
        return form(content, cause)
    if channel == "iopub" and kind.startswith("comm_"):
        rest = dict(content)
        return CommMessage(
            kind.removeprefix("comm_"),
            rest.pop("comm_id"),
            data=rest.pop("data", None) or {},
            metadata=dict(message.get("metadata") or {}),
            buffers=as_buffers(buffers),
            content=rest,
            execution_id=cause,
        )
    return SendMessage(
        channel,
        kind,
        dict(content),
        dict(message.get("metadata") or {}),
        as_buffers(buffers),
        [ident] if isinstance(ident, bytes) else [bytes(part) for part in ident or ()],
        cause,
    )
