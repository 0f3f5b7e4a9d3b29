"""Remembers what a warmup opened, and at which of its lines."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from pyrepl_kernel.worker.observation import Glance, glance

__all__ = ["Evidence", "Place", "Watch"]

Evidence = tuple[str, Any]
"""What to look for: ``("thread", tid)``, ``("descriptor", (fd, target))``, ``("child", pid)`` or
``("state", name)``."""


@dataclass(frozen=True)
class Place:
    """A statement of the warmup.

    Attributes:
        line: Its first line, from 1; 0 when it is no line of the warmup's.
        text: That line, shortened; or what else says where it was.
    """

    line: int
    text: str

    def __str__(self) -> str:
        return f"line {self.line}: {self.text}" if self.line else self.text


@dataclass(frozen=True)
class _Note:
    place: Place
    seen: Glance
    states: frozenset[str]

    def has(self, evidence: Evidence) -> bool:
        kind, key = evidence
        places: dict[str, Any] = {
            "thread": self.seen.threads,
            "descriptor": self.seen.descriptors,
            "child": self.seen.children,
            "state": self.states,
        }
        found: bool = key in places[kind]
        return found


class Watch:
    """What a process had before the user's code ran, and what came with each of its statements.

    Make one when the process is complete but for the user's code.

    Args:
        states: Gives the names of the states that libraries are in; called after each statement.
    """

    def __init__(
        self,
        states: Callable[[], Iterable[str]] = frozenset,
    ) -> None:
        self.before = glance()
        self._states = states
        self._notes: list[_Note] = []

    def note(self, place: Place) -> None:
        """Some of the user's code has run; what is new came with it."""
        self._notes.append(_Note(place, glance(), frozenset(self._states())))

    @contextmanager
    def statements(self, shell: Any, source: str) -> Iterator[None]:
        """Take a note after each statement that IPython runs at the top of a piece of code.

        Args:
            shell: IPython's shell.
            source: The code, as it is given to ``run_cell``.
        """
        lines = source.splitlines()
        # IPython drops these before it counts.
        skipped = next((n for n, line in enumerate(lines) if line.strip()), 0)
        run_code = shell.run_code
        depth = 0

        async def run_and_note(code: Any, *args: Any, **options: Any) -> Any:
            nonlocal depth
            depth += 1
            try:
                return await run_code(code, *args, **options)
            finally:
                depth -= 1
                if not depth:  # not a cell that the statement itself ran
                    line = _first_line(code) + skipped
                    text = lines[line - 1].strip() if line <= len(lines) else ""
                    self.note(Place(line, _short(text)))

        had_own = "run_code" in vars(shell)
        shell.run_code = run_and_note
        try:
            yield
        finally:
            if had_own:
                shell.run_code = run_code
            else:
                del shell.run_code

    def place_of(self, evidence: Iterable[Evidence]) -> Place | None:
        """Where the first of several things came, or None when that was not seen."""
        wanted = list(evidence)
        for note in self._notes:
            if any(note.has(one) for one in wanted):
                return note.place
        return None


def _first_line(code: Any) -> int:
    return min((line for _, _, line in code.co_lines() if line), default=1)


def _short(text: str) -> str:
    return text if len(text) <= 60 else text[:57] + "..."
