"""Notification coalescing of virtio-net: how long a device may keep back its calls (VIRTIO 1.4 section 5.1.9.5.10)."""

from __future__ import annotations

import struct
from enum import IntEnum
from typing import ClassVar

import attrs

__all__ = ["MAX_USECS", "NO_COALESCING", "Coalescing", "Direction", "QueueCoalescing"]

PARAMETERS = struct.Struct("<II")
"""Layout of the parameters: packets, microseconds."""
QUEUE = struct.Struct("<HH")
"""Layout in front of the parameters of one queue: its index, and a reserved field."""
MAX_USECS = 1_000_000
"""Longest delay that our device accepts. Drivers take a queue that is silent for much longer as stuck: Linux's
watchdog of transmit queues waits for 5 s."""


class Direction(IntEnum):
    """A kind of data queues: the remainder of the index of each by 2."""

    RX = 0
    TX = 1


@attrs.frozen
class Coalescing:
    """Parameters of one queue. The device calls after ``max_packets``, or ``max_usecs`` after the first of them."""

    SIZE: ClassVar[int] = PARAMETERS.size
    """Bytes of the parameters."""
    max_packets: int = 0
    max_usecs: int = 0

    @property
    def on(self) -> bool:
        """Whether calls are kept back: if either is 0, the device calls for each packet."""
        return bool(self.max_packets and self.max_usecs)

    @classmethod
    def parse(cls, data: bytes) -> Coalescing | None:
        """Parse parameters. Returns None for another number of bytes."""
        return cls(*PARAMETERS.unpack(data)) if len(data) == PARAMETERS.size else None

    def emit(self) -> bytes:
        return PARAMETERS.pack(self.max_packets, self.max_usecs)


NO_COALESCING = Coalescing()


@attrs.frozen
class QueueCoalescing:
    """Parameters of the queue with this index."""

    index: int
    parameters: Coalescing

    @classmethod
    def parse(cls, data: bytes) -> QueueCoalescing | None:
        """Parse an index and parameters. Returns None for another number of bytes; ignores the reserved field."""
        parameters = Coalescing.parse(data[QUEUE.size :])
        return None if parameters is None else cls(QUEUE.unpack(data[: QUEUE.size])[0], parameters)

    def emit(self) -> bytes:
        return QUEUE.pack(self.index, 0) + self.parameters.emit()
