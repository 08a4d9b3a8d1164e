"""One vfio-user connection to a foreign PCI function: commands, and the memory accesses that the server asks for.

Numbers and bodies of messages are the protocol's (`vnet.vfio_user`); replies are believed in nothing but their size.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Sequence
from typing import TypeVar

import trio

from drivers.carriers.payload import PackedPayload
from vnet.check.memory import Arena
from vnet.check.wire import SHOWN, BadReply, HungUp, Journal, PeerError, Silence, send_all, wait_for_room
from vnet.vfio_user.accesses import RegionRead, RegionWrite
from vnet.vfio_user.constants import FDS_MAX, MESSAGE_MAX, Command, HeaderFlag

__all__ = ["FunctionWire", "Refusal"]

P = TypeVar("P", bound=PackedPayload)
HEADER = struct.Struct("<HHIII")
DMA = struct.Struct("<QQ")
TYPE = 0xF
"""Bits of the header's flags that are the type of the message."""


class Refusal(PeerError):
    """The server refused a command."""


def _emit(number: int, command: int, body: bytes, flags: int = 0, error: int = 0) -> bytes:
    """Return the bytes of a message."""
    return HEADER.pack(number, command, HEADER.size + len(body), flags, error) + body


class FunctionWire:
    """A connection. Every wait ends after ``patience`` seconds."""

    def __init__(self, connected: socket.socket, journal: Journal, patience: float, arena: Arena) -> None:
        """Take ownership of ``connected``, which is non-blocking; the server may access ``arena``."""
        self._socket = connected
        self.journal = journal
        self.patience = patience
        self._memory = arena
        self._number = 0
        self._outbox = bytearray()  # bytes for which the socket had no room yet
        self._inbox = bytearray()

    # Commands

    async def ask(self, command: Command, body: bytes = b"", fds: Sequence[int] = (), note: str = "") -> bytes:
        """Send a command; return the body of its reply. Raises Refusal, PeerError."""
        self._number = self._number % 0xFFFF + 1
        self.journal.note_message(note or command.name, body, fds)
        await self._send(_emit(self._number, command, body), fds)
        with trio.move_on_after(self.patience):
            while True:
                reply = self._reply_to(self._number)
                if reply is not None:
                    kind, flags, error, data = reply
                    if flags & HeaderFlag.ERROR:
                        raise Refusal(f"refuses {command.name}: {os.strerror(error)}")
                    if kind != command:
                        raise BadReply(f"replied to {command.name} with command {kind}: {data[:SHOWN].hex()}")
                    return data
                if not self._receive():
                    await trio.lowlevel.wait_readable(self._socket)
        raise Silence(f"did not answer {command.name} within {self.patience:g} s")

    async def ask_for(self, command: Command, payload: P) -> P:
        """Return the fields of a reply, which has those of the command. Raises PeerError."""
        reply = await self.ask(command, payload.emit())
        if len(reply) < payload.FORM.size:
            raise BadReply(f"replied to {command.name} with {len(reply)} bytes: {reply.hex()}")
        return type(payload)(*payload.FORM.unpack_from(reply))

    async def read(self, region: int, offset: int, size: int, note: str = "") -> bytes:
        """Return bytes of a region. Raises PeerError."""
        request = RegionRead(offset, region, size)
        reply = await self.ask(Command.REGION_READ, request.emit(), note=note or f"read region {region}+{offset:#x}")
        if len(reply) != RegionRead.FORM.size + size:
            raise BadReply(f"replied to a read of {size} bytes of region {region} with {reply[:SHOWN].hex()}")
        return reply[RegionRead.FORM.size :]

    async def write(self, region: int, offset: int, data: bytes, note: str = "") -> None:
        """Write bytes of a region. Raises PeerError."""
        request = RegionWrite(offset, region, data)
        await self.ask(Command.REGION_WRITE, request.emit(), note=note or f"write region {region}+{offset:#x}")

    def post(self, region: int, offset: int, data: bytes) -> None:
        """Write bytes of a region without a reply: now, or once the socket has room."""
        body = RegionWrite(offset, region, data).emit()
        self._number = self._number % 0xFFFF + 1
        self._put(_emit(self._number, Command.REGION_WRITE, body, HeaderFlag.NO_REPLY))

    # The socket

    async def _send(self, data: bytes, fds: Sequence[int]) -> None:
        while not self._flush():
            await wait_for_room(self._socket, self.patience)
        await send_all(self._socket, data, fds, self.patience)

    def _put(self, data: bytes) -> None:
        self._outbox += data
        try:
            self._flush()
        except HungUp:
            pass  # the next wait finds it

    def _flush(self) -> bool:
        """Send what had no room; return whether nothing is left. Raises HungUp."""
        try:
            while self._outbox:
                del self._outbox[: self._socket.send(self._outbox, socket.MSG_NOSIGNAL)]
        except BlockingIOError:
            return False
        except OSError as exc:
            raise HungUp(f"closed the connection ({exc.strerror})") from None
        return True

    def _receive(self) -> bool:
        """Receive what is there; return whether it was anything. Raises HungUp."""
        flags = socket.MSG_CMSG_CLOEXEC | socket.MSG_DONTWAIT
        try:
            data, fds, _, _ = socket.recv_fds(self._socket, MESSAGE_MAX, FDS_MAX, flags)
        except BlockingIOError:
            return False
        except OSError as exc:
            raise HungUp(f"closed the connection ({exc.strerror})") from None
        for fd in fds:  # descriptors of mappable regions: the checker reads registers by messages
            os.close(fd)
        if not data:
            raise HungUp("closed the connection")
        self._inbox += data
        return True

    def _reply_to(self, number: int) -> tuple[int, int, int, bytes] | None:
        """Return command, flags, errno and body of a reply that is there; serve the server's commands before it."""
        while len(self._inbox) >= HEADER.size:
            of, command, size, flags, error = HEADER.unpack_from(self._inbox)
            if not HEADER.size <= size <= MESSAGE_MAX:
                raise BadReply(f"sent a message of {size} bytes: {self._inbox[:SHOWN].hex()}")
            if len(self._inbox) < size:
                break
            body = bytes(self._inbox[HEADER.size : size])
            del self._inbox[:size]
            if not flags & TYPE:
                self._serve(of, command, body)
            elif of == number:
                return command, flags, error, body
        return None

    def _serve(self, number: int, command: int, body: bytes) -> None:
        """Reply to a command of the server: a memory access, or an error."""
        try:
            addr, count = DMA.unpack_from(body)
            inside = self._memory.base <= addr and addr + count <= self._memory.end and count <= MESSAGE_MAX
            if not inside or command not in (Command.DMA_READ, Command.DMA_WRITE):
                raise ValueError
            reply = body[: DMA.size]
            if command == Command.DMA_READ:
                reply += self._memory.read(addr, count)
            else:
                self._memory.write(addr, body[DMA.size :])
        except (struct.error, ValueError):
            self._put(_emit(number, command, b"", HeaderFlag.REPLY | HeaderFlag.ERROR, errno.EINVAL))
        else:
            self._put(_emit(number, command, reply, HeaderFlag.REPLY))

    def hung_up(self) -> bool:
        """Return whether the server closed the connection; serve its commands that are there."""
        try:
            self._flush()
            while self._receive():
                self._reply_to(-1)
        except PeerError:
            return True
        return False

    def replace(self, connected: socket.socket) -> None:
        """Go on with another connection, and close the former one."""
        self._socket.close()
        self._socket = connected
        self._inbox.clear()
        self._outbox.clear()

    def close(self) -> None:
        self._socket.close()
