"""Unix sockets of this user's own, for programs to connect to."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import trio

__all__ = ["accept", "listen"]

RETRY = 0.5
"""Seconds until a client is let in that could not be."""
SHORTAGES = {errno.EMFILE, errno.ENFILE, errno.ENOMEM}


@contextmanager
def listen(path: Path, kind: socket.SocketKind, backlog: int) -> Iterator[socket.socket]:
    """A socket at ``path`` for this user alone; one that a killed process left there is replaced. Raises OSError."""
    with socket.socket(socket.AF_UNIX, kind) as listening:
        listening.setblocking(False)
        if path.is_socket() and not _answers(path, kind):
            path.unlink()
        listening.bind(str(path))
        made = path.stat()
        try:
            path.chmod(0o600)  # before anybody can connect
            listening.listen(backlog)
            yield listening
        finally:
            if path.exists() and os.path.samestat(path.stat(), made):
                path.unlink()


async def accept(listening: socket.socket, short: Callable[[str], None] = lambda why: None) -> socket.socket:
    """The next client, non-blocking. While this process can't have another one it waits, and ``short`` hears why.

    (`trio.SocketListener` wants a stream socket.)
    """
    while True:
        await trio.lowlevel.wait_readable(listening)
        try:
            client, _ = listening.accept()
        except (BlockingIOError, ConnectionError):
            continue
        except OSError as exc:
            if exc.errno not in SHORTAGES:
                raise
            short(exc.strerror or str(exc))
            await trio.sleep(RETRY)
            continue
        client.setblocking(False)
        return client


def _answers(path: Path, kind: socket.SocketKind) -> bool:
    with socket.socket(socket.AF_UNIX, kind) as probe:
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            return False
    return True
