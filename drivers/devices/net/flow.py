"""What all flows of a net device share: a queue at one end, one of a port at the other, and the figures."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

import attrs
import trio

from drivers.contracts.ports import PacketQueue
from drivers.errors import PortGone
from drivers.flow.figures import Traffic
from drivers.flow.pump import Need, QueueEnd, Signal

__all__ = [
    "BUDGET",
    "BUDGET_BYTES",
    "CHUNK",
    "FIRST_CHUNK",
    "ControlFigures",
    "NetFigures",
    "NetFlow",
    "PairFigures",
    "Traffic",
]

BUDGET = 64
"""Packets per batch."""
BUDGET_BYTES = 1 << 20
"""Bytes per batch: large frames are passed on while they are still in the cache."""
CHUNK = 32
"""Chains or used buffers taken from a ring at a time."""
FIRST_CHUNK = 4
"""Where what is taken may have to be given back: so many at first, twice as many each time they are all used."""

Q = TypeVar("Q", bound=QueueEnd)


@attrs.define(eq=False)
class PairFigures:
    """What one pair of queues carried, as one side sees it."""

    received: Traffic = attrs.field(factory=Traffic)
    """From the other side, out of the port."""
    sent: Traffic = attrs.field(factory=Traffic)
    """From the port, to the other side."""


@attrs.define(eq=False)
class ControlFigures:
    """What the control queue carried, as one side sees it."""

    commands: int = 0
    """Those that were carried out."""
    refused: int = 0
    bytes: int = 0
    """Of all of them, without their answers."""


@attrs.define(eq=False)
class NetFigures:
    """What one side of a net device carried since it exists."""

    pairs: list[PairFigures] = attrs.field(factory=lambda: [PairFigures()])
    control: ControlFigures = attrs.field(factory=ControlFigures)
    control_index: int | None = None
    """The control queue's index, where there was one the last time."""

    def grow(self, count: int) -> None:
        """Have figures for ``count`` pairs at least."""
        self.pairs += [PairFigures() for _ in range(count - len(self.pairs))]


class NetFlow(Generic[Q]):
    """One direction of one pair; subclasses move the packets."""

    reads = False
    """Whether it takes from the port."""

    def __init__(self, queue: Q, port: PacketQueue, traffic: Traffic, on_gone: Callable[[PortGone], None]) -> None:
        self.queue: Q = queue
        self.port = port
        self.traffic = traffic
        self.on_port_gone = on_gone
        self.on = True
        """Whether its pair is in use; otherwise it moves nothing and waits for `turn`."""
        self._turned = trio.Event()

    def turn(self, on: bool) -> None:
        """Have its pair used, or not any more, from the next packet on."""
        self.on = on
        self._turned.set()
        self._turned = trio.Event()

    @property
    def source(self) -> Signal | None:
        """What says that the port has something, where the flow takes from it."""
        return self.port.source if self.reads else None

    def move(self) -> tuple[int, Need]:
        raise NotImplementedError

    async def wait(self, need: Need) -> None:
        if not self.on:
            await self._turned.wait()
        elif need is Need.SOURCE:
            await self.port.wait_readable()
        else:
            await self.port.wait_writable()
