"""The hostile device: it writes into the rings and buffers of a driver without any check."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from rings.memory import Addr
from rings.testing import RawRing
from vnet.testing.hostile.driver import unpin
from vnet.testing.pair import Pair

__all__ = ["HostileDevice", "hostile_device"]


@asynccontextmanager
async def hostile_device(pair: Pair) -> AsyncIterator[HostileDevice]:
    """Open a hostile device beside the real one, which does nothing unless a frame is injected."""
    hostile = HostileDevice(pair)
    try:
        yield hostile
    finally:
        hostile.close()


class HostileDevice:
    """The device's end of a pair at work: it writes what it likes into the driver's rings and buffers, and calls."""

    def __init__(self, pair: Pair) -> None:
        self.pair = pair
        self.memory = pair.rc.memory
        self.rings = [RawRing(self.memory, queue.num, queue.addrs) for queue in pair.vhost.queues]

    def call(self, queue: int) -> None:
        """Interrupt for one queue."""
        self.pair.vhost.ops.call(self.pair.vhost.queues[queue])

    def deliver(self, data: bytes, size: int | None = None, head: int | None = None) -> None:
        """Put ``data`` (virtio_net_hdr first) into the next receive buffer; ``size`` is the length told."""
        ring = self.rings[0]
        head = ring.entry(ring.used_idx) if head is None else head
        self.memory.view(Addr(ring.read(head).addr), len(data), True)[:] = data
        ring.give(head, len(data) if size is None else size)
        self.call(0)

    def close(self) -> None:
        for ring in self.rings:
            unpin(ring)
