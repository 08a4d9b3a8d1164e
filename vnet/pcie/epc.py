"""The endpoint controller: up to eight functions behind one link, with outbound windows into the other host."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import attrs

from drivers.contracts.hw import (
    MAX_FUNCTIONS,
    DmaBuffer,
    DmaMemory,
    FunctionEvents,
    OutboundWindow,
    PciHeader,
    RegisterBlock,
)
from rings.errors import MemoryFault
from rings.memory import Memory, PciAddr, view_of
from rings.observers.meter import Meter
from vnet.errors import LinkDown, UnsupportedRequest
from vnet.link.base import Direction, Fault, Link, Region, all_ones
from vnet.link.wire.errors import ErrorWire
from vnet.pcie.bar_ram import BarRam
from vnet.pcie.bar_window import BarMemory, find_regions
from vnet.pcie.config_space import (
    MSIX_ENABLE,
    MSIX_FUNCTION_MASK,
    Capability,
    ConfigSpace,
    PciCommand,
    msi_capability,
    msix_capability,
    pci_express_capability,
)
from vnet.pcie.endpoint_errors import EndpointErrors
from vnet.pcie.msi import Msi
from vnet.pcie.msix import ENTRY, MsixBar, MsixTable, NoRegisters, pending_bytes
from vnet.pcie.outbound import FunctionWindow, Outbound, OutboundPool
from vnet.views.pci import BarView, ControllerView, EndpointFunctionView, OutboundView

__all__ = ["EndpointController"]

GIB = 1 << 30


@attrs.define
class _Function:
    config: ConfigSpace
    blocks: dict[int, RegisterBlock] = attrs.field(factory=dict)
    memory: dict[tuple[int, int], BarMemory] = attrs.field(factory=dict)
    """Memory that replaces registers, by BAR and offset in the BAR."""
    msi: Msi | None = None
    msix: MsixTable | None = None
    intx: bool = False
    intx_sent: bool = False
    bus_master: bool = False
    window: FunctionWindow | None = None
    events: FunctionEvents | None = None


class EndpointController:
    """Implements `drivers.contracts.hw.Epc` for the functions and `vnet.link.base.EndpointPort` for the link."""

    def __init__(
        self,
        link: Link,
        *,
        memory: DmaMemory | None = None,
        name: str = "epc",
        windows: int = 8,
        window_size: int = 4 * GIB,
        window_align: int = 64 << 10,
        window_base: int = 0x80_0000_0000,
        wire: ErrorWire | None = None,
    ) -> None:
        """Make ``windows`` outbound windows of up to ``window_size`` bytes, from local address ``window_base`` on.

        ``memory`` is the host's memory, for functions that expose part of it in a BAR. With ``wire``, functions report
        the errors of their port by Advanced Error Reporting.
        """
        self.name = name
        self._host_memory = memory
        self._link = link
        self._wire = wire
        self.errors = None if wire is None else EndpointErrors(wire)
        """Error reporting of the functions; None without it."""
        self._functions: dict[int, _Function] = {}
        self._pool = OutboundPool(link, windows, window_size, window_align, window_base)
        self._decoder: list[tuple[int, int, RegisterBlock]] = []
        self._memory: list[tuple[int, BarMemory]] = []
        """BAR memory that is currently decoded, with its address on the link."""
        link.attach_endpoint(self)

    # Used by the functions.

    def set_header(self, function: int, header: PciHeader) -> None:
        """Create a function. Raises ValueError if it exists or its number is out of range."""
        if not 0 <= function < MAX_FUNCTIONS or function in self._functions:
            raise ValueError(f"{self.name} has no room for a function {function}")
        config = ConfigSpace(header)
        config.add(self._express())
        if self.errors is not None:
            self.errors.add(function, config)
        self._functions[function] = _Function(config)
        self._count_functions()

    def _express(self) -> Capability:
        if self._wire is None:
            return pci_express_capability()
        parameters = self._wire.parameters
        return pci_express_capability(
            generation=parameters.generation, lanes=parameters.lanes, max_payload=parameters.max_payload
        )

    def has_function(self, function: int) -> bool:
        """Return whether the controller has a function with this number."""
        return function in self._functions

    def add_capability(self, function: int, cap_id: int, body: bytes, block: RegisterBlock | None = None) -> int:
        return self._functions[function].config.add(Capability(cap_id, body), block)

    def set_bar(self, function: int, bar: int, size: int, block: RegisterBlock) -> None:
        f = self._functions[function]
        f.config.set_bar(bar, size)
        f.blocks[bar] = block

    def set_bar_memory(self, function: int, bar: int, offset: int, memory: BarMemory | None) -> None:
        """Map ``memory`` at ``offset`` of ``bar``; None makes it registers again.

        The other host accesses the memory without a copy. Views of the previous memory end when it is replaced or its
        window closes.
        """
        f = self._functions[function]
        old = f.memory.pop((bar, offset), None)
        if old is not None:
            old.window.watch(None)
            self._decode()
        if memory is not None:
            f.memory[bar, offset] = memory
            memory.window.watch(self)
            self._decode()

    def window_ended(self, window: Outbound) -> None:
        """Make the BAR memory behind a window that closed registers again."""
        for number, f in self._functions.items():
            for bar, offset in [place for place, memory in f.memory.items() if memory.window is window]:
                self.set_bar_memory(number, bar, offset, None)

    @property
    def dma(self) -> DmaMemory:
        """Memory of the endpoint's host. Raises ValueError if the controller has none."""
        if self._host_memory is None:
            raise ValueError(f"{self.name} has no access to its host's memory")
        return self._host_memory

    def set_bar_ram(self, function: int, bar: int, buffer: DmaBuffer) -> None:
        """Back ``bar`` with a buffer of RAM. Raises ValueError if its size is no power of two."""
        self.set_bar(function, bar, buffer.size, BarRam(self.dma, buffer))

    def set_msi(self, function: int, vectors: int) -> None:
        """Add MSI. Raises ValueError if the function has it, or if ``vectors`` is no power of two up to 32."""
        f = self._functions[function]
        if f.msi is not None:
            raise ValueError(f"function {function} has MSI")
        f.config.add(msi_capability(vectors))
        f.msi = Msi(vectors, self._sender(function))

    def set_msix(self, function: int, vectors: int, bar: int, offset: int) -> None:
        """Add MSI-X; a BAR that `set_bar` did not make holds nothing else. Raises ValueError if it does not fit."""
        f = self._functions[function]
        pending = offset + ENTRY * vectors
        if bar not in f.blocks:
            self.set_bar(function, bar, pending + pending_bytes(vectors), NoRegisters())
        size = next((b.size for b in f.config.bars if b.index == bar), 0)
        if f.msix is not None or offset < 0 or pending + pending_bytes(vectors) > size:
            raise ValueError(f"{vectors} MSI-X vectors at {offset:#x} don't fit into BAR {bar} of {size} bytes")
        f.config.add(msix_capability(vectors, bar, offset, pending))
        f.msix = MsixTable(vectors, self._sender(function))
        f.blocks[bar] = MsixBar(f.blocks[bar], f.msix, offset, pending)

    def clear(self, function: int) -> None:
        self._revoke(function, _refused("the function was removed"))
        self.set_intx(function, False)
        for memory in self._functions[function].memory.values():
            memory.window.watch(None)
        del self._functions[function]
        if self.errors is not None:
            self.errors.remove(function)
        self._count_functions()
        self._decode()

    def start(self) -> None:
        self._link.set_present(True)

    def stop(self) -> None:
        self._link.set_present(False)

    def window(self, function: int) -> Memory:
        f = self._functions[function]
        if f.window is None:
            f.window = FunctionWindow(self._pool, function, lambda: self._refusal(function))
        return f.window

    def map_addr(self, addr: PciAddr, size: int, function: int = 0) -> Outbound:
        """Map a window over ``size`` bytes at ``addr``, and return it; it stays until `unmap_addr`.

        Raises MemoryError without a free window, ValueError if the range is larger than a window, LinkDown, and
        UnsupportedRequest while bus mastering is off.
        """
        refusal = self._refusal(function)
        if refusal is not None:
            raise refusal(addr, size, True)
        return self._pool.map(addr, size, function)

    def unmap_addr(self, window: OutboundWindow) -> None:
        """Unmap ``window``. Raises ValueError if it is not mapped."""
        mapped = next((w for w in self._pool.mapped if w is window), None)
        if mapped is None:
            raise ValueError(f"{self.name} has no such outbound window")
        self._pool.unmap(mapped)

    def meter(self, function: int) -> Meter | None:
        return self._link.meter(Direction.UPSTREAM)

    @property
    def lossy(self) -> bool:
        return self._link.lossy

    async def settle(self) -> None:
        await self._link.settle()

    def raise_irq(self, function: int, vector: int) -> None:
        """Send an MSI-X interrupt, unless MSI-X is off or the function was removed.

        Raises ValueError if the vector does not exist.
        """
        f = self._functions.get(function)
        if f is not None and f.msix is not None:
            f.msix.fire(vector)

    def raise_msi(self, function: int, vector: int) -> None:
        """Send an MSI interrupt, unless MSI is off or the function was removed.

        Raises ValueError if the vector does not exist.
        """
        f = self._functions.get(function)
        if f is not None and f.msi is not None:
            f.msi.fire(vector)

    def set_intx(self, function: int, asserted: bool) -> None:
        f = self._functions.get(function)
        if f is not None:
            f.intx = asserted
            f.config.set_interrupt_status(asserted)
            self._route_intx(function, f)

    def vector_of(self, function: int, address: int, data: int) -> int | None:
        """Return the MSI-X vector of a function that has this message; None if there is none."""
        f = self._functions.get(function)
        return None if f is None or f.msix is None else f.msix.vector_of(address, data)

    def message_of(self, function: int, vector: int) -> tuple[int, int] | None:
        """Return address and data of the message that an MSI-X interrupt sends now; None if it sends none."""
        f = self._functions.get(function)
        return None if f is None or f.msix is None else f.msix.message_of(vector)

    def block_at(self, addr: int, size: int) -> tuple[RegisterBlock, int] | None:
        """Return the registers that answer at an address on the link, and the offset in them; None without any."""
        for start, end, block in () if self._memory else self._decoder:
            if start <= addr and addr + size <= end:
                return block, addr - start
        return None

    def msix_enabled(self, function: int) -> bool:
        f = self._functions.get(function)
        return f is not None and f.msix is not None and f.msix.enabled

    def watch(self, function: int, events: FunctionEvents) -> None:
        self._functions[function].events = events

    def snapshot(self) -> ControllerView:
        """Return functions and outbound windows."""
        return ControllerView(
            self.name,
            self._link.name,
            tuple(
                EndpointFunctionView(number, f.config.snapshot(), None if f.msix is None else f.msix.snapshot(), f.intx)
                for number, f in sorted(self._functions.items())
            ),
            tuple(OutboundView(w.addr, w.size, w.function, w.memory.pinned) for w in self._pool.mapped),
        )

    def images(self) -> dict[int, tuple[bytes, tuple[BarView, ...]]]:
        """Return the configuration space and the BARs of each function, by its number. No access crosses the link."""
        return {
            number: (f.config.image(), tuple(bar.snapshot() for bar in f.config.bars))
            for number, f in sorted(self._functions.items())
        }

    # Used by the link.

    def config_read(self, function: int, offset: int, size: int) -> int | None:
        f = self._functions.get(function)
        return None if f is None else f.config.read(offset, size)

    def config_write(self, function: int, offset: int, size: int, value: int) -> bool:
        f = self._functions.get(function)
        if f is None:
            return False
        f.config.write(offset, size, value)
        if f.config.take_flr():
            self._reset(function, f, _refused("the function was reset"))
            if f.events is not None:
                f.events.reset()
        else:
            self._apply(function, f)
        if self.errors is not None:
            self.errors.written()
        return True

    def mem_read(self, addr: int, size: int, function: int = 0) -> int | None:
        for _, content in self.regions(addr, size) if self._memory else ():
            for meter in self._meters(addr, size):
                meter.read(size)
            if len(content) != size:
                return None
            try:
                return int.from_bytes(view_of(content, False), "little")
            except MemoryFault:
                return None
        for start, end, block in self._decoder:
            if start <= addr and addr + size <= end:
                return block.read(addr - start, size) & all_ones(size)
        return None

    def mem_write(self, addr: int, size: int, value: int, function: int = 0) -> bool:
        for _, content in self.regions(addr, size) if self._memory else ():
            for meter in self._meters(addr, size):
                meter.write(size)
            if len(content) != size:
                return False
            try:
                view_of(content, True)[:] = (value & all_ones(size)).to_bytes(size, "little")
            except MemoryFault:
                return False
            return True
        for start, end, block in self._decoder:
            if start <= addr and addr + size <= end:
                block.write(addr - start, size, value & (1 << 8 * size) - 1)
                return True
        return False

    def regions(self, addr: int, size: int, function: int = 0) -> Iterable[Region]:
        return find_regions(self._memory, addr, size)

    def beyond(self, addr: int, size: int) -> Iterable[tuple[Link, Direction]]:
        for start, memory in self._memory:
            if start < addr + size and addr < start + memory.size:
                yield memory.window.link, Direction.UPSTREAM

    def _meters(self, addr: int, size: int) -> Iterator[Meter]:
        """Return the meters of the links that an access crosses after this one."""
        for link, direction in self.beyond(addr, size):
            meter = link.meter(direction)
            if meter is not None:
                yield meter

    def link_up(self) -> None:
        for f in list(self._functions.values()):
            if f.events is not None:
                f.events.link_up()

    def link_down(self) -> None:
        """Reset all functions as a hot reset does (6.6.1), then report the end of the epoch to them."""
        for number, f in self._functions.items():
            self._reset(number, f, self._down)
        for f in list(self._functions.values()):
            if f.events is not None:
                f.events.link_down()

    def _apply(self, function: int, f: _Function) -> None:
        """Apply the command register, and the registers of MSI and MSI-X."""
        command, control = f.config.command, f.config.msix_control
        self._decode()
        bus_master = PciCommand.BUS_MASTER in command
        if f.bus_master and not bus_master:
            self._revoke(function, _refused("bus mastering was turned off"))
        f.bus_master = bus_master
        if f.msi is not None:
            f.msi.configure(*f.config.msi, bus_master=bus_master)
        if f.msix is not None:
            f.msix.configure(
                enabled=bool(control & MSIX_ENABLE),
                masked=bool(control & MSIX_FUNCTION_MASK),
                bus_master=bus_master,
            )
        self._route_intx(function, f)

    def _reset(self, function: int, f: _Function, fault: Fault) -> None:
        self._revoke(function, fault)
        f.bus_master = False
        f.config.reset()
        if f.msi is not None:
            f.msi.configure(0, 0, 0, bus_master=False)
        if f.msix is not None:
            f.msix.reset()
        self.set_intx(function, False)
        self._decode()

    def _revoke(self, function: int, fault: Fault) -> None:
        f = self._functions[function]
        if f.window is not None:
            f.window.end(fault)
            f.window = None
        self._pool.revoke(function, fault)

    def _refusal(self, function: int) -> Fault | None:
        if not self._link.up:
            return self._down
        if self._functions[function].bus_master:
            return None
        return _refused("bus mastering is off")

    def _down(self, addr: int, size: int, write: bool) -> MemoryFault:
        return LinkDown(addr, size, write=write, reason=f"link {self._link.name} is or was down")

    def _decode(self) -> None:
        self._decoder = [
            (bar.address, bar.address + bar.size, f.blocks[bar.index])
            for f in self._functions.values()
            if PciCommand.MEMORY in f.config.command
            for bar in f.config.bars
        ]
        old_memory = self._memory
        self._memory = [
            (bar.address + offset, memory)
            for f in self._functions.values()
            if PciCommand.MEMORY in f.config.command
            for bar in f.config.bars
            for (index, offset), memory in f.memory.items()
            if index == bar.index
        ]
        for address, memory in old_memory:
            if (address, memory) not in self._memory:
                fault = _refused("the BAR memory was unmapped")
                self._link.revoke(Direction.DOWNSTREAM, address, memory.size, fault)

    def _route_intx(self, function: int, f: _Function) -> None:
        message = self.msix_enabled(function) or (f.msi is not None and f.msi.enabled)
        enabled = PciCommand.INTX_DISABLE not in f.config.command and not message
        if f.intx_sent != (f.intx and enabled):
            f.intx_sent = not f.intx_sent
            self._link.intx(function, f.intx_sent)

    def _sender(self, function: int) -> Callable[[int, int], None]:
        def send(addr: int, data: int) -> None:
            self._link.mem_write(Direction.UPSTREAM, addr, 4, data, function)

        return send

    def _count_functions(self) -> None:
        for number, f in self._functions.items():
            f.config.set_multi_function(number == 0 and len(self._functions) > 1)


def _refused(reason: str) -> Fault:
    def fault(addr: int, size: int, write: bool) -> MemoryFault:
        return UnsupportedRequest(addr, size, write=write, reason=reason)

    return fault
