"""From samples to medians, ratios, a table and JSON."""

import datetime
import importlib.metadata
import json
import os
import platform
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .runner import Samples
from .scenarios import SCENARIOS, Unit

_LIBRARIES = ("jupyter_client", "pyzmq")


@dataclass(slots=True)
class Report:
    """All that one run of the benchmarks found.

    Attributes:
        labels: the kernels, in the order of the table's columns.
        baseline: the label that ratios divide by.
        runs: rounds that were asked for.
        kernels: for each label what its kernel_info said, or why there is none.
        results: scenario → label → samples.
        is_interrupted: Ctrl-C came before the end.
    """

    labels: Sequence[str]
    baseline: str
    runs: int
    kernels: dict[str, dict[str, str]] = field(default_factory=dict)
    results: dict[str, dict[str, Samples]] = field(default_factory=dict)
    is_interrupted: bool = False
    load_before: tuple[float, ...] = field(default_factory=lambda: _load())

    @property
    def failures(self) -> list[str]:
        """One line for each kernel that does not start and each scenario that failed."""
        starts = [
            f"{k}: {info['failure']}" for k, info in self.kernels.items() if "failure" in info
        ]
        return starts + [
            f"{name}, {label}: {samples.failure}"
            for name, by_label in self.results.items()
            for label, samples in by_label.items()
            if samples.failure is not None
        ]

    def ratio(self, name: str, label: str) -> float | None:
        """Median over the baseline's median; None where one of them is missing."""
        ours, theirs = self._values(name, label), self._values(name, self.baseline)
        return statistics.median(ours) / statistics.median(theirs) if ours and theirs else None

    def _values(self, name: str, label: str) -> list[float]:
        """The values of a measurement that did not fail."""
        samples = self.results.get(name, {}).get(label, Samples())
        return samples.values if samples.failure is None else []

    def line(self, name: str) -> str:
        """One scenario in one line, for the progress."""
        return ", ".join(f"{label} {' '.join(self._cell(name, label))}" for label in self.labels)

    def _cell(self, name: str, label: str) -> list[str]:
        """Median, spread and ratio as texts; the baseline has no ratio."""
        values = self._values(name, label)
        samples = self.results.get(name, {}).get(label)
        if not values:
            is_out = "failure" in self.kernels.get(label, {})
            return ["failed" if is_out or (samples and samples.failure) else "-", ""]
        median = statistics.median(values)
        texts = [as_text(median, SCENARIOS[name].unit), f"±{spread(values) / median:.0%}"]
        ratio = self.ratio(name, label)
        if label != self.baseline and ratio is not None:
            texts.append(f"{ratio:.2f}")
        return texts

    def table(self) -> str:
        """Medians, spreads and ratios for people, followed by the failures' reasons."""
        head = ["scenario"]
        for label in self.labels:
            head += [label, ""] + ([] if label == self.baseline else ["ratio"])
        rows = [head]
        for name in self.results:
            row = [name]
            for label in self.labels:
                width = 2 if label == self.baseline else 3
                row += (self._cell(name, label) + [""] * width)[:width]
            rows.append(row)
        lines = _aligned(rows)
        lines.insert(1, "-" * max(map(len, lines)))
        lines.append("")
        lines.append(
            f"medians of {self.runs}, ± half the interquartile range; "
            f"ratio: median over that of {self.baseline}"
        )
        if self.failures:
            lines += ["", "failed:", *(f"  {failure}" for failure in self.failures)]
        if self.is_interrupted:
            lines += ["", "interrupted: the last scenario is incomplete"]
        return "\n".join(lines)

    def save(self, path: Path) -> None:
        """Writes everything as JSON: seconds and bytes, each sample, the machine."""
        document = {
            "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "runs": self.runs,
            "baseline": self.baseline,
            "interrupted": self.is_interrupted,
            "machine": _machine() | {"load_before": self.load_before, "load_after": _load()},
            "kernels": self.kernels,
            "scenarios": {
                name: {
                    "summary": SCENARIOS[name].summary,
                    "unit": SCENARIOS[name].unit.value,
                    "kernels": self._figures(name, by_label),
                }
                for name, by_label in self.results.items()
            },
        }
        path.write_text(json.dumps(document, indent=2) + "\n")

    def _figures(self, name: str, by_label: Mapping[str, Samples]) -> dict[str, dict[str, Any]]:
        return {
            label: {
                "median": statistics.median(samples.values) if samples.values else None,
                "spread": spread(samples.values),
                "ratio": self.ratio(name, label),
                "samples": samples.values,
                "failure": samples.failure,
            }
            for label, samples in by_label.items()
        }


def spread(values: Sequence[float]) -> float:
    """Half the interquartile range; 0 for fewer than two values."""
    if len(values) < 2:
        return 0.0
    low, _, high = statistics.quantiles(values, n=4, method="inclusive")
    return (high - low) / 2


def as_text(value: float, unit: Unit) -> str:
    """A number with its unit."""
    if unit is Unit.BYTES:
        return f"{value / 1e6:.1f} MB"
    if value >= 1:
        return f"{value:.2f} s"
    digits = 2 if value < 0.01 else 1 if value < 0.1 else 0
    return f"{value * 1e3:.{digits}f} ms"


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """The first column to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            text.rjust(width) if index else text.ljust(width)
            for index, (text, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def _load() -> tuple[float, ...]:
    """The load averages, empty on systems without them."""
    return os.getloadavg() if hasattr(os, "getloadavg") else ()


def _machine() -> dict[str, Any]:
    return {
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        "python": platform.python_version(),
        "libraries": {name: importlib.metadata.version(name) for name in _LIBRARIES},
    }
