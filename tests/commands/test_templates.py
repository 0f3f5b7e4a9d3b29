"""``pyrepl-kernel templates``: what is listed, and what is ended."""

from __future__ import annotations

import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from pyrepl_kernel.cli import main
from pyrepl_kernel.protocol.forking import TemplateMessage
from pyrepl_kernel.session.runtime import templates_dir
from pyrepl_kernel.session.template import SharedTemplate
from tests.session.support import wait_gone

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="there are no templates elsewhere"),
    pytest.mark.usefixtures("no_process_left"),
]


@pytest.fixture(autouse=True)
def runtime(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A runtime directory of the test's own."""
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(tmp_path))
    return tmp_path


@pytest.fixture
async def templates() -> AsyncIterator[list[SharedTemplate]]:
    """Two templates that are warm."""
    made = []
    for letter in "ab":
        order = TemplateMessage(
            key=letter * 24, directory=templates_dir(), warmup=f"\n# {letter}\nimport json\n"
        )
        made.append(SharedTemplate(order))
        await made[-1].warm()
    yield made
    for template in made:
        template.close()


def test_none(capsys: pytest.CaptureFixture[str], runtime: Path) -> None:
    assert main(["templates"]) == 0
    assert main(["templates", "stop"]) == 0
    assert capsys.readouterr().out.count(f"No template runs (looked in {runtime}/pyrepl)") == 2


async def test_they_are_listed_with_what_matters(
    templates: list[SharedTemplate], capsys: pytest.CaptureFixture[str]
) -> None:
    forked = await templates[0].fork()
    assert main(["templates"]) == 0
    header, first, *rest = capsys.readouterr().out.splitlines()
    assert header.split() == ["key", "pid", "age", "workers", "memory", "method", "python"]
    words = first.split()
    assert words[:2] == ["a" * 8, str(templates[0].pid)]
    assert words[4] == "1", first
    assert words[-1] == sys.executable
    assert "    warmup: # a" in rest
    assert any(line.startswith("    fork, for ") for line in rest)
    for name in ("socket", "stdout", "stderr", "lifeline", "debug_socket", "stacks", "pidfd"):
        os.close(getattr(forked, name))
    assert wait_gone(forked.pid)


async def test_one_is_ended_by_the_beginning_of_its_key(
    templates: list[SharedTemplate], capsys: pytest.CaptureFixture[str], runtime: Path
) -> None:
    first, second = (template.pid for template in templates)
    assert main(["templates", "stop", "aaa"]) == 0
    assert f"Ended template aaaaaaaa (pid {first})" in capsys.readouterr().out
    assert first and wait_gone(first, 0)
    assert not (runtime / "pyrepl" / f"{'a' * 24}.sock").exists()
    assert main(["templates", "stop"]) == 0
    assert second and wait_gone(second, 0)
    assert sorted(path.name for path in (runtime / "pyrepl").iterdir()) == ["lock"]


async def test_a_key_that_is_none_or_more_than_one_is_said(
    templates: list[SharedTemplate], capsys: pytest.CaptureFixture[str]
) -> None:
    assert len(templates) == 2
    assert main(["templates", "stop", "xyz"]) == 1
    assert "no template's key begins with 'xyz'" in capsys.readouterr().err
