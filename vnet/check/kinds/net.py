"""Network devices (VIRTIO 1.4 section 5.1). Over vhost-user the front end serves the control queue: it has no case."""

from __future__ import annotations

from vnet.check.front import Front
from vnet.check.kinds.base import Kind, Request
from vnet.check.split import Buffer

__all__ = ["HEADER", "RECEIVE", "TRANSMIT", "Net", "frame", "transmit"]

RECEIVE, TRANSMIT = 0, 1
HEADER = 12
"""Bytes of the header before each frame."""
ETHERTYPE = bytes.fromhex("88b5")
"""For experiments within one network (IEEE 802)."""
ROOM = 2048


def frame(size: int = 60, *, fill: int = 0) -> bytes:
    """Return a broadcast frame that no host has a use for."""
    return b"\xff" * 6 + bytes.fromhex("020000000001") + ETHERTYPE + bytes((fill,)) * (size - 14)


def transmit(front: Front, data: bytes, head: bytes = bytes(HEADER)) -> Request:
    """Return a request that sends one frame; a device only gives the buffer back."""
    arena = front.arena
    return Request(
        [Buffer(arena.put(head), len(head)), Buffer(arena.put(data), len(data))],
        lambda used: f"it says that it wrote {used} bytes into read-only buffers" if used else "",
    )


class Net(Kind):
    name = "net"
    device_id = 1
    features = {0: "CSUM", 11: "HOST_TSO4", 12: "HOST_TSO6", 15: "MRG_RXBUF", 22: "MQ"}  # noqa: RUF012
    main = TRANSMIT
    rings = (RECEIVE, TRANSMIT)
    reports = False

    def prepare(self, front: Front) -> None:
        """Add receive buffers."""
        receive = front.rings[RECEIVE]
        for _ in range(receive.ring.num // 2):
            receive.ring.submit([Buffer(front.arena.alloc(ROOM), ROOM, True)])
        receive.kick()

    def request(self, front: Front) -> Request:
        """Return a small broadcast frame to send."""
        return transmit(front, frame())
