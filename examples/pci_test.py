"""A PCI endpoint function in one file: what Linux's pci_endpoint_test driver tests (Linux: pci-epf-test).

python examples/pci_test.py
vnet --load examples/pci_test.py serve pci_test --vfio-user pci_test.sock

A function sets up its header, BARs and interrupts, and answers accesses to its registers. It reaches the other host's
memory through windows of its endpoint controller. Linux's Documentation/PCI/endpoint/pci-test-function.rst has the
registers: the driver writes addresses and a size, then a command; the function copies, and interrupts.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Callable, Mapping
from enum import IntEnum, IntFlag
from functools import reduce
from typing import ClassVar

from drivers.carriers.epf import EndpointFunction
from drivers.contracts.hw import Epc, PciHeader
from rings.errors import MemoryFault
from rings.memory import Addr
from vnet.functions import FunctionKind
from vnet.link.ideal import IdealLink
from vnet.linux.memory import HostMemory
from vnet.pcie.epc import EndpointController
from vnet.pcie.rc import RootComplex
from vnet.topology.extensions import add_function

HEADER = PciHeader(0x104C, 0xB500, 0, 0xFF0000, 0x104C, 0xB500)  # Texas Instruments, DRA74x: Linux's driver knows it
MSI_VECTORS, MSIX_VECTORS, MSIX_AT = 32, 64, 0x100
BAR, SIZE = 0, 0x1000
MORE_BARS = {2: 0x400, 4: 0x4000}  # of memory, for the test of BARs; all BARs have 64 bits, so 1, 3 and 5 are halves


class Reg(IntEnum):
    """Offsets of the 32-bit registers in BAR 0."""

    MAGIC = 0x00
    COMMAND = 0x04
    STATUS = 0x08
    SOURCE = 0x0C  # and its upper half
    DESTINATION = 0x14  # and its upper half
    SIZE = 0x1C
    CHECKSUM = 0x20
    IRQ_TYPE = 0x24
    IRQ_NUMBER = 0x28  # from 1 on, for MSI and MSI-X
    FLAGS = 0x2C


class Command(IntFlag):
    RAISE_INTX = 1
    RAISE_MSI = 2
    RAISE_MSIX = 4
    READ = 8
    WRITE = 16
    COPY = 32


class Status(IntFlag):
    READ_SUCCESS = 1
    READ_FAIL = 2
    WRITE_SUCCESS = 4
    WRITE_FAIL = 8
    COPY_SUCCESS = 16
    COPY_FAIL = 32
    IRQ_RAISED = 64
    SOURCE_INVALID = 128
    DESTINATION_INVALID = 256


INTX, MSI, MSIX = range(3)  # values of IRQ_TYPE


class PciTest(EndpointFunction):
    """The function. BAR 0 has its registers, which are memory, except that a write of COMMAND runs the command."""

    def __init__(self, epc: Epc, number: int = 0) -> None:
        super().__init__(epc, number)
        self.registers = bytearray(SIZE)

    def bind(self) -> None:
        self.epc.set_header(self.number, HEADER)
        self.epc.set_bar(self.number, BAR, SIZE, self)
        for bar, size in MORE_BARS.items():
            self.epc.set_bar_ram(self.number, bar, self.epc.dma.alloc(size, size))
        self.epc.set_msi(self.number, MSI_VECTORS)
        self.epc.set_msix(self.number, MSIX_VECTORS, BAR, MSIX_AT)
        super().bind()

    def reset(self) -> None:
        self.registers[:] = bytes(SIZE)

    # Accesses to BAR 0, by the offset and the number of bytes

    def read(self, offset: int, size: int) -> int:
        return int.from_bytes(self.registers[offset : offset + size], "little")

    def write(self, offset: int, size: int, value: int) -> None:
        self.registers[offset : offset + size] = value.to_bytes(size, "little")
        if offset == Reg.COMMAND:
            self.command(Command(value & sum(Command)))
        elif offset == Reg.STATUS and not value & Status.IRQ_RAISED:
            self.epc.set_intx(self.number, False)  # the driver has seen the interrupt

    def put(self, register: Reg, value: int) -> None:
        self.registers[register : register + 4] = value.to_bytes(4, "little")

    # Commands

    def command(self, command: Command) -> None:
        status = Status(0)
        for bit, run in self.RUN.items():
            if bit in command:
                status |= run(self)
        self.put(Reg.COMMAND, 0)
        if command:
            self.put(Reg.STATUS, status | Status.IRQ_RAISED)
            self.interrupt(self.read(Reg.IRQ_TYPE, 4), self.read(Reg.IRQ_NUMBER, 4) - 1)

    def interrupt(self, kind: int, vector: int) -> None:
        if kind == INTX:
            self.epc.set_intx(self.number, True)
        elif kind == MSI and 0 <= vector < MSI_VECTORS:
            self.epc.raise_msi(self.number, vector)
        elif kind == MSIX and 0 <= vector < MSIX_VECTORS:
            self.epc.raise_irq(self.number, vector)

    def views(self, register: Reg, *, writable: bool = False) -> list[memoryview]:
        """Return the other host's memory at the address in a register, in pieces, valid until this call ends."""
        address, size = Addr(self.read(register, 8)), self.read(Reg.SIZE, 4)
        return self.epc.window(self.number).segments(address, size, writable)

    def read_memory(self) -> Status:
        """Read the other host's memory, and compare it with the driver's checksum."""
        try:
            same = crc32(self.views(Reg.SOURCE)) == self.read(Reg.CHECKSUM, 4)
        except MemoryFault:
            return Status.READ_FAIL | Status.SOURCE_INVALID
        return Status.READ_SUCCESS if same else Status.READ_FAIL

    def write_memory(self) -> Status:
        """Fill the other host's memory with random bytes."""
        try:
            views = self.views(Reg.DESTINATION, writable=True)
        except MemoryFault:
            return Status.WRITE_FAIL | Status.DESTINATION_INVALID
        for view in views:
            view[:] = os.urandom(len(view))
        self.put(Reg.CHECKSUM, crc32(views))
        return Status.WRITE_SUCCESS

    def copy_memory(self) -> Status:
        """Copy from one place in the other host's memory to another."""
        failed = Status.SOURCE_INVALID
        try:
            data = memoryview(b"".join(self.views(Reg.SOURCE)))
            failed = Status.DESTINATION_INVALID
            views = self.views(Reg.DESTINATION, writable=True)
        except MemoryFault:
            return Status.COPY_FAIL | failed
        for view in views:
            view[:], data = data[: len(view)], data[len(view) :]
        return Status.COPY_SUCCESS

    RUN: ClassVar[Mapping[Command, Callable[[PciTest], Status]]] = {
        Command.READ: read_memory,
        Command.WRITE: write_memory,
        Command.COPY: copy_memory,
    }


