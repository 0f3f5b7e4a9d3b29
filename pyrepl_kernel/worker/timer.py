"""A descriptor that becomes readable at a time; Python has it from 3.13 on."""

from __future__ import annotations

import ctypes
import os

__all__ = ["Timer"]

_CLOCK_MONOTONIC = 1
_FLAGS = os.O_CLOEXEC | os.O_NONBLOCK
_SHORTEST = 1e-6  # seconds; 0 would switch it off


class _Time(ctypes.Structure):
    _fields_ = (("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long))


class _Setting(ctypes.Structure):
    _fields_ = (("interval", _Time), ("value", _Time))


class Timer:
    """Linux's timerfd.

    Raises:
        OSError: The system has no descriptor left.
    """

    def __init__(self) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self.fileno = self._libc.timerfd_create(_CLOCK_MONOTONIC, _FLAGS)
        if self.fileno < 0:
            number = ctypes.get_errno()
            raise OSError(number, f"timerfd_create: {os.strerror(number)}")

    def set(self, seconds: float | None) -> None:
        """Be readable in so many seconds, and not before; None for never."""
        setting = _Setting()
        if seconds is not None:
            whole, part = divmod(max(seconds, _SHORTEST), 1)
            setting.value = _Time(int(whole), int(part * 1e9))
        # Setting it takes back that it was readable.
        if self._libc.timerfd_settime(self.fileno, 0, ctypes.byref(setting), None) < 0:
            number = ctypes.get_errno()
            raise OSError(number, f"timerfd_settime: {os.strerror(number)}")
