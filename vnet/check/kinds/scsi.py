"""SCSI host devices (VIRTIO 1.4 section 5.6)."""

from __future__ import annotations

import struct

from vnet.check.front import Front
from vnet.check.kinds.base import Kind, Request
from vnet.check.split import Buffer

__all__ = [
    "CDB", "CONTROL", "EVENT", "EVENT_SIZE", "INQUIRY", "REQUEST", "UNWRITTEN", "Scsi", "command", "lun", "response",
    "response_name",
]  # fmt: skip

CONTROL, EVENT, REQUEST = 0, 1, 2
RESPONSE = 12 + 96
"""Bytes of a response: 12, then sense data of the default size."""
CDB = 32
EVENT_SIZE = 16
"""Bytes of an event."""
INQUIRY = bytes.fromhex("120000002400")
RESPONSES = (
    "OK", "OVERRUN", "ABORTED", "BAD_TARGET", "RESET", "BUSY", "TRANSPORT_FAILURE", "TARGET_FAILURE", "NEXUS_FAILURE",
    "FAILURE",
)  # fmt: skip
UNWRITTEN = 0xFF
"""Response code that a device must replace."""


def lun(target: int = 0, unit: int = 0) -> bytes:
    """Return the 8 bytes of an address: 1, target, single-level LUN."""
    return bytes((1, target, 0x40 | unit >> 8, unit & 0xFF)) + bytes(4)


def response(front: Front, addr: int) -> tuple[int, int, int]:
    """Return response code, SCSI status and residual of a response."""
    _, residual, _, status, code = struct.unpack("<IIHBB", front.arena.read(addr, 12))
    return code, status, residual


def response_name(code: int) -> str:
    return RESPONSES[code] if code < len(RESPONSES) else str(code)


def command(front: Front, cdb: bytes, room: int = 0, address: bytes | None = None) -> tuple[Request, int]:
    """Return a request and the address of its response; it succeeds with OK and GOOD."""
    arena = front.arena
    head = (lun() if address is None else address) + struct.pack("<QBBB", 1, 0, 0, 0) + cdb.ljust(CDB, b"\0")
    answer = arena.put(bytes((UNWRITTEN,)) * RESPONSE)
    buffers = [Buffer(arena.put(head), len(head)), Buffer(answer, RESPONSE, True)]
    if room:
        buffers.append(Buffer(arena.alloc(room), room, True))

    def judge(_: int) -> str:
        code, status, _ = response(front, answer)
        if code == UNWRITTEN:
            return "it wrote no response"
        if code:
            return f"response {response_name(code)}"
        return f"status {status:#x}" if status else ""

    return Request(buffers, judge, RESPONSE + room), answer


class Scsi(Kind):
    name = "scsi"
    device_id = 8
    main = REQUEST
    rings = (CONTROL, EVENT, REQUEST)

    def prepare(self, front: Front) -> None:
        """Add buffers for events."""
        events = front.rings[EVENT]
        for _ in range(events.ring.num // 2):
            events.ring.submit([Buffer(front.arena.alloc(EVENT_SIZE), EVENT_SIZE, True)])
        events.kick()

    def request(self, front: Front) -> Request:
        """Return an INQUIRY of target 0."""
        return command(front, INQUIRY, room=36)[0]
