"""The template that a user's kernels share: found by restarts and by further notebooks."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pyrepl_kernel.session.templates import TemplateDirectory, TemplateState

from .support import TIMEOUT, Client, command, only_ours, wait_gone
from .test_transports import wait_ports

pytestmark = [
    only_ours,
    pytest.mark.skipif(sys.platform != "linux", reason="workers are forked on Linux alone"),
]

WARMUP = "--warmup=import decimal, sqlite3"
WHO = "__import__('os').getppid()"
"""The parent of a fork is its template, that of a spawned worker the kernel's process."""


class Kernels:
    """Kernel processes of one test, with a registry of their own."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.directory = TemplateDirectory(str(path / "runtime" / "pyrepl"))
        self.processes: list[subprocess.Popen[bytes]] = []
        self.clients: list[Client] = []

    def start(self, *arguments: str, linger: str = "0") -> subprocess.Popen[bytes]:
        """A further kernel."""
        file = self.path / f"kernel-{len(self.processes)}.json"
        environ = {
            "JUPYTER_RUNTIME_DIR": str(self.path / "runtime"),
            "PYREPL_TEMPLATE_LINGER": linger,
        }
        process = subprocess.Popen(
            [*command(str(file)), WARMUP, *arguments],
            env=os.environ | environ,
            cwd=self.path,
            start_new_session=True,
            stderr=subprocess.PIPE,
        )
        self.processes.append(process)
        return process

    def client(self, process: subprocess.Popen[bytes]) -> Client:
        """A client of a kernel."""
        file = self.path / f"kernel-{self.processes.index(process)}.json"
        wait_ports(file, process)
        client = Client(str(file))
        self.clients.append(client)
        client.wait_ready()
        return client

    def wait_template(self, but: int = 0) -> TemplateState:
        """The state of the template, once one runs and is warm; another than of that pid."""
        deadline = time.monotonic() + TIMEOUT
        while True:
            states = [state for state in self.directory.states() if state.pid != but]
            if states:
                assert len(states) == 1, states
                return states[0]
            assert time.monotonic() < deadline, "there is no template"
            time.sleep(0.02)

    def close(self) -> None:
        """End all of it."""
        for client in self.clients:
            client.close()
        for process in self.processes:
            if process.poll() is None:
                process.terminate()
            process.communicate(timeout=TIMEOUT)


@pytest.fixture
def kernels(tmp_path: Path) -> Iterator[Kernels]:
    """Starts kernels; none of them and no template is left in the end."""
    made = Kernels(tmp_path)
    yield made
    states = made.directory.states()
    made.close()
    for state in states:
        assert wait_gone(state.pid, 10), "the template was left behind"
    if made.directory.states() == [] and Path(made.directory.path).is_dir():
        left = {path.name for path in Path(made.directory.path).iterdir()}
        assert left <= {"lock"}


def test_a_second_kernel_and_a_restart_find_the_first_ones_template(kernels: Kernels) -> None:
    first = kernels.start(linger="30")
    client = kernels.client(first)
    assert client.value(WHO) == str(first.pid)
    template = kernels.wait_template()
    assert (template.verdict, template.cwd) == ("fork", "/")
    second = kernels.client(kernels.start(linger="30"))
    assert second.value(WHO) == str(template.pid)
    code = "'sqlite3' in __import__('sys').modules, 'sqlite3' in globals()"
    assert second.value(code) == "(True, True)"
    assert second.value("__import__('os').getcwd()") == repr(str(kernels.path))
    for process in kernels.processes:
        process.terminate()
        process.wait(TIMEOUT)
    # A restart without a provisioner: the process goes, another comes.
    for _ in range(7):
        process = kernels.start(linger="30")
        third = kernels.client(process)
        outcome = third.run(f"fresh = 'mine' not in globals(); mine = 1; fresh, {WHO}")
        assert outcome.result == f"(True, {template.pid})"
        assert outcome.reply["content"]["execution_count"] == 1
        process.terminate()
        process.wait(TIMEOUT)
    assert kernels.directory.states() == [template]
    os.kill(template.pid, signal.SIGTERM)


def test_kernels_that_start_at_the_same_moment_share_one(kernels: Kernels) -> None:
    processes = [kernels.start() for _ in range(3)]
    clients = [kernels.client(process) for process in processes]
    for client in clients:
        client.run("pass")
    template = kernels.wait_template()
    # Each kernel has a spare of this template.
    wait_for(lambda: children_named(template.pid, "pyrepl-worker")[2:])


def test_a_crash_goes_on_in_a_fork(kernels: Kernels) -> None:
    process = kernels.start()
    client = kernels.client(process)
    client.run("pass")
    template = kernels.wait_template()
    wait_for(lambda: children_named(template.pid, "pyrepl-worker"))
    for _ in range(7):
        outcome = client.run("import os; os._exit(3)", allow_stdin=True)
        assert outcome.status == "error"
        assert "exited with code 3" in str(outcome.reply["content"])
        # There may be no spare yet: a fork of the template does as well.
        assert client.run(WHO, allow_stdin=True).result == str(template.pid)


def test_another_environment_has_another_template(
    kernels: Kernels, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = kernels.start()
    kernels.client(first).run("pass")
    kernels.wait_template()
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    second = kernels.start()
    assert kernels.client(second).value(WHO) == str(second.pid)


def test_a_killed_template_is_replaced_and_costs_nothing(kernels: Kernels) -> None:
    process = kernels.start()
    client = kernels.client(process)
    client.run("kept = 1")
    template = kernels.wait_template()
    os.kill(template.pid, signal.SIGKILL)
    assert client.value("kept") == "1"
    client.run("import os; os._exit(3)", allow_stdin=True)
    assert client.run("'kept' in globals()", allow_stdin=True).result == "False"
    assert kernels.wait_template(but=template.pid).pid != template.pid


def test_a_kernel_killed_as_its_template_warms_up_leaves_none(kernels: Kernels) -> None:
    mark = kernels.path / "mark"
    code = (
        f"import os, pathlib\nif os.path.exists({str(mark)!r}): import time; time.sleep(600)\n"
        f"pathlib.Path({str(mark)!r}).write_text('')"
    )
    process = kernels.start(f"--warmup={code}")
    kernels.client(process).run("pass")
    (template,) = wait_for(lambda: children_named(process.pid, "pyrepl-template"))
    process.kill()
    assert wait_gone(template, 5)
    Path(kernels.directory.path, next(kernels.directory.keys("sock").__iter__()) + ".sock").unlink()


def children_named(pid: int, name: str) -> list[int]:
    """The children of a process that have a name."""
    found = []
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        with contextlib.suppress(OSError):
            if Path(f"/proc/{child}/comm").read_text().strip() == name:
                found.append(int(child))
    return found


def wait_for(look: Callable[[], list[int]]) -> list[int]:
    """Wait until there is something."""
    deadline = time.monotonic() + TIMEOUT
    while not (found := look()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return found


def test_the_user_is_told_why_nothing_is_forked(kernels: Kernels) -> None:
    code = "import threading\nthreading.Thread(target=threading.Event().wait, daemon=True).start()"
    process = kernels.start(f"--warmup={code}")
    client = kernels.client(process)
    client.run("pass")
    assert process.stderr is not None
    said = b""
    while b"there are no spare workers" not in said:
        said += process.stderr.readline()
    assert b"thread" in said and b"line 2" in said
    (key,) = kernels.directory.keys("json")
    state = kernels.directory.state(key)
    assert state is not None and state.is_against_forks
    Path(kernels.directory.path, f"{key}.json").unlink()
