"""Forked siblings are processes of their own."""

from __future__ import annotations

import os
import sys
import textwrap

import pytest

from tests.worker.forks import fork_after

pytestmark = pytest.mark.skipif(
    sys.platform != "linux", reason="workers are forked on Linux alone; elsewhere all are spawned"
)

IMPORTS = "import os, random, secrets, ssl, tempfile, uuid\nimport numpy\n"
DRAW = {
    "random.random": "random.random()",
    "numpy.random.rand": "float(numpy.random.rand())",
    "uuid4": "str(uuid.uuid4())",
    "tempfile": "tempfile.mktemp()",
    "secrets": "secrets.token_hex()",
    "ssl": "ssl.RAND_bytes(8).hex()",
}


def test_siblings_never_draw_the_same() -> None:
    # Each has drawn before, so all of them have a state that the siblings inherit.
    warmup = IMPORTS + "\n".join(DRAW.values())
    code = f"result = [{', '.join(DRAW.values())}]"
    told = fork_after(warmup, code, 20)
    for n, name in enumerate(DRAW):
        drawn = [result[n] for result in told.results]
        assert len(set(drawn)) == 20, f"{name} repeats itself: {drawn}"


def test_a_seed_in_a_hook_holds_in_each_worker() -> None:
    warmup = IMPORTS + (
        "from pyrepl_kernel import hooks\n"
        "hooks.after_fork(lambda: (random.seed(1), numpy.random.seed(1)))"
    )
    told = fork_after(warmup, "result = [random.random(), float(numpy.random.rand())]", 2)
    assert told.results[0] == told.results[1] != [None, None]


def test_numpy_with_another_generator_is_seeded_too() -> None:
    warmup = "import numpy\nnumpy.random.set_bit_generator(numpy.random.PCG64(1))"
    told = fork_after(warmup, "result = float(numpy.random.rand())", 3)
    assert len(set(told.results)) == 3
    assert [child["problems"] for child in told.children] == [[], [], []]


def test_a_continued_session_goes_on_with_its_random_numbers() -> None:
    # What this process would draw next is what its fork draws.
    warmup = textwrap.dedent("""
        import os, random
        import numpy.random
        from pyrepl_kernel import hooks
        from pyrepl_kernel.worker.renewal import remember, renew
        hooks.after_fork(lambda: 1 / 0)
        draw = lambda: [random.random(), float(numpy.random.rand())]

        def fork_and_draw():
            reader, writer = os.pipe()
            state = remember()
            if not os.fork():
                problems = renew(state)
                os.write(writer, repr(problems + draw()).encode())
                os._exit(0)
            os.wait()
            drawn = eval(os.read(reader, 10000))
            os.close(reader); os.close(writer)
            return drawn
        """)
    told = fork_after(warmup, "result = [fork_and_draw(), draw()]", must_fork=True)
    theirs, ours = told.results[0]
    assert theirs == ours


def test_the_users_signal_handlers_stay() -> None:
    warmup = textwrap.dedent("""
        import signal
        def handler(*_): ...
        signal.signal(signal.SIGUSR1, handler)
        """)
    code = "result = signal.getsignal(signal.SIGUSR1) is handler"
    assert fork_after(warmup, code).results == [True]


