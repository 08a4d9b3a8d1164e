"""Unix sockets of this user's own, for programs to connect to."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["listen"]


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


def _answers(path: Path, kind: socket.SocketKind) -> bool:
    with socket.socket(socket.AF_UNIX, kind) as probe:
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            return False
    return True
