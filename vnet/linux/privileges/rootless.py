"""A user namespace for this process, in which an ordinary user may make network namespaces and interfaces.

`python -P -m vnet.linux.privileges.rootless` tries to enter one, and fails if that is not allowed.
"""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from contextlib import ExitStack, suppress
from functools import cache
from pathlib import Path

from vnet.errors import PrivilegeError
from vnet.linux.syscalls import (
    CLONE_NEWNET,
    CLONE_NEWNS,
    CLONE_NEWUSER,
    MS_BIND,
    MS_NODEV,
    MS_NOSUID,
    MS_REC,
    MS_SLAVE,
    mount,
    setns_of,
    unshare,
)

__all__ = ["TUN_DEVICE", "enter", "gives_interfaces", "is_entered", "join", "why_not"]

RUN = Path("/run")
TUN_DEVICE = Path("/dev/net/tun")
SYSCTL = Path("/proc/sys")
OWN_NAMES = {"netns", "vnet"}
"""Entries of /run that are not the machine's in a user namespace, but its own."""
SWITCHES = {
    "user/max_user_namespaces": ("0", "15000"),
    "kernel/unprivileged_userns_clone": ("0", "1"),
    "kernel/apparmor_restrict_unprivileged_userns": ("1", "0"),
}
"""Switches in /proc/sys: the value that forbids user namespaces, and one that allows them."""
CONTAINER = "docker run --security-opt seccomp=unconfined --security-opt apparmor=unconfined --device=/dev/net/tun"
"""Command that lets users of a container make user namespaces."""
DENIED = {errno.EPERM, errno.EACCES, errno.ENOSPC, errno.ENOSYS, errno.EUSERS}
TRIAL_SECONDS = 10.0
_ENTERED: list[int] = []
"""The user id outside, once this process has entered a user namespace."""


def is_entered() -> bool:
    """Return whether this process has entered a user namespace by `enter`."""
    return bool(_ENTERED)


def enter(files: Path | None) -> None:
    """Move this process, which must have one thread, to user, mount and network namespaces of its own.

    There it is root. /run is the machine's, except for an empty /run/netns, and for ``files``, the directory of this
    user's systems, at /run/vnet: commands outside find the system there. Raises PrivilegeError, OSError.
    """
    uid, gid = os.geteuid(), os.getegid()
    try:
        unshare(CLONE_NEWUSER | CLONE_NEWNS | CLONE_NEWNET)
        for name, text in (("setgroups", "deny"), ("uid_map", f"0 {uid} 1"), ("gid_map", f"0 {gid} 1")):
            Path("/proc/self", name).write_text(text, encoding="ascii")
        mount(None, Path("/"), flags=MS_SLAVE | MS_REC)
        _cover_run(files)
    except OSError as error:
        raise (_refused() if error.errno in DENIED else error) from error
    _ENTERED.append(uid)


def _cover_run(files: Path | None) -> None:
    """Mount a directory at /run that has what /run had, except for `OWN_NAMES`, and ``files`` as /run/vnet."""
    with ExitStack() as stack:
        outer, own = (_open_folder(stack, path) for path in (RUN, files or RUN))
        before = Path(f"/proc/self/fd/{outer}")
        entries = [path for path in before.iterdir() if path.name not in OWN_NAMES]
        mount(Path("tmpfs"), RUN, "tmpfs", MS_NOSUID | MS_NODEV)
        RUN.chmod(0o755)
        for path in entries:
            with suppress(FileNotFoundError):  # it is gone meanwhile
                _show(path, RUN / path.name)
        (RUN / "vnet").mkdir(mode=0o700)
        if files is not None:
            mount(Path(f"/proc/self/fd/{own}"), RUN / "vnet", flags=MS_BIND)


def _open_folder(stack: ExitStack, path: Path) -> int:
    """Open a folder, whose path gets another meaning, until the end of ``stack``."""
    fd = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    stack.callback(os.close, fd)
    return fd


def _show(path: Path, target: Path) -> None:
    """Make ``path`` visible at ``target``, which does not exist."""
    if path.is_symlink():
        target.symlink_to(path.readlink())
        return
    if path.is_dir():
        target.mkdir()
    else:
        target.touch()
    mount(path, target, flags=MS_BIND | MS_REC)


def _refused() -> PrivilegeError:
    """Return the error to raise after the kernel refused a user namespace."""
    missing = "no right to make a user namespace"
    for name, (forbids, allows) in SWITCHES.items():
        try:
            value = (SYSCTL / name).read_text(encoding="ascii").strip()
        except OSError:
            continue
        if value == forbids:
            return PrivilegeError(missing, f"sudo sysctl -w {name.replace('/', '.')}={allows}")
    return PrivilegeError(missing, CONTAINER)


@cache
def why_not() -> PrivilegeError | None:
    """Return why this user cannot make user namespaces; None if it can. Tries in another process."""
    argv = [sys.executable, "-P", "-m", __name__]
    try:
        done = subprocess.run(argv, capture_output=True, check=False, timeout=TRIAL_SECONDS)
    except (OSError, subprocess.TimeoutExpired):
        return _refused()
    return _refused() if done.returncode else None


def gives_interfaces() -> bool:
    """Return whether this user can make network namespaces and TUN interfaces in a user namespace."""
    return os.access(TUN_DEVICE, os.R_OK | os.W_OK) and why_not() is None


def join(process: int, pid: int) -> None:
    """Move this process, which must have one thread, to the user and mount namespaces of another one.

    ``process`` is a pidfd, ``pid`` its number. Does nothing if this process is there already. Raises OSError.
    """
    if os.path.samestat(Path("/proc/self/ns/user").stat(), Path(f"/proc/{pid}/ns/user").stat()):
        return
    before = Path.cwd()
    setns_of(process, CLONE_NEWUSER | CLONE_NEWNS)
    with suppress(OSError):
        os.chdir(before)  # the kernel has moved us to the root directory


if __name__ == "__main__":
    enter(None)
