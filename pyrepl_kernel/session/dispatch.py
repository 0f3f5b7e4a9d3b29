"""Sends executions to a worker, each lane's one after the other, and takes what comes of them.

submit ──▶ Lane: a queue ── pump ──▶ WorkerLink ──▶ worker
                │                                     │
Execution ◀── deliver ◀── on_output ◀─────────────────┤
    ▲                                                 │
    └── end ◀────────── on_result ◀───────────────────┘
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any

from pyrepl_kernel.errors import ProtocolError
from pyrepl_kernel.protocol.messages import (
    Message,
    OutputMessage,
    ReceptiveMessage,
    ResultMessage,
    SubshellMessage,
)
from pyrepl_kernel.session.death import Evidence
from pyrepl_kernel.session.execution import Execution
from pyrepl_kernel.session.guard import Guard
from pyrepl_kernel.session.lane import Lane, Lanes
from pyrepl_kernel.session.link import WorkerLink
from pyrepl_kernel.session.states import SessionState, StateMachine

__all__ = ["Dispatch"]

log = logging.getLogger("pyrepl_kernel.session")

_S = SessionState


class Dispatch:
    """The executions of a session.

    Args:
        machine: The session's state: it is busy while anything is at work.
        on_background: Called with each message that belongs to no execution at work.

    Attributes:
        lanes: Where executions wait.
        executions: How many were finished, the warmup not counted.
        last_used: When the last one was, by ``time.monotonic``.
        warmup: The one that comes before the session is ready.
        instead: Called once, with the main shell's execution and its result, in place of its end.
    """

    _link: WorkerLink
    _evidence: Evidence
    _guard: Guard

    def __init__(self, machine: StateMachine, on_background: Callable[[Message], None]) -> None:
        self.lanes = Lanes()
        self.executions = 0
        self.last_used = time.monotonic()
        self.warmup: Execution | None = None
        self.instead: Callable[[Execution, ResultMessage], None] | None = None
        self._machine = machine
        self._on_background = on_background
        self._last_id = ""

    def begin_worker(self, link: WorkerLink, evidence: Evidence, guard: Guard) -> None:
        """From here on executions go to this worker."""
        self._link = link
        self._evidence = evidence
        self._guard = guard
        self.instead = None

    # ---------------------------------------------------------------- sending

    def pump_all(self) -> None:
        """Send what may be sent now."""
        for lane in self.lanes:
            self.pump(lane)

    def pump(self, lane: Lane) -> None:
        """Send a lane's next execution if none is at work and the state allows one."""
        if not lane.queue or self._link.is_broken:
            return
        if lane.current is not None:
            if lane.is_receptive:
                self._pump_aside(lane)
            return
        state = self._machine.state
        if state is _S.READY or state is _S.IDLE:
            self._machine.move(_S.BUSY)
        elif state is not _S.BUSY and (state is not _S.WARMING or lane.queue[0] is not self.warmup):
            return
        execution = lane.queue.popleft()
        lane.current = execution
        self._last_id = execution.id
        try:
            # Before anybody is told: while they are, the worker is at it already.
            self.send(lane, execution.message)
        except (ProtocolError, TypeError) as error:
            # Nothing of it reached the worker; this one fails, and the next may come.
            execution.begin()
            lane.current = None
            self._rest()
            execution.end(error)
            self.pump(lane)
            return
        execution.is_sent = True
        execution.begin()
        self._evidence.begin(execution.message, self._link.process)
        if lane is self.lanes.main:
            self._guard.begin(execution, self._link.process)
        else:
            self._guard.limit_output(execution)

    def _pump_aside(self, lane: Lane) -> None:
        """Send the comm messages that wait to the cell at work, past the cells that wait."""
        for execution in lane.take_comm_messages():
            try:
                self.send(lane, execution.message)
            except (ProtocolError, TypeError) as error:
                execution.begin()
                execution.end(error)
            else:
                execution.is_sent = True
                lane.aside[execution.id] = execution
                execution.begin()

    def send(self, lane: Lane, message: Message) -> None:
        """Send a message to the shell of a lane."""
        if lane is self.lanes.main:
            self._link.send(message)
        else:
            self._link.send_beside(SubshellMessage(lane.subshell_id, message=message.to_map()))

    def _rest(self) -> None:
        """Be idle if no cell is at work any more."""
        if self._machine.state is _S.BUSY and all(lane.current is None for lane in self.lanes):
            self._machine.move(_S.IDLE)

    # -------------------------------------------------------------- what comes

    def on_output(self, message: Any) -> None:
        """A message of an execution has come."""
        current = self.lanes.main.current
        if current is not None and message.execution_id == current.id:
            current.deliver(message)
            return
        lane = self.lanes.find(message.execution_id)
        execution = lane.find(message.execution_id) if lane is not None else None
        if execution is not None:
            execution.deliver(message)
        else:
            self._on_background(message)

    def on_text(self, stream: str, text: str) -> None:
        """C code or a child process has written something."""
        self.on_output(OutputMessage(text, stream, self._last_id))

    def on_receptive(self, message: ReceptiveMessage) -> None:
        """A cell can be disturbed by comm messages from now on."""
        lane = self.lanes.find(message.execution_id)
        if self._machine.state is _S.BUSY and lane is not None:
            lane.is_receptive = True
            self.pump(lane)

    def on_result(self, message: ResultMessage) -> None:
        """An execution has ended.

        Raises:
            ProtocolError: It was not at work.
        """
        main = lane = self.lanes.main
        current = lane.current
        if current is None or message.execution_id != current.id:
            found = self.lanes.find(message.execution_id)
            if found is None and self._machine.state is _S.SHUTTING_DOWN:
                return  # who waited for it knows already that the session ends
            if found is None:
                raise ProtocolError(f"a result for {message.execution_id!r}, which is not at work")
            lane, current = found, found.current
        self._link.process.drain_output()
        if (aside := lane.aside.pop(message.execution_id, None)) is not None:
            aside.end(message)
            return
        assert current is not None
        if lane is main:
            self._guard.end()
            self._link.process.settle()
        self._evidence.end(message)
        if self.instead is not None and lane is main:
            instead, self.instead = self.instead, None
            instead(current, message)
            return
        lane.finish_current()
        self.last_used = time.monotonic()
        if self._last_id == current.id and main.current is not None:
            # What C code and child processes write from now on is the main shell's cell's again.
            self._last_id = main.current.id
        if self._machine.state is _S.BUSY:
            self.executions += 1
            self._rest()
        current.end(message)
        self.pump(lane)

    def end_late(self, execution: Execution, result: ResultMessage) -> None:
        """What was done instead of ending the main shell's execution is done."""
        main = self.lanes.main
        if main.current is execution:
            main.finish_current()
            self._rest()
        self.executions += 1
        execution.end(result)
        self.pump(main)
