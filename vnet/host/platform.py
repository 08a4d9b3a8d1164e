"""The platform bus of one host: regions of registers at fixed addresses, each with an interrupt line of its own."""

from __future__ import annotations

from collections.abc import Callable

from drivers.bus.model import MatchId
from drivers.contracts.hw import DmaMemory, Handler, RegisterBlock
from rings.memory import Memory
from vnet.link.base import all_ones
from vnet.linux.memory import HostMemory

__all__ = ["Platform", "Region"]

LNRO0005 = MatchId(0x0005, int.from_bytes(b"LNRO", "big"))
"""What firmware calls a virtio-mmio device."""


class Region:
    """One place on the bus: an `MmioRegion` for its driver, a `PlatformSlot` for its device (`drivers.contracts.hw`).

    Both are on this host, so they may be one object; neither is shown more than its half.
    """

    def __init__(self, platform: Platform, address: int, size: int, irq: int, called: MatchId) -> None:
        self.name = f"{address:x}.virtio_mmio"
        self.vendor_id = called.vendor
        self.device_id = called.device
        self.address = address
        self.size = size
        self.irq = irq
        self.interrupts = self.unhandled = 0
        self._platform = platform
        self._block: RegisterBlock | None = None
        self._handler: Handler | None = None
        self._asserted = False

    # The driver's side

    @property
    def dma(self) -> DmaMemory:
        return self._platform.memory

    def read(self, offset: int, size: int) -> int:
        if self._block is None or not 0 <= offset <= self.size - size:
            return all_ones(size)
        return self._block.read(offset, size) & all_ones(size)

    def write(self, offset: int, size: int, value: int) -> None:
        if self._block is not None and 0 <= offset <= self.size - size:
            self._block.write(offset, size, value & all_ones(size))

    def request_irq(self, handler: Handler) -> None:
        self._handler = handler
        if self._asserted:
            self._deliver()

    def free_irq(self) -> None:
        self._handler = None

    # The device's side

    @property
    def memory(self) -> Memory:
        return self._platform.memory

    def insert(self, block: RegisterBlock) -> None:
        """Raises ValueError where something is in the slot."""
        if self._block is not None:
            raise ValueError(f"{self.name} is occupied")
        self._block = block
        self._platform.found(self)

    def remove(self) -> None:
        self._block = None
        self.set_irq(False)
        self._platform.gone(self)

    def set_irq(self, asserted: bool) -> None:
        rose = asserted and not self._asserted
        self._asserted = asserted
        if rose:
            self._deliver()

    def describe(self) -> dict[str, object]:
        return {
            "name": self.name,
            "address": self.address,
            "size": self.size,
            "irq": self.irq,
            "occupied": self._block is not None,
            "asserted": self._asserted,
            "interrupts": self.interrupts,
            "unhandled": self.unhandled,
        }

    def _deliver(self) -> None:
        """Once per rise: what a handler acknowledges lowers the line, what it leaves keeps it up."""
        if self._handler is None:
            self.unhandled += 1
        else:
            self.interrupts += 1
            self._handler()


class Platform:
    """Hands out regions, and passes on what appears in them; addresses and interrupts as on QEMU's ``virt`` machine."""

    BASE, SIZE, FIRST_IRQ = 0x0A00_0000, 0x200, 48

    def __init__(self, memory: HostMemory, found: Callable[[Region], None], gone: Callable[[Region], None]) -> None:
        self.memory = memory
        self.found = found
        self.gone = gone
        self._regions: list[Region] = []

    @property
    def regions(self) -> tuple[Region, ...]:
        return tuple(self._regions)

    def add(self, called: MatchId = LNRO0005) -> Region:
        """The next region, empty, ``called`` so by firmware. Raises MemoryError where RAM begins."""
        at = len(self._regions)
        address = self.BASE + at * self.SIZE
        if address + self.SIZE > self.memory.base:
            raise MemoryError(f"no room for another region below {self.memory.base:#x}")
        region = Region(self, address, self.SIZE, self.FIRST_IRQ + at, called)
        self._regions.append(region)
        return region

    def describe(self) -> list[dict[str, object]]:
        """Every region as plain data."""
        return [region.describe() for region in self._regions]
