"""A kernel whose worker is busy: what still has to be answered, and how soon."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from .support import Client, KernelProcess, only_ours, running_kernel

SPIN = "print('spinning', flush=True)\nwhile True: pass"
# PyDLL does not release the GIL: no Python code of the worker's runs meanwhile.
HOLD_THE_GIL = (
    "import ctypes, time\nprint('holding', flush=True)\nctypes.PyDLL(None).usleep(4_000_000)"
)


@pytest.fixture(scope="module")
def kernel() -> Iterator[KernelProcess]:
    """One kernel for the tests of this module."""
    with running_kernel() as kernel:
        yield kernel


@pytest.fixture
def client(kernel: KernelProcess) -> Client:
    """A client of it."""
    return kernel.client()


@pytest.fixture(params=[SPIN, HOLD_THE_GIL], ids=["python loop", "C code with the GIL"])
def running(client: Client, request: pytest.FixtureRequest) -> Iterator[str]:
    """A cell that runs, and keeps the worker from all else."""
    cell = client.execute(request.param)
    client.wait_printed(cell)
    yield cell
    client.interrupt()
    client.outcome(cell)


@only_ours
@pytest.mark.parametrize("kind", ["kernel_info_request", "usage_request", "connect_request"])
def test_control_is_answered_at_once(client: Client, running: str, kind: str) -> None:
    waits = []
    for _ in range(50):
        began = time.monotonic()
        request = client.send(kind, {}, channel="control")
        client.reply(request, channel="control", timeout=2.0)
        waits.append(time.monotonic() - began)
    # An order of magnitude above what it takes; the figures are the benchmarks' business.
    assert sorted(waits)[len(waits) // 2] < 0.2


@only_ours
@pytest.mark.parametrize(
    ("kind", "content", "empty"),
    [
        ("complete_request", {"code": "pri", "cursor_pos": 3}, {"matches": []}),
        ("inspect_request", {"code": "print", "cursor_pos": 5}, {"found": False}),
        ("is_complete_request", {"code": "1"}, {"status": "unknown"}),
        ("comm_info_request", {}, {"comms": {}}),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_the_worker_cannot_say_now_is_answered_empty(
    client: Client, running: str, kind: str, content: dict[str, object], empty: dict[str, object]
) -> None:
    reply = client.reply(client.send(kind, content), timeout=3.0)["content"]
    assert {name: reply[name] for name in empty} == empty


@only_ours
def test_completion_works_again_after_the_cell(client: Client) -> None:
    cell = client.execute("import time; print('sleeping', flush=True); time.sleep(1.5)")
    client.wait_printed(cell)
    stale = [client.send("complete_request", {"code": "pri", "cursor_pos": 3}) for _ in range(20)]
    assert all(client.reply(request)["content"]["matches"] == [] for request in stale)
    client.outcome(cell)
    request = client.send("complete_request", {"code": "pri", "cursor_pos": 3})
    assert "print" in client.reply(request)["content"]["matches"]
    # Late answers of the worker's are nobody's: each request got one reply and one idle.
    assert all(client.unread(request, "shell") == [] for request in stale)


@only_ours
def test_a_completion_is_answered_while_a_cell_awaits(client: Client) -> None:
    cell = client.execute("import asyncio; print('waiting', flush=True); await asyncio.sleep(60)")
    client.wait_printed(cell)
    request = client.send("complete_request", {"code": "asynci", "cursor_pos": 6})
    assert "asyncio" in client.reply(request)["content"]["matches"]
    client.interrupt()
    assert client.outcome(cell).status == "error"


@only_ours
def test_usage_is_that_of_the_worker_and_its_children(client: Client) -> None:
    worker = int(client.value("__import__('os').getpid()"))
    before = _usage(client)
    assert before["pid"] == worker
    client.run(
        "import subprocess, sys\n"
        "child = subprocess.Popen([sys.executable, '-c',"
        " 'print(1, flush=True); x = bytearray(200_000_000); import time; time.sleep(60)'],"
        " stdout=subprocess.PIPE)\n"
        "child.stdout.readline()"
    )
    # The child has yet to touch its memory; it is waited for by what it costs.
    deadline = time.monotonic() + 20
    while _usage(client)["kernel_memory"] < before["kernel_memory"] + 100_000_000:
        assert time.monotonic() < deadline
    client.run("child.kill(); child.wait()")
    assert _usage(client)["kernel_memory"] < before["kernel_memory"] + 100_000_000


def _usage(client: Client) -> dict[str, int]:
    request = client.send("usage_request", {}, channel="control")
    content: dict[str, int] = client.reply(request, channel="control")["content"]
    return content
