"""Recorders between a function or a region and its driver: they log each access, and lie on demand."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import trio
import trio.testing

from drivers.contracts.hw import DmaMemory, Handler
from drivers.testing import TappedAccess, TappedFunction
from vnet.host.platform import PlatformRegion
from vnet.testing.pair import Pair

__all__ = ["TappedRegion", "tapped", "tapped_region"]


@asynccontextmanager
async def tapped(pair: Pair) -> AsyncIterator[TappedFunction]:
    """A recorder between the function and its drivers, bound to none yet: register it at `Host.pci` when it may lie.

    At the end the bare function is bound again, and up.
    """
    function = pair.function
    await pair.rc.pci.unregister_device(function)
    tap = TappedFunction(function)
    try:
        yield tap
    finally:
        with trio.CancelScope(shield=True):
            if any(binding.device is tap for binding in pair.rc.pci.bindings):
                await pair.rc.pci.unregister_device(tap)
        pair.rc.pci.register_device(function)
    await pair.world.wait_up()


class TappedRegion:
    """Any `drivers.contracts.hw.MmioRegion`, with a log of its accesses, and lies where a test wants them."""

    def __init__(self, inner: PlatformRegion) -> None:
        self._inner = inner
        self.name, self.size = inner.name, inner.size
        self.vendor_id, self.device_id = inner.vendor_id, inner.device_id
        self.log: list[TappedAccess] = []
        """All of BAR 0, as there is no other."""
        self.lies: dict[int, Callable[[int], int]] = {}
        """Values to return instead of the true one, by offset."""
        self.deaf: set[int] = set()
        """Offsets whose writes are ignored."""

    @property
    def dma(self) -> DmaMemory:
        return self._inner.dma

    def read(self, offset: int, size: int) -> int:
        value = self._inner.read(offset, size)
        lie = self.lies.get(offset)
        shown = value if lie is None else lie(value) & (1 << 8 * size) - 1
        self.log.append(TappedAccess(0, offset, size, shown, False))
        return shown

    def write(self, offset: int, size: int, value: int) -> None:
        self.log.append(TappedAccess(0, offset, size, value, True))
        if offset not in self.deaf:
            self._inner.write(offset, size, value)

    def request_irq(self, handler: Handler) -> None:
        self._inner.request_irq(handler)

    def free_irq(self) -> None:
        self._inner.free_irq()


@asynccontextmanager
async def tapped_region(pair: Pair) -> AsyncIterator[TappedRegion]:
    """A recorder in the region's place on the bus, not on it yet: register it at `Host.platform_bus` when it may lie.

    At the end the bare region is bound again, and up.
    """
    bus, region = pair.carrier
    await bus.unregister_device(region)
    tap = TappedRegion(region)
    try:
        yield tap
    finally:
        with trio.CancelScope(shield=True):
            if any(binding.device is tap for binding in bus.bindings):
                await bus.unregister_device(tap)
        bus.register_device(region)
    await pair.world.wait_up()
