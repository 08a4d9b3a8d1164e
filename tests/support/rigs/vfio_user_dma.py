"""A vfio-user client in a thread that keeps its memory: the server reads and writes it by messages."""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Awaitable, Callable
from typing import Any

import trio

from drivers.errors import TransportLost
from rings.memory import Addr
from support.rigs.vfio_user import Answer, Bench, C, Client
from vnet.linux.ipc import UnixSocket, socket_pair
from vnet.vfio_user.accesses import DmaAccess, DmaData
from vnet.vfio_user.constants import HeaderFlag
from vnet.vfio_user.messages import HEADER_SIZE, Message, error, reply

__all__ = ["Lie", "PrivateClient", "with_private_client"]

Lie = Callable[[Message, bytes], bytes | None]
"""Returns the bytes to send instead of the right reply to a request of the server, or None for nothing."""


class PrivateClient(Client):
    """A client that serves the memory it does not share. `serve` runs beside everything else."""

    def __init__(self, socket: UnixSocket, lie: Lie | None) -> None:
        super().__init__(socket)
        self._send, self._receive = trio.open_memory_channel[Answer](64)
        self.lie = lie
        self.requests: list[int] = []
        """Commands of the server so far."""

    async def share(self, start: int = 0, size: int = 1 << 20) -> None:
        await self.do(C.DMA_MAP, self.mapping(start, size))

    async def receive(self) -> Answer:
        try:
            return await self._receive.receive()
        except trio.EndOfChannel:
            raise EOFError from None

    async def serve(self) -> None:
        """Serve requests, and pass replies on, until the server hangs up."""
        with self._send:
            while header := await self._exactly(HEADER_SIZE):
                number, command, size, flags, wrong = struct.unpack("<HHIII", header)
                body = await self._exactly(size - HEADER_SIZE) if size > HEADER_SIZE else b""
                message = Message(number, command, flags, body, [], wrong)
                if flags & HeaderFlag.REPLY:
                    await self._send.send(Answer(wrong, body, []))
                else:
                    self.requests.append(command)
                    data = self._answer(message)
                    sent = data if self.lie is None else self.lie(message, data)
                    if sent is not None:
                        with contextlib.suppress(TransportLost):  # the server may hang up in the middle of a lie
                            await self.socket.send(sent)

    def close(self) -> None:
        self._receive.close()
        self._send.close()
        super().close()

    async def _exactly(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            try:
                part, _ = await self.socket.receive(size - len(data))
            except TransportLost:
                part = b""
            if not part:
                return b""
            data += part
        return data

    def _answer(self, message: Message) -> bytes:
        if message.command == C.DMA_READ:
            access = DmaAccess.parse(message.body)
            data = self.memory.view(Addr(access.address), access.count)
            return reply(message, DmaData(access.address, bytes(data)).emit())
        if message.command == C.DMA_WRITE:
            written = DmaData.parse(message.body)
            self.memory.view(Addr(written.address), written.count, True)[:] = written.data
            return reply(message, DmaAccess(written.address, written.count).emit())
        return error(message, 95)


async def with_private_client(
    bench: Bench, work: Callable[[PrivateClient], Awaitable[Any]], lie: Lie | None = None
) -> Any:
    """Return the result of ``work`` with a client in a thread of its own: the server blocks while it waits for it."""
    ours, theirs = socket_pair()
    bench.nursery.start_soon(bench.converse, theirs)

    async def main() -> Any:
        client = PrivateClient(ours, lie)
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(client.serve)
                await client.agree()
                result = await work(client)
                nursery.cancel_scope.cancel()
            return result
        finally:
            client.close()

    try:
        return await trio.to_thread.run_sync(trio.run, main)
    finally:
        while bench.server.connected:  # noqa: ASYNC110  there is nothing else to wait for
            await trio.sleep(0.01)
