"""What a pool may be told, and how it refuses the rest."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from pyrepl_kernel import PoolConfig, SessionConfig, SessionPool


def test_three_ways_to_say_the_same() -> None:
    pools = (
        SessionPool(min_size=3, max_size=7),
        SessionPool(min_idle=3, max_sessions=7),
        SessionPool(min_size=3, max_sessions=7),
        SessionPool(PoolConfig(min_idle=3, max_sessions=7)),
        SessionPool(config=PoolConfig(min_idle=3, max_sessions=7)),
    )
    assert {(pool._config.min_idle, pool._config.max_sessions) for pool in pools} == {(3, 7)}
    assert all(pool._config == pools[0].config for pool in pools)
    assert SessionPool()._config == PoolConfig() == PoolConfig(min_idle=2, max_sessions=10)


def test_every_field_is_a_keyword() -> None:
    values: dict[str, Any] = {
        "min_idle": 1,
        "max_sessions": 3,
        "warmup_code": "x = 1",
        "session_timeout": 1,
        "acquire_timeout": 0,
        "max_lifetime": 2.5,
        "recycle_after_executions": 1,
        "health_check_interval": 0.5,
        "answer_timeout": 1.5,
        "max_waiting": 0,
        "reuse": True,
        "fill_at_start": False,
        "refill_concurrency": 1,
        "python": "/usr/bin/python3",
        "cwd": Path("/tmp"),
        "env": {"A": "1"},
        "session_config": SessionConfig(start_timeout=1),
        "start_method": "spawn",
    }
    assert values.keys() == {field.name for field in dataclasses.fields(PoolConfig)}
    assert SessionPool(**values)._config == PoolConfig(**values)


def test_a_config_cannot_be_changed_not_even_through_its_environment() -> None:
    env = {"A": "1"}
    config = PoolConfig(env=env)
    env["A"] = "2"
    assert config.env == {"A": "1"}
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.min_idle = 3  # type: ignore[misc]


@pytest.mark.parametrize("arguments", [{"config": PoolConfig(), "min_idle": 1, "reuse": True}])
def test_a_config_and_keywords(arguments: dict[str, Any]) -> None:
    with pytest.raises(TypeError, match="config and the keywords min_idle, reuse"):
        SessionPool(**arguments)


def test_a_number_is_no_config() -> None:
    with pytest.raises(TypeError, match="PoolConfig or keywords, not 4"):
        SessionPool(4)  # type: ignore[arg-type]


def test_an_unknown_keyword() -> None:
    with pytest.raises(TypeError, match=r"'max_idle'.*min_size, max_size, min_idle"):
        SessionPool(max_idle=4)


@pytest.mark.parametrize(
    ("alias", "name"), [("min_size", "min_idle"), ("max_size", "max_sessions")]
)
def test_an_alias_beside_its_twin(alias: str, name: str) -> None:
    for order in ((alias, name), (name, alias)):
        options: dict[str, Any] = dict.fromkeys(order, 3)
        with pytest.raises(TypeError, match=f"{alias} and {name}"):
            SessionPool(**options)


@pytest.mark.parametrize("names", [("min_idle", "max_sessions"), ("min_size", "max_size")])
def test_a_minimum_over_the_maximum(names: tuple[str, str]) -> None:
    options: dict[str, Any] = dict(zip(names, (5, 2), strict=True))
    with pytest.raises(ValueError, match=r"5.*2") as caught:
        SessionPool(**options)
    assert all(name in str(caught.value) for name in names)
    assert PoolConfig(min_idle=2, max_sessions=2).min_idle == 2


@pytest.mark.parametrize(
    ("name", "value", "error"),
    [
        ("min_idle", -1, ValueError),
        ("min_idle", 1.0, TypeError),
        ("min_idle", True, TypeError),
        ("min_size", None, TypeError),
        ("max_sessions", 0, ValueError),
        ("max_size", "4", TypeError),
        ("refill_concurrency", 0, ValueError),
        ("recycle_after_executions", 0, ValueError),
        ("recycle_after_executions", 0.5, TypeError),
        ("max_waiting", -1, ValueError),
        ("max_waiting", False, TypeError),
        ("acquire_timeout", -0.1, ValueError),
        ("acquire_timeout", "1", TypeError),
        ("acquire_timeout", True, TypeError),
        ("session_timeout", float("nan"), ValueError),
        ("max_lifetime", 0, ValueError),
        ("health_check_interval", 0, ValueError),
        ("answer_timeout", 0, ValueError),
        ("answer_timeout", None, TypeError),
        ("warmup_code", b"x = 1", TypeError),
        ("reuse", 1, TypeError),
        ("fill_at_start", None, TypeError),
        ("python", None, TypeError),
        ("cwd", 3, TypeError),
        ("env", [("A", "1")], TypeError),
        ("session_config", {}, TypeError),
    ],
)
def test_a_value_that_cannot_be_meant(name: str, value: Any, error: type[Exception]) -> None:
    with pytest.raises(error) as caught:
        SessionPool(**{name: value})
    assert name in str(caught.value)
    assert repr(value) in str(caught.value)
