"""Writes docs/performance.md and its pictures from what was measured.

``python -m benchmarks.page`` measures nothing. The figures are those of ``docs/performance.json``
(``python -m benchmarks --json``), ``docs/scale.json`` (``python -m benchmarks.scale --json``) and
``benchmarks/bounds.json`` (``python -m benchmarks.gate --update``). Some scenarios at a time can be
measured, each into a file of its own; ``python -m benchmarks.page one.json two.json`` puts them
together in ``docs/performance.json`` first.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

from .gate import BOUNDS
from .report import as_text
from .scenarios import SCENARIOS, Unit

_DOCS = Path(__file__).parent.parent / "docs"
_OURS = "pyrepl"
_COLOURS = {"pyrepl": "#2a6fdb", "xpython": "#c77d2e", "async": "#8a8a8a", "py": "#b9b9b9"}
_BAR, _ROW, _LEFT, _WIDTH = 9, 14, 150, 760
_MOST = 2.0  # ratio at which a bar is cut off

Document = dict[str, Any]


def ratios_svg(document: Document) -> str:
    """Bars: each kernel's median over the baseline's, by scenario."""
    labels = [label for label in document["kernels"] if label in _COLOURS]
    parts, y = [], 30
    scale = (_WIDTH - _LEFT - 60) / _MOST
    for name, scenario in document["scenarios"].items():
        parts.append(f'<text x="{_LEFT - 8}" y="{y + 10}" text-anchor="end">{escape(name)}</text>')
        for label in labels:
            ratio = scenario["kernels"].get(label, {}).get("ratio")
            if ratio is None:
                continue
            length = min(ratio, _MOST) * scale
            parts.append(
                f'<rect x="{_LEFT}" y="{y}" width="{length:.1f}" height="{_BAR}" '
                f'fill="{_COLOURS[label]}"/>'
                f'<text x="{_LEFT + length + 4:.1f}" y="{y + 8}" class="n">{ratio:.2f}</text>'
            )
            y += _ROW - 3
        y += 8
    one = _LEFT + scale
    legend = "".join(
        f'<rect x="{_LEFT + 110 * n}" y="8" width="10" height="10" fill="{_COLOURS[label]}"/>'
        f'<text x="{_LEFT + 110 * n + 14}" y="17">{label}</text>'
        for n, label in enumerate(labels)
    )
    line = f'<line x1="{one}" y1="24" x2="{one}" y2="{y}" stroke="#d33" stroke-dasharray="3 3"/>'
    return _svg(y + 10, [legend, line, *parts])


def curves_svg(curves: dict[str, list[list[float]]]) -> str:
    """Small plots, one below the other: each curve over its first coordinate, from zero."""
    parts, top = [], 20
    for name, points in curves.items():
        for column in range(1, len(points[0])):
            values = [point[column] for point in points]
            most, last = max(values) or 1.0, points[-1][0]
            path = " ".join(
                f"{_LEFT + point[0] / last * (_WIDTH - _LEFT - 120):.1f},"
                f"{top + 70 - value / most * 60:.1f}"
                for point, value in zip(points, values, strict=True)
            )
            what = ("seconds or ms", "bytes")[column - 1]
            parts.append(
                f'<text x="{_LEFT - 8}" y="{top + 40}" text-anchor="end">{escape(name)}</text>'
                f'<text x="{_LEFT - 8}" y="{top + 54}" text-anchor="end" class="n">{what}</text>'
                f'<polyline points="{path}" fill="none" stroke="#2a6fdb" stroke-width="1.5"/>'
                f'<text x="{_WIDTH - 112}" y="{top + 40}" class="n">{values[0]:.4g} … '
                f"{values[-1]:.4g}</text>"
                f'<text x="{_WIDTH - 112}" y="{top + 54}" class="n">at {points[0][0]:g} … {last:g}'
                "</text>"
            )
            top += 90
    return _svg(top, parts)


def _svg(height: int, parts: list[str]) -> str:
    style = "text{font:12px sans-serif;fill:#444}.n{font-size:9px;fill:#777}"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}">'
        f'<style>{style}</style><rect width="100%" height="100%" fill="#fff"/>'
        f"{''.join(parts)}</svg>\n"
    )


def table(document: Document) -> str:
    """Medians and ratios, as a table of Markdown."""
    labels = list(document["kernels"])
    head = ["what", *labels]
    rows = [head, ["---"] * len(head)]
    for name, scenario in document["scenarios"].items():
        row = [f"{scenario['summary']} (`{name}`)"]
        for label in labels:
            figures = scenario["kernels"].get(label, {})
            if figures.get("failure") or figures.get("median") is None:
                row.append("failed" if figures.get("failure") else "-")
                continue
            text = as_text(figures["median"], Unit(scenario["unit"]))
            ratio = figures["ratio"]
            is_base = label == document["baseline"]
            row.append(text if is_base else f"{text} · **{ratio:.2f}**")
        rows.append(row)
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _forget_last_words(document: Document) -> None:
    """Leave a kernel's last words to whoever looks into it, on that machine."""
    for scenario in document["scenarios"].values():
        for figures in scenario["kernels"].values():
            if failure := figures.get("failure"):
                figures["failure"] = failure.partition("; its last words")[0]


