"""A root complex, a wire and an endpoint whose functions report errors, and every error that the wire can have."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager

import attrs
import trio

from drivers.contracts.events import Event, Events, LinkErrorDetected, PciErrorHandled
from drivers.contracts.hw import PciError
from support.rigs.pcie import HEADER, Registers
from support.rigs.wire import DOWN, UP
from vnet.link.base import Direction
from vnet.link.datalink.dllps import Ack, CreditPhase, FlowControl, emit
from vnet.link.datalink.errors import DataLinkError
from vnet.link.datalink.frames import frame_dllp, frame_tlp
from vnet.link.transaction.codec import emit as emit_tlp
from vnet.link.transaction.fields import CompletionStatus
from vnet.link.transaction.flow import Flow
from vnet.link.transaction.packets import Completion, Header, MemoryWrite
from vnet.link.wire.errors import TransactionError, WireError
from vnet.link.wire.impairments import WireFault, WireRule
from vnet.link.wire.link import WireLink
from vnet.link.wire.port import Port
from vnet.linux.memory import HostMemory
from vnet.pcie.aer import ErrorRegisters
from vnet.pcie.config_space import CAP_PCI_EXPRESS, DEVICE_CONTROL, DEVICE_STATUS, EXTENDED_START
from vnet.pcie.epc import EndpointController
from vnet.pcie.error_service import ErrorService, Reporting
from vnet.pcie.function_handle import PciFunctionHandle
from vnet.pcie.rc import RootComplex

NOWHERE = 1 << 50
"""An address without memory or registers."""
BAR = 0x4000
"""Bytes of BAR 0."""
OTHER = {DOWN: UP, UP: DOWN}
UNCOR_STATUS, UNCOR_MASK, UNCOR_SEVERITY, COR_STATUS, COR_MASK, CONTROL, HEADER_LOG = 4, 8, 0xC, 0x10, 0x14, 0x18, 0x1C
ROOT_STATUS = 0x30
"""Offsets of registers in the capability."""
NAMES = {DOWN: "0000:00:01.0", UP: "0000:01:00.0"}
"""Names of the root port and of function 0, by the port."""


class ErrorBench:
    """One root port and ``functions`` functions with a BAR each."""

    def __init__(self, functions: int = 1, *, digests: bool = False) -> None:
        self.memory = HostMemory(1 << 16)
        self.events: list[Event] = []
        events = Events(links=self.events.append)
        self.link = WireLink("link0", events=events)
        self.rc = RootComplex(self.memory)
        self.rc.attach(self.link, Reporting(self.link, digests, events))
        self.epc = EndpointController(self.link, wire=self.link)
        for number in range(functions):
            self.epc.set_header(number, HEADER)
            self.epc.set_bar(number, 0, BAR, Registers(BAR))
        self.epc.start()
        self.base = self.memory.ranges[0][0]
        self.reports: list[PciError] = []
        self.function.watch_errors(self.reports.append)

    @property
    def service(self) -> ErrorService:
        service = self.rc.errors(self.link)
        assert service is not None
        return service

    @property
    def function(self) -> PciFunctionHandle:
        return self.rc.functions[0]

    @property
    def detected(self) -> list[tuple[str, str]]:
        """Port and name of each error that a port detected."""
        return [(event.port, event.error) for event in self.events if isinstance(event, LinkErrorDetected)]

    @property
    def handled(self) -> list[PciErrorHandled]:
        return [event for event in self.events if isinstance(event, PciErrorHandled)]

    # Registers

    def hold(self) -> None:
        """Have errors stay in the registers: the root port interrupts no more."""
        self.root.write(EXTENDED_START + 0x2C, 4, 0)

    @property
    def root(self) -> _Root:
        return _Root(self.service)

    def aer(self, register: int, function: int = 0) -> int:
        """Read a register of a function's capability over the link."""
        return self.rc.functions[function].config_read(EXTENDED_START + register, 4)

    def set_aer(self, register: int, value: int, function: int = 0) -> None:
        self.rc.functions[function].config_write(EXTENDED_START + register, 4, value)

    def _express(self, offset: int) -> int:
        at = self.function.capability(CAP_PCI_EXPRESS)
        assert at is not None
        return at + offset

    @property
    def device_status(self) -> int:
        return self.function.config_read(self._express(DEVICE_STATUS), 2)

    def set_device_control(self, bits: int) -> None:
        """Set the bits that enable messages."""
        at = self._express(DEVICE_CONTROL)
        self.function.config_write(at, 2, self.function.config_read(at, 2) & ~0xF | bits)

    # Errors

    def port(self, way: Direction) -> Port:
        assert self.link.wire is not None
        return self.link.wire.ports[way]

    def rule(self, fault: WireFault, nth: Iterable[int] = (1,), way: Direction | None = None) -> None:
        """Have the next packets of a direction suffer a fault."""
        self.link.impairments.set([WireRule(fault, nth=frozenset(nth), direction=way)])

    def read(self, way: Direction, address: int | None = None) -> int:
        """Read a register of the function, or memory of the root complex's host."""
        where = self.function.bars[0].address if way is DOWN else self.base
        return self.link.mem_read(way, where if address is None else address, 4)

    def write(self, way: Direction, address: int) -> None:
        self.link.mem_write(way, address, 4, 1)

    def forge(self, receiver: Direction, packet: bytes, count: int = 1) -> None:
        """Have a port receive a TLP that the other one did not mean to send."""
        for _ in range(count):
            self.port(OTHER[receiver]).datalink.send(packet)
        self.port(OTHER[receiver]).idle = False
        self.read(OTHER[receiver])


