"""A client of the NBD server that sends what it is told to, and understands what comes."""

from __future__ import annotations

import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import attrs
import trio

from vnet.nbd import CommandType, NbdError
from vnet.ports.disk.nbd_server import NbdServer
from vnet.testing.blk import BlkOptions, BlkPair, open_blk_pair
from vnet.testing.checks import until

__all__ = [
    "CACHE",
    "DF",
    "DISC",
    "FLUSH",
    "FUA",
    "KIB",
    "MIB",
    "NO_HOLE",
    "OK",
    "READ",
    "SIZE",
    "STATUS",
    "TRIM",
    "USUAL",
    "WRITE",
    "ZEROES",
    "Chunk",
    "Client",
    "connected",
    "serving",
]

KIB, MIB = 1 << 10, 1 << 20
SIZE = 8 * MIB
READ, WRITE, DISC, FLUSH, TRIM, CACHE, ZEROES, STATUS = CommandType
FUA, NO_HOLE, DF = 1, 2, 4
OK = NbdError.OK
USUAL = BlkOptions(buffers=16)


@attrs.frozen
class Chunk:
    """One piece of a reply."""

    cookie: int
    error: int = 0
    offset: int = 0
    data: bytes = b""
    done: bool = True


class Client:
    """One end of a connection that began."""

    def __init__(self, stream: trio.SocketStream, structured: bool) -> None:
        self.stream = stream
        self.structured = structured
        self.sizes: dict[int, int] = {}
        self._data = b""

    async def exactly(self, size: int) -> bytes:
        while len(self._data) < size:
            got = await self.stream.receive_some(MIB)
            if not got:
                raise EOFError
            self._data += got
        actual, self._data = self._data[:size], self._data[size:]
        return actual

    async def hung_up(self) -> None:
        """Return once the server did, skipping its output. Raises trio.TooSlowError."""
        with trio.fail_after(1):
            try:
                while await self.stream.receive_some(MIB):
                    pass
            except trio.BrokenResourceError:
                pass

    async def begin(self) -> None:
        await self.exactly(18)
        options = [(8, b"")] if self.structured else []
        await self.stream.send_all(struct.pack(">I", 3))
        for number, body in (*options, (7, struct.pack(">IH", 0, 0))):
            await self.stream.send_all(b"IHAVEOPT" + struct.pack(">II", number, len(body)) + body)
            kind = 0
            while kind != 1:
                _, _, kind, size = struct.unpack(">QIII", await self.exactly(20))
                await self.exactly(size)

    async def ask(
        self, kind: int, cookie: int = 0, offset: int = 0, size: int = 0, flags: int = 0, data: bytes = b""
    ) -> None:
        if kind == READ and not self.structured:
            self.sizes[cookie] = size
        await self.stream.send_all(struct.pack(">IHHQQI", 0x25609513, flags, kind, cookie, offset, size) + data)

    async def chunk(self) -> Chunk:
        """The next thing the server says."""
        (magic,) = struct.unpack(">I", await self.exactly(4))
        if magic == 0x67446698:
            error, cookie = struct.unpack(">IQ", await self.exactly(12))
            size = self.sizes.pop(cookie, 0)
            return Chunk(cookie, error, 0, b"" if error else await self.exactly(size))
        assert magic == 0x668E33EF
        assert self.structured
        flags, kind, cookie, size = struct.unpack(">HHQI", await self.exactly(16))
        body = await self.exactly(size)
        if kind == 1:
            return Chunk(cookie, 0, int.from_bytes(body[:8], "big"), body[8:], bool(flags & 1))
        error = int.from_bytes(body[:4], "big") if kind == 0x8001 else 0
        return Chunk(cookie, error, done=bool(flags & 1))

    async def do(self, kind: int, offset: int = 0, size: int = 0, flags: int = 0, data: bytes = b"") -> int:
        """The error of one command."""
        await self.ask(kind, 5, offset, size or len(data), flags, data)
        while True:
            chunk = await self.chunk()
            assert chunk.cookie == 5
            if chunk.done:
                return chunk.error

    async def read(self, offset: int, size: int) -> bytes:
        """The received bytes, in any pieces."""
        await self.ask(READ, 9, offset, size)
        actual, done = bytearray(size), False
        while not done:
            chunk = await self.chunk()
            assert (chunk.cookie, chunk.error) == (9, 0)
            at = chunk.offset - offset if self.structured else 0
            actual[at : at + len(chunk.data)] = chunk.data
            done = chunk.done
        return bytes(actual)


@asynccontextmanager
async def connected(server: NbdServer, *, structured: bool = True, begin: bool = True) -> AsyncIterator[Client]:
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(server._converse, theirs)
        async with trio.SocketStream(trio.socket.from_stdlib_socket(ours)) as stream:
            client = Client(stream, structured)
            if begin:
                await client.begin()
            yield client
        with trio.fail_after(40):
            while nursery.child_tasks:  # noqa: ASYNC110  the server has no event
                await trio.sleep(0.001)


@asynccontextmanager
async def serving(options: BlkOptions = USUAL) -> AsyncIterator[tuple[BlkPair, NbdServer]]:
    """At the end every buffer is back."""
    async with open_blk_pair(options) as pair:
        yield pair, NbdServer(pair.disk, "disk0")
        await until(lambda: pair.disk._buffers._taken == 0)  # type: ignore[union-attr]
