"""Drops the capabilities of the calling thread for good (capabilities(7))."""

from __future__ import annotations

import ctypes
import errno
from contextlib import suppress

from vnet.linux.syscalls import LIBC, check

__all__ = ["drop_capabilities"]

PR_CAPBSET_DROP, PR_SET_NO_NEW_PRIVS, PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL = 24, 38, 47, 4
CAPABILITIES_MAX = 64
VERSION_3 = 0x20080522
"""_LINUX_CAPABILITY_VERSION_3: three sets of 64 bits."""


def drop_capabilities() -> None:
    """Drop all capabilities of the calling thread, and all ways to gain one by running a program. Raises OSError."""
    with suppress(PermissionError):  # without CAP_SETPCAP: the set bounds what a program gains, which is nothing below
        for number in range(CAPABILITIES_MAX):
            try:
                _prctl(PR_CAPBSET_DROP, number)
            except OSError as error:
                if error.errno != errno.EINVAL:
                    raise
                break  # the kernel has no more
    _prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL)
    header = (ctypes.c_uint32 * 2)(VERSION_3, 0)
    check(LIBC.capset(header, (ctypes.c_uint32 * 6)()))
    _prctl(PR_SET_NO_NEW_PRIVS, 1)


def _prctl(option: int, value: int) -> None:
    check(LIBC.prctl(option, *map(ctypes.c_ulong, (value, 0, 0, 0))))