def failures(document: Document) -> str:
    """What did not work, and why."""
    lines = [
        f"- `{name}`, {label}: {figures['failure']}"
        for name, scenario in document["scenarios"].items()
        for label, figures in scenario["kernels"].items()
        if figures.get("failure")
    ]
    return "\n".join(["Failed:", "", *lines]) if lines else ""


def counts() -> str:
    """The gate's bounds, as a table of Markdown."""
    rows = ["| count | bound |", "| --- | --- |"]
    for version, bounds in json.loads(BOUNDS.read_text()).items():
        rows += [f"| {version}: {name} | {bound:,} |" for name, bound in bounds.items()]
    return "\n".join(rows)


def together(documents: Sequence[Document]) -> Document:
    """What was measured in parts, as one document: of a scenario measured twice, the later.

    Raises:
        ValueError: The parts are not of one machine, with one Python and one number of rounds, or
            a kernel has changed in between.
    """
    whole: Document = {**documents[0], "kernels": {}, "scenarios": {}}
    for document in documents:
        for name in ("runs", "baseline"):
            if document[name] != whole[name]:
                raise ValueError(f"{name}: {whole[name]} in one part, {document[name]} in another")
        for name in ("platform", "cpus", "python", "libraries"):
            if document["machine"][name] != whole["machine"][name]:
                raise ValueError(f"the parts were measured with another {name}: measure all anew")
        for label, info in document["kernels"].items():
            if whole["kernels"].setdefault(label, info) != info:
                raise ValueError(f"{label} is another one in another part: measure all anew")
        whole["scenarios"] |= document["scenarios"]
    ordered = [name for name in SCENARIOS if name in whole["scenarios"]]
    whole["scenarios"] = {name: whole["scenarios"][name] for name in ordered}
    return whole


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the page and its pictures."""
    parser = argparse.ArgumentParser(description="Writes docs/performance.md anew.")
    parser.add_argument(
        "parts",
        nargs="*",
        type=Path,
        metavar="JSON",
        help="what was measured in parts, to become docs/performance.json",
    )
    if parts := parser.parse_args(arguments).parts:
        try:
            whole = together([json.loads(part.read_text()) for part in parts])
        except (OSError, ValueError) as error:
            print(f"nothing is written: {error}", file=sys.stderr)
            return 2
        _forget_last_words(whole)
        (_DOCS / "performance.json").write_text(json.dumps(whole, indent=2) + "\n")
    document = json.loads((_DOCS / "performance.json").read_text())
    machine = document["machine"]
    page = (Path(__file__).parent / "performance.md.in").read_text(encoding="utf-8")
    versions = ", ".join(
        f"{label}: {info.get('implementation', 'did not start')}"
        for label, info in document["kernels"].items()
    )
    scale_path = _DOCS / "scale.json"
    has_scale = scale_path.exists()
    for name, text in {
        "table": table(document),
        "failures": failures(document),
        "counts": counts(),
        "created": document["created"][:10],
        "runs": str(document["runs"]),
        "machine": f"{machine['cpus']} processors, Python {machine['python']}, load average before "
        f"{machine['load_before'][0]:.1f}",
        "versions": versions,
        "scale": "![How costs grow](_static/scale.svg)" if has_scale else "Not measured yet.",
    }.items():
        page = page.replace(f"@{name}@", text)
    (_DOCS / "_static" / "performance.svg").write_text(ratios_svg(document))
    if has_scale:
        (_DOCS / "_static" / "scale.svg").write_text(curves_svg(json.loads(scale_path.read_text())))
    (_DOCS / "performance.md").write_text(page, encoding="utf-8")
    print(f"wrote {_DOCS / 'performance.md'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
