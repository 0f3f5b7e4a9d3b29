"""Signals, kept in order: time limits for calls that have none, and Ctrl-C at a safe moment."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from .errors import KernelFault

_STOPPING = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def time_limit(seconds: float, what: str) -> Iterator[None]:
    """Raises ``KernelFault`` in the main thread when the block takes longer.

    jupyter_client's blocking calls run an event loop inside and take no timeout. A timer of the
    operating system ends any of them; where there is none (Windows) the block is not limited.

    Args:
        seconds: how long the block may take.
        what: what it does, for the error's text.
    """
    if not hasattr(signal, "setitimer"):
        yield
        return

    def expire(number: int, frame: FrameType | None) -> None:
        raise KernelFault(f"{what} took longer than {seconds:g} s")

    before = signal.signal(signal.SIGALRM, expire)
    # Repeated: an exception that lands in a callback of the event loop is only logged there.
    signal.setitimer(signal.ITIMER_REAL, seconds, 1.0)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Holds Ctrl-C and SIGTERM back until the block is over.

    Handlers are swapped, not masked: a kernel started in the block would inherit a mask.
    """
    held: list[int] = []
    before = {number: signal.getsignal(number) for number in _STOPPING}
    for number in _STOPPING:
        signal.signal(number, lambda received, frame: held.append(received))
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if held:
            signal.raise_signal(held[0])
