"""The head and the tail of a long output pass, and the middle is counted."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyrepl_kernel.protocol.messages import (
    DisplayMessage,
    ErrorMessage,
    InputMessage,
    Message,
    OutputMessage,
)
from pyrepl_kernel.session.limits import Limits
from pyrepl_kernel.session.output_limit import OutputLimit
from pyrepl_kernel.session.session import Session, SessionConfig

NOTE = "[... {:,} characters were left out: the limit of a cell's output is {:,} ...]"


def text(messages: list[Message]) -> str:
    return "".join(m.data for m in messages if isinstance(m, OutputMessage))


@given(st.lists(st.text("abc\n", max_size=30), max_size=30), st.integers(1, 100))
def test_nothing_is_lost_but_the_middle(pieces: list[str], limit: int) -> None:
    whole = "".join(pieces)
    output = OutputLimit(limit)
    head = text([m for piece in pieces for m in output.admit(OutputMessage(piece))])
    tail = text(output.flush())
    if len(whole) <= limit:
        assert head + tail == whole
        return
    assert head == whole[: limit // 2]
    note, rest = tail.split(" ...]\n", 1)
    assert rest == whole[len(whole) - (limit - limit // 2) :]
    assert f"{len(whole) - limit:,} characters were left out" in note


def test_both_streams_keep_their_order_and_name() -> None:
    output = OutputLimit(4)
    output.admit(OutputMessage("aaaa", "stdout"))
    output.admit(OutputMessage("bb", "stderr"))
    output.admit(OutputMessage("c", "stdout"))
    kept = [m for m in output.flush() if isinstance(m, OutputMessage)]
    assert [(m.stream, m.data) for m in kept[1:]] == [("stderr", "b"), ("stdout", "c")]


def test_what_was_kept_comes_before_an_error_and_a_question() -> None:
    for last in (ErrorMessage("E", "e"), InputMessage("?")):
        output = OutputLimit(4)
        output.admit(OutputMessage("abcdefgh"))
        *kept, end = output.admit(last)
        assert end is last
        assert text(kept).endswith("\ngh")


def test_displays_pass_and_clearing_begins_anew() -> None:
    output = OutputLimit(4)
    output.admit(OutputMessage("abcdefgh"))
    display = DisplayMessage("display", {"text/plain": "x"})
    assert output.admit(display) == [display]
    output.admit(DisplayMessage("clear"))
    assert text(output.admit(OutputMessage("ij"))) == "ij"
    assert output.flush() == []


def test_the_whole_text_goes_to_a_file(tmp_path: Path) -> None:
    output = OutputLimit(4, str(tmp_path / "whole"))
    for n in range(10):
        output.admit(OutputMessage(f"{n}{n}"))
    note = text(output.flush())
    output.close()
    (file,) = (tmp_path / "whole").iterdir()
    assert file.read_text() == "00112233445566778899"
    assert f"the whole text is in {file}" in note


def test_short_outputs_leave_no_file(tmp_path: Path) -> None:
    output = OutputLimit(4, str(tmp_path))
    output.admit(OutputMessage("abc"))
    output.close()
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_to(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    output = OutputLimit(4, str(tmp_path / "file"))
    output.admit(OutputMessage("abcdefgh"))
    assert "cannot be written to" in text(output.flush())


async def test_a_cell_above_its_limit() -> None:
    config = SessionConfig(limits=Limits(output=1000))
    async with Session(config=config) as session:
        outcome = await session.run("for i in range(10_000): print(i)\n1 / 0")
        whole = "".join(f"{i}\n" for i in range(10_000))
        assert outcome.stdout.startswith(whole[:500])
        assert outcome.stdout.endswith(whole[-500:])
        assert NOTE.format(len(whole) - 1000, 1000) in outcome.stdout
        assert outcome.error is not None
        short = await session.run("print('x' * 900)")
        assert short.stdout == "x" * 900 + "\n"


@pytest.mark.parametrize(
    "code", ["import subprocess; subprocess.run('yes | head -c 100000', shell=True)"]
)
async def test_the_output_of_children_counts(code: str) -> None:
    async with Session(config=SessionConfig(limits=Limits(output=1000))) as session:
        outcome = await session.run(code)
        assert len(outcome.stdout) < 1200
        assert "99,000 characters were left out" in outcome.stdout
