"""A kernel at rest: it uses no processor, and its kernel process little memory."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator

import psutil
import pytest

from .support import KernelProcess, only_ours, running_kernel

pytestmark = [
    only_ours,
    pytest.mark.skipif(sys.platform != "linux", reason="counts are read from /proc"),
]

REST = 60.0 if os.environ.get("PYREPL_STRESS") == "full" else 3.0
"""Seconds without a single context switch."""
LIMIT = 60.0
"""Seconds after the last cell in which that has to begin: a history is opened, spares are made."""
# The interpreter alone takes so much more from Python 3.14 on.
MEMORY = 33_000_000 + (4_000_000 if sys.version_info >= (3, 14) else 0)
"""Bytes; 28 MB here, and not the same on every system."""


@pytest.fixture
def kernel() -> Iterator[KernelProcess]:
    with running_kernel() as kernel:
        kernel.client().run("import os\nprint(os.getpid())")
        yield kernel


def switches(processes: list[psutil.Process]) -> dict[int, int]:
    """How often each thread of some processes has been given the processor."""
    counts = {}
    for process in processes:
        for thread in os.listdir(f"/proc/{process.pid}/task"):
            with open(f"/proc/{process.pid}/task/{thread}/status") as status:
                counts[int(thread)] = sum(
                    int(line.split()[1]) for line in status if "_ctxt_switches" in line
                )
    return counts


def family(kernel: KernelProcess) -> list[psutil.Process]:
    """The kernel process, and all below it."""
    process = psutil.Process(kernel.process.pid)
    return [process, *process.children(recursive=True)]


def test_a_thread_that_polls_is_seen(kernel: KernelProcess) -> None:
    kernel.client().run(
        "import threading, time\n"
        "def poll():\n"
        "    while True: time.sleep(0.01)\n"
        "threading.Thread(target=poll, daemon=True).start()"
    )
    before = switches(family(kernel))
    end = time.monotonic() + LIMIT
    while switches(family(kernel)) == before:
        assert time.monotonic() < end


@pytest.mark.timeout(LIMIT + REST + 60)
def test_at_rest_nothing_runs(kernel: KernelProcess) -> None:
    end = time.monotonic() + LIMIT
    while True:
        processes = family(kernel)
        assert len(processes) >= 2
        before = switches(processes)
        time.sleep(REST)  # what is looked at is that nothing happens meanwhile
        after = switches(family(kernel))
        if after == before:
            return
        woken = {thread: after.get(thread, 0) - before.get(thread, 0) for thread in after}
        assert time.monotonic() < end, f"threads that run at rest: {woken}"


def test_the_kernel_process_takes_little_memory(kernel: KernelProcess) -> None:
    memory = psutil.Process(kernel.process.pid).memory_info()
    assert memory.rss < MEMORY
