"""The bodies of vfio-user messages as checked values. All numbers are little-endian."""

from __future__ import annotations

import errno
import json
import struct
from collections.abc import Mapping
from typing import Any, ClassVar, Protocol, Self

import attrs

from drivers.carriers.payload import EmptyPayload, PackedPayload
from drivers.errors import DriverError
from rings.memory import ADDRESS_END
from vnet.vfio_user.constants import (
    FDS_MAX,
    PAGE,
    UNMAP_ALL,
    DmaFlag,
    IrqSet,
)

__all__ = [
    "DeviceInfo",
    "DmaMap",
    "DmaUnmap",
    "Empty",
    "IoDoorbell",
    "IrqInfo",
    "Payload",
    "Refused",
    "RegionInfo",
    "RegionIoFds",
    "RegionIoFdsReply",
    "SetIrqs",
    "Version",
]

VERSION_DATA_MAX = 4096
"""Most bytes of JSON in a VERSION message."""
SMALL_MAX = 64
"""Most bytes of a message without data: clients may append fields of later versions."""


class Refused(DriverError):
    """A message can't be served: its reply has the error bit and an errno."""

    def __init__(self, text: str, number: int = errno.EINVAL) -> None:
        super().__init__(text)
        self.number = number


class Payload(Protocol):
    """The body of a message."""

    SIZES: ClassVar[tuple[int, int]]
    """Least and most bytes of a command's body."""

    @classmethod
    def parse(cls, body: bytes) -> Self:
        """Parse a body of a size within `SIZES`. Raises Refused."""

    def emit(self) -> bytes: ...


@attrs.frozen
class Empty(EmptyPayload):
    """An empty body."""

    SIZES: ClassVar = (0, SMALL_MAX)


@attrs.frozen
class Version:
    """A version of the protocol, with the sender's capabilities."""

    major: int
    minor: int
    capabilities: Mapping[str, Any] = attrs.field(factory=dict)
    SIZES: ClassVar = (4, 4 + VERSION_DATA_MAX)
    _FORM: ClassVar = struct.Struct("<HH")

    @classmethod
    def parse(cls, body: bytes) -> Self:
        major, minor = cls._FORM.unpack_from(body)
        text = body[cls._FORM.size :]
        if not text:
            return cls(major, minor)
        if text[-1]:
            raise Refused("VERSION: its data do not end with a zero byte")
        try:
            data = json.loads(text.rstrip(b"\0").decode() or "{}")
        except (ValueError, RecursionError):
            raise Refused("VERSION: its data are no JSON") from None
        capabilities = data.get("capabilities", {}) if isinstance(data, dict) else None
        if not isinstance(capabilities, dict):
            raise Refused("VERSION: its data have no object of capabilities")
        return cls(major, minor, capabilities)

    def emit(self) -> bytes:
        text = json.dumps({"capabilities": dict(self.capabilities)}, separators=(",", ":"))
        return self._FORM.pack(self.major, self.minor) + text.encode() + b"\0"


def _check_range(name: str, address: int, size: int) -> None:
    if not size or (address | size) % PAGE:
        raise Refused(f"{name}: {size:#x} bytes at {address:#x} are no whole pages")
    if address + size > ADDRESS_END:
        raise Refused(f"{name}: {size:#x} bytes at {address:#x} wrap around")


@attrs.frozen
class DmaMap(PackedPayload):
    """Memory of the client that the device may access; a file descriptor may accompany it."""

    argsz: int
    flags: int
    offset: int
    """Start of the memory in its file."""
    address: int
    size: int
    """Bytes."""
    SIZES: ClassVar = (32, SMALL_MAX)
    FORM: ClassVar = struct.Struct("<IIQQQ")

    @classmethod
    def parse(cls, body: bytes) -> Self:
        it = super().parse(body)
        if it.flags & ~sum(DmaFlag) or not it.flags:
            raise Refused(f"DMA_MAP: flags {it.flags:#x}")
        _check_range("DMA_MAP", it.address, it.size)
        if it.offset + it.size > ADDRESS_END:
            raise Refused(f"DMA_MAP: {it.size:#x} bytes at offset {it.offset:#x} wrap around")
        return it


@attrs.frozen
class DmaUnmap(PackedPayload):
    """A mapping that ends; it has the address and the size of `DmaMap`."""

    argsz: int
    flags: int
    address: int
    size: int
    SIZES: ClassVar = (24, SMALL_MAX)
    FORM: ClassVar = struct.Struct("<IIQQ")

    @classmethod
    def parse(cls, body: bytes) -> Self:
        it = super().parse(body)
        if it.flags & ~UNMAP_ALL:
            raise Refused(f"DMA_UNMAP: flags {it.flags:#x}")
        if it.flags and (it.address or it.size):
            raise Refused("DMA_UNMAP: everything, with an address or a size")
        if not it.flags:
            _check_range("DMA_UNMAP", it.address, it.size)
        return it


@attrs.frozen
class DeviceInfo(PackedPayload):
    """The device's flags, and its numbers of regions and of interrupt types."""

    argsz: int
    flags: int
    regions: int
    irqs: int
    SIZES: ClassVar = (16, SMALL_MAX)
    FORM: ClassVar = struct.Struct("<IIII")


