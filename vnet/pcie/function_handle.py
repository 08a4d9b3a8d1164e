"""One function behind a root port, as a driver on the root complex uses it."""

from __future__ import annotations

from collections.abc import Callable

from drivers.contracts.hw import DmaMemory, Handler, LinkEvents
from rings.errors import MemoryFault
from rings.memory import Addr, Memory
from vnet.link.base import Direction, Link, all_ones
from vnet.link.path_meter import Toll, toll_of
from vnet.pcie.bar_window import BarWindow
from vnet.pcie.config_space import BARS as BAR_REGISTERS
from vnet.pcie.config_space import (
    CAP_FLR,
    CAP_MSIX,
    CAP_NAMES,
    CAP_PCI_EXPRESS,
    CAPABILITIES,
    CAPABILITIES_END,
    CAPABILITIES_START,
    COMMAND,
    CONTROL_FLR,
    DEVICE_CAPS,
    DEVICE_CONTROL,
    MSIX_CONTROL,
    MSIX_ENABLE,
    MSIX_FUNCTION_MASK,
    MSIX_SIZE,
    STATUS,
    STATUS_CAPABILITIES,
    Bar,
    Command,
)
from vnet.pcie.interrupts import Interrupts
from vnet.pcie.msix import ENTRY, VECTOR_MASK

__all__ = ["PciFunctionHandle"]

BAR_TYPE_64 = 0x4
DOWNSTREAM = Direction.DOWNSTREAM


