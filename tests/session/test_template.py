"""Templates: forks with real processes, shared by key, found and lost."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from pyrepl_kernel import Session, SessionConfig, SessionPool, WorkerDied
from pyrepl_kernel.errors import TemplateError
from pyrepl_kernel.protocol.forking import TemplateMessage
from pyrepl_kernel.session.template import (
    PrivateTemplate,
    SharedTemplate,
    Template,
    TemplateLink,
)
from pyrepl_kernel.session.template_start import StartedTemplate
from pyrepl_kernel.session.templates import TemplateDirectory
from tests.session.support import BOUND, wait_gone

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="workers are forked on Linux alone"),
    pytest.mark.usefixtures("no_process_left"),
]

Make = Callable[..., SharedTemplate]


def order(path: Path | str = "", **fields: Any) -> TemplateMessage:
    """What a template of a test is told."""
    return TemplateMessage(**{"key": "a" * 24 if path else "", "directory": str(path), **fields})


@pytest.fixture
async def shared(tmp_path: Path) -> AsyncIterator[Make]:
    """Makes users of one shared template; lets go of them in the end."""
    made: list[SharedTemplate] = []

    def make(**fields: Any) -> SharedTemplate:
        made.append(SharedTemplate(order(tmp_path / "pyrepl", **fields)))
        return made[-1]

    yield make
    pids = {template.pid for template in made} - {None}
    for template in made:
        template.close()
    assert all(wait_gone(pid, BOUND) for pid in pids if pid)


async def forked(template: Template, **options: Any) -> Session:
    """A session with a fork of a template."""
    session = Session(**options)
    await session.start(await template.fork())
    assert session.is_forked
    return session


async def printed(session: Session, code: str) -> str:
    """What a cell prints."""
    outcome = await session.run(code)
    assert outcome.status == "ok", outcome
    return outcome.stdout


# ------------------------------------------------------------------ a fork


async def test_a_fork_has_what_the_warmup_left_and_shares_nothing_after_it(shared: Make) -> None:
    template = shared(warmup="import os\nlist_ = [1]\nborn = os.getpid()")
    first, second = await forked(template), await forked(template)
    assert await printed(first, "list_.append(2); print(list_, born != os.getpid())") == (
        "[1, 2] True\n"
    )
    assert await printed(second, "print(list_, born)") == f"[1] {template.pid}\n"
    assert first.pid != second.pid
    assert os.getpgid(first.pid or 0) == first.pid
    await first.shutdown()
    assert await printed(second, "print(1)") == "1\n"
    await second.shutdown()


async def test_a_fork_is_a_worker_like_any_other(shared: Make, tmp_path: Path) -> None:
    session = await forked(shared(warmup="import ctypes"), cwd=tmp_path)
    code = "import os, sys; os.system('echo from a child'); os.write(2, b'raw'); sys.stdin.read()"
    outcome = await session.run(code)
    assert (outcome.stdout, outcome.stderr, outcome.status) == ("from a child\n", "raw", "ok")
    assert await printed(session, "print(os.getcwd())") == f"{tmp_path}\n"
    running = asyncio.create_task(session.run("import time; time.sleep(600)"))
    while not session.is_executing:
        await asyncio.sleep(0)
    await session.interrupt()
    assert (await asyncio.wait_for(running, BOUND)).error.ename == "KeyboardInterrupt"  # type: ignore[union-attr]
    code = "import asyncio; await asyncio.sleep(0); print('awaited')"
    assert await printed(session, code) == "awaited\n"
    await session.reset()
    assert await printed(session, "print('os' in globals(), 'ctypes' in globals())") == (
        "False True\n"
    )
    await session.shutdown()


async def test_a_warmup_that_uses_asyncio_can_be_forked(shared: Make) -> None:
    code = "import asyncio\nasync def f(): return 7\nseven = await f()"
    template = shared(warmup=code)
    sessions = [await forked(template) for _ in range(2)]
    for session in sessions:
        assert await printed(session, "print(seven, asyncio.run(f()))") == "7 7\n"
        code = "task = asyncio.create_task(f()); print(await task)"
        assert await printed(session, code) == "7\n"
        await session.shutdown()


async def test_the_template_keeps_no_descriptor_of_a_worker(shared: Make) -> None:
    template = shared()
    await template.warm()
    table = Path(f"/proc/{template.pid}/fd")
    before = len(list(table.iterdir()))
    sessions = [await forked(template) for _ in range(5)]
    # One of each is the pidfd by which it hears of the end.
    assert len(list(table.iterdir())) == before + 5
    for session in sessions:
        await session.shutdown()
    assert len(list(table.iterdir())) == before
    links = {os.readlink(entry) for entry in table.iterdir()}
    assert not [link for link in links if link.startswith("pipe:")][2:], links


async def test_a_fork_holds_nothing_of_the_template_or_of_its_siblings(shared: Make) -> None:
    template = shared(warmup="import os")
    sibling = await forked(template)
    session = await forked(template)
    code = "print(*(os.readlink(f'/proc/self/fd/{n}') for n in os.listdir('/proc/self/fd')[:-1]))"
    links = (await printed(session, code)).split()
    table = [f"/proc/{sibling.pid}/fd/{name}" for name in os.listdir(f"/proc/{sibling.pid}/fd")]
    assert {os.readlink(path) for path in table} & set(links) == {"/dev/null"}
    kinds = [link.partition(":")[0] for link in links]
    # The protocol, the debugger, checkpoints; stdout, stderr, the lifeline, the stacks.
    assert (kinds.count("socket"), kinds.count("pipe")) == (3, 4), links
    assert not [link for link in links if "pidfd" in link], links
    await session.shutdown()
    await sibling.shutdown()


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("import os; os._exit(3)", "exited with code 3"),
        ("import os; os.kill(os.getpid(), 9)", "SIGKILL"),
        ("import os; os.abort()", "SIGABRT"),
    ],
)
async def test_how_a_fork_ended_is_known(shared: Make, code: str, words: str) -> None:
    session = await forked(shared())
    with pytest.raises(WorkerDied, match=words):
        await session.run(code)


async def test_the_children_of_a_fork_end_with_it(shared: Make) -> None:
    session = await forked(shared())
    code = "import subprocess; print(subprocess.Popen(['sleep', '600']).pid)"
    child = int(await printed(session, code))
    assert session.pid
    os.kill(session.pid, signal.SIGKILL)
    assert wait_gone(child)
    await session.terminate()


async def test_users_exit_handlers_run_in_each_fork(shared: Make, tmp_path: Path) -> None:
    code = (
        "import atexit, os, pathlib\n"
        f"atexit.register(lambda: pathlib.Path({str(tmp_path)!r}, str(os.getpid())).touch())"
    )
    template = shared(warmup=code)
    sessions = [await forked(template) for _ in range(2)]
    pids = {str(session.pid) for session in sessions}
    for session in sessions:
        await session.shutdown()
    template_pid = template.pid
    template.close()
    assert template_pid and wait_gone(template_pid)
    assert {path.name for path in tmp_path.iterdir()} - {"pyrepl"} == pids


async def test_siblings_have_random_numbers_of_their_own(shared: Make) -> None:
    template = shared(warmup="import random, uuid, tempfile, numpy, secrets")
    code = (
        "print(random.random(), numpy.random.rand(), uuid.uuid4(), secrets.token_hex(), "
        "tempfile.mktemp(), sep='|')"
    )
    seen: list[list[str]] = []
    for _ in range(7):
        session = await forked(template)
        seen.append((await printed(session, code)).strip().split("|"))
        await session.shutdown()
    for values in zip(*seen, strict=True):
        assert len(set(values)) == 7, values


# -------------------------------------------------------------- surroundings


async def test_a_fork_has_the_whole_environment_of_who_asked_for_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, shared: Make
) -> None:
    monkeypatch.setenv("TEMPLATE_ONLY", "1")
    monkeypatch.setenv("SAME", "before")
    code = "import os\nos.environ['OF_WARMUP'] = 'kept'\nos.environ['SAME'] = 'warm'"
    template = shared(warmup=code)
    await template.warm()
    monkeypatch.delenv("TEMPLATE_ONLY")
    monkeypatch.setenv("ASKER_ONLY", "2")
    monkeypatch.chdir(tmp_path)
    session = await forked(template, env={"MORE": "3"})
    names = "TEMPLATE_ONLY ASKER_ONLY MORE OF_WARMUP SAME"
    assert await printed(session, f"print(*(os.environ.get(n) for n in '{names}'.split()))") == (
        "None 2 3 kept warm\n"
    )
    assert await printed(session, "print(os.getcwd())") == f"{tmp_path}\n"
    await session.shutdown()


@pytest.mark.parametrize("method", ["fork", "spawn"])
async def test_a_session_can_be_taken_over_for_another_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    monkeypatch.setenv("JPY_SESSION_NAME", "first.ipynb")
    async with SessionPool(min_idle=1, warmup_code="import os, sys", start_method=method) as pool:
        await pool.wait_ready(BOUND)
        variables = {"NEW": "yes", "JPY_SESSION_NAME": "second.ipynb"}
        async with pool.session(cwd=tmp_path, env=variables) as session:
            session.hand_over(options={"argv": ["mine", "1"]})
            said = await printed(
                session, "print(os.getcwd(), os.environ['NEW'], __session__, sys.argv, _dh)"
            )
            assert said == (
                f"{tmp_path} yes second.ipynb ['mine', '1'] [PosixPath('{tmp_path}')]\n"
            )


async def test_a_place_that_is_not_there_is_refused(tmp_path: Path) -> None:
    async with SessionPool(min_idle=1, start_method="spawn") as pool:
        with pytest.raises(NotADirectoryError, match="none"):
            await pool.acquire(cwd=tmp_path / "none")
        async with pool.session() as session:
            with pytest.raises(NotADirectoryError, match="none"):
                session.hand_over(cwd=tmp_path / "none")


async def test_a_place_that_goes_meanwhile_is_told_with_the_next_cell(tmp_path: Path) -> None:
    place = tmp_path / "place"
    place.mkdir()
    async with Session() as session:
        running = asyncio.create_task(session.run("import time; time.sleep(0.2)"))
        while not session.is_executing:
            await asyncio.sleep(0)
        session.hand_over(cwd=place)
        place.rmdir()
        await running
        outcome = await session.run("print('goes on')")
        assert outcome.stdout == "goes on\n"
        assert "could not be taken over" in outcome.stderr and "place" in outcome.stderr


async def test_a_reused_session_comes_back_to_its_place(tmp_path: Path) -> None:
    async with SessionPool(min_idle=1, max_sessions=1, reuse=True) as pool:
        async with pool.session(cwd=tmp_path, env={"MOVED": "1"}) as session:
            pid = session.pid
        async with pool.session() as session:
            assert session.pid == pid
            said = await printed(session, "import os; print(os.getcwd(), 'MOVED' in os.environ)")
            assert said == f"{os.getcwd()} False\n"


# --------------------------------------------------------------- found, lost


async def test_two_that_start_at_the_same_moment_share_one(shared: Make) -> None:
    users = [shared(warmup="import time\ntime.sleep(0.3)") for _ in range(5)]
    await asyncio.gather(*(user.warm() for user in users))
    assert len({user.pid for user in users}) == 1


SHARE = """
import asyncio, sys
from pyrepl_kernel.protocol.forking import TemplateMessage
from pyrepl_kernel.session.template import SharedTemplate

