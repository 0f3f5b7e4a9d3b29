"""A template: a process that has run the warmup and becomes a worker whenever somebody asks.

It is a worker that has not met its session: the same shell, the same way of running code, but one
thread, no socket and no history. Its forks are handed sockets and go on as workers.

    exec ─▶ IPython ─▶ warmup ─▶ verdict ─▶ sharing ─▶ wait ◀──┐
                                                        │       │ one at a time
                                                        └─ fork ┴──▶ worker
"""

from __future__ import annotations

import os
import select
import socket
import sys
import time
import traceback
from contextlib import suppress
from functools import partial

from pyrepl_kernel.hooks import HookTimeout
from pyrepl_kernel.protocol.forking import TemplateMessage, WarmMessage
from pyrepl_kernel.protocol.framing import decode_body
from pyrepl_kernel.session.spawn import LIFELINE_FD, NOTES_FD, STACKS_FD, STDERR_FD
from pyrepl_kernel.session.template_start import ORDER_FD, SOCKET_FD
from pyrepl_kernel.session.templates import TemplateDirectory, TemplateState, start_time_of
from pyrepl_kernel.worker.channel import Channel
from pyrepl_kernel.worker.descriptors import protocol_sockets, reserve_descriptors
from pyrepl_kernel.worker.forking import Forker, ForkRefused
from pyrepl_kernel.worker.interrupts import Interrupts
from pyrepl_kernel.worker.lifeline import hold_on_to
from pyrepl_kernel.worker.notes import interruption
from pyrepl_kernel.worker.renewal import before_fork
from pyrepl_kernel.worker.sharing import share_memory
from pyrepl_kernel.worker.stacks import write_stacks_to
from pyrepl_kernel.worker.start import Body
from pyrepl_kernel.worker.surroundings import Surroundings
from pyrepl_kernel.worker.verdict import Verdict, judge, watch_process

__all__ = ["main"]

_NAME = "pyrepl-template"  # Linux has room for 15 characters


def main() -> None:
    """Be a template, and in its forks a worker."""
    os.closerange(SOCKET_FD + 1, 65536)
    hold_on_to(LIFELINE_FD)
    write_stacks_to(STACKS_FD)
    order = _read_order()
    sock = socket.socket(fileno=SOCKET_FD)
    os.set_inheritable(SOCKET_FD, False)
    reserve_descriptors(keep=(LIFELINE_FD, STACKS_FD))
    try:
        body, verdict = _prepare(order)
        is_worker = _Template(order, body, verdict, sock).serve()
    except BaseException:
        _write_traceback()
        os._exit(1)
    if not is_worker:
        # Exit handlers that the warmup has registered are for the workers.
        os._exit(0)
    try:
        body.live_forked(*protocol_sockets())
    except BaseException:
        _write_traceback()
        os._exit(1)


def _read_order() -> TemplateMessage:
    with open(ORDER_FD, "rb") as file:
        order = decode_body(file.read()[4:])
    if not isinstance(order, TemplateMessage):
        sys.exit(f"expected a template message, got {order!r}")
    return order


def _write_traceback() -> None:
    os.write(STDERR_FD, traceback.format_exc().encode("utf-8", "replace"))


def _prepare(order: TemplateMessage) -> tuple[Body, Verdict]:
    """Build the worker, run the warmup, and see whether that has left anything in the way."""
    _name_process(_NAME)
    os.chdir(order.cwd)
    interrupts = Interrupts(partial(interruption, NOTES_FD))
    interrupts.install()
    body = Body(Channel(), interrupts, Surroundings(), order.ipython)
    worker = body.worker
    watch = watch_process()
    if order.warmup:
        with watch.statements(body.shell, order.warmup):
            worker.warm_up(order.warmup)
    result = worker.warm_up_result
    if result is not None and result.status != "ok":
        worker.prepare_fork()
        return body, Verdict("spawn", f"the warmup raised {result.ename}: {result.evalue}")
    return body, judge(watch, let_go=worker.prepare_fork)


