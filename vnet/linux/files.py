"""Opens files to write that another user may have put in the way, and names files in errors of descriptors."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["close_file", "naming", "open_to_write"]

WHY = "in a folder that all users can write, it must be this user's own file, and no link"


def open_to_write(path: Path, flags: int, mode: int = 0o600) -> int:
    """Open a file with ``flags`` of os.open, and return its descriptor. Raises OSError.

    In a folder that all users can write, such as /tmp, it must be a file of this user, of root, or of the user of sudo,
    and no symbolic link; another one is left as it is.
    """
    if not _is_shared(path.parent):
        return os.open(path, flags | os.O_CLOEXEC, mode)
    try:
        fd = os.open(path, (flags | os.O_CLOEXEC | os.O_NOFOLLOW) & ~os.O_TRUNC, mode)
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
        raise PermissionError(errno.EPERM, WHY, str(path)) from None
    try:
        if os.fstat(fd).st_uid not in _trusted():
            raise PermissionError(errno.EPERM, WHY, str(path))
        if flags & os.O_TRUNC and stat.S_ISREG(os.fstat(fd).st_mode):
            os.ftruncate(fd, 0)
    except BaseException:
        os.close(fd)
        raise
    return fd


def close_file(fd: int, path: Path) -> None:
    """Close a file. Raises OSError with its path if its file system could not write its last data.

    An interruption is no error: Linux has closed the descriptor then.
    """
    with naming(path):
        try:
            os.close(fd)
        except InterruptedError:
            pass


@contextmanager
def naming(name: object) -> Iterator[None]:
    """Name a file, by its path, or other object in errors of calls that have only its descriptor."""
    try:
        yield
    except OSError as exc:
        if exc.filename is None:
            exc.filename = str(name)
        raise


def _is_shared(folder: Path) -> bool:
    """Return whether all users can write to a folder; False if there is none."""
    try:
        return bool(folder.stat().st_mode & stat.S_IWOTH)
    except OSError:
        return False


def _trusted() -> set[int]:
    """Return the users whose files this process may write."""
    users = {0, os.geteuid()}
    invoking = os.environ.get("SUDO_UID", "")
    if os.geteuid() == 0 and invoking.isdecimal():
        users.add(int(invoking))
    return users
