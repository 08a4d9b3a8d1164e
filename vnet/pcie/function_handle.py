"""A driver's handle of one function behind a root port."""

from __future__ import annotations

from collections.abc import Callable

from drivers.contracts.hw import DmaMemory, Handler, LinkEvents, PciError
from rings.errors import MemoryFault
from rings.memory import Addr, Memory
from vnet.link.base import Direction, Link, all_ones
from vnet.link.path_meter import PathMeter, path_meter
from vnet.pcie.bar_window import BarWindow
from vnet.pcie.config_space import BARS as BAR_REGISTERS
from vnet.pcie.config_space import (
    CAP_FLR,
    CAP_MSI,
    CAP_MSIX,
    CAP_PCI_EXPRESS,
    CAPABILITIES,
    CAPABILITIES_END,
    CAPABILITIES_START,
    COMMAND,
    CONTROL_FLR,
    DEVICE_CAPS,
    DEVICE_CONTROL,
    MSI_ADDRESS,
    MSI_CAPABLE,
    MSI_CONTROL,
    MSI_DATA,
    MSI_ENABLE,
    MSI_ENABLED,
    MSIX_CONTROL,
    MSIX_ENABLE,
    MSIX_FUNCTION_MASK,
    MSIX_SIZE,
    STATUS,
    STATUS_CAPABILITIES,
    MemoryBar,
    PciCommand,
    capability_view,
)
from vnet.pcie.interrupts import Interrupts
from vnet.pcie.msix import ENTRY, VECTOR_MASK
from vnet.views.pci import FunctionView

__all__ = ["PciFunctionHandle"]

BAR_TYPE_64 = 0x4
DOWNSTREAM = Direction.DOWNSTREAM


