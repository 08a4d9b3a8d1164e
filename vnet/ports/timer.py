"""Sleeps of less than a millisecond, which is the least that Trio's epoll can wait."""

from __future__ import annotations

import ctypes
import os
import time

import trio

__all__ = ["Timer"]

_libc = ctypes.CDLL(None, use_errno=True)


class _Timespec(ctypes.Structure):
    _fields_ = (("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long))


class _Itimerspec(ctypes.Structure):
    _fields_ = (("interval", _Timespec), ("value", _Timespec))


_libc.timerfd_settime.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.POINTER(_Itimerspec), ctypes.c_void_p)


class Timer:
    """A timerfd (Python has its own from 3.13 on), for one task at a time."""

    def __init__(self) -> None:
        """Raises OSError."""
        self._fd = _checked(_libc.timerfd_create(time.CLOCK_MONOTONIC, os.O_NONBLOCK | os.O_CLOEXEC))
        self._spec = _Itimerspec()

    async def sleep(self, seconds: float) -> None:
        """Of real time, whatever Trio's clock says; more than 0."""
        value = self._spec.value
        value.seconds, value.nanoseconds = divmod(max(1, round(seconds * 1e9)), 10**9)
        # Setting it forgets that it expired before, so that nobody has to read it.
        _checked(_libc.timerfd_settime(self._fd, 0, ctypes.byref(self._spec), None))
        await trio.lowlevel.wait_readable(self._fd)

    def close(self) -> None:
        os.close(self._fd)


def _checked(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result
