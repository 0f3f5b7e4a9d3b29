"""Whether a process may be forked, and if not, what in its warmup to move.

Watch        what the process had before the warmup, and what came with which statement
  │
  ▼
fork_rules   what speaks against a fork: threads, connections, libraries in use
  │ nothing
  ▼
openmp       GNU OpenMP's threads are ended
  ▼
canary       a trial fork does real work, under a timeout
  ▼
Verdict      fork, quiesce+fork or spawn, with its reason
"""

from __future__ import annotations

import gc
import os
import sys
import threading
from collections.abc import Callable, Mapping, MutableMapping
from dataclasses import dataclass
from typing import Any, Literal

from pyrepl_kernel.hooks import HookTimeout, run_before_fork
from pyrepl_kernel.worker import openmp
from pyrepl_kernel.worker.canary import try_fork
from pyrepl_kernel.worker.fork_rules import (
    Finding,
    has_openmp_threads,
    look,
    look_at_states,
    states,
)
from pyrepl_kernel.worker.hook_limit import limited
from pyrepl_kernel.worker.renewal import renew
from pyrepl_kernel.worker.watch import Place, Watch

__all__ = ["Verdict", "judge", "prepare_environment", "watch_process"]

PATIENCE = 10.0
"""Seconds without progress after which a trial fork counts as hung."""

Method = Literal["fork", "quiesce+fork", "spawn"]


@dataclass(frozen=True)
class Verdict:
    """How workers are made from a process.

    Attributes:
        method: ``fork``; ``quiesce+fork``, where threads of OpenMP are ended before each fork; or
            ``spawn``, where each worker runs the warmup itself.
        reason: Why, as a clause.
        advice: What the user can do about it; empty where there is nothing to do.
        lines: The lines of the warmup that the advice is about, from 1.
    """

    method: Method
    reason: str
    advice: str = ""
    lines: tuple[int, ...] = ()

    @property
    def forks(self) -> bool:
        """Whether workers are forked."""
        return self.method != "spawn"

    def __str__(self) -> str:
        return f"{self.method}: {self.reason}" + (f" ({self.advice})" if self.advice else "")

    def as_dict(self) -> dict[str, Any]:
        """For a message."""
        return {
            "method": self.method,
            "reason": self.reason,
            "advice": self.advice,
            "lines": list(self.lines),
        }

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Verdict:
        """From a message.

        Raises:
            ValueError: It is none of a verdict's.
        """
        method = content.get("method")
        if method not in ("fork", "quiesce+fork", "spawn"):
            raise ValueError(f"no verdict has the method {method!r}")
        return cls(
            method,
            str(content.get("reason", "")),
            str(content.get("advice", "")),
            tuple(int(line) for line in content.get("lines", ())),
        )


def prepare_environment(environ: MutableMapping[str, str] = os.environ) -> None:
    """Before the warmup: have numba choose a threading layer that can be forked."""
    environ.setdefault("NUMBA_THREADING_LAYER", "forksafe")


def watch_process() -> Watch:
    """Begin to watch this process, before the user's code runs."""
    return Watch(states)


def judge(
    watch: Watch,
    *,
    let_go: Callable[[], None] = lambda: None,
    canary: bool = True,
    patience: float = PATIENCE,
) -> Verdict:
    """Say how workers are to be made from this process as it is now.

    Runs the user's ``before_fork`` hooks, and ends GNU OpenMP's threads, as is done before each
    fork. Objects in the permanent generation of ``gc.freeze`` are not seen: judge first.

    Args:
        watch: What has watched the warmup.
        let_go: Closes the event loop that cells run in, tasks that have not ended included.
        canary: Whether a trial fork is made if no rule speaks against a fork.
        patience: Seconds without progress after which the trial fork counts as hung.
    """
    if sys.platform != "linux":
        return Verdict("spawn", "workers are forked on Linux alone")
    if threading.current_thread() is not threading.main_thread():
        return Verdict("spawn", "only the main thread of a process may fork it")
    tasks = [one for one in look_at_states() if one.evidence == (("state", "tasks"),)]
    let_go()
    if tasks:
        return _spawn(tasks, watch)
    try:
        run_before_fork(limited)
    except HookTimeout as timeout:
        return Verdict(
            "spawn", str(timeout), "mend it, or leave what it closes to the first cell to open"
        )
    findings = look(watch)
    if findings:
        gc.collect()  # what is open may be garbage
        findings = look(watch)
    if findings:
        return _spawn(findings, watch)
    uses_openmp = has_openmp_threads(watch)
    stubborn = openmp.quiesce()
    if uses_openmp and stubborn:
        names = ", ".join(os.path.basename(path) for path in stubborn)
        return Verdict(
            "spawn",
            f"{names} has threads and cannot end them",
            "only import what uses OpenMP in the warmup, and use it in a cell",
        )
    problem = try_fork(renew, patience) if canary else ""
    if problem:
        return Verdict(
            "spawn",
            f"no rule speaks against a fork, but {problem}",
            "move the lines that use this library from the warmup to the first cell",
        )
    if uses_openmp:
        return Verdict("quiesce+fork", "GNU OpenMP keeps threads, which are ended before each fork")
    return Verdict("fork", "the warmup has left nothing that a fork would break")


def _spawn(findings: list[Finding], watch: Watch) -> Verdict:
    """One finding for each place; what came with it is a part of it."""
    told: dict[Place | None, list[Finding]] = {}
    for finding in findings:
        place = watch.place_of(finding.evidence)
        others = told.setdefault(place, [])
        if not others or (place is None and finding.rank < 5):
            others.append(finding)
    reasons, advice = [], []
    for place, here in told.items():
        for finding in here:
            reasons.append(f"{finding.what} ({place})" if place else finding.what)
            if place is not None and place.line:
                advice.append(
                    f"move line {place.line} from the warmup to the first cell, or {finding.remedy}"
                )
            else:
                advice.append(f"move what does this to the first cell, or {finding.remedy}")
    lines = sorted({place.line for place in told if place is not None and place.line})
    return Verdict("spawn", "; ".join(reasons), "; ".join(dict.fromkeys(advice)), tuple(lines))
