"""Notebooks on a Dask cluster: LocalCluster, and a scheduler and workers as separate processes."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path

import psutil
import pytest

from pyrepl_kernel import batch
from pyrepl_kernel.batch.cluster import frames, runner
from tests.session.support import marked, wait_gone

from .support import COMMAND, printed, wait_until, write

STRESS = os.environ.get("PYREPL_STRESS") == "full"
NODE = "PYREPL_TEST_NODE"


class Cluster:
    """A Dask scheduler and workers, each a process; none is restarted when it dies."""

    def __init__(self, folder: Path, workers: int = 2, *options: str) -> None:
        self.folder = folder
        self.name = folder.parent.name + folder.name  # told apart from other clusters' by it
        self.processes: list[subprocess.Popen[bytes]] = []
        self.scheduler = self._start("scheduler", "--port", "0", "--no-dashboard")
        (self.folder / "log").touch()
        file = folder / "scheduler.json"
        wait_until(lambda: file.exists() and file.read_text(), "a scheduler")
        self.address: str = json.loads(file.read_text())["address"]
        self.workers = [
            self._start("worker", "--no-nanny", "--nthreads", "2", "--no-dashboard",
                        "--local-directory", str(folder / f"local{i}"), *options, node=i)
            for i in range(workers)
        ]  # fmt: skip

    def _start(self, what: str, *options: str, node: int = -1) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "dask", what]
        command += ["--scheduler-file", str(self.folder / "scheduler.json")]
        command += ["--host", "127.0.0.1", *options]
        with open(self.folder / f"{what}{node}.log", "wb") as log:
            process = subprocess.Popen(
                command,
                stdout=log,
                stderr=log,
                env={
                    **os.environ,
                    NODE: f"{self.name}:{node}",
                    "DASK_DISTRIBUTED__LOGGING__DISTRIBUTED": "error",
                },
            )
        self.processes.append(process)
        return process

    def on_node(self, node: int) -> set[int]:
        """The processes that a worker has started."""
        found = set()
        for pid in marked() - {self.workers[node].pid}:
            with suppress(psutil.Error):
                if psutil.Process(pid).environ().get(NODE) == f"{self.name}:{node}":
                    found.add(pid)
        return found

    def close(self) -> None:
        for process in self.processes:
            process.kill()
            process.wait()


@pytest.fixture(scope="module")
def shared_cluster(
    jupyter_dirs: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Cluster]:
    """The one cluster of all tests that leave its workers as they were."""
    cluster = Cluster(tmp_path_factory.mktemp("cluster"))
    yield cluster
    cluster.close()


@pytest.fixture
def cluster(shared_cluster: Cluster, no_process_left: None) -> Iterator[Cluster]:
    """The shared cluster, of which nothing but its own processes may be left."""
    yield shared_cluster
    assert all(worker.poll() is None for worker in shared_cluster.workers)


@pytest.fixture
def own_cluster(no_process_left: None, tmp_path: Path) -> Iterator[Cluster]:
    """A cluster for a test that kills its workers."""
    folder = tmp_path / "cluster"
    folder.mkdir()
    cluster = Cluster(folder)
    yield cluster
    cluster.close()


def noting(log: Path, name: str, seconds: float = 0.0) -> str:
    """A cell that notes its node, once it has waited."""
    return (
        f"import os, time; time.sleep({seconds})\n"
        f"with open({str(log)!r}, 'a') as log:\n"
        f"    log.write('{name} ' + os.environ['{NODE}'] + chr(10))"
    )


async def test_frames_of_any_size_arrive_and_a_torn_one_is_an_end() -> None:
    class Sink:
        def __init__(self) -> None:
            self.data = b""

        def is_closing(self) -> bool:
            return False

        def write(self, data: bytes) -> None:
            self.data += data

    sink = Sink()
    messages = [{"a": "é" * size} for size in (0, 1, 100_000)]
    for message in messages:
        frames.write(sink, message)  # type: ignore[arg-type]
    reader = asyncio.StreamReader()
    reader.feed_data(sink.data + sink.data[:-1])
    reader.feed_eof()
    assert [await frames.read(reader) for _ in range(5)] == [*messages, *messages[:2]]
    assert await frames.read(reader) is None


def test_notebooks_run_on_all_workers_and_nothing_stays(cluster: Cluster, tmp_path: Path) -> None:
    log = tmp_path / "log"
    paths = [
        write(
            tmp_path / f"n{i}.ipynb",
            noting(log, str(i), 0.3),
            "import os; print(os.getcwd(), x, warm)",
        )
        for i in range(8)
    ]
    paths += [write(tmp_path / "bad.ipynb", "print('before')", "1 / 0")]
    done = batch.run(
        paths,
        output_dir=tmp_path / "out",
        dask=cluster.address,
        parameters={"x": [1]},
        warmup="warm = 'warm'",
    )
    assert [each.status for each in done.notebooks] == ["ok"] * 8 + ["failed"]
    for each in done.notebooks[:8]:
        assert printed(each.output) == f"{tmp_path} [1] warm\n"
        assert each.node.startswith("tcp://")
        assert each.peak_memory
        assert len(each.cells) == 3
    assert len({each.node for each in done.notebooks}) == 2
    assert printed(done.notebooks[8].output) == "before\n"
    error = done.notebooks[8].error
    assert error is not None and "ZeroDivisionError" in error.traceback
    # The cluster lives on, without us.
    assert all(worker.poll() is None for worker in cluster.workers)
    left = cluster.on_node(0) | cluster.on_node(1)
    assert all(wait_gone(pid, 5) for pid in left)


def test_a_killed_worker_costs_no_notebook(own_cluster: Cluster, tmp_path: Path) -> None:
    cluster = own_cluster
    count = 40 if STRESS else 12
    log = tmp_path / "log"
    log.touch()
    for index in range(count):
        write(tmp_path / f"n{index:02}.ipynb", noting(log, f"{index:02}", 0.2), f"print({index})")
    names = [f"n{index:02}.ipynb" for index in range(count)]
    process = subprocess.Popen(
        [*COMMAND, *names, "-o", "out", "--dask", cluster.address, "--junit", "junit.xml"],
        cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    choice = random.Random()
    victim, moment = choice.randrange(2), choice.randrange(2, count // 2)
    wait_until(lambda: len(log.read_text().splitlines()) >= moment, f"{moment} notebooks ran")
    below = cluster.on_node(victim)
    assert below
    cluster.workers[victim].kill()
    cluster.workers[victim].wait()
    assert all(wait_gone(pid, 10) for pid in below), (victim, moment)

    said, _ = process.communicate(timeout=110)
    assert process.returncode == 0, said
    assert f"{count} ok" in said
    assert [printed(tmp_path / "out" / name) for name in names] == [
        f"{index}\n" for index in range(count)
    ]
    # Each is reported once, and in the manifest once.
    assert sum(" ok     n" in line for line in said.splitlines()) == count
    manifest = (tmp_path / "out" / ".pyrepl-batch.jsonl").read_text().split("\n")
    outputs = [json.loads(line)["output"] for line in manifest if line]
    assert sorted(outputs) == names


def test_a_lost_pool_process_costs_no_notebook(cluster: Cluster, tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    waits = (
        "import pathlib, time\n"
        f"marker = pathlib.Path({str(marker)!r})\n"
        "if not marker.exists():\n"
        "    marker.touch()\n"
        "    time.sleep(100)\n"
        "print('a')"
    )
    write(tmp_path / "a.ipynb", waits)
    process = subprocess.Popen(
        [*COMMAND, "a.ipynb", "--dask", cluster.address],
        cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    wait_until(marker.exists, "the notebook began")
    for pid in cluster.on_node(0) | cluster.on_node(1):
        if "pyrepl_kernel.batch.cluster" in psutil.Process(pid).cmdline():
            psutil.Process(pid).kill()
    said, _ = process.communicate(timeout=100)
    assert process.returncode == 0, said
    assert printed(tmp_path / "executed" / "a.ipynb") == "a\n"


def test_a_client_that_was_killed_leaves_no_notebook_running(
    cluster: Cluster, tmp_path: Path
) -> None:
    pid = tmp_path / "pid"
    endless = f"import os, time\nopen({str(pid)!r}, 'w').write(str(os.getpid()))\n"
    write(tmp_path / "a.ipynb", endless + "while True: time.sleep(0.01)")
    command = (
        "import sys\n"
        "from pyrepl_kernel.batch.cluster import runner\n"
        "from pyrepl_kernel.cli import main\n"
        "runner._LINGER = 1.0; sys.exit(main())"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", command, "batch", "a.ipynb", "--dask", cluster.address],
        cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    wait_until(lambda: pid.exists() and pid.read_text(), "the notebook began")
    process.kill()
    process.communicate(timeout=30)
    assert wait_gone(int(pid.read_text()), 30)
    # The plugin is still there, since nobody took it away; its processes are not.
    left = cluster.on_node(0) | cluster.on_node(1)
    assert all(wait_gone(each, 30) for each in left)
    assert all(worker.poll() is None for worker in cluster.workers)


def test_an_interrupt_leaves_the_cluster_as_it_was(cluster: Cluster, tmp_path: Path) -> None:
    begun = tmp_path / "begun"
    write(tmp_path / "a.ipynb", f"import time; open({str(begun)!r}, 'w'); time.sleep(100)")
    process = subprocess.Popen(
        [*COMMAND, "a.ipynb", "--dask", cluster.address],
        cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    wait_until(begun.exists, "the notebook began")
    process.send_signal(signal.SIGINT)
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 130, said
    assert "1 interrupted" in said
    left = cluster.on_node(0) | cluster.on_node(1)
    assert all(wait_gone(pid, 5) for pid in left)


@pytest.mark.usefixtures("no_process_left")
def test_a_notebook_that_takes_too_much_memory_is_ended(tmp_path: Path) -> None:
    (tmp_path / "cluster").mkdir()
    cluster = Cluster(tmp_path / "cluster", 1, "--memory-limit", "1GB")
    try:
        eats = "import time\nfood = b'x' * 1_200_000_000\ntime.sleep(60)"
        paths = [
            write(tmp_path / "eats.ipynb", eats),
            write(tmp_path / "modest.ipynb", "import time; time.sleep(3); print('fine')"),
        ]
        done = batch.run(paths, output_dir=tmp_path / "out", dask=cluster.address)
    finally:
        cluster.close()
    assert [each.status for each in done.notebooks] == ["failed", "ok"]
    error = done.notebooks[0].error
    assert error is not None and error.kind == "memory"
    assert "of 1.0 GB, and of these this one used the most" in error.message


@pytest.mark.usefixtures("no_process_left")
def test_on_a_local_cluster_a_sweep(tmp_path: Path) -> None:
    code = """
