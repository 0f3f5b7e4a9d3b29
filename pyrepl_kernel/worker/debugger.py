"""The debugger: requests of the Debug Adapter Protocol, answered beside the running cell.

    session ◀──▶ Channel (descriptor 5) ◀──▶ Debugger ◀──▶ DapConnection ◀──▶ debugpy's threads
                                                │                                  │
                               dumpCell, source, inspectVariables, …        the main thread,
                                     answered here                    traced, or stopped in a cell

All of it runs on one thread, which waits for both sides at once. A response of debugpy's may take
its time (an ``evaluate`` runs code in the stopped cell); the next request need not wait for it.
"""

from __future__ import annotations

import ast
import logging
import os
import select
import sys
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

import IPython
import traitlets
from IPython.core.inputtransformer2 import leading_empty_lines

import pyrepl_kernel
from pyrepl_kernel.errors import FrameTooLarge
from pyrepl_kernel.protocol.messages import (
    DebugEventMessage,
    DebugMessage,
    DebugReplyMessage,
    Message,
)
from pyrepl_kernel.worker.capture import OutputBuffer
from pyrepl_kernel.worker.channel import Channel, ChannelClosed
from pyrepl_kernel.worker.dap import (
    DapConnection,
    DapError,
    hide_thread,
    let_current_thread_be_traced,
    untrace_current_thread,
)
from pyrepl_kernel.worker.debug import MODULES_AT_START
from pyrepl_kernel.worker.debug_requests import (
    GROUP_LABELS,
    Call,
    Response,
    dump_cell,
    give_source,
    is_boot,
    list_modules,
    rich_body,
)
from pyrepl_kernel.worker.explorer import VariableExplorer, is_shown
from pyrepl_kernel.worker.interrupts import Interrupts
from pyrepl_kernel.worker.shell import ZMQInteractiveShell

__all__ = ["Debugger"]

log = logging.getLogger("pyrepl_kernel.worker")

_HISTORY_THREAD = "IPythonHistorySavingThread"
_TRACE_LOST = "Debugging will be disabled for this thread"
_NEEDS_STOP = frozenset(
    "completions copyToGlobals evaluate exceptionInfo richInspectVariables scopes setExpression"
    " setVariable variables".split()
)
_FILTERS = {
    "raised": "Stop whenever an exception is raised.",
    "uncaught": "Stop at an exception that ends the program.",
    "userUnhandled": "Stop at an exception that a cell does not handle.",
}

Then = Callable[[Response], None]


def _internal_paths() -> tuple[str, ...]:
    """Beginnings of the paths of files that are the kernel's, seen from a cell."""
    packages = [Path(str(module.__file__)).parent for module in (pyrepl_kernel, IPython, traitlets)]
    packages.append(Path(os.__file__).parent / "asyncio")
    return tuple(f"{package}{os.sep}" for package in packages)


def _module_paths() -> list[str]:
    """Files of the modules that the worker itself needs."""
    modules = [sys.modules[name] for name in MODULES_AT_START if name in sys.modules]
    paths = [getattr(module, "__file__", None) for module in modules]
    return [path for path in paths if isinstance(path, str) and path.endswith(".py")]


