"""TLPs and DLLPs between the symbols that frame them on a link of 2.5 or 5 GT/s (PCI Express 4.2.2)."""

from __future__ import annotations

import struct

import attrs

from vnet.link.datalink.crc import LCRC_SIZE, lcrc
from vnet.link.datalink.dllps import SEQUENCES
from vnet.link.datalink.errors import BadFrame, DataLinkError

__all__ = ["END", "NULLIFIED", "START_DLLP", "START_TLP", "SequencedTlp", "frame_dllp", "frame_tlp", "open_frame"]

START_TLP, START_DLLP = b"\xfb", b"\x5c"
"""STP (K27.7) and SDP (K28.2)."""
END, NULLIFIED = b"\xfd", b"\xfe"
"""END (K29.7), and EDB (K30.7) behind a TLP that its sender has taken back."""
_SEQUENCE = struct.Struct(">H")
_SMALLEST = _SEQUENCE.size + 12 + LCRC_SIZE
"""Bytes between the symbols around the shortest TLP."""


@attrs.frozen
class SequencedTlp:
    """A TLP with its sequence number."""

    sequence: int
    packet: bytes


def frame_tlp(sequence: int, packet: bytes) -> bytes:
    """Return a TLP with its sequence number, LCRC and symbols."""
    body = _SEQUENCE.pack(sequence) + packet
    return b"".join((START_TLP, body, lcrc(body), END))


def frame_dllp(packet: bytes) -> bytes:
    """Return a DLLP with its symbols."""
    return b"".join((START_DLLP, packet, END))


def open_frame(frame: bytes) -> SequencedTlp | bytes | None:
    """Return the TLP or the bytes of the DLLP in a frame; None if it is a TLP that its sender has taken back.

    Raises `BadFrame` if symbols are wrong, or if the LCRC of a TLP is.
    """
    start, body, end = frame[:1], frame[1:-1], frame[-1:]
    if start == START_DLLP and end == END:
        return body
    if start != START_TLP or end not in (END, NULLIFIED) or len(body) < _SMALLEST:
        raise BadFrame(DataLinkError.RECEIVER, f"{len(frame)} symbols from {start.hex()} to {end.hex()}: no packet")
    content, check = body[:-LCRC_SIZE], body[-LCRC_SIZE:]
    right = lcrc(content)
    if end == NULLIFIED and bytes(byte ^ 0xFF for byte in check) == right:
        return None
    if end == NULLIFIED or check != right:
        raise BadFrame(DataLinkError.BAD_TLP, f"LCRC {check.hex()}: the bytes before it have {right.hex()}")
    return SequencedTlp(_SEQUENCE.unpack_from(content)[0] & SEQUENCES - 1, content[_SEQUENCE.size :])
