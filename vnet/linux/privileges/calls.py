"""The system calls of a system that is up, each with the reason why it needs it."""

from __future__ import annotations

from collections.abc import Mapping

import attrs

__all__ = ["CALLS", "CALLS_MAX", "OTHER_NAMES", "Argument", "Call", "allowed_calls"]

CALLS_MAX = 60
"""Most system calls that a sandbox allows."""

AF_UNIX = 1
CLONE_THREAD = 0x10000
WRITES_OR_MAKES = 0o1103
"""O_WRONLY, O_RDWR, O_CREAT and O_TRUNC."""


@attrs.frozen
class Argument:
    """A condition: argument number ``at``, under ``mask``, must be ``value``."""

    at: int
    value: int
    mask: int = 0xFFFFFFFF


@attrs.frozen
class Call:
    """A system call that is allowed, and its reason."""

    reason: str
    argument: Argument | None = None
    changes: bool = False
    """Whether only changes of the system need it: the strict sandbox forbids it."""
    strict: Argument | None = None
    """Condition in the strict sandbox alone."""
    rare: bool = False
    """Whether only some machines, or seldom moments, need it, so that a test cannot wait for it."""


CALLS: Mapping[str, Call] = {
    # Waiting
    "epoll_wait": Call("wait for events of descriptors"),
    "epoll_ctl": Call("begin and end waiting for a descriptor"),
    "futex": Call("wait for another thread"),
    "poll": Call("see whether the log takes a line"),
    "clock_nanosleep": Call("pause between two polls at 64 MB/s and more", rare=True),
    "restart_syscall": Call("go on waiting after a stop", rare=True),
    # Data
    "read": Call("take frames from an interface, wake-ups from an eventfd, bytes from a terminal"),
    "write": Call("give frames to an interface, wake-ups to an eventfd, lines to the log"),
    "readv": Call("take a frame into the small buffers of a foreign driver, or without the extension in C", rare=True),
    "writev": Call("give a frame from several buffers"),
    "recvfrom": Call("receive commands of the control socket, netlink messages"),
    "sendto": Call("send answers of the control socket, netlink requests"),
    "recvmsg": Call("receive requests of NBD, messages and descriptors of vhost-user and vfio-user"),
    "sendmsg": Call("send replies of NBD, messages and descriptors of vhost-user and vfio-user"),
    "preadv": Call("read a disk's file in a thread if the page cache lacks the data", rare=True),
    "pwritev": Call("write a disk's file in a thread on file systems that cannot do it at once", rare=True),
    "preadv2": Call("read a disk's file from the page cache"),
    "pwritev2": Call("write a disk's file to the page cache"),
    "pwrite64": Call("write the state file after a change", changes=True),
    "fdatasync": Call("flush a disk's file"),
    "fallocate": Call("discard and zero sectors of a disk's file"),
    "lseek": Call("find the end of a disk's file"),
    # Clients and peers
    "accept4": Call("accept clients and front ends"),
    "shutdown": Call("end the connection of a peer that breaks the rules", rare=True),
    "getsockopt": Call("check the user of a client"),
    "setsockopt": Call("set up the socket of a client"),
    "getsockname": Call("set up the socket of a client"),
    "socket": Call("connect to a front end or a back end again, listen for a new device", Argument(0, AF_UNIX)),
    "socketpair": Call("hear of changes by a back end", Argument(0, AF_UNIX)),
    "connect": Call("connect to a front end or a back end again"),
    "bind": Call("listen for a new device", changes=True),
    "listen": Call("listen for a new device", changes=True),
    "eventfd2": Call("notify a peer in another process"),
    "fcntl": Call("copy a descriptor, check the seals of a peer's memory"),
    "ioctl": Call("carrier, offloads and queues of an interface, modes of sockets and terminals"),
    "close": Call("close what ended"),
    # Files
    "openat": Call("import a module, look at /proc", strict=Argument(2, 0, WRITES_OR_MAKES)),
    "newfstatat": Call("look at a file before it is removed, import a module"),
    "fstat": Call("look at a descriptor with C libraries other than Debian 12's", rare=True),
    "getdents64": Call("list the threads of this process, a folder of modules"),
    "readlink": Call("look at the link of a terminal before it is removed"),
    "unlink": Call("remove sockets and terminals at the end"),
    "fchmod": Call("keep other users from a new socket", changes=True),
    # Memory
    "memfd_create": Call("memory of a new host, of vhost-user's record of requests in flight"),
    "ftruncate": Call("size of such memory"),
    "mmap": Call("map memory of a peer, allocate"),
    "munmap": Call("unmap memory, free"),
    "mprotect": Call("make the stack of a thread, unless one that ended has left its own", rare=True),
    "brk": Call("allocate"),
    # Threads and the process
    "clone": Call("start a thread for what blocks; no process", Argument(0, CLONE_THREAD, CLONE_THREAD)),
    "rseq": Call("begin a thread"),
    "rt_sigprocmask": Call("begin and end a thread"),
    "exit": Call("end a thread"),
    "geteuid": Call("compare the user of a client with our own"),
    "rt_sigaction": Call("give signals back their handlers at the end"),
    "rt_sigreturn": Call("return from a signal handler", rare=True),
    "wait4": Call("wait for the keeper and take the status of the command of --exec"),
    "exit_group": Call("end the process"),
}
"""Allowed calls by name. All others fail with EPERM, and clone3 with ENOSYS: the C library then uses clone, whose flags
can be checked."""
OTHER_NAMES = {"epoll_wait": "epoll_pwait", "readlink": "readlinkat", "unlink": "unlinkat"}
"""Names on machines that lack a call, such as arm64."""
RUN_CALLS = {
    "kill": Call("end the command of --exec"),
}
"""Calls that are allowed besides if the process waits for a command that it has started."""


def allowed_calls(*, strict: bool, runs_command: bool) -> dict[str, Argument | None]:
    """Return the allowed calls, each with its condition if it has one."""
    calls = {**CALLS, **(RUN_CALLS if runs_command else {})}
    return {
        name: (call.strict if strict else None) or call.argument
        for name, call in calls.items()
        if not (strict and call.changes)
    }
