"""Interfaces of the hardware that ``vnet`` simulates, as transports use it.

Handlers are plain callables: they run to completion in the caller's task, never wait, and only record the event.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal, Protocol

import attrs

from rings.memory import Addr, Memory, PciAddr, PhysAddr
from rings.observers.meter import Meter

__all__ = [
    "MAX_FUNCTIONS",
    "NO_VECTOR",
    "DmaBuffer",
    "DmaMemory",
    "Epc",
    "LinkEvents",
    "MmioRegion",
    "MwLimits",
    "Ntb",
    "NtbEvents",
    "PciError",
    "PciFunction",
    "PciHeader",
    "PlatformSlot",
    "RegisterBlock",
    "Toll",
]

Handler = Callable[[], None]
MAX_FUNCTIONS = 8
"""Most functions of an endpoint."""
NO_VECTOR = 0xFFFF
"""Number of no MSI-X vector, for a queue or a configuration without interrupts (VIRTIO 1.4 section 4.1.5.1.2)."""


@attrs.frozen
class DmaBuffer:
    """Zeroed memory of this host that a device may access at ``addr``."""

    addr: Addr
    size: int
    """Bytes."""


class DmaMemory(Memory, Protocol):
    """A host's own memory with an allocator for buffers shared with devices."""

    def alloc(self, size: int, align: int = 64) -> DmaBuffer:
        """Return ``size`` zeroed bytes at a multiple of ``align`` (a power of two). Raises MemoryError."""

    def free(self, buffer: DmaBuffer) -> None:
        """Free the buffer; it is zeroed when it is allocated again."""


class LinkEvents(Protocol):
    """Observer of a link's state."""

    def link_up(self) -> None:
        """Handle link-up: both ends see each other, and a new epoch begins."""

    def link_down(self) -> None:
        """Handle link-down: the epoch is over, windows are closed, reads return all-ones, writes are dropped."""


class FunctionEvents(LinkEvents, Protocol):
    """Observer of an endpoint function."""

    def reset(self) -> None:
        """Handle a function-level reset."""


class Toll(Meter, Protocol):
    """Meter of accesses across links that take time."""

    async def settle(self) -> None:
        """Sleep until every link on the path has carried the accesses so far."""


@attrs.frozen
class PciError:
    """Errors that a PCI function or its root port reported, by the names of Advanced Error Reporting."""

    function: str
    """Name of the function or the root port that detected them, as lspci shows it."""
    severity: Literal["correctable", "non-fatal", "fatal"]
    errors: tuple[str, ...]


class PciFunction(Protocol):
    """An enumerated PCI function, as its driver on the root complex sees it.

    Registers are read and written as unsigned integers of ``size`` 1, 2, 4 or 8 bytes, little-endian.
    While the link is down, or if no device answers, reads return all-ones and writes are dropped.
    """

    name: str
    """Domain, bus, device and function in lspci's notation."""

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
        """Whether the link can lose doorbells and interrupts."""

    def config_read(self, offset: int, size: int) -> int: ...

    def config_write(self, offset: int, size: int, value: int) -> None: ...

    def bar_size(self, bar: int) -> int:
        """Return the bytes of a BAR; 0 if it does not exist."""

    def bar_read(self, bar: int, offset: int, size: int) -> int: ...

    def bar_write(self, bar: int, offset: int, size: int, value: int) -> None: ...

    def bar_map(self, bar: int, offset: int, size: int, at: Addr) -> Memory:
        """Return ``size`` bytes of memory behind a BAR, from ``offset`` on, mapped at address ``at``.

        The mapping ends with the epoch, or earlier if the function replaces that memory. Accesses to registers raise a
        MemoryFault, as does the call itself if the BAR does not exist.
        """

    def bar_toll(self, bar: int, offset: int, size: int) -> Toll | None:
        """Return the meter of accesses through `bar_map` to the memory there now; None if they take no time."""

    def enable_msix(self) -> int:
        """Turn MSI-X on. Returns the number of vectors in the table, 0 if the function has no MSI-X."""

    def disable_msix(self) -> None: ...

    def request_irq(self, vector: int, handler: Handler) -> None:
        """Program and unmask MSI-X ``vector``; the handler runs once per message."""

    def request_intx(self, handler: Handler) -> None:
        """Set the handler that runs while the function asserts INTx."""

    def free_irqs(self) -> None:
        """Mask all vectors and remove all handlers."""

    def watch(self, events: LinkEvents | None) -> None:
        """Report link events to ``events`` from now on."""