def test_a_file_that_the_warmup_reads_is_read_on_by_each_for_itself() -> None:
    warmup = textwrap.dedent("""
        import os, tempfile
        path = tempfile.mktemp()
        with open(path, "wb") as file:
            file.write(bytes(range(256)) * 256)
        file = open(path, "rb", buffering=0)
        os.unlink(path)
        file.read(10)
        os.set_inheritable(file.fileno(), True)
        """)
    code = "result = [file.read(3)[0], file.fileno(), os.get_inheritable(file.fileno())]"
    told = fork_after(warmup, code, 3)
    assert told.verdict.method == "fork", told.verdict
    assert told.results[0][0] == 10 and told.results[0][2] is True
    assert told.results[0] == told.results[1] == told.results[2]


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_locks_of_multiprocessing_are_no_siblings_affair(method: str) -> None:
    # The first child takes them and never gives them back.
    warmup = textwrap.dedent(f"""
        from multiprocessing import get_context
        context = get_context({method!r})
        lock, rlock = context.Lock(), context.RLock()
        semaphore, ours = context.BoundedSemaphore(3), context.RLock()
        semaphore.acquire()
        ours.acquire()
        """)
    code = textwrap.dedent("""
        result = [
            lock.acquire(timeout=5), rlock.acquire(timeout=5), semaphore.acquire(timeout=5),
            semaphore.acquire(timeout=5), semaphore.acquire(block=False), ours.acquire(timeout=5),
        ]
        """)
    told = fork_after(warmup, code, 2)
    assert told.verdict.method == "fork", told.verdict
    assert told.results == [[True, True, True, True, False, True]] * 2


def test_a_named_lock_has_a_name_of_its_own_until_its_process_ends() -> None:
    # By its name a spawned process finds it.
    warmup = "from multiprocessing import get_context\nlock = get_context('spawn').Lock()"
    told = fork_after(warmup, "result = lock._semlock.name", 2)
    assert told.verdict.method == "fork", told.verdict
    assert len(set(told.results)) == 2
    assert not [name for name in told.results if os.path.exists(f"/dev/shm/sem.{name[1:]}")]


def test_progress_bars_of_siblings_do_not_wait_for_each_other() -> None:
    warmup = "import sys\nfrom tqdm import tqdm\nlist(tqdm(range(3), file=sys.stderr))"
    code = textwrap.dedent("""
        list(tqdm(range(3), file=sys.stderr))
        tqdm.get_lock().acquire()
        result = True
        """)
    warmup += "\ntqdm.monitor.exit()\ntqdm.monitor = None"
    told = fork_after(warmup, code, 2)
    assert told.verdict.method == "fork", told.verdict
    assert told.results == [True, True]


def test_children_of_multiprocessing_work_in_a_fork_and_have_a_directory_of_their_own() -> None:
    warmup = textwrap.dedent("""
        import multiprocessing, multiprocessing.util
        directory = multiprocessing.util.get_temp_dir()
        """)
    code = textwrap.dedent("""
        context = multiprocessing.get_context("fork")
        queue = context.SimpleQueue()
        child = context.Process(target=queue.put, args=(42,))
        child.start()
        result = [
            queue.get(), child.join(), child.exitcode,
            multiprocessing.current_process().name,
            multiprocessing.util.get_temp_dir() != directory,
        ]
        """)
    told = fork_after(warmup, code, 2)
    assert told.verdict.method == "fork", told.verdict
    assert told.results == [[42, None, 0, "MainProcess", True]] * 2


def test_threads_executors_and_loops_work_in_a_fork() -> None:
    warmup = textwrap.dedent("""
        import asyncio, threading
        from concurrent.futures import ThreadPoolExecutor
        with ThreadPoolExecutor(2) as pool:
            pool.submit(int).result()
        async def work():
            return await asyncio.to_thread(lambda: 42)
        asyncio.run(work())
        """)
    code = textwrap.dedent("""
        with ThreadPoolExecutor(2) as pool:
            one = pool.submit(lambda: 42).result()
        result = [one, asyncio.run(work()), threading.current_thread() is threading.main_thread()]
        """)
    told = fork_after(warmup, code, 2)
    assert told.verdict.method == "fork", told.verdict
    assert told.results == [[42, 42, True]] * 2
    assert [child["code"] for child in told.children] == [0, 0]


def test_user_exit_handlers_run_in_each_worker() -> None:
    warmup = "import atexit\natexit.register(print, 'goodbye', flush=True)"
    told = fork_after(warmup, "result = 1", 3)
    assert told.printed.count("goodbye") == 3
