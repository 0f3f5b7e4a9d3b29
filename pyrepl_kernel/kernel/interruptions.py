"""What the user's interrupts come to: the more of them a cell ignores, the more force they have.

The first is a SIGINT. The second shows where the cell hangs, the third kills its worker. Those that
come within a moment of the one before are taken for an impatient hand: they are sent on, and do
not count.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from pyrepl_kernel.protocol.messages import OutputMessage
from pyrepl_kernel.session.guard import Force

if TYPE_CHECKING:
    from pyrepl_kernel.kernel.kernel import Kernel

__all__ = ["Interruptions"]

_MOMENT = 0.5
"""Seconds after an interrupt in which another does not count."""
_TO_READ = 1.0
"""The same after the stacks were shown: nobody is to lose his variables unwarned."""

_WARNING = (
    "The cell has not ended since it was interrupted: compiled code looks at interrupts only when "
    "it comes back to Python.\n"
    "Interrupt it once more to kill its process: all variables and imports are lost then.\n"
)


class Interruptions:
    """Counts the interrupts of the cell that runs.

    Args:
        kernel: Whose cell it is.
    """

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._cell = ""
        self._force: Force | None = None
        self._counts_from = 0.0

    def interrupt(self) -> None:
        """The user has interrupted the kernel."""
        run = self._kernel.running_cell()
        now = time.monotonic()
        if run is None or run.message.id != self._cell:
            self._cell = "" if run is None else run.message.id
            self._force = None
        if self._force is None or run is None:
            self._force = Force.INTERRUPT
            self._counts_from = now + _MOMENT
        elif now < self._counts_from:
            self._kernel.session.send_interrupt()
            return
        elif self._force is Force.INTERRUPT:
            self._force = Force.STACKS
            self._counts_from = now + _TO_READ
            run.deliver(OutputMessage(_WARNING, "stderr", run.message.id))
        else:
            self._force = Force.KILL
        self._kernel.session.send_interrupt(self._force)
