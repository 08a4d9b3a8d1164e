"""A root port's configuration space on a wire: a bridge with the registers of its own and of received errors."""

from __future__ import annotations

from collections.abc import Callable

from drivers.contracts.hw import PciHeader
from vnet.link.base import Direction
from vnet.link.transaction.fields import MessageCode
from vnet.link.wire.errors import DetectedError, ErrorWire
from vnet.pcie.aer import ERROR_SOURCE, ROOT_COMMAND, ROOT_STATUS, ErrorRegisters
from vnet.pcie.config_space import ConfigSpace, PciCommand, pci_express_capability

__all__ = ["RECEIVED_CORRECTABLE", "RECEIVED_FATAL", "RECEIVED_NON_FATAL", "SEVERAL", "RootErrors", "device_of"]

HEADER = PciHeader(0x104C, 0xB00D, 1, 0x060400, 0, 0)
"""The root port of a J721E, whose class is a PCI bridge."""
BUSES, SECONDARY_STATUS, PREFETCHABLE, BRIDGE_CONTROL = 0x18, 0x1E, 0x24, 0x3E
"""Offsets in a header of type 1 (7.5.1.3)."""
FORWARD_ERRORS = 1 << 1
"""SERR# Enable of the bridge control register: error messages from the link are received."""
RECEIVED_SYSTEM_ERROR = 1 << 14
NO_WINDOW = 0x0000_FFF0
"""Base and limit of a window that forwards nothing."""
PREFETCHABLE_64 = 0x0001_0001
RECEIVED_CORRECTABLE, SEVERAL_CORRECTABLE = 1 << 0, 1 << 1
RECEIVED_UNCORRECTABLE, SEVERAL_UNCORRECTABLE, FIRST_FATAL = 1 << 2, 1 << 3, 1 << 4
RECEIVED_NON_FATAL, RECEIVED_FATAL = 1 << 5, 1 << 6
SEVERAL = SEVERAL_CORRECTABLE | SEVERAL_UNCORRECTABLE
ENABLES = {MessageCode.ERR_COR: 1 << 0, MessageCode.ERR_NONFATAL: 1 << 1, MessageCode.ERR_FATAL: 1 << 2}
"""Bits of the root error command register, which permit interrupts."""
RECEIVED = {
    MessageCode.ERR_COR: RECEIVED_CORRECTABLE,
    MessageCode.ERR_NONFATAL: RECEIVED_NON_FATAL,
    MessageCode.ERR_FATAL: RECEIVED_FATAL,
}


def device_of(bus: int) -> int:
    """Return the device number on bus 0 of the root port in front of ``bus``."""
    return bus % 32


class RootErrors:
    """The registers of a root port. Its interrupt is INTx, for as long as an enabled status bit is set (6.2.4.1.2)."""

    def __init__(self, wire: ErrorWire, bus: int, aperture: tuple[int, int], interrupt: Callable[[], None]) -> None:
        """``bus`` is behind the port, and ``aperture`` the range of its addresses."""
        parameters = wire.parameters
        self.bus = bus
        self.identity = device_of(bus) << 3
        """Requester ID, on bus 0."""
        self.config = config = ConfigSpace(HEADER, bridge=True)
        width = {"generation": parameters.generation, "lanes": parameters.lanes}
        config.add(pci_express_capability(root_port=True, flr=False, max_payload=parameters.max_payload, **width))
        self.registers = ErrorRegisters(config, root_port=True)
        low, high = aperture[0], aperture[1] - 1
        config.poke(BUSES, 4, bus << 16 | bus << 8)
        config.poke(BUSES + 4, 2, 0x00F0)  # no window of I/O ports
        config.poke(BUSES + 8, 4, NO_WINDOW)
        config.poke(PREFETCHABLE, 4, PREFETCHABLE_64 | (high >> 16 & 0xFFF0) << 16 | low >> 16 & 0xFFF0)
        config.poke(PREFETCHABLE + 4, 4, low >> 32)
        config.poke(PREFETCHABLE + 8, 4, high >> 32)
        config.poke(BRIDGE_CONTROL, 2, FORWARD_ERRORS)
        self._wire = wire
        self._interrupt = interrupt
        wire.watch_errors(Direction.DOWNSTREAM, self._detected)
        wire.watch_error_messages(self._message)

    def write(self, offset: int, size: int, value: int) -> None:
        """Write a register, as software of the root complex's host does."""
        self.config.write(offset, size, value)
        generate, check = self.registers.digests
        self._wire.set_digests(Direction.DOWNSTREAM, generate=generate, check=check)
        self._raise()

    @property
    def asserted(self) -> bool:
        """Whether the port asserts its interrupt."""
        enabled, status = self.registers.get(ROOT_COMMAND), self.registers.get(ROOT_STATUS)
        pending = any(enabled & ENABLES[code] and status & bit for code, bit in RECEIVED.items())
        return pending and PciCommand.INTX_DISABLE not in self.config.command

    def _raise(self) -> None:
        self.config.set_interrupt_status(self.asserted)
        if self.asserted:
            self._interrupt()

    def _detected(self, problem: DetectedError) -> None:
        """Log an error of the port itself."""
        code = self.registers.log(problem)
        if code is not None:
            self._receive(code, self.identity)

    def _message(self, code: MessageCode, function: int) -> None:
        """Take an error message of a function behind the port."""
        if not self.config.peek(BRIDGE_CONTROL, 2) & FORWARD_ERRORS:
            return
        if code is not MessageCode.ERR_COR:
            status = self.config.peek(SECONDARY_STATUS, 2)
            self.config.poke(SECONDARY_STATUS, 2, status | RECEIVED_SYSTEM_ERROR)
        self._receive(code, self.bus << 8 | function)

    def _receive(self, code: MessageCode, source: int) -> None:
        """Set the bits of the root error status and, for the first error, its source (7.8.4.10, 7.8.4.11)."""
        status, sources = self.registers.get(ROOT_STATUS), self.registers.get(ERROR_SOURCE)
        status |= RECEIVED[code]
        if code is MessageCode.ERR_COR:
            first = not self.registers.get(ROOT_STATUS) & RECEIVED_CORRECTABLE
            status |= 0 if first else SEVERAL_CORRECTABLE
            sources = sources & ~0xFFFF | source if first else sources
        else:
            first = not status & RECEIVED_UNCORRECTABLE
            fatal = FIRST_FATAL if first and code is MessageCode.ERR_FATAL else 0
            status |= RECEIVED_UNCORRECTABLE | (fatal if first else SEVERAL_UNCORRECTABLE)
            sources = sources & 0xFFFF | source << 16 if first else sources
        self.config.poke(self.registers.at + ROOT_STATUS, 4, status)
        self.config.poke(self.registers.at + ERROR_SOURCE, 4, sources)
        self._raise()
