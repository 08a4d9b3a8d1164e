"""Data link layer packets (DLLPs) as values and as bytes (PCI Express 3.5)."""

from __future__ import annotations

import struct
from enum import IntEnum

import attrs

from vnet.link.datalink.crc import dllp_crc
from vnet.link.datalink.errors import BadFrame, DataLinkError
from vnet.link.transaction.flow import Flow

__all__ = [
    "ACK",
    "DATA_CREDITS",
    "DLLP_SIZE",
    "HEADER_CREDITS",
    "NAK",
    "SEQUENCES",
    "Ack",
    "CreditPhase",
    "Dllp",
    "FlowControl",
]

DLLP_SIZE = 6
"""Bytes, with the CRC."""
SEQUENCES = 1 << 12
"""Sequence numbers."""
HEADER_CREDITS, DATA_CREDITS = 1 << 8, 1 << 12
"""Moduli of the counters of credits."""
ACK, NAK = 0x00, 0x10
"""Types of acknowledgements."""
_CHANNEL = 0x07


class CreditPhase(IntEnum):
    """Kind of a flow control DLLP, as the upper two bits of its type."""

    INIT1 = 0b01
    UPDATE = 0b10
    INIT2 = 0b11


_FLOWS = tuple(Flow)
"""Flows by bits 4 and 5 of the type."""
_PHASES = {int(phase): phase for phase in CreditPhase}
_BODY = struct.Struct(">BxH")


@attrs.frozen
class Ack:
    """Acknowledges TLPs up to ``sequence``; with ``negative`` (a Nak), asks for a replay of those behind it."""

    sequence: int
    negative: bool = False


@attrs.frozen
class FlowControl:
    """Counters of granted credits since the link came up, by their moduli; 0 in a first one: without limit."""

    phase: CreditPhase
    flow: Flow
    headers: int
    data: int


Dllp = Ack | FlowControl


def emit(packet: Dllp) -> bytes:
    """Return the bytes of ``packet``, with its CRC."""
    if isinstance(packet, Ack):
        body = _BODY.pack(NAK if packet.negative else ACK, packet.sequence)
    else:
        kind = packet.phase << 6 | _FLOWS.index(packet.flow) << 4
        body = (kind << 24 | packet.headers << 14 | packet.data).to_bytes(4, "big")
    return body + dllp_crc(body)


def parse(packet: bytes) -> Dllp | None:
    """Return the DLLP with these bytes; None for a kind that is not supported, which a receiver ignores (3.5.1).

    Raises `BadFrame` if the CRC or the number of bytes is wrong.
    """
    body = packet[:4]
    if len(packet) != DLLP_SIZE or dllp_crc(body) != packet[4:]:
        raise BadFrame(DataLinkError.BAD_DLLP, f"DLLP {packet.hex()}: must be 6 bytes that end with their CRC")
    kind = body[0]
    if kind in (ACK, NAK):
        return Ack(_BODY.unpack(body)[1] & SEQUENCES - 1, kind == NAK)
    phase, flow = _PHASES.get(kind >> 6), kind >> 4 & 3
    if phase is None or flow >= len(_FLOWS) or kind & 8 or kind & _CHANNEL:
        return None
    value = int.from_bytes(body, "big")
    return FlowControl(phase, _FLOWS[flow], value >> 14 & HEADER_CREDITS - 1, value & DATA_CREDITS - 1)