class Debugger:
    """Answers the front end's requests.

    Args:
        channel: The debugger's socket.
        output: What is unsent of it goes before the news of a stop.
        shell: Its cells are what is debugged.
        interrupts: Has to end a cell that stands at a breakpoint.
        pass_on: Gets the messages that are not for the debugger.
    """

    def __init__(
        self,
        channel: Channel,
        output: OutputBuffer,
        shell: ZMQInteractiveShell,
        interrupts: Interrupts,
        pass_on: Callable[[Message], None],
    ) -> None:
        self._channel = channel
        self._output = output
        self._shell = shell
        self._interrupts = interrupts
        self._pass_on = pass_on
        self._connection: DapConnection | None = None
        self._pending: dict[int, tuple[Call | None, Then]] = {}
        self._explorer: VariableExplorer | None = None
        self._is_stopped = False
        self._untold: dict[str, Any] | None = None  # a stop whose threads debugpy was asked for
        self._removed_at: int | None = None  # where leading_empty_lines was among the transforms
        self._handlers: dict[str, Callable[[Call], None]] = {
            "initialize": self._initialize,
            "attach": self._attach,
            "continue": self._continue,
            "configurationDone": Call.succeed,
            "stackTrace": self._trace_stack,
            "dumpCell": partial(dump_cell, shell),
            "source": give_source,
            "modules": list_modules,
            "inspectVariables": self._inspect_variables,
            "variables": self._list_variables,
            "richInspectVariables": self._inspect_richly,
            "copyToGlobals": self._copy_to_globals,
            "disconnect": self._disconnect,
            "terminate": self._disconnect,
        }
        os.register_at_fork(after_in_child=self._after_fork)

    def _after_fork(self) -> None:
        # Nobody would let a child run on that stops at a breakpoint.
        if self._connection is not None:
            self._connection.forsake()
            self._connection = None

    # ----------------------------------------------------------------- serving

    def serve(self, request: DebugMessage) -> None:
        """Answer a first request, and others until the session is gone."""
        try:
            self._handle(Call(request, self._send))
            self._receive_requests()  # what has been read with it does not show on the socket
            while True:
                for descriptor in self._wait():
                    if descriptor == self._channel.fileno():
                        self._receive_requests()
                    elif self._connection is not None:
                        self._receive_from(self._connection)
        except ChannelClosed:
            log.debug("the session has gone")

    def _wait(self) -> list[int]:
        poll = select.poll()
        poll.register(self._channel.fileno(), select.POLLIN)
        if self._connection is not None:
            poll.register(self._connection.fileno(), select.POLLIN)
        return [descriptor for descriptor, _ in poll.poll()]

    def _receive_requests(self) -> None:
        while (message := self._channel.receive_nowait()) is not None:
            if isinstance(message, DebugMessage):
                self._handle(Call(message, self._send))
            else:
                self._pass_on(message)

    def _handle(self, call: Call) -> None:
        try:
            self._handlers.get(call.command, self._forward)(call)
        except KeyError as error:
            call.fail(f"{call.command} lacks or does not know {error}")
        except DapError as error:
            call.fail(str(error))
        except Exception as error:
            log.exception("%s failed", call.command)
            call.fail(f"{type(error).__name__}: {error}")

    def _send(self, message: DebugReplyMessage | DebugEventMessage) -> None:
        try:
            self._channel.send(message)
        except (FrameTooLarge, TypeError) as error:
            if isinstance(message, DebugReplyMessage):
                response = {**message.response, "success": False, "message": str(error), "body": {}}
                self._channel.send(DebugReplyMessage(message.request_id, response))

    def _receive_from(self, connection: DapConnection) -> None:
        try:
            messages = connection.receive()
        except DapError as error:
            self._detach(str(error))
            self._send(DebugEventMessage({"type": "event", "event": "terminated", "body": {}}))
            return
        for message in messages:
            message.pop("pydevd_cmd_id", None)
            if message.get("type") == "event":
                self._handle_event(message)
            else:
                _, then = self._pending.pop(message.get("request_seq", 0), (None, _ignore))
                then(message)

    # ------------------------------------------------------------------ events

    def _handle_event(self, event: dict[str, Any]) -> None:
        kind = event.get("event")
        body = event.get("body") or {}
        if kind == "output" and _TRACE_LOST in str(body.get("output")):
            return  # the next cell is traced again
        if kind == "stopped":
            self._is_stopped = True
            self._output.flush()  # what was printed before it stopped
            self._untold = event
            self._request("threads", {}, lambda answer: self._tell_stopped(event, answer))
            return
        if kind == "continued" and self._untold is not None:
            # Told in the wrong order, it would be stopped for good.
            self._tell_stopped(self._untold, {})
        self._send(DebugEventMessage(event))
        if kind == "continued":
            self._is_stopped = False
            self._end_what_needed_a_stop()

    def _end_what_needed_a_stop(self) -> None:
        """Answer what debugpy leaves open when the thread that should do it has run on."""
        for seq, (call, _) in list(self._pending.items()):
            if call is not None and call.command == "continue":
                call.succeed({"allThreadsContinued": True})
            elif call is not None and call.command in _NEEDS_STOP:
                call.fail("the thread has run on")
            else:
                continue
            self._pending[seq] = (None, _ignore)

    def _tell_stopped(self, event: dict[str, Any], answer: Response) -> None:
        if self._untold is not event:
            return  # it was told when the thread ran on
        self._untold = None
        body = event.get("body", {})
        threads = [body.get("threadId", 1)]
        if body.get("allThreadsStopped") and answer:
            threads = [thread["id"] for thread in answer.get("body", {}).get("threads", [])]
        self._send(DebugEventMessage(event, threads))

    # ---------------------------------------------------------- to debugpy and back

    def _request(
        self, command: str, arguments: dict[str, Any], then: Then, call: Call | None = None
    ) -> None:
        """Ask debugpy; ``then`` gets its response."""
        if self._connection is None:
            raise DapError("the debugger is not attached; send initialize first")
        request = {"type": "request", "command": command, "arguments": arguments}
        try:
            self._pending[self._connection.send(request)] = (call, then)
        except OSError as error:
            raise DapError(f"debugpy has ended: {error}") from error

    def _forward(self, call: Call) -> None:
        if self._connection is not None and not self._connection.knows(call.command):
            call.fail(f"debugpy does not know {call.command!r}")
            return
        self._request(call.command, call.arguments, call.answer, call)

    # ----------------------------------------------------- beginning and ending

    def _initialize(self, call: Call) -> None:
        if self._connection is not None:
            call.fail("the debugger is initialized already")
            return
        _hide_history_thread()
        self._connection = DapConnection()
        self._keep_leading_lines()
        self._interrupts.release = self._release

        def initialized(response: Response) -> None:
            body = response.get("body") or {}
            for entry in body.get("exceptionBreakpointFilters", []):
                entry.setdefault("description", _FILTERS.get(entry.get("filter"), ""))
            call.answer(response)

        self._request(call.command, call.arguments, initialized, call)

    def _attach(self, call: Call) -> None:
        arguments = {**call.arguments}
        # The user's code may be anywhere; what is the kernel's is known by its path. The rules say
        # which code an exception leaves that the cell does not handle.
        arguments["justMyCode"] = False
        paths = [*_internal_paths(), *_module_paths()]
        arguments["rules"] = [{"path": path, "include": False} for path in paths]

        def attached(response: Response) -> None:
            if response.get("success"):
                self._request("configurationDone", {}, lambda _: call.answer(response), call)
            else:
                call.answer(response)

        self._request("attach", arguments, attached, call)

    def _disconnect(self, call: Call) -> None:
        if self._connection is None:
            call.succeed()
            return

        def disconnected(response: Response) -> None:
            self._detach("the debugger was disconnected")
            call.answer(response)

        # The cell that is debugged runs on, whatever the front end would like to end.
        self._request("disconnect", {"terminateDebuggee": False}, disconnected, call)

    def _detach(self, reason: str) -> None:
        connection, self._connection = self._connection, None
        pending, self._pending = self._pending, {}
        self._is_stopped = False
        self._untold = None
        self._interrupts.release = None
        self._restore_leading_lines()
        if connection is not None:
            connection.close()
        for call, _ in pending.values():
            if call is not None:
                call.fail(reason)

    def _keep_leading_lines(self) -> None:
        """Let a cell's first lines be empty, or the numbers of its lines are not those seen."""
        transforms = self._shell.input_transformer_manager.cleanup_transforms
        if leading_empty_lines in transforms:
            self._removed_at = transforms.index(leading_empty_lines)
            transforms.remove(leading_empty_lines)

    def _restore_leading_lines(self) -> None:
        if self._removed_at is not None:
            transforms = self._shell.input_transformer_manager.cleanup_transforms
            transforms.insert(self._removed_at, leading_empty_lines)
            self._removed_at = None

    # ------------------------------------------------------- on the main thread

    def trace(self, is_users: bool) -> None:
        """Trace the main thread while it runs the user's code, and only then.

        Whoever steps out of a cell's end would stop in the kernel's own work otherwise.
        """
        connection = self._connection
        if connection is None:
            if not is_users:
                untrace_current_thread()  # what ended while the code ran
            elif "pydevd" in sys.modules:
                let_current_thread_be_traced()
        elif is_users:
            _hide_history_thread()  # it may have begun since
            connection.trace_current_thread()
        else:
            connection.end_steps()
            untrace_current_thread()

    def _release(self, frame: FrameType | None) -> bool:
        """Called for an interrupt: whether the main thread stood at a breakpoint. It runs on."""
        while frame is not None:
            if frame.f_code.co_name == "_do_wait_suspend":
                if self._connection is not None:
                    self._connection.resume_all()
                return True
            frame = frame.f_back
        return False

    # -------------------------------------------------- answered here, or in part

    def _continue(self, call: Call) -> None:
        if self._is_stopped:
            self._forward(call)
        else:
            call.succeed({"allThreadsContinued": True})  # debugpy would say nothing

    def _trace_stack(self, call: Call) -> None:
        def answered(response: Response) -> None:
            body = response.get("body") or {}
            frames = body.get("stackFrames")
            total = body.get("totalFrames", 0)
            first = call.arguments.get("startFrame") or 0
            if frames and first + len(frames) == total and is_boot(frames[-1]):
                frames.pop()
                body["totalFrames"] = total - 1
            call.answer(response)

        self._request(call.command, call.arguments, answered, call)

    def _inspect_variables(self, call: Call) -> None:
        self._explorer = VariableExplorer(self._shell.user_ns)
        call.succeed({"variables": self._explorer.children()})

    def _list_variables(self, call: Call) -> None:
        reference = call.arguments["variablesReference"]
        if not self._is_stopped:
            if self._explorer is None:
                self._explorer = VariableExplorer(self._shell.user_ns)
            call.succeed({"variables": self._explorer.children(reference)})
            return

        def answered(response: Response) -> None:
            body = response.get("body") or {}
            if "variables" in body:
                body["variables"] = [v for v in body["variables"] if is_shown(v["name"])]
            call.answer(response)

        self._request(call.command, call.arguments, answered, call)

    def _inspect_richly(self, call: Call) -> None:
        name = call.arguments["variableName"]
        if not name.isidentifier():
            # Front ends ask for the headings of groups too.
            call.answer({"success": name in GROUP_LABELS, "body": rich_body({}, {})})
        elif self._is_stopped:
            self._inspect_richly_in_frame(call, name)
        else:
            result = self._shell.user_expressions({name: name})[name]
            call.succeed(rich_body(result.get("data", {}), result.get("metadata", {})))

    def _inspect_richly_in_frame(self, call: Call, name: str) -> None:
        def answered(response: Response) -> None:
            data: Any = {}
            metadata: Any = {}
            if response.get("success"):
                try:
                    data, metadata = ast.literal_eval(response["body"]["result"])
                except (ValueError, SyntaxError, TypeError):
                    call.fail(f"{name} cannot be shown", rich_body({}, {}))
                    return
            call.succeed(rich_body(data, metadata))

        arguments = {
            "expression": f"get_ipython().display_formatter.format({name})",
            "context": "clipboard",  # whole, not shortened
        }
        if "frameId" in call.arguments:
            arguments["frameId"] = call.arguments["frameId"]
        self._request("evaluate", arguments, answered, call)

    def _copy_to_globals(self, call: Call) -> None:
        source, target = call.arguments["srcVariableName"], call.arguments["dstVariableName"]
        if not (source.isidentifier() and target.isidentifier()):
            call.fail("dstVariableName and srcVariableName must be valid identifiers")
            return
        arguments = {
            "expression": f"globals()[{target!r}]",
            "value": source,
            "frameId": call.arguments["srcFrameId"],
        }
        self._request("setExpression", arguments, call.answer, call)


def _hide_history_thread() -> None:
    for thread in threading.enumerate():
        if thread.name == _HISTORY_THREAD:
            hide_thread(thread)


def _ignore(_response: Response) -> None:
    """Nobody waits for it."""
