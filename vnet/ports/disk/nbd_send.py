"""Sends replies and data to an NBD client, data directly from the buffers that the device wrote."""

from __future__ import annotations

import socket
from collections import deque
from collections.abc import Callable
from itertools import islice

import trio

from drivers.flow.pump import Signal
from drivers.storage.bounce import Buffer
from vnet.nbd import NbdCommand

__all__ = ["Outbox"]

IOV = 256
"""Maximum number of buffers per system call."""


class Outbox:
    """Queue of bytes to send. Calls ``sent`` with their buffer and command after sending."""

    def __init__(self, client: socket.socket, sent: Callable[[Buffer | None, NbdCommand | None], None]) -> None:
        self._socket = client
        self._sent = sent
        self._items: deque[tuple[memoryview, Buffer | None, NbdCommand | None]] = deque()
        self._filled = Signal()

    def put(self, data: bytes | memoryview, buffer: Buffer | None = None, command: NbdCommand | None = None) -> None:
        """Queue ``data``, which are sent after `wake`."""
        self._items.append((memoryview(data), buffer, command))

    def wake(self) -> None:
        self._filled.set()

    async def send(self) -> None:
        """Send until cancelled. Raises OSError."""
        items = self._items
        while True:
            while items:
                try:
                    sent = self._socket.sendmsg([view for view, _, _ in islice(items, IOV)])
                except BlockingIOError:
                    await trio.lowlevel.wait_writable(self._socket)
                    continue
                while sent:
                    view, buffer, command = items[0]
                    if sent < len(view):
                        items[0] = view[sent:], buffer, command
                        break
                    sent -= len(view)
                    self._done()
            await self._filled.wait()

    def drop(self) -> None:
        """Free all queued buffers after the client disconnected."""
        while self._items:
            self._done()

    def _done(self) -> None:
        _, buffer, command = self._items.popleft()
        if buffer is not None or command is not None:
            self._sent(buffer, command)
