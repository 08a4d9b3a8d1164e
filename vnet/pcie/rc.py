"""The root complex of one host: root ports, enumeration, BAR addresses, and interrupts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Protocol

from drivers.contracts.hw import MAX_FUNCTIONS, DmaMemory
from rings.errors import MemoryFault
from rings.memory import Addr
from vnet.link.base import Direction, Link, RangedMemory, Region, all_ones
from vnet.linux.memory import MSI_BASE
from vnet.pcie.error_service import ErrorService, Reporting
from vnet.pcie.function_handle import PciFunctionHandle
from vnet.pcie.interrupts import MSI_SIZE, Interrupts
from vnet.pcie.root_errors import device_of
from vnet.views.pci import BusView, RootStatistics

__all__ = ["PciBusEvents", "RootComplex", "RootMemory"]

GIB = 1 << 30
APERTURE = 64 * GIB
"""Bytes of addresses of a root port."""
NO_VENDOR = 0xFFFF
"""Vendor id that a read returns if the function does not exist."""


def port_name(bus: int) -> str:
    """Return the name of the root port in front of a bus as lspci shows it."""
    return f"0000:00:{device_of(bus):02x}.0"


class RootMemory(RangedMemory, DmaMemory, Protocol):
    """The memory that functions access: a host's, or that of another process."""


class PciBusEvents(Protocol):
    """Owner of the host's PCI bus. The calls come during the link's transition."""

    def function_added(self, function: PciFunctionHandle) -> None: ...

    def function_removed(self, function: PciFunctionHandle) -> None:
        """Handle the removal or replacement of a function, after its link_down."""


