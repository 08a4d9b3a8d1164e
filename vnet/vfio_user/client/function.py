"""A function in another process: accesses become messages, doorbells and interrupts are eventfds."""

from __future__ import annotations

import errno
from collections.abc import Callable
from functools import partial

from drivers.contracts.hw import RegisterBlock
from drivers.contracts.ipc import Handle, Unusable
from drivers.errors import DriverError
from rings.errors import MemoryFault
from rings.memory import Addr, Memory
from vnet.link.base import Direction, Link, all_ones
from vnet.linux.ipc import LocalIpc
from vnet.pcie.config_space import (
    BARS,
    COMMAND,
    CONTROL_FLR,
    DEVICE_CONTROL,
    MSIX_CONTROL,
    MSIX_ENABLE,
    MSIX_FUNCTION_MASK,
    PciCommand,
)
from vnet.pcie.msix import ENTRY, MsixBar, MsixTable
from vnet.vfio_user.accesses import DmaAccess, DmaData, RegionRead, RegionWrite
from vnet.vfio_user.client.channel import Channel
from vnet.vfio_user.client.layout import FunctionLayout, Msix
from vnet.vfio_user.constants import Command, IrqSet, IrqType, Region
from vnet.vfio_user.messages import Message, command_name, parse_server_command, reply
from vnet.vfio_user.payloads import Payload, Refused, SetIrqs

__all__ = ["RemoteFunction"]

BAR_BYTES = 24
"""Bytes of the six BAR registers."""
BAR_ADDRESS = ~0xF
TAKE = IrqSet.EVENTFD | IrqSet.TRIGGER
DISABLE = IrqSet.NONE | IrqSet.TRIGGER
UNMASK = IrqSet.NONE | IrqSet.UNMASK
"""Actions on interrupts: set an eventfd, remove all eventfds, unmask."""


class _RemoteBar:
    """The registers of a BAR. Implements `drivers.contracts.hw.RegisterBlock`."""

    def __init__(self, function: RemoteFunction, bar: int) -> None:
        self._function = function
        self._bar = bar

    def read(self, offset: int, size: int) -> int:
        return self._function.region_read(self._bar, offset, size)

    def write(self, offset: int, size: int, value: int) -> None:
        self._function.register_write(self._bar, offset, size, value)


