"""Callbacks around the forks that workers are made by.

Where a warmup allows it, a worker is a fork of a *template*, a process that ran the warmup once.
What the two must not share, a connection to a database above all, is closed before the fork and
opened again after it::

    from pyrepl_kernel import hooks

    engine = sqlalchemy.create_engine(URL)

    @hooks.before_fork
    def close() -> None:
        engine.dispose()

    @hooks.after_fork
    def connect() -> None:
        global connection
        connection = engine.connect()

Where workers are spawned, each runs the warmup itself, and no hook is called.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, TypeVar

__all__ = ["HookTimeout", "after_fork", "before_fork"]

_Callback = TypeVar("_Callback", bound=Callable[[], Any])

_Limit = Callable[[str], AbstractContextManager[object]]


class HookTimeout(BaseException):
    """A hook did not return in time; the message says which."""


_before: list[Callable[[], Any]] = []
_after: list[Callable[[], Any]] = []


def before_fork(callback: _Callback) -> _Callback:
    """Have a function called in the template before each fork; the last one given goes first.

    It is called once more for the trial fork that follows a warmup. An exception in it is logged,
    and the fork is made all the same. If it does not return within five seconds, nothing is forked
    from then on, and workers are spawned.

    Args:
        callback: Takes no arguments.

    Returns:
        The callback, so that this can be used as a decorator.
    """
    _before.append(_checked(callback, "before_fork"))
    return callback


def after_fork(callback: _Callback) -> _Callback:
    """Have a function called in each new worker before its first cell; the first given goes first.

    numpy's global random state has been seeded anew by then, and what the function seeds counts.
    An exception in it is logged, and the worker is used all the same.

    Args:
        callback: Takes no arguments.

    Returns:
        The callback, so that this can be used as a decorator.
    """
    _after.append(_checked(callback, "after_fork"))
    return callback


def run_before_fork(limit: _Limit = nullcontext) -> list[str]:
    """Call the hooks that go before a fork; gives what went wrong, with tracebacks.

    Args:
        limit: Given what to call a hook, bounds its time.

    Raises:
        HookTimeout: One did not return in time.
    """
    return _run("before_fork", reversed(_before), limit)


def run_after_fork() -> list[str]:
    """Call the hooks that go after a fork; gives what went wrong, with tracebacks."""
    return _run("after_fork", _after)


def _checked(callback: Callable[[], Any], kind: str) -> Callable[[], Any]:
    if not callable(callback):
        raise TypeError(f"{kind} takes a function without arguments, not {callback!r}")
    return callback


def _run(
    kind: str, callbacks: Iterable[Callable[[], Any]], limit: _Limit = nullcontext
) -> list[str]:
    problems = []
    for callback in list(callbacks):
        name = f"the {kind} hook {getattr(callback, '__qualname__', repr(callback))}"
        try:
            with limit(name):
                callback()
        except HookTimeout:
            raise
        except BaseException:
            # sys.exit() among them: a template that a hook of one user's ends serves nobody.
            problems.append(f"{name} failed:\n{traceback.format_exc()}")
    return problems
