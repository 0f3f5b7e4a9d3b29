"""What all tests share: settings of their own, one worker for many tests, and a look at the end
that no process is left."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Iterator

import hypothesis
import psutil
import pytest
import pytest_asyncio

from pyrepl_kernel.session.session import Session
from tests.session.support import MARK, marked, wait_gone

# A busy machine is no failure; pytest-timeout bounds each test as a whole.
hypothesis.settings.register_profile("tests", deadline=None)
hypothesis.settings.load_profile("tests")


@pytest.fixture(scope="session", autouse=True)
def environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """No settings of the user's, and a mark by which processes of these tests are known."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("IPYTHONDIR", str(tmp_path_factory.mktemp("ipython")))
        patch.setenv(*MARK)
        # Templates of their own, which go with their last kernel.
        patch.setenv("JUPYTER_RUNTIME_DIR", str(tmp_path_factory.mktemp("runtime")))
        patch.setenv("PYREPL_TEMPLATE_LINGER", "0")
        for name in ("JPY_SESSION_NAME", "IPYKERNEL_CELL_NAME", "MPLBACKEND", "PYTHONPATH"):
            patch.delenv(name, raising=False)
        yield
    left = [pid for pid in templates() if not wait_gone(pid, 5)]
    assert not left, f"templates left behind: {left}"


def templates() -> set[int]:
    """The template processes that these tests have started."""
    names = {}
    for pid in marked():
        with contextlib.suppress(psutil.Error):
            names[pid] = psutil.Process(pid).name()
    return {pid for pid, name in names.items() if name == "pyrepl-template"}


@pytest.fixture
def no_process_left() -> Iterator[None]:
    """Fails a test that leaves a process behind."""
    before = marked()
    yield
    left = [pid for pid in marked() - before - SHARED if not wait_gone(pid, 5)]
    assert not left, f"processes left behind: {left}"


SHARED: set[int] = set()
"""Workers that outlive a test, since other tests of its module use them too."""


class SharedSession:
    """One worker for the tests of a module; a new one when a test has used it up."""

    def __init__(self) -> None:
        self._sessions: dict[str, Session] = {}

    async def get(self, warmup_code: str = "") -> Session:
        """A session that waits for a cell; one for each warmup."""
        session = self._sessions.get(warmup_code)
        if session is None or not session.is_alive or session.is_executing:
            if session is not None:
                await session.terminate()
            session = self._sessions[warmup_code] = Session(warmup_code=warmup_code)
            await session.start()
            assert session.pid is not None
            SHARED.add(session.pid)
        return session

    async def close(self) -> None:
        """End the workers."""
        for session in self._sessions.values():
            await session.terminate()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared_session() -> AsyncIterator[SharedSession]:
    shared = SharedSession()
    yield shared
    await shared.close()


@pytest_asyncio.fixture(loop_scope="module")
async def session(shared_session: SharedSession) -> Session:
    """A session that other tests of the module use too; its namespace is theirs as well."""
    return await shared_session.get()