def crc32(views: list[memoryview]) -> int:
    """Return the checksum of Linux's crc32_le(~0, data), which does not invert the result."""
    return reduce(lambda crc, view: zlib.crc32(view, crc), views, 0) ^ 0xFFFF_FFFF


add_function("pci_test", FunctionKind(PciTest, help="Serve the function that Linux's pci_endpoint_test driver tests."))


def main() -> None:
    """Drive the function from a root complex in this process, as Linux's driver does: a copy, with MSI."""
    link = IdealLink("pcie0")
    host, endpoint = HostMemory(), HostMemory()
    root, controller = RootComplex(host), EndpointController(link, memory=endpoint)
    root.attach(link)
    PciTest(controller).bind()
    controller.start()
    [function] = root.functions
    print(f"{function.name} {function.vendor_id:04x}:{function.device_id:04x}", end="")
    print("".join(f", BAR {bar} {function.bar_size(bar)} bytes" for bar in (BAR, *MORE_BARS)))
    source, destination = host.alloc(1 << 20), host.alloc(1 << 20)
    host.view(source.addr, source.size, True)[:] = os.urandom(source.size)
    function.enable_msi(1)
    function.request_msi(0, lambda: print("interrupted:", Status(function.bar_read(BAR, Reg.STATUS, 4)).name))
    for register, value in (
        *((Reg.SOURCE, source.addr), (Reg.DESTINATION, destination.addr), (Reg.SIZE, source.size)),
        *((Reg.IRQ_TYPE, MSI), (Reg.IRQ_NUMBER, 1), (Reg.COMMAND, Command.COPY)),
    ):
        function.bar_write(BAR, register, 8 if register in (Reg.SOURCE, Reg.DESTINATION) else 4, value)
    same = host.view(source.addr, source.size) == host.view(destination.addr, source.size)
    print("the copy is the same" if same else "the copy differs")


if __name__ == "__main__":
    main()
