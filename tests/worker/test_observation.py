"""Whose threads there are, and GNU OpenMP's end when they are told to."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from typing import Any

import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="it reads Linux's /proc")


def run(code: str) -> Any:
    """What a process of its own leaves in ``result``."""
    whole = textwrap.dedent(code) + "\nimport json, os\nprint(json.dumps(result), flush=True)"
    done = subprocess.run(
        [sys.executable, "-c", whole + "\nos._exit(0)"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


OPENMP = """
import numpy, sklearn.cluster
from pyrepl_kernel.worker.observation import native_threads
from pyrepl_kernel.worker.openmp import is_libgomp, libgomp_images, quiesce

def cluster():
    return sklearn.cluster.KMeans(2, n_init=1).fit(numpy.random.rand(3000, 2)).n_iter_ > 0

def openmp_threads():
    return sum(is_libgomp(thread.library) for thread in native_threads())
"""


def test_threads_of_openmp_are_known_and_end_and_come_again() -> None:
    pytest.importorskip("sklearn", reason="pip install scikit-learn to run this")
    code = OPENMP + (
        "cluster()\nbefore = openmp_threads()\nfailed = quiesce()\n"
        "while after := openmp_threads(): pass  # they take a moment to go\n"
        "again = bool(cluster())\nresult = before, failed, after, again, len(libgomp_images())"
    )
    before, failed, after, again, images = run(code)
    assert before >= 1 and images >= 1
    assert failed == [] and after == 0
    assert again


def test_a_thread_is_attributed_to_the_library_that_it_waits_in() -> None:
    pytest.importorskip("duckdb", reason="pip install duckdb to run this")
    code = """
        import duckdb
        from pyrepl_kernel.worker.observation import native_threads
        connection = duckdb.connect()
        connection.execute("select 1").fetchall()
        result = [thread.library for thread in native_threads()]
        """
    libraries = run(code)
    assert libraries and all("duckdb" in path for path in libraries)


def test_threads_that_python_knows_and_those_that_were_there_are_left_out() -> None:
    code = """
        import _thread, threading
        from pyrepl_kernel.worker.observation import glance, native_threads
        stop = threading.Event()
        threading.Thread(target=stop.wait, daemon=True).start()
        found = [len(native_threads())]
        on, hold = threading.Event(), _thread.allocate_lock()
        hold.acquire()
        _thread.start_new_thread(lambda: (on.set(), hold.acquire()), ())
        on.wait()
        result = [*found, len(native_threads()), len(native_threads(glance().threads))]
        """
    assert run(code) == [0, 1, 0]


def test_a_glance_sees_descriptors_and_children_that_live() -> None:
    code = """
        import os, subprocess, sys
        from pyrepl_kernel.worker.observation import children, glance
        before = glance()
        reader, writer = os.pipe()
        code = "print(flush=True); input()"
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        child = subprocess.Popen([sys.executable, "-c", code], **pipes)
        child.stdout.readline()
        now = glance()
        new = {fd for fd, _ in now.descriptors - before.descriptors}
        result = [{reader, writer} <= new, now.children == {child.pid}]
        result.append("input()" in str(children()))
        child.stdin.close()
        child.stdout.read()
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        result.append(children() == {} and glance().children == {child.pid})  # not waited for
        child.wait()
        result.append(not glance().children)
        """
    assert run(code) == [True] * 5
