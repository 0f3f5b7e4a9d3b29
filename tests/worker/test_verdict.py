"""Whether a process may be forked, said with the line of the warmup that is in the way."""

from __future__ import annotations

import subprocess
import sys
import textwrap

import pytest

from pyrepl_kernel.worker.verdict import Verdict, prepare_environment
from tests.worker.forks import fork_after

pytestmark = pytest.mark.skipif(
    sys.platform != "linux", reason="workers are forked on Linux alone; elsewhere all are spawned"
)

IN_THE_WAY = {
    "socket": ("import socket\ns = socket.socket()", 2, "a socket is open"),
    "connected socket": (
        "import socket\nserver = socket.create_server(('127.0.0.1', 0))\n"
        "port = server.getsockname()[1]\nc = socket.create_connection(('127.0.0.1', port))\n"
        "peer, _ = server.accept()",
        2,
        "to 127.0.0.1 port",
    ),
    "sqlite in memory": (
        "import sqlite3\nclass App: pass\napp = App()\napp.db = sqlite3.connect(':memory:')\nx = 1",
        4,
        "an sqlite3 connection is open",
    ),
    "sqlite file": (
        "import sqlite3, tempfile\nf = tempfile.mktemp()\ndb = sqlite3.connect(f)",
        3,
        "sqlite3 connection",
    ),
    "executor": (
        "from concurrent.futures import ThreadPoolExecutor\npool = ThreadPoolExecutor(2)\n\n"
        "pool.submit(int).result()",
        4,
        "a thread pool is alive",
    ),
    "thread": (
        "import threading\nstop = threading.Event()\n"
        "t = threading.Thread(target=stop.wait, name='beat', daemon=True)\nt.start()\nx = 1",
        4,
        "thread 'beat' still runs",
    ),
    "lock": (
        "import threading\nlock, held = threading.Lock(), threading.Event()\n"
        "def hold():\n    with lock:\n        held.set()\n        threading.Event().wait()\n"
        "threading.Thread(target=hold, daemon=True).start()\nheld.wait()",
        7,
        "a lock that it holds would stay locked",
    ),
    "bare thread": (
        "import _thread, threading\nstop, on = threading.Lock(), threading.Event()\n"
        "stop.acquire()\ndef beat():\n    on.set()\n    stop.acquire()\n"
        "_thread.start_new_thread(beat, ())\non.wait()",
        7,
        "threads do not survive a fork",
    ),
    "child process": (
        "import subprocess, sys\n"
        "p = subprocess.Popen([sys.executable, '-c', 'input()'], stdin=subprocess.PIPE)",
        2,
        "child process",
    ),
    "pipe": ("import os\nr, w = os.pipe()", 2, "a pipe is open"),
    "loop": (
        "import asyncio\nloop = asyncio.new_event_loop()\nasyncio.set_event_loop(loop)",
        2,
        "forks would",
    ),
    "task": (
        "import asyncio, threading\nloop = asyncio.new_event_loop()\nstop = asyncio.Event()\n"
        "task = loop.create_task(stop.wait())\nloop.close()",
        4,
        "an asyncio task has not ended",
    ),
    "file": (
        "import tempfile\nf = tempfile.NamedTemporaryFile()\nf.write(b'text')",
        2,
        "is open for writing, and forks would share its position",
    ),
    "temporary directory": (
        "import tempfile\nd = tempfile.TemporaryDirectory()",
        0,
        "would be removed by the first fork that ends",
    ),
    "shared memory": ("import mmap\nm = mmap.mmap(-1, 4096)", 0, "memory is mapped"),
    "event of processes": (
        "import multiprocessing\ne = multiprocessing.Event()",
        2,
        "an Event of multiprocessing's",
    ),
}