@attrs.frozen
class PciHeader:
    """The identity of an endpoint function in its configuration space."""

    vendor_id: int
    device_id: int
    revision: int
    class_code: int
    """24 bits: class, subclass, programming interface."""
    subsystem_vendor_id: int
    subsystem_id: int
    interrupt_pin: int = 1


class RegisterBlock(Protocol):
    """Registers with trapped accesses. ``size`` is 1, 2, 4 or 8; ``offset`` may be unaligned."""

    def read(self, offset: int, size: int) -> int: ...

    def write(self, offset: int, size: int, value: int) -> None: ...


class Epc(Protocol):
    """An endpoint controller, as its functions see it (Linux: pci_epc)."""

    @property
    def dma(self) -> DmaMemory:
        """Memory of the controller's own host."""

    def set_header(self, function: int, header: PciHeader) -> None: ...

    def add_capability(self, function: int, cap_id: int, body: bytes, block: RegisterBlock | None = None) -> int:
        """Append a capability with ``body`` after its id and next bytes. Returns the offset of the id byte.

        With ``block``, it handles accesses to the body (offset 0 is the byte after next).
        """

    def set_bar(self, function: int, bar: int, size: int, block: RegisterBlock) -> None:
        """Set a 64-bit memory BAR of ``size`` bytes (rounded up to a power of two) with trapped accesses."""

    def set_bar_ram(self, function: int, bar: int, buffer: DmaBuffer) -> None:
        """Set a 64-bit memory BAR backed by ``buffer`` of `dma`, whose size is a power of two.

        The other host's accesses are plain loads and stores, without a trap.
        """

    def set_msi(self, function: int, vectors: int) -> None:
        """Set up ``vectors`` MSI vectors, a power of two up to 32."""

    def set_msix(self, function: int, vectors: int, bar: int, offset: int) -> None:
        """Set up ``vectors`` MSI-X vectors: table at ``offset`` in ``bar``, pending bits behind it."""

    def clear(self, function: int) -> None:
        """Remove the function."""

    def start(self) -> None:
        """Appear on the link."""

    def stop(self) -> None: ...

    def window(self, function: int) -> Memory:
        """Return the other host's memory as this function may access it through outbound windows.

        It is valid for one epoch: after link-down, reset of the function or loss of bus mastering, every
        access raises a MemoryFault. Call again after `LinkEvents.link_up`.
        """

    def meter(self, function: int) -> Meter | None:
        """Return the meter of this function's accesses through windows; None if they take no time."""

    @property
    def lossy(self) -> bool:
        """Whether the link can lose doorbells and interrupts."""

    async def settle(self) -> None:
        """Sleep until the link has carried the accesses so far; return at once if it takes no time."""

    def raise_irq(self, function: int, vector: int) -> None:
        """Send MSI-X ``vector``, or set its pending bit while it is masked."""

    def raise_msi(self, function: int, vector: int) -> None:
        """Send MSI ``vector``, which is lost while MSI is off.

        One beyond the number that is enabled shares the message of a lower one.
        """

    def set_intx(self, function: int, asserted: bool) -> None: ...

    def msix_enabled(self, function: int) -> bool: ...

    def watch(self, function: int, events: FunctionEvents) -> None:
        """Report events of the function and of its link to ``events`` from now on."""

    def map_addr(self, addr: PciAddr, size: int) -> OutboundWindow:
        """Map an outbound window over ``size`` bytes at ``addr``. Raises MemoryError if none is free."""

    def unmap_addr(self, window: OutboundWindow) -> None: ...


class OutboundWindow(Protocol):
    """A range of the endpoint's own addresses that maps memory of the other host."""

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
    """Registers and interrupt line of a platform device, as its driver on the same host sees them.

    Registers are read and written as unsigned integers of ``size`` 1, 2, 4 or 8 bytes, little-endian. Name and ids come
    from the host's platform description, not from registers: ``vendor_id`` are the four letters and ``device_id`` is
    the number of the ACPI id.
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
        """Set the handler that runs whenever the line rises, and at once if it is high."""

    def free_irq(self) -> None: ...


class PlatformSlot(Protocol):
    """A register region of a host and its interrupt line, as the device in it sees them."""

    @property
    def memory(self) -> Memory:
        """The host's memory, which the device accesses directly."""

    def insert(self, block: RegisterBlock) -> None:
        """Plug in a device whose registers are ``block``."""

    def remove(self) -> None:
        """Unplug the device: reads return all-ones, writes are dropped."""

    def set_irq(self, asserted: bool) -> None: ...


