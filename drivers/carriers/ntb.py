"""The NTB bus of a host, and the PCI driver that makes an NTB of the endpoint function (Linux: ntb_hw_epf)."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, Protocol

import trio

from drivers.bus.binding import Binding
from drivers.bus.model import Bus, MatchId
from drivers.bus.virtio import VirtioBus
from drivers.carriers.base import CarrierClient
from drivers.carriers.ntb_registers import (
    DB_COUNT,
    EXTENSION_MAGIC,
    FIRST_DB,
    IDS,
    LINK_VECTOR,
    MAX_MWS,
    MAX_SPADS,
    MSIX_ENABLE,
    MW_ALIGN,
    VECTORS,
    Bar,
    CommandStatus,
    FunctionCommand,
    NtbTopology,
    Word,
    db_data,
    mw_offset,
    mw_size,
)
from drivers.contracts.events import Reporter
from drivers.contracts.hw import DmaMemory, MwLimits, Ntb, NtbEvents, PciFunction, Toll
from drivers.errors import ProbeError, TransportLost
from rings import features
from rings.memory import Addr, Memory

__all__ = ["NtbBus", "NtbClient", "NtbDevice", "NtbEpf", "NtbEpfDriver"]

WORD_MASK = NO_ANSWER = 0xFFFF_FFFF


class NtbDevice(Ntb, Protocol):
    """An NTB, as its bus sees it."""

    name: str

    @property
    def device_id(self) -> int: ...

    @property
    def vendor_id(self) -> int: ...

    @property
    def topology(self) -> NtbTopology:
        """The end of the NTB that this host is at."""


class NtbClient(CarrierClient[NtbDevice], Protocol):
    """A user of NTBs."""

    def wants(self, ntb: NtbDevice) -> bool:
        """Return whether this client uses ``ntb``, which its ids do not tell."""


class NtbBus(Bus[NtbDevice, NtbClient]):
    """The bus of a host's NTBs, and of the clients that make front or back halves of virtio devices of them."""

    prefix = "ntb"

    def __init__(self, virtio: VirtioBus) -> None:
        super().__init__()
        self._virtio = virtio

    def reporter(self, device: NtbDevice) -> Reporter:
        return self._virtio.events.carrier(device.name)

    def match(self, device: NtbDevice) -> NtbClient | None:
        return next((client for client in self._drivers if client.wants(device)), None)

    async def attach(self, binding: Binding[NtbDevice, NtbClient], device: NtbDevice, driver: NtbClient) -> None:
        await driver.attach(binding, device, self._virtio)


class NtbEpfDriver:
    """A PCI driver that puts an NTB on ``bus`` for every NTB endpoint function."""

    name = "ntb_hw_epf"
    id_table = tuple(MatchId(device, vendor) for vendor, device in IDS.values())

    def __init__(self, bus: NtbBus) -> None:
        self._bus = bus

    async def attach(self, binding: Binding[PciFunction, Any], carrier: PciFunction, virtio: VirtioBus) -> None:
        ntb = NtbEpf(carrier)
        self._bus.register_device(ntb)
        try:
            binding.bound()
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True):
                await self._bus.discard_device(ntb)
            ntb.release()


