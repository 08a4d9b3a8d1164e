"""Memory that is reached by requests alone: reads make copies, and what writers change in theirs is sent later."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Protocol, cast, overload

import trio

from rings.errors import MemoryFault

__all__ = ["COPIES_MAX", "COPY_MAX", "Copies", "RemoteAccess", "RemoteRange", "Words"]

COPY_MAX = 4 << 20
"""Most bytes of one copy: drivers describe buffers of any size."""
COPIES_MAX = 64 << 20
"""Most bytes of all copies."""
IDLE_REFERENCES = 2
"""References to a copy without a view: `_Copy`, and the argument of sys.getrefcount."""
Write = Callable[[int, bytes], None]
"""Writes bytes at an address; raises MemoryFault if the owner refuses them."""


class RemoteAccess(Protocol):
    """Requests to the owner of memory."""

    def read(self, address: int, size: int) -> bytes:
        """Return bytes of the memory. Raises MemoryFault."""

    def write(self, address: int, data: bytes) -> None:
        """Write bytes of the memory. Raises MemoryFault."""

    def before(self, address: int, size: int) -> bytes:
        """Return the bytes that a writer's copy begins with; its changes are what differs from them."""


class _Copy:
    """A copy of memory for a writer."""

    __slots__ = ("address", "data", "sent", "write")

    def __init__(self, address: int, data: bytes, write: Write) -> None:
        self.address = address
        self.sent = data
        """The bytes as the owner has them."""
        self.data = bytearray(data)
        self.write = write

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


class Copies:
    """The copies that writers have.

    `flush` sends their changes: before a word of a ring is written, before an interrupt, before the owner's next
    request, and when the writing task waits.
    """

    def __init__(self) -> None:
        self.held: list[_Copy] = []
        """Copies that writers may have changed."""
        self._copied = trio.Event()

    def make(self, access: RemoteAccess, address: int, size: int, writable: bool) -> memoryview:
        """Return a copy of bytes of memory. Raises MemoryFault."""
        total = sum(len(copy.data) for copy in self.held) if writable else 0
        if size > COPY_MAX or size + total > COPIES_MAX:
            raise MemoryFault(address, size, write=writable, reason="more than is copied of memory that is not shared")
        if not writable:
            return memoryview(access.read(address, size))
        copy = _Copy(address, access.before(address, size), access.write)
        self.held.append(copy)
        self._copied.set()
        return memoryview(copy.data)

    def flush(self) -> None:
        """Send what writers have changed so far. A change that the owner refuses is lost, as a posted write is."""
        if not self.held:
            return
        for copy in list(self.held):
            changes = copy.take_changes()
            if changes is not None:
                try:
                    copy.write(*changes)
                except MemoryFault:
                    pass
        self.held = [copy for copy in self.held if not copy.idle or copy.data != copy.sent]

    async def run(self) -> None:
        """Send what a task has written, once it waits."""
        while True:
            await self._copied.wait()
            self._copied = trio.Event()
            self.flush()


class Words:
    """A stand-in for a pinned view of ring words."""

    def __init__(self, access: RemoteAccess, copies: Copies, address: int, size: int, form: str) -> None:
        self.access = access
        self.address = address
        self.nbytes = size
        self._copies = copies
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
            data = self.access.read(self.address + start * self._size, max(stop - start, 0) * self._size)
            words: list[int] = memoryview(data).cast(self._form).tolist()[::step]  # type: ignore[call-overload]
            return words
        data = self.access.read(self.address + index * self._size, self._size)
        self._check()
        return int.from_bytes(data, "little")

    def __setitem__(self, index: int, value: int) -> None:
        self._check()
        self._copies.flush()
        self.access.write(self.address + index * self._size, value.to_bytes(self._size, "little"))

    def release(self) -> None:
        self._released = True

    def _check(self) -> None:
        """Raise ValueError as a released view does, see `rings.memory.was_released`."""
        if self._released:
            raise ValueError("operation forbidden on released memoryview object")


class RemoteRange:
    """A range of such memory. Implements `rings.memory.RemoteBytes`."""

    def __init__(self, access: RemoteAccess, copies: Copies, address: int, size: int, *, readonly: bool) -> None:
        self._access = access
        self._copies = copies
        self._address = address
        self._size = size
        self.readonly = readonly

    def __len__(self) -> int:
        return self._size

    def part(self, start: int, end: int) -> RemoteRange:
        return RemoteRange(self._access, self._copies, self._address + start, end - start, readonly=self.readonly)

    def before(self) -> bytes:
        """Return the bytes that a writer's copy of all of it begins with. Raises MemoryFault."""
        return self._access.before(self._address, self._size)

    def copy(self, start: int, size: int, writable: bool) -> memoryview:
        return self._copies.make(self._access, self._address + start, size, writable)

    def pin(self, start: int, size: int, form: str) -> memoryview:
        return cast("memoryview", Words(self._access, self._copies, self._address + start, size, form))

    def offset_of(self, pin: memoryview) -> int | None:
        words: object = pin
        return words.address - self._address if isinstance(words, Words) and words.access is self._access else None
