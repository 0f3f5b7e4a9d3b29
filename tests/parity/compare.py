"""Plays a scenario on both kernels and says where they differ."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

import pytest

from .differences import DIFFERENCES
from .kernels import Pair
from .normalise import as_lines
from .steps import Scenario

__all__ = ["check", "scenarios"]


_known: set[str] = set()


def scenarios(table: Sequence[Scenario]) -> pytest.MarkDecorator:
    """Make a test of each scenario in a table."""
    names = [scenario.name for scenario in table]
    twice = {name for name in names if names.count(name) > 1 or name in _known}
    assert not twice, f"two scenarios of the same name: {twice}"
    _known.update(names)
    return pytest.mark.parametrize(
        "scenario", [pytest.param(scenario, id=scenario.name) for scenario in table]
    )


def check(pair: Pair, scenario: Scenario) -> None:
    """Fail unless both kernels said the same, or differ as they are meant to."""
    played = pair.play(scenario)
    theirs, ours = (as_lines(transcript, scenario.loose_streams) for transcript in played)
    difference = DIFFERENCES.get(scenario.name)
    if difference is None:
        if theirs != ours:
            pytest.fail(_diff(scenario, theirs, ours), pytrace=False)
        return
    if theirs == ours:
        pytest.fail(f"{scenario.name}: no longer differs; take it off the list", pytrace=False)
    texts = ["\n".join(lines) for lines in (theirs, ours)]
    for number, expected in enumerate((difference.theirs, difference.ours)):
        for text in expected:
            if text not in texts[number] or text in texts[1 - number]:
                who = ("ipykernel", "this kernel")[number]
                message = f"{text!r} is not what sets {who} apart\n"
                pytest.fail(message + _diff(scenario, theirs, ours), pytrace=False)


def _diff(scenario: Scenario, theirs: list[str], ours: list[str]) -> str:
    steps = "\n".join(f"  {number}. {step}" for number, step in enumerate(scenario.steps, 1))
    lines = difflib.unified_diff(theirs, ours, "ipykernel", "pyrepl", n=4, lineterm="")
    return f"{scenario.name}\n{steps}\n" + "\n".join(lines)