@pytest.mark.parametrize("name", IN_THE_WAY)
def test_what_is_left_open_is_named_with_its_line(name: str) -> None:
    warmup, line, reason = IN_THE_WAY[name]
    told = fork_after(warmup)
    assert told.verdict.method == "spawn" and not told.verdict.forks
    assert reason in told.verdict.reason
    if line:
        assert told.verdict.lines[0] == line
        assert f"line {line}: {warmup.splitlines()[line - 1].strip()[:40]}" in told.verdict.reason
        assert f"move line {line} from the warmup to the first cell" in told.verdict.advice
    else:
        assert told.verdict.lines == () and "to the first cell" in told.verdict.advice


HARMLESS = {
    "nothing": "",
    "closed": """
        import socket, sqlite3
        socket.socket().close()
        sqlite3.connect(":memory:").close()
        """,
    "garbage": """
        import socket
        class Ring: pass
        ring = Ring(); ring.ring, ring.socket = ring, socket.socket()
        del ring
        """,
    "thread that ended": """
        import threading
        t = threading.Thread(target=int); t.start(); t.join()
        """,
    "executor without threads": """
        from concurrent.futures import ThreadPoolExecutor
        pool = ThreadPoolExecutor(2)
        """,
    "executor shut down": """
        from concurrent.futures import ThreadPoolExecutor
        with ThreadPoolExecutor(2) as pool:
            pool.submit(int).result()
        """,
    "log": """
        import logging, os, tempfile
        log = logging.FileHandler(tempfile.mktemp())
        os.unlink(log.baseFilename)
        """,
    "lock": "import threading\nlock = threading.Lock()\nlock.acquire()",
    "lock of processes": "import multiprocessing\nlock = multiprocessing.Lock()",
    "file that is read": "import os\nf = open(os.__file__)",
    "warmup that fails": "import json\n1 / 0",
    "no Python": "import (",
}


@pytest.mark.parametrize("name", HARMLESS)
def test_what_is_harmless_is_forked(name: str) -> None:
    told = fork_after(textwrap.dedent(HARMLESS[name]), "result = 6 * 7")
    assert told.verdict.method == "fork", told.verdict
    assert told.results == [42] and told.children[0]["code"] == 0


def test_lines_are_counted_as_the_user_counts_them() -> None:
    warmup = "\n\n  \n%precision 3\nimport socket, threading\n%time s = socket.socket()\n"
    warmup += "t = threading.Thread(target=threading.Event().wait, daemon=True)\nt.start()\n"
    told = fork_after(warmup)
    assert told.verdict.lines == (6, 8)
    assert "line 6: %time s = socket.socket()" in told.verdict.reason
    assert "line 8: t.start()" in told.verdict.reason


def test_what_a_cell_within_the_warmup_opens_belongs_to_the_statement_that_runs_it() -> None:
    told = fork_after(
        "x = 1\nget_ipython().run_cell('import socket\\n\\n\\ns = socket.socket()')\ny = 1"
    )
    assert told.verdict.lines == (2,)


def test_what_was_there_before_the_warmup_does_not_count() -> None:
    start = (
        "import socket, threading\nwait = threading.Event().wait\n"
        "shell.kept = [socket.socket(), threading.Thread(target=wait, daemon=True)]\n"
        "shell.kept[1].start()"
    )
    assert fork_after("x = 1", start=start).verdict.method == "fork"


def test_hooks_that_close_and_open_a_connection_make_a_fork_possible() -> None:
    warmup = textwrap.dedent("""
        import os, sqlite3
        from pyrepl_kernel import hooks
        db = sqlite3.connect(':memory:')
        hooks.before_fork(lambda: db.close())

        @hooks.after_fork
        def connect():
            global db, opened
            db, opened = sqlite3.connect(':memory:'), os.getpid()
        """)
    code = "result = db.execute('select 42').fetchone()[0], opened == os.getpid()"
    told = fork_after(warmup, code, 2)
    assert told.verdict.method == "fork", told.verdict
    assert told.results == [[42, True]] * 2 and told.problems == []


# ------------------------------------------------------------------ the trial fork

HANGS = "import os, threading; os.register_at_fork(after_in_child=threading.Event().wait)"


