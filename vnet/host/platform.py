"""The platform bus of one host: register regions at fixed addresses, each with its own interrupt line."""

from __future__ import annotations

from collections.abc import Callable

from drivers.bus.model import MatchId
from drivers.contracts.hw import DmaMemory, Handler, RegisterBlock
from rings.memory import Memory
from vnet.link.base import all_ones
from vnet.linux.memory import HostMemory
from vnet.views.system import RegionView

__all__ = ["Platform", "PlatformRegion"]

LNRO0005 = MatchId(0x0005, int.from_bytes(b"LNRO", "big"))
"""ACPI id of a virtio-mmio device."""


class PlatformRegion:
    """A slot on the bus: an `MmioRegion` for its driver, a `PlatformSlot` for its device (`drivers.contracts.hw`).

    Driver and device are on the same host, so one object can serve both; each sees its own interface only.
    """

    def __init__(self, platform: Platform, address: int, size: int, irq: int, match_id: MatchId) -> None:
        self.name = f"{address:x}.virtio_mmio"
        self.vendor_id = match_id.vendor
        self.device_id = match_id.device
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
        """Put a device's registers into the slot. Raises ValueError if it is occupied."""
        if self._block is not None:
            raise ValueError(f"{self.name} is occupied")
        self._block = block
        self._platform.device_added(self)

    def remove(self) -> None:
        self._block = None
        self.set_irq(False)
        self._platform.device_removed(self)

    @property
    def asserted(self) -> bool:
        """Whether the interrupt line is high."""
        return self._asserted

    def set_irq(self, asserted: bool) -> None:
        rising_edge = asserted and not self._asserted
        self._asserted = asserted
        if rising_edge:
            self._deliver()

    def snapshot(self) -> RegionView:
        return RegionView(
            self.name,
            self.address,
            self.size,
            self.irq,
            self._block is not None,
            self._asserted,
            self.interrupts,
            self.unhandled,
        )

    def _deliver(self) -> None:
        """Call the handler, once per rising edge: the line stays asserted until the driver acknowledges."""
        if self._handler is None:
            self.unhandled += 1
        else:
            self.interrupts += 1
            self._handler()


class Platform:
    """Slots for virtio-mmio devices; addresses and interrupts as on QEMU's ``virt`` machine."""

    BASE, SIZE, FIRST_IRQ = 0x0A00_0000, 0x200, 48

    def __init__(
        self,
        memory: HostMemory,
        device_added: Callable[[PlatformRegion], None],
        device_removed: Callable[[PlatformRegion], None],
    ) -> None:
        """The callbacks run when a device is put into a slot or removed from it."""
        self.memory = memory
        self.device_added = device_added
        self.device_removed = device_removed
        self._regions: list[PlatformRegion] = []

    @property
    def regions(self) -> tuple[PlatformRegion, ...]:
        return tuple(self._regions)

    def add(self, match_id: MatchId = LNRO0005) -> PlatformRegion:
        """Add an empty slot with this firmware id, at the lowest free address, and return it.

        Raises MemoryError if it would overlap RAM.
        """
        taken = {region.irq - self.FIRST_IRQ for region in self._regions}
        at = next(at for at in range(len(taken) + 1) if at not in taken)
        address = self.BASE + at * self.SIZE
        if address + self.SIZE > self.memory.base:
            raise MemoryError(f"no room for another region below {self.memory.base:#x}")
        region = PlatformRegion(self, address, self.SIZE, self.FIRST_IRQ + at, match_id)
        self._regions.append(region)
        return region

    def discard(self, region: PlatformRegion) -> None:
        """Remove an empty slot."""
        self._regions.remove(region)
