"""Nothing of what a cell puts out is lost, comes late, or shows up elsewhere."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from .support import Client, KernelProcess, only_ours, running_kernel

RUNS = int(os.environ.get("PYREPL_OUTPUT_RUNS", "5"))
"""How often each is repeated; 100 is what the kernel has to stand."""

SIZE = 300_000

SOURCES = {
    "C without a newline": (
        f"import ctypes\nlibc = ctypes.CDLL(None)\nlibc.printf(b'%s', b'x' * {SIZE})"
    ),
    "descriptor": f"import os\nleft = b'x' * {SIZE}\nwhile left: left = left[os.write(1, left):]",
    "subprocess": (
        "import subprocess, sys\n"
        f"subprocess.run([sys.executable, '-c', 'print(\"x\" * {SIZE}, end=\"\")'], check=True)"
    ),
    "os.system": f"import os\nos.system('head -c {SIZE} /dev/zero | tr \"\\\\0\" x')",
    "20 threads": (
        "from threading import Thread\n"
        f"def work(): [print('x' * 100, end='') for _ in range({SIZE // 2000})]\n"
        "threads = [Thread(target=work) for _ in range(20)]\n"
        "for t in threads: t.start()\n"
        "for t in threads: t.join()"
    ),
}


@pytest.fixture(scope="module")
def kernel() -> Iterator[KernelProcess]:
    """One kernel for the tests of this module."""
    with running_kernel() as kernel:
        yield kernel


@pytest.fixture(scope="module")
def client(kernel: KernelProcess) -> Client:
    """A client of it."""
    return kernel.client()


@only_ours
@pytest.mark.parametrize("source", SOURCES)
def test_all_of_it_arrives_before_the_idle_and_in_its_cell(client: Client, source: str) -> None:
    for _ in range(RUNS):
        cells = [client.execute(code) for code in ("print('before')", SOURCES[source] + ";")]
        cells.append(client.execute("print('after')"))
        before, outcome, after = (client.outcome(cell) for cell in cells)
        assert (before.text, after.text) == ("before\n", "after\n")
        assert len(outcome.text) == SIZE
        assert set(outcome.text) == {"x"}


@only_ours
def test_200_000_lines_arrive_at_a_client_with_the_usual_high_water_mark(client: Client) -> None:
    outcome = client.run("for i in range(200_000): print(i)")
    assert outcome.text.split() == [str(i) for i in range(200_000)]


@only_ours
def test_a_thread_writes_to_the_cell_that_runs(client: Client) -> None:
    client.run(
        "import threading\n"
        "go, done = threading.Event(), threading.Event()\n"
        "def work():\n"
        "    go.wait(); print('from the thread', flush=True); done.set()\n"
        "threading.Thread(target=work).start()"
    )
    outcome = client.run("go.set(); done.wait()")
    assert outcome.text == "from the thread\n"


@only_ours
def test_a_task_writes_to_the_cell_that_made_it(client: Client) -> None:
    maker = client.execute(
        "import asyncio\n"
        "async def work(event):\n"
        "    await event.wait(); print('from the task')\n"
        "event = asyncio.Event()\n"
        "task = asyncio.create_task(work(event))"
    )
    assert client.outcome(maker).text == ""
    outcome = client.run("event.set(); await task")
    assert outcome.text == ""
    client.run("pass")
    late = [m for m in client.outputs_so_far(maker) if m["msg_type"] == "stream"]
    assert [m["content"]["text"] for m in late] == ["from the task\n"]
