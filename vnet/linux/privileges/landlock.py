"""Landlock: the files that a thread, and those it starts, may open (landlock(7)).

The system calls have no wrapper in the C library, and the packages that have one are young and use ctypes as well.
"""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Iterable
from enum import IntFlag
from pathlib import Path

import attrs

from vnet.linux.syscalls import LIBC, check

__all__ = ["Access", "FileRule", "Ruleset", "landlock_version"]

CREATE_RULESET, ADD_RULE, RESTRICT_SELF = 444, 445, 446
"""Numbers of the system calls, the same on all machines."""
CREATE_RULESET_VERSION = 1
RULE_PATH_BENEATH = 1
NET_SINCE, SCOPE_SINCE = 4, 6
"""Versions since which TCP and abstract sockets of others can be forbidden."""
NET_ALL, SCOPE_ABSTRACT_SOCKETS = 3, 1

LIBC.syscall.restype = ctypes.c_long


class Access(IntFlag):
    """Accesses to files and folders."""

    EXECUTE = 1 << 0
    WRITE_FILE = 1 << 1
    READ_FILE = 1 << 2
    READ_DIR = 1 << 3
    REMOVE_DIR = 1 << 4
    REMOVE_FILE = 1 << 5
    MAKE_CHAR = 1 << 6
    MAKE_DIR = 1 << 7
    MAKE_REG = 1 << 8
    MAKE_SOCK = 1 << 9
    MAKE_FIFO = 1 << 10
    MAKE_BLOCK = 1 << 11
    MAKE_SYM = 1 << 12
    REFER = 1 << 13
    TRUNCATE = 1 << 14
    IOCTL_DEV = 1 << 15


OF_FILES = Access.EXECUTE | Access.WRITE_FILE | Access.READ_FILE | Access.TRUNCATE | Access.IOCTL_DEV
"""Accesses that a rule for a file, and not a folder, may have."""
NEW_IN = {2: Access.REFER, 3: Access.TRUNCATE, 5: Access.IOCTL_DEV}
"""Accesses that a later version of Landlock has first."""


@attrs.frozen
class FileRule:
    """Accesses allowed to a file, or to a folder and all below it."""

    path: Path
    access: Access


class _RulesetAttr(ctypes.Structure):
    _fields_ = (("fs", ctypes.c_uint64), ("net", ctypes.c_uint64), ("scoped", ctypes.c_uint64))


class _PathBeneath(ctypes.Structure):
    _pack_ = 1
    _fields_ = (("access", ctypes.c_uint64), ("fd", ctypes.c_int32))


def landlock_version() -> int:
    """Return the kernel's version of Landlock; 0 if it has none or it is off."""
    version: int = LIBC.syscall(CREATE_RULESET, None, ctypes.c_size_t(0), CREATE_RULESET_VERSION)
    return max(version, 0)


class Ruleset:
    """Files that may be opened. Everything else, TCP, and abstract sockets of other programs are forbidden."""

    def __init__(self, rules: Iterable[FileRule]) -> None:
        """Files of ``rules`` that do not exist are left out. Raises OSError (ENOSYS) without Landlock."""
        version = landlock_version()
        if not version:
            raise OSError(errno.ENOSYS, "this kernel has no Landlock")
        handled = ~Access(0)
        for since, access in NEW_IN.items():
            if version < since:
                handled &= ~access
        attr = _RulesetAttr(
            handled, NET_ALL if version >= NET_SINCE else 0, SCOPE_ABSTRACT_SOCKETS if version >= SCOPE_SINCE else 0
        )
        self._fd = check(LIBC.syscall(CREATE_RULESET, ctypes.byref(attr), ctypes.sizeof(attr), 0))
        try:
            for rule in rules:
                self._allow(rule, handled)
        except BaseException:
            self.close()
            raise

    def _allow(self, rule: FileRule, handled: Access) -> None:
        try:
            fd = os.open(rule.path, os.O_PATH | os.O_CLOEXEC)
        except FileNotFoundError:
            return
        try:
            access = rule.access & handled
            beneath = _PathBeneath(access if rule.path.is_dir() else access & OF_FILES, fd)
            if beneath.access:
                check(LIBC.syscall(ADD_RULE, self._fd, RULE_PATH_BENEATH, ctypes.byref(beneath), 0))
        finally:
            os.close(fd)

    def restrict(self) -> None:
        """Restrict the calling thread, which must have no_new_privs or CAP_SYS_ADMIN. Raises OSError."""
        check(LIBC.syscall(RESTRICT_SELF, self._fd, 0))

    def close(self) -> None:
        os.close(self._fd)
