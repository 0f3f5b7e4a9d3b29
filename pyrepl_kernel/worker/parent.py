"""Which request output belongs to, and the ways in which libraries ask for it and pin it.

Output of the main thread, of tasks and of whatever else carries the context of a cell belongs to
that cell. A thread has no such context: its output goes to the cell that began last, unless the
thread pins a request for itself. With subshells that is the last cell of the shell in which the
thread was started.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from contextvars import ContextVar, Token
from typing import Any

__all__ = [
    "Cause",
    "FollowsParent",
    "Parent",
    "cause_of_context",
    "current_execution",
    "header_of",
    "let_threads_inherit",
]

Parent = Mapping[str, Any]
"""A Jupyter message that others refer to: a dict with ``header``, ``content`` and so on."""

Cause = tuple[str, Parent]
"""An execution's id, and the message that asked for it."""

_cause: ContextVar[Cause] = ContextVar("pyrepl_cause")

cause_of_context = _cause.get
"""Gives the context's own cause, or what it is given where there is none."""


def header_of(parent: Any) -> Parent:
    """The header of a message, or what is a header already."""
    header: Parent = parent.get("header", parent) if parent else {}
    return header


class _Shell:
    """The main shell, or a subshell: what its threads without a context belong to."""

    latest: Cause = ("", {})


_main = _Shell()
_shell: ContextVar[_Shell] = ContextVar("pyrepl_shell", default=_main)


class _Current:
    """The execution, and the message that asked for it: the context's, or else the latest."""

    @property
    def latest(self) -> Cause:
        """Of the execution that began last in the shell that this context is of."""
        return _shell.get().latest

    def begin(self, execution_id: str, parent: Parent | None = None) -> None:
        """From here on this context, and its shell's threads without one, are an execution's."""
        cause = (execution_id, parent or {})
        _shell.get().latest = cause
        _cause.set(cause)

    def begin_subshell(self) -> None:
        """From here on this thread, and those that it starts, have a latest cell of their own."""
        _shell.set(_Shell())

    def pin(self, execution_id: str, parent: Parent) -> Token[Cause]:
        """From here on this context belongs to an execution, and no other context does."""
        return _cause.set((execution_id, parent))

    def unpin(self, token: Token[Cause]) -> None:
        """Undo a ``pin``."""
        _cause.reset(token)

    def __call__(self) -> str:
        cause = _cause.get(None)
        return (_shell.get().latest if cause is None else cause)[0]

    @property
    def parent(self) -> Parent:
        """The message that asked for it."""
        cause = _cause.get(None)
        return (_shell.get().latest if cause is None else cause)[1]

    def name_of(self, parent: Parent) -> str:
        """The id of the execution that a message has asked for."""
        name = str(header_of(parent).get("msg_id", ""))
        # The session knows an execution by the id of its request, unless two requests had the same.
        return self() if name and name == header_of(self.parent).get("msg_id") else name


current_execution = _Current()


def let_threads_inherit() -> None:
    """Let a thread that is started in a subshell belong to that subshell."""
    if threading.Thread.start is not _original_start:
        return

    def start(self: threading.Thread) -> None:
        shell = _shell.get()
        if shell is not _main:
            run = self.run

            def run_in_shell() -> None:
                _shell.set(shell)
                run()

            self.run = run_in_shell  # type: ignore[method-assign]
        _original_start(self)

    threading.Thread.start = start  # type: ignore[method-assign]


_original_start = threading.Thread.start


class FollowsParent:
    """``set_parent`` and its like, as ipykernel's shell, streams and displays have them.

    There each of them has a parent of its own; here it is one for all, since whoever pins one
    pins all of them.
    """

    @property
    def parent_header(self) -> Parent:
        """The header of the request that output refers to."""
        return header_of(current_execution.parent)

    @parent_header.setter
    def parent_header(self, parent: Parent) -> None:
        self.set_parent(parent)

    def set_parent(self, parent: Parent) -> None:
        """Let output refer to a request, given as a message or as its header."""
        if threading.current_thread() is threading.main_thread():
            current_execution.begin(current_execution.name_of(parent), as_message(parent))
        else:
            # Not for other threads, which are the latest cell's.
            self.set_thread_parent(parent)

    def set_thread_parent(self, parent: Parent) -> Any:
        """The same for this thread or task only; gives what ``reset_thread_parent`` takes."""
        return current_execution.pin(current_execution.name_of(parent), as_message(parent))

    def reset_thread_parent(self, token: Any) -> None:
        """Undo a ``set_thread_parent``."""
        current_execution.unpin(token)


def as_message(parent: Parent) -> Parent:
    """A message, for what may be just its header."""
    if not parent or "header" in parent:
        return parent or {}
    if parent.get("msg_id") == header_of(current_execution.parent).get("msg_id"):
        return current_execution.parent
    return {
        "header": parent,
        "msg_id": parent.get("msg_id", ""),
        "msg_type": parent.get("msg_type", ""),
        "parent_header": {},
        "metadata": {},
        "content": {},
        "buffers": [],
    }
