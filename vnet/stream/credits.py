"""Credits of one direction of the stream: how many packets, and how much data in them, may be under way (2.6.1).

Both numbers count since the connection began, as those of a data link layer do. Completions take no credits, because a
requester has room for the answers to its requests.
"""

from __future__ import annotations

import struct

import attrs

from drivers.carriers.framing import ProtocolError
from vnet.link.transaction.flow import CREDIT, Flow

__all__ = ["FLOWS", "CreditGate", "CreditGrant"]

_UPDATE = struct.Struct(">BxxxIQ")


@attrs.define(eq=False)
class _Counts:
    """Credits of one flow. Data are in units of 16 bytes."""

    flow: Flow
    most: tuple[int, int]
    """Packets and data that the receiver has room for."""
    packets: int = 0
    """Packets sent, or received."""
    data: int = 0
    packets_limit: int = 0
    data_limit: int = 0


FLOWS: dict[Flow, tuple[int, int]] = {Flow.POSTED: (4096, (4 << 20) // CREDIT), Flow.NON_POSTED: (512, 512)}
"""Room of a receiver: packets, and data in units of 16 bytes."""


def _counts() -> tuple[_Counts, _Counts]:
    return _Counts(Flow.POSTED, FLOWS[Flow.POSTED]), _Counts(Flow.NON_POSTED, FLOWS[Flow.NON_POSTED])


class CreditGate:
    """The sender's side: it sends what the receiver has granted."""

    def __init__(self) -> None:
        self._flows = _counts()

    def take(self, data: int, *, posted: bool) -> bool:
        """Take the credits of a packet with ``data`` units; return False if they are not granted yet."""
        counts = self._flows[not posted]
        if counts.packets >= counts.packets_limit or counts.data + data > counts.data_limit:
            return False
        counts.packets += 1
        counts.data += data
        return True

    def update(self, body: bytes) -> None:
        """Take a frame with credits. Raises ProtocolError if it takes credits back, or gives more than there can be."""
        if len(body) != _UPDATE.size:
            raise ProtocolError(f"credits of {len(body)} bytes: must be {_UPDATE.size}")
        number, packets, data = _UPDATE.unpack(body)
        if number >= len(self._flows):
            raise ProtocolError(f"credits of flow {number}: there is no such flow")
        counts = self._flows[number]
        grown = counts.packets_limit <= packets and counts.data_limit <= data
        if not grown or packets > counts.packets + counts.most[0] or data > counts.data + counts.most[1]:
            raise ProtocolError(
                f"flow control protocol error: {counts.flow.value} credits up to {packets} packets, {data} units"
            )
        counts.packets_limit, counts.data_limit = packets, data


class CreditGrant:
    """The receiver's side: it grants room, and checks that the sender keeps to it."""

    def __init__(self) -> None:
        self._flows = _counts()
        self._handled = _counts()

    def receive(self, data: int, *, posted: bool) -> None:
        """Count a packet that has arrived. Raises ProtocolError if the sender had no credits for it."""
        counts = self._flows[not posted]
        counts.packets += 1
        counts.data += data
        if counts.packets > counts.packets_limit or counts.data > counts.data_limit:
            raise ProtocolError(f"receiver overflow: a {counts.flow.value} packet without credits")

    def handle(self, data: int, *, posted: bool) -> bool:
        """Count a packet that was handled: its room is free again. Returns whether there are `updates` to send."""
        counts, limits = self._handled[not posted], self._flows[not posted]
        counts.packets += 1
        counts.data += data
        packets, units = counts.most
        return 4 * (counts.packets + packets - limits.packets_limit) >= packets or (
            4 * (counts.data + units - limits.data_limit) >= units
        )

    def updates(self) -> list[bytes]:
        """Return the bodies of frames that grant all the room that is free now."""
        bodies = []
        for number, (counts, handled) in enumerate(zip(self._flows, self._handled, strict=True)):
            counts.packets_limit = handled.packets + counts.most[0]
            counts.data_limit = handled.data + counts.most[1]
            bodies.append(_UPDATE.pack(number, counts.packets_limit, counts.data_limit))
        return bodies
