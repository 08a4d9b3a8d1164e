"""Errors with which a call of the C library fails, by its name and by the kind of file that it is made for.

They are those of the manual pages that a program can meet without a fault of its own. Left out are

* EAGAIN of descriptors: the kernel would owe an event afterwards;
* ENOENT of calls that look at a file or remove it: it would say that the file is gone;
* EINTR of connect, whose connection would go on being made;
* errors of calls that only look, such as getsockname or fstat of an open file, and of a kick of an eventfd;
* errors of close of anything but a file: Linux reports those of a file system's flush (network file systems and FUSE
  have one), and none of sockets, pipes, eventfds, epoll sets, shared memory and TUN.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from collections.abc import Mapping
from pathlib import Path

__all__ = ["BY_NUMBER", "ERRORS", "READS", "WRITES", "errors_of", "kind_of"]

_DESCRIPTORS = "EMFILE ENFILE ENOMEM"
_SHORTAGE = "ENOBUFS ENOMEM"
_PATH = "EACCES ENOMEM"
_CHANGE = "EACCES EROFS ENOSPC"

ERRORS: Mapping[str, str] = {
    # Descriptors
    "dup": _DESCRIPTORS.replace("ENOMEM", "EINTR"),
    "dup2": "EINTR EMFILE",
    "dup3": "EINTR EMFILE",
    "epoll_create1": _DESCRIPTORS,
    "eventfd": _DESCRIPTORS,
    "memfd_create": _DESCRIPTORS,
    "open64": "EACCES EINTR EIO EMFILE ENOENT ENOMEM ENOSPC",
    "openat64": "EACCES EINTR EIO EMFILE ENOENT ENOMEM ENOSPC",
    "fopen64": "EACCES EMFILE ENOENT ENOMEM",
    "opendir": "EACCES EMFILE ENOENT ENOMEM",
    "fdopendir": "ENOMEM",
    "openpty": "EACCES EMFILE ENOENT",
    "pipe2": "EMFILE ENFILE",
    "socket": "EACCES EMFILE ENFILE ENOBUFS ENOMEM",
    "socketpair": "EMFILE ENFILE ENOBUFS ENOMEM",
    "accept": "ECONNABORTED EINTR EMFILE ENFILE ENOBUFS ENOMEM",
    "accept4": "ECONNABORTED EINTR EMFILE ENFILE ENOBUFS ENOMEM",
    "epoll_wait": "EINTR",
    "poll": "EINTR ENOMEM",
    "select": "EINTR ENOMEM",
    # Files
    "access": "EACCES",
    "chdir": "EACCES ENOENT",
    "chmod": "EACCES EROFS",
    "fallocate64": "EINTR EIO ENOSPC EOPNOTSUPP",
    "fchmod": "EIO EPERM EROFS",
    "fdatasync": "EIO EINTR ENOSPC",
    "fsync": "EIO EINTR ENOSPC",
    "flock": "EAGAIN EINTR ENOLCK",
    "ftruncate64": "EINTR EIO ENOSPC",
    "lstat64": _PATH,
    "stat64": _PATH,
    "fstatat64": _PATH,
    "mkdir": _CHANGE,
    "mmap64": "EACCES EAGAIN ENODEV ENOMEM",
    "readdir64": "EIO",
    "readlink": _PATH,
    "rename": _CHANGE,
    "rmdir": "EACCES EBUSY EROFS",
    "statvfs64": "EACCES EIO",
    "symlink": _CHANGE,
    "unlink": "EACCES EBUSY EROFS",
    "unlinkat": "EACCES EBUSY EROFS",
    # Sockets
    "bind": "EACCES EADDRINUSE ENOMEM ENOSPC",
    "connect": "EACCES EAGAIN ECONNREFUSED ENOENT",
    "listen": "EADDRINUSE",
    "setsockopt": "ENOBUFS ENOMEM",
    "shutdown": "ENOTCONN",
    # Processes, namespaces and mounts
    "fork": "EAGAIN ENOMEM",
    "kill": "EPERM ESRCH",
    "mount": "EBUSY ENOMEM EPERM",
    "prctl": "EPERM",
    "pthread_create": "EAGAIN",
    "setns": "ENOMEM EPERM",
    "setrlimit64": "EPERM",
    "umount2": "EBUSY ENOMEM EPERM",
    "unshare": "ENOMEM ENOSPC EPERM",
    "waitpid": "ECHILD EINTR",
}
"""Errors of calls that have the same ones for every kind of file."""

BY_NUMBER: Mapping[tuple[str, int], str] = {
    ("epoll_ctl", 1): "ENOMEM ENOSPC",  # EPOLL_CTL_ADD
    ("fcntl64", 0): "EMFILE",  # F_DUPFD
    ("fcntl64", 1030): "EMFILE",  # F_DUPFD_CLOEXEC
    ("fcntl64", 1034): "EINVAL",  # F_GET_SEALS
    ("ioctl", 0x5421): "",  # FIONBIO
    ("ioctl", 0x5451): "",  # FIOCLEX
    ("ioctl", 0x400454CA): "EBUSY EINVAL ENOMEM EPERM",  # TUNSETIFF
    ("ioctl", 0x400454D0): "EINVAL",  # TUNSETOFFLOAD
    ("ioctl", 0x400454D8): "EINVAL",  # TUNSETVNETHDRSZ
    ("ioctl", 0x400454D9): "ENOMEM EPERM",  # TUNSETQUEUE
    ("ioctl", 0x400454E2): "",  # TUNSETCARRIER
    ("ioctl", 0x800454D2): "",  # TUNGETIFF
    ("ioctl", 0x54E3): "EMFILE ENOMEM EPERM",  # TUNGETDEVNETNS
    ("syscall", 317): "EINVAL ENOMEM",  # seccomp
    ("syscall", 424): "EPERM ESRCH",  # pidfd_send_signal
    ("syscall", 434): "EMFILE ENOMEM ESRCH",  # pidfd_open
    ("syscall", 444): "EOPNOTSUPP ENOSYS",  # landlock_create_ruleset
    ("syscall", 445): "ENOMEM",  # landlock_add_rule
    ("syscall", 446): "ENOMEM",  # landlock_restrict_self
}
"""Errors of calls that do one thing of several, by its number; empty for those that can't fail."""
OF_MEMORY: Mapping[tuple[str, str], str] = {("ftruncate64", "memory"): "ENOMEM"}
"""Errors of calls that have others for shared memory than for files."""

