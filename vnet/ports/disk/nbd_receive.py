"""Receives commands and data of an NBD client, data directly into the buffers that the device reads."""

from __future__ import annotations

import socket
from collections.abc import Sequence

import trio

from vnet.linux.waits import wait_readable, wait_writable
from vnet.nbd import CommandReceiver, Handshake, NbdCommand

__all__ = ["Inbox"]

CHUNK = 64 << 10
HANDSHAKE_CHUNK = 4 << 10
"""Bytes of the negotiation received at a time: some 256 options."""
READS = 8
"""Reads from a busy client before other tasks run."""


class Inbox:
    """Receiving side of a client's socket; also sends the replies of the negotiation."""

    def __init__(self, client: socket.socket) -> None:
        """``client`` is non-blocking."""
        self._socket = client
        self._receiver = CommandReceiver()
        self._reads = 0

    async def negotiate(self, handshake: Handshake) -> bool:
        """Negotiate; return whether the client selected an export. Raises OSError, NbdProtocolError."""
        await self._write(handshake.greeting())
        chunk = memoryview(bytearray(HANDSHAKE_CHUNK))
        while not handshake.over:
            size = await self._read_into([chunk])
            if not size:
                return False
            await self._write(b"".join(handshake.feed(chunk[:size])))
            await trio.lowlevel.checkpoint()
        self._receiver = CommandReceiver(handshake.rest())
        return handshake.export is not None

    def next(self) -> NbdCommand | None:
        """Return the next command; None if it is incomplete. Raises NbdProtocolError."""
        return self._receiver.next()

    async def more(self) -> bool:
        """Wait for data and receive them; return False after the client's last. Raises OSError."""
        size = await self._read_into(self._receiver.targets())
        self._receiver.received(size)
        return bool(size)

    def take(self, views: Sequence[memoryview]) -> bool:
        """Set ``views`` as destination of a write's data; return False if `fill` has to wait for the rest."""
        return self._receiver.into(views)

    async def fill(self) -> None:
        """Receive the rest of a write's data. Raises OSError if the client disconnects first."""
        while not self._receiver.filled:
            if not await self.more():
                raise ConnectionError("the client disconnected in the middle of a write")

    async def discard(self, size: int) -> None:
        """Receive and discard the data of a refused write. Raises OSError."""
        chunk = memoryview(bytearray(min(CHUNK, size)))
        for at in range(0, size, CHUNK):
            if not self.take([chunk[: size - at]]):
                await self.fill()

    async def _write(self, data: bytes) -> None:
        while data:
            try:
                data = data[self._socket.send(data) :]
            except BlockingIOError:
                await wait_writable(self._socket)

    async def _read_into(self, views: list[memoryview]) -> int:
        """Receive into ``views``; return the number of bytes, 0 after the client's last."""
        self._reads += 1
        if self._reads >= READS:
            self._reads = 0
            await trio.lowlevel.checkpoint()
        while True:
            try:
                return self._socket.recvmsg_into(views)[0]
            except BlockingIOError:
                self._reads = 0
                await wait_readable(self._socket)
