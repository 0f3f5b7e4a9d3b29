"""The event loop: what scripts and notebooks do with asyncio, anyio and trio."""

from __future__ import annotations

import pytest

from tests.compat.support import check, run
from tests.e2e.support import Client


def test_await_at_the_top_level(client: Client) -> None:
    """L1: a cell awaits, and what it awaits runs in the notebook's loop."""
    run(client, "import asyncio\nloop = asyncio.get_running_loop()\nasync def five(): return 5")
    check(client, "await five() == 5")
    check(client, "await asyncio.sleep(0, asyncio.get_running_loop() is loop)")


@pytest.mark.parametrize(
    "call",
    [
        "asyncio.run(five())",
        "asyncio.get_event_loop().run_until_complete(five())",
        "asyncio.new_event_loop().run_until_complete(five())",
        "anyio.run(five)",
    ],
)
def test_a_loop_is_run_in_a_cell(client: Client, call: str) -> None:
    """L2: what a script does works without nest_asyncio, and the notebook's loop is there after."""
    run(
        client, "import asyncio, anyio\nasync def five():\n    await asyncio.sleep(0)\n    return 5"
    )
    check(client, f"{call} == 5")
    check(client, "await five() == 5")


def test_a_task_goes_on_between_cells(client: Client) -> None:
    """L3: a task of a cell without `await` runs on while no cell runs."""
    run(
        client,
        """
import asyncio, threading
ticks, enough = [], threading.Event()
async def tick():
    while len(ticks) < 5:
        ticks.append(threading.current_thread() is threading.main_thread())
        await asyncio.sleep(0)
    enough.set()
task = asyncio.create_task(tick())
len(ticks)
""",
    )
    # The next cell comes by a round trip, during which the loop runs; it does not await.
    for _ in range(100):
        if run(client, "enough.is_set()").result == "True":
            break
    check(client, "ticks == [True] * 5 and task.done()")


def test_trio(client: Client) -> None:
    """L4: `%autoawait trio`, and back."""
    pytest.importorskip("trio", reason="trio is not installed; install pyrepl-kernel[test]")
    run(client, "%autoawait trio")
    check(
        client,
        "import trio, sniffio\nawait trio.sleep(0)\nsniffio.current_async_library() == 'trio'",
    )
    nursery = "async with trio.open_nursery() as nursery:\n    nursery.start_soon(trio.sleep, 0)"
    run(client, nursery)
    check(client, "trio.run(trio.sleep, 0) is None")
    run(client, "%autoawait asyncio")
    check(client, "import asyncio\nawait asyncio.sleep(0, True)")