async def main():
    template = SharedTemplate(TemplateMessage(key="b" * 24, directory=sys.argv[1]))
    await template.warm()
    print(template.pid, flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)

asyncio.run(main())
"""


async def test_processes_that_start_at_the_same_moment_share_one(tmp_path: Path) -> None:
    pipe = asyncio.subprocess.PIPE
    command = [sys.executable, "-c", SHARE, str(tmp_path / "pyrepl")]
    users = [
        await asyncio.create_subprocess_exec(*command, stdin=pipe, stdout=pipe) for _ in range(4)
    ]
    said = [await asyncio.wait_for(user.stdout.readline(), BOUND) for user in users if user.stdout]
    (pid,) = set(said)
    # Whoever started it may go first; it lives as long as somebody needs it.
    for user in users:
        assert psutil.Process(int(pid)).is_running()
        user.kill()
        await user.wait()
    assert wait_gone(int(pid))


async def test_what_a_dead_template_left_is_replaced(shared: Make, tmp_path: Path) -> None:
    first = shared()
    await first.warm()
    dead = first.pid
    assert dead
    os.kill(dead, signal.SIGKILL)
    assert wait_gone(dead)
    assert (tmp_path / "pyrepl" / f"{'a' * 24}.sock").exists()
    second = shared()
    session = await forked(second)
    assert second.pid != dead
    # Whoever was connected to the first gets the second too.
    other = await forked(first)
    assert first.pid == second.pid
    await session.shutdown()
    await other.shutdown()


async def test_its_death_takes_no_worker_with_it(shared: Make) -> None:
    template = shared()
    session = await forked(template)
    assert template.pid
    os.kill(template.pid, signal.SIGKILL)
    assert await printed(session, "print('here')") == "here\n"
    with pytest.raises(WorkerDied, match="nobody knows how"):
        await session.run("import os; os._exit(3)")


async def test_a_pool_whose_template_is_killed_goes_on(tmp_path: Path) -> None:
    async with SessionPool(min_idle=2, max_sessions=6, warmup_code="warm = 1") as pool:
        await pool.wait_ready(BOUND)
        for _ in range(3):
            template: Any = pool._workers
            os.kill(template.template.pid, signal.SIGKILL)
            async with asyncio.TaskGroup() as group:
                for _ in range(6):
                    group.create_task(self_contained(pool))
            await pool.wait_ready(BOUND)
        assert pool.stats().failed == 0


async def self_contained(pool: SessionPool) -> None:
    """Use a session of a pool once."""
    async with pool.session() as session:
        assert await printed(session, "print(warm)") == "1\n"


async def test_foreign_files_are_left_alone_or_refused(shared: Make, tmp_path: Path) -> None:
    place = tmp_path / "pyrepl"
    place.mkdir(mode=0o755)
    (place / "notes.txt").write_text("mine")
    (place / "broken.json").write_text("{")
    (place / f"{'c' * 24}.sock").write_text("no socket")
    await shared().warm()
    assert (place / "notes.txt").read_text() == "mine"
    assert place.stat().st_mode & 0o777 == 0o700


async def test_a_directory_that_is_none_is_said(tmp_path: Path) -> None:
    (tmp_path / "pyrepl").write_text("")
    template = SharedTemplate(order(tmp_path / "pyrepl"))
    with pytest.raises(TemplateError, match="is no directory; remove it"):
        await template.fork()


async def test_a_path_too_long_for_a_socket_is_no_obstacle(tmp_path: Path) -> None:
    place = tmp_path / ("x" * 90) / ("y" * 90)
    place.mkdir(parents=True)
    template = SharedTemplate(order(place / "pyrepl"))
    session = await forked(template)
    await session.shutdown()
    pid = template.pid
    template.close()
    assert pid and wait_gone(pid)
    assert [path.name for path in (place / "pyrepl").iterdir()] == ["lock"]


async def test_it_lingers_and_leaves_nothing(shared: Make, tmp_path: Path) -> None:
    first = shared(linger=1.0)
    await first.warm()
    pid = first.pid
    first.close()
    second = shared(linger=1.0)
    await second.warm()
    assert second.pid == pid
    directory = TemplateDirectory(str(tmp_path / "pyrepl"))
    (state,) = directory.states()
    assert (state.pid, state.verdict, state.can_fork) == (pid, "fork", True)
    second.close()
    assert pid and wait_gone(pid)
    assert [path.name for path in (tmp_path / "pyrepl").iterdir()] == ["lock"]


async def test_sigterm_ends_it_and_leaves_the_workers(shared: Make, tmp_path: Path) -> None:
    template = shared(linger=600.0)
    session = await forked(template)
    assert template.pid
    os.kill(template.pid, signal.SIGTERM)
    assert wait_gone(template.pid)
    assert [path.name for path in (tmp_path / "pyrepl").iterdir()] == ["lock"]
    assert await printed(session, "print('here')") == "here\n"
    await session.shutdown()


async def test_a_warmup_that_hangs_ends_with_who_wanted_it(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    code = f"import os, pathlib\npathlib.Path({str(mark)!r}).write_text(str(os.getpid()))\n"
    template = SharedTemplate(order(tmp_path / "pyrepl", warmup=code + "while True: pass"))
    warming = asyncio.create_task(template.warm())
    async with asyncio.timeout(BOUND):
        while not mark.exists() or not mark.read_text():
            await asyncio.sleep(0.01)
    template.close()
    assert wait_gone(int(mark.read_text()))
    with pytest.raises(asyncio.CancelledError):
        await warming


async def test_a_template_that_dies_in_its_warmup_says_its_last_words(tmp_path: Path) -> None:
    code = "import os\nos.write(2, b'last words')\nos._exit(3)"
    template = SharedTemplate(order(tmp_path / "pyrepl", warmup=code))
    with pytest.raises(TemplateError, match="last words"):
        await template.fork()
    template.close()


async def test_strangers_and_nonsense_are_dropped(shared: Make, tmp_path: Path) -> None:
    template = shared()
    await template.warm()
    with TemplateDirectory(str(tmp_path / "pyrepl")).connect("a" * 24) as stranger:
        stranger.setblocking(True)
        stranger.settimeout(BOUND)
        assert stranger.recv(65536)
        stranger.send(b"nonsense")
        assert stranger.recv(65536) == b""
    session = await forked(template)
    await session.shutdown()


async def test_a_template_that_goes_with_a_request_unread_is_no_accident(
    caplog: pytest.LogCaptureFixture,
) -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    lost = asyncio.Event()
    link = TemplateLink(ours, lost.set)
    asking = asyncio.create_task(link.fork())
    await asyncio.sleep(0)  # until it has asked
    theirs.close()
    with pytest.raises(TemplateError, match="the template has gone"):
        await asking
    assert lost.is_set()
    assert not caplog.records


# ----------------------------------------------------- what cannot be forked


async def test_a_pool_spawns_what_its_warmup_forbids_to_fork() -> None:
    code = "import threading\nthreading.Thread(target=threading.Event().wait, daemon=True).start()"
    async with SessionPool(min_idle=1, warmup_code=code) as pool:
        async with pool.session() as session:
            assert not session.is_forked
            assert await printed(session, "print(threading.active_count() > 1)") == "True\n"
        stats = pool.stats()
        assert stats.start_method == "spawn"
        assert "thread" in stats.start_reason
        assert "line 2" in stats.start_advice


HANGS_LATER = """
import ctypes, time
from pyrepl_kernel import hooks
from pyrepl_kernel.worker import hook_limit
hook_limit.PATIENCE = 0.2
lock, mutex = ctypes.PyDLL(None).pthread_mutex_lock, ctypes.create_string_buffer(64)
calls = []