READS = ("read", "readv", "pread64", "preadv64v2", "recv", "recvfrom", "recvmsg")
WRITES = ("write", "writev", "pwrite64", "pwritev64v2", "send", "sendto", "sendmsg")
_OF_KIND: Mapping[str, tuple[str, str, str]] = {
    # Kind: errors of reads, of writes, and of ioctl
    "file": ("EINTR EIO", "EINTR EIO ENOSPC", ""),
    "tun": ("EINTR", "EINTR EIO ENOBUFS ENOMEM", "ENOMEM EPERM"),
    "netlink": ("EINTR ENOBUFS ENOMEM", "EINTR ENOBUFS ENOMEM", "ENODEV ENOMEM EPERM"),
    "socket": ("ECONNRESET EINTR ENOMEM", "ECONNRESET EINTR ENOBUFS ENOMEM EPIPE", "ENODEV ENOMEM EPERM"),
    "pipe": ("EINTR EIO", "EINTR EPIPE", ""),
    "device": ("EINTR EIO", "EINTR EIO", "ENOMEM EPERM"),
    "namespace": ("", "", "ENOTTY"),
    "kernel": ("EINTR EIO", "EINTR EIO", ""),
    "event": ("", "", ""),
    "memory": ("", "", ""),
    "": ("", "", ""),
}


def errors_of(name: str, kind: str, number: int) -> list[int]:
    """Return the numbers of the errors of a call for a kind of file; none if it is not made to fail.

    ``number`` is the second argument of the call, the first one of `syscall`.
    """
    reads, writes, ioctl = _OF_KIND[kind]
    if (name, number) in BY_NUMBER:
        words = BY_NUMBER[name, number]
    elif name == "close":
        words = "EINTR EIO" if kind == "file" else ""
    elif name in READS:
        words = reads
    elif name in WRITES:
        words = writes
    elif name == "ioctl":
        words = ioctl
    else:
        words = OF_MEMORY.get((name, kind)) or ERRORS.get(name, "")
    return [int(getattr(errno, word)) for word in words.split()]


def kind_of(fd: int) -> str:
    """Return the kind of an open file of this process; "" for none."""
    try:
        if fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_PATH:
            return ""
        mode, target = os.fstat(fd).st_mode, str(Path(f"/proc/self/fd/{fd}").readlink())
    except OSError:
        return ""
    if stat.S_ISSOCK(mode):
        return "netlink" if _is_netlink(fd) else "socket"
    if stat.S_ISFIFO(mode):
        return "pipe"
    if target.startswith("/dev/net/tun"):
        return "tun"
    if stat.S_ISCHR(mode) or stat.S_ISBLK(mode):
        return "device"
    if target.startswith("anon_inode:"):
        return "event"
    if target.startswith("/memfd:"):
        return "memory"
    if target.startswith(("/proc/", "/sys/")):
        return "kernel"
    return "namespace" if target.startswith(("net:", "/run/netns")) else "file"


def _is_netlink(fd: int) -> bool:
    import socket

    try:
        with socket.socket(fileno=os.dup(fd)) as copy:
            return copy.family == socket.AF_NETLINK
    except OSError:
        return False
