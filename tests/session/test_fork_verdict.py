"""What a warmup leaves decides how a pool's workers are made, and forked ones are as new."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from pyrepl_kernel import Session, SessionPool
from tests.session.support import BOUND

pytestmark = pytest.mark.skipif(
    sys.platform != "linux", reason="workers are forked on Linux alone; elsewhere all are spawned"
)


async def ask(session: Session, code: str) -> str:
    """What a cell prints."""
    outcome = await session.run(code, BOUND)
    assert outcome.error is None, outcome.error
    return outcome.stdout.strip()


@asynccontextmanager
async def warm_pool(warmup: str, **options: Any) -> AsyncIterator[SessionPool]:
    """A pool of two spares with a warmup."""
    options = {"min_idle": 2, "max_sessions": 2, **options}
    async with SessionPool(warmup_code=textwrap.dedent(warmup), **options) as pool:
        yield pool


async def test_a_pool_names_the_line_that_keeps_it_from_forking(
    caplog: pytest.LogCaptureFixture,
) -> None:
    warmup = """
        import threading
        stop = threading.Event()

        threading.Thread(target=stop.wait, name="beat", daemon=True).start()
        warm = True
        """
    async with warm_pool(warmup) as pool, pool.session() as session:
        # The spare has what the warmup made, thread included: it ran the warmup itself.
        code = "print(warm, 'beat' in [thread.name for thread in threading.enumerate()])"
        assert await ask(session, code) == "True True"
        assert not session.is_forked
        stats = pool.stats()
    assert stats.start_method == "spawn"
    assert "thread 'beat' still runs" in stats.start_reason
    assert "line 5: threading.Thread(target=stop.wait" in stats.start_reason
    assert "move line 5 from the warmup to the first cell" in stats.start_advice
    warnings = [record.getMessage() for record in caplog.records if "spawned" in record.message]
    assert len(warnings) == 1 and "line 5" in warnings[0]


@pytest.mark.parametrize(
    "warmup",
    [
        "async def f():\n    return 3\nx = await f()",
        "import asyncio\nasync def f():\n    return 3\nx = asyncio.run(f())",
        "print('text')\nx = 3",
        "%config InlineBackend.figure_format = 'svg'\nx = 3",
    ],
)
async def test_what_runs_in_a_cell_runs_in_a_warmup_that_is_forked(warmup: str) -> None:
    async with warm_pool(warmup) as pool, pool.session() as session:
        code = "import asyncio\nawait asyncio.sleep(0)\nprint(x)"
        assert await ask(session, code) == "3"
        assert session.is_forked, pool.stats()


async def test_a_task_that_has_not_ended_is_told_with_its_line() -> None:
    warmup = """
        import asyncio
        task = asyncio.create_task(asyncio.sleep(1000))
        """
    async with warm_pool(warmup) as pool, pool.session() as session:
        assert await ask(session, "print(task.done())") == "False"
        stats = pool.stats()
    assert stats.start_method == "spawn" and "move line 3" in stats.start_advice


async def test_a_gui_in_a_warmup_is_told_with_its_line() -> None:
    """L5: its windows would be shared; a worker that runs the warmup itself has it."""
    warmup = """
        from ipykernel.eventloops import register_integration
        @register_integration("mine")
        def loop_mine(kernel):
            kernel.shell_stream.flush()
        get_ipython().enable_gui("mine")
        """
    async with warm_pool(warmup) as pool, pool.session() as session:
        assert await ask(session, "print(get_ipython().active_eventloop)") == "mine"
        stats = pool.stats()
    assert stats.start_method == "spawn"
    assert "event loop of a GUI" in stats.start_reason and "line 6" in stats.start_advice


async def test_openmp_is_quiesced_before_each_fork() -> None:
    pytest.importorskip("sklearn", reason="pip install scikit-learn to run this")
    warmup = """
        import numpy, sklearn.cluster
        def cluster():
            points = numpy.random.rand(3000, 2)
            return len(sklearn.cluster.KMeans(3, n_init=1).fit(points).cluster_centers_)
        cluster()
        """
    async with warm_pool(warmup) as pool:
        for _ in range(4):
            async with pool.session() as session:
                assert await ask(session, "print(cluster())") == "3"
                assert session.is_forked
        assert pool.stats().start_method == "quiesce+fork"


HOOKS = """
    import os
    from pyrepl_kernel import hooks

    template, calls = os.getpid(), []

    @hooks.before_fork
    def close():
        calls.append(("before", os.getpid() == template))

    @hooks.after_fork
    def connect():
        calls.append(("after", os.getpid() == template))
    """


async def test_hooks_run_around_the_forks_of_a_template() -> None:
    async with warm_pool(HOOKS, min_idle=1) as pool:
        for number in range(2):
            async with pool.session() as session:
                # "before" for the trial fork, and for each fork up to this one.
                expected = [("before", True)] * (number + 2) + [("after", False)]
                assert eval(await ask(session, "print(calls)")) == expected
                assert session.is_forked


async def test_hooks_see_the_workers_own_environment() -> None:
    warmup = """
        import os
        from pyrepl_kernel import hooks
        hooks.after_fork(lambda: globals().update(found=os.environ["VERDICT_TEST"]))
        """
    async with (
        warm_pool(warmup, env={"VERDICT_TEST": "mine"}) as pool,
        pool.session() as session,
    ):
        assert await ask(session, "print(found)") == "mine"


async def test_a_hook_that_fails_is_shown_with_the_first_cell() -> None:
    warmup = """
        from pyrepl_kernel import hooks

        @hooks.after_fork
        def connect():
            raise ConnectionError("no database")
        """
    async with warm_pool(warmup) as pool, pool.session() as session:
        first = await session.run("print('well')")
        assert first.stdout == "well\n" and session.is_forked
        assert "the after_fork hook connect failed" in first.stderr
        assert "ConnectionError: no database" in first.stderr
        assert (await session.run("pass")).stderr == ""


async def test_a_hook_that_hangs_costs_the_forks_and_nothing_else(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    warmup = """
        import threading
        from pyrepl_kernel import hooks
        hooks.after_fork(threading.Event().wait)
        """
    async with warm_pool(warmup) as pool, pool.session() as session:
        assert await ask(session, "print('well')") == "well"
        assert not session.is_forked
        assert "hung in its renewal and the after_fork hooks" in pool.stats().start_reason


async def test_workers_draw_numbers_of_their_own() -> None:
    pytest.importorskip("numpy", reason="pip install numpy to run this")
    warmup = """
        import random, tempfile, uuid
        import numpy
        def draw():
            return random.random(), numpy.random.rand(), str(uuid.uuid4()), tempfile.mktemp()
        draw()
        """
    drawn: list[str] = []
    async with warm_pool(warmup) as pool:
        for _ in range(6):
            async with pool.session() as session:
                drawn += eval(await ask(session, "print([repr(one) for one in draw()])"))
                assert session.is_forked
    assert len(set(drawn)) == len(drawn)


async def test_a_forked_worker_has_the_signal_handlers_of_a_fresh_one() -> None:
    code = (
        "import signal\n"
        "numbers = sorted(signal.valid_signals())\n"
        "print([str(signal.getsignal(number)).split(' at ')[0] for number in numbers])\n"
        "print(signal.pthread_sigmask(signal.SIG_BLOCK, []))"
    )
    found = []
    for method in ("fork", "spawn"):
        async with (
            warm_pool("x = 1", min_idle=1, start_method=method) as pool,
            pool.session() as session,
        ):
            assert session.is_forked is (method == "fork")
            found.append(await ask(session, code))
    assert found[0] == found[1]


@pytest.mark.parametrize(
    ("warmup", "name"),
    [("x = 1", "pyrepl-worker"), ("open('/proc/self/comm', 'w').write('mine')", "mine")],
)
async def test_a_worker_has_a_name_in_lists_of_processes(warmup: str, name: str) -> None:
    async with warm_pool(warmup, min_idle=1) as pool, pool.session() as session:
        assert await ask(session, "print(open('/proc/self/comm').read())") == name
        assert session.is_forked


async def test_a_before_hook_that_fails_is_shown_with_the_first_cell() -> None:
    warmup = """
        from pyrepl_kernel import hooks
        hooks.before_fork(lambda: 1 / 0)
        """
    async with warm_pool(warmup) as pool:
        for _ in range(2):
            async with pool.session() as session:
                first = await session.run("print('well')")
                assert first.stdout == "well\n" and session.is_forked
                assert first.stderr.count("the before_fork hook") == 1
                assert first.stderr.count("ZeroDivisionError: division by zero") == 1
