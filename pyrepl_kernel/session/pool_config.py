"""What a pool is told, and what it says of itself."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from pyrepl_kernel.session.session import SessionConfig

__all__ = ["START_METHODS", "PoolConfig", "PoolStats", "check_seconds", "config_from"]

START_METHODS = ("auto", "fork", "spawn")

_ALIASES = {"min_size": "min_idle", "max_size": "max_sessions"}


@dataclass(frozen=True)
class PoolConfig:
    """How a pool keeps its sessions. Durations are in seconds; None means without limit.

    Attributes:
        min_idle: Sessions that are kept ready; ``min_size`` as a keyword of ``SessionPool``.
        max_sessions: Most sessions at a time, and with them worker processes, those that are being
            started or ended among them; ``max_size`` as a keyword of ``SessionPool``.
        warmup_code: Run once in each session before it is ready.
        session_timeout: After so long without use, idle sessions above ``min_idle`` are ended.
        acquire_timeout: How long ``acquire`` waits unless it is told otherwise.
        max_lifetime: Age at which a session is replaced as soon as it is not in use. Each gets up
            to a tenth less, at random, so that those of one moment do not all end in another.
        recycle_after_executions: With ``reuse``: cells after which a session is replaced.
        health_check_interval: How often idle sessions are asked whether they still answer; a
            session that does not is replaced. None: never, only their death is noticed.
        answer_timeout: How long a session may take to answer that, or to be reset.
        max_waiting: Most callers of ``acquire`` that may wait at a time.
        reuse: Reset a released session to what its warmup left, and hand it out again. What
            the namespace does not hold stays as it was: threads, files, imported modules.
        fill_at_start: Make the idle sessions when the pool starts; False: when ``fill`` is called.
        refill_concurrency: Most sessions started at a time when nobody waits for one.
        python: The workers' interpreter.
        cwd: The workers' working directory; this process's when None.
        env: Environment variables on top of this process's.
        session_config: Timeouts and limits of each session.
        start_method: How workers are made. ``fork``: a template process runs the warmup once, and
            they are forks of it, which takes milliseconds and shares memory. ``spawn``: each is
            started and warmed up by itself. ``auto``: forked where that is safe. What cannot be
            forked is spawned in any case; ``stats()`` says why.
    """

    min_idle: int = 2
    max_sessions: int = 10
    warmup_code: str | None = None
    session_timeout: float | None = 600.0
    acquire_timeout: float | None = 60.0
    max_lifetime: float | None = None
    recycle_after_executions: int | None = None
    health_check_interval: float | None = None
    answer_timeout: float = 10.0
    max_waiting: int | None = None
    reuse: bool = False
    fill_at_start: bool = True
    refill_concurrency: int = 2
    python: str = sys.executable
    cwd: str | os.PathLike[str] | None = None
    env: Mapping[str, str] | None = None
    session_config: SessionConfig | None = None
    start_method: str = "auto"

    def __post_init__(self) -> None:
        """Refuse what cannot be meant.

        Raises:
            TypeError: A value is of the wrong type.
            ValueError: A number is out of range, or ``min_idle`` over ``max_sessions``.
        """
        for name, least in (("min_idle", 0), ("max_sessions", 1), ("refill_concurrency", 1)):
            _check_count(name, getattr(self, name), least)
        for name, least in (("recycle_after_executions", 1), ("max_waiting", 0)):
            if getattr(self, name) is not None:
                _check_count(name, getattr(self, name), least)
        for name in ("session_timeout", "acquire_timeout"):
            check_seconds(name, getattr(self, name))
        for name in ("max_lifetime", "health_check_interval", "answer_timeout"):
            check_seconds(name, getattr(self, name), zero=False, optional=name != "answer_timeout")
        for name, kinds in _KINDS.items():
            if not isinstance(getattr(self, name), kinds):
                raise TypeError(_expected(name, _names(kinds), getattr(self, name)))
        if self.start_method not in START_METHODS:
            raise ValueError(_expected("start_method", _either(START_METHODS), self.start_method))
        if self.env is not None:
            object.__setattr__(self, "env", dict(self.env))
        if self.min_idle > self.max_sessions:
            raise ValueError(
                f"{_title('min_idle')} is {self.min_idle} and must not be over "
                f"{_title('max_sessions')}, which is {self.max_sessions}"
            )


_KINDS: Mapping[str, tuple[type, ...]] = {
    "warmup_code": (str, type(None)),
    "reuse": (bool,),
    "fill_at_start": (bool,),
    "python": (str,),
    "cwd": (str, os.PathLike, type(None)),
    "env": (Mapping, type(None)),
    "session_config": (SessionConfig, type(None)),
    "start_method": (str,),
}


@dataclass(frozen=True)
class PoolStats:
    """A pool's numbers at one moment.

    The first five are its sessions by what they are at; together they never exceed
    ``max_sessions``. The sessions that came up and are not gone, ``created - retired``, are those
    idle, busy, resetting or retiring.

    Attributes:
        idle: Ready to be handed out.
        busy: Handed out.
        starting: Not ready yet.
        resetting: Released, and on their way back to what the warmup left.
        retiring: Being ended; their processes are not gone yet.
        waiting: Callers of ``acquire`` in the queue.
        created: Sessions that came up since the pool was made.
        retired: How many of those are gone.
        died: Workers that ended without having been told to, after they had come up.
        failed: Sessions that did not come up.
        acquired: Sessions handed out, each time counted.
        timeouts: Callers of ``acquire`` whose time ran out.
        last_error: Why the last session did not come up, or why an idle one died; None when one
            came up after that.
        forked: How many of those created are forks of a template.
        start_method: How the next is made: ``fork``, ``quiesce+fork`` or ``spawn``.
        start_reason: Why it is made so.
        start_advice: What can be done to have it otherwise; empty when there is nothing to do.
    """

    idle: int
    busy: int
    starting: int
    resetting: int
    retiring: int
    waiting: int
    created: int
    retired: int
    died: int
    failed: int
    acquired: int
    timeouts: int
    last_error: str | None
    forked: int = 0
    start_method: str = "spawn"
    start_reason: str = ""
    start_advice: str = ""


def config_from(config: PoolConfig | None, options: Mapping[str, Any]) -> PoolConfig:
    """The configuration that the arguments of ``SessionPool`` ask for.

    Raises:
        TypeError: Both a configuration and keywords, an unknown keyword, an alias beside the name
            that it stands for, or a value of the wrong type.
        ValueError: A value that is out of range.
    """
    if config is not None:
        if not isinstance(config, PoolConfig):
            raise TypeError(
                f"SessionPool() takes a PoolConfig or keywords, not {config!r}; "
                "for numbers write SessionPool(min_idle=…, max_sessions=…)"
            )
        if options:
            raise TypeError(
                f"SessionPool() got a config and the keywords {', '.join(options)}; give one of "
                "the two (dataclasses.replace makes a changed config)"
            )
        return config
    known = [field.name for field in fields(PoolConfig)]
    named: dict[str, Any] = {}
    for key, value in options.items():
        name = _ALIASES.get(key, key)
        if name not in known:
            raise TypeError(
                f"SessionPool() got an unknown keyword {key!r}; it takes "
                f"{', '.join([*_ALIASES, *known])}"
            )
        if key != name and name in options:
            raise TypeError(f"SessionPool() got {key} and {name}, which are the same; give one")
        named[name] = value
    return PoolConfig(**named)


def check_seconds(name: str, value: object, *, zero: bool = True, optional: bool = True) -> None:
    """Refuse what is no duration.

    Args:
        name: What the value is called.
        value: The duration.
        zero: Whether it may be 0.
        optional: Whether it may be None.

    Raises:
        TypeError: It is no number.
        ValueError: It is negative, not a number, or 0 where that makes no sense.
    """
    if value is None and optional:
        return
    if isinstance(value, bool) or not isinstance(value, int | float):
        what = "a number of seconds or None" if optional else "a number of seconds"
        raise TypeError(_expected(name, what, value))
    if math.isnan(value) or value < 0 or (value == 0 and not zero):
        least = "at least 0" if zero else "more than 0"
        raise ValueError(_expected(name, f"{least} seconds", value))


def _check_count(name: str, value: object, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(_expected(name, "an int", value))
    if value < least:
        raise ValueError(_expected(name, f"at least {least}", value))


def _expected(name: str, what: str, value: object) -> str:
    return f"{_title(name)} must be {what}, not {value!r}"


def _title(name: str) -> str:
    """The name, with the other one that the caller may have used."""
    twins = [alias for alias, twin in _ALIASES.items() if twin == name]
    return f"{name} (also {twins[0]})" if twins else name


def _names(kinds: tuple[type, ...]) -> str:
    return " or ".join("None" if kind is type(None) else kind.__name__ for kind in kinds)


def _either(values: tuple[str, ...]) -> str:
    return ", ".join(values[:-1]) + f" or {values[-1]}"
