"""The connection with debugpy, which lives in this process and speaks DAP over a socket.

debugpy runs without its adapter, a process that would only pass messages on: its threads here
are given one connection, and one connection is one debugging session. When it is closed, the
threads end and nothing is traced any more.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import threading
from collections.abc import Iterator
from typing import Any

__all__ = [
    "DapConnection",
    "DapDecoder",
    "DapError",
    "hide_thread",
    "let_current_thread_be_traced",
    "load_debugpy",
    "untrace_current_thread",
]

_CHUNK = 64 * 1024
_TIMEOUT = 10.0  # seconds that debugpy, in this very process, has to connect and to answer
_MAX_MESSAGE = 256 * 1024 * 1024

# What a debug adapter asks of debugpy before anything else.
_PROPERTIES = {
    "multiThreadsSingleNotification": True,
    "skipSuspendOnBreakpointException": ["BaseException"],
    "skipPrintBreakpointException": ["NameError"],
}


class DapError(Exception):
    """debugpy could not be started, or does not answer as it should."""


class DapDecoder:
    """Turns a stream of bytes into the messages of the Debug Adapter Protocol; no I/O."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[dict[str, Any]]:
        """Take in bytes, and give all messages that are complete now.

        Raises:
            DapError: The stream is broken.
        """
        self._buffer += data
        while (end := self._buffer.find(b"\r\n\r\n")) >= 0:
            size = self._size(bytes(self._buffer[:end]))
            start = end + 4
            if len(self._buffer) < start + size:
                return
            body = bytes(self._buffer[start : start + size])
            del self._buffer[: start + size]
            yield json.loads(body)

    def _size(self, header: bytes) -> int:
        for line in header.split(b"\r\n"):
            name, _, value = line.partition(b":")
            if name.strip().lower() == b"content-length" and value.strip().isdigit():
                size = int(value)
                if size <= _MAX_MESSAGE:
                    return size
        raise DapError(f"not a header of the Debug Adapter Protocol: {header[:80]!r}")


def load_debugpy() -> Any:
    """Import debugpy, and give its ``pydevd``.

    Raises:
        DapError: It is not installed, or cannot be used.
    """
    # It warns of frozen modules on stderr. What is frozen is the interpreter's start-up.
    names = ("PYDEVD_DISABLE_FILE_VALIDATION",)
    before = {name: os.environ.get(name) for name in names}
    hook = sys.breakpointhook
    os.environ.update(dict.fromkeys(names, "1"))
    try:
        import debugpy.server.api  # noqa: F401  # it puts its pydevd on the path
        import pydevd
    except Exception as error:
        raise DapError(f"debugpy cannot be used: {type(error).__name__}: {error}") from error
    finally:
        sys.breakpointhook = hook
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
    return pydevd


def hide_thread(thread: threading.Thread) -> None:
    """Let debugpy neither show, trace nor stop a thread."""
    thread.pydev_do_not_trace = True  # type: ignore[attr-defined]
    thread.is_pydev_daemon_thread = True  # type: ignore[attr-defined]


def untrace_current_thread() -> None:
    """Let the calling thread no longer stop at breakpoints."""
    from _pydevd_bundle.pydevd_constants import PYDEVD_USE_SYS_MONITORING

    if PYDEVD_USE_SYS_MONITORING:
        from _pydevd_sys_monitoring import pydevd_sys_monitoring

        pydevd_sys_monitoring.stop_monitoring(all_threads=False)
    else:
        import pydevd_tracing  # type: ignore[import-not-found]

        pydevd_tracing.SetTrace(None)


def let_current_thread_be_traced() -> None:
    """Take ``untrace_current_thread`` back, for a session that may begin in another thread.

    Where debugpy sets trace functions, it sets one in each thread when a session begins. With
    ``sys.monitoring`` each thread has its own say, which nothing else can change.
    """
    from _pydevd_bundle.pydevd_constants import PYDEVD_USE_SYS_MONITORING

    if PYDEVD_USE_SYS_MONITORING:
        from _pydevd_sys_monitoring import pydevd_sys_monitoring

        pydevd_sys_monitoring.resume_current_thread_tracing()


def _forget_own_threads() -> None:
    """Take threads of the worker's own out of ``threading.enumerate()``, where debugpy put them."""
    home = os.path.dirname(os.path.abspath(__file__)) + os.sep
    frames = sys._current_frames()
    for thread in threading.enumerate():
        frame = frames.get(thread.ident or 0)
        while frame is not None and frame.f_back is not None:
            frame = frame.f_back
        is_ours = frame is not None and frame.f_code.co_filename.startswith(home)
        if is_ours and isinstance(thread, threading._DummyThread):
            threading._active.pop(thread.ident, None)  # type: ignore[attr-defined]


