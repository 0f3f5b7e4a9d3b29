"""The memory of large frames is used again, and given back when none come any more."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from typing import Any

import pytest

from pyrepl_kernel.kernel import heap
from pyrepl_kernel.kernel.heap import KEPT, LARGEST, Heap

FAULTS = """
import asyncio, resource, sys
from pyrepl_kernel.kernel.heap import Heap

def pass_frames():
    for _ in range(20):
        frame = [bytearray(1_300_000) for _ in range(4)]
        del frame

async def main():
    if sys.argv[1] == "used":
        Heap(asyncio.get_running_loop()).use()
    pass_frames()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    pass_frames()
    print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)

asyncio.run(main())
"""

needs_glibc = pytest.mark.skipif(heap._load_libc() is None, reason="glibc alone has mallopt")


class Libc:
    """Writes down what it is asked for."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.trimmed = asyncio.Event()

    def mallopt(self, option: int, value: int) -> int:
        self.calls.append((option, value))
        return 1

    def malloc_trim(self, pad: int) -> int:
        self.calls.append(("trim", pad))
        self.trimmed.set()
        return 1


@needs_glibc
def test_frames_that_follow_one_another_take_no_memory_anew() -> None:
    counts = {}
    for case in ("used", "unused"):
        command = [sys.executable, "-c", FAULTS, case]
        counts[case] = int(subprocess.run(command, capture_output=True, check=True).stdout)
    # 20 times 5.2 MB, in pages of 4 KB.
    assert counts["unused"] > 10_000
    assert counts["used"] < 1_000


async def test_memory_goes_back_when_no_frame_has_come_for_a_while(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    libc = Libc()
    monkeypatch.setattr(heap, "_load_libc", lambda: libc)
    monkeypatch.setattr(heap, "REST", 0.001)
    used = Heap(asyncio.get_running_loop())
    settings = [(-3, LARGEST), (-1, KEPT)]
    for times in (1, 2):
        for _ in range(3):
            used.use()
        assert libc.calls == settings + [("trim", 0)] * (times - 1)
        await asyncio.wait_for(libc.trimmed.wait(), 20)
        libc.trimmed.clear()
        assert libc.calls == settings + [("trim", 0)] * times
    # And then nothing wakes the process up.
    assert used._timer is None


async def test_a_heap_that_is_closed_does_nothing_more(monkeypatch: pytest.MonkeyPatch) -> None:
    libc = Libc()
    monkeypatch.setattr(heap, "_load_libc", lambda: libc)
    used = Heap(asyncio.get_running_loop())
    used.use()
    timer = used._timer
    assert timer is not None
    used.close()
    assert timer.cancelled()


async def test_another_c_library_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heap, "_load_libc", lambda: None)
    used = Heap(asyncio.get_running_loop())
    used.use()
    assert used._timer is None
