"""Isolated, warm Python processes: a Jupyter kernel, and the library under it."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from pyrepl_kernel._version import __version__

if TYPE_CHECKING:
    from pyrepl_kernel.errors import (
        CellTimeout,
        DeathCause,
        ExecutionTimeout,
        MemoryLimitExceeded,
        PoolClosed,
        PoolError,
        PoolExhausted,
        PoolTimeout,
        ProtocolError,
        PyreplError,
        SessionClosed,
        SessionError,
        StartError,
        WarmupError,
        WorkerDied,
    )
    from pyrepl_kernel.protocol.messages import (
        DisplayMessage,
        ErrorMessage,
        ExecuteMessage,
        InputMessage,
        Message,
        MessageType,
        OutputMessage,
        ResultMessage,
    )
    from pyrepl_kernel.session.execution import Outcome
    from pyrepl_kernel.session.guard import Force
    from pyrepl_kernel.session.limits import Limits
    from pyrepl_kernel.session.pool import PoolConfig, PoolStats, SessionPool
    from pyrepl_kernel.session.session import Session, SessionConfig, SessionInfo
    from pyrepl_kernel.session.states import SessionState

_HOMES = {
    "pyrepl_kernel.errors": (
        "CellTimeout",
        "CellTimeout",
        "DeathCause",
        "ExecutionTimeout",
        "MemoryLimitExceeded",
        "PoolClosed",
        "PoolError",
        "PoolExhausted",
        "PoolTimeout",
        "ProtocolError",
        "PyreplError",
        "SessionClosed",
        "SessionError",
        "StartError",
        "WarmupError",
        "WorkerDied",
    ),
    "pyrepl_kernel.protocol.messages": (
        "DisplayMessage",
        "ErrorMessage",
        "ExecuteMessage",
        "InputMessage",
        "Message",
        "MessageType",
        "OutputMessage",
        "ResultMessage",
    ),
    "pyrepl_kernel.session.execution": ("Outcome",),
    "pyrepl_kernel.session.guard": ("Force",),
    "pyrepl_kernel.session.limits": ("Limits",),
    "pyrepl_kernel.session.pool": ("PoolConfig", "PoolStats", "SessionPool"),
    "pyrepl_kernel.session.session": ("Session", "SessionConfig", "SessionInfo"),
    "pyrepl_kernel.session.states": ("SessionState",),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "CellTimeout",
    "DeathCause",
    "DisplayMessage",
    "ErrorMessage",
    "ExecuteMessage",
    "ExecutionTimeout",
    "Force",
    "InputMessage",
    "Limits",
    "MemoryLimitExceeded",
    "Message",
    "MessageType",
    "Outcome",
    "OutputMessage",
    "PoolClosed",
    "PoolConfig",
    "PoolError",
    "PoolExhausted",
    "PoolStats",
    "PoolTimeout",
    "ProtocolError",
    "PyreplError",
    "ResultMessage",
    "Session",
    "SessionClosed",
    "SessionConfig",
    "SessionError",
    "SessionInfo",
    "SessionPool",
    "SessionState",
    "StartError",
    "WarmupError",
    "WorkerDied",
    "__version__",
]


def __getattr__(name: str) -> Any:
    # Each process of ours imports this package and few of these names; none is loaded unasked.
    home = _HOME_OF.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