@attrs.frozen
class RegionInfo(PackedPayload):
    """A region: its flags and its size in bytes."""

    argsz: int
    flags: int
    index: int
    capabilities: int
    size: int
    offset: int
    SIZES: ClassVar = (32, SMALL_MAX)
    FORM: ClassVar = struct.Struct("<IIIIQQ")


@attrs.frozen
class IoDoorbell(PackedPayload):
    """A register whose writes of ``size`` bytes notify eventfd number ``fd`` (VFIO_USER_IO_FD_TYPE_IOEVENTFD)."""

    offset: int
    size: int
    fd: int
    kind: int = 0
    flags: int = 0
    value: int = 0
    FORM: ClassVar = struct.Struct("<QQIII4xQ")


@attrs.frozen
class RegionIoFds:
    """The registers of a region that have an eventfd."""

    argsz: int
    flags: int
    index: int
    doorbells: tuple[IoDoorbell, ...] = ()
    SIZES: ClassVar = (16, SMALL_MAX)
    _FORM: ClassVar = struct.Struct("<IIII")

    @classmethod
    def parse(cls, body: bytes) -> Self:
        argsz, flags, index, count = cls._FORM.unpack_from(body)
        if flags or count:
            raise Refused(f"DEVICE_GET_REGION_IO_FDS: flags {flags:#x}, count {count}")
        return cls(argsz, flags, index)

    def emit(self) -> bytes:
        head = self._FORM.pack(self.argsz, self.flags, self.index, len(self.doorbells))
        return head + b"".join(bell.emit() for bell in self.doorbells)

    def answer(self, doorbells: tuple[IoDoorbell, ...]) -> RegionIoFds:
        """Return the reply, without doorbells if the client has no room for all; it may then ask again."""
        size = self._FORM.size + IoDoorbell.FORM.size * len(doorbells)
        return RegionIoFds(size, 0, self.index, doorbells if size <= self.argsz else ())


@attrs.frozen
class RegionIoFdsReply(RegionIoFds):
    """The registers as a server sends them."""

    SIZES: ClassVar = (16, 16 + FDS_MAX * IoDoorbell.FORM.size)

    @classmethod
    def parse(cls, body: bytes) -> Self:
        argsz, flags, index, count = cls._FORM.unpack_from(body)
        bells = body[cls._FORM.size :]
        if len(bells) != count * IoDoorbell.FORM.size:
            raise Refused(f"DEVICE_GET_REGION_IO_FDS: {len(bells)} bytes for {count} registers")
        rows = IoDoorbell.FORM.iter_unpack(bells)
        return cls(argsz, flags, index, tuple(IoDoorbell(*row) for row in rows))


@attrs.frozen
class IrqInfo(PackedPayload):
    """An interrupt type: its flags and its number of interrupts."""

    argsz: int
    flags: int
    index: int
    count: int
    SIZES: ClassVar = (16, SMALL_MAX)
    FORM: ClassVar = struct.Struct("<IIII")


# Numbers, because the complement of a flag leaves out unknown bits.
DATA = int(IrqSet.NONE | IrqSet.BOOL | IrqSet.EVENTFD)
ACTIONS = int(IrqSet.MASK | IrqSet.UNMASK | IrqSet.TRIGGER)


@attrs.frozen
class SetIrqs:
    """An action on ``count`` interrupts of a type, from ``start`` on. Eventfds accompany it for IrqSet.EVENTFD."""

    argsz: int
    flags: IrqSet
    index: int
    start: int
    count: int
    chosen: bytes = b""
    """For IrqSet.BOOL a byte per interrupt: 0 leaves it out."""
    SIZES: ClassVar = (20, 20 + 4096)
    _FORM: ClassVar = struct.Struct("<IIIII")

    @classmethod
    def parse(cls, body: bytes) -> Self:
        argsz, number, index, start, count = cls._FORM.unpack_from(body)
        data, action = number & DATA, number & ACTIONS
        if number & ~(DATA | ACTIONS) or data.bit_count() != 1 or action.bit_count() != 1:
            raise Refused(f"DEVICE_SET_IRQS: flags {number:#x}: must be one kind of data and one action")
        flags = IrqSet(number)
        chosen = body[cls._FORM.size :][:count] if IrqSet.BOOL in flags else b""
        if IrqSet.BOOL in flags and len(chosen) != count:
            raise Refused(f"DEVICE_SET_IRQS: {len(chosen)} bytes for {count} interrupts")
        return cls(argsz, flags, index, start, count, chosen)

    def emit(self) -> bytes:
        return self._FORM.pack(self.argsz, self.flags, self.index, self.start, self.count) + self.chosen

    @property
    def action(self) -> IrqSet:
        return IrqSet(self.flags & ACTIONS)

    def numbers(self) -> list[int]:
        """Return the numbers of the interrupts that the action concerns."""
        return [self.start + i for i in range(self.count) if IrqSet.BOOL not in self.flags or self.chosen[i]]


assert FDS_MAX <= 253, "Linux passes no more with one message"
