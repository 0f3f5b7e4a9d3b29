"""Many restarts in a row: each begins as the first did, and none leaves anything behind.

``PYREPL_STRESS=full`` does a thousand of them.
"""

from __future__ import annotations

import ast
import gc
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.session.support import marked

from .managed import Managed, managed
from .support import TIMEOUT, Client, only_ours

pytestmark = [
    only_ours,
    pytest.mark.skipif(sys.platform != "linux", reason="workers are forked on Linux alone"),
    pytest.mark.timeout(1800),
]

IS_FULL = os.environ.get("PYREPL_STRESS") == "full"
BEFORE = 10
"""Restarts until all is there that a restart may once bring about."""
MEGABYTE = 1024 * 1024
SMALL = "import decimal\nwarm = [7]"
PANDAS = "import pandas\nwarm = [pandas.Series([7]).sum().item()]"

FIRST_CELL = """
import os as _os
_names = sorted(set(globals()) - {"_os"})
print((_os.getpid(), _os.getppid(), _names, warm))
warm.append("a cell's")
mine = 1
"""


@dataclass(frozen=True)
class Footprint:
    """What there is of a kernel, its template and its manager at rest."""

    processes: list[str]
    descriptors: dict[str, int]
    files: list[str]
    memory: dict[str, int]  # bytes that a process has written, swapped out or not

    @classmethod
    def of(cls, kernel: Managed, template: int, places: list[Path], before: set[int]) -> Footprint:
        """Measure it; nothing may be on its way in or out."""
        gc.collect()
        members = {
            "kernel": psutil.Process(kernel.pid),
            "template": psutil.Process(template),
            "manager": psutil.Process(),
        }
        return cls(
            sorted(psutil.Process(pid).name() for pid in marked() - before),
            {name: process.num_fds() for name, process in members.items()},
            sorted(path.name for place in places for path in place.iterdir()),
            {name: written(process.pid) for name, process in members.items()},
        )


def written(pid: int) -> int:
    """A process's memory without the pages of files.

    Those come and go with the system's cache, and count as its own or not by who else maps them.
    """
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    kilobytes = [int(line.split()[1]) for line in lines if line.startswith(("Anonymous:", "Swap:"))]
    assert len(kilobytes) == 2, lines
    return 1024 * sum(kilobytes)


def at_rest(
    kernel: Managed, client: Client, worker: int, places: list[Path], before: set[int]
) -> Footprint:
    """The footprint, once a worker, a spare and the template are all that there is."""
    family = kernel.settled(worker)
    template = next(p for p in family if psutil.Process(p).name() == "pyrepl-template")
    deadline = time.monotonic() + TIMEOUT
    while marked() - before != {kernel.pid, *family}:
        assert time.monotonic() < deadline, (marked() - before, family)
    counts: list[int] = []
    # A spare's descriptors are taken over some time after its process is there.
    while len(counts) < 10 or len(set(counts[-10:])) > 1:
        assert time.monotonic() < deadline, counts
        client.run("__import__('time').sleep(0.05)")
        counts.append(psutil.Process(kernel.pid).num_fds())
    _forget(client)
    return Footprint.of(kernel, template, places, before)


def first_cell(client: Client) -> tuple[int, int, Any]:
    """What the first cell of a new worker sees: its process, its parent, its namespace."""
    outcome = client.run(FIRST_CELL)
    assert outcome.status == "ok", outcome.reply["content"]
    assert outcome.reply["content"]["execution_count"] == 1
    pid, parent, *namespace = ast.literal_eval(outcome.text)
    _forget(client)
    return pid, parent, namespace


def _forget(client: Client) -> None:
    """Drop what a client keeps of each message, which would be growth of the manager's process.

    Its signatures, against replays, are some 100 bytes each, up to 65,536 of them.
    """
    client.kc.session.digest_history.clear()
    for filed in client._filed.values():
        filed.clear()
    client.asked.clear()


@pytest.mark.parametrize(
    ("warmup", "transport", "number"),
    [
        pytest.param(SMALL, "ipc", 1000 if IS_FULL else 20, id="small"),
        pytest.param(PANDAS, "tcp", 200 if IS_FULL else 12, id="pandas"),
    ],
)
def test_restarts_in_a_row_leave_nothing_behind(
    warmup: str,
    transport: str,
    number: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    before = marked()
    connection, runtime = tmp_path / "connection", tmp_path / "runtime"
    connection.mkdir()
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(runtime))
    file = str(connection / "k.json")
    with managed(start=False, transport=transport, connection_file=file) as kernel:
        kernel.call("start_kernel", extra_arguments=[f"--warmup={warmup}"])
        client, process = kernel.client(), kernel.pid
        worker, _, warm = first_cell(client)
        kernel.settled(worker)
        places, seen, tenth = [connection, runtime / "pyrepl"], {worker}, None
        spawned = 0
        for restart in range(1, number + 1):
            kernel.call("restart_kernel", now=restart % 3 == 0)
            worker, parent, namespace = first_cell(client)
            assert kernel.pid == process
            assert worker not in seen, restart
            assert namespace == warm, restart
            spawned += parent == process
            seen.add(worker)
            if restart == BEFORE:
                tenth = at_rest(kernel, client, worker, places, before)
        last = at_rest(kernel, client, worker, places, before)
    assert tenth is not None
    said = capfd.readouterr().err
    print(tenth, last, f"spawned: {spawned}", sep="\n")
    # Where the template does not get the processor in time a worker is spawned, as it should be;
    # for no other reason, and the kernel says so.
    late = said.count("a worker is spawned, not forked: the template has not forked within")
    assert spawned <= min(late, max(1, number // 100)), said
    assert last.processes == tenth.processes
    assert last.descriptors == tenth.descriptors
    assert last.files == tenth.files
    grown = {name: last.memory[name] - tenth.memory[name] for name in last.memory}
    assert all(size < MEGABYTE for size in grown.values()), grown
