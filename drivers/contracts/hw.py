"""What a transport stands on: the hardware that ``vnet`` simulates, as small contracts.

Handlers passed in here are plain callables: they run to completion in the caller's task, never wait,
and only note that something happened.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

import attrs

from rings.memory import Addr, Memory, PciAddr, PhysAddr
from rings.queue import Meter

__all__ = [
    "DmaBuffer",
    "DmaMemory",
    "Epc",
    "LinkEvents",
    "MmioRegion",
    "MwLimits",
    "Ntb",
    "NtbEvents",
    "PciFunction",
    "PciHeader",
    "PlatformSlot",
    "RegisterBlock",
    "Toll",
]

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


class Toll(Meter, Protocol):
    """Has to be told of accesses to memory that takes time to reach, and knows how much."""

    async def settle(self) -> None:
        """Sleep out the time that every link on the way is owed for accesses so far."""


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

    @property
    def lossy(self) -> bool:
        """Whether a doorbell or an interrupt can get lost on the way."""

    def config_read(self, offset: int, size: int) -> int: ...

    def config_write(self, offset: int, size: int, value: int) -> None: ...

    def bar_size(self, bar: int) -> int:
        """Bytes; 0 where the BAR does not exist."""

    def bar_read(self, bar: int, offset: int, size: int) -> int: ...

    def bar_write(self, bar: int, offset: int, size: int, value: int) -> None: ...

    def bar_map(self, bar: int, offset: int, size: int, at: Addr) -> Memory:
        """``size`` bytes of memory behind a BAR, from ``offset`` on, to be reached at the addresses from ``at`` on.

        It belongs to one epoch, and ends earlier when the function puts something else there. Registers can't be
        reached in this way: accesses raise a MemoryFault, as does the call itself where there is no such BAR.
        """

    def bar_toll(self, bar: int, offset: int, size: int) -> Toll | None:
        """What accesses through `bar_map` to that memory cost, as it is now; None where they take no time."""

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

    @property
    def dma(self) -> DmaMemory:
        """Memory of the controller's own host."""

    def set_header(self, function: int, header: PciHeader) -> None: ...

    def add_capability(self, function: int, cap_id: int, body: bytes, block: RegisterBlock | None = None) -> int:
        """Append a capability whose bytes after id and next are ``body``; the offset of its id byte.

        With ``block``, accesses to the body go there (offset 0 is the byte after next).
        """

    def set_bar(self, function: int, bar: int, size: int, block: RegisterBlock) -> None:
        """A 64-bit memory BAR of ``size`` bytes (rounded up to a power of two); accesses are trapped."""

    def set_bar_ram(self, function: int, bar: int, buffer: DmaBuffer) -> None:
        """A 64-bit memory BAR that is ``buffer`` of `dma`, a power of two of bytes.

        The other host's accesses are loads and stores there, and nobody is told of them.
        """

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

    def meter(self, function: int) -> Meter | None:
        """Who has to be told of this function's accesses through windows; None where nobody counts them."""

    @property
    def lossy(self) -> bool:
        """Whether a doorbell or an interrupt can get lost on the way."""

    async def settle(self) -> None:
        """Sleep out the time the link is owed for accesses so far; at once where it takes none."""

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


class MmioRegion(Protocol):
    """The registers of a platform device as a driver on the same host sees them, and its interrupt line.

    Registers are read and written as unsigned integers of ``size`` 1, 2, 4 or 8 bytes, little-endian. A region
    is named and identified by the host's description of itself, not by its registers: ``vendor_id`` are the four
    letters and ``device_id`` is the number of its ACPI id.
    """

    name: str

    @property
    def vendor_id(self) -> int: ...

    @property
    def device_id(self) -> int: ...

    @property
    def size(self) -> int:
        """Bytes."""

    @property
    def dma(self) -> DmaMemory:
        """Memory of the host."""

    def read(self, offset: int, size: int) -> int: ...

    def write(self, offset: int, size: int, value: int) -> None: ...

    def request_irq(self, handler: Handler) -> None:
        """Be called whenever the line rises, and at once where it is up."""

    def free_irq(self) -> None: ...


