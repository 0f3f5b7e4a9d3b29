"""A kill for want of memory is known by its counter, wherever the system keeps it."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from pyrepl_kernel.errors import DeathCause, WorkerDied
from pyrepl_kernel.session import death as death_module
from pyrepl_kernel.session.oom import OutOfMemoryKills, counter_files
from pyrepl_kernel.session.session import Session


def system(root: Path, groups: str, mounts: str) -> None:
    """A system's /proc, as far as process 7 is concerned."""
    (root / "proc/7").mkdir(parents=True)
    (root / "proc/7/cgroup").write_text(groups)
    (root / "proc/7/mountinfo").write_text(mounts)
    (root / "proc/vmstat").write_text("nr_free_pages 1\noom_kill 0\n")


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


V2 = "0::/user.slice/me.scope\n", "30 1 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n"
V1 = (
    "4:memory,other:/docker/abc\n1:name=systemd:/docker/abc\n0::/\n",
    "35 31 0:32 /docker/abc /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory,other\n"
    "41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n",
)


@pytest.mark.parametrize(
    ("made", "place", "before", "after"),
    [
        (
            V2,
            "sys/fs/cgroup/user.slice/me.scope/memory.events",
            "oom 1\noom_kill 1\n",
            "oom_kill 2\n",
        ),
        (
            V1,
            "sys/fs/cgroup/memory/memory.oom_control",
            "under_oom 0\noom_kill 0\n",
            "oom_kill 1\n",
        ),
        (("", ""), "proc/vmstat", "oom_kill 3\n", "oom_kill 4\n"),
    ],
    ids=["version 2", "version 1 in a container", "no control groups"],
)
def test_where_the_kills_are_counted(
    tmp_path: Path, made: tuple[str, str], place: str, before: str, after: str
) -> None:
    system(tmp_path, *made)
    file = write(tmp_path / place, before)
    kills = OutOfMemoryKills(7, str(tmp_path))
    assert kills.is_known
    assert not kills.has_grown()
    file.write_text(after)
    assert kills.has_grown()
    kills.note()
    assert not kills.has_grown()
    kills.close()


def test_a_system_that_does_not_count(tmp_path: Path) -> None:
    kills = OutOfMemoryKills(7, str(tmp_path))
    assert not kills.is_known
    assert not kills.has_grown()
    kills.note()
    kills.close()


def test_this_system_counts() -> None:
    if not any(os.path.exists(path) for path in counter_files(os.getpid())):
        pytest.skip("this system keeps no count of kills for want of memory: no cgroup, no vmstat")
    kills = OutOfMemoryKills(os.getpid())
    assert kills.is_known
    kills.close()


async def test_a_kill_that_the_counter_explains(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    system(tmp_path, "", "")

    class Here(OutOfMemoryKills):
        def __init__(self, pid: int) -> None:
            super().__init__(7, str(tmp_path))

    monkeypatch.setattr(death_module, "OutOfMemoryKills", Here)
    code = f"""
        import os, signal
        open({str(tmp_path / "proc/vmstat")!r}, "w").write("oom_kill 1\\n")
        os.kill(os.getpid(), signal.SIGKILL)
    """
    async with Session() as session:
        with pytest.raises(WorkerDied, match="which had run out of memory") as caught:
            await session.run(code)
    assert caught.value.cause is DeathCause.OUT_OF_MEMORY
    assert caught.value.signal == signal.SIGKILL
