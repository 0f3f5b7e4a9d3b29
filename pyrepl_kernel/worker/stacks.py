"""Where the interpreter writes the stacks of all threads: in a crash, and upon a signal."""

from __future__ import annotations

import faulthandler
import os

from pyrepl_kernel.session.spawn import STACKS_SIGNAL

__all__ = ["write_stacks_to"]


def write_stacks_to(fd: int) -> None:
    """Have the Python stacks written to a descriptor: by a fatal signal, or when the session asks.

    A descriptor of its own keeps them apart from what the user's code writes to stderr. User code
    that calls ``faulthandler.enable()`` itself wants them in the notebook, and gets them there:
    that call replaces this one, and the session then finds them in the last words on stderr.

    Args:
        fd: The descriptor; programs that the user starts do not inherit it.
    """
    os.set_inheritable(fd, False)
    faulthandler.enable(fd)
    faulthandler.register(STACKS_SIGNAL, fd)

    def in_child() -> None:
        # The crash of a process that the user's code forked is not the worker's: it is seen in
        # the notebook, where stderr leads, whatever the user has made of faulthandler.
        os.dup2(2, fd, inheritable=False)

    os.register_at_fork(after_in_child=in_child)
