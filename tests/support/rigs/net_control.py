"""A network device with a control queue."""

from __future__ import annotations

from vnet.testing import (
    Options,
)

WITH = Options(queue_size=16, control=True)
WITHOUT = Options(queue_size=16)
OWN, PEER, OTHER = (b"\x02\0\0\0\0" + bytes([last]) for last in (1, 2, 9))
GROUP, BROADCAST = b"\x01\0\x5e\0\0\x01", b"\xff" * 6


def frame(to: bytes, body: bytes = b"\x88\xb5 some bytes") -> bytes:
    return to + PEER + body


def tagged(vid: int) -> bytes:
    return frame(OWN, b"\x81\0" + vid.to_bytes(2, "big") + b"\x88\xb5 tagged")


FRAMES = {"own": frame(OWN), "other": frame(OTHER), "group": frame(GROUP), "broadcast": frame(BROADCAST)}
FRAMES |= {"vlan 5": tagged(5), "vlan 6": tagged(6)}
