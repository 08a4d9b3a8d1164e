"""The bodies of vhost-user messages as checked values. All numbers are in native byte order, which is little-endian."""

from __future__ import annotations

import struct
from itertools import pairwise
from typing import ClassVar, Protocol, Self

import attrs

from drivers.carriers.framing import ProtocolError
from drivers.carriers.payload import EmptyPayload, PackedPayload
from drivers.transports.vhost_user.constants import MAX_CONFIG, MAX_REGIONS, NO_FD
from rings.memory import ADDRESS_END

__all__ = [
    "Config",
    "Empty",
    "Inflight",
    "Iotlb",
    "Log",
    "MemRegion",
    "MemTable",
    "Payload",
    "ProtocolError",
    "MessageRefused",
    "SingleRegion",
    "U64",
    "VringAddr",
    "VringFd",
    "VringState",
]


class MessageRefused(ProtocolError):
    """A message can't be served. A negative acknowledgement reports it if requested; else the connection must end."""


class Payload(Protocol):
    """The body of a message."""

    SIZES: ClassVar[tuple[int, int]]
    """Least and most bytes."""

    @classmethod
    def parse(cls, body: bytes) -> Self:
        """Parse a body of a size within `SIZES`. Raises ProtocolError if its content contradicts its size,
        MessageRefused if a value is invalid.
        """

    def emit(self) -> bytes: ...

    @property
    def fds(self) -> int | None:
        """Number of file descriptors; None if it follows from the message type."""


class _NoFds:
    """Base of payloads whose message type fixes the number of file descriptors."""

    __slots__ = ()

    @property
    def fds(self) -> int | None:
        return None


@attrs.frozen
class _Packed(PackedPayload, _NoFds):
    """Base of payloads whose fields are packed one after the other."""


@attrs.frozen
class Empty(EmptyPayload, _NoFds):
    """An empty body."""

    SIZES: ClassVar = (0, 0)


@attrs.frozen
class U64(_Packed):
    """A number; as an acknowledgement 0 means success."""

    value: int
    SIZES: ClassVar = (8, 8)
    FORM: ClassVar = struct.Struct("<Q")


@attrs.frozen
class VringFd:
    """A ring whose file descriptor accompanies the message, or is removed."""

    index: int
    has_fd: bool = True
    """Whether a file descriptor accompanies the message."""
    SIZES: ClassVar = (8, 8)

    @classmethod
    def parse(cls, body: bytes) -> Self:
        value = int.from_bytes(body, "little")
        if value & ~(NO_FD | 0xFF):
            raise MessageRefused(f"a ring's descriptor with reserved bits {value:#x}")
        return cls(value & 0xFF, not value & NO_FD)

    def emit(self) -> bytes:
        return (self.index | (0 if self.has_fd else NO_FD)).to_bytes(8, "little")

    @property
    def fds(self) -> int | None:
        return int(self.has_fd)


@attrs.frozen
class VringState(_Packed):
    """A ring with its size, its base or its enable flag."""

    index: int
    num: int
    SIZES: ClassVar = (8, 8)
    FORM: ClassVar = struct.Struct("<II")


@attrs.frozen
class VringAddr(_Packed):
    """The addresses of a ring's areas in the front end's process; ``log`` is an address of the driver."""

    index: int
    flags: int
    desc: int
    used: int
    avail: int
    log: int = 0
    SIZES: ClassVar = (40, 40)
    FORM: ClassVar = struct.Struct("<IIQQQQ")


@attrs.frozen
class MemRegion(_Packed):
    """A region of the driver's memory, with its addresses in the driver and in the front end's process."""

    addr: int
    size: int
    """Size in bytes."""
    user_addr: int
    mmap_offset: int
    """Start of the region in its file."""
    FORM: ClassVar = struct.Struct("<QQQQ")

    @classmethod
    def parse(cls, body: bytes) -> Self:
        region = super().parse(body)
        if not region.size:
            raise MessageRefused(f"an empty memory region at {region.addr:#x}")
        for start in (region.addr, region.user_addr, region.mmap_offset):
            if start + region.size > ADDRESS_END:
                raise MessageRefused(f"a memory region of {region.size:#x} bytes from {start:#x} on wraps around")
        return region

    def overlaps(self, other: MemRegion) -> bool:
        """Return whether the regions overlap, in the driver's addresses or in the front end's."""
        return any(
            start < other_start + other.size and other_start < start + self.size
            for start, other_start in ((self.addr, other.addr), (self.user_addr, other.user_addr))
        )


