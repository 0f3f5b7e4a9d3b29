"""Answers to what a front end asks between cells: completion, inspection, history."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from IPython.core.completer import provisionalcompleter, rectify_completions
from IPython.utils.tokenutil import token_at_cursor

from pyrepl_kernel.protocol.messages import (
    CompleteMessage,
    CompleteReplyMessage,
    HistoryMessage,
    HistoryReplyMessage,
    InspectMessage,
    InspectReplyMessage,
    IsCompleteMessage,
    IsCompleteReplyMessage,
    Message,
)
from pyrepl_kernel.worker.shell import ZMQInteractiveShell

__all__ = ["HANDLERS", "MESSAGES", "PATIENCE", "STALE", "answer"]

log = logging.getLogger("pyrepl_kernel.worker")

PATIENCE = 0.5
"""Seconds that a front end is made to wait for an answer while a cell runs."""


def complete(shell: ZMQInteractiveShell, message: CompleteMessage) -> CompleteReplyMessage:
    """What could stand at the cursor, with types and signatures."""
    code = message.code
    cursor = len(code) if message.cursor_pos is None else message.cursor_pos
    with provisionalcompleter():
        found = list(rectify_completions(code, shell.Completer.completions(code, cursor)))
    typed = [
        {"start": c.start, "end": c.end, "text": c.text, "type": c.type, "signature": c.signature}
        for c in found
    ]
    content = {
        "matches": [c.text for c in found],
        "cursor_start": found[0].start if found else cursor,
        "cursor_end": found[0].end if found else cursor,
        "metadata": {"_jupyter_types_experimental": typed},
        "status": "ok",
    }
    return CompleteReplyMessage(message.id, content)


def inspect(shell: ZMQInteractiveShell, message: InspectMessage) -> InspectReplyMessage:
    """What the object at the cursor is."""
    cursor = len(message.code) if message.cursor_pos is None else message.cursor_pos
    content: dict[str, Any] = {"status": "ok", "data": {}, "metadata": {}, "found": False}
    try:
        bundle = shell.object_inspect_mime(
            token_at_cursor(message.code, cursor),
            detail_level=message.detail_level,
            omit_sections=message.omit_sections,
        )
    except KeyError:
        return InspectReplyMessage(message.id, content)
    content["data"].update(bundle)
    if not shell.enable_html_pager:
        content["data"].pop("text/html", None)
    content["found"] = True
    return InspectReplyMessage(message.id, content)


def is_complete(shell: ZMQInteractiveShell, message: IsCompleteMessage) -> IsCompleteReplyMessage:
    """Whether the code would run as it stands."""
    status, indent = shell.input_transformer_manager.check_complete(message.code)
    content: dict[str, Any] = {"status": status}
    if status == "incomplete":
        content["indent"] = " " * (indent or 0)
    return IsCompleteReplyMessage(message.id, content)


def history(shell: ZMQInteractiveShell, message: HistoryMessage) -> HistoryReplyMessage:
    """Lines of the history."""
    manager = shell.history_manager
    kind = message.hist_access_type
    lines: Any = []
    if kind == "tail":
        lines = manager.get_tail(
            message.n, raw=message.raw, output=message.output, include_latest=True
        )
    elif kind == "range":
        lines = manager.get_range(
            message.session, message.start, message.stop, raw=message.raw, output=message.output
        )
    elif kind == "search":
        lines = manager.search(
            message.pattern or "*",
            raw=message.raw,
            output=message.output,
            n=message.n,
            unique=message.unique,
        )
    lines = list(lines)
    if kind == "range" and message.session > 0:
        # IPython calls the session that is under way 0, whatever it was asked for.
        lines = [(number or message.session, *rest) for number, *rest in lines]
    return HistoryReplyMessage(message.id, {"status": "ok", "history": lines})


HANDLERS: dict[type[Message], tuple[Callable[..., Message], type[Any]]] = {
    CompleteMessage: (complete, CompleteReplyMessage),
    InspectMessage: (inspect, InspectReplyMessage),
    IsCompleteMessage: (is_complete, IsCompleteReplyMessage),
    HistoryMessage: (history, HistoryReplyMessage),
}
"""Message type → what answers it, and the class of its answer."""


def answer(shell: ZMQInteractiveShell, message: Message) -> Message:
    """The answer to a request; where it fails, one that says why."""
    handler, reply_class = HANDLERS[type(message)]
    try:
        return handler(shell, message)
    except Exception as error:
        log.exception("a %s request failed", message.type)
        content = {
            "status": "error",
            "ename": type(error).__name__,
            "evalue": str(error),
            "traceback": [],
        }
        reply: Message = reply_class(message.id, content)
        return reply


MESSAGES: dict[str, type[Any]] = {f"{message.type.value}_request": message for message in HANDLERS}
"""Jupyter's name of such a request → the message that stands for it."""

STALE = (complete, inspect, is_complete)
"""What nobody wants to know any more once the front end has been told that the worker is busy."""