def test_a_trial_fork_that_hangs_speaks_for_spawning() -> None:
    told = fork_after("import json", start=HANGS, patience=0.5)
    assert told.verdict.method == "spawn"
    assert "a trial fork hung right after the fork for 0.5 seconds" in told.verdict.reason
    assert told.left == [] and told.printed == ""


@pytest.mark.parametrize(
    ("work", "reason"),
    [
        ("os.kill(os.getpid(), 11)", "was killed by SIGSEGV in asyncio"),
        ("os.abort()", "was killed by SIGABRT in asyncio"),
        ("os._exit(7)", "ended in asyncio with exit code 7"),
        ("threading.Event().wait()", "hung in asyncio for 3 seconds"),
        ("1 / 0", "failed in asyncio: ZeroDivisionError: division by zero"),
    ],
)
def test_a_trial_fork_that_fails_at_its_work_speaks_for_spawning(work: str, reason: str) -> None:
    warmup = f"import asyncio, os, threading\nasyncio.sleep = lambda _: {work}"
    told = fork_after(warmup, patience=3)
    assert told.verdict.method == "spawn"
    assert f"a trial fork {reason}" in told.verdict.reason
    assert told.left == []


def test_a_hook_that_hangs_is_found_by_the_trial_fork() -> None:
    warmup = "import threading\nfrom pyrepl_kernel import hooks\n"
    warmup += "hooks.after_fork(threading.Event().wait)"
    told = fork_after(warmup, patience=0.5)
    assert "hung in its renewal and the after_fork hooks" in told.verdict.reason


def test_nothing_is_seen_of_a_trial_fork() -> None:
    warmup = textwrap.dedent("""
        import atexit, os, sys
        from pyrepl_kernel import hooks
        atexit.register(print, "exit handler")

        @hooks.after_fork
        def talk():
            print("python")
            os.write(1, b"descriptor")
            os.write(2, b"error")
            os.system("echo child")
        """)
    told = fork_after(warmup, forks=0)
    assert told.verdict.method == "fork"
    assert told.left == []
    for text in ("exit handler", "python", "descriptor", "error", "child"):
        assert text not in told.printed


def test_a_trial_fork_that_crashes_leaves_no_stack_behind() -> None:
    warmup = "import asyncio, os\nasyncio.sleep = lambda _: os.abort()"
    told = fork_after(warmup, start="import faulthandler; faulthandler.enable(2)")
    assert "SIGABRT" in told.verdict.reason
    assert told.printed == ""


def test_children_that_reap_themselves_are_no_obstacle() -> None:
    warmup = "import signal\nsignal.signal(signal.SIGCHLD, signal.SIG_IGN)"
    assert fork_after(warmup, forks=0).verdict.method == "fork"


def test_a_verdict_imports_nothing_of_the_users() -> None:
    code = (
        "import sys\nfrom pyrepl_kernel.worker.verdict import *\n"
        "print(judge(watch_process()).method)\n"
        "heavy = 'numpy pandas polars torch sqlite3 multiprocessing asyncio ssl msgpack IPython'\n"
        "print([name for name in heavy.split() if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[:2] == ["fork", "[]"]


# ---------------------------------------------------------------------- the rest


def test_a_verdict_travels_as_a_dict() -> None:
    verdict = Verdict("spawn", "a socket is open", "move line 3", (3,))
    assert Verdict.from_dict(verdict.as_dict()) == verdict
    assert str(verdict) == "spawn: a socket is open (move line 3)"
    with pytest.raises(ValueError, match="no verdict has the method 'thread'"):
        Verdict.from_dict({"method": "thread"})


@pytest.mark.parametrize(("given", "found"), [({}, "forksafe"), (None, "omp")])
def test_numba_gets_a_layer_that_can_be_forked_unless_the_user_chose(
    given: dict[str, str] | None, found: str
) -> None:
    environ = {"NUMBA_THREADING_LAYER": "omp"} if given is None else given
    prepare_environment(environ)
    assert environ["NUMBA_THREADING_LAYER"] == found
