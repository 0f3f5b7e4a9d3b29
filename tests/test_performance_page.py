"""What was measured in parts is put together, unless the parts do not belong together."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from benchmarks.page import together

MACHINE = {"platform": "Linux", "cpus": 2, "python": "3.11.7", "libraries": {"pyzmq": "27"}}


def part(*scenarios: str, median: float = 1.0, kernel: str = "pyrepl") -> dict[str, Any]:
    kernels = {"python3": {"spec": "python3"}, kernel: {"spec": kernel, "implementation": "1"}}
    return {
        "created": "2026-01-01T00:00:00+00:00",
        "runs": 15,
        "baseline": "python3",
        "machine": copy.deepcopy(MACHINE) | {"load_before": [median]},
        "kernels": kernels,
        "scenarios": {name: {"kernels": {kernel: {"median": median}}} for name in scenarios},
    }


def test_scenarios_come_in_their_order_and_the_later_measurement_counts() -> None:
    whole = together([part("print", "pass"), part("start-reply", "pass", median=2.0, kernel="py")])
    assert list(whole["scenarios"]) == ["start-reply", "pass", "print"]
    assert whole["scenarios"]["pass"]["kernels"] == {"py": {"median": 2.0}}
    assert list(whole["kernels"]) == ["python3", "pyrepl", "py"]


def test_parts_stay_as_they_are() -> None:
    parts = [part("pass"), part("print")]
    before = copy.deepcopy(parts)
    together(parts)
    assert parts == before


@pytest.mark.parametrize(
    ("where", "name", "value"),
    [
        ("", "runs", 9),
        ("", "baseline", "xpython"),
        ("machine", "cpus", 4),
        ("machine", "python", "3.12.1"),
        ("kernels", "pyrepl", {"spec": "pyrepl", "implementation": "2"}),
    ],
)
def test_parts_that_do_not_belong_together_are_refused(where: str, name: str, value: Any) -> None:
    other = part("print")
    (other[where] if where else other)[name] = value
    with pytest.raises(ValueError, match=name):
        together([part("pass"), other])
