"""``pyrepl-kernel status``: this user's kernels, their processes, and how they are."""

from __future__ import annotations

import argparse
import json
import select
import sys
from typing import Any

from pyrepl_kernel.commands import CommandError

__all__ = ["add_to"]

_ANSWER_TIME = 5.0  # seconds; a kernel that lives answers within milliseconds
_MOST = 1 << 20


def add_to(commands: Any) -> None:
    """Add the command to the command line."""
    status = commands.add_parser(
        "status",
        help="show your running kernels: processes, memory, how workers are made, deaths",
        description="Ask each running kernel of this user how it is, and show its processes with "
        "their memory (proportional set size), how its workers are made and why, how often it was "
        "restarted, and how workers died last.",
    )
    status.add_argument("--json", action="store_true", help="print a JSON list, for programs")
    status.set_defaults(run=_status)


def _status(args: argparse.Namespace) -> int:
    if sys.platform != "linux":
        raise CommandError(
            "kernels can be asked on Linux alone; %kernel in a cell works everywhere"
        )
    from pyrepl_kernel.kernel.status_table import as_text, measure
    from pyrepl_kernel.session.runtime import kernels_dir

    found, silent = _ask_all()
    found = [measure(status) for status in found]
    if args.json:
        print(json.dumps(found, indent=2))
    else:
        print("\n\n".join(as_text(status) for status in found) or _none(kernels_dir()))
    for pid in silent:
        print(f"pyrepl-kernel: the kernel with pid {pid} does not answer", file=sys.stderr)
    return 1 if silent else 0


def _none(path: str) -> str:
    return f"No kernel runs (looked in {path})."


def _ask_all() -> tuple[list[dict[str, Any]], list[str]]:
    """What the kernels say, the oldest first, and the pids of those that do not answer."""
    from pyrepl_kernel.session.runtime import kernels_dir
    from pyrepl_kernel.session.templates import TemplateDirectory

    directory = TemplateDirectory(kernels_dir())
    found, silent = [], []
    for key in directory.keys("sock"):
        try:
            found.append(_ask(directory, key))
        except (ConnectionRefusedError, FileNotFoundError):
            directory.remove(key)  # it was killed
        except (OSError, ValueError, TimeoutError):
            silent.append(key)
    return sorted(found, key=lambda status: status["started_at"]), silent


def _ask(directory: Any, key: str) -> dict[str, Any]:
    with directory.connect(key) as sock:
        if not select.select([sock], [], [], _ANSWER_TIME)[0]:
            raise TimeoutError
        answer = sock.recv(_MOST)
    if not answer:
        raise ConnectionRefusedError  # it ended in this moment
    status = json.loads(answer)
    if not isinstance(status, dict) or "processes" not in status:
        raise ValueError("this is no status")
    return status
