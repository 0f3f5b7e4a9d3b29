"""Sizes and times as people write them."""

from __future__ import annotations

import pytest

from pyrepl_kernel.protocol.units import parse_size, parse_time, show_size, show_time


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("4G", 4 << 30),
        ("1.5g", 3 << 29),
        ("512 MiB", 512 << 20),
        ("10kb", 10 << 10),
        ("2T", 2 << 40),
        ("1000000", 1_000_000),
        (" none ", None),
        ("off", None),
    ],
)
def test_sizes(text: str, size: int | None) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "4X", "-1G", "0", "G", "1e9", "four", "4G5", "nan", "0.1"])
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(ValueError, match="it must be a size like 512M or 4G"):
        parse_size(text)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90", 90.0), ("90s", 90.0), ("1.5m", 90.0), ("2h", 7200.0), ("250ms", 0.25), ("none", None)],
)
def test_times(text: str, seconds: float | None) -> None:
    assert parse_time(text) == seconds


@pytest.mark.parametrize("text", ["", "0", "-3", "3 weeks", "inf", "nan", "1h30"])
def test_what_is_no_time(text: str) -> None:
    with pytest.raises(ValueError, match="it must be a time like 90"):
        parse_time(text)


def test_showing() -> None:
    assert [show_size(n) for n in (None, 12, 1536, 4 << 30, 5 << 40)] == [
        "none",
        "12 bytes",
        "1.5 KiB",
        "4 GiB",
        "5120 GiB",
    ]
    assert (show_time(None), show_time(90.0)) == ("none", "90 s")
