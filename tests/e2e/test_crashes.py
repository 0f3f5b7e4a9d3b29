"""What people and batches are told when the process that runs their code dies."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import Any

import papermill
import pytest
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, DeadKernelError
from nbformat import NotebookNode

from .notebooks import notebook, outputs, read, text, write
from .support import (
    KERNEL,
    TIMEOUT,
    Client,
    Message,
    Outcome,
    is_idle,
    kernel_processes,
    only_ours,
    running_kernel,
)

pytestmark = only_ours

SEGFAULT = """
import ctypes
def crash():
    ctypes.string_at(0)
crash()
"""
KILL = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"


def plain(lines: list[str]) -> str:
    """A traceback without its colours."""
    return re.sub(r"\x1b\[[0-9;]*m", "", "\n".join(lines))


def report_of(outcome: Outcome) -> str:
    """The report in a cell, which its reply repeats."""
    (error,) = [m["content"] for m in outcome.messages if m["msg_type"] == "error"]
    content = outcome.reply["content"]
    assert {key: content[key] for key in ("ename", "evalue", "traceback")} == error
    assert error["ename"] == "WorkerDied"
    return plain(error["traceback"])


def streams(messages: list[Message]) -> str:
    return "".join(m["content"]["text"] for m in messages if m["msg_type"] == "stream")


# ------------------------------------------------------------------ a person's


def test_the_report_of_a_segfault() -> None:
    with running_kernel() as kernel:
        client = kernel.client()
        client.run("before = 1")
        code = f"import os; os.write(2, b'last words\\n'){SEGFAULT}"
        outcome = client.run(code, allow_stdin=True)
        report = report_of(outcome)
        assert outcome.reply["content"]["evalue"] == (
            "the worker process was killed by SIGSEGV (signal 11) at In [2], line 4, in crash"
        )
        assert outcome.reply["content"]["execution_count"] == 2
        assert "In [2], line 5, in <module>\n    crash()\n" in report
        assert "In [2], line 4, in crash\n    ctypes.string_at(0)\n" in report
        assert re.search(r"Peak memory: \d+ MiB", report)
        assert "Its last words on stderr:\n  last words\n" in report
        assert "All variables and imports are lost" in report
        assert "The next cell runs in a new process" in report
        fresh = client.run("'before' in globals()", allow_stdin=True)
        assert fresh.result == "False"
        assert fresh.reply["content"]["execution_count"] == 1
        assert "stream" not in fresh.types


def test_the_report_says_how_many_cells_were_not_run() -> None:
    with running_kernel() as kernel:
        client = kernel.client()
        crashing = client.execute(KILL, allow_stdin=True)
        waiting = [client.execute("ran = 1", allow_stdin=True) for _ in range(3)]
        assert "3 cells that waited were not run" in report_of(client.outcome(crashing))
        assert {client.outcome(each).status for each in waiting} == {"aborted"}
        assert client.value("'ran' in globals()") == "False"


@pytest.mark.parametrize(
    ("code", "said"),
    [
        (KILL, "Something outside of this kernel ended the process"),
        ("import os; os._exit(3)", "ended itself: it exited with code 3."),
        ("import os; os.abort()", "crashed: it was killed by SIGABRT"),
    ],
    ids=["killed", "exited", "aborted"],
)
def test_reports_tell_deaths_apart(code: str, said: str) -> None:
    with running_kernel() as kernel:
        assert said in report_of(kernel.client().run(code, allow_stdin=True))


def test_a_death_while_idle_is_shown_at_once_and_with_the_next_cell() -> None:
    with running_kernel() as kernel:
        client = kernel.client()
        code = f"""
import threading
def later():
    gate.wait()
    {KILL}
