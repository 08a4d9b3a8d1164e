"""What a transport stands on: the hardware that ``vnet`` simulates, as small contracts.

Handlers passed in here are plain callables: they run to completion in the caller's task, never wait,
and only note that something happened.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import attrs

from rings.memory import Addr, Memory, PciAddr, PhysAddr

__all__ = ["DmaBuffer", "DmaMemory", "Epc", "LinkEvents", "PciFunction", "PciHeader", "RegisterBlock"]

Handler = Callable[[], None]


@attrs.frozen
class DmaBuffer:
    """Zeroed memory of this host that a device may reach: ``addr`` is what to tell the device."""

    addr: Addr
    size: int
    """Bytes."""


class DmaMemory(Memory, Protocol):
    """A host's own memory together with an allocator for what is shared with devices."""

    def alloc(self, size: int, align: int = 64) -> DmaBuffer:
        """``size`` zeroed bytes at a multiple of ``align`` (a power of two). Raises MemoryError."""

    def free(self, buffer: DmaBuffer) -> None:
        """Give it back; its content is zeroed when it is next handed out."""


class LinkEvents(Protocol):
    """Who wants to know that the link went up or down."""

    def link_up(self) -> None:
        """Both ends see each other; a new epoch has begun."""

    def link_down(self) -> None:
        """The epoch is over: windows are closed, reads give all-ones, writes go nowhere."""


class PciFunction(Protocol):
    """One function as the driver on the root complex sees it, after enumeration.

    Registers are read and written as unsigned integers of ``size`` 1, 2, 4 or 8 bytes, little-endian.
    While the link is down, or where nothing answers, reads give all-ones and writes are dropped.
    """

    name: str
    """Domain, bus, device and function, as lspci prints it."""

    @property
    def vendor_id(self) -> int: ...

    @property
    def device_id(self) -> int: ...

    @property
    def dma(self) -> DmaMemory:
        """Memory of the root complex's host."""

    @property
    def online(self) -> bool:
        """Whether the link is up and the function configured."""

    def config_read(self, offset: int, size: int) -> int: ...

    def config_write(self, offset: int, size: int, value: int) -> None: ...

    def bar_size(self, bar: int) -> int:
        """Bytes; 0 where the BAR does not exist."""

    def bar_read(self, bar: int, offset: int, size: int) -> int: ...

    def bar_write(self, bar: int, offset: int, size: int, value: int) -> None: ...

    def enable_msix(self) -> int:
        """Turn MSI-X on; the number of vectors in the table, 0 where the function has no MSI-X."""

    def disable_msix(self) -> None: ...

    def request_irq(self, vector: int, handler: Handler) -> None:
        """Program and unmask MSI-X ``vector``; the handler runs once per message."""

    def request_intx(self, handler: Handler) -> None:
        """Be called while the function asserts INTx."""

    def free_irqs(self) -> None:
        """Mask every vector and forget every handler."""

    def watch(self, events: LinkEvents | None) -> None:
        """Tell ``events`` about the link from now on."""


@attrs.frozen
class PciHeader:
    """The identity an endpoint function shows in its configuration space."""

    vendor_id: int
    device_id: int
    revision: int
    class_code: int
    """24 bits: class, subclass, programming interface."""
    subsystem_vendor_id: int
    subsystem_id: int
    interrupt_pin: int = 1


class RegisterBlock(Protocol):
    """Registers whose accesses are trapped. ``size`` is 1, 2, 4 or 8; ``offset`` is any, aligned or not."""

    def read(self, offset: int, size: int) -> int: ...

    def write(self, offset: int, size: int, value: int) -> None: ...


class Epc(Protocol):
    """An endpoint controller, as the function behind it sees it (Linux: pci_epc)."""

    def set_header(self, function: int, header: PciHeader) -> None: ...

    def add_capability(self, function: int, cap_id: int, body: bytes, block: RegisterBlock | None = None) -> int:
        """Append a capability whose bytes after id and next are ``body``; the offset of its id byte.

        With ``block``, accesses to the body go there (offset 0 is the byte after next).
        """

    def set_bar(self, function: int, bar: int, size: int, block: RegisterBlock) -> None:
        """A 64-bit memory BAR of ``size`` bytes (rounded up to a power of two); accesses are trapped."""

    def set_msix(self, function: int, vectors: int, bar: int, offset: int) -> None:
        """``vectors`` MSI-X vectors, table at ``offset`` in ``bar``, the pending bits behind it."""

    def clear(self, function: int) -> None:
        """Take the function away."""

    def start(self) -> None:
        """Be seen on the link."""

    def stop(self) -> None: ...

    def window(self, function: int) -> Memory:
        """The other host's memory as this function may reach it, through outbound windows.

        It belongs to one epoch: after link-down, reset of the function or loss of bus mastering, every
        access raises a MemoryFault. Ask again after `LinkEvents.link_up`.
        """

    def raise_irq(self, function: int, vector: int) -> None:
        """Send MSI-X ``vector``, or set its pending bit while it is masked."""

    def set_intx(self, function: int, asserted: bool) -> None: ...

    def msix_enabled(self, function: int) -> bool: ...

    def watch(self, function: int, events: LinkEvents, reset: Handler) -> None:
        """Tell ``events`` about the link, and call ``reset`` on a function-level reset."""

    def map_addr(self, addr: PciAddr, size: int) -> OutboundWindow:
        """Map an outbound window over ``size`` bytes at ``addr``. Raises MemoryError when none is left."""

    def unmap_addr(self, window: OutboundWindow) -> None: ...


class OutboundWindow(Protocol):
    """A range of the endpoint's own addresses that reaches the other host."""

    @property
    def phys(self) -> PhysAddr: ...

    @property
    def addr(self) -> PciAddr: ...

    @property
    def size(self) -> int: ...

    @property
    def memory(self) -> Memory:
        """The other host's memory, at its addresses on the link."""
