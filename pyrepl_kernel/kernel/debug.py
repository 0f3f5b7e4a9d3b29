"""The kernel's side of debugging: what it knows of the debugger without asking the worker.

    debug_request ──▶ answer() ──┬── debugInfo ─────────▶ from what is remembered here
                                 └── all else ──▶ Session.debug ──▶ the worker's debugger
    debug_event  ◀── on_event() ◀───────────────────────────────────────────┘

So a front end hears at once whether somebody debugs and what is stopped, whatever the worker is
at. All that is sent is numbered here, in the order of sending.
"""

from __future__ import annotations

import asyncio
import os
from functools import cache, partial
from importlib.machinery import PathFinder
from itertools import count
from typing import TYPE_CHECKING, Any

from pyrepl_kernel.kernel.exchange import Exchange
from pyrepl_kernel.kernel.wire import to_json
from pyrepl_kernel.protocol.messages import DebugEventMessage, DebugReplyMessage

if TYPE_CHECKING:
    from pyrepl_kernel.kernel.kernel import Kernel

__all__ = ["Debugging", "has_debugger"]

_HASH_SEED = 0xC70F6907  # of the hash in cells' file names; the worker's compiler has the same
_WITHOUT_START = frozenset(
    {"initialize", "inspectVariables", "richInspectVariables", "modules", "variables"}
)
_ENDING = frozenset({"disconnect", "terminate"})
_KEPT_OF_BREAKPOINT = ("condition", "hitCondition", "logMessage")


@cache
def has_debugger() -> bool:
    """Whether debugpy is installed; it is not imported for that."""
    return PathFinder.find_spec("debugpy") is not None


class Debugging:
    """Answers debug_requests, and publishes events.

    Args:
        kernel: The kernel.
    """

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._numbers = count(1)
        self._parent = b"{}"
        self._forget()

    def _forget(self) -> None:
        self.is_started = False
        self.breakpoints: dict[str, list[dict[str, Any]]] = {}
        self.stopped_threads: set[int] = set()

    def end(self) -> None:
        """The worker that was debugged is gone."""
        if self.is_started:
            self._forget()
            self._publish({"type": "event", "event": "terminated", "body": {}})

    # --------------------------------------------------------------- requests

    def answer(self, exchange: Exchange) -> None:
        """Answer a debug_request.

        Raises:
            KeyError: It lacks a command.
        """
        request = exchange.request.content
        command = request["command"]
        self._parent = exchange.request.raw_header
        exchange.busy()
        if not has_debugger():
            self._refuse(exchange, "debugpy is not installed; install it to debug")
        elif command == "debugInfo":
            self._reply(exchange, {"success": True, "body": self._info()})
        elif self.is_started or command in _WITHOUT_START:
            session = self._kernel.live_session()
            future = session.debug(request)
            future.add_done_callback(partial(self._answered, exchange))
        elif command in _ENDING:
            self._reply(exchange, {"success": True, "body": {}})
        else:
            self._refuse(exchange, "the debugger is not started; send initialize first")

    def _answered(self, exchange: Exchange, answer: asyncio.Future[DebugReplyMessage]) -> None:
        if (error := answer.exception()) is not None:
            self._refuse(exchange, str(error))
            return
        response = answer.result().response
        if response.get("success"):
            self._note(exchange.request.content, response)
        self._reply(exchange, response)

    def _note(self, request: dict[str, Any], response: dict[str, Any]) -> None:
        """Remember what a request has changed."""
        command = request["command"]
        if command == "initialize":
            self.is_started = True
        elif command in _ENDING:
            self._forget()
        elif command == "setBreakpoints":
            arguments = request.get("arguments") or {}
            path = (arguments.get("source") or {}).get("path")
            set_now = (response.get("body") or {}).get("breakpoints") or []
            if isinstance(path, str):
                asked = arguments.get("breakpoints") or []
                # debugpy may have found another line than the one that was asked for.
                self.breakpoints[path] = [
                    {"line": now.get("line")}
                    | {key: was[key] for key in _KEPT_OF_BREAKPOINT if key in was}
                    for was, now in zip(asked, set_now, strict=False)
                ]

    def _info(self) -> dict[str, Any]:
        return {
            "isStarted": self.is_started,
            "hashMethod": "Murmur2",
            "hashSeed": _HASH_SEED,
            "tmpFilePrefix": f"{self._cell_directory()}{os.sep}",
            "tmpFileSuffix": ".py",
            "breakpoints": [
                {"source": path, "breakpoints": found} for path, found in self.breakpoints.items()
            ],
            "stoppedThreads": sorted(self.stopped_threads),
            "richRendering": True,
            "exceptionPaths": ["Python Exceptions"],
            "copyToGlobals": True,
        }

    def _cell_directory(self) -> str:
        session = self._kernel.live_session()
        if directory := session.capabilities.get("cell_directory"):
            return str(directory)
        import tempfile

        return os.path.join(tempfile.gettempdir(), f"ipykernel_{session.pid}")

    def _refuse(self, exchange: Exchange, message: str) -> None:
        self._reply(exchange, {"success": False, "message": message, "body": {}})

    def _reply(self, exchange: Exchange, response: dict[str, Any]) -> None:
        request = exchange.request.content
        exchange.finish(
            {
                **response,
                "seq": next(self._numbers),
                "type": "response",
                "request_seq": request.get("seq", 0),
                "command": request["command"],
            }
        )

    # ----------------------------------------------------------------- events

    def on_event(self, message: DebugEventMessage) -> None:
        """The worker's debugger has something to tell."""
        event = message.event
        kind, body = event.get("event"), event.get("body") or {}
        if kind == "stopped":
            self.stopped_threads.update(message.threads)
        elif kind == "continued" and body.get("allThreadsContinued", True):
            self.stopped_threads.clear()
        elif kind == "continued":
            self.stopped_threads.discard(body.get("threadId"))
        elif kind == "terminated":
            self._forget()
        self._publish(event)

    def _publish(self, event: dict[str, Any]) -> None:
        event = {**event, "seq": next(self._numbers)}
        self._kernel.publish("debug_event", to_json(event), self._parent)
