"""``pyrepl-kernel templates``: the templates that this user's kernels share, and their end."""

from __future__ import annotations

import argparse
import os
import signal
import time
from typing import Any

from pyrepl_kernel.commands import CommandError

__all__ = ["add_to"]

_SHOWN_KEY = 8
_END_TIME = 5.0  # seconds that a template has to go
_HEADER = ("key", "pid", "age", "workers", "memory", "method", "python")


def add_to(commands: Any) -> None:
    """Add the command to the command line."""
    templates = commands.add_parser(
        "templates",
        help="list the warm templates that your kernels share, or end them",
        description="List the templates of this user: processes that have run a warmup, and that "
        "kernels with the same warmup, interpreter and environment fork their workers from.",
    )
    templates.set_defaults(run=_list)
    actions = templates.add_subparsers(metavar="ACTION")
    stop = actions.add_parser(
        "stop",
        help="end a template, or all of them",
        description="End templates. Workers that were forked from them live on; what a kernel "
        "needs next comes from a new one.",
    )
    stop.add_argument("key", nargs="?", default="", metavar="KEY", help="its key, or its beginning")
    stop.set_defaults(run=_stop)


def _list(_args: argparse.Namespace) -> int:
    from pyrepl_kernel.session.templates import TemplateDirectory

    directory = TemplateDirectory()
    states = directory.states()
    if not states:
        print(f"No template runs (looked in {directory.path}).")
        return 0
    rows = [_HEADER]
    for state in states:
        rows.append(
            (
                state.key[:_SHOWN_KEY],
                str(state.pid),
                _duration(time.time() - state.warmed_at),
                str(len(_children(state.pid))),
                _memory(state.pid),
                state.verdict,
                state.python,
            )
        )
    widths = [max(len(row[column]) for row in rows) for column in range(len(_HEADER))]
    for number, row in enumerate(rows):
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        print("  ".join(cells).rstrip())
        if number:
            state = states[number - 1]
            print(f"    warmup: {state.warmup or 'none'}")
            print(f"    {state.verdict}, for {state.reason}")
            if state.advice:
                print(f"    {state.advice}")
    return 0


def _stop(args: argparse.Namespace) -> int:
    from pyrepl_kernel.session.templates import TemplateDirectory

    directory = TemplateDirectory()
    found = [state for state in directory.states() if state.key.startswith(args.key)]
    if args.key and not found:
        raise CommandError(
            f"no template's key begins with {args.key!r}; see pyrepl-kernel templates"
        )
    if args.key and len(found) > 1:
        raise CommandError(f"{len(found)} templates' keys begin with {args.key!r}; give more of it")
    for state in found:
        _end(state.pid, state.start_time)
        print(f"Ended template {state.key[:_SHOWN_KEY]} (pid {state.pid})")
    if not found:
        print(f"No template runs (looked in {directory.path}).")
    return 0


def _end(pid: int, start_time: int) -> None:
    """Ask a template to go, and see that it does."""
    import select

    from pyrepl_kernel.session.templates import start_time_of

    try:
        fd = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        if start_time_of(pid) != start_time:
            return  # it went in this moment, and its number is another's
        poll = select.poll()
        poll.register(fd, select.POLLIN)
        for number in (signal.SIGTERM, signal.SIGKILL):
            signal.pidfd_send_signal(fd, number)
            if poll.poll(_END_TIME * 1000):
                return
        raise CommandError(f"the template with pid {pid} cannot be ended")
    finally:
        os.close(fd)


def _children(pid: int) -> list[str]:
    try:
        with open(f"/proc/{pid}/task/{pid}/children") as file:
            return file.read().split()
    except OSError:
        return []


def _memory(pid: int) -> str:
    """What a process and its children take in all, what they share counted once."""
    size = 0
    for one in (str(pid), *_children(pid)):
        try:
            with open(f"/proc/{one}/smaps_rollup") as file:
                lines = dict(line.split(":", 1) for line in file if line.startswith("Pss:"))
            size += int(lines["Pss"].split()[0])
        except (OSError, KeyError, ValueError):
            continue  # it has just ended
    return f"{size / 1024:.0f} MB"


def _duration(seconds: float) -> str:
    whole = max(0, int(seconds))
    for unit, name in ((86400, "d"), (3600, "h"), (60, "min")):
        if whole >= unit:
            return f"{whole // unit} {name}"
    return f"{whole} s"
