"""Sizes and times as people write them."""

from __future__ import annotations

import math
import re

__all__ = ["parse_size", "parse_time", "show_size", "show_time"]

_OFF = ("none", "off", "unlimited")
_NUMBER = r"(?P<number>\d+(?:\.\d*)?|\.\d+)"
_SIZE = re.compile(rf"{_NUMBER}\s*(?P<unit>[kmgt]?)(?:i?b)?", re.IGNORECASE)
_TIME = re.compile(rf"{_NUMBER}\s*(?P<unit>ms|s|min|m|h|d|)", re.IGNORECASE)
_FACTORS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}
_SECONDS = {"ms": 0.001, "s": 1, "": 1, "m": 60, "min": 60, "h": 3600, "d": 86400}


def parse_size(text: str) -> int | None:
    """A number of bytes, written ``4G``, ``512 MiB`` or ``1000000``; None for ``none``.

    Raises:
        ValueError: It is none of these; the message says what it must be.
    """
    if text.strip().lower() in _OFF:
        return None
    found = _SIZE.fullmatch(text.strip())
    size = int(float(found["number"]) * _FACTORS[found["unit"].lower()]) if found else 0
    if size <= 0:
        raise ValueError("it must be a size like 512M or 4G (K, M, G, T by 1024), or none")
    return size


def parse_time(text: str) -> float | None:
    """A number of seconds, written ``90``, ``90s``, ``1.5m`` or ``2h``; None for ``none``.

    Raises:
        ValueError: It is none of these; the message says what it must be.
    """
    if text.strip().lower() in _OFF:
        return None
    found = _TIME.fullmatch(text.strip())
    seconds = float(found["number"]) * _SECONDS[found["unit"].lower()] if found else 0.0
    if seconds <= 0 or not math.isfinite(seconds):
        raise ValueError("it must be a time like 90, 90s, 10m or 2h, or none")
    return seconds


def show_size(size: int | None) -> str:
    """A number of bytes for people."""
    if size is None:
        return "none"
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if size < 1024 or unit == "GiB":
            break
        size /= 1024  # type: ignore[assignment]
    return f"{size:.4g} {unit}"


def show_time(seconds: float | None) -> str:
    """A time for people."""
    return "none" if seconds is None else f"{seconds:g} s"