class NtbEpf:
    """`drivers.contracts.hw.Ntb` over one PCI function. It survives link-down and link-up."""

    def __init__(self, function: PciFunction) -> None:
        """Read and validate the registers. Raises ProbeError if the function is not such an NTB."""
        self.name = function.name
        self.vendor_id, self.device_id = function.vendor_id, function.device_id
        self._function = function
        self._events: NtbEvents | None = None
        self._known_spads: dict[int, int] = {}
        self._enabled = False
        self._configured = False
        """Whether interrupts, doorbells and link are set up in this epoch of this host's own link."""
        self._epoch = 0
        self._db = self._db_mask = 0
        self._db_data: list[int] = []
        if self._word(Word.MAGIC) != EXTENSION_MAGIC:
            raise ProbeError(f"{self.name}: its configuration region does not describe its windows")
        self.topology = NtbTopology(self._word(Word.TOPOLOGY) & 1)
        self.spad_count = self._word(Word.SPAD_COUNT)
        self.mw_count = self._word(Word.NO_OF_MW)
        self._spads = self._word(Word.SPAD_OFFSET)
        self._db_entry = self._word(Word.DB_ENTRY_SIZE)
        if not 1 <= self.mw_count <= MAX_MWS:
            raise ProbeError(f"{self.name}: it reports {self.mw_count} memory windows; it must have 1 to {MAX_MWS}")
        self._windows = [(self._word(mw_offset(i)), self._word(mw_size(i))) for i in range(self.mw_count)]
        self._check()
        self._vectors = 0
        function.watch(self)
        try:
            self._configure()
        except BaseException:
            self.release()
            raise

    def _check(self) -> None:
        function = self._function
        spads = 4 * self.spad_count
        if not 1 <= self.spad_count <= MAX_SPADS or self._spads + 2 * spads > function.bar_size(Bar.CONFIG):
            raise ProbeError(f"{self.name}: {self.spad_count} scratchpads don't fit into their BAR")
        if not 4 <= self._db_entry <= function.bar_size(Bar.DOORBELLS) // VECTORS or self._db_entry % 4:
            raise ProbeError(f"{self.name}: it reports doorbells of {self._db_entry} bytes")
        end = function.bar_size(Bar.WINDOWS)
        if any(size <= 0 or offset + size > end for offset, size in self._windows):
            raise ProbeError(f"{self.name}: its memory windows don't fit into their BAR of {end} bytes")

    def _configure(self) -> None:
        """Set up interrupts and doorbells in a new epoch of this host's own link, then the link if it is enabled."""
        self._db = 0
        self._vectors = min(self._function.enable_msix(), VECTORS)
        if self._vectors <= FIRST_DB:
            raise ProbeError(f"{self.name}: doorbells need MSI-X")
        self._function.request_irq(LINK_VECTOR, self._on_link_event)
        for doorbell in range(self._vectors - FIRST_DB):
            self._function.request_irq(FIRST_DB + doorbell, partial(self._on_doorbell, 1 << doorbell))
        self._command(FunctionCommand.CONFIGURE_DOORBELL, self._vectors | MSIX_ENABLE)
        if self._enabled:
            self._command(FunctionCommand.LINK_UP)
        self._configured = True

    def release(self) -> None:
        """Release the function."""
        self._function.watch(None)
        self._function.free_irqs()

    @property
    def dma(self) -> DmaMemory:
        return self._function.dma

    def watch(self, events: NtbEvents | None) -> None:
        self._events = events

    # LinkEvents

    def link_up(self) -> None:
        self._configured = False
        self.link_retry()

    def link_down(self) -> None:
        self._on_link_event()

    # The link between the hosts

    @property
    def link_is_up(self) -> bool:
        status = self._word(Word.STATUS) if self._function.online else 0
        return status != NO_ANSWER and bool(status & CommandStatus.LINK_UP)

    @property
    def link_epoch(self) -> int:
        return self._word(Word.LINK_EPOCH)

    def link_enable(self) -> None:
        self._enabled = True
        self._try(FunctionCommand.LINK_UP)

    def link_retry(self) -> None:
        if self._configured or not self._function.online:
            return
        try:
            self._configure()
        except (ProbeError, TransportLost):  # a lost completion, a hostile function, or unplugged again
            return
        self._on_link_event()

    def link_disable(self) -> None:
        self._enabled = False
        self._try(FunctionCommand.LINK_DOWN)

    def _on_link_event(self) -> None:
        self._db_data = []
        if self._events is not None:
            self._events.link_event()

    # Doorbells

    @property
    def db_valid_mask(self) -> int:
        return (1 << max(0, self._vectors - FIRST_DB)) - 1

    def db_read(self) -> int:
        return self._db

    def db_clear(self, bits: int) -> None:
        self._db &= ~bits

    def db_set_mask(self, bits: int) -> None:
        self._db_mask |= bits

    def db_clear_mask(self, bits: int) -> None:
        self._db_mask &= ~bits
        if self._db & bits and self._events is not None:
            self._events.db_event()

    def peer_db_set(self, bits: int) -> None:
        if not self._db_data:  # valid once the other host is up
            self._db_data = [self._word(db_data(i)) for i in range(DB_COUNT)] if self.link_is_up else []
        for doorbell in features.bits(bits & self.db_valid_mask if self._db_data else 0):
            at = self._db_entry * (FIRST_DB + doorbell)
            self._function.bar_write(Bar.DOORBELLS, at, 4, self._db_data[doorbell])

    def _on_doorbell(self, bit: int) -> None:
        self._db |= bit
        if bit & ~self._db_mask and self._events is not None:
            self._events.db_event()

    # Scratchpads

    @property
    def spads(self) -> Mapping[int, int]:
        return self._known_spads

    def spad_read(self, index: int) -> int:
        value = self._read_twice(Bar.CONFIG, self._spads + 4 * self._spad(index))
        self._known_spads[index] = value
        return value

    def spad_write(self, index: int, value: int) -> None:
        self._known_spads[index] = value & WORD_MASK
        self._function.bar_write(Bar.CONFIG, self._spads + 4 * self._spad(index), 4, value & WORD_MASK)

    def peer_spad_read(self, index: int) -> int:
        return self._read_twice(Bar.CONFIG, self._peer_spad(index))

    def peer_spad_write(self, index: int, value: int) -> None:
        self._function.bar_write(Bar.CONFIG, self._peer_spad(index), 4, value & WORD_MASK)

    def _read_twice(self, bar: int, offset: int) -> int:
        """Read a scratchpad, again if it is all-ones, which a lost completion returns too."""
        value = self._function.bar_read(bar, offset, 4)
        return self._function.bar_read(bar, offset, 4) if value == WORD_MASK else value

    def _spad(self, index: int) -> int:
        if not 0 <= index < self.spad_count:
            raise ValueError(f"{self.name} has no scratchpad {index} of {self.spad_count}")
        return index

    def _peer_spad(self, index: int) -> int:
        """Return the offset of the other host's scratchpad: its bank follows ours."""
        return self._spads + 4 * (self.spad_count + self._spad(index))

    # Memory windows

    def mw_get_align(self, window: int) -> MwLimits:
        return MwLimits(MW_ALIGN, 1, self._windows[window][1])

    def mw_set_trans(self, window: int, addr: Addr, size: int) -> None:
        limits = self.mw_get_align(window)
        if addr % limits.addr_align or not 0 < size <= limits.size_max:
            raise ValueError(f"{self.name}: window {window} can't expose {size} bytes at {addr:#x}")
        for low, high, value in ((Word.ADDR_LO, Word.ADDR_HI, addr), (Word.SIZE, Word.SIZE_HI, size)):
            self._function.bar_write(Bar.CONFIG, low, 4, value & WORD_MASK)
            self._function.bar_write(Bar.CONFIG, high, 4, value >> 32)
        self._command(FunctionCommand.CONFIGURE_MW, window)

    def mw_clear_trans(self, window: int) -> None:
        self._try(FunctionCommand.TEARDOWN_MW, window)

    def peer_mw(self, window: int, at: Addr, size: int) -> Memory:
        offset, room = self._windows[window]
        return self._function.bar_map(Bar.WINDOWS, offset, min(size, room), at)

    def peer_mw_toll(self, window: int) -> Toll | None:
        return self._function.bar_toll(Bar.WINDOWS, *self._windows[window])

    # Registers

    def _word(self, offset: int) -> int:
        return self._function.bar_read(Bar.CONFIG, offset, 4)

    def _command(self, command: FunctionCommand, argument: int = 0) -> None:
        """Execute a command, which completes within the register access.

        Raises ValueError if the function rejects it, TransportLost if the function does not answer.
        """
        self._function.bar_write(Bar.CONFIG, Word.ARGUMENT, 4, argument)
        self._function.bar_write(Bar.CONFIG, Word.COMMAND, 4, command)
        status = self._word(Word.STATUS)
        if status == NO_ANSWER or not status & (CommandStatus.OK | CommandStatus.ERROR):
            raise TransportLost(f"{self.name}: no answer to {command.name}")
        if status & CommandStatus.ERROR:
            raise ValueError(f"{self.name}: {command.name} was refused")

    def _try(self, command: FunctionCommand, argument: int = 0) -> None:
        """Execute a command that may be lost while the function is unreachable: it is repeated later, or obsolete."""
        if self._function.online:
            try:
                self._command(command, argument)
            except TransportLost:
                pass
