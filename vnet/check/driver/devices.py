"""The devices that a foreign driver is watched on: they serve every request, and judge its contents."""

from __future__ import annotations

import os
import struct
from abc import ABC, abstractmethod
from typing import ClassVar

from vnet.check.driver.clauses import Observations
from vnet.check.driver.ring import Chain
from vnet.check.kinds.blk import DISCARD, FLUSH, GET_ID, IN, OUT, SECTOR, WRITE_ZEROES
from vnet.check.kinds.net import HEADER, RECEIVE

__all__ = ["Sectors", "WatchedBlk", "WatchedDevice", "WatchedNet", "WatchedRng"]


class WatchedDevice(ABC):
    """A device. ``features`` are those of its type."""

    features: ClassVar[int] = 0
    rings: ClassVar[int] = 1
    units: ClassVar[int] = 1
    """Reply to GET_QUEUE_NUM."""
    config: bytes = b""

    def __init__(self, seen: Observations) -> None:
        self.seen = seen

    def judge_write(self, offset: int, data: bytes) -> None:  # noqa: B027  most types have no sentence about it
        """Judge a write of the configuration."""

    @abstractmethod
    def serve(self, ring: int, chain: Chain) -> int | None:
        """Serve a request; return the bytes written, or None to keep its buffer."""


class Sectors:
    """A disk in memory, which is zeros at first."""

    def __init__(self) -> None:
        self._data: dict[int, bytes] = {}  # sectors that are not zeros

    def read(self, sector: int, count: int) -> bytes:
        return b"".join(self._data.get(sector + at, bytes(SECTOR)) for at in range(count))

    def write(self, sector: int, data: bytes) -> None:
        for at in range(len(data) // SECTOR):
            self._data[sector + at] = data[at * SECTOR : at * SECTOR + SECTOR]

    def clear(self, sector: int, count: int) -> None:
        for at in [at for at in self._data if sector <= at < sector + count]:
            del self._data[at]


class WatchedBlk(WatchedDevice):
    """A disk in memory."""

    features = 1 << 2 | 1 << 6 | 1 << 9 | 1 << 13 | 1 << 14  # SEG_MAX BLK_SIZE FLUSH DISCARD WRITE_ZEROES
    sectors = 64 << 11
    segments = 1

    def __init__(self, seen: Observations) -> None:
        super().__init__(seen)
        self._disk = Sectors()
        limits = struct.pack("<IIIIIB3x", self.sectors, self.segments, 1, self.sectors, self.segments, 1)
        self.config = struct.pack("<QIIIIQ2xH", self.sectors, 0, 126, 0, SECTOR, 0, 1) + limits

    def serve(self, ring: int, chain: Chain) -> int | None:
        if len(chain.readable) < 16 or not chain.room:
            return 0
        kind, _, sector = struct.unpack_from("<IIQ", chain.readable)
        data, room = chain.readable[16:], chain.room - 1
        status, answer = self._do(kind, sector, data, room, chain.readable[:16].hex())
        chain.fill(answer[:room] + bytes(room - len(answer)) + bytes((status,)))
        return room + 1

    def _do(self, kind: int, sector: int, data: bytes, room: int, header: str) -> tuple[int, bytes]:
        """Return the status and the data of one request."""
        judge = self.seen.judge
        evidence = f"header {header}, {len(data)} bytes to the device, {room} from it"
        if kind in (IN, OUT):
            size = room if kind == IN else len(data)
            whole = judge("BLK-DRV-13", not size % SECTOR and size > 0, evidence)
            inside = judge("BLK-DRV-9", sector + size // SECTOR <= self.sectors, evidence)
            if not (whole and inside):
                return 1, b""
            if kind == IN:
                return 0, self._disk.read(sector, size // SECTOR)
            self._disk.write(sector, data)
            return 0, b""
        if kind == FLUSH:
            judge("BLK-DRV-11", not sector, evidence)
            judge("BLK-DRV-12", not data and not room, evidence)
            return 0, b""
        if kind == GET_ID:
            judge("BLK-DRV-15", room == 20, evidence)
            return 0, b"vnet-check".ljust(20, b"\0")
        if kind in (DISCARD, WRITE_ZEROES):
            return self._clear(kind, data, evidence), b""
        return 2, b""

    def _clear(self, kind: int, data: bytes, evidence: str) -> int:
        evidence += f": {data[:64].hex()}"
        if not self.seen.judge("BLK-DRV-14", not len(data) % 16 and len(data) > 0, evidence):
            return 1
        ident = "BLK-DRV-16" if kind == DISCARD else "BLK-DRV-18"
        self.seen.judge(ident, len(data) // 16 <= self.segments, evidence)
        for sector, count, flags in struct.iter_unpack("<QII", data):
            if kind == DISCARD and not self.seen.judge("BLK-DRV-20", not flags & 1, evidence):
                return 2
            if sector + count > self.sectors:
                return 1
            self._disk.clear(sector, count)
        return 0


class WatchedNet(WatchedDevice):
    """A network in which no station answers. It offers no offload."""

    rings = 2

    def serve(self, ring: int, chain: Chain) -> int | None:
        if ring == RECEIVE:
            self.seen.judge("NET-DRV-61", chain.room >= 1526, f"a receive buffer of {chain.room} bytes")
            return None
        if len(chain.readable) >= HEADER:
            header = chain.readable[:HEADER]
            evidence = f"header {header.hex()}"
            self.seen.judge("NET-DRV-26", not any(header[10:12]), evidence)
            self.seen.judge("NET-DRV-27", not header[0], evidence)
            self.seen.judge("NET-DRV-46", not header[1], evidence)
        return 0


class WatchedRng(WatchedDevice):
    """A source of random bytes."""

    def serve(self, ring: int, chain: Chain) -> int | None:
        return chain.fill(os.urandom(min(chain.room, 1 << 16)))
