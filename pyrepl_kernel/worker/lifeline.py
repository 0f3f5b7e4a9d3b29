"""Ends this process, and all that it started, when the session's process is gone."""

from __future__ import annotations

import fcntl
import os
import select
import signal
import threading

__all__ = ["hold_on_to"]


def hold_on_to(fd: int) -> None:
    """Tie this process group's life to a pipe that only the session's process can write to.

    On Linux the operating system itself sends SIGKILL to the group when the pipe's last writer is
    gone: no thread is needed, and none of ours has to be able to run. Elsewhere a thread waits.

    Args:
        fd: The pipe's reading end.
    """
    os.set_inheritable(fd, False)
    if hasattr(fcntl, "F_SETSIG"):
        # The owner belongs to the open file description, which forks of one parent share; a
        # description of our own comes from opening the pipe anew.
        own = os.open(f"/proc/self/fd/{fd}", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        os.close(fd)
        fcntl.fcntl(own, fcntl.F_SETOWN, -os.getpgrp())
        fcntl.fcntl(own, fcntl.F_SETSIG, signal.SIGKILL)
        fcntl.fcntl(own, fcntl.F_SETFL, os.O_NONBLOCK | os.O_ASYNC)
        poll = select.poll()
        poll.register(own, select.POLLHUP)
        if poll.poll(0):  # the writer went before we were ready for it
            _end_group()
    else:
        threading.Thread(target=_wait_for_end, args=(fd,), name="lifeline", daemon=True).start()


def _wait_for_end(fd: int) -> None:
    while os.read(fd, 1):
        continue
    _end_group()


def _end_group() -> None:
    os.killpg(os.getpgrp(), signal.SIGKILL)
