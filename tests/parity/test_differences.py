"""The list of differences names scenarios that there are."""

from __future__ import annotations

import importlib
from pathlib import Path

from .differences import DIFFERENCES

HERE = Path(__file__).parent


def test_each_difference_is_of_a_scenario() -> None:
    names = set()
    for path in HERE.glob("test_*.py"):
        module = importlib.import_module(f".{path.stem}", __package__)
        names |= {scenario.name for scenario in getattr(module, "SCENARIOS", ())}
    assert len(names) >= 200
    assert not set(DIFFERENCES) - names
