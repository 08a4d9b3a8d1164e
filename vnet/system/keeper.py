"""A process that keeps the rights which another one gives up, to remove what that one has made, once it has ended."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager

from vnet.errors import ControlError
from vnet.linux.netns import made_namespaces, remove_made
from vnet.system.claim import clean_up

__all__ = ["Keeper", "keeper"]

END = b"\n\n"
"""End of the list, whose lines begin with a line feed each."""
READ_MAX = 1 << 20
"""Bytes of one read."""
IGNORED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)


class Keeper:
    """The keeper of this process. It takes one list of namespaces, and later only notices that this process ends."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def keep(self) -> None:
        """Hand over all namespaces that this process has made and not removed, once, before it gives up its rights."""
        lines = (f"\n{name} {device} {inode}" for name, (device, inode) in made_namespaces().items())
        os.write(self._fd, "".join(lines).encode() + END)


@contextmanager
def keeper(name: str) -> Iterator[Keeper]:
    """Start a keeper for the system of this name; at the end, wait until it has cleaned up.

    The process must have one thread. The keeper removes the namespaces that `Keeper.keep` handed over, and the files of
    the system as `vnet down` does, also if this process is killed.
    """
    ours, theirs = os.pipe()[::-1]
    pid = os.fork()
    if pid == 0:
        os.close(ours)
        _keep(theirs, name)
    os.close(theirs)
    try:
        yield Keeper(ours)
    finally:
        os.close(ours)
        os.waitpid(pid, 0)


def _keep(fd: int, name: str) -> None:
    """Wait for the end of the other process, clean up, and exit."""
    status = 1
    try:
        for number in IGNORED:
            signal.signal(number, signal.SIG_IGN)
        null = os.open(os.devnull, os.O_RDWR)
        for stream in range(3):
            os.dup2(null, stream)
        for netns, made in _take_list(fd).items():
            with contextlib.suppress(OSError):
                remove_made(netns, made)
        with contextlib.suppress(ControlError, OSError):
            clean_up(name)
        status = 0
    finally:
        os._exit(status)


def _take_list(fd: int) -> dict[str, tuple[int, int]]:
    """Return the list of `Keeper.keep`, once its writer has ended; an empty one if it ended before that."""
    text = b""
    while END not in text and (part := os.read(fd, READ_MAX)):
        text += part
    while os.read(fd, READ_MAX):
        pass
    lines, end, _ = text.partition(END)  # what follows is not believed: its writer has given up its rights
    named = (line.split(" ") for line in lines.decode().split("\n")[1:]) if end else ()
    return {netns: (int(device), int(inode)) for netns, device, inode in named}
