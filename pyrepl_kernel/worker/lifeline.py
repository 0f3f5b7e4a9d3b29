"""Ends this process, and all that it started, when the session's process is gone."""

from __future__ import annotations

import fcntl
import os
import select
import signal
import threading

__all__ = ["hold_on_to", "offer_to_oom_killer"]

_OOM_SHARE = 300  # thousandths of the machine's memory that a worker counts as above what it has
_OOM_MOST = 1000


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
        os.dup2(own, fd, inheritable=False)
        os.close(own)
        fcntl.fcntl(fd, fcntl.F_SETOWN, -os.getpgrp())
        fcntl.fcntl(fd, fcntl.F_SETSIG, signal.SIGKILL)
        fcntl.fcntl(fd, fcntl.F_SETFL, os.O_NONBLOCK | os.O_ASYNC)
        poll = select.poll()
        poll.register(fd, select.POLLHUP)
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


def offer_to_oom_killer() -> None:
    """Have the system, when memory runs out, rather kill this process than one with a session.

    A worker is what can be replaced. Its children inherit that.
    """
    # By bare system calls: a text file would import its encoding, in each fork for itself.
    try:
        fd = os.open("/proc/self/oom_score_adj", os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return  # another system: it is only a preference
    try:
        score = int(os.read(fd, 32))
        os.pwrite(fd, b"%d" % min(score + _OOM_SHARE, _OOM_MOST), 0)
    except (OSError, ValueError):
        return  # not permitted
    finally:
        os.close(fd)
