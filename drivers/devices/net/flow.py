"""What the four flows of a net device share: a queue at one end, a port at the other, and the figures."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

from drivers.errors import PortGone
from drivers.ports import PacketPort
from drivers.pump import Need, QueueEnd, Signal
from drivers.traffic import Traffic

__all__ = ["BUDGET", "BUDGET_BYTES", "CHUNK", "FIRST_CHUNK", "NetFlow", "Traffic"]

BUDGET = 64
"""Packets per batch."""
BUDGET_BYTES = 1 << 20
"""Bytes per batch: large frames are passed on while they are still in the cache."""
CHUNK = 32
"""Chains or used buffers taken from a ring at a time."""
FIRST_CHUNK = 4
"""Where what is taken may have to be given back: so many at first, twice as many each time they are all used."""

Q = TypeVar("Q", bound=QueueEnd)


class NetFlow(Generic[Q]):
    """One direction; subclasses move the packets."""

    reads = False
    """Whether it takes from the port."""

    def __init__(self, queue: Q, port: PacketPort, traffic: Traffic, on_gone: Callable[[PortGone], None]) -> None:
        self.queue: Q = queue
        self.port = port
        self.traffic = traffic
        self.gone = on_gone

    @property
    def source(self) -> Signal | None:
        """What says that the port has something, where the flow takes from it."""
        return self.port.source if self.reads else None

    def move(self) -> tuple[int, Need]:
        raise NotImplementedError

    async def wait(self, need: Need) -> None:
        if need is Need.SOURCE:
            await self.port.wait_readable()
        else:
            await self.port.wait_writable()