class _MsixBar(MsixBar):
    """The registers of the BAR with the MSI-X table, which reports written entries."""

    def __init__(self, block: RegisterBlock, table: MsixTable, at: Msix, written: Callable[[int], None]) -> None:
        super().__init__(block, table, at.table, at.pending)
        self._range = range(at.table, at.table + ENTRY * at.vectors)
        self._written = written

    def write(self, offset: int, size: int, value: int) -> None:
        super().write(offset, size, value)
        if offset in self._range:
            self._written((offset - self._range.start) // ENTRY)


class RemoteFunction:
    """Function ``number`` of a link, at the other end of a channel.

    The MSI-X table stays here, as with every vfio-user client: the server gets an eventfd for each unmasked vector.
    An access that fails because the connection ended returns all-ones or does nothing; `Channel.watch` reports why.
    """

    def __init__(
        self, channel: Channel, layout: FunctionLayout, ipc: LocalIpc, memory: Memory, link: Link, number: int
    ) -> None:
        self.layout = layout
        self._channel = channel
        self._ipc = ipc
        self._memory = memory
        self._link = link
        self._number = number
        self._table = MsixTable(layout.msix.vectors if layout.msix is not None else 0, self._send_message)
        self._blocks: dict[int, RegisterBlock] = {
            bar: _RemoteBar(self, bar) for bar, size in enumerate(layout.bars) if size
        }
        if (msix := layout.msix) is not None:
            self._blocks[msix.bar] = _MsixBar(self._blocks[msix.bar], self._table, msix, self._take_vector)
        self._vectors: dict[int, Handle] = {}
        self._line: Handle | None = None
        self._registers = bytearray()
        self._decoder: list[tuple[int, int, RegisterBlock]] = []
        """Start and end on the link of each BAR, and its registers; empty while memory decoding is off."""
        self._forget()
        channel.serve = self._serve_dma

    async def start(self) -> None:
        """Take the function's INTx. Raises ProtocolError, TransportLost, Refused."""
        if self.layout.intx:
            line = self._line = self._ipc.watch(self._ipc.make_event(), self._interrupt)
            await self._channel.ask(Command.DEVICE_SET_IRQS, _irqs(TAKE, IrqType.INTX, 0, 1), (line,))

    def close(self) -> None:
        """Release the interrupts and the doorbells."""
        self._close_vectors()
        if self._line is not None:
            self._line.close()
        self.layout.close()

    # Accesses from the link

    def config_read(self, offset: int, size: int) -> int | None:
        return self.region_read(Region.CONFIG, offset, size) if offset + size <= self.layout.config else None

    def config_write(self, offset: int, size: int, value: int) -> bool:
        if offset + size > self.layout.config:
            return False
        self._post(Region.CONFIG, offset, size, value)
        self._note(offset, value.to_bytes(size, "little"))
        return True

    def place(self, addr: int, size: int) -> tuple[RegisterBlock, int] | None:
        """Return the registers at an address of the link, and the offset in them; None if the function has none."""
        for start, end, block in self._decoder:
            if start <= addr and addr + size <= end:
                return block, addr - start
        return None

    def reset(self) -> None:
        """Reset the function as the end of an epoch of its link does."""
        try:
            self._channel.call(Command.DEVICE_RESET)
        except DriverError:
            pass  # the connection ended, or the server cannot reset the function
        self._forget()

    # Messages

    def region_read(self, region: int, offset: int, size: int) -> int:
        """Return the value of a register; all-ones if the server does not give it."""
        try:
            answer = self._channel.call(Command.REGION_READ, RegionRead(offset, region, size)).payload
        except DriverError:
            return all_ones(size)
        assert isinstance(answer, RegionWrite)  # by the table of messages
        return int.from_bytes(answer.data, "little") if len(answer.data) == size else all_ones(size)

    def register_write(self, bar: int, offset: int, size: int, value: int) -> None:
        """Write a register of a BAR. A doorbell costs no message, unless it could overtake one."""
        bell = self.layout.doorbells.get((bar, offset, size))
        if bell is None or bell.value not in (None, value):
            self._post(bar, offset, size, value)
        elif not self._channel.unconfirmed:
            bell.event.notify()
        else:
            self._try(Command.REGION_WRITE, RegionWrite(offset, bar, value.to_bytes(size, "little")))

    def _post(self, region: int, offset: int, size: int, value: int) -> None:
        try:
            self._channel.post(Command.REGION_WRITE, RegionWrite(offset, region, value.to_bytes(size, "little")))
        except DriverError:
            pass  # lost with the connection

    def _try(self, command: Command, payload: RegionWrite | SetIrqs, *handles: Handle) -> bool:
        try:
            self._channel.call(command, payload, handles)
        except DriverError:
            return False
        return True

    # Configuration registers with an effect here

    @property
    def _command(self) -> int:
        return int.from_bytes(self._command_bytes, "little")

    def _forget(self) -> None:
        """Set the registers that this side follows to their values after a reset."""
        self._registers[:] = bytes(BAR_BYTES)
        self._command_bytes = bytearray(2)
        self._control = bytearray(2)
        self._decoder = []
        self._table.reset()
        self._close_vectors()

    def _decode(self) -> None:
        self._decoder = []
        for bar, block in self._blocks.items() if self._command & PciCommand.MEMORY else ():
            start = int.from_bytes(self._registers[4 * bar : 4 * bar + 8], "little") & BAR_ADDRESS
            self._decoder.append((start, start + self.layout.bars[bar], block))

    def _note(self, offset: int, data: bytes) -> None:
        moved = _overlay(self._registers, BARS, offset, data)
        changed = _overlay(self._command_bytes, COMMAND, offset, data)
        if moved or changed:
            self._decode()
        if (msix := self.layout.msix) is not None:
            changed |= _overlay(self._control, msix.capability + MSIX_CONTROL, offset, data)
        express, reset = self.layout.express, bytearray(2)
        resets = express is not None and _overlay(reset, express + DEVICE_CONTROL, offset, data)
        if resets and int.from_bytes(reset, "little") & CONTROL_FLR:
            self._disable_msix()
            self._forget()
            return
        if changed and msix is not None:
            control = int.from_bytes(self._control, "little")
            enabled = bool(control & MSIX_ENABLE)
            if self._table.enabled and not enabled:
                self._disable_msix()
            self._table.configure(
                enabled=enabled,
                masked=bool(control & MSIX_FUNCTION_MASK),
                bus_master=bool(self._command & PciCommand.BUS_MASTER),
            )
            for vector in range(self._table.vectors):
                self._take_vector(vector)

    # Interrupts

    def _send_message(self, addr: int, data: int) -> None:
        self._link.mem_write(Direction.UPSTREAM, addr, 4, data, self._number)

    def _take_vector(self, vector: int) -> None:
        """Give the server an eventfd for a vector, once it is unmasked for the first time."""
        if not self._table.enabled or self._table.masked(vector) or vector in self._vectors:
            return
        try:
            event = self._ipc.watch(self._ipc.make_event(), partial(self._table.fire, vector))
        except Unusable:
            return  # this process has no descriptor left: the driver gets no interrupt
        if self._try(Command.DEVICE_SET_IRQS, _irqs(TAKE, IrqType.MSIX, vector, 1), event):
            self._vectors[vector] = event
        else:
            event.close()

    def _disable_msix(self) -> None:
        if self._vectors:
            self._try(Command.DEVICE_SET_IRQS, _irqs(DISABLE, IrqType.MSIX, 0, 0))
            self._close_vectors()

    def _interrupt(self) -> None:
        """Deliver INTx, and unmask it: the server asserts it again if the function still does."""
        self._link.intx(self._number, True)
        self._link.intx(self._number, False)
        try:
            self._channel.post(Command.DEVICE_SET_IRQS, _irqs(UNMASK, IrqType.INTX, 0, 1))
        except DriverError:
            pass

    def _close_vectors(self) -> None:
        while self._vectors:
            self._vectors.popitem()[1].close()

    # Memory by messages

    def _serve_dma(self, message: Message) -> bytes:
        """Serve a read or a write of this host's memory. Raises Refused."""
        request = parse_server_command(message)
        if not self._command & PciCommand.BUS_MASTER:
            raise Refused(f"{command_name(message.command)}: bus mastering is off", errno.EACCES)
        assert isinstance(request, DmaData | DmaAccess)  # by the table of messages
        try:
            view = self._memory.view(Addr(request.address), request.count, isinstance(request, DmaData))
        except MemoryFault as exc:
            raise Refused(f"{command_name(message.command)}: {exc}", errno.EFAULT) from None
        if isinstance(request, DmaData):
            view[:] = request.data
            answer: Payload = DmaAccess(request.address, request.count)
        else:
            answer = DmaData(request.address, bytes(view))
        return reply(message, answer.emit())


def _irqs(action: IrqSet, kind: IrqType, start: int, count: int) -> SetIrqs:
    return SetIrqs(SetIrqs.SIZES[0], action, kind, start, count)


def _overlay(registers: bytearray, start: int, offset: int, data: bytes) -> bool:
    """Copy the part of ``data`` at ``offset`` into registers from ``start`` on; return whether there is one."""
    low, high = max(start, offset), min(start + len(registers), offset + len(data))
    if low >= high:
        return False
    registers[low - start : high - start] = data[low - offset : high - offset]
    return True
