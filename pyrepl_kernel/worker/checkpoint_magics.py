"""``%checkpoint``, ``%rollback``, ``%checkpoints`` and ``%autocheckpoint``."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from IPython.core.error import UsageError
from IPython.core.magic import Magics, line_magic, magics_class

from pyrepl_kernel.worker.checkpoints import CheckpointRefused, Checkpoints

__all__ = ["CheckpointMagics", "load_ipython_extension"]


def load_ipython_extension(shell: Any) -> None:
    """Called by IPython when one of the magics is used first."""
    shell.register_magics(CheckpointMagics(shell))


@magics_class
class CheckpointMagics(Magics):
    """Magics that keep the state of the session, and go back to it."""

    def __init__(self, shell: Any) -> None:
        super().__init__(shell)
        self._checkpoints: Checkpoints = shell.get_checkpoints()

    @line_magic
    def checkpoint(self, line: str) -> None:
        """Keep the state of this session as it is when this cell has ended.

        Variables, imports, functions, random states and open figures are kept; files, connections
        and what another process or the GPU holds are not, and each is named.

        Usage: %checkpoint [name]
        """
        name = line.strip() or f"cell-{self.shell.execution_count - 1}"
        try:
            left = self._checkpoints.wish(name)
        except CheckpointRefused as error:
            raise UsageError(f"There can be no checkpoint now: {error}") from None
        print(f"Checkpoint {name!r} is taken when this cell ends.")
        _print_left(left)

    @line_magic
    def rollback(self, line: str) -> None:
        """Go back to a checkpoint when this cell has ended; without a name, to the latest.

        Usage: %rollback [name]
        """
        items = self._checkpoints.known()
        named = [item for item in items if item["name"] == line.strip()]
        found = named if line.strip() else items
        if not found:
            names = ", ".join(repr(item["name"]) for item in items if item["name"])
            raise UsageError(
                f"There is no checkpoint {line.strip()!r}; there are {names or 'none'}"
                if line.strip()
                else "There is no checkpoint; %checkpoint takes one"
            )
        item = found[-1]
        self._checkpoints.restore = item["key"]
        print(f"Back to {_described(item)}.")
        _print_left(item["left"])

    @line_magic
    def checkpoints(self, line: str) -> None:
        """List the checkpoints: name, age, the cell after which each was taken, and its memory.

        Usage: %checkpoints
        """
        rows = [("name", "age", "after", "memory", "")]
        for item in self._checkpoints.known():
            rows.append(
                (
                    item["name"] or "(automatic)",
                    _age(item["taken_at"]),
                    f"In [{item['execution_count']}]",
                    f"{item['memory'] / 1e6:.1f} MB",
                    item["cell"],
                )
            )
        if len(rows) == 1:
            print("No checkpoints. %checkpoint takes one, %autocheckpoint on one after each cell.")
            return
        widths = [max(len(row[n]) for row in rows) for n in range(4)]
        for row in rows:
            cells = [text.ljust(width) for text, width in zip(row, widths, strict=False)]
            print("  ".join([*cells, row[4]]).rstrip())

    @line_magic
    def autocheckpoint(self, line: str) -> None:
        """Keep the state after each cell, so that a crash costs no more than the cell it was in.

        Cells that are cheaper to run again than to keep share a checkpoint.

        Usage: %autocheckpoint on|off
        """
        word = line.strip().lower()
        if word not in ("on", "off"):
            raise UsageError("%autocheckpoint takes 'on' or 'off'")
        if word == "off":
            self._checkpoints.is_automatic = False
            return
        try:
            left = self._checkpoints.look()
        except CheckpointRefused as error:
            raise UsageError(f"There can be no checkpoints now: {error}") from None
        self._checkpoints.is_automatic = True
        _print_left(left)


def _print_left(left: Sequence[str]) -> None:
    for what in left:
        print(f"Not brought back: {what}.")


def _described(item: Mapping[str, Any]) -> str:
    name = f"checkpoint {item['name']!r}" if item["name"] else "the automatic checkpoint"
    return f"{name}, taken after In [{item['execution_count']}] {_age(item['taken_at'])} ago"


def _age(taken_at: float) -> str:
    seconds = max(0.0, time.time() - taken_at)
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 7200:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