class PlatformSlot(Protocol):
    """A region of a host and its interrupt line, as the device in it sees them."""

    @property
    def memory(self) -> Memory:
        """The host's memory: nothing stands between it and the device."""

    def insert(self, block: RegisterBlock) -> None:
        """Answer accesses from now on, and be found."""

    def remove(self) -> None:
        """Be gone: reads give all-ones, writes go nowhere."""

    def set_irq(self, asserted: bool) -> None: ...


class NtbEvents(Protocol):
    """Who wants to know what happens on a non-transparent bridge."""

    def link_event(self) -> None:
        """The link between the two hosts came up or went down: look at `Ntb.link_is_up`."""

    def db_event(self) -> None:
        """A doorbell is set that is not masked: look at `Ntb.db_read`."""


@attrs.frozen
class MwLimits:
    """What a range of memory has to be like for the other host to reach it through a window."""

    addr_align: int
    size_align: int
    size_max: int
    """Bytes."""


class Ntb(Protocol):
    """A non-transparent bridge to one other host, as a client on this host sees it (Linux: include/linux/ntb.h).

    Nothing of the other host is reached but through this: doorbells (32 bits, each set until it is cleared),
    scratchpads (32-bit words, a bank for each host), and memory windows. While this host's own link is down, reads
    give all-ones and writes are dropped.
    """

    @property
    def name(self) -> str:
        """Where it was found, such as the name of a PCI function."""

    @property
    def dma(self) -> DmaMemory:
        """This host's memory, for what the other host is to reach."""

    def watch(self, events: NtbEvents | None) -> None:
        """Tell ``events`` from now on what happens."""

    # The link between the two hosts: up once both asked for it.

    @property
    def link_is_up(self) -> bool: ...

    @property
    def link_epoch(self) -> int:
        """Rises whenever the link comes up; the same number on both sides."""

    def link_enable(self) -> None:
        """Ask for the link, now and after this host's own link was down. Nothing waits."""

    def link_disable(self) -> None: ...

    # Doorbells: masks of bits. A bit that rings again before it is cleared stays one bit.

    @property
    def db_valid_mask(self) -> int: ...

    def db_read(self) -> int:
        """The bits that are set, masked ones included."""

    def db_clear(self, bits: int) -> None:
        """Clear these, and no others that were set meanwhile."""

    def db_set_mask(self, bits: int) -> None:
        """Ask not to be told of these bits; they are set nevertheless."""

    def db_clear_mask(self, bits: int) -> None:
        """Ask to be told of these bits; at once, where one is set already."""

    def peer_db_set(self, bits: int) -> None:
        """Ring the other host: every bit of the mask."""

    # Scratchpads: what one side writes as its peer's word is its own word for the other side.

    @property
    def spad_count(self) -> int: ...

    def spad_read(self, index: int) -> int: ...

    @property
    def spads(self) -> Mapping[int, int]:
        """This host's scratchpads as they were last read or written here: looking at them is no access."""

    def spad_write(self, index: int, value: int) -> None: ...

    def peer_spad_read(self, index: int) -> int: ...

    def peer_spad_write(self, index: int, value: int) -> None: ...

    # Memory windows: each is a range of this host that the other one reaches, and the other way round.

    @property
    def mw_count(self) -> int: ...

    def mw_get_align(self, window: int) -> MwLimits: ...

    def mw_set_trans(self, window: int, addr: Addr, size: int) -> None:
        """Let the other host reach ``size`` bytes of ours at ``addr``. Raises ValueError where the limits are not met,
        TransportLost where nobody answers.
        """

    def mw_clear_trans(self, window: int) -> None:
        """Let it reach nothing there: what it had mapped is gone when this returns."""

    def peer_mw(self, window: int, at: Addr, size: int) -> Memory:
        """The first ``size`` bytes of what the other host lets us reach, at the addresses from ``at`` on.

        It ends with the translation or with either link: then every access raises a MemoryFault, as it does where
        there never was one. The call itself raises a MemoryFault while this host's own link is down.
        """

    def peer_mw_toll(self, window: int) -> Toll | None:
        """What accesses through `peer_mw` cost now, on both hosts' links; None where they take no time."""
