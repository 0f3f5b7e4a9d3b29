"""A queue of executions of which one is at work: the main shell's, and each subshell's."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

from pyrepl_kernel.protocol.messages import CommMessage
from pyrepl_kernel.session.execution import Execution

__all__ = ["Lane", "Lanes"]


class Lane:
    """Executions that run one after the other.

    Args:
        subshell_id: The subshell whose lane it is; empty for the main shell's.

    Attributes:
        queue: What waits.
        current: What is at work.
        aside: Comm messages that are served within the cell at work, by their ids.
        is_receptive: Whether that cell can be disturbed by comm messages.
    """

    __slots__ = ("aside", "current", "is_receptive", "queue", "subshell_id")

    def __init__(self, subshell_id: str = "") -> None:
        self.subshell_id = subshell_id
        self.queue: deque[Execution] = deque()
        self.current: Execution | None = None
        self.aside: dict[str, Execution] = {}
        self.is_receptive = False

    @property
    def is_executing(self) -> bool:
        """Whether an execution is at work or waits."""
        return self.current is not None or bool(self.queue)

    def find(self, execution_id: str) -> Execution | None:
        """The execution of that id, if it is at work."""
        current = self.current
        if current is not None and current.id == execution_id:
            return current
        return self.aside.get(execution_id)

    def finish_current(self) -> None:
        """What was at work has ended."""
        self.is_receptive = False
        # A comm message that came too late to be served within the cell is the worker's next.
        self.current = self.aside.pop(next(iter(self.aside), ""), None)

    def take_comm_messages(self) -> Iterator[Execution]:
        """Take the comm messages out of the queue, past the cells that wait."""
        for execution in [e for e in self.queue if isinstance(e.message, CommMessage)]:
            self.queue.remove(execution)
            yield execution

    def take_all(self) -> list[Execution]:
        """Take out what is at work and what waits."""
        waiting = [self.current] if self.current is not None else []
        waiting += [*self.aside.values(), *self.queue]
        self.current = None
        self.is_receptive = False
        self.aside.clear()
        self.queue.clear()
        return waiting


class Lanes:
    """The main shell's lane, and those of the subshells.

    Attributes:
        main: The main shell's.
        subshells: By their ids, those that take executions.
    """

    def __init__(self) -> None:
        self.main = Lane()
        self.subshells: dict[str, Lane] = {}
        self._ending: dict[str, Lane] = {}  # of deleted subshells, whose last cell is at work

    def __iter__(self) -> Iterator[Lane]:
        return iter([self.main, *self.subshells.values(), *self._ending.values()])

    @property
    def are_many(self) -> bool:
        """Whether anything can run beside the main shell."""
        return bool(self.subshells or self._ending)

    @property
    def is_executing(self) -> bool:
        """Whether an execution is at work or waits."""
        return any(lane.is_executing for lane in self)

    def find(self, execution_id: str) -> Lane | None:
        """The lane in which that execution is at work."""
        return next((lane for lane in self if lane.find(execution_id)), None)

    def withdraw(self, execution: Execution) -> bool:
        """Take an execution out of its queue; False when it waits in none."""
        for lane in self:
            if execution in lane.queue:
                lane.queue.remove(execution)
                return True
        return False

    def close(self, subshell_id: str) -> list[Execution]:
        """Let a subshell take nothing more; what waits in its lane.

        Raises:
            KeyError: There is no such subshell.
        """
        lane = self._ending[subshell_id] = self.subshells.pop(subshell_id)
        waiting = list(lane.queue)
        lane.queue.clear()
        return waiting

    def forget(self, subshell_id: str) -> None:
        """A subshell has ended."""
        self._ending.pop(subshell_id, None)

    def take_subshells(self) -> list[Execution]:
        """Take out all that is at work or waits in subshells, which are gone."""
        taken = [
            execution for lane in self if lane is not self.main for execution in lane.take_all()
        ]
        self.subshells.clear()
        self._ending.clear()
        return taken

    def take_all(self) -> list[Execution]:
        """Take out all that is at work or waits; the worker is gone."""
        return [*self.main.take_all(), *self.take_subshells()]
