"""Requests to the debugger, and answers to those that need no debugpy."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pyrepl_kernel.protocol.messages import DebugMessage, DebugReplyMessage
from pyrepl_kernel.worker.shell import ZMQInteractiveShell

__all__ = [
    "GROUP_LABELS",
    "Call",
    "Response",
    "dump_cell",
    "give_source",
    "is_boot",
    "list_modules",
    "rich_body",
]

Response = dict[str, Any]

GROUP_LABELS = ("special variables", "function variables", "class variables", "protected variables")
"""What debugpy calls groups of variables, which are listed among these."""


class Call:
    """A request of the front end's, which is answered once.

    Args:
        message: The request.
        send: Sends the reply.
    """

    def __init__(self, message: DebugMessage, send: Callable[[DebugReplyMessage], None]) -> None:
        self.request = message.request
        self.command = str(message.request.get("command", ""))
        arguments = message.request.get("arguments")
        self.arguments: dict[str, Any] = arguments if isinstance(arguments, dict) else {}
        self._id = message.id
        self._send = send

    def answer(self, response: Response) -> None:
        """Pass on a response of debugpy's, as the one to this request."""
        own = {"request_seq": self.request.get("seq", 0), "command": self.command}
        self._send(DebugReplyMessage(self._id, {**response, "type": "response", **own}))

    def succeed(self, body: dict[str, Any] | None = None) -> None:
        """Answer that it was done."""
        self.answer({"success": True, "body": body or {}})

    def fail(self, message: str, body: dict[str, Any] | None = None) -> None:
        """Answer that it was not."""
        self.answer({"success": False, "message": message, "body": body or {}})


def dump_cell(shell: ZMQInteractiveShell, call: Call) -> None:
    """Write a cell's source to where its code says that it comes from."""
    code = call.arguments["code"]
    path = Path(shell.compile.get_code_name(code, code, 0))
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    path.write_text(code, encoding="utf-8", newline="")
    call.succeed({"sourcePath": str(path)})


def give_source(call: Call) -> None:
    """Give the text of a file."""
    path = Path(call.arguments["source"]["path"])
    try:
        call.succeed({"content": path.read_text(encoding="utf-8")})
    except (OSError, ValueError):
        call.fail("source unavailable")


def list_modules(call: Call) -> None:
    """List the modules that have a source file, numbered among all that are loaded."""
    modules = list(sys.modules.copy().values())
    start = int(call.arguments.get("startModule") or 0)
    count = int(call.arguments.get("moduleCount") or len(modules))
    found = []
    for number, module in enumerate(modules[start : start + count], start):
        path = getattr(getattr(module, "__spec__", None), "origin", None)
        if isinstance(path, str) and path.endswith(".py"):
            found.append({"id": number, "name": module.__name__, "path": path})
    call.succeed({"modules": found, "totalModules": len(modules)})


def is_boot(frame: dict[str, Any]) -> bool:
    """Whether an outermost frame is the command line that started the worker."""
    return frame.get("name") == "<module>" and frame.get("source", {}).get("path") == "<string>"


def rich_body(data: dict[str, Any], metadata: dict[str, Any]) -> dict[str, Any]:
    """The body of a rich variable, with metadata for what there is only."""
    return {"data": data, "metadata": {k: v for k, v in metadata.items() if k in data}}
