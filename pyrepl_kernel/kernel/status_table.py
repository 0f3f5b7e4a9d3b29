"""A kernel's status for people: as text, as HTML."""

from __future__ import annotations

import time
from html import escape
from typing import Any

__all__ = ["as_html", "as_text", "duration", "measure"]

_HEADER = ("process", "pid", "memory", "state")


def measure(status: dict[str, Any]) -> dict[str, Any]:
    """Add each process's memory: its proportional share in bytes, None where it is not known."""
    processes = [process | {"memory": _pss(process["pid"])} for process in status["processes"]]
    return status | {"processes": processes}


def _pss(pid: int) -> int | None:
    try:
        with open(f"/proc/{pid}/smaps_rollup", "rb") as file:
            for line in file:
                if line.startswith(b"Pss:"):
                    return int(line.split()[1]) * 1024
    except (OSError, ValueError):
        return None  # it has ended, or this is another system
    return None


def duration(seconds: float) -> str:
    """A length of time, in its largest unit."""
    whole = max(0, int(seconds))
    for unit, name in ((86400, "d"), (3600, "h"), (60, "min")):
        if whole >= unit:
            return f"{whole // unit} {name}"
    return f"{whole} s"


def _facts(status: dict[str, Any]) -> list[tuple[str, str]]:
    now = time.time()
    method = status["start_method"] or "not known yet"
    reason = f", for {status['start_reason']}" if status["start_reason"] else ""
    facts = [
        ("notebook", status["notebook"]),
        ("connection file", status["connection_file"]),
        ("python", status["python"]),
        ("running for", duration(now - status["started_at"])),
        ("warmup", status["warmup"] or "none"),
        ("workers are made by", f"{method}{reason}"),
        ("advice", status["start_advice"]),
        ("restarts", str(status["restarts"])),
        ("deaths", str(status["deaths"])),
    ]
    for death in status["last_deaths"]:
        facts.append(("died", f"{duration(now - death['at'])} ago: the worker {death['reason']}"))
    return [(name, value) for name, value in facts if value]


def _rows(status: dict[str, Any]) -> list[tuple[str, str, str, str]]:
    rows = []
    for process in status["processes"]:
        size = process["memory"]
        memory = "?" if size is None else f"{size / 2**20:.0f} MB"
        rows.append((process["role"], str(process["pid"]), memory, process["state"]))
    return rows


def as_text(status: dict[str, Any]) -> str:
    """The status as lines of text."""
    rows = [_HEADER, *_rows(status)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_HEADER))]
    lines = [f"pyrepl-kernel {status['version']}, pid {status['pid']}"]
    lines += [f"  {name}: {value}" for name, value in _facts(status)]
    for row in rows:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        lines.append(f"  {'  '.join(cells)}".rstrip())
    return "\n".join(lines)


def as_html(status: dict[str, Any]) -> str:
    """The status as tables."""
    facts = "".join(
        f"<tr><th style='text-align:left'>{escape(name)}</th>"
        f"<td style='text-align:left'>{escape(value)}</td></tr>"
        for name, value in _facts(status)
    )
    head = "".join(f"<th style='text-align:left'>{name}</th>" for name in _HEADER)
    rows = "".join(
        "<tr>"
        + "".join(f"<td style='text-align:left'>{escape(cell)}</td>" for cell in row)
        + "</tr>"
        for row in _rows(status)
    )
    title = f"pyrepl-kernel {escape(status['version'])}, pid {status['pid']}"
    return (
        f"<div><b>{title}</b><table>{facts}</table>"
        f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>"
    )
