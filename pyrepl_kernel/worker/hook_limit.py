"""Bounds the time of a hook that runs before a fork: nothing may wait for ever, a template least.

0 s         the hook is called
PATIENCE    SIGALRM: an exception in it, which ends whatever Python waits for
twice that  SIGABRT: it has caught the exception, or hangs in C code that never looks for signals;
            faulthandler writes the stack, and the process ends
"""

from __future__ import annotations

import ctypes
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, NoReturn

from pyrepl_kernel.hooks import HookTimeout

__all__ = ["PATIENCE", "limited"]

PATIENCE = 5.0
"""Seconds that a hook may take. Whoever asks for a fork waits twice as long for it."""

_CLOCK_MONOTONIC = 1
_SIGEV_SIGNAL = 0


class _SigEvent(ctypes.Structure):
    """``struct sigevent`` of Linux."""

    _fields_ = (
        ("value", ctypes.c_void_p),
        ("signo", ctypes.c_int),
        ("notify", ctypes.c_int),
        ("rest", ctypes.c_byte * 48),
    )


class _TimerSpec(ctypes.Structure):
    """``struct itimerspec``."""

    _fields_ = (
        ("again_s", ctypes.c_long),
        ("again_ns", ctypes.c_long),
        ("first_s", ctypes.c_long),
        ("first_ns", ctypes.c_long),
    )


@contextmanager
def limited(name: str) -> Iterator[None]:
    """Bound the time of a hook, which runs on the main thread.

    Args:
        name: What to call it.

    Raises:
        HookTimeout: It did not return in time.
    """
    patience = PATIENCE

    def give_up(signum: int, frame: FrameType | None) -> NoReturn:
        raise HookTimeout(f"{name} did not return within {patience:g} seconds")

    handler: Any = signal.signal(signal.SIGALRM, give_up)
    users_timer = signal.setitimer(signal.ITIMER_REAL, patience)
    disarm = _send_later(signal.SIGABRT, patience * 2)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, *users_timer)
        signal.signal(signal.SIGALRM, handler if handler is not None else signal.SIG_DFL)
        disarm()


def _send_later(signum: int, seconds: float) -> Callable[[], object]:
    """Have the system send a signal to this process; gives what calls that off.

    A timer of the system's needs no thread, which a template must not have, and no interpreter
    that is able to run.
    """
    libc = ctypes.CDLL(None)
    try:
        create, arm, delete = libc.timer_create, libc.timer_settime, libc.timer_delete
    except AttributeError:
        return lambda: None  # a C library without them: the exception has to do
    create.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p]
    arm.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p]
    delete.argtypes = [ctypes.c_void_p]
    event = _SigEvent(signo=signum, notify=_SIGEV_SIGNAL)
    timer = ctypes.c_void_p()
    if create(_CLOCK_MONOTONIC, ctypes.byref(event), ctypes.byref(timer)) != 0:
        return lambda: None  # the user's limit of timers, for example
    whole = int(seconds)
    spec = _TimerSpec(first_s=whole, first_ns=int((seconds - whole) * 1e9))
    arm(timer, 0, ctypes.byref(spec), None)
    return lambda: delete(timer)