class DapConnection:
    """A debugging session of this process.

    Raises:
        DapError: debugpy cannot be used.
    """

    _changes = 0  # of breakpoints, in all sessions so far

    def __init__(self) -> None:
        self._pydevd = load_debugpy()
        self._decoder = DapDecoder()
        self._next_seq = 1
        hide_thread(threading.current_thread())
        import debugpy

        own = os.path.dirname(os.path.abspath(debugpy.__file__))
        try:
            self._socket = self._connect(own)
        except OSError as error:
            raise DapError(f"debugpy cannot be reached: {error}") from error

    def _connect(self, home: str) -> socket.socket:
        our_token, their_token = os.urandom(16).hex(), os.urandom(16).hex()
        with socket.create_server(("127.0.0.1", 0)) as server:
            server.settimeout(_TIMEOUT)
            host, port = server.getsockname()
            self._pydevd.settrace(
                host,
                port=port,
                suspend=False,
                wait_for_ready_to_run=False,
                patch_multiprocessing=False,
                dont_trace_start_patterns=(home,),
                access_token=our_token,
                client_access_token=their_token,
                notify_stdin=False,
                protocol="dap",
            )
            untrace_current_thread()
            _forget_own_threads()
            self._go_on_counting()
            connection, _ = server.accept()
        try:
            connection.settimeout(_TIMEOUT)
            self._socket = connection
            # Any user of this machine can connect to a port; only debugpy knows the tokens.
            answer = self._ask("pydevdAuthorize", {"debugServerAccessToken": our_token})
            if answer.get("body", {}).get("clientAccessToken") != their_token:
                raise DapError("somebody else has connected in debugpy's place")
            self._ask("setDebuggerProperty", _PROPERTIES)
            # The main thread is the first that is named, so that its id is 1: front ends take
            # that for granted.
            self._ask("threads", {})
        except BaseException:
            self.close()
            raise
        connection.settimeout(None)
        return connection

    def _go_on_counting(self) -> None:
        # With ``sys.monitoring`` what is known of a code's breakpoints is kept with their count of
        # changes, beyond a session's end: at the same count the last session's would be in force.
        self._debugger = self._pydevd.get_global_debugger()
        DapConnection._changes += 1
        self._debugger.mtime += DapConnection._changes

    def _ask(self, command: str, arguments: dict[str, Any]) -> dict[str, Any]:
        """Send a request and wait for its response, while nobody else uses the connection."""
        seq = self.send({"type": "request", "command": command, "arguments": arguments})
        while True:
            for message in self.receive():
                if message.get("request_seq") == seq:
                    return message

    def fileno(self) -> int:
        """The socket's descriptor."""
        return self._socket.fileno()

    def send(self, request: dict[str, Any]) -> int:
        """Send a request under a number of our own, and return that number."""
        seq = self._next_seq
        self._next_seq += 1
        body = json.dumps({**request, "seq": seq}).encode()
        self._socket.sendall(b"Content-Length: %d\r\n\r\n%s" % (len(body), body))
        return seq

    def receive(self) -> list[dict[str, Any]]:
        """The messages that have arrived; waits for bytes.

        Raises:
            DapError: debugpy has closed the connection, or does not answer.
        """
        try:
            data = self._socket.recv(_CHUNK)
        except OSError as error:
            raise DapError(f"debugpy does not answer: {error}") from error
        if not data:
            raise DapError("debugpy has ended")
        return list(self._decoder.feed(data))

    def trace_current_thread(self) -> None:
        """Let the calling thread stop at breakpoints, from the next call on."""
        debugger = self._pydevd.get_global_debugger()
        if debugger is not None and sys.gettrace() is None:
            debugger.enable_tracing()

    def end_steps(self) -> None:
        """Let the calling thread run, however it was told to step or to pause."""
        from _pydevd_bundle.pydevd_api import PyDevdAPI
        from _pydevd_bundle.pydevd_constants import get_current_thread_id

        PyDevdAPI().request_resume_thread(get_current_thread_id(threading.current_thread()))

    def resume_all(self) -> None:
        """Let all threads run on, without waiting for it."""
        from _pydevd_bundle.pydevd_api import PyDevdAPI

        PyDevdAPI().request_resume_thread("*")

    def knows(self, command: str) -> bool:
        """Whether debugpy answers such a request; one that it does not know it leaves open."""
        from _pydevd_bundle.pydevd_process_net_command_json import PyDevJsonCommandProcessor

        return hasattr(PyDevJsonCommandProcessor, f"on_{command.lower()}_request")

    def forsake(self) -> None:
        """In a forked child: be untraced, and leave the connection to the parent."""
        from _pydev_bundle.pydev_monkey import undo_patch_thread_modules

        untrace_current_thread()
        threading.settrace(None)
        undo_patch_thread_modules()
        self._socket.close()

    def close(self) -> None:
        """End the session: all threads run on, untraced."""
        # In this order: debugpy's reader, when it finds the socket closed, would end the session
        # too, in its own time, and a next one could run into that.
        DapConnection._changes = self._debugger.mtime
        self._pydevd.stoptrace()
        self._socket.close()
