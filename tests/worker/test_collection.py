"""The garbage collector in a worker: off on its way up, and the user's from the first cell on."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
from pathlib import Path

from pyrepl_kernel.session.session import Session

_CYCLE = """
import gc, weakref
class Thing: pass
thing = Thing(); thing.self = thing
gone = weakref.ref(thing)
del thing
"""


async def test_the_user_has_it_as_python_does() -> None:
    async with Session() as session:
        outcome = await session.run("import gc; gc.isenabled(), gc.get_threshold()")
        assert outcome.result == {"text/plain": str((True, gc.get_threshold()))}
        await session.run(_CYCLE)
        assert (await session.run("gc.collect(); gone()")).result is None


async def test_it_leaves_alone_what_was_there_before_the_user() -> None:
    async with Session() as session:
        frozen = await session.run("import gc; print(gc.get_freeze_count())")
        assert int(frozen.stdout) > 10_000


async def test_it_does_next_to_nothing_before_the_user() -> None:
    async with Session() as session:
        rounds = await session.run("import gc; print(gc.get_stats()[0]['collections'])")
        assert int(rounds.stdout) < 20  # some sixty, were it on


async def test_it_stays_off_where_somebody_has_turned_it_off(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text("import gc; gc.disable()")
    async with Session(env={**os.environ, "PYTHONPATH": str(tmp_path)}) as session:
        assert (await session.run("import gc; print(gc.isenabled())")).stdout == "False\n"


async def test_a_cell_may_turn_it_off_for_those_that_follow() -> None:
    async with Session() as session:
        await session.run("import gc; gc.disable()")
        assert (await session.run("print(gc.isenabled())")).stdout == "False\n"


def test_what_was_not_paused_is_not_turned_on() -> None:
    # A template pauses nothing: what it imports is looked at before it is shared.
    code = (
        "import gc; from pyrepl_kernel.collection import resume_collection; "
        "gc.disable(); resume_collection(); assert not gc.isenabled()"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
