"""The NTB endpoint function: connects two hosts, each behind a link of its own (Linux: pci-epf-ntb, pci-epf-vntb).

It has an interface on each of two endpoint controllers of a third host. Each write to the configuration region takes
effect during that access.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import ClassVar

import trio

from drivers.carriers.ntb_registers import (
    CONFIG_SIZE,
    DB_COUNT,
    DB_ENTRY_SIZE,
    EXTENSION_MAGIC,
    FIRST_DB,
    IDS,
    LINK_VECTOR,
    MAX_MWS,
    MAX_SPADS,
    MSIX_ENABLE,
    MSIX_OFFSET,
    MW_ALIGN,
    SPAD_OFFSET,
    SPADS,
    VECTORS,
    Bar,
    CommandStatus,
    FunctionCommand,
    NtbTopology,
    Word,
    mw_offset,
    mw_offsets,
    mw_size,
)
from drivers.contracts.hw import PciHeader
from rings.errors import MemoryFault
from rings.memory import Addr, PciAddr
from vnet.pcie.bar_window import BarMemory
from vnet.pcie.epc import EndpointController
from vnet.pcie.ntb_bars import ConfigBar, DoorbellBar, WindowBar, Words
from vnet.pcie.outbound import Outbound
from vnet.views.pci import NtbSideView, NtbStatistics, NtbView, NtbWindowView

__all__ = ["NtbFunction"]

CLASS_CODE = 0x050000
"""PCI class "RAM memory", which Linux's driver asks for."""
ARRAYS = (Word.DB_DATA, Word.DB_OFFSET, Word.MWS)
WRITABLE = (Word.COMMAND, Word.ARGUMENT, Word.ADDR_LO, Word.ADDR_HI, Word.SIZE, Word.SIZE_HI)


RegisterName = Callable[[int, int], str | None]
"""Returns the name of the register at an offset of a BAR; None if it has none."""


def _no_name(bar: int, offset: int) -> None:
    return None


class NtbFunction:
    """An NTB: function ``number`` on two endpoint controllers of one host."""

    def __init__(
        self,
        primary: EndpointController,
        secondary: EndpointController,
        *,
        windows: Sequence[int] = (64 << 20,),
        spads: int = SPADS,
        number: int = 0,
        ids: str = next(iter(IDS)),
    ) -> None:
        """``windows``: sizes of 1 to 4 memory windows in bytes; ``ids``: a key of `IDS`. Raises ValueError."""
        if primary is secondary or not 1 <= len(windows) <= MAX_MWS or not 1 <= spads <= MAX_SPADS:
            raise ValueError(f"no NTB with {len(windows)} windows and {spads} scratchpads between two controllers")
        if any(size <= 0 or size % MW_ALIGN or size >> 32 for size in windows):
            raise ValueError(f"a memory window must be whole pages of {MW_ALIGN} bytes and less than 4 GiB")
        self.windows = tuple(windows)
        self.spads = spads
        self.number = number
        self.ids = IDS[ids]
        self.link_epoch = 0
        self.link_is_up = False
        self.primary = NtbInterface(self, primary, NtbTopology.PRIMARY)
        self.secondary = NtbInterface(self, secondary, NtbTopology.SECONDARY)
        self.primary.peer, self.secondary.peer = self.secondary, self.primary

    def bind(self) -> None:
        """Add the function to both controllers."""
        self.primary.bind()
        self.secondary.bind()

    def unbind(self) -> None:
        """Remove the function from both controllers."""
        self.primary.unbind()
        self.secondary.unbind()

    async def run(self) -> None:
        """Do nothing until cancelled: each access takes effect at once."""
        await trio.sleep_forever()

    def settle(self) -> None:
        """Set the NTB link up while both hosts request it; interrupt both hosts on a change."""
        up = self.primary.link_requested and self.secondary.link_requested
        if up == self.link_is_up:
            return
        self.link_is_up = up
        self.link_epoch += up
        for side in (self.primary, self.secondary):
            side.raise_irq(LINK_VECTOR)

    def snapshot(self, host: str, register_name: RegisterName = _no_name) -> NtbView:
        """Return both interfaces. ``host`` is the name of the host that has the function."""
        return NtbView(
            host,
            self.link_is_up,
            self.link_epoch,
            self.windows,
            self.primary.snapshot(register_name),
            self.secondary.snapshot(register_name),
        )


