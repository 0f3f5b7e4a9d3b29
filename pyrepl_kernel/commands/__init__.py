"""The commands of ``pyrepl-kernel``, a module each.

A module has ``add_to(commands)``: it adds its parser to argparse's subparsers, with the function
that does the work as the default of ``run``. Heavy imports belong into that function.
"""

from __future__ import annotations

__all__ = ["COMMANDS", "CommandError"]

COMMANDS = ("batch", "config", "doctor", "status", "templates")
"""The modules, in the order in which their commands are listed."""


class CommandError(Exception):
    """What the user asked for cannot be done; shown as one line.

    Attributes:
        status: The exit status: 2 for a mistake in the arguments, else 1.
    """

    def __init__(self, message: str, status: int = 1) -> None:
        super().__init__(message)
        self.status = status
