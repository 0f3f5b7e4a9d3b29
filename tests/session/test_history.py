"""The history database, and what becomes of a session whose database does not answer."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from pathlib import Path

import pytest

from pyrepl_kernel.session.session import Session, SessionConfig
from tests.session.support import BOUND

CONFIG = SessionConfig(options={"history": True})
LINES = "print([line for _, _, line in get_ipython().history_manager.get_range()])"


@pytest.fixture
def database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the history of this test's sessions goes."""
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path))
    (tmp_path / "profile_default").mkdir()
    return tmp_path / "profile_default" / "history.sqlite"


def written(database: Path) -> list[str]:
    connection = sqlite3.connect(database)
    try:
        return [row[0] for row in connection.execute("SELECT source FROM history")]
    finally:
        connection.close()


async def until_said(session: Session, text: str) -> str:
    """Run cells until one is told something on stderr."""
    async with asyncio.timeout(BOUND):
        while text not in (said := (await session.run("pass")).stderr):
            await asyncio.sleep(0.3)  # the worker does what can wait when nobody asks for anything
    return said


async def test_cells_are_written(database: Path) -> None:
    async with Session(config=CONFIG) as session:
        await session.run("first = 1")
        assert "first = 1" in (await session.run(LINES)).stdout
    assert written(database)[:1] == ["first = 1"]


async def test_a_locked_database_delays_no_cell_and_is_said_once(database: Path) -> None:
    other = sqlite3.connect(database)
    other.execute("CREATE TABLE mine (x)")
    other.execute("BEGIN EXCLUSIVE")
    try:
        async with Session(config=CONFIG) as session:
            begun = time.monotonic()
            await session.run("kept = 1")
            said = await until_said(session, "cannot be used")
            assert time.monotonic() - begun < 10  # sqlite alone would wait for 5 s, each time
            assert str(database) in said
            assert "history is kept in memory" in said
            assert "kept = 1" in (await session.run(LINES)).stdout
            assert (await session.run("pass")).stderr == ""
    finally:
        other.rollback()
        other.close()


async def test_a_database_that_is_locked_later_delays_no_cell(database: Path) -> None:
    async with Session(config=CONFIG) as session:
        await session.run("first = 1")
        await session.run(LINES)  # it is open from here on
        other = sqlite3.connect(database)
        other.execute("BEGIN EXCLUSIVE")
        try:
            code = "get_ipython().history_manager.save_flag.set()"
            begun = time.monotonic()
            for _ in range(20):
                await session.run(code)
            assert time.monotonic() - begun < 5
            await until_said(session, "cannot be written for the moment: database is locked")
        finally:
            other.rollback()
            other.close()
    assert "first = 1" in written(database)
    assert code in written(database)  # kept until it could be
