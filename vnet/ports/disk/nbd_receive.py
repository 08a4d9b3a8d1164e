"""What a client of a disk sends: read from its socket, straight into the buffers that the device reads."""

from __future__ import annotations

import socket
from collections.abc import Sequence

import trio

from vnet.nbd import CommandReceiver, Handshake, NbdCommand

__all__ = ["Inbox"]

CHUNK = 64 << 10
HANDSHAKE_CHUNK = 4 << 10
"""Bytes of the negotiation that are served at a time: some 256 options."""
READS = 8
"""Times that a client that always has more to say is listened to before others have their turn."""


class Inbox:
    """One client's socket, as far as it is read; and written to before there are commands."""

    def __init__(self, client: socket.socket) -> None:
        """``client`` does not block."""
        self._socket = client
        self._receiver = CommandReceiver()
        self._reads = 0

    async def negotiate(self, handshake: Handshake) -> bool:
        """Serve options until the client has chosen; False if it ends without. Raises OSError, NbdProtocolError."""
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
        """The next command that is here as a whole. Raises NbdProtocolError."""
        return self._receiver.next()

    async def more(self) -> bool:
        """Receive what there is; False when the client sends no more. Raises OSError."""
        size = await self._read_into(self._receiver.targets())
        self._receiver.received(size)
        return bool(size)

    def take(self, views: Sequence[memoryview]) -> bool:
        """The data of a write go to ``views``; True when they are all here, else `fill` has to wait for them."""
        return self._receiver.into(views)

    async def fill(self) -> None:
        """Raises OSError when the client goes first."""
        while not self._receiver.filled:
            if not await self.more():
                raise ConnectionError("it hung up in the middle of a write")

    async def swallow(self, size: int) -> None:
        """The data of a write that is refused. Raises OSError."""
        chunk = memoryview(bytearray(min(CHUNK, size)))
        for at in range(0, size, CHUNK):
            if not self.take([chunk[: size - at]]):
                await self.fill()

    async def _write(self, data: bytes) -> None:
        while data:
            try:
                data = data[self._socket.send(data) :]
            except BlockingIOError:
                await trio.lowlevel.wait_writable(self._socket)

    async def _read_into(self, views: list[memoryview]) -> int:
        """0 when the client sends no more."""
        self._reads += 1
        if self._reads >= READS:
            self._reads = 0
            await trio.lowlevel.checkpoint()
        while True:
            try:
                return self._socket.recvmsg_into(views)[0]
            except BlockingIOError:
                self._reads = 0
                await trio.lowlevel.wait_readable(self._socket)
