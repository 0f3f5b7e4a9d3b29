"""The states of a session, and the only ways between them."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from enum import StrEnum

from pyrepl_kernel.errors import InvalidTransition

__all__ = ["TRANSITIONS", "SessionState", "StateMachine"]

log = logging.getLogger("pyrepl_kernel.session")


class SessionState(StrEnum):
    """Where a session is in its life."""

    CREATING = "creating"
    """No worker yet, or one that has not said that it is ready."""
    WARMING = "warming"
    """The worker is up and runs the warmup code."""
    READY = "ready"
    """Warm; nothing has been executed yet."""
    BUSY = "busy"
    """A cell runs."""
    IDLE = "idle"
    """A cell has run, and none does now."""
    SHUTTING_DOWN = "shutting_down"
    """The worker was told to end."""
    TERMINATED = "terminated"
    """There is no worker any more."""


_S = SessionState
_ENDS = frozenset({_S.SHUTTING_DOWN, _S.TERMINATED})

TRANSITIONS: Mapping[SessionState, frozenset[SessionState]] = {
    _S.CREATING: frozenset({_S.WARMING}) | _ENDS,
    _S.WARMING: frozenset({_S.READY}) | _ENDS,
    _S.READY: frozenset({_S.BUSY}) | _ENDS,
    _S.BUSY: frozenset({_S.IDLE}) | _ENDS,
    # READY again after a reset, which brings back what the warmup left.
    _S.IDLE: frozenset({_S.BUSY, _S.READY}) | _ENDS,
    _S.SHUTTING_DOWN: frozenset({_S.TERMINATED}),
    # A restart begins the life anew, with another worker.
    _S.TERMINATED: frozenset({_S.CREATING}),
}


class StateMachine:
    """The state of one session; ``move`` is the only way to change it."""

    def __init__(self, session_id: str) -> None:
        self._session_id = session_id
        self._state = SessionState.CREATING

    @property
    def state(self) -> SessionState:
        """The state now."""
        return self._state

    def move(self, to: SessionState) -> None:
        """Change to another state.

        Raises:
            InvalidTransition: The table has no such transition.
        """
        if to not in TRANSITIONS[self._state]:
            raise InvalidTransition(self._session_id, f"cannot go from {self._state} to {to}")
        log.debug("session %s: %s -> %s", self._session_id, self._state, to)
        self._state = to
