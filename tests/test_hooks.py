"""Callbacks around forks."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from pyrepl_kernel import hooks


@pytest.fixture(autouse=True)
def no_hooks(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(hooks, "_before", [])
    monkeypatch.setattr(hooks, "_after", [])
    yield


def test_hooks_before_a_fork_run_last_first_and_those_after_it_first_first() -> None:
    calls: list[str] = []

    @hooks.before_fork
    def _() -> None:
        calls.append("before 1")

    hooks.before_fork(lambda: calls.append("before 2"))
    hooks.after_fork(lambda: calls.append("after 1"))

    @hooks.after_fork
    def _() -> None:
        calls.append("after 2")

    assert hooks.run_before_fork() == hooks.run_after_fork() == []
    assert calls == ["before 2", "before 1", "after 1", "after 2"]


def test_a_hook_that_is_a_decorator_gives_the_function_back() -> None:
    def close() -> None: ...

    assert hooks.before_fork(close) is close
    assert hooks.after_fork(close) is close


@pytest.mark.parametrize("error", ["ValueError('no database')", "SystemExit(3)"])
def test_a_hook_that_fails_is_told_and_stops_no_other(error: str) -> None:
    calls: list[str] = []

    @hooks.after_fork
    def connect() -> None:
        raise eval(error)

    hooks.after_fork(lambda: calls.append("second"))
    (problem,) = hooks.run_after_fork()
    assert "the after_fork hook" in problem and "connect" in problem
    assert error.partition("(")[0] in problem and "Traceback" in problem
    assert calls == ["second"]


def test_a_hook_that_hangs_is_named_and_ends_the_matter() -> None:
    calls: list[str] = []

    @contextmanager
    def limit(name: str) -> Iterator[None]:
        calls.append(name)
        yield
        raise hooks.HookTimeout(f"{name} hangs")

    hooks.before_fork(lambda: calls.append("first"))

    @hooks.before_fork
    def close() -> None: ...

    with pytest.raises(hooks.HookTimeout, match=r"the before_fork hook .*close hangs"):
        hooks.run_before_fork(limit)
    assert len(calls) == 1


@pytest.mark.parametrize("register", [hooks.before_fork, hooks.after_fork])
def test_what_cannot_be_called_is_refused_at_once(register: object) -> None:
    with pytest.raises(TypeError, match="takes a function without arguments, not 3"):
        register(3)  # type: ignore[operator]


def test_hooks_cost_a_warmup_next_to_nothing() -> None:
    code = "import sys, pyrepl_kernel.hooks; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert not loaded & {"asyncio", "msgpack", "socket", "threading", "IPython", "zmq"}
    ours = {name for name in loaded if name.startswith("pyrepl_kernel.")}
    assert ours <= {"pyrepl_kernel.hooks", "pyrepl_kernel._version"}
