"""What ties a kernel process to the provisioner that started it: a socket pair.

The kernel process finds its end by an environment variable, which it takes out of its environment
before a worker can see it. Imports next to nothing, for both sides do this early.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping, MutableMapping

__all__ = ["VARIABLE", "aside", "changes", "describe", "is_for_the_process", "take"]

VARIABLE = "PYREPL_LEASH"
"""Descriptor and inode of the kernel process's end, as ``fd:inode``."""

_OF_THE_PROCESS = ("PYTHON", "LD_", "DYLD_", "LANG", "LC_", "JUPYTER", "PYREPL", "ZMQ")


def describe(fd: int) -> str:
    """The variable's value for a socket that the kernel process is to inherit."""
    return f"{fd}:{os.fstat(fd).st_ino}"


def take(environ: MutableMapping[str, str]) -> int | None:
    """Take the socket over; None where there is none.

    A launcher between the provisioner and this process may have closed it, and the number may
    since be another file's: the inode tells.
    """
    value = environ.pop(VARIABLE, "")
    number, _, inode = value.partition(":")
    if not (number.isdecimal() and inode.isdecimal()):
        return None
    fd = int(number)
    try:
        status = os.fstat(fd)
    except OSError:
        return None
    if not stat.S_ISSOCK(status.st_mode) or status.st_ino != int(inode):
        return None
    os.set_inheritable(fd, False)
    return fd


def aside(path: str) -> str:
    """Where an ipc socket's file waits during a restart, in which jupyter_client removes it."""
    return f"{path}.restart"


def is_for_the_process(name: str) -> bool:
    """Whether the kernel process itself reads an environment variable, once, when it starts.

    The others are for the worker, and a new worker of an old kernel process can have them.
    """
    return name.startswith(_OF_THE_PROCESS) or name == "JPY_PARENT_PID"


def changes(old: Mapping[str, str], new: Mapping[str, str]) -> tuple[dict[str, str], list[str]]:
    """What a new environment sets, and what it lacks, of an old one."""
    changed = {name: value for name, value in new.items() if old.get(name) != value}
    return changed, [name for name in old if name not in new]