@attrs.frozen
class _Root:
    """The root port's registers, as its host accesses them."""

    service: ErrorService

    @property
    def registers(self) -> ErrorRegisters:
        return self.service.root.registers

    def get(self, register: int) -> int:
        return self.registers.get(register)

    def write(self, offset: int, size: int, value: int) -> None:
        self.service.root.write(offset, size, value)

    @property
    def source(self) -> int:
        return self.get(0x34)


@asynccontextmanager
async def open_errors(functions: int = 1, *, digests: bool = False) -> AsyncIterator[ErrorBench]:
    """Run a bench whose registers are clear."""
    async with trio.open_nursery() as nursery:
        bench = ErrorBench(functions, digests=digests)
        nursery.start_soon(bench.link.run)
        await settled()
        yield bench
        bench.link.impairments.set(())
        bench.link.set_present(False)
        bench.memory.close()
        nursery.cancel_scope.cancel()


async def settled() -> None:
    """Wait until all errors are handled, and a link that was reset is up again."""
    await trio.sleep(0.1)


def _lossy(bench: ErrorBench, port: Direction) -> None:
    """Lose the first packet that the port sends, which no later one shows: its replay timer expires."""
    bench.rule(WireFault.LOST_TLPS, way=port)
    bench.read(port)


def _unheard(bench: ErrorBench, port: Direction) -> None:
    """Lose a packet and its replays, and the message about these, until the fourth replay retrains the link."""
    bench.rule(WireFault.LOST_TLPS, range(1, 8), way=port)
    bench.read(port)


def _overflow(bench: ErrorBench, port: Direction) -> None:
    """Send more posted packets than the receiver has room for; it frees none."""
    receiver = bench.port(port).datalink
    receiver.free = lambda taken: None  # type: ignore[method-assign]
    address = bench.base if port is DOWN else bench.function.bars[0].address
    bench.forge(port, emit_tlp(MemoryWrite(header=Header(0x100), address=address, data=bytes(4))), 65)
    del receiver.free


def _malformed(bench: ErrorBench, port: Direction) -> None:
    bench.forge(port, emit_tlp(MemoryWrite(header=Header(0), address=0, data=bytes(4)))[:-4] + bytes(8))


def _unexpected(bench: ErrorBench, port: Direction) -> None:
    answer = Completion(header=Header(0x100 if port is UP else 0, 99), completer=0, status=CompletionStatus.SUCCESS)
    bench.forge(port, emit_tlp(answer))


def _fault(fault: WireFault, sender: bool) -> Callable[[ErrorBench, Direction], None]:
    """Return a provocation by a fault of a read that the port sends, or that it answers."""

    def provoke(bench: ErrorBench, port: Direction) -> None:
        reader = port if sender else OTHER[port]
        bench.rule(fault, way=None)
        bench.read(reader)

    return provoke


def _symbols(frame: bytes) -> Callable[[ErrorBench, Direction], None]:
    """Return a provocation by symbols that arrive at the port."""
    return lambda bench, port: bench.port(port).receive(frame)


def _corrupted(bench: ErrorBench, port: Direction) -> None:
    bench.rule(WireFault.CORRUPTED, way=OTHER[port])
    bench.read(OTHER[port])


D, T = DataLinkError, TransactionError
PROVOCATIONS: Mapping[WireError, Callable[[ErrorBench, Direction], None]] = {
    D.RECEIVER: _symbols(b"\x12\x34"),
    D.BAD_TLP: _symbols(frame_tlp(0, bytes(12))[:-2] + b"\0\xfd"),
    D.BAD_DLLP: _symbols(frame_dllp(emit(Ack(99))[:-2] + b"\0\0")),
    D.REPLAY_TIMEOUT: _lossy,
    D.REPLAY_ROLLOVER: _unheard,
    D.PROTOCOL: _symbols(frame_dllp(emit(Ack(99)))),
    D.FLOW_CONTROL: _symbols(frame_dllp(emit(FlowControl(CreditPhase.UPDATE, Flow.COMPLETION, 1, 1)))),
    D.OVERFLOW: _overflow,
    T.SURPRISE_DOWN: _fault(WireFault.SURPRISE_DOWNS, sender=True),
    T.POISONED: _fault(WireFault.POISONED, sender=True),
    T.COMPLETION_TIMEOUT: _fault(WireFault.UNANSWERED, sender=True),
    T.COMPLETER_ABORT: _fault(WireFault.ABORTED, sender=False),
    T.UNEXPECTED_COMPLETION: _unexpected,
    T.MALFORMED: _malformed,
    T.ECRC: _corrupted,
    T.UNSUPPORTED_REQUEST: lambda bench, port: bench.write(OTHER[port], NOWHERE),
}
"""How each error is provoked at a port; with digests for the ECRC error."""
