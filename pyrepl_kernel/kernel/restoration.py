"""What becomes of a session's checkpoints in a kernel: after a crash, and when a cell goes back.

a worker dies ─▶ Crashes ─▶ prepare: a fork of the last automatic checkpoint
                               │
the next request ─▶ take ──────┴──▶ Session.revive          none: a new session, which takes
                                                            the checkpoints over
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from pyrepl_kernel.errors import CheckpointError
from pyrepl_kernel.session.checkpoints import Checkpoint
from pyrepl_kernel.session.forked import Forked
from pyrepl_kernel.session.session import Session

if TYPE_CHECKING:
    from pyrepl_kernel.kernel.kernel import Kernel

__all__ = ["Restoration"]

log = logging.getLogger("pyrepl_kernel.kernel")


class Restoration:
    """The kernel's side of checkpoints.

    Args:
        kernel: The kernel.
    """

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._comms: dict[int, dict[str, str]] = {}  # those that were open, by checkpoint
        self._prepared: Forked | None = None

    def watch(self, session: Session) -> None:
        """Take note of a session's checkpoints, and of its going back to them."""
        session.on_restored = self._on_restored
        session.checkpoints.on_taken = self._on_taken
        session.checkpoints.on_thinned = self._on_thinned

    def _on_taken(self, checkpoint: Checkpoint) -> None:
        there = {one.pid for one in self._kernel.session.checkpoints}
        self._comms = {pid: comms for pid, comms in self._comms.items() if pid in there}
        self._comms[checkpoint.pid] = self._kernel.open_comms()

    def _on_thinned(self, checkpoint: Checkpoint) -> None:
        what = f"Checkpoint {checkpoint.name!r}" if checkpoint.name else "A checkpoint"
        self._kernel.notify(
            f"{what} was given up, since checkpoints took more memory than they may "
            "(--checkpoint-memory).\n"
        )

    def _on_restored(self, checkpoint: Checkpoint) -> None:
        self._kernel.debugging.end()
        self._kernel.keep_comms(self._comms.get(checkpoint.pid, {}))
        self._kernel.next_count = checkpoint.execution_count + 1

    # --------------------------------------------------------- after a death

    def prepare(self) -> str:
        """After a death: get hold of the last automatic checkpoint.

        Returns:
            What state will be back, as a sentence; empty if none will.
        """
        store = self._kernel.session.checkpoints
        checkpoint = store.automatic
        if checkpoint is None:
            return ""
        try:
            self._prepared = store.fork_now(checkpoint)
        except CheckpointError as error:
            log.error("%s", error)
            return ""
        words = f"The state from after In [{checkpoint.execution_count}] is back: "
        words += "variables, imports and history are as they were then."
        for what in checkpoint.left:
            words += f" Not brought back: {what}."
        return words

    def advice(self) -> str:
        """What named checkpoints there are to go back to; empty without any."""
        names = [one.name for one in self._kernel.session.checkpoints if one.name]
        if not names:
            return ""
        return f"%rollback {names[-1]} brings back the state of that checkpoint."

    def take(self) -> Forked | None:
        """The worker that was prepared, for the dead session to go on with."""
        prepared, self._prepared = self._prepared, None
        return prepared
