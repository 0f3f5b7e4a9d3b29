"""Checkpoints: frozen forks of this worker, each of which can become the worker again.

    worker ──fork──▶ frozen: waits, and serves forks as a template does
      │                 │
      │ runs on         └──fork──▶ the worker as it was, on sockets of its own
      ▼
    dies, or is given up for that one

A frozen process runs no code of the user's. Its memory is the worker's own until the worker
changes it. The worker asks for nothing: it makes the socket by which the frozen process is reached,
and hands it to the session over descriptor 8.
"""

from __future__ import annotations

import faulthandler
import gc
import os
import resource
import signal
import socket
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from pyrepl_kernel.protocol.forking import WarmMessage, send
from pyrepl_kernel.protocol.messages import (
    CheckpointMessage,
    CheckpointReplyMessage,
    DropMessage,
    FrozenMessage,
    RestoreMessage,
    ResultMessage,
)
from pyrepl_kernel.session.spawn import CHECKPOINTS_FD, LAST_FD, STACKS_FD
from pyrepl_kernel.worker import openmp
from pyrepl_kernel.worker.capture import OutputBuffer
from pyrepl_kernel.worker.channel import Channel
from pyrepl_kernel.worker.descriptors import protocol_sockets, reserve_descriptors
from pyrepl_kernel.worker.fork_rules import look_for_checkpoint
from pyrepl_kernel.worker.forking import Forker
from pyrepl_kernel.worker.renewal import remember, renew
from pyrepl_kernel.worker.sharing import PageCost, give_back_free_memory
from pyrepl_kernel.worker.shell import ZMQInteractiveShell

if TYPE_CHECKING:
    from pyrepl_kernel.worker.worker import Worker

__all__ = ["CheckpointRefused", "Checkpoints"]

_COLLECT_EVERY = 10
"""Checkpoints between two collections of garbage; in between, what they saw is never looked at."""


class CheckpointRefused(Exception):
    """A fork of this process would not work; the text says why."""


