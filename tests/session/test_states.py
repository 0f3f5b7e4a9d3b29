"""The table of states: what it has works, what it lacks raises, and each change is logged."""

from __future__ import annotations

import logging
from itertools import product

import pytest

from pyrepl_kernel.errors import InvalidTransition, SessionError
from pyrepl_kernel.session.states import TRANSITIONS, SessionState, StateMachine

S = SessionState

WAYS = {
    S.CREATING: {S.WARMING, S.SHUTTING_DOWN, S.TERMINATED},
    S.WARMING: {S.READY, S.SHUTTING_DOWN, S.TERMINATED},
    S.READY: {S.BUSY, S.SHUTTING_DOWN, S.TERMINATED},
    S.BUSY: {S.IDLE, S.SHUTTING_DOWN, S.TERMINATED},
    S.IDLE: {S.BUSY, S.READY, S.SHUTTING_DOWN, S.TERMINATED},
    S.SHUTTING_DOWN: {S.TERMINATED},
    S.TERMINATED: {S.CREATING},
}

PATHS: dict[SessionState, list[SessionState]] = {
    S.CREATING: [],
    S.WARMING: [S.WARMING],
    S.READY: [S.WARMING, S.READY],
    S.BUSY: [S.WARMING, S.READY, S.BUSY],
    S.IDLE: [S.WARMING, S.READY, S.BUSY, S.IDLE],
    S.SHUTTING_DOWN: [S.SHUTTING_DOWN],
    S.TERMINATED: [S.TERMINATED],
}
"""How to get to each state from the first one."""


def machine_in(state: SessionState) -> StateMachine:
    """A machine in a state, which it reached by legal ways."""
    machine = StateMachine("test")
    for step in PATHS[state]:
        machine.move(step)
    return machine


def test_a_session_begins_in_creating() -> None:
    assert StateMachine("test").state is S.CREATING


def test_the_table_names_each_state() -> None:
    assert set(TRANSITIONS) == set(SessionState)


@pytest.mark.parametrize("state", SessionState)
def test_each_state_is_reachable(state: SessionState) -> None:
    assert machine_in(state).state is state


@pytest.mark.parametrize(("state", "to"), [(s, t) for s, t in product(S, S) if t in WAYS[s]])
def test_a_transition_of_the_table(state: SessionState, to: SessionState) -> None:
    machine = machine_in(state)
    machine.move(to)
    assert machine.state is to


@pytest.mark.parametrize(("state", "to"), [(s, t) for s, t in product(S, S) if t not in WAYS[s]])
def test_a_transition_that_the_table_lacks(state: SessionState, to: SessionState) -> None:
    machine = machine_in(state)
    with pytest.raises(InvalidTransition, match=f"session test: cannot go from {state} to {to}"):
        machine.move(to)
    assert machine.state is state
    assert issubclass(InvalidTransition, SessionError)


def test_each_transition_is_logged_with_the_session(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "pyrepl_kernel.session")
    machine_in(S.IDLE)
    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [
        ("DEBUG", "session test: creating -> warming"),
        ("DEBUG", "session test: warming -> ready"),
        ("DEBUG", "session test: ready -> busy"),
        ("DEBUG", "session test: busy -> idle"),
    ]


def test_a_refused_transition_is_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "pyrepl_kernel.session")
    with pytest.raises(InvalidTransition):
        StateMachine("test").move(S.IDLE)
    assert caplog.records == []
