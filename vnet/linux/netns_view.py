"""A program's view of a network namespace, as `ip netns exec` provides it: interfaces, /sys, and files in /etc.

Imports the standard library only, so that the program starts fast.
"""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from vnet.linux import syscalls

__all__ = ["execute", "mount_view"]

ETC = Path("/etc")
SYS = Path("/sys")
LOG = logging.getLogger(__name__)


def execute(argv: Sequence[str]) -> NoReturn:
    """Replace this process by the program ``argv``. Raises OSError."""
    for number in (signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(number, signal.SIG_DFL)  # Python ignores these, and the program would inherit that
    try:
        os.execvp(argv[0], [*argv])  # noqa: S606  runs the user's program
    except OSError as exc:
        raise OSError(exc.errno, exc.strerror, argv[0]) from None


def mount_view(netns: str) -> None:
    """Mount the /sys of the calling thread's network namespace, and bind the files in /etc/netns/NETNS over /etc.

    The mounts are in a new mount namespace. A mount that fails is logged, and the outer /sys or file stays visible.
    """
    try:
        syscalls.unshare(syscalls.CLONE_NEWNS)
        # Otherwise the mounts below would appear in the mount namespace that we came from.
        syscalls.mount(None, Path("/"), flags=syscalls.MS_SLAVE | syscalls.MS_REC)
    except OSError as exc:
        LOG.warning("/sys and /etc stay as they are outside of the namespace: %s", exc.strerror)
        return
    read_only = os.statvfs(SYS).f_flag & os.ST_RDONLY if SYS.exists() else 0
    _try_mount(Path(netns), SYS, "sysfs", syscalls.MS_RDONLY if read_only else 0)
    files = ETC / "netns" / netns
    for file in sorted(files.iterdir()) if files.is_dir() else ():
        _try_mount(file, ETC / file.name, None, syscalls.MS_BIND)


def _try_mount(source: Path, target: Path, kind: str | None, flags: int) -> None:
    try:
        syscalls.mount(source, target, kind, flags)
    except OSError as exc:
        LOG.warning("%s stays as it is outside of the namespace: %s", target, exc.strerror)
