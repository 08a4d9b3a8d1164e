"""The filter of system calls, through libseccomp."""

from __future__ import annotations

import ctypes
import errno
from collections.abc import Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path

from vnet.linux.privileges.calls import OTHER_NAMES, Argument

__all__ = ["filter_calls", "why_no_filter"]

LIBRARY = "libseccomp.so.2"
ACTIONS = Path("/proc/sys/kernel/seccomp/actions_avail")
CTL_SSB = 7
"""Attribute of libseccomp 2.5 and newer: leave the processor's speculation as it is."""


@cache
def why_no_filter() -> str:
    """Return why calls cannot be filtered; empty if they can."""
    if not ACTIONS.exists():
        return "this kernel has no seccomp"
    try:
        ctypes.CDLL(LIBRARY)
        import pyseccomp  # noqa: F401  it runs ldconfig, which a sandbox forbids later
    except ImportError:
        return "pyseccomp is not installed"
    except (RuntimeError, OSError):
        return "libseccomp2 is not installed"
    return ""


def filter_calls(calls: Mapping[str, Argument | None]) -> None:
    """Allow all threads of this process no more than these calls; others fail with EPERM. Raises OSError."""
    import pyseccomp as seccomp

    filtered = seccomp.SyscallFilter(seccomp.ERRNO(errno.EPERM))
    filtered.set_attr(seccomp.Attr.CTL_TSYNC, 1)
    with suppress(OSError, ValueError):  # an older library
        filtered.set_attr(CTL_SSB, 1)
    machine = seccomp.system_arch()
    for name, argument in calls.items():
        known = name if seccomp.resolve_syscall(machine, name) >= 0 else OTHER_NAMES.get(name, name)
        if argument is None:
            conditions = []
        else:
            conditions = [seccomp.Arg(argument.at, seccomp.MASKED_EQ, argument.mask, argument.value)]
        filtered.add_rule(seccomp.ALLOW, known, *conditions)
    filtered.add_rule(seccomp.ERRNO(errno.ENOSYS), "clone3")  # the C library then uses clone
    filtered.load()
