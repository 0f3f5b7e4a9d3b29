"""Checkpoints in a kernel: what a front end sees of them, and of a session that comes back."""

import re
import sys

import pytest

from .managed import managed
from .support import Client, Outcome, only_ours, running_kernel

pytestmark = [
    only_ours,
    pytest.mark.skipif(
        sys.platform != "linux", reason="checkpoints are forks, which are for Linux; run it there"
    ),
]

KILL = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"


def run(client: Client, code: str) -> Outcome:
    return client.run(code, allow_stdin=True)


def streams(outcome: Outcome) -> str:
    return "".join(m["content"]["text"] for m in outcome.messages if m["msg_type"] == "stream")


def report_of(outcome: Outcome) -> str:
    (error,) = [m["content"] for m in outcome.messages if m["msg_type"] == "error"]
    return re.sub(r"\x1b\[[0-9;]*m", "", "\n".join(error["traceback"]))


def test_a_rollback_brings_variables_and_counts_back() -> None:
    with running_kernel() as kernel:
        client = kernel.client()
        run(client, "x = 1")
        assert run(client, "%checkpoint a").status == "ok"
        run(client, "x = 2")
        back = run(client, "%rollback a")
        assert back.status == "ok"
        assert "Back to checkpoint 'a', taken after In [2]" in streams(back)
        outcome = run(client, "x")
        assert outcome.result == "1"
        assert outcome.reply["content"]["execution_count"] == 3
        (shown,) = [m["content"] for m in outcome.messages if m["msg_type"] == "execute_input"]
        assert shown["execution_count"] == 3


def test_a_crash_costs_the_cell_that_it_came_in() -> None:
    with running_kernel() as kernel:
        client = kernel.client()
        run(client, "%autocheckpoint on")
        run(client, "import time; time.sleep(0.2); x = 42")
        crashed = client.execute(f"x = 0; {KILL}", allow_stdin=True)
        waiting = client.execute("ran = True", allow_stdin=True)
        outcome = client.outcome(crashed)
        assert outcome.status == "error"
        report = report_of(outcome)
        assert "The state from after In [2] is back" in report
        assert "lost" not in report
        assert client.outcome(waiting).status == "aborted"
        fresh = run(client, "x, 'ran' in globals(), In[2][:11]")
        assert fresh.result == "(42, False, 'import time')"
        assert fresh.reply["content"]["execution_count"] == 3
        # And once more, from the same checkpoint's worker.
        again = run(client, KILL)
        assert "is back" in report_of(again)
        assert run(client, "x").result == "42"


def test_without_an_automatic_one_the_named_ones_are_pointed_to() -> None:
    with running_kernel() as kernel:
        client = kernel.client()
        run(client, "x = 42\n%checkpoint good")
        report = report_of(run(client, KILL))
        assert "All variables and imports are lost" in report
        assert "%rollback good brings back the state of that checkpoint" in report
        assert run(client, "'x' in globals()").result == "False"
        assert run(client, "%rollback good").status == "ok"
        assert run(client, "x").result == "42"


def test_comms_that_came_after_a_checkpoint_are_closed() -> None:
    with running_kernel() as kernel:
        client = kernel.client()
        run(client, "from comm import create_comm; a = create_comm('t')")
        run(client, "%checkpoint one")
        run(client, "b = create_comm('t'); print(a.comm_id, b.comm_id)")
        ids = streams(run(client, "print(a.comm_id, b.comm_id)")).split()
        back = run(client, "%rollback one")
        outcome = run(client, "a.comm_id")
        closed = [
            m["content"]["comm_id"]
            for m in client.outputs_so_far("")
            if m["msg_type"] == "comm_close"
        ]
        assert back.status == "ok"
        assert outcome.result == repr(ids[0])
        assert closed == [ids[1]]


def test_a_transaction_is_undone_and_the_cells_behind_it_are_aborted() -> None:
    with running_kernel() as kernel:
        client = kernel.client()
        run(client, "x = [1]")
        failing = client.execute("%%transaction\nx.append(2)\n1 / 0", allow_stdin=True)
        waiting = client.execute("x.append(3)", allow_stdin=True)
        outcome = client.outcome(failing)
        assert outcome.status == "error"
        assert "ZeroDivisionError" in report_of(outcome)
        assert client.outcome(waiting).status == "aborted"
        assert run(client, "x").result == "[1]"


def test_a_restart_leaves_checkpoints_behind() -> None:
    with managed() as kernel:
        client = kernel.client()
        assert run(client, "x = 1\n%checkpoint a").status == "ok"
        kernel.call("restart_kernel")
        assert "No checkpoints" in streams(run(client, "%checkpoints"))
        outcome = run(client, "%rollback a")
        assert "There is no checkpoint 'a'" in streams(outcome)
