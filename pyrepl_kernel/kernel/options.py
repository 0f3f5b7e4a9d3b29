"""The kernel's command line.

Kernelspecs and launchers add arguments that were made for ipykernel. What is not ours is taken
for IPython's and kept; it is never an error.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

__all__ = ["Options", "UsageError", "parse"]


class UsageError(Exception):
    """An argument of ours has a value that makes no sense."""


class Options:
    """What the command line says.

    Attributes:
        connection_file: Path of the connection file; empty for a new one of our own.
        warmup: Code to run when the kernel starts; None for none.
        spares: How many warm workers stand ready for restarts.
        ipython: Arguments that are not ours.
    """

    __slots__ = ("connection_file", "ipython", "spares", "warmup")

    def __init__(self) -> None:
        self.connection_file = ""
        self.warmup: str | None = None
        self.spares = 0
        self.ipython: list[str] = []


_CONNECTION_FLAGS = ("-f", "--f", "--IPKernelApp.connection_file", "--connection-file")


def parse(arguments: Sequence[str]) -> Options:
    """Read the command line.

    Args:
        arguments: Without the program's name.

    Raises:
        UsageError: A value is missing or makes no sense.
    """
    options = Options()
    rest = list(arguments)
    while rest:
        argument = rest.pop(0)
        name, has_value, value = argument.partition("=")
        if name in (*_CONNECTION_FLAGS, "--warmup", "--spares"):
            if not has_value:
                if not rest:
                    raise UsageError(f"{name} needs a value")
                value = rest.pop(0)
            if name == "--warmup":
                options.warmup = _warmup_code(value)
            elif name == "--spares":
                options.spares = _count(name, value)
            else:
                options.connection_file = value
        else:
            options.ipython.append(argument)
    return options


def _count(name: str, value: str) -> int:
    if not value.isdecimal():
        raise UsageError(f"{name} is {value!r}; it must be a whole number, 0 or more")
    return int(value)


def _warmup_code(value: str) -> str:
    """The code itself, or that of the file that the value names."""
    try:
        is_file = os.path.isfile(value)
    except ValueError:  # a NUL byte cannot be in a path
        is_file = False
    if not is_file:
        if value.endswith(".py") and "\n" not in value and " " not in value:
            # Not an error of the kernel's: the user sees it with the first cell.
            return f"raise FileNotFoundError({f'warmup file {value!r} does not exist'!r})"
        return value
    with open(value, encoding="utf-8") as file:
        return file.read()
