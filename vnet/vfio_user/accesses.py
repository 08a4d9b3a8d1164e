"""The bodies of messages that read and write: registers of the device, and memory of the client."""

from __future__ import annotations

import struct
from typing import ClassVar, Self

import attrs

from drivers.carriers.payload import PackedPayload
from rings.memory import ADDRESS_END
from vnet.vfio_user.constants import DATA_MAX, WRITES_MAX
from vnet.vfio_user.payloads import SMALL_MAX, Refused

__all__ = ["DmaAccess", "DmaData", "RegionRead", "RegionWrite", "RegionWrites"]


def _check_access(name: str, offset: int, count: int, most: int = DATA_MAX) -> None:
    if not 0 < count <= most or offset + count > ADDRESS_END:
        raise Refused(f"{name}: {count} bytes at {offset:#x}: must be 1 to {most}")


def _split(name: str, form: struct.Struct, body: bytes) -> tuple[list[int], bytes]:
    """Return the other fields of a body, and its data. In ``form`` the data's place comes first, and their size last.

    Raises Refused.
    """
    *fields, count = form.unpack_from(body)
    _check_access(name, fields[0], count)
    data = body[form.size :]
    if len(data) != count:
        raise Refused(f"{name}: {len(data)} bytes instead of {count}")
    return fields, data


@attrs.frozen
class RegionRead(PackedPayload):
    """A read of ``count`` bytes of a region."""

    offset: int
    region: int
    count: int
    SIZES: ClassVar = (16, SMALL_MAX)
    FORM: ClassVar = struct.Struct("<QII")

    @classmethod
    def parse(cls, body: bytes) -> Self:
        it = super().parse(body)
        _check_access("REGION_READ", it.offset, it.count)
        return it


@attrs.frozen
class RegionWrite:
    """Data of a region, written or read."""

    offset: int
    region: int
    data: bytes
    SIZES: ClassVar = (16, 16 + DATA_MAX)

    @classmethod
    def parse(cls, body: bytes) -> Self:
        (offset, region), data = _split("REGION_WRITE", RegionRead.FORM, body)
        return cls(offset, region, data)

    def emit(self) -> bytes:
        return RegionRead(self.offset, self.region, len(self.data)).emit() + self.data


@attrs.frozen
class RegionWrites:
    """Several writes of up to 8 bytes each."""

    writes: tuple[RegionWrite, ...]
    ROOM: ClassVar = 8
    """Bytes of data in the body for each write."""
    _EACH: ClassVar = RegionRead.FORM.size + ROOM
    SIZES: ClassVar = (8, 8 + WRITES_MAX * _EACH)

    @classmethod
    def parse(cls, body: bytes) -> Self:
        count = int.from_bytes(body[:8], "little")
        if len(body) != 8 + count * cls._EACH:
            raise Refused(f"REGION_WRITE_MULTI: {len(body)} bytes for {count} writes")
        writes = []
        for at in range(8, len(body), cls._EACH):
            offset, region, size = RegionRead.FORM.unpack_from(body, at)
            _check_access("REGION_WRITE_MULTI", offset, size, cls.ROOM)
            data = at + RegionRead.FORM.size
            writes.append(RegionWrite(offset, region, body[data : data + size]))
        return cls(tuple(writes))

    def emit(self) -> bytes:
        parts = (
            RegionRead(w.offset, w.region, len(w.data)).emit() + w.data.ljust(self.ROOM, b"\0") for w in self.writes
        )
        return len(self.writes).to_bytes(8, "little") + b"".join(parts)


@attrs.frozen
class DmaAccess(PackedPayload):
    """A read of ``count`` bytes of the client's memory, or the part of it that was written."""

    address: int
    count: int
    SIZES: ClassVar = (16, SMALL_MAX)
    FORM: ClassVar = struct.Struct("<QQ")

    @classmethod
    def parse(cls, body: bytes) -> Self:
        it = super().parse(body)
        _check_access("DMA_READ", it.address, it.count)
        return it


@attrs.frozen
class DmaData:
    """Data of the client's memory, written or read."""

    address: int
    data: bytes
    SIZES: ClassVar = (16, 16 + DATA_MAX)

    @property
    def count(self) -> int:
        return len(self.data)

    @classmethod
    def parse(cls, body: bytes) -> Self:
        (address,), data = _split("DMA_WRITE", DmaAccess.FORM, body)
        return cls(address, data)

    def emit(self) -> bytes:
        return DmaAccess(self.address, self.count).emit() + self.data