def _name_process(name: str, instead_of: str = "") -> None:
    """The name that ``ps`` and ``top`` show.

    Args:
        name: The new one.
        instead_of: Only if this is the present one; any is when this is empty.
    """
    with suppress(OSError), open("/proc/self/comm", "r+b", buffering=0) as file:
        if not instead_of or file.read(32).strip() == instead_of.encode():
            file.write(name.encode())


class _Template:
    """Serves forks of what was prepared, under its key or to its only user.

    Args:
        order: What it was told.
        body: What was prepared.
        verdict: How workers may be made of it.
        sock: The socket that it listens on, or is connected by.
    """

    def __init__(
        self, order: TemplateMessage, body: Body, verdict: Verdict, sock: socket.socket
    ) -> None:
        self._order = order
        self._sock = sock
        self._directory = TemplateDirectory(order.directory) if order.key else None
        self._inode = self._directory.inode(order.key) if self._directory else None
        result = body.worker.warm_up_result
        self._has_failed = result is not None and result.status != "ok"
        failure: tuple[str, str, list[str]] = ("", "", [])
        if result is not None and self._has_failed:
            failure = result.ename, result.evalue, result.traceback
        self._verdict = verdict
        warm = WarmMessage(os.getpid(), verdict.method, verdict.reason, verdict.advice, *failure)
        self._notices = body.worker.notices
        self._refusal = ""  # why nothing is forked any more
        # The warmup may have given the process a name; then it stays.
        self._forker = Forker(
            warm, self._before_fork, lambda: _name_process("pyrepl-worker", instead_of=_NAME)
        )

    def _before_fork(self) -> None:
        if self._refusal:
            raise ForkRefused(self._refusal)
        try:
            # The fork takes what went wrong to its user; the next one has its own.
            self._notices[:] = before_fork()
        except HookTimeout as timeout:
            # What it was to close is open, or half closed. It is not called again: each who asks
            # would wait as long, and others behind them.
            self._refusal = str(timeout)
            raise ForkRefused(self._refusal) from None

    def _state(self) -> TemplateState:
        order = self._order
        lines = [line for line in order.warmup.splitlines() if line.strip()]
        return TemplateState(
            key=order.key,
            pid=os.getpid(),
            start_time=start_time_of(os.getpid()),
            warmed_at=time.time(),
            python=sys.executable,
            warmup=lines[0] if lines else "",
            verdict=self._verdict.method,
            reason=self._verdict.reason,
            advice=self._verdict.advice,
            cwd=order.cwd,
        )

    def serve(self) -> bool:
        """Serve forks until nobody needs them any more; True in each of them."""
        # Whoever wanted the warmup may go now.
        null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        os.dup2(null, LIFELINE_FD, inheritable=False)
        os.close(null)
        share_memory()
        if self._directory is None:
            self._forker.connect(self._sock)
            return self._forker.serve(0.0)
        self._forker.listen(self._sock)
        # A failure is not remembered: those who come later may have mended what was wrong.
        if not self._has_failed:
            with suppress(OSError):  # the directory was removed: nobody comes any more
                self._directory.write_state(self._state())
        # One that cannot be forked, or that should not, is of no use to those who come later.
        is_useful = self._verdict.forks and not self._has_failed
        if self._forker.serve(self._order.linger if is_useful else 0.0, self._may_leave):
            return True
        with suppress(OSError):
            self._remove_files()
        return False

    def _may_leave(self) -> bool:
        """Take leave of the registry, unless somebody has just come."""
        directory = self._directory
        assert directory is not None
        try:
            with directory.lock():
                poll = select.poll()
                poll.register(self._sock, select.POLLIN)
                if poll.poll(0):
                    return False
                self._forget()
        except OSError:
            return True  # the directory was removed: nobody finds us there
        return True

    def _remove_files(self) -> None:
        assert self._directory is not None
        with self._directory.lock():
            self._forget()

    def _forget(self) -> None:
        assert self._directory is not None
        # Unless the socket's file is another's by now: somebody may have tidied up by hand.
        if self._inode is not None and self._directory.inode(self._order.key) == self._inode:
            remembers = not self._verdict.forks and not self._has_failed
            self._directory.remove(self._order.key, state=not remembers)
        self._sock.close()
