"""The words of a crash report, for deaths that are made up."""

from __future__ import annotations

import pytest

from pyrepl_kernel.errors import DeathCause, WorkerDied
from pyrepl_kernel.kernel.crash_report import Aftermath, full_report, summary
from pyrepl_kernel.session.stacks import Frame


def report(death: WorkerDied, aftermath: Aftermath | None = None) -> str:
    return "\n".join(full_report(death, aftermath or Aftermath()))


def test_causes_read_differently() -> None:
    texts = {report(WorkerDied("s", "died", cause=cause)) for cause in DeathCause}
    assert len(texts) == len(DeathCause)


@pytest.mark.parametrize("cause", DeathCause)
def test_each_cause_has_its_words(cause: DeathCause) -> None:
    death = WorkerDied("s", "was killed by SIGKILL (signal 9)", signal=9, cause=cause)
    text = report(death)
    assert ": it was killed by SIGKILL (signal 9)." in text
    assert "All variables and imports are lost" in text


def test_a_deep_stack_is_shortened() -> None:
    frames = [Frame("x.py", n, f"f{n}") for n in range(1, 101)]
    text = report(WorkerDied("s", "died", cause=DeathCause.STACK_OVERFLOW, frames=frames))
    assert "in f5\n  ... 70 more ...\n" in text
    assert "line 100, in f100" in text
    assert "in f6\n" not in text


def test_the_summary_names_the_users_own_line() -> None:
    frames = [Frame("c.py", 2, "<module>", cell="In [3]"), Frame("lib.py", 9, "helper")]
    death = WorkerDied("s", "died", frames=frames)
    assert summary(death) == "the worker process died at In [3], line 2, in <module>"


def test_what_was_restored_takes_the_place_of_what_was_lost() -> None:
    text = report(WorkerDied("s", "died"), Aftermath(restored="The state before In [4] is back."))
    assert "The state before In [4] is back." in text
    assert "lost" not in text
    assert "new process" not in text


def test_sizes_and_children() -> None:
    text = report(WorkerDied("s", "died", peak_memory=3 << 30, children=7))
    assert "Peak memory: 3.0 GiB\nChild processes that ended with it: 7" in text


def test_a_dump_among_the_last_words_is_not_said_twice() -> None:
    dump = "Fatal Python error: Segmentation fault\n\nCurrent thread 0x01 ..."
    text = report(WorkerDied("s", "died", stderr=f"real words\n{dump}", stack=dump))
    assert "real words" in text
    assert "Fatal Python error" not in text


def test_a_warm_successor_is_named() -> None:
    assert "in which the warmup has run" in report(WorkerDied("s", "x"), Aftermath(has_warmup=True))
