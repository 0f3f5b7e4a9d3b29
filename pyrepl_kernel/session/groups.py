"""Process groups: a worker's is itself and what it has started."""

from __future__ import annotations

import os
import signal
import sys
from contextlib import suppress

__all__ = ["end_group", "group_members"]

_ASIDE = 19  # how nice a process is whose end nobody waits for


def group_members(group: int) -> list[int]:
    """The living processes of a process group, but for its leader; none where there is no /proc."""
    members = []
    for name in os.listdir("/proc") if sys.platform == "linux" else []:
        if not name.isdecimal() or int(name) == group:
            continue
        try:
            with open(f"/proc/{name}/stat", "rb") as file:
                # The name of a process, in parentheses, may hold anything.
                state, _, its_group = file.read().rpartition(b")")[2].split()[:3]
        except (OSError, ValueError):
            continue  # it has ended since it was listed
        if int(its_group) == group and state not in b"ZX":
            members.append(int(name))
    return members


def end_group(group: int) -> None:
    """Kill what is left of a process group whose leader has ended; nothing left is no error.

    To end takes a process a while, most of it spent on giving its memory back. Fifty that do so at
    once would be in the way of the next cell, so they are to use what time others leave.
    """
    with suppress(ProcessLookupError, PermissionError):
        os.setpriority(os.PRIO_PGRP, group, _ASIDE)
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(group, signal.SIGKILL)
