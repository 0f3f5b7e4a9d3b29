"""Holds the cell at work to its limits, and interrupts it with as much force as it takes.

begin(cell) ──▶ MemoryWatch, timer, OutputLimit      while it runs, and only then
                     │ a limit is passed
                     ▼
interrupt(level) ─▶ note (why) ─▶ SIGINT ─▶ stacks ─▶ kill
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from dataclasses import replace
from enum import IntEnum
from typing import Any

from pyrepl_kernel.errors import DeathCause
from pyrepl_kernel.protocol.messages import WARMUP_MARK, ExecuteMessage, OutputMessage
from pyrepl_kernel.protocol.units import show_size, show_time
from pyrepl_kernel.session.death import Evidence
from pyrepl_kernel.session.execution import Execution
from pyrepl_kernel.session.limits import Limits, MemoryMeter, MemoryWatch
from pyrepl_kernel.session.output_limit import OutputLimit
from pyrepl_kernel.session.process import WorkerProcess
from pyrepl_kernel.session.spawn import STACKS_SIGNAL
from pyrepl_kernel.session.stacks import describe_stacks

__all__ = ["Force", "Guard"]

_STUBBORN = 5.0  # seconds after the interrupt at the end of its time, before the worker is killed
_SETTLING = 0.1  # seconds that a cell has to end upon an interrupt before its stacks are shown
_ONE_GO = 0.1  # seconds that a worker takes at most to write its stacks
_LAST_LOOK = 0.1  # seconds that a worker has to write its stacks before it is killed


class Force(IntEnum):
    """How hard a cell is interrupted."""

    INTERRUPT = 1
    """SIGINT, to the worker and to the processes that its cell started."""
    STACKS = 2
    """The same, and the stacks of its threads are shown as output of the cell."""
    KILL = 3
    """The worker is killed."""


class Guard:
    """What a session does to the cell at work.

    Args:
        limits: What each cell may use.
        interrupt: Sends the interrupt; False when there is no cell.
        kill: Kills the worker, for a reason.
        evidence: Where the sources of cells are known.
    """

    def __init__(
        self,
        limits: Limits,
        interrupt: Callable[[], bool],
        kill: Callable[[DeathCause, str], None],
        evidence: Evidence,
    ) -> None:
        self._limits = limits
        self._interrupt = interrupt
        self._kill = kill
        self._evidence = evidence
        self._process: WorkerProcess | None = None
        self._execution: Execution | None = None
        self._meter: MemoryMeter | None = None
        self._watch: MemoryWatch | None = None
        self._timers: list[asyncio.TimerHandle] = []
        self._stacks: str | None = None  # of a dump to be shown, as far as it has come
        self._has_timeout = False

    @property
    def limits(self) -> Limits:
        """What each cell may use."""
        return self._limits

    @limits.setter
    def limits(self, limits: Limits) -> None:
        self._limits = limits
        if self._execution is not None and self._process is not None:
            self.begin(self._execution, self._process)  # the cell at work is held to them too

    def begin(self, execution: Execution, process: WorkerProcess) -> None:
        """An execution has been sent to the worker."""
        self.end()
        self._execution = execution
        self._process = process
        limits = self._limits
        message = execution.message
        if isinstance(message, ExecuteMessage) and not message.metadata.get(WARMUP_MARK):
            if limits.time is not None:
                self._later(limits.time, self._on_time)
            self.limit_output(execution)
        if limits.memory_kill is not None:
            if self._meter is None:
                self._meter = MemoryMeter(process.pid)
            self._watch = MemoryWatch(self._meter, limits, self._on_memory, self._on_too_much)

    def limit_output(self, execution: Execution) -> None:
        """Hold the output of an execution to its limit, whichever shell runs it."""
        limits = self._limits
        if limits.output is not None and execution.output_limit is None:
            execution.output_limit = OutputLimit(limits.output, limits.output_folder)

    def end(self) -> None:
        """It has ended."""
        if self._watch is not None:
            self._watch.stop()
            self._watch = None
        for timer in self._timers:
            timer.cancel()
        self._timers.clear()
        self._has_timeout = False
        self._stacks = None
        self._execution = None
        if self._process is not None:
            self._process.note("")

    def _later(self, delay: float, call: Callable[..., None], *arguments: Any) -> None:
        loop = asyncio.get_running_loop()
        self._timers.append(loop.call_later(delay, call, *arguments))

    # ------------------------------------------------------------- by a person

    def interrupt(self, force: Force) -> bool:
        """Interrupt the cell at work; False when there is none."""
        process = self._process
        if self._execution is None or process is None:
            return self._interrupt()
        if force is Force.KILL:
            self._kill_with_stacks(
                DeathCause.INTERRUPTS, "was killed because its cell did not end on interrupts"
            )
            return True
        process.note("")
        done = self._interrupt()
        if force is Force.STACKS:
            self._later(_SETTLING, self.show_stacks)  # unless this interrupt has ended it
        timeout = self._limits.interrupt_timeout
        if timeout is not None and not self._has_timeout:
            self._has_timeout = True
            reason = (
                f"was killed because its cell ran on for {show_time(timeout)} after an interrupt"
            )
            self._later(timeout, self._kill_with_stacks, DeathCause.INTERRUPTS, reason)
        return done

    def show_stacks(self) -> None:
        """Have the worker write where its threads are; it does so while C code runs, too."""
        assert self._process is not None
        self._stacks = ""
        self._process.signal_worker(STACKS_SIGNAL)

    def on_stacks(self, text: str) -> None:
        """The worker has written a piece of its stacks."""
        if self._stacks is None:
            return
        if not self._stacks:
            # A dump has no mark at its end; it is written in one go.
            self._later(_ONE_GO, self._deliver_stacks)
        self._stacks += text

    def _deliver_stacks(self) -> None:
        text, self._stacks = self._stacks, None
        if text and self._execution is not None:
            shown = describe_stacks(self._evidence.resolve(text))
            self._execution.deliver(OutputMessage(shown, "stderr", self._execution.id))

    def _kill_with_stacks(self, cause: DeathCause, reason: str) -> None:
        assert self._process is not None
        self._stacks = None  # for the report, and not to be shown beside it
        self._process.stacks.forget()
        self._process.signal_worker(STACKS_SIGNAL)
        self._later(_LAST_LOOK, self._kill, cause, reason)

    # --------------------------------------------------------------- by limits

    def _on_time(self) -> None:
        assert self._process is not None
        limit = show_time(self._limits.time)
        self._process.note(f"time\nthe cell ran longer than its limit of {limit}")
        self._interrupt()
        reason = (
            f"was killed because its cell ran longer than its limit of {limit} and ignored its "
            f"interrupt for {_STUBBORN:g} s"
        )
        self._later(_STUBBORN, self._kill_with_stacks, DeathCause.TIME_LIMIT, reason)

    def _on_memory(self, used: int) -> None:
        assert self._process is not None
        limit = show_size(self._limits.memory)
        self._process.note(
            f"memory\nthe process and its children use {show_size(used)}, and the limit is {limit} "
            "(%limit memory 8G raises it)"
        )
        self._interrupt()

    def _on_too_much(self, used: int) -> None:
        limit = show_size(self._limits.memory_kill)
        self._kill_with_stacks(
            DeathCause.MEMORY_LIMIT,
            f"was killed because it passed its memory limit of {limit}: it used {show_size(used)}",
        )

    def change(self, changes: dict[str, Any]) -> str:
        """Change some limits; what they are then, for people.

        Raises:
            ValueError: They make no sense.
            TypeError: There is no such limit.
        """
        if "memory" in changes and "memory_hard" not in changes:
            changes = {**changes, "memory_hard": None}
        if changes:
            self.limits = replace(self._limits, **changes)
        return self.describe()

    def describe(self) -> str:
        """The limits in force, a line each."""
        limits = self._limits
        memory = show_size(limits.memory)
        if limits.memory_kill is not None:
            memory += f" (killed at {show_size(limits.memory_kill)})"
        if self._process is not None and os.path.isdir("/proc/self"):
            used = MemoryMeter(self._process.pid).exact()
            memory += f"; in use: {show_size(used)}"
        output = "none" if limits.output is None else f"{limits.output:,} characters"
        if limits.output_folder:
            output += f"; whole texts go to {limits.output_folder}"
        return (
            f"memory     {memory}\n"
            f"time       {show_time(limits.time)}\n"
            f"output     {output}\n"
            f"interrupt  {show_time(limits.interrupt_timeout)}\n"
        )