@attrs.frozen
class MemTable:
    """All of the driver's memory; a file descriptor per region accompanies the message."""

    regions: tuple[MemRegion, ...]
    SIZES: ClassVar = (8, 8 + MAX_REGIONS * MemRegion.FORM.size)
    _FORM: ClassVar = struct.Struct("<II")

    @classmethod
    def parse(cls, body: bytes) -> Self:
        count, _ = cls._FORM.unpack_from(body)
        size = MemRegion.FORM.size
        if not 1 <= count <= MAX_REGIONS:
            raise MessageRefused(f"a table of {count} memory regions: must be 1 to {MAX_REGIONS}")
        # Some front ends always send a body of the largest size.
        if len(body) not in (8 + count * size, cls.SIZES[1]):
            raise ProtocolError(f"{len(body)} bytes for {count} memory regions")
        regions = tuple(MemRegion.parse(body[8 + i * size : 8 + (i + 1) * size]) for i in range(count))
        for key in ("addr", "user_addr"):
            ordered = sorted(regions, key=lambda region: int(getattr(region, key)))
            if any(getattr(a, key) + a.size > getattr(b, key) for a, b in pairwise(ordered)):
                raise MessageRefused("memory regions overlap")
        return cls(regions)

    def emit(self) -> bytes:
        return self._FORM.pack(len(self.regions), 0) + b"".join(region.emit() for region in self.regions)

    @property
    def fds(self) -> int | None:
        return len(self.regions)


@attrs.frozen
class SingleRegion(_NoFds):
    """A region to add or to remove."""

    region: MemRegion
    SIZES: ClassVar = (40, 40)

    @classmethod
    def parse(cls, body: bytes) -> Self:
        return cls(MemRegion.parse(body[8:]))

    def emit(self) -> bytes:
        return bytes(8) + self.region.emit()


@attrs.frozen
class Log(_Packed):
    """The dirty log's place in the file that accompanies the message."""

    size: int
    offset: int
    SIZES: ClassVar = (16, 16)
    FORM: ClassVar = struct.Struct("<QQ")

    @classmethod
    def parse(cls, body: bytes) -> Self:
        log = super().parse(body)
        if log.offset + log.size > ADDRESS_END:
            raise MessageRefused(f"a log of {log.size:#x} bytes from {log.offset:#x} on wraps around")
        return log


@attrs.frozen
class Iotlb(_Packed):
    """An IOTLB miss, update or invalidation."""

    iova: int
    size: int
    user_addr: int
    perm: int
    kind: int
    SIZES: ClassVar = (26, 32)
    """The last six bytes are padding, which some implementations omit."""
    FORM: ClassVar = struct.Struct("<QQQBB6x")


@attrs.frozen
class Config(_NoFds):
    """Bytes of the configuration space from ``offset`` on. An empty reply means that the back end can't read them."""

    offset: int
    flags: int
    data: bytes
    SIZES: ClassVar = (12, 12 + MAX_CONFIG)
    _FORM: ClassVar = struct.Struct("<III")

    @classmethod
    def parse(cls, body: bytes) -> Self:
        offset, size, flags = cls._FORM.unpack_from(body)
        data = body[cls._FORM.size :]
        if size != len(data):
            raise MessageRefused(f"{len(data)} bytes of configuration instead of {size}")
        return cls(offset, flags, data)

    def emit(self) -> bytes:
        return self._FORM.pack(self.offset, len(self.data), self.flags) + self.data


@attrs.frozen
class Inflight(_Packed):
    """The inflight area's place in the file that accompanies the message: the log of chains in flight."""

    mmap_size: int
    mmap_offset: int
    num_queues: int
    queue_size: int
    SIZES: ClassVar = (20, 24)
    """The last four bytes are padding, which some implementations omit."""
    FORM: ClassVar = struct.Struct("<QQHH4x")

    @classmethod
    def parse(cls, body: bytes) -> Self:
        inflight = super().parse(body)
        if inflight.mmap_offset + inflight.mmap_size > ADDRESS_END:
            raise MessageRefused(f"{inflight.mmap_size:#x} bytes from {inflight.mmap_offset:#x} on wrap around")
        return inflight
