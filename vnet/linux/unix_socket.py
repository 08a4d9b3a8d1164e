"""Unix sockets that only this user may connect to. No call blocks the event loop."""

from __future__ import annotations

import errno
import logging
import math
import os
import socket
import stat
import struct
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import trio

from drivers.errors import TransportLost
from vnet.linux.files import naming
from vnet.linux.waits import RETRY, SHORTAGES

__all__ = ["Acceptor", "connect", "connect_or_explain", "connect_trusted", "listen", "owner_uid", "remove_stale"]

BURST, RATE = 64, 100
"""Clients that a socket accepts in a row, and in each second after that."""
OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH
"""Mode bits that let other users write to a folder."""
UCRED = struct.Struct("iII")
"""Process, user and group id of a socket's peer (SO_PEERCRED)."""
LOG = logging.getLogger(__name__)


@contextmanager
def listen(path: Path, kind: socket.SocketKind, backlog: int) -> Iterator[socket.socket]:
    """Listen at ``path`` for this user alone, and replace the socket of a killed process. Raises OSError."""
    with naming(path):
        made = socket.socket(socket.AF_UNIX, kind)
    with made as listening:
        listening.setblocking(False)
        remove_stale(path)
        with naming(path):
            os.fchmod(listening.fileno(), 0o600)  # the mode that bind gives to the file: no other user can ever connect
            listening.bind(os.fspath(path))
        status = path.lstat()
        try:
            with naming(path):
                listening.listen(backlog)
            yield listening
        finally:
            _remove_own(path, status)


def _remove_own(path: Path, status: os.stat_result) -> None:
    """Remove our socket, unless another file has got its name."""
    try:
        if os.path.samestat(path.lstat(), status):
            path.unlink()
    except FileNotFoundError:
        pass


class Acceptor:
    """Accepts the clients of a listening socket: `BURST` in a row, `RATE` a second. The others wait in its backlog.

    A client costs a session. Without a limit, one that connects and hangs up all the time would take the turns of all
    that this process serves.
    """

    def __init__(self, listening: socket.socket, short: Callable[[str], None] | None = None) -> None:
        """While the process lacks descriptors or memory, the reason goes to ``short``, or to the log, once a client."""
        self._listening = listening
        self._short = short or partial(LOG.warning, "cannot accept clients at %s for now: %s", listening.getsockname())
        self._due = -math.inf

    async def accept(self) -> socket.socket:
        """Wait for the next client, and return its socket, non-blocking. Raises OSError.

        (`trio.SocketListener` needs a stream socket, and `trio.serve_listeners` logs a traceback at each attempt.)
        """
        await trio.sleep_until(self._due)
        client = await self._next()
        self._due = max(self._due, trio.current_time() - BURST / RATE) + 1 / RATE
        return client

    async def _next(self) -> socket.socket:
        reported = False
        while True:
            try:
                await trio.lowlevel.wait_readable(self._listening)
                client, _ = self._listening.accept()
            except (BlockingIOError, ConnectionError):
                continue
            except OSError as exc:
                if exc.errno not in SHORTAGES:
                    raise
                if not reported:
                    self._short(exc.strerror or str(exc))
                    reported = True
                await trio.sleep(RETRY)
                continue
            client.setblocking(False)
            return client


def connect(path: Path, kind: socket.SocketKind = socket.SOCK_STREAM) -> socket.socket:
    """Return a non-blocking connection to ``path``. Raises OSError; BlockingIOError if the backlog is full."""
    connecting = socket.socket(socket.AF_UNIX, kind)
    try:
        connecting.setblocking(False)
        connecting.connect(os.fspath(path))
    except BaseException:
        connecting.close()
        raise
    return connecting


def connect_trusted(path: Path, peer_uid: int | None, allow: str) -> socket.socket:
    """Connect as `connect` does, but only to a process of this user, of root, or of the user ``peer_uid``.

    A process that gave up its rights after it made the socket, as passt does, is trusted by the owner of the file.
    Raises OSError, and TransportLost for another user's process. Its message includes ``allow``, the setting that
    permits the connection, with {} replaced by that user's id.
    """
    connected = connect(path)
    uid = owner_uid(connected)
    trusted = {0, os.geteuid()} if peer_uid is None else {0, os.geteuid(), peer_uid}
    if uid in trusted or _is_made_by(path, trusted):
        return connected
    connected.close()
    raise TransportLost(
        f"{path}: a process of user {uid} listens there, neither ours nor root's: no memory is shared with it;"
        f" to allow it: {allow.format(uid)}"
    )


def connect_or_explain(path: Path, peer_uid: int | None, allow: str, peer: str = "other process") -> socket.socket:
    """Connect as `connect_trusted` does. Raises TransportLost, which says what the user can do for the ``peer``."""
    try:
        return connect_trusted(path, peer_uid, allow)
    except (FileNotFoundError, ConnectionRefusedError):
        why = f"no program listens there; is the {peer} started?"
    except BlockingIOError:
        why = f"the {peer} accepts no further connection now"
    except OSError as exc:
        why = exc.strerror or str(exc)
    raise TransportLost(f"{path}: {why}")


def owner_uid(connected: socket.socket) -> int:
    """Return the user id of the peer process: of the one that called listen, if we connected."""
    _, uid, _ = UCRED.unpack(connected.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, UCRED.size))
    return int(uid)


def _is_made_by(path: Path, users: Collection[int]) -> bool:
    """Return whether only these users can have made the file: they own it, and no other user can replace it."""
    folders = path.absolute().parents
    try:
        if path.lstat().st_uid not in users:
            return False
        return all(
            place.st_uid in users and (place.st_mode & stat.S_ISVTX or not place.st_mode & OTHERS_WRITE)
            for place in (folder.lstat() for folder in folders)
        )
    except OSError:
        return False


def remove_stale(path: Path) -> None:
    """Remove the socket that a killed process left at ``path``, if any.

    Raises FileExistsError if the file is no socket, OSError (EADDRINUSE) if its owner is alive, even if the owner
    does not accept connections.
    """
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise FileExistsError(errno.EEXIST, "the file is no socket; it is left alone", str(path))
    if _is_alive(path):
        raise OSError(errno.EADDRINUSE, "another program listens there already", str(path))
    path.unlink(missing_ok=True)


def _is_alive(path: Path) -> bool:
    """Return whether a process has the socket open. A connection is refused only if none has."""
    try:
        connect(path).close()
    except (ConnectionRefusedError, FileNotFoundError):
        return False
    except OSError:  # a full backlog, or a socket of another kind
        return True
    return True
