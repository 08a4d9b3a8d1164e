"""What is on its way to a client of a disk, sent straight from the buffers that the device wrote."""

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
"""Views of one system call."""


class Outbox:
    """Bytes in order. ``sent`` is called with the buffer and the command of bytes that were sent."""

    def __init__(self, client: socket.socket, sent: Callable[[Buffer | None, NbdCommand | None], None]) -> None:
        self._socket = client
        self._sent = sent
        self._items: deque[tuple[memoryview, Buffer | None, NbdCommand | None]] = deque()
        self._filled = Signal()

    def put(self, data: bytes | memoryview, buffer: Buffer | None = None, command: NbdCommand | None = None) -> None:
        """Nothing is sent before `wake`."""
        self._items.append((memoryview(data), buffer, command))

    def wake(self) -> None:
        self._filled.set()

    async def send(self) -> None:
        """Send, for ever. Raises OSError."""
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
        """Let go of everything: the client is gone."""
        while self._items:
            self._done()

    def _done(self) -> None:
        _, buffer, command = self._items.popleft()
        if buffer is not None or command is not None:
            self._sent(buffer, command)