gate = threading.Event()
threading.Thread(target=later, daemon=True).start()
get_ipython().events.register("post_run_cell", lambda _: threading.Timer(0.2, gate.set).start())
"""
        last = client.execute(code, allow_stdin=True)
        assert client.outcome(last).status == "ok"
        errors = wait_for(client, last, "error")
        assert "All variables and imports are lost" in plain(errors[-1]["content"]["traceback"])
        fresh = client.run("'gate' in globals()", allow_stdin=True)
        assert fresh.result == "False"
        assert "Between two cells, the worker process was killed by SIGKILL" in streams(
            fresh.messages
        )


def notices(messages: list[Message]) -> str:
    """What was said on stderr."""
    return "".join(
        m["content"]["text"]
        for m in messages
        if m["msg_type"] == "stream" and m["content"]["name"] == "stderr"
    )


def wait_for(client: Client, msg_id: str, kind: str) -> list[Message]:
    """Wait until iopub has something more to say about a request that has ended."""

    def found() -> list[Message]:
        return [m for m in client.outputs_so_far(msg_id) if m["msg_type"] == kind]

    client._receive_until("iopub", lambda _: bool(found()))
    return found()


def test_a_death_in_the_warmup_is_told_with_the_cell_that_waited(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PYREPL_WARMUP", f"{SEGFAULT}")
    with running_kernel() as kernel:
        client = kernel.client()
        first, second = (client.execute("1", allow_stdin=True) for _ in range(2))
        report = report_of(client.outcome(first))
        assert "the warmup, line 3, in crash" in report
        assert client.outcome(second).status == "aborted"


def test_a_warmup_that_fails_is_told_with_the_first_cell_of_each_worker(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PYREPL_WARMUP", "before = 1\nimport no_such_module")
    with running_kernel() as kernel:
        client = kernel.client()
        outcome = client.run("print(before)", allow_stdin=True)
        said = notices(outcome.messages)
        assert said.startswith(
            "The warmup, from PYREPL_WARMUP, failed with ModuleNotFoundError: "
            "No module named 'no_such_module'\n"
        )
        said = re.sub(r"\x1b\[[0-9;]*m", "", said)
        assert "The warmup, line 2\n" in said
        assert "Cell In" not in said
        assert outcome.text == "1\n"
        assert not notices(client.run("1", allow_stdin=True).messages)
        # A cell with the same source is a cell.
        error = client.run("before = 1\nimport no_such_module", allow_stdin=True)
        shown = re.sub(r"\x1b\[[0-9;]*m", "", "\n".join(error.reply["content"]["traceback"]))
        assert "Cell In[3], line 2\n" in shown


# -------------------------------------------------------------------- a batch's


def test_a_death_in_a_batch_is_reported_and_ends_the_kernel() -> None:
    with running_kernel() as kernel:
        client = kernel.client()
        request = client.execute(SEGFAULT, allow_stdin=False)
        messages = client.outputs(request)
        assert is_idle(messages[-1])
        (error,) = [m["content"] for m in messages if m["msg_type"] == "error"]
        assert "The kernel ends now" in plain(error["traceback"])
        assert kernel.process.wait(TIMEOUT) == 1
        with pytest.raises(TimeoutError):  # the end of the kernel is the reply
            client.reply(request, timeout=0.1)


def test_a_death_between_two_cells_of_a_batch_ends_the_kernel() -> None:
    with running_kernel() as kernel:
        client = kernel.client()
        code = f"import threading; threading.Timer(0.3, lambda: exec({KILL!r})).start()"
        assert client.run(code, allow_stdin=False).status == "ok"
        assert kernel.process.wait(TIMEOUT) == 1


@pytest.mark.parametrize(("policy", "allow_stdin"), [("respawn", False), ("exit", True)])
def test_the_policy_may_be_fixed(
    policy: str, allow_stdin: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYREPL_ON_CRASH", policy)
    with running_kernel() as kernel:
        client = kernel.client()
        request = client.execute(KILL, allow_stdin=allow_stdin)
        assert is_idle(client.outputs(request)[-1])
        if policy == "exit":
            assert kernel.process.wait(TIMEOUT) == 1
        else:
            assert client.reply(request)["content"]["ename"] == "WorkerDied"
            assert client.run("1", allow_stdin=False).result == "1"


EIGHT = [
    "kept = 1",
    "import time",
    "kept += 1",
    "crashed_at = time.time(); print(crashed_at)",
    SEGFAULT,
    "print('never')",
    "kept",
    "print('never')",
]


def assert_stopped_at_the_crash(node: NotebookNode) -> None:
    """The fifth of eight cells tells of its crash, and none behind it has run."""
    assert time.time() - float(text(node.cells[3])) < 3
    (error,) = node.cells[4].outputs
    assert error.ename == "WorkerDied"
    assert "in crash\n    ctypes.string_at(0)" in plain(error.traceback)
    assert all(cell.execution_count is None for cell in node.cells[5:])
    assert not any(cell.outputs for cell in node.cells[5:])


@pytest.mark.parametrize("options", [{}, {"allow_errors": True}], ids=["strict", "allow_errors"])
def test_nbclient_ends_with_a_dead_kernel(options: dict[str, Any], jupyter_dirs: Path) -> None:
    node = notebook(*EIGHT)
    with pytest.raises(DeadKernelError):
        NotebookClient(node, kernel_name=KERNEL, timeout=int(TIMEOUT), **options).execute()
    assert_stopped_at_the_crash(node)
    assert not kernel_processes(jupyter_dirs / "runtime")


def test_papermill_ends_with_a_dead_kernel(tmp_path: Path, jupyter_dirs: Path) -> None:
    source, target = write(notebook(*EIGHT), tmp_path / "a.ipynb"), tmp_path / "b.ipynb"
    with pytest.raises(DeadKernelError):
        papermill.execute_notebook(source, target, kernel_name=KERNEL, progress_bar=False)
    assert_stopped_at_the_crash(read(target))
    assert not kernel_processes(jupyter_dirs / "runtime")


def test_nbclient_may_go_on_where_the_policy_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYREPL_ON_CRASH", "respawn")
    node = notebook("kept = 1", "import os; os._exit(3)", "print('kept' in globals())")
    NotebookClient(node, kernel_name=KERNEL, allow_errors=True).execute()
    assert outputs(node, "error")[0].ename == "WorkerDied"
    assert text(node.cells[2]) == "False\n"
    with pytest.raises(CellExecutionError, match="exited with code 3"):
        NotebookClient(notebook(*(c.source for c in node.cells)), kernel_name=KERNEL).execute()
