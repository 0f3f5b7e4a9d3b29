"""SIGKILL for the server, the kernel process and the template, in any order and at any time.

Each schedule is made from its seed: what goes on, who is killed, in which order, after how long,
how long a template lingers, and whether the next kernel meets what is left of it.
``PYREPL_STRESS=full`` runs two hundred of them.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from pyrepl_kernel.session.templates import TemplateDirectory
from tests.session.support import marked

from .managed import managed
from .support import KERNEL, TIMEOUT, Client, kernel_processes, only_ours

pytestmark = [
    only_ours,
    pytest.mark.skipif(sys.platform != "linux", reason="templates are there on Linux alone"),
]

IS_FULL = os.environ.get("PYREPL_STRESS") == "full"
SEEDS = range(200) if IS_FULL else range(6)
SOON = 5.0
"""Seconds after which a process that should be gone has been left behind."""
WARMUP = "--warmup=import decimal\nwarm = [7]"

SERVER = f"""
import sys, traceback
from jupyter_client.manager import KernelManager
manager = KernelManager(kernel_name={KERNEL!r}, connection_file=sys.stdin.readline().strip())
manager.start_kernel(extra_arguments=sys.argv[1:])
print("started", flush=True)
for line in sys.stdin:
    try:
        if line.strip() == "restart":
            manager.restart_kernel()
        elif line.strip() == "again":
            manager.restart_kernel(now=True)
        else:
            break
        print("done", flush=True)
    except Exception:
        print(repr(traceback.format_exc()), flush=True)
manager.shutdown_kernel(now=True)
"""

CELLS = {
    "idle": "",
    "python": "print('in', flush=True)\nwhile True: pass",
    "gil": "import ctypes\nprint('in', flush=True)\nctypes.PyDLL(None).sleep(600)",
    "child": "import subprocess\nprint('in', flush=True)\nsubprocess.run(['sleep', '600'])",
    "checkpoint": "%checkpoint\nprint('in', flush=True)\nwhile True: pass",
}
STATES = [*CELLS, "starting", "restarting"]
ROLES = ("server", "kernel", "template")
LINGER = (0.0, 0.5, 2.0)

hits: Counter[str] = Counter()
"""How many processes were killed in each role, and by how many schedules."""


@dataclass(frozen=True)
class Schedule:
    """What happens, all of it from a seed."""

    state: str
    kills: tuple[str, ...]
    pauses: tuple[float, ...]  # seconds before each kill
    linger: float  # of the template
    is_warm: bool  # whether the template has warmed up before the first kill
    is_hasty: bool  # whether the next kernel starts at once

    @property
    def arguments(self) -> list[str]:
        """Those of its kernels."""
        return [WARMUP, f"--template-linger={self.linger}"]

    @classmethod
    def of(cls, seed: int) -> Schedule:
        """The schedule of a seed; neighbours differ in what goes on."""
        rng = random.Random(seed)
        kills = rng.sample(ROLES, rng.randint(1, len(ROLES)))
        first = rng.uniform(0, 1.5)
        pauses = [first, *(rng.choice([0, rng.uniform(0, 0.2)]) for _ in kills[1:])]
        return cls(
            STATES[seed % len(STATES)],
            tuple(kills),
            tuple(pauses),
            LINGER[seed // len(STATES) % len(LINGER)],
            is_warm=rng.random() < 0.7,
            is_hasty=rng.random() < 0.25,
        )


class Server:
    """A process with a manager and its kernel, and what was started on its behalf."""

    def __init__(self, directory: Path, number: int, arguments: Sequence[str]) -> None:
        self.directory = directory
        self.file = directory / f"kernel-{number}.json"
        self.process = subprocess.Popen(
            [sys.executable, "-c", SERVER, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self._client: Client | None = None
        self.tell(str(self.file))

    def tell(self, line: str) -> None:
        """Send one line; to a server that is gone as well."""
        assert self.process.stdin is not None
        with suppress(BrokenPipeError):
            self.process.stdin.write(f"{line}\n")
            self.process.stdin.flush()

    def hear(self) -> str:
        """Its next line."""
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def client(self) -> Client:
        """A client of its kernel, ready to use."""
        if self._client is None:
            self._client = Client(str(self.file))
        self._client.wait_ready()
        return self._client

    def kill(self, role: str) -> None:
        """Kill all that are in a role by now, if there is anybody."""
        if role == "server":
            hits[role] += 1
            self.process.kill()
            return
        found = kernel_processes(self.directory) if role == "kernel" else templates()
        for pid in found:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
                hits[role] += 1

    def close(self) -> None:
        """Close the client, and end the server whatever it does."""
        if self._client is not None:
            self._client.close()
        self.process.kill()
        self.process.communicate()


def templates() -> set[int]:
    """The templates that these tests have started."""
    return {pid for pid, name in named(marked()).items() if name == "pyrepl-template"}


def named(pids: set[int]) -> dict[int, str]:
    """The names of those processes that are there."""
    names = {}
    for pid in pids:
        with suppress(psutil.Error):
            process = psutil.Process(pid)
            if process.status() != psutil.STATUS_ZOMBIE:
                names[pid] = f"{process.name()}"
    return names


def assert_nothing_left(before: set[int], linger: float) -> None:
    """Wait for the end of all processes that were not there before; the template may linger."""
    began = time.monotonic()
    while left := named(marked() - before):
        only_template = set(left.values()) == {"pyrepl-template"}
        allowed = SOON + (linger if only_template else 0.0)
        assert time.monotonic() - began < allowed, f"left behind: {left}"
        time.sleep(0.05)


def wait_warm(runtime: Path) -> list[int]:
    """Wait until there is a template that has said that it is warm, and return the pids of all."""
    deadline = time.monotonic() + TIMEOUT
    while not (states := TemplateDirectory(str(runtime / "pyrepl")).states()):
        assert time.monotonic() < deadline, "no template has warmed up"
        time.sleep(0.02)
    return [state.pid for state in states]


@pytest.fixture(scope="module")
def runtime(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A runtime directory that all schedules share, with what the killed have left in it."""
    directory = tmp_path_factory.mktemp("kills")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JUPYTER_RUNTIME_DIR", str(directory))
        yield directory


