"""Frames of the stream: packets, whose headers say how long they are, and frames of the link itself between them.

The first byte of a frame of the link has a value of Fmt that no packet has.
"""

from __future__ import annotations

import struct
from enum import IntEnum

from drivers.carriers.framing import ProtocolError
from vnet.link.transaction.ecrc import ECRC_SIZE
from vnet.link.transaction.fields import DOUBLEWORD, PAGE

__all__ = ["CONTROL", "Control", "Frames", "control", "parse_control"]

CONTROL = 0xE0
"""Value of the first byte of a frame of the link, without its kind: Fmt 7."""
PREFIX = 4
CONTROL_MAX = 1024
"""Most bytes of the body of a frame of the link."""
_HEAD = struct.Struct(">BxH")
_LENGTHS = 12, 16
"""Bytes of a packet's header."""


class Control(IntEnum):
    """Kinds of frames of the link."""

    HELLO = 0
    """The first frame of each side: what it is."""
    PROOF = 1
    """The second one: it has the key."""
    READY = 2
    """The endpoint's functions can be enumerated."""
    CREDITS = 3
    """Room for further packets."""
    ALIVE = 4
    DOWN = 5
    """The last one: the reason why this side ends the link."""


def control(kind: Control, body: bytes = b"") -> bytes:
    """Return a frame of the link."""
    return _HEAD.pack(CONTROL | kind, len(body)) + body


def parse_control(frame: memoryview) -> tuple[Control, bytes]:
    """Return kind and body of a frame of the link. Raises ProtocolError."""
    try:
        return Control(frame[0] & ~CONTROL), bytes(frame[_HEAD.size :])
    except ValueError:
        raise ProtocolError(f"a frame of kind {frame[0] & ~CONTROL}: there is no such frame") from None


def _frame_size(head: bytes) -> int:
    """Return the bytes of the frame that begins with these four. Raises ProtocolError."""
    first, size = _HEAD.unpack(head)
    if first >= CONTROL:
        if size > CONTROL_MAX:
            raise ProtocolError(f"a frame of {size} bytes: must be at most {CONTROL_MAX}")
        return _HEAD.size + int(size)
    word = int.from_bytes(head, "big")
    fmt = word >> 29
    if fmt >= PREFIX:
        raise ProtocolError(f"malformed TLP: Fmt {fmt}")
    data = (word & 0x3FF or 1024) * DOUBLEWORD if fmt & 2 else 0
    return _LENGTHS[fmt & 1] + data + (ECRC_SIZE if word >> 15 & 1 else 0)


class Frames:
    """Received bytes as frames. At most one incomplete frame, of a little more than 4 KiB, is kept."""

    LARGEST = _LENGTHS[1] + PAGE + ECRC_SIZE

    def __init__(self) -> None:
        self._view = memoryview(b"")
        self._at = 0

    def feed(self, data: bytes) -> None:
        """Take received bytes."""
        rest = self._view[self._at :]
        self._view, self._at = memoryview(bytes(rest) + data if rest else data), 0

    def next(self) -> memoryview | None:
        """Return the next frame, which stays valid; None if it has not arrived. Raises ProtocolError."""
        view, at = self._view, self._at
        if len(view) - at < _HEAD.size:
            return None
        end = at + _frame_size(bytes(view[at : at + _HEAD.size]))
        if end > len(view):
            return None
        self._at = end
        return view[at:end]