class PciFunctionHandle:
    """Implements `drivers.contracts.hw.PciFunction`. It stays the same object while the link goes down and up again."""

    def __init__(
        self, name: str, link: Link, number: int, dma: DmaMemory, interrupts: Interrupts, source: object
    ) -> None:
        self.number = number
        self.name = name
        self._link = link
        self._dma = dma
        self._interrupts = interrupts
        self._source = source
        self._gone = False
        self._online = False
        self._bars: dict[int, Bar] = {}
        self._capabilities: tuple[tuple[int, int], ...] = ()
        """As enumeration found them."""
        self._events: LinkEvents | None = None
        self._table: tuple[int, int] = (0, 0)
        """BAR and offset of the MSI-X table, while MSI-X is on."""
        self._vectors: dict[int, int] = {}
        self._intx: Handler | None = None
        self._intx_asserted = False
        self.identity = self.read_identity()

    @property
    def dma(self) -> DmaMemory:
        return self._dma

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
        return all_ones(size) if self._gone else self._link.config_read(self.number, offset, size)

    def config_write(self, offset: int, size: int, value: int) -> None:
        if not self._gone:
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

    def bar_map(self, bar: int, offset: int, size: int, at: Addr) -> Memory:
        bar_at = self._bars.get(bar)
        if bar_at is None or size <= 0 or not 0 <= offset <= bar_at.size - size:
            raise MemoryFault(at, size, write=True, reason=f"BAR {bar} has no {size} bytes at {offset:#x}")
        address = bar_at.address + offset
        return BarWindow(self._link.map(DOWNSTREAM, address, size), address - at)

    def bar_toll(self, bar: int, offset: int, size: int) -> Toll | None:
        at = self._bars.get(bar)
        return None if at is None else toll_of(self._link, DOWNSTREAM, at.address + offset, size)

    def capabilities(self) -> tuple[tuple[int, int], ...]:
        """(offset, id) in list order; a list that loops or leaves its room ends there."""
        found: dict[int, int] = {}
        if self.config_read(STATUS, 2) & STATUS_CAPABILITIES:
            at = self.config_read(CAPABILITIES, 1) & ~3
            while CAPABILITIES_START <= at < CAPABILITIES_END and at not in found:
                found[at] = self.config_read(at, 1)
                if found[at] == 0xFF:  # all-ones: the link went down, or the list was never there
                    break
                at = self.config_read(at + 1, 1) & ~3
        return tuple((at, cap_id) for at, cap_id in found.items() if cap_id != 0xFF)

    def capability(self, cap_id: int) -> int | None:
        """The offset of the first capability of that kind."""
        return next((at for at, found in self.capabilities() if found == cap_id), None)

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
        # All of it masked while the entries are still whatever they were.
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
        self._entry_write(vector, 12, 0)  # last: a pending message goes out here

    def request_intx(self, handler: Handler) -> None:
        """Called when the function asserts INTx, and at once where it does already."""
        self._intx = handler
        if self._intx_asserted:
            handler()

    def free_irqs(self) -> None:
        self._release_vectors()
        self._intx = None

    def watch(self, events: LinkEvents | None) -> None:
        self._events = events

    def reset(self) -> bool:
        """Function-level reset, then BARs and command register as before; False where it has none.

        Every interrupt must be requested again afterwards.
        """
        at = self.capability(CAP_PCI_EXPRESS)
        if at is None or not self._online or not self.config_read(at + DEVICE_CAPS, 4) & CAP_FLR:
            return False
        self.free_irqs()
        control = self.config_read(at + DEVICE_CONTROL, 2)
        self.config_write(at + DEVICE_CONTROL, 2, control | CONTROL_FLR)
        self._start()
        return True

    def describe(self) -> dict[str, object]:
        """Identity, BARs, capabilities and interrupts as plain data, from what is known: the link carries nothing."""
        return {
            "name": self.name,
            "vendor": self.vendor_id,
            "device": self.device_id,
            "online": self.online,
            "bars": [{"bar": b.index, "address": b.address, "size": b.size} for b in self._bars.values()],
            "capabilities": [
                {"offset": at, "id": cap_id, "name": CAP_NAMES.get(cap_id, "unknown")}
                for at, cap_id in self._capabilities
            ],
            "vectors": sorted(self._vectors),
            "intx": self._intx_asserted,
        }

    # What the root port uses.

    @property
    def bars(self) -> tuple[Bar, ...]:
        return tuple(self._bars.values())

    def read_identity(self) -> int:
        """Vendor and device as one word."""
        return self.config_read(0, 4)

    def configure(self, place: Callable[[int], int | None]) -> None:
        """Size every BAR, give it the address that ``place(size)`` finds, and turn the function on."""
        self._bars = {}
        self.config_write(COMMAND, 2, 0)
        bar = 0
        while bar < 6:
            at = BAR_REGISTERS + 4 * bar
            low = self.config_read(at, 4)
            if bar == 5 or low & 0x7 != BAR_TYPE_64:
                bar += 1  # absent, I/O or 32-bit: our window lies above 4 GiB
                continue
            for half in (at, at + 4):
                self.config_write(half, 4, all_ones(4))
            mask = (self.config_read(at, 4) | self.config_read(at + 4, 4) << 32) & ~0xF
            size = mask & -mask
            address = place(size) if size else None
            if address is not None:
                self._bars[bar] = Bar(bar, address, size)
            else:
                self._write_bar(bar, 0)
            bar += 2
        self._capabilities = self.capabilities()
        self._start()
        self._online = True

    def go_offline(self) -> None:
        """The epoch is over: BARs, command register and interrupts are what a reset leaves."""
        self._online = False
        self._release_vectors()
        self._intx = None
        self._intx_asserted = False

    def go_away(self) -> None:
        """It will never be back: nothing reaches whatever takes its place."""
        self.go_offline()
        self._gone = True
        self._bars = {}

    def tell(self, up: bool) -> None:
        if self._events is not None:
            (self._events.link_up if up else self._events.link_down)()

    def set_intx(self, asserted: bool) -> bool:
        """An INTx message came in; whether there was a handler to call."""
        self._intx_asserted = asserted
        if asserted and self._intx is not None:
            self._intx()
        return not asserted or self._intx is not None

    def _start(self) -> None:
        for bar in self._bars.values():
            self._write_bar(bar.index, bar.address)
        self.config_write(COMMAND, 2, Command.MEMORY | Command.BUS_MASTER | Command.SERR)

    def _write_bar(self, bar: int, address: int) -> None:
        self.config_write(BAR_REGISTERS + 4 * bar, 4, address & all_ones(4))
        self.config_write(BAR_REGISTERS + 4 * bar + 4, 4, address >> 32)

    def _entry_write(self, vector: int, offset: int, value: int) -> None:
        bar, table = self._table
        self.bar_write(bar, table + ENTRY * vector + offset, 4, value)

    def _release_vectors(self) -> None:
        for vector, data in self._vectors.items():
            self._entry_write(vector, 12, VECTOR_MASK)
            self._interrupts.release(data)
        self._vectors.clear()
