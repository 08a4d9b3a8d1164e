"""Block devices (VIRTIO 1.4 section 5.2)."""

from __future__ import annotations

import struct

from vnet.check.front import Front
from vnet.check.kinds.base import Kind, Request
from vnet.check.split import Buffer

__all__ = [
    "DISCARD", "FLUSH", "GET_ID", "IN", "OUT", "SECTOR", "STATUS", "UNWRITTEN", "WRITE_ZEROES", "Blk", "header", "make",
]  # fmt: skip

SECTOR = 512
IN, OUT, FLUSH, GET_ID, DISCARD, WRITE_ZEROES = 0, 1, 4, 8, 11, 13
STATUS = {0: "OK", 1: "IOERR", 2: "UNSUPP"}
UNWRITTEN = 0xFF
"""Status byte that a device must replace."""


def header(kind: int, sector: int = 0) -> bytes:
    return struct.pack("<IIQ", kind, 0, sector & (1 << 64) - 1)


def make(front: Front, kind: int, sector: int = 0, data: bytes = b"", room: int = 0) -> Request:
    """Return a request with ``data`` for the device and ``room`` bytes from it; it succeeds with status OK."""
    arena = front.arena
    buffers = [Buffer(arena.put(header(kind, sector)), 16)]
    if data:
        buffers.append(Buffer(arena.put(data), len(data)))
    if room:
        buffers.append(Buffer(arena.alloc(room), room, True))
    status = arena.put(bytes((UNWRITTEN,)))
    buffers.append(Buffer(status, 1, True))

    def judge(_: int) -> str:
        [byte] = arena.read(status, 1)
        if byte == UNWRITTEN:
            return "it wrote no status"
        return "" if not byte else f"status {STATUS.get(byte, byte)}"

    return Request(buffers, judge, room + 1)


class Blk(Kind):
    name = "blk"
    device_id = 2
    features = {5: "RO", 9: "FLUSH", 11: "CONFIG_WCE", 12: "MQ", 13: "DISCARD", 14: "WRITE_ZEROES"}  # noqa: RUF012

    def request(self, front: Front) -> Request:
        """Return a read of the first sector."""
        return make(front, IN, 0, room=SECTOR)