def begin(server: Server, schedule: Schedule) -> None:
    """Bring a kernel into a state."""
    state = schedule.state
    if state == "starting":
        return
    assert server.hear() == "started"
    client = server.client()
    client.run("mine = 1")
    if schedule.is_warm:
        wait_warm(server.directory)
    if state == "restarting":
        for _ in range(20):
            server.tell("restart")
    elif CELLS[state]:
        client.wait_printed(client.execute(CELLS[state]))


def go_on(server: Server) -> None:
    """A server that was not killed restarts its kernel, whatever has become of it."""
    server.tell("again")
    server.tell("end")
    assert server.process.stdout is not None
    said = server.process.stdout.read().split("\n")[:-1]
    assert said[-1] == "done", said
    assert server.process.wait(TIMEOUT) == 0


@pytest.mark.timeout(180)
@pytest.mark.parametrize("seed", SEEDS)
def test_nothing_is_left_and_the_next_start_works(seed: int, runtime: Path) -> None:
    before = marked()
    hits["schedules"] += 1
    schedule = Schedule.of(seed)
    server = Server(runtime, seed, schedule.arguments)
    try:
        begin(server, schedule)
        for role, pause in zip(schedule.kills, schedule.pauses, strict=True):
            # No order is meant to come of this: it is where the kill happens to hit.
            time.sleep(pause)
            server.kill(role)
        if "server" not in schedule.kills:
            go_on(server)
        if not schedule.is_hasty:
            assert_nothing_left(before, schedule.linger)
    finally:
        server.close()
    with managed(start=False) as kernel:
        kernel.call("start_kernel", extra_arguments=schedule.arguments)
        client = kernel.client()
        worker = int(client.value("'mine' not in globals() and __import__('os').getpid()"))
        if not schedule.is_hasty:  # else the template may be one that it has found
            kernel.settled(worker)
        kernel.call("restart_kernel")
        assert kernel.client().value("warm, 'mine' in globals()") == "([7], False)"
    assert_nothing_left(before, schedule.linger)
    if not schedule.is_hasty:  # one that was short may have left a dead one's files to the next
        assert {path.name for path in (runtime / "pyrepl").iterdir()} == {"lock"}


def test_templates_were_there_to_be_killed() -> None:
    if not hits["schedules"]:
        pytest.skip("no schedule has run in this process; run the whole file")
    assert hits["template"] > 0, hits
    if IS_FULL:
        assert hits["template"] > hits["schedules"] / 4, hits
    print("killed:", dict(hits))


@pytest.mark.timeout(180)
def test_a_template_lingers_when_all_else_was_killed_and_no_longer(runtime: Path) -> None:
    before = marked()
    server = Server(runtime, -1, [WARMUP, "--template-linger=2"])
    try:
        assert server.hear() == "started"
        server.client().run("pass")
        # By its own words: a fork of its that is just beginning still has its name.
        (template,) = wait_warm(runtime)
        server.kill("server")
        server.kill("kernel")
        deadline = time.monotonic() + SOON
        while set(left := named(marked() - before)) != {template}:
            assert template in left, "it did not linger"
            assert time.monotonic() < deadline, f"left behind: {left}"
            time.sleep(0.02)
        assert_nothing_left(before, 2.0)
    finally:
        server.close()
    assert {path.name for path in (runtime / "pyrepl").iterdir()} == {"lock"}
