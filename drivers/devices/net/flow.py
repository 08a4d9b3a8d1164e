"""Base class and counters of the flows of a net device, each between a virtqueue and a queue of a port."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from typing import Generic, TypeVar, cast

import attrs

from drivers.contracts.ports import NativeQueue, PacketQueue
from drivers.flow.figures import Traffic
from drivers.flow.pump import QueueEnd, Signal, Wait

__all__ = [
    "BUDGET",
    "BUDGET_BYTES",
    "CHUNK",
    "FIRST_CHUNK",
    "Figures",
    "ControlFigures",
    "NetFigures",
    "NetFlow",
    "PairFigures",
    "Traffic",
]

BUDGET = 64
"""Maximum packets per batch."""
BUDGET_BYTES = 1 << 20
"""Maximum bytes per batch, so that large frames are passed on while still in the cache."""
CHUNK = 32
"""Number of chains or used buffers taken from a ring at a time."""
FIRST_CHUNK = 4
"""Initial number if unused chains have to be abandoned; it doubles each time that all are used."""

Q = TypeVar("Q", bound=QueueEnd)


@attrs.frozen
class Figures:
    """Frames that C has moved one by one, and their bytes without headers."""

    count: int
    bytes: int


@attrs.define(eq=False)
class PairFigures:
    """Counters of one queue pair, on one side."""

    received: Traffic = attrs.field(factory=Traffic)
    """From the other side, sent out of the port."""
    sent: Traffic = attrs.field(factory=Traffic)
    """Read from the port, sent to the other side."""
    reports: Counter[str] = attrs.field(factory=Counter)
    """Frames that the driver received, by the type of packets in their hash report."""


@attrs.define(eq=False)
class ControlFigures:
    """Counters of the control queue, on one side."""

    commands: int = 0
    """Number of executed commands."""
    refused: int = 0
    bytes: int = 0
    """Total bytes of commands, without answers."""

    def count(self, size: int, *, executed: bool) -> None:
        """Count an answered command of ``size`` bytes."""
        self.bytes += size
        if executed:
            self.commands += 1
        else:
            self.refused += 1


@attrs.define(eq=False)
class NetFigures:
    """Counters of one side of a net device, which outlive resets."""

    pairs: list[PairFigures] = attrs.field(factory=lambda: [PairFigures()])
    control: ControlFigures = attrs.field(factory=ControlFigures)
    control_index: int | None = None
    """Index of the control queue when the device was last up, or None without one."""

    def grow(self, count: int) -> None:
        """Add counters up to ``count`` pairs."""
        self.pairs += [PairFigures() for _ in range(count - len(self.pairs))]


class NetFlow(ABC, Generic[Q]):
    """One direction of one queue pair. Subclasses move the packets."""

    def __init__(self, queue: Q, port: PacketQueue, traffic: Traffic, *, plain: bool = True) -> None:
        """``plain``: whether C may move frames."""
        self.plain = plain
        self.queue: Q = queue
        self.port = port
        self.traffic = traffic
        self.enabled = True
        """Whether the pair is in use; if not, the flow moves nothing and waits for `set_enabled`."""
        self._native = cast("NativeQueue", port) if plain and hasattr(port, "native") else None
        self._switch = Signal()
        self._readable: Wait = port.wait_readable
        self._writable: Wait = port.wait_writable
        self._switched: Wait = self._switch.wait

    def set_enabled(self, enabled: bool) -> None:
        """Start or stop using the pair, from the next packet on."""
        self.enabled = enabled
        self._switch.set()

    def count_each(self, figures: Figures) -> None:
        """Count frames, each as a batch of its own."""
        self.queue.batches[0] += figures.count
        self.traffic.packets += figures.count
        self.traffic.bytes += figures.bytes

    @abstractmethod
    def move(self) -> tuple[int, Wait]:
        """Move packets up to the budget. Returns how many chains or buffers it moved, and what it waits for."""
