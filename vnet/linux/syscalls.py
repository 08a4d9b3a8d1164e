"""Linux system calls for namespaces and mounts that Python 3.11 lacks. All raise OSError with the path.

Imports the standard library only, as `vnet.linux.netns_view` does.
"""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

__all__ = ["CLONE_NEWNET", "CLONE_NEWNS", "CLONE_NEWUSER", "MS_BIND", "MS_NODEV", "MS_NOSUID", "MS_RDONLY", "MS_REC"]
__all__ += ["LIBC", "MS_SHARED", "MS_SLAVE", "check", "mount", "setns", "setns_of", "umount", "unshare"]

CLONE_NEWNS = 0x20000
CLONE_NEWUSER = 0x10000000
CLONE_NEWNET = 0x40000000
MS_NOSUID, MS_NODEV = 0x2, 0x4
MS_RDONLY, MS_BIND, MS_REC, MS_SLAVE, MS_SHARED = 0x1, 0x1000, 0x4000, 0x80000, 0x100000
MNT_DETACH = 2

LIBC = ctypes.CDLL(None, use_errno=True)
"""The C library."""


def unshare(flags: int) -> None:
    """Move the calling thread to new namespaces of these kinds."""
    check(LIBC.unshare(flags))


def setns(path: Path, kind: int) -> None:
    """Move the calling thread to the namespace of this kind at ``path``."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        check(LIBC.setns(fd, kind), path)
    finally:
        os.close(fd)


def setns_of(process: int, kinds: int) -> None:
    """Move the calling thread to the namespaces of these kinds of the process that a pidfd refers to."""
    check(LIBC.setns(process, kinds))


def mount(source: Path | None, target: Path, kind: str | None = None, flags: int = 0) -> None:
    """Mount ``source`` at ``target``, or change how that is mounted."""
    words = (None if word is None else os.fsencode(word) for word in (source, target, kind))
    check(LIBC.mount(*words, ctypes.c_ulong(flags), None), target)


def umount(target: Path) -> None:
    """Detach ``target`` at once; open files keep the file system mounted out of sight."""
    check(LIBC.umount2(os.fsencode(target), MNT_DETACH), target)


def check(result: int, path: Path | None = None) -> int:
    """Return the result of a call of `LIBC`. Raises OSError, with the path, if it is negative."""
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), None if path is None else str(path))
    return result