class NtbInterface:
    """One host's interface of the NTB; implements `drivers.contracts.hw.LinkEvents` of its link."""

    peer: NtbInterface

    def __init__(self, ntb: NtbFunction, epc: EndpointController, topology: NtbTopology) -> None:
        self._ntb = ntb
        self._epc = epc
        self._offsets, self._end = mw_offsets(ntb.windows)
        self.spads = [0] * ntb.spads
        """This host's own scratchpads, which are the other host's peer scratchpads."""
        self.link_requested = False
        """Whether this host requests the NTB link."""
        self._doorbells = 0
        """Number of doorbells that this host configured."""
        self._words: dict[int, int] = dict.fromkeys(WRITABLE, 0)
        self._fixed: dict[int, int] = {
            Word.TOPOLOGY: topology,
            Word.NO_OF_MW: len(ntb.windows),
            Word.MW1_OFFSET: self._offsets[0],
            Word.SPAD_OFFSET: SPAD_OFFSET,
            Word.SPAD_COUNT: ntb.spads,
            Word.DB_ENTRY_SIZE: DB_ENTRY_SIZE,
            Word.MAGIC: EXTENSION_MAGIC,
            **{mw_offset(i): at for i, at in enumerate(self._offsets)},
            **{mw_size(i): size for i, size in enumerate(ntb.windows)},
        }
        self._status = CommandStatus(0)
        self._outbound: dict[int, tuple[Outbound, PciAddr]] = {}
        """Per memory window: the outbound window that exposes this host's memory, and its start address."""
        self._rung: Counter[int] = Counter()
        self._dead = self._commands = self._refused = 0

    def bind(self) -> None:
        epc, number = self._epc, self._ntb.number
        epc.set_header(number, PciHeader(*self._ntb.ids, 0, CLASS_CODE, *self._ntb.ids))
        spads_end = SPAD_OFFSET + 8 * self._ntb.spads
        config = Words(CONFIG_SIZE, self.read_word, self.write_word)
        epc.set_bar(number, Bar.CONFIG, spads_end, ConfigBar(config, self._clear, self.spads, self.peer.spads))
        epc.set_bar(number, Bar.DOORBELLS, MW_ALIGN, DoorbellBar(self.ring))
        epc.set_bar(number, Bar.WINDOWS, self._end, WindowBar())
        epc.set_msix(number, VECTORS, Bar.CONFIG, MSIX_OFFSET)
        epc.watch(number, self)

    def unbind(self) -> None:
        self.reset()
        self._epc.clear(self._ntb.number)

    def raise_irq(self, vector: int) -> None:
        self._epc.raise_irq(self._ntb.number, vector)

    # FunctionEvents

    def link_up(self) -> None:
        """Do nothing: the host's driver configures doorbells and requests the NTB link."""

    def link_down(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Undo the host's configuration after its link went down or it reset the function. Scratchpads stay."""
        self._doorbells = 0
        self._words = dict.fromkeys(WRITABLE, 0)
        self._status = CommandStatus(0)
        for window in list(self._outbound):
            self._unmap(window)
        self.link_requested = False
        self._ntb.settle()

    # Registers

    def read_word(self, offset: int) -> int:
        ntb = self._ntb
        if offset in self._words:
            return self._words[offset]
        if offset == Word.STATUS:
            return self._status | (CommandStatus.LINK_UP if ntb.link_is_up else 0)
        if offset == Word.LINK_EPOCH:
            return ntb.link_epoch & 0xFFFF_FFFF
        vector = (offset - Word.DB_DATA) // 4
        if FIRST_DB <= vector < VECTORS:
            return vector if vector - FIRST_DB < self.peer._doorbells else 0
        return self._fixed.get(offset, 0)

    def write_word(self, offset: int, value: int) -> None:
        """Write a writable word; a command runs at once."""
        if offset not in self._words:
            return
        self._words[offset] = value
        if offset == Word.COMMAND and value:
            self._commands += 1
            run = self._COMMANDS.get(value)
            done = run is not None and run(self, self._words[Word.ARGUMENT])
            self._refused += not done
            self._status = CommandStatus.OK if done else CommandStatus.ERROR
            self._words[Word.COMMAND] = 0

    def ring(self, doorbell: int, data: int) -> None:
        """Ring a doorbell of the other host."""
        if data == FIRST_DB + doorbell and doorbell < self.peer._doorbells:
            self._rung[doorbell] += 1
            self.peer.raise_irq(FIRST_DB + doorbell)
        else:
            self._dead += 1

    # Commands; each returns whether it succeeded.

    def _configure_doorbell(self, argument: int) -> bool:
        count = (argument & ~MSIX_ENABLE) - FIRST_DB
        if not argument & MSIX_ENABLE or not 1 <= count <= DB_COUNT:
            return False
        self._doorbells = count
        return True

    def _teardown_doorbell(self, _: int) -> bool:
        self._doorbells = 0
        return True

    def _clear(self) -> None:
        self._status = CommandStatus(0)

    def _configure_mw(self, window: int) -> bool:
        """Map our memory into the other host's BAR of windows, through an outbound window of this host's controller."""
        addr = PciAddr(Addr(self._words[Word.ADDR_LO] | self._words[Word.ADDR_HI] << 32))
        size = self._words[Word.SIZE] | self._words[Word.SIZE_HI] << 32
        if window >= len(self._ntb.windows) or addr % MW_ALIGN or not 0 < size <= self._ntb.windows[window]:
            return False
        try:
            outbound = self._epc.map_addr(addr, size, self._ntb.number)
        except (MemoryError, MemoryFault, ValueError):
            return False
        self._unmap(window)
        self._outbound[window] = outbound, addr
        self.peer._show(window, BarMemory(outbound, addr, size))
        return True

    def _teardown_mw(self, window: int) -> bool:
        if window >= len(self._ntb.windows):
            return False
        self._unmap(window)
        return True

    def _link_up(self, _: int) -> bool:
        self.link_requested = True
        self._ntb.settle()
        return True

    def _link_down(self, _: int) -> bool:
        self.link_requested = False
        self._ntb.settle()
        return True

    _COMMANDS: ClassVar[dict[int, Callable[[NtbInterface, int], bool]]] = {
        FunctionCommand.CONFIGURE_DOORBELL: _configure_doorbell,
        FunctionCommand.CONFIGURE_MW: _configure_mw,
        FunctionCommand.LINK_UP: _link_up,
        FunctionCommand.TEARDOWN_DOORBELL: _teardown_doorbell,
        FunctionCommand.TEARDOWN_MW: _teardown_mw,
        FunctionCommand.LINK_DOWN: _link_down,
    }

    def _unmap(self, window: int) -> None:
        outbound = self._outbound.pop(window, None)
        if outbound is not None:
            self.peer._show(window, None)
            self._epc.unmap_addr(outbound[0])

    def _show(self, window: int, memory: BarMemory | None) -> None:
        self._epc.set_bar_memory(self._ntb.number, Bar.WINDOWS, self._offsets[window], memory)

    def statistics(self) -> NtbStatistics:
        return NtbStatistics(self._rung.total(), self._dead, self._commands, self._refused)

    def snapshot(self, register_name: RegisterName) -> NtbSideView:
        spads = ((register_name(Bar.CONFIG, SPAD_OFFSET + 4 * at) or f"spad {at}", at) for at in range(len(self.spads)))
        return NtbSideView(
            controller=self._epc.name,
            link_requested=self.link_requested,
            bars={bar.name.lower(): int(bar) for bar in Bar},
            config={word.name: int(self.read_word(word)) for word in Word if word not in ARRAYS},
            configured_doorbells=self._doorbells,
            spads={name: self.spads[at] for name, at in spads},
            rung={
                register_name(Bar.DOORBELLS, DB_ENTRY_SIZE * (FIRST_DB + doorbell)) or f"doorbell {doorbell}": count
                for doorbell, count in sorted(self._rung.items())
            },
            windows=tuple(
                NtbWindowView(
                    name=f"MW{i + 1}",
                    offset=self._offsets[i],
                    size=size,
                    shares=self._outbound[i][1] if i in self._outbound else 0,
                    mapped=i in self._outbound,
                )
                for i, size in enumerate(self._ntb.windows)
            ),
            figures=self.statistics(),
        )