class Checkpoints:
    """Takes checkpoints of this process.

    Args:
        worker: Whose process it is.
        channel: Its protocol.
        output: Its streams.
        shell: IPython.
    """

    def __init__(
        self, worker: Worker, channel: Channel, output: OutputBuffer, shell: ZMQInteractiveShell
    ) -> None:
        self._worker = worker
        self._channel = channel
        self._output = output
        self._shell = shell
        self._wish = ""  # the name of one to be taken when the cell has ended
        self.restore = ""
        """The key of the checkpoint to go back to when the cell has ended."""
        self.is_automatic = False
        """Whether one is taken after each cell."""
        self._transaction = ""  # the key of that from before the cell
        self._frozen: set[int] = set()
        self._taken = 0
        self._page_cost = PageCost()
        self._collecting = 0.0  # seconds of the last collection, spread over those that follow
        self._bill = 0.0  # seconds that the last automatic one has cost
        self._faults = 0  # before it
        self._worked = 0.0  # seconds of cells since then
        self._is_leaving = False  # whether the session is about to give this process up
        shell.input_transformers_cleanup.append(without_transaction)

    def known(self) -> list[dict[str, Any]]:
        """In a cell: all that the session keeps, the oldest first."""
        return self._worker.ask_for_checkpoints()

    # ---------------------------------------------------------- around a cell

    def wish(self, name: str) -> list[str]:
        """Take one when the cell that runs has ended.

        Returns:
            What it will not bring back.

        Raises:
            CheckpointRefused: That would not work as things are now.
        """
        left = self.look()
        self._wish = name
        return left

    def begin_transaction(self) -> bool:
        """Take one before a cell that is to be undone if it fails; True in a restored worker."""
        try:
            key = self.take("", is_automatic=True, is_for_cell=not self.is_automatic)
        except CheckpointRefused as error:
            self._worker.notices.append(f"This cell cannot be undone: {error}\n")
            return False
        self._transaction = key
        return not key

    def end_cell(
        self, result: ResultMessage, seconds: float, send: Callable[[ResultMessage], None]
    ) -> None:
        """Do what the cell has asked for, and send its result.

        Args:
            result: The cell's result.
            seconds: How long it ran.
            send: Sends the result. It is not called in a worker that was restored: there the cell
                is another process's affair.
        """
        self._worked += seconds
        wish, self._wish = self._wish, ""
        restore, self.restore = self.restore, ""
        transaction, self._transaction = self._transaction, ""
        if result.status != "ok":
            if transaction:
                print("All that this cell has changed is undone.")
            restore = transaction
        elif transaction and not self.is_automatic:
            # Nobody has asked to keep it: a crash much later is not to go back to it.
            self._channel.post(DropMessage(transaction))
        if wish and not restore:
            try:
                if not self.take(wish):
                    return
            except CheckpointRefused as error:
                print(f"No checkpoint was taken: {error}", file=sys.stderr)
        if restore:
            self._channel.post(RestoreMessage(result.execution_id, restore))
        # A state that is given up must not take the place of what is gone back to. Should that
        # fail, the next cell's end is another.
        self._is_leaving = bool(restore)
        send(result)
        if self.is_automatic and not restore:
            self._take_automatically()

    def _take_automatically(self) -> None:
        if self.is_worth(self._worked):
            self._take_now()
        else:
            self._worker.when_idle(self._take_soon)

    def is_worth(self, worked: float) -> bool:
        """Whether so many seconds of work, since the last automatic one, are kept at once.

        What is cheaper to compute again than to keep is not, while the user waits for more.
        """
        faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - self._faults
        return not self._bill or worked >= self._bill + faults * self._page_cost.seconds

    def _take_soon(self) -> None:
        # Not here: the event loop may be running.
        self._worker.handle_next(CheckpointMessage(""))

    def _take_now(self) -> None:
        if not self.is_automatic or self._is_leaving:
            return
        try:
            self.take("", is_automatic=True)
        except CheckpointRefused as error:
            self.is_automatic = False
            self._worker.notices.append(f"%autocheckpoint is off now: {error}\n")

    def take_for(self, message: CheckpointMessage) -> None:
        """Take one because the session asks for it, or because nobody asks for anything else."""
        if not message.name:
            self._take_now()
            return
        try:
            if self.take(message.name):
                self._channel.send(CheckpointReplyMessage(message.id))
        except CheckpointRefused as error:
            self._channel.send(CheckpointReplyMessage(message.id, str(error)))

    # ----------------------------------------------------------------- taking

    def look(self) -> list[str]:
        """See whether a fork of this process would work.

        Returns:
            What a checkpoint would not bring back, as clauses.

        Raises:
            CheckpointRefused: It would not work.
        """
        if sys.platform != "linux":
            raise CheckpointRefused("checkpoints need Linux")
        self._reap()
        if self._worker.loop_problem:
            raise CheckpointRefused(self._worker.loop_problem)
        database = str(self._shell.history_manager.hist_file)
        in_the_way, left = look_for_checkpoint(
            our_threads=self._worker.own_threads,
            our_descriptors={*range(LAST_FD + 1), *self._worker.own_descriptors},
            our_files=database,
            our_children=self._frozen,
        )
        if in_the_way:
            raise CheckpointRefused("; ".join(in_the_way))
        return left

    def take(self, name: str, *, is_automatic: bool = False, is_for_cell: bool = False) -> str:
        """Freeze a fork of this process.

        Args:
            name: Its name; an automatic one has none.
            is_automatic: Whether the next automatic one replaces it.
            is_for_cell: Whether it is of use only until the cell that begins has ended.

        Returns:
            Its key. Empty in a worker that is made of the checkpoint, in which this call returns
            once more.

        Raises:
            CheckpointRefused: A fork of this process would not work.
        """
        left = self.look()
        began = time.perf_counter()
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with ours, theirs:
            self._worker.flush()
            openmp.quiesce()
            collected = self._keep_heap_shared()
            self._page_cost.prepare()
            resume = remember()
            try:
                pid = os.fork()
            except OSError as error:
                raise CheckpointRefused(f"the system gives no fork: {error.strerror}") from error
            if pid == 0:
                ours.close()
                self._be_frozen(theirs, resume)
                return ""
            with suppress(OSError):  # the child does it too; whoever is first
                os.setpgid(pid, pid)
            self._frozen.add(pid)
            self._taken += 1
            seconds = time.perf_counter() - began
            self._page_cost.measure()
            if is_automatic:
                self._bill = seconds - collected + self._collecting
                self._faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
                self._worked = 0.0
            lines = self._worker.last_code.strip().splitlines()
            message = FrozenMessage(
                name,
                pid,
                is_automatic,
                is_for_cell,
                self._shell.execution_count - 1,
                lines[0][:60] if lines else "",
                left,
                seconds,
            )
            with socket.socket(fileno=os.dup(CHECKPOINTS_FD)) as session:
                send(session, message, [ours.fileno()])
        return str(pid)

    def _keep_heap_shared(self) -> float:
        """Let neither a collection nor new objects touch what is there now.

        Each page that they wrote would be copied.

        Returns:
            Seconds spent on a collection of garbage; 0 for none.
        """
        seconds = 0.0
        if self._taken % _COLLECT_EVERY == 0:
            began = time.perf_counter()
            gc.unfreeze()
            gc.collect()
            seconds = time.perf_counter() - began
            self._collecting = seconds / _COLLECT_EVERY
        gc.freeze()
        give_back_free_memory()
        return seconds

    def _reap(self) -> None:
        """Take note of checkpoints that the session has given up."""
        for pid in list(self._frozen):
            try:
                done, _ = os.waitpid(pid, os.WNOHANG)
            except ChildProcessError:
                done = pid
            if done:
                self._frozen.discard(pid)

    # ----------------------------------------------------------------- frozen

    def _be_frozen(self, sock: socket.socket, resume: dict[str, Any]) -> None:
        """In the fork: wait until the session wants it, or wants it no more.

        Returns in each process that is forked from this one.
        """
        try:
            os.setpgid(0, 0)
            # An interrupt is for a worker. So is the end of its lifeline: who is frozen ends with
            # the session's socket.
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            os.set_inheritable(sock.fileno(), False)
            reserve_descriptors(keep=())
            for number in (0, 1, 2):
                os.dup2(LAST_FD, number)
            _name_process("pyrepl-frozen")
            _prefer_to_be_killed()
            forker = Forker(
                WarmMessage(os.getpid(), "fork", "a checkpoint"),
                after_fork=lambda: _name_process("pyrepl-worker"),
            )
            forker.connect(sock)
            if not forker.serve(0.0):
                os._exit(0)
        except BaseException:
            os._exit(1)
        gc.unfreeze()
        self._frozen = set()
        # What it costs to share pages is counted for each process from nothing.
        self._bill, self._faults, self._worked = 0.0, 0, 0.0
        self._worker.notices += renew(resume)
        faulthandler.enable(STACKS_FD)
        self._worker.resume(*protocol_sockets())


def without_transaction(lines: list[str]) -> list[str]:
    """IPython's input transformer: the rest of a ``%%transaction`` cell runs as any other."""
    if lines and lines[0].strip() == "%%transaction":
        return ["\n", *lines[1:]]
    return lines


def _name_process(name: str) -> None:
    with suppress(OSError), open("/proc/self/comm", "w") as file:
        file.write(name)


def _prefer_to_be_killed() -> None:
    """When memory runs out, rather a checkpoint should go than what works."""
    with suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
        file.write("900")
