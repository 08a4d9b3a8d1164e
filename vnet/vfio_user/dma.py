"""Memory of a client that it does not share: reads and writes are messages, which block until they are answered."""

from __future__ import annotations

import sys
from typing import cast, overload

import trio

from drivers.carriers.framing import ProtocolError
from drivers.errors import DriverError
from rings.errors import MemoryFault
from vnet.vfio_user.accesses import DmaAccess, DmaData
from vnet.vfio_user.constants import DATA_MAX, Command
from vnet.vfio_user.payloads import Payload
from vnet.vfio_user.server_channel import ServerChannel

__all__ = ["ClientBytes", "ClientDma"]

COPY_MAX = 4 << 20
"""Most bytes of one copy: drivers describe buffers of any size."""
COPIES_MAX = 64 << 20
"""Most bytes of all copies."""
IDLE_REFERENCES = 2
"""References to a copy without a view: `_Copy`, and the argument of sys.getrefcount."""


class _Copy:
    """A copy of the client's memory for a writer."""

    __slots__ = ("address", "data", "sent")

    def __init__(self, address: int, data: bytes) -> None:
        self.address = address
        self.sent = data
        """The bytes as the client has them."""
        self.data = bytearray(data)

    def take_changes(self) -> tuple[int, bytes] | None:
        """Return the address and the bytes from the first changed byte to the last, which count as sent."""
        if self.data == self.sent:
            return None
        now = bytes(self.data)
        changed = int.from_bytes(now, "little") ^ int.from_bytes(self.sent, "little")
        self.sent = now
        low, high = ((changed & -changed).bit_length() - 1) // 8, (changed.bit_length() + 7) // 8
        return self.address + low, now[low:high]

    @property
    def idle(self) -> bool:
        """Whether no view of it exists."""
        return sys.getrefcount(self.data) <= IDLE_REFERENCES


class ClientDma:
    """DMA_READ and DMA_WRITE of one connection. Accesses raise MemoryFault if the client does not do them.

    Writers get copies, whose changes are sent by `flush`: before a word of a ring is written, before an interrupt,
    before the client's next command, and when the writing task waits.
    """

    def __init__(self, channel: ServerChannel) -> None:
        self._channel = channel
        self._most = DATA_MAX
        self.copies: list[_Copy] = []
        """Copies that writers may have changed."""
        self._copied = trio.Event()

    def limit(self, most: int) -> None:
        """Set the most bytes of one access that the client takes."""
        self._most = min(most, DATA_MAX)

    def read(self, address: int, size: int) -> bytes:
        """Return bytes of the client's memory."""
        parts = []
        for at in range(address, address + size, self._most):
            request = DmaAccess(at, min(self._most, address + size - at))
            reply = self._request(Command.DMA_READ, request)
            assert isinstance(reply, DmaData)  # by the table of messages
            parts.append(reply.data)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def write(self, address: int, data: bytes) -> None:
        """Write bytes of the client's memory."""
        for at in range(0, len(data), self._most):
            self._request(Command.DMA_WRITE, DmaData(address + at, data[at : at + self._most]))

    def copy(self, address: int, size: int, writable: bool) -> memoryview:
        """Return a copy of bytes of the client's memory."""
        held = sum(len(copy.data) for copy in self.copies) if writable else 0
        if size > COPY_MAX or size + held > COPIES_MAX:
            raise MemoryFault(address, size, write=writable, reason="more than is copied of memory that is not shared")
        data = self.read(address, size)
        if not writable:
            return memoryview(data)
        copy = _Copy(address, data)
        self.copies.append(copy)
        self._copied.set()
        return memoryview(copy.data)

    def flush(self) -> None:
        """Send what writers have changed so far. A change that the client refuses is lost, as a posted write is."""
        if not self.copies:
            return
        for copy in list(self.copies):
            changes = copy.take_changes()
            if changes is not None:
                try:
                    self.write(*changes)
                except MemoryFault:
                    pass
        self.copies = [copy for copy in self.copies if not copy.idle or copy.data != copy.sent]

    async def run(self) -> None:
        """Send what a task has written, once it waits."""
        while True:
            await self._copied.wait()
            self._copied = trio.Event()
            self.flush()

    def _request(self, command: Command, part: DmaAccess | DmaData) -> Payload:
        """Return the reply to a request about a part of the client's memory."""
        try:
            reply = self._channel.request(command, part)
            assert isinstance(reply, DmaAccess | DmaData)  # by the table of messages
            if (reply.address, reply.count) != (part.address, part.count):
                why = f"{reply.count} bytes at {reply.address:#x}, for {part.count} bytes at {part.address:#x}"
                raise self._channel.end(ProtocolError(f"reply to {command.name}: {why}"))
        except DriverError as exc:
            write = command is Command.DMA_WRITE
            raise MemoryFault(part.address, part.count, write=write, reason=str(exc)) from None
        return reply


class _Words:
    """A stand-in for a pinned view of ring words."""

    def __init__(self, dma: ClientDma, address: int, size: int, form: str) -> None:
        self.dma = dma
        self.address = address
        self.nbytes = size
        self._form = form
        self._size: int = memoryview(bytes(8)).cast(form).itemsize  # type: ignore[call-overload]
        self._released = False

    def __len__(self) -> int:
        self._check()
        return self.nbytes // self._size

    @overload
    def __getitem__(self, index: int) -> int: ...

    @overload
    def __getitem__(self, index: slice) -> list[int]: ...

    def __getitem__(self, index: int | slice) -> int | list[int]:
        self._check()
        if isinstance(index, slice):
            start, stop, step = index.indices(len(self))
            data = self.dma.read(self.address + start * self._size, max(stop - start, 0) * self._size)
            words: list[int] = memoryview(data).cast(self._form).tolist()[::step]  # type: ignore[call-overload]
            return words
        data = self.dma.read(self.address + index * self._size, self._size)
        self._check()
        return int.from_bytes(data, "little")

    def __setitem__(self, index: int, value: int) -> None:
        self._check()
        self.dma.flush()
        self.dma.write(self.address + index * self._size, value.to_bytes(self._size, "little"))

    def release(self) -> None:
        self._released = True

    def _check(self) -> None:
        """Raise ValueError as a released view does, see `rings.memory.was_released`."""
        if self._released:
            raise ValueError("operation forbidden on released memoryview object")


class ClientBytes:
    """A range of a client's memory. Implements `rings.memory.RemoteBytes`."""

    def __init__(self, dma: ClientDma, address: int, size: int, *, readonly: bool) -> None:
        self._dma = dma
        self._address = address
        self._size = size
        self.readonly = readonly

    def __len__(self) -> int:
        return self._size

    def part(self, start: int, end: int) -> ClientBytes:
        return ClientBytes(self._dma, self._address + start, end - start, readonly=self.readonly)

    def copy(self, start: int, size: int, writable: bool) -> memoryview:
        return self._dma.copy(self._address + start, size, writable)

    def pin(self, start: int, size: int, form: str) -> memoryview:
        return cast("memoryview", _Words(self._dma, self._address + start, size, form))

    def offset_of(self, pin: memoryview) -> int | None:
        words: object = pin
        return words.address - self._address if isinstance(words, _Words) and words.dma is self._dma else None
