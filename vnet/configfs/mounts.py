"""File systems in user space that are mounted on this machine, by the kernel's list of mounts."""

from __future__ import annotations

import errno
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

from vnet.linux.syscalls import umount

__all__ = ["TYPE", "fuse_mounts", "is_dead", "source_of", "unmount"]

TYPE = "vnet"
"""Type of our file systems, behind "fuse."."""
MOUNTS = Path("/proc/self/mountinfo")
ESCAPE = re.compile(r"\\([0-7]{3})")


def source_of(name: str) -> str:
    """Return the source of a mount of the system ``name``, which the list of mounts shows."""
    return f"vnet:{name}"


def fuse_mounts(name: str) -> Iterator[Path]:
    """Yield where this user has mounted the system ``name``, the last mount first."""
    owner = f"user_id={os.geteuid()}"
    for line in reversed(MOUNTS.read_text(encoding="utf-8", errors="surrogateescape").splitlines()):
        before, _, behind = line.partition(" - ")
        kind, source, options = behind.split(" ", 2)
        if (kind, source) == (f"fuse.{TYPE}", source_of(name)) and owner in options.split(","):
            yield Path(ESCAPE.sub(lambda escape: chr(int(escape[1], 8)), before.split(" ")[4]))


def is_dead(path: Path) -> bool:
    """Return whether the process of the mount at ``path`` has ended without unmounting it."""
    try:
        path.stat()
    except OSError as exc:
        return exc.errno == errno.ENOTCONN
    return False


def unmount(path: Path) -> None:
    """Detach a mount, also one that is in use or whose process was killed. Raises OSError."""
    if os.geteuid() == 0:
        umount(path)
        return
    done = subprocess.run(["fusermount3", "-u", "-z", path], capture_output=True, text=True, check=False)
    if done.returncode:
        raise OSError(0, done.stderr.strip() or "fusermount3 failed", str(path))