@hooks.before_fork
def disconnect():
    calls.append(1)
    if len(calls) > 1:  # not at the trial fork
        HANG
"""


@pytest.mark.parametrize(
    ("hang", "reason", "said"),
    [
        ("time.sleep(600)", "the before_fork hook disconnect did not return within 0.2", ""),
        # No signal interrupts it, and it holds the interpreter, so that no exception arrives.
        ("lock(mutex), lock(mutex)", "the template has gone", "in disconnect"),
    ],
    ids=["python", "C"],
)
async def test_a_hook_that_hangs_is_named_and_workers_are_spawned(
    hang: str, reason: str, said: str, caplog: pytest.LogCaptureFixture
) -> None:
    code = HANGS_LATER.replace("HANG", hang)
    async with SessionPool(min_idle=1, max_sessions=3, warmup_code=code) as pool:
        for _ in range(2):
            async with pool.session() as session:
                assert not session.is_forked
                assert await printed(session, "print(calls)") == "[]\n"
        stats = pool.stats()
        assert stats.start_method == "spawn"
        assert reason in stats.start_reason
    assert caplog.text.count(f"workers are spawned, not forked: {reason}") == 1
    assert said in caplog.text


async def test_a_kernels_template_that_cannot_fork_is_remembered(
    shared: Make, tmp_path: Path
) -> None:
    code = "import threading\nthreading.Thread(target=threading.Event().wait, daemon=True).start()"
    template = shared(warmup=code, linger=600.0)
    warm = await template.warm()
    assert warm.verdict == "spawn"
    template.close()
    assert wait_gone(warm.pid)
    state = TemplateDirectory(str(tmp_path / "pyrepl")).state("a" * 24)
    assert state is not None
    assert state.is_against_forks and not state.can_fork
    assert not replace(state, warmed_at=state.warmed_at - 2 * 24 * 3600).is_against_forks
    again = shared(warmup=code, linger=600.0)
    assert (await again.warm()).reason == warm.reason
    assert again.pid is None, "it was warmed up in vain"


async def test_start_method_spawn_makes_no_template() -> None:
    async with SessionPool(min_idle=1, start_method="spawn") as pool:
        async with pool.session() as session:
            assert not session.is_forked
        assert pool.stats().start_method == "spawn"
        assert pool.stats().forked == 0


async def test_a_private_template_ends_with_its_owner() -> None:
    template = PrivateTemplate(order(), sys.executable, os.environ)
    session = await forked(template, config=SessionConfig())
    pid = template.pid
    await session.shutdown()
    await template.end()
    assert pid and wait_gone(pid, 0.1)
    with pytest.raises(TemplateError):
        await template.fork()


def sleeper() -> int:
    """A process that does nothing."""
    return os.posix_spawnp("sleep", ["sleep", "600"], os.environ, setsid=True)


async def test_the_end_waits_for_a_template_whose_forerunner_is_reaped_late() -> None:
    template = PrivateTemplate(order(), sys.executable, os.environ)
    first, second = sleeper(), sleeper()
    for pid in (first, second):
        template._watch_process(StartedTemplate(pid, -1, -1))
    os.kill(first, signal.SIGKILL)
    while psutil.pid_exists(first):
        await asyncio.sleep(0)
    ending = asyncio.create_task(template.end())
    await asyncio.sleep(0)
    assert not ending.done()
    os.kill(second, signal.SIGKILL)
    await ending
    assert not psutil.pid_exists(second)


async def test_templates_that_die_leave_nothing_open(tmp_path: Path) -> None:
    template = PrivateTemplate(order(), sys.executable, os.environ)
    numbers = []
    for _ in range(3):
        warm = await template.warm()
        os.kill(warm.pid, signal.SIGKILL)
        while psutil.pid_exists(warm.pid):
            await asyncio.sleep(0)
        numbers.append(len(os.listdir("/proc/self/fd")))
    await template.end()
    assert numbers[1:] == numbers[:1] * 2


def test_sockets_of_other_users_are_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    directory = TemplateDirectory(str(tmp_path / "pyrepl"))
    directory.prepare()
    with directory.listen("d" * 24):
        monkeypatch.setattr(os, "geteuid", lambda: 12345)
        with pytest.raises(PermissionError, match="another user"):
            directory.connect("d" * 24)
        with pytest.raises(PermissionError, match="belongs to user"):
            directory.prepare()
    assert isinstance(socket.AF_UNIX, int)
