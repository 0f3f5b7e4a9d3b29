"""A process that runs a warmup in IPython, judges it, and forks as often as it is told.

    test ── {"warmup", "code", "forks"} ──▶ this module, exec'd ── fork ──▶ child: renew, code, exit
                                                     │                          │
    test ◀── {"verdict", "children"} ────────────────┴──────────────────────────┘

``code`` is a cell; what it leaves in ``result`` comes back.
"""

from __future__ import annotations

import gc
import json
import os
import select
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from typing import Any, NoReturn

from pyrepl_kernel.worker.verdict import Verdict

__all__ = ["BOUND", "Forked", "fork_after"]

BOUND = 60.0
"""Seconds that a child may take on a busy machine."""


@dataclass
class Forked:
    """What came of a warmup.

    Attributes:
        verdict: How workers are to be made.
        children: For each fork the ``result``, the ``error`` and the exit ``code``; None for a
            child that hung.
        printed: What the process wrote to stdout and stderr.
        seconds: How long the verdict took.
        left: Threads and child processes that the verdict left behind.
        problems: What went wrong before the forks.
    """

    verdict: Verdict
    children: list[dict[str, Any]]
    seconds: float
    left: list[str]
    problems: list[str]
    printed: str = ""
    results: list[Any] = field(init=False)

    def __post_init__(self) -> None:
        self.results = [child["result"] for child in self.children]


def fork_after(
    warmup: str,
    code: str = "",
    forks: int = 1,
    *,
    start: str = "",
    env: dict[str, str] | None = None,
    must_fork: bool = False,
    patience: float = BOUND / 4,
) -> Forked:
    """Run a warmup in a process of its own, judge it, and fork it.

    Args:
        warmup: The warmup.
        code: The cell that each child runs.
        forks: How many children are made, one after the other, if the verdict is no ``spawn``.
        start: Code that runs before anything is watched.
        env: Variables to set.
        must_fork: Fork whatever the verdict says.
        patience: Seconds until a trial fork hangs.
    """
    request = {
        "warmup": warmup,
        "code": code,
        "forks": forks,
        "start": start,
        "must_fork": must_fork,
        "patience": patience,
    }
    done = subprocess.run(
        [sys.executable, "-m", __name__],
        input=json.dumps(request),
        capture_output=True,
        text=True,
        timeout=BOUND + forks * BOUND,
        env={**os.environ, **(env or {})},
        check=False,
    )
    printed, _, answer = done.stdout.rpartition("\nANSWER ")
    assert done.returncode == 0 and answer, (done.returncode, done.stdout, done.stderr)
    content = json.loads(answer)
    verdict = Verdict.from_dict(content.pop("verdict"))
    return Forked(verdict, printed=printed + done.stderr, **content)


def main() -> None:
    """The process itself."""
    from IPython.core.interactiveshell import InteractiveShell
    from traitlets.config import Config

    from pyrepl_kernel.worker import observation
    from pyrepl_kernel.worker.renewal import before_fork
    from pyrepl_kernel.worker.verdict import judge, prepare_environment, watch_process

    request = json.load(sys.stdin)
    history = Config({"HistoryManager": {"enabled": False}})
    shell = InteractiveShell.instance(config=history)
    prepare_environment()
    exec(request["start"], {"shell": shell})
    watch = watch_process()
    with watch.statements(shell, request["warmup"]):
        shell.run_cell(request["warmup"])
    gc.collect()
    before = observation.glance()
    began = time.perf_counter()
    verdict = judge(watch, patience=request["patience"])
    seconds = time.perf_counter() - began
    after = observation.glance()
    left = [f"descriptor {fd}: {target}" for fd, target in after.descriptors - before.descriptors]
    left += [f"child {pid}" for pid in after.children - before.children]
    gc.freeze()
    children = []
    problems: list[str] = []
    if verdict.forks or request["must_fork"]:
        for _ in range(request["forks"]):
            sys.stdout.flush()
            problems += before_fork()
            children.append(_fork(shell, request["code"]))
    answer = {
        "verdict": verdict.as_dict(),
        "children": children,
        "seconds": seconds,
        "left": left,
        "problems": problems,
    }
    print(f"\nANSWER {json.dumps(answer)}", flush=True)
    os._exit(0)  # with connections open to what the warmup left


def _fork(shell: Any, code: str) -> dict[str, Any]:
    reader, writer = os.pipe()
    pid = os.fork()
    if not pid:
        _be_child(shell, code, writer)
    os.close(writer)
    pidfd = os.pidfd_open(pid)
    ended = bool(select.select([pidfd], [], [], BOUND)[0])
    if not ended:
        os.kill(pid, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    os.close(pidfd)
    with os.fdopen(reader) as file:
        told = file.read()
    content = json.loads(told) if told else {"result": None, "error": "", "problems": []}
    return {**content, "code": os.waitstatus_to_exitcode(status) if ended else None}


def _be_child(shell: Any, code: str, writer: int) -> NoReturn:
    from pyrepl_kernel.worker.renewal import renew
    from pyrepl_kernel.worker.worker import end_process

    problems = renew()
    error = ""
    if code:
        outcome = shell.run_cell(code)
        failure = outcome.error_before_exec or outcome.error_in_exec
        error = "" if failure is None else repr(failure)
    result = shell.user_ns.get("result")
    os.write(writer, json.dumps({"result": result, "error": error, "problems": problems}).encode())
    os.close(writer)
    end_process()
    raise AssertionError("the process goes on")


if __name__ == "__main__":
    main()