class _RootPort:
    """A root port with one link, bus number and aperture; implements `vnet.link.base.RootPort`."""

    def __init__(
        self, rc: RootComplex, link: Link, bus: int, aperture: tuple[int, int], reporting: Reporting | None
    ) -> None:
        self.link = link
        self.bus = bus
        self.functions: dict[int, PciFunctionHandle] = {}
        self.asserts = 0
        self.unhandled = 0
        self._rc = rc
        self._aperture = aperture
        self.errors: ErrorService | None = None
        """Error handling; None without Advanced Error Reporting."""
        if reporting is not None:
            self.errors = ErrorService(reporting, link.name, port_name(bus), bus, aperture, self.functions.values)

    def mem_read(self, addr: int, size: int, function: int) -> int | None:
        try:
            return int.from_bytes(self._rc.memory_of(function).view(Addr(addr), size), "little")
        except MemoryFault:
            return None

    def mem_write(self, addr: int, size: int, value: int, function: int) -> bool:
        if self._rc.interrupts.message(self, addr, size, value):
            return True
        try:
            self._rc.memory_of(function).view(Addr(addr), size, True)[:] = (value & all_ones(size)).to_bytes(
                size, "little"
            )
        except MemoryFault:
            return False
        return True

    def regions(self, addr: int, size: int, function: int) -> Iterable[Region]:
        return self._rc.memory_of(function).contents(addr, size)

    def beyond(self, addr: int, size: int) -> Iterable[tuple[Link, Direction]]:
        return ()

    def intx(self, function: int, asserted: bool) -> None:
        self.asserts += asserted
        handle = self.functions.get(function)
        if handle is None or not handle.set_intx(asserted):
            self.unhandled += 1

    def link_up(self) -> None:
        self.scan()

    def link_down(self) -> None:
        for handle in self.functions.values():
            handle.set_offline()
        for handle in list(self.functions.values()):
            handle.report_link(up=False)

    def removed(self) -> None:
        for number in list(self.functions):
            self.drop(number)

    def scan(self, numbers: Iterable[int] = range(MAX_FUNCTIONS)) -> None:
        """Configure functions that are new or offline; functions that are online stay as they are."""
        returned: list[PciFunctionHandle] = []
        new: list[PciFunctionHandle] = []
        for number in numbers:
            identity = self.link.config_read(number, 0, 4)
            known = self.functions.get(number)
            if known is not None and known.identity != identity:
                self.drop(number)
                known = None
            if identity & 0xFFFF == NO_VENDOR or (known is not None and known.online):
                continue
            handle = known or self._rc.make_handle(self, number)
            (returned if known else new).append(handle)
            self.functions[number] = handle
            handle.configure(self._place)
            if self.errors is not None:
                self.errors.enable(handle)
        # Reported last, because a driver may use any function at once.
        for handle in returned:
            handle.report_link(up=True)
        for handle in new:
            self._rc.report_added(handle)

    def drop(self, number: int) -> None:
        """Remove a function that is gone."""
        handle = self.functions.pop(number)
        was_online = handle.online
        handle.set_removed()
        if was_online:
            handle.report_link(up=False)
        self._rc.report_removed(handle)

    def _place(self, size: int) -> int | None:
        """Return the lowest free multiple of ``size`` in the aperture; None if it is full."""
        occupied = sorted((bar.address, bar.address + bar.size) for h in self.functions.values() for bar in h.bars)
        start, end = self._aperture
        for low, high in occupied:
            start = -(-start // size) * size
            if start + size <= low:
                break
            start = max(start, high)
        start = -(-start // size) * size
        return start if start + size <= end else None


class RootComplex:
    """A root complex. Each attached link is a bus behind its own root port: bus 1, 2, ... of domain 0."""

    def __init__(
        self,
        memory: RootMemory,
        *,
        mmio: int = 0x10_0000_0000,
        msi: int = MSI_BASE,
        memories: Mapping[int, RootMemory] | None = None,
    ) -> None:
        """Each root port has `APERTURE` bytes of addresses, from ``mmio`` on; ``msi`` is the MSI window's address.

        ``memories`` has the memory of functions, by number, that access another than ``memory``. Raises ValueError if
        the MSI window or the addresses of root ports overlap RAM.
        """
        if any((base < msi + MSI_SIZE and msi < base + size) or mmio < base + size for base, size in memory.ranges):
            raise ValueError(f"RAM reaches into the MSI window at {msi:#x} or the MMIO window at {mmio:#x}")
        self.memory = memory
        self._memories = memories or {}
        self.interrupts = Interrupts(msi)
        self._mmio = mmio
        self._ports: list[_RootPort] = []
        self._events: PciBusEvents | None = None

    def attach(self, link: Link, reporting: Reporting | None = None) -> int:
        """Put ``link`` behind a new root port; return the bus number of its functions, the lowest that is free.

        With ``reporting``, the root port has Advanced Error Reporting, and a configuration space for it.
        """
        taken = {port.bus for port in self._ports}
        bus = next(bus for bus in range(1, len(taken) + 2) if bus not in taken)
        start = self._mmio + (bus - 1) * APERTURE
        port = _RootPort(self, link, bus, (start, start + APERTURE), reporting)
        self._ports.append(port)
        self._ports.sort(key=lambda port: port.bus)
        link.attach_root(port)
        return bus

    def detach(self, link: Link) -> None:
        """Remove the root port of ``link``, whose endpoint is gone."""
        self._ports = [port for port in self._ports if port.link is not link]

    def function_added(self, link: Link, number: int) -> None:
        """Configure a function that was added while ``link`` is up, as a rescan does. Others notice nothing."""
        port = self._port(link)
        if link.up and port is not None:
            port.scan((number,))

    def function_removed(self, link: Link, number: int) -> None:
        """Remove a function that is gone from the bus, as a hot-plug slot does. Harmless if it had none."""
        port = self._port(link)
        if port is not None and number in port.functions:
            port.drop(number)

    def _port(self, link: Link) -> _RootPort | None:
        return next((port for port in self._ports if port.link is link), None)

    def watch(self, events: PciBusEvents | None) -> None:
        """Report the existing functions, then all changes, to ``events``."""
        self._events = events
        for handle in self.functions:
            self.report_added(handle)

    def enumerate(self) -> tuple[PciFunctionHandle, ...]:
        """Scan every link that is up for added and removed functions; return all functions."""
        for port in self._ports:
            if port.link.up:
                port.scan()
        return self.functions

    @property
    def functions(self) -> tuple[PciFunctionHandle, ...]:
        return tuple(handle for port in self._ports for _, handle in sorted(port.functions.items()))

    def statistics(self) -> RootStatistics:
        return RootStatistics(
            self.interrupts.delivered,
            self.interrupts.spurious,
            sum(port.asserts for port in self._ports),
            sum(port.unhandled for port in self._ports),
        )

    def snapshot(self) -> tuple[BusView, ...]:
        """Return a view per bus. No access crosses a link."""
        return tuple(
            BusView(
                port.bus,
                port.link.name,
                port.link.up,
                port.link.epoch,
                tuple(handle.snapshot() for _, handle in sorted(port.functions.items())),
            )
            for port in self._ports
        )

    def function_name(self, bus: int, number: int) -> str:
        """Return the function's name as lspci shows it."""
        return f"0000:{bus:02x}:00.{number}"

    def errors(self, link: Link) -> ErrorService | None:
        """Return the error handling of a link; None without Advanced Error Reporting."""
        port = self._port(link)
        return None if port is None else port.errors

    # Used by the root ports.

    def make_handle(self, port: _RootPort, number: int) -> PciFunctionHandle:
        name = self.function_name(port.bus, number)
        return PciFunctionHandle(name, port.link, number, self.memory_of(number), self.interrupts, port)

    def memory_of(self, function: int) -> RootMemory:
        """Return the memory that functions of this number access."""
        return self._memories.get(function, self.memory)

    def report_added(self, handle: PciFunctionHandle) -> None:
        if self._events is not None:
            self._events.function_added(handle)

    def report_removed(self, handle: PciFunctionHandle) -> None:
        if self._events is not None:
            self._events.function_removed(handle)
