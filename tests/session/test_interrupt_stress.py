"""Interrupts at any moment, many times: each ends its cell, and none reaches another.

``PYREPL_STRESS=full`` does all of it a hundred times.
"""

from __future__ import annotations

import asyncio
import os
import random
import textwrap

import pytest
import pytest_asyncio

from pyrepl_kernel.protocol.messages import ExecuteMessage
from pyrepl_kernel.session.session import Session
from tests.conftest import SharedSession
from tests.session.support import BOUND, follow

pytestmark = [
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.usefixtures("no_process_left"),
    pytest.mark.timeout(600),
]

ROUNDS = 100 if os.environ.get("PYREPL_STRESS") == "full" else 6

IMPORTS = "import ctypes, os, socket, subprocess, threading, time, zlib"

ENDLESS = {
    "await": "import asyncio; await asyncio.sleep(60)",
    "await, then a loop": "import asyncio; await asyncio.sleep(0)\nwhile True: pass",
    "gather": "import asyncio; await asyncio.gather(*[asyncio.sleep(60) for _ in range(9)])",
    "asyncio.run": "import asyncio; asyncio.run(asyncio.sleep(60))",
    "input": "input()",
    "C call": "ctypes.CDLL(None).sleep(60)",
    "C call with the GIL": "ctypes.PyDLL(None).sleep(60)",
    "C calls": "data = bytes(100_000)\nwhile True: zlib.compress(data)",
    "sleep": "time.sleep(60)",
    "lock": "lock = threading.Lock(); lock.acquire(); lock.acquire()",
    "join": """
        stop = threading.Event()
        thread = threading.Thread(target=stop.wait, daemon=True)
        thread.start()
        try:
            thread.join()
        finally:
            stop.set()
    """,
    "subprocess.run": "subprocess.run(['sleep', '60'])",
    # Closed by hand: Python drops an interrupt that comes while it speaks of an unclosed one.
    "socket": "a, b = socket.socketpair()\nwith a, b: a.recv(1)",
    "loop": "while True: pass",
    "prints": "while True: print('x' * 1000)",
}


def some_time(generator: random.Random) -> float:
    """Seconds: while the cell is sent, while it begins, or when it has long blocked."""
    return generator.random() * generator.choice([0.0, 0.002, 0.03])


@pytest_asyncio.fixture(loop_scope="module", params=["", "\nimport asyncio"], ids=["recv", "loop"])
async def worker(request: pytest.FixtureRequest, shared_session: SharedSession) -> Session:
    """A worker that waits for messages in ``recv``, or else in its asyncio loop."""
    return await shared_session.get(IMPORTS + request.param)


async def runs_the_next_cell(worker: Session, number: int) -> None:
    """Fails unless the next cell runs as if nothing had been."""
    outcome = await asyncio.wait_for(worker.run(f"print({number})"), BOUND)
    assert (outcome.error, outcome.stdout) == (None, f"{number}\n")


@pytest.mark.parametrize("kind", ENDLESS)
async def test_a_cell_that_would_never_end(worker: Session, kind: str) -> None:
    generator = random.Random(kind)
    code = textwrap.dedent(ENDLESS[kind])
    for number in range(ROUNDS):
        cell = follow(worker, ExecuteMessage(code, allow_stdin=True))
        await asyncio.sleep(some_time(generator))
        await worker.interrupt()
        result = await cell.result()
        assert result.ename in {"KeyboardInterrupt", "CancelledError"}, (number, result)
        await runs_the_next_cell(worker, number)


async def test_a_cell_that_has_just_ended(worker: Session) -> None:
    generator = random.Random(19)
    for number in range(10 * ROUNDS):
        cell = follow(worker, "value = 1")
        await asyncio.sleep(some_time(generator) / 4)
        await worker.interrupt()
        await cell.result()
        await runs_the_next_cell(worker, number)


async def test_a_second_interrupt_while_the_first_one_is_dealt_with(worker: Session) -> None:
    """As somebody does who presses the button until something happens."""
    generator = random.Random(23)
    for number in range(ROUNDS):
        kind = generator.choice(sorted(ENDLESS))
        code = textwrap.dedent(ENDLESS[kind])
        cell = follow(worker, ExecuteMessage(code, allow_stdin=True))
        while not cell.end.done():
            await asyncio.sleep(some_time(generator))
            await worker.interrupt()
        assert (await cell.result()).ename in {"KeyboardInterrupt", "CancelledError"}
        await runs_the_next_cell(worker, number)