class NtbEvents(Protocol):
    """Observer of a non-transparent bridge."""

    def link_event(self) -> None:
        """Handle a change of the link between the two hosts, see `Ntb.link_is_up`."""

    def db_event(self) -> None:
        """Handle an unmasked doorbell, see `Ntb.db_read`."""


@attrs.frozen
class MwLimits:
    """Alignment and size limits of memory exposed through a window."""

    addr_align: int
    size_align: int
    size_max: int
    """Bytes."""


class Ntb(Protocol):
    """A non-transparent bridge to one other host, as a client on this host sees it (Linux: include/linux/ntb.h).

    It is the only path to the other host: doorbells (32 bits, each set until it is cleared), scratchpads (32-bit
    words, one bank per host), and memory windows. While this host's own link is down, reads return all-ones and writes
    are dropped.
    """

    @property
    def name(self) -> str:
        """Location of the bridge, such as the name of a PCI function."""

    @property
    def dma(self) -> DmaMemory:
        """This host's memory, for buffers that the other host accesses."""

    def watch(self, events: NtbEvents | None) -> None:
        """Report events to ``events`` from now on."""

    # The link between the two hosts: up once both enable it.

    @property
    def link_is_up(self) -> bool: ...

    @property
    def link_epoch(self) -> int:
        """Number that rises whenever the link comes up, the same on both sides."""

    def link_enable(self) -> None:
        """Enable the link, now and whenever this host's own link comes up again. Does not wait."""

    def link_disable(self) -> None: ...

    def link_retry(self) -> None:
        """Set up again what could not be set up when this host's own link came up. Call it at intervals."""

    # Doorbells: masks of bits. A bit that rings again before it is cleared counts once.

    @property
    def db_valid_mask(self) -> int: ...

    def db_read(self) -> int:
        """Return the bits that are set, including masked ones."""

    def db_clear(self, bits: int) -> None:
        """Clear exactly these bits, even if others are set meanwhile."""

    def db_set_mask(self, bits: int) -> None:
        """Mask events of these bits; the bits are still set."""

    def db_clear_mask(self, bits: int) -> None:
        """Unmask events of these bits; one that is set already causes an event at once."""

    def peer_db_set(self, bits: int) -> None:
        """Ring the other host's doorbells for all bits of the mask."""

    # Scratchpads: a word that one side writes as its peer's is the other side's own word.

    @property
    def spad_count(self) -> int: ...

    def spad_read(self, index: int) -> int: ...

    @property
    def spads(self) -> Mapping[int, int]:
        """This host's scratchpads as last read or written here, without an access."""

    def spad_write(self, index: int, value: int) -> None: ...

    def peer_spad_read(self, index: int) -> int: ...

    def peer_spad_write(self, index: int, value: int) -> None: ...

    # Memory windows: each exposes a range of this host to the other one, and vice versa.

    @property
    def mw_count(self) -> int: ...

    def mw_get_align(self, window: int) -> MwLimits: ...

    def mw_set_trans(self, window: int, addr: Addr, size: int) -> None:
        """Expose ``size`` bytes of our memory at ``addr`` to the other host.

        Raises ValueError if the limits are not met, TransportLost if the bridge does not answer.
        """

    def mw_clear_trans(self, window: int) -> None:
        """Expose nothing through the window; the other host's mappings are closed on return."""

    def peer_mw(self, window: int, at: Addr, size: int) -> Memory:
        """Return the first ``size`` bytes that the other host exposes through the window, mapped at address ``at``.

        After the translation or either link ends, every access raises a MemoryFault, as it does without a translation.
        The call itself raises a MemoryFault while this host's own link is down.
        """

    def peer_mw_toll(self, window: int) -> Toll | None:
        """Return the meter of accesses through `peer_mw` on both hosts' links; None if they take no time."""
