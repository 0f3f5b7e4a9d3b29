"""What a scenario is made of: the steps of a conversation between a front end and a kernel."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

__all__ = [
    "INTERRUPT",
    "Ask",
    "Beside",
    "Create",
    "Delete",
    "Queue",
    "Run",
    "Scenario",
    "Step",
    "Until",
    "ask",
    "beside",
    "comm",
    "complete",
    "history",
    "inspect",
    "is_complete",
    "queue",
    "run",
    "scenario",
    "until",
]

INTERRUPT = object()
"""As an answer to ``input()``: interrupt the cell instead."""


@dataclass(frozen=True)
class Run:
    """Execute a cell and wait for its reply and its idle.

    Attributes:
        code: Its source.
        options: Fields of the execute_request that are not the default.
        answers: Replies to its input requests, in turn.
        interrupt_at: A text; once the cell has printed it and has blocked, it is interrupted.
        is_busy: Whether it never blocks, and is interrupted as soon as that text is there.
        metadata: Of the request.
        subshell: The name under which a subshell was created; empty for the main shell.
    """

    code: str
    options: Mapping[str, object]
    answers: tuple[object, ...] = ()
    interrupt_at: str = ""
    metadata: Mapping[str, object] = field(default_factory=dict)
    is_busy: bool = False
    subshell: str = ""


@dataclass(frozen=True)
class Ask:
    """Send any message; wait for its idle, and for its reply if its type promises one."""

    msg_type: str
    content: Mapping[str, Any]
    channel: str = "shell"
    buffers: tuple[bytes, ...] = ()
    subshell: str = ""


@dataclass(frozen=True)
class Create:
    """Create a subshell, known by this name from here on."""

    subshell: str


@dataclass(frozen=True)
class Delete:
    """Delete a subshell; its name stands for the id that is gone."""

    subshell: str


@dataclass(frozen=True)
class Beside:
    """Run a cell that prints something and asks; take other steps before it gets its answer."""

    run: Run
    steps: tuple[Step, ...]


@dataclass(frozen=True)
class Queue:
    """Send several cells at once, and wait for the end of all."""

    runs: tuple[Run, ...]


@dataclass(frozen=True)
class Until:
    """Wait until something of the conversation so far has printed a text."""

    text: str


Step = Run | Ask | Queue | Until | Create | Delete | Beside


@dataclass(frozen=True)
class Scenario:
    """A conversation.

    Attributes:
        name: What it is about.
        steps: In order.
        fresh: Whether it needs kernels that have run nothing.
        spoils: Whether no other scenario can be played on the same kernels after it.
        ends: Whether the kernel ends with it.
        loose_streams: Whether text may come at any place among a cell's messages: what C code
            and child processes write, ipykernel passes on whenever a thread has read it.
    """

    name: str
    steps: tuple[Step, ...]
    fresh: bool = False
    spoils: bool = False
    ends: bool = False
    loose_streams: bool = False


def scenario(
    name: str,
    *steps: Step | str,
    fresh: bool = False,
    spoils: bool = False,
    ends: bool = False,
    loose_streams: bool = False,
) -> Scenario:
    """A scenario; a plain string is a cell."""
    made = tuple(run(step) if isinstance(step, str) else step for step in steps)
    return Scenario(name, made, fresh, spoils or ends, ends, loose_streams)


def run(
    code: str,
    *,
    answers: tuple[object, ...] = (),
    interrupt_at: str = "",
    metadata: Mapping[str, object] | None = None,
    is_busy: bool = False,
    subshell: str = "",
    **options: object,
) -> Run:
    """Execute a cell; ``options`` are fields of the execute_request."""
    if answers:
        options.setdefault("allow_stdin", True)
    return Run(code, options, answers, interrupt_at, metadata or {}, is_busy, subshell)


def beside(*steps: Step | str) -> Beside:
    """Take steps while the main shell is busy with a cell."""
    made = tuple(run(step) if isinstance(step, str) else step for step in steps)
    return Beside(run("print('busy', flush=True)\ninput()", answers=("",)), made)


def queue(*runs: Run | str) -> Queue:
    """Send several cells at once."""
    return Queue(tuple(run(step) if isinstance(step, str) else step for step in runs))


def ask(msg_type: str, channel: str = "shell", subshell: str = "", **content: Any) -> Ask:
    """Send a request."""
    return Ask(f"{msg_type}_request", content, channel, subshell=subshell)


def complete(code: str, cursor_pos: int | None = None) -> Ask:
    """Complete at the cursor, or at the end."""
    return ask("complete", code=code, cursor_pos=len(code) if cursor_pos is None else cursor_pos)


def inspect(code: str, detail_level: int = 0, cursor_pos: int | None = None) -> Ask:
    """Inspect at the cursor, or at the end."""
    at = len(code) if cursor_pos is None else cursor_pos
    return ask("inspect", code=code, cursor_pos=at, detail_level=detail_level)


def is_complete(code: str) -> Ask:
    """Ask whether the code would run."""
    return ask("is_complete", code=code)


def history(kind: str, **options: Any) -> Ask:
    """Ask for the history."""
    return ask("history", **{"hist_access_type": kind, "output": False, "raw": True, **options})


def comm(kind: str, comm_id: str, buffers: tuple[bytes, ...] = (), **content: Any) -> Ask:
    """Send a comm message: ``open``, ``msg`` or ``close``."""
    return Ask(f"comm_{kind}", {"comm_id": comm_id, "data": {}, **content}, buffers=buffers)


def until(text: str) -> Until:
    """Wait for a text."""
    return Until(text)
