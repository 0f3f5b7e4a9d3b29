"""What a session is told of how to treat its worker, and what it says of itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pyrepl_kernel.protocol.framing import MAX_FRAME_SIZE
from pyrepl_kernel.session.limits import Limits
from pyrepl_kernel.session.states import SessionState

__all__ = ["SessionConfig", "SessionInfo"]


@dataclass(frozen=True)
class SessionConfig:
    """How a session treats its worker.

    Attributes:
        start_timeout: Seconds that a worker has to come up (its warmup not counted).
        shutdown_grace: Seconds that exit handlers have before the worker is killed.
        abandon_grace: Seconds that an abandoned or timed-out cell has, after its interrupt,
            before the worker is killed.
        max_frame_size: Largest message either way, in bytes.
        keep_failed_warmup: Start even when the warmup code raised; ``Session.warmup_error`` has
            the error.
        checkpoint_memory: Bytes that its checkpoints may take, by their share of memory; None for
            a quarter of what is free. The oldest are given up first.
        options: Options of the worker, as it takes them in its start message.
        limits: What each cell may use; ``Session.limits`` changes it for cells to come.
    """

    start_timeout: float = 60.0
    shutdown_grace: float = 3.0
    abandon_grace: float = 5.0
    max_frame_size: int = MAX_FRAME_SIZE
    keep_failed_warmup: bool = False
    checkpoint_memory: int | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    limits: Limits = field(default_factory=Limits)


@dataclass(frozen=True)
class SessionInfo:
    """What a session says of itself.

    Attributes:
        session_id: Its name.
        state: Where it is in its life.
        pid: Its worker's process; None without one.
        executions: How many cells it has finished, the warmup not counted.
        created_at: When the session was made, in seconds since the epoch.
        started_at: When it became ready; None before.
    """

    session_id: str
    state: SessionState
    pid: int | None
    executions: int
    created_at: float
    started_at: float | None