import sys
from distributed import LocalCluster
from pyrepl_kernel import batch
if __name__ == "__main__":
    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster:
        done = batch.run(["a.ipynb"], output_dir="out", parameters=[{"x": i} for i in range(4)],
                         dask=cluster.scheduler_address)
        sys.exit(done.exit_status)
"""
    (tmp_path / "sweep.py").write_text(code)
    write(tmp_path / "a.ipynb", "print(x * x)")
    ran = subprocess.run(
        [sys.executable, "sweep.py"], cwd=tmp_path, capture_output=True, text=True, timeout=110
    )
    assert ran.returncode == 0, ran.stderr
    said = [printed(tmp_path / "out" / f"a-x={i}.ipynb") for i in range(4)]
    assert said == ["0\n", "1\n", "4\n", "9\n"]


def test_a_warmup_that_fails_there_is_told_before_any_notebook_runs(
    cluster: Cluster, tmp_path: Path
) -> None:
    path = write(tmp_path / "a.ipynb", "print(1)")
    with pytest.raises(batch.BatchError, match="no_such_module"):
        batch.run(
            [path],
            output_dir=tmp_path / "out",
            dask=cluster.address,
            warmup="import no_such_module",
        )


def test_no_scheduler_and_no_worker_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "_CONNECT_TIMEOUT", 1.0)
    path = write(tmp_path / "a.ipynb", "print(1)")
    run = partial(batch.run, [path], output_dir=tmp_path / "out")
    with pytest.raises(batch.BatchError, match="no Dask scheduler answers at tcp://127"):
        run(dask="tcp://127.0.0.1:9")
    (tmp_path / "cluster").mkdir()
    cluster = Cluster(tmp_path / "cluster", 0)
    try:
        with pytest.raises(batch.BatchError, match="has no workers; start some with `dask worker"):
            run(dask=cluster.address)
    finally:
        cluster.close()
