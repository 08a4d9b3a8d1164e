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

LINE_MAX = 1 << 20
IGNORED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)


class Keeper:
    """The keeper of this process. It takes one list of namespaces, and later only notices that this process ends."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def keep(self) -> None:
        """Hand over all namespaces that this process has made and not removed, once, before it gives up its rights."""
        lines = "".join(f"{name} {device} {inode}\n" for name, (device, inode) in made_namespaces().items())
        os.write(self._fd, lines.encode() + b"\n")


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
        text = b""
        while not text.endswith(b"\n\n") and (part := os.read(fd, LINE_MAX)):
            text = (text + part) if text or part != b"\n" else b"\n\n"
        while os.read(fd, LINE_MAX):  # what comes later is not believed: its writer has given up its rights
            pass
        for line in text.decode().split("\n"):
            if line:
                netns, device, inode = line.split(" ")
                with contextlib.suppress(OSError):
                    remove_made(netns, (int(device), int(inode)))
        with contextlib.suppress(ControlError, OSError):
            clean_up(name)
        status = 0
    finally:
        os._exit(status)