class PciFunctionHandle:
    """Implements `drivers.contracts.hw.PciFunction`. The same object survives link-down and link-up."""

    def __init__(
        self, name: str, link: Link, number: int, dma: DmaMemory, interrupts: Interrupts, source: object
    ) -> None:
        self.number = number
        self.name = name
        self._link = link
        self._dma = dma
        self._interrupts = interrupts
        self._source = source
        self._removed = False
        self._online = False
        self._bars: dict[int, MemoryBar] = {}
        self._capabilities: tuple[tuple[int, int], ...] = ()
        """(offset, id) of each capability at the last enumeration."""
        self._events: LinkEvents | None = None
        self._errors: Callable[[PciError], None] | None = None
        self._table: tuple[int, int] = (0, 0)
        """BAR and offset of the MSI-X table; valid while MSI-X is on."""
        self._vectors: dict[int, int] = {}
        self._msi: tuple[int, int] = (0, 0)
        """Address and number of the messages of MSI; no number while MSI is off."""
        self._intx: Handler | None = None
        self._intx_asserted = False
        self.identity = self.read_identity()

    @property
    def dma(self) -> DmaMemory:
        return self._dma

    @property
    def interrupts(self) -> Interrupts:
        """Handlers of the messages of all functions."""
        return self._interrupts

    @property
    def online(self) -> bool:
        return self._online

    @property
    def lossy(self) -> bool:
        return self._link.lossy

    @property
    def vendor_id(self) -> int:
        return self.identity & 0xFFFF

    @property
    def device_id(self) -> int:
        return self.identity >> 16

    def config_read(self, offset: int, size: int) -> int:
        return all_ones(size) if self._removed else self._link.config_read(self.number, offset, size)

    def config_write(self, offset: int, size: int, value: int) -> None:
        if not self._removed:
            self._link.config_write(self.number, offset, size, value)

    def bar_size(self, bar: int) -> int:
        return self._bars[bar].size if bar in self._bars else 0

    def bar_read(self, bar: int, offset: int, size: int) -> int:
        at = self._bars.get(bar)
        if at is None or not 0 <= offset <= at.size - size:
            return all_ones(size)
        return self._link.mem_read(DOWNSTREAM, at.address + offset, size)

    def bar_write(self, bar: int, offset: int, size: int, value: int) -> None:
        at = self._bars.get(bar)
        if at is not None and 0 <= offset <= at.size - size:
            self._link.mem_write(DOWNSTREAM, at.address + offset, size, value)

    def bar_route(self, bar: int, offset: int, size: int) -> tuple[Link, int] | None:
        """Return the link that carries a write to a BAR, and its address on the link; None if it goes nowhere."""
        at = self._bars.get(bar)
        return (self._link, at.address + offset) if at is not None and 0 <= offset <= at.size - size else None

    def bar_map(self, bar: int, offset: int, size: int, at: Addr) -> Memory:
        bar_at = self._bars.get(bar)
        if bar_at is None or size <= 0 or not 0 <= offset <= bar_at.size - size:
            raise MemoryFault(at, size, write=True, reason=f"BAR {bar} has no {size} bytes at {offset:#x}")
        address = bar_at.address + offset
        return BarWindow(self._link.map(DOWNSTREAM, address, size), address - at)

    def bar_toll(self, bar: int, offset: int, size: int) -> PathMeter | None:
        at = self._bars.get(bar)
        return None if at is None else path_meter(self._link, DOWNSTREAM, at.address + offset, size)

    def capabilities(self) -> tuple[tuple[int, int], ...]:
        """Return (offset, id) in list order, up to a loop or a pointer out of range."""
        ids: dict[int, int] = {}
        if self.config_read(STATUS, 2) & STATUS_CAPABILITIES:
            at = self.config_read(CAPABILITIES, 1) & ~3
            while CAPABILITIES_START <= at < CAPABILITIES_END and at not in ids:
                ids[at] = self.config_read(at, 1)
                if ids[at] == 0xFF:  # all-ones: the link went down, or there is no list
                    break
                at = self.config_read(at + 1, 1) & ~3
        return tuple((at, number) for at, number in ids.items() if number != 0xFF)

    def capability(self, cap_id: int) -> int | None:
        """Return the offset of the first capability with this id; None without one."""
        return next((at for at, number in self.capabilities() if number == cap_id), None)

    @property
    def vectors(self) -> int:
        """Number of vectors in the MSI-X table; 0 if the function has no MSI-X."""
        at = self.capability(CAP_MSIX)
        return 0 if at is None else (self.config_read(at + MSIX_CONTROL, 2) & MSIX_SIZE) + 1

    def enable_msix(self) -> int:
        at = self.capability(CAP_MSIX)
        if at is None:
            return 0
        self._release_vectors()
        control = self.config_read(at + MSIX_CONTROL, 2)
        if control == all_ones(2):
            return 0
        vectors = (control & MSIX_SIZE) + 1
        table = self.config_read(at + 4, 4)
        self._table = table & 7, table & ~7
        # The function mask is on while entries still have old contents.
        self.config_write(at + MSIX_CONTROL, 2, control | MSIX_ENABLE | MSIX_FUNCTION_MASK)
        for vector in range(vectors):
            self._entry_write(vector, 12, VECTOR_MASK)
        self.config_write(at + MSIX_CONTROL, 2, (control | MSIX_ENABLE) & ~MSIX_FUNCTION_MASK)
        return vectors

    def disable_msix(self) -> None:
        self._release_vectors()
        at = self.capability(CAP_MSIX)
        if at is not None:
            control = self.config_read(at + MSIX_CONTROL, 2)
            self.config_write(at + MSIX_CONTROL, 2, control & ~(MSIX_ENABLE | MSIX_FUNCTION_MASK))

    def request_irq(self, vector: int, handler: Handler) -> None:
        self._entry_write(vector, 12, VECTOR_MASK)
        self._interrupts.release(self._vectors.pop(vector, 0))
        data = self._vectors[vector] = self._interrupts.request(self._source, handler)
        self._entry_write(vector, 0, self._interrupts.base & all_ones(4))
        self._entry_write(vector, 4, self._interrupts.base >> 32)
        self._entry_write(vector, 8, data)
        self._entry_write(vector, 12, 0)  # last: unmasking sends a pending message

    def free_irq(self, vector: int) -> None:
        """Mask one vector and remove its handler."""
        number = self._vectors.pop(vector, None)
        if number is not None:
            self._entry_write(vector, 12, VECTOR_MASK)
            self._interrupts.release(number)

    @property
    def msi_vectors(self) -> int:
        """Number of MSI vectors; 0 if the function has no MSI."""
        at = self.capability(CAP_MSI)
        return 0 if at is None else 1 << ((self.config_read(at + MSI_CONTROL, 2) & MSI_CAPABLE) >> 1)

    def enable_msi(self, vectors: int) -> int:
        """Turn MSI on for ``vectors`` vectors, a power of two. Returns their number, 0 if the function has fewer."""
        at = self.capability(CAP_MSI)
        self.disable_msi()
        if at is None or not vectors <= self.msi_vectors:
            return 0
        address = self._interrupts.place()
        self._msi = address, vectors
        self.config_write(at + MSI_ADDRESS, 4, address & all_ones(4))
        self.config_write(at + MSI_ADDRESS + 4, 4, address >> 32)
        self.config_write(at + MSI_DATA, 2, 0)
        self._write_msi_control(at, MSI_ENABLE | vectors.bit_length() - 1 << 4)
        return vectors

    def disable_msi(self) -> None:
        at = self.capability(CAP_MSI)
        if at is not None:
            self._write_msi_control(at, 0)
        self._release_msi()

    def request_msi(self, vector: int, handler: Handler) -> None:
        """Set the handler of an MSI vector, which runs once per message."""
        self._interrupts.request_at(self._msi[0], vector, self._source, handler)

    def free_msi(self, vector: int) -> None:
        """Remove the handler of one MSI vector."""
        self._interrupts.release_at(self._msi[0], vector)

    def request_intx(self, handler: Handler) -> None:
        """Call ``handler`` when the function asserts INTx, and now if it is asserted."""
        self._intx = handler
        if self._intx_asserted:
            handler()

    @property
    def intx_asserted(self) -> bool:
        """Whether the function asserts INTx."""
        return self._intx_asserted

    def free_intx(self) -> None:
        """Remove the handler of INTx."""
        self._intx = None

    def free_irqs(self) -> None:
        self._release_vectors()
        self._release_msi()
        self.free_intx()

    def watch(self, events: LinkEvents | None) -> None:
        self._events = events

    def watch_errors(self, handler: Callable[[PciError], None] | None) -> None:
        """Report errors of the function and uncorrectable ones of its link; after a fatal one the link is reset.

        Drivers see the reset as `LinkEvents.link_down` and `LinkEvents.link_up`.
        """
        self._errors = handler

    def reset(self) -> bool:
        """Do a function-level reset and restore BARs and command register; return False if it is not supported.

        The driver must request all interrupts again.
        """
        at = self.capability(CAP_PCI_EXPRESS)
        if at is None or not self._online or not self.config_read(at + DEVICE_CAPS, 4) & CAP_FLR:
            return False
        self.free_irqs()
        control = self.config_read(at + DEVICE_CONTROL, 2)
        self.config_write(at + DEVICE_CONTROL, 2, control | CONTROL_FLR)
        self.config_write(at + DEVICE_CONTROL, 2, control)
        self._start()
        return True

    def snapshot(self) -> FunctionView:
        """Return the function as it was enumerated, and its interrupts. No access crosses the link."""
        return FunctionView(
            self.name,
            self.vendor_id,
            self.device_id,
            self.online,
            tuple(bar.snapshot() for bar in self._bars.values()),
            tuple(capability_view(at, cap_id) for at, cap_id in self._capabilities),
            tuple(sorted(self._vectors)),
            self._intx_asserted,
        )

    # Used by the root port.

    @property
    def bars(self) -> tuple[MemoryBar, ...]:
        return tuple(self._bars.values())

    def read_identity(self) -> int:
        """Read vendor and device id as one word."""
        return self.config_read(0, 4)

    def configure(self, place: Callable[[int], int | None]) -> None:
        """Size every BAR, assign the address that ``place(size)`` returns, and enable the function."""
        self._bars = {}
        self.config_write(COMMAND, 2, 0)
        bar = 0
        while bar < 6:
            at = BAR_REGISTERS + 4 * bar
            low = self.config_read(at, 4)
            if bar == 5 or low & 0x7 != BAR_TYPE_64:
                bar += 1  # absent, I/O or 32-bit: the aperture is above 4 GiB
                continue
            for half in (at, at + 4):
                self.config_write(half, 4, all_ones(4))
            mask = (self.config_read(at, 4) | self.config_read(at + 4, 4) << 32) & ~0xF
            size = mask & -mask
            address = place(size) if size else None
            if address is not None:
                self._bars[bar] = MemoryBar(bar, address, size)
            else:
                self._write_bar(bar, 0)
            bar += 2
        self._capabilities = self.capabilities()
        self._start()
        self._online = True

    def set_offline(self) -> None:
        """Forget interrupts at the end of an epoch, which reset the function."""
        self._online = False
        self.free_irqs()
        self._intx_asserted = False

    def set_removed(self) -> None:
        """Disable the handle for good, so that it never accesses another function in the same place."""
        self.set_offline()
        self._removed = True
        self._bars = {}

    def report_link(self, up: bool) -> None:
        """Report the link's state to the driver."""
        if self._events is not None:
            (self._events.link_up if up else self._events.link_down)()

    def report_error(self, error: PciError) -> None:
        """Report an error to the driver."""
        if self._errors is not None:
            self._errors(error)

    def set_intx(self, asserted: bool) -> bool:
        """Handle an INTx message; return False if it asserts and no handler is registered."""
        self._intx_asserted = asserted
        if asserted and self._intx is not None:
            self._intx()
        return not asserted or self._intx is not None

    def _start(self) -> None:
        for bar in self._bars.values():
            self._write_bar(bar.index, bar.address)
        self.config_write(COMMAND, 2, PciCommand.MEMORY | PciCommand.BUS_MASTER | PciCommand.SERR)

    def _write_bar(self, bar: int, address: int) -> None:
        self.config_write(BAR_REGISTERS + 4 * bar, 4, address & all_ones(4))
        self.config_write(BAR_REGISTERS + 4 * bar + 4, 4, address >> 32)

    def _entry_write(self, vector: int, offset: int, value: int) -> None:
        bar, table = self._table
        self.bar_write(bar, table + ENTRY * vector + offset, 4, value)

    def _release_vectors(self) -> None:
        for vector in list(self._vectors):
            self.free_irq(vector)

    def _write_msi_control(self, at: int, bits: int) -> None:
        control = self.config_read(at + MSI_CONTROL, 2) & ~(MSI_ENABLE | MSI_ENABLED)
        self.config_write(at + MSI_CONTROL, 2, control | bits)

    def _release_msi(self) -> None:
        address, vectors = self._msi
        self._msi = 0, 0
        for vector in range(vectors):
            self._interrupts.release_at(address, vector)
