"""Registers of functions and devices: any access of any size, by a host that keeps to no order."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import attrs

from drivers.bus.back import Identity
from drivers.bus.vhost import OfferedQueue
from drivers.contracts.hw import PciHeader, RegisterBlock
from drivers.transports.epf_mailbox import registers as mailbox_registers
from drivers.transports.mmio.back import MmioDevice
from drivers.transports.ntb.registers import Answer, NtbRefused, Offer, RingArea, Spad, parse_command
from drivers.transports.pci.back import BAR, BAR_SIZE, MSIX_BAR, VirtioEpf
from fuzz.source import Source
from rings.features import FeatureTable, RingFeature, mask
from rings.memory import Addr, MappedMemory
from rings.status import Status
from support.rigs.mailbox_endpoint import Driver as MailboxDriver
from support.rigs.ntb import Bridge
from vnet.link.ideal import IdealLink
from vnet.linux.memory import HostMemory
from vnet.pcie.config_space import (
    ConfigSpace,
    msi_capability,
    msix_capability,
    pci_express_capability,
)
from vnet.pcie.epc import EndpointController
from vnet.pcie.rc import RootComplex

__all__ = ["mailbox", "mmio", "ntb_hardware", "ntb_offer", "pci_config", "virtio_pci"]

STEPS_MAX = 64
SIZES = 1, 2, 4, 8, 3, 0
TABLE = FeatureTable({0: "ONE", 70: "FAR"})
FEATURES = mask((0, 70, *(RingFeature.VERSION_1, RingFeature.EVENT_IDX, RingFeature.INDIRECT_DESC)))
CONFIG_BYTES = bytes(range(1, 13))
QUEUES = OfferedQueue("first", 16), OfferedQueue("second", 8)
MIB = 1 << 20
USED = 0x100
"""Bytes of a configuration space that mean something."""
MSIX_BAR_SIZE = 0x1000
MAILBOX_END = 0x600
"""Bytes of the register block that mean something."""
Read = Callable[[int, int], int]
Write = Callable[[int, int, int], None]


def _accesses(source: Source, end: int, read: Read, write: Write) -> None:
    """Read and write below ``end`` and a little beyond; a read returns no more bits than it has bytes."""
    for _ in range(STEPS_MAX):
        if not source.left:
            return
        act = source.byte()
        size = SIZES[act >> 1 & 7] if act >> 1 & 7 < len(SIZES) else 4
        offset = source.number(2) % (end + 8)
        if act & 1:
            write(offset, size, source.number(max(size, 1)))
        else:
            assert 0 <= read(offset, size) < 1 << 8 * max(size, 1)


def pci_config(data: bytes) -> None:
    """A configuration space with three capabilities: read-only bits stay, and a reset restores the others."""
    source = Source(data)
    space = ConfigSpace(PciHeader(0x1AF4, 0x1041, 1, 0x020000, 0x1AF4, 0x40, interrupt_pin=1))
    space.set_bar(0, 0x4000)
    space.set_bar(2, 0x1000)
    space.add(msix_capability(3, 2, 0, 0x800))
    space.add(msi_capability(4))
    space.add(pci_express_capability())
    space.set_multi_function(source.flag())
    before = space.image()[:USED]
    capabilities = space.snapshot().capabilities
    _accesses(source, 0x200, space.read, space.write)
    assert space.snapshot().capabilities == capabilities
    assert all(bar.address % bar.size == 0 for bar in space.bars)
    assert isinstance(space.take_flr(), bool)
    changed = bytes(now ^ then for now, then in zip(space.image()[:USED], before, strict=True))
    assert not any(bits & ~mask for bits, mask in zip(changed, space._writable[:USED], strict=True))
    space.reset()
    assert space.image()[:4] == before[:4]
    assert not space.command


def virtio_pci(data: bytes) -> None:
    """A virtio-pci function: its configuration space and its BARs, by way of the link."""
    source = Source(data)
    memory, link = HostMemory(MIB, name="rc"), IdealLink("pcie0")
    rc, epc = RootComplex(memory), EndpointController(link, name="ep.pcie0")
    rc.attach(link)
    epf = VirtioEpf(epc, 0, Identity(7, "test"))
    epf.device.offer(TABLE, FEATURES, QUEUES, CONFIG_BYTES)
    epf.bind()
    epc.start()
    function = rc.functions[0]
    blocks: tuple[tuple[int, Read, Write], ...] = (
        (0x38, partial(function.bar_read, BAR), partial(function.bar_write, BAR)),
        (BAR_SIZE, partial(function.bar_read, BAR), partial(function.bar_write, BAR)),
        (MSIX_BAR_SIZE, partial(function.bar_read, MSIX_BAR), partial(function.bar_write, MSIX_BAR)),
        (0x100, function.config_read, function.config_write),
    )
    while source.left:
        end, read, write = source.pick(blocks)
        _accesses(Source(source.take(24)), end, read, write)
        assert not epf.device.status & ~sum(Status)
    epf.device.reset()
    assert not any(queue.enabled for queue in epf.device.queues)
    epc.stop()
    memory.close()


class _Slot:
    """A slot for a platform device, with memory of its own."""

    def __init__(self) -> None:
        self.memory = MappedMemory()
        self.memory.add(Addr(0x1000), memoryview(bytearray(0x4000)))
        self.block: RegisterBlock | None = None

    def insert(self, block: RegisterBlock) -> None:
        self.block = block

    def remove(self) -> None:
        self.block = None

    def set_irq(self, asserted: bool) -> None:
        pass


def mmio(data: bytes) -> None:
    """The registers of a virtio-mmio device."""
    source, slot = Source(data), _Slot()
    device = MmioDevice(slot, Identity(1))
    device.device.offer(TABLE, FEATURES, QUEUES, CONFIG_BYTES)
    device.bind()
    assert slot.block is not None
    _accesses(source, 0x110, slot.block.read, slot.block.write)
    assert not device.device.status & ~sum(Status)
    device.device.reset()
    assert not any(queue.enabled for queue in device.device.queues)
    device.unbind()


def mailbox(data: bytes) -> None:
    """The register block of a mailbox endpoint: any bytes in it, and doorbells at any time."""
    source = Source(data)
    host = MailboxDriver(extension=source.flag())
    device = host.device
    try:
        for _ in range(STEPS_MAX):
            if not source.left:
                break
            act = source.byte()
            if act < 0x20:
                host.ring(act % (mailbox_registers.MAX_QUEUES + 2))
            elif act < 0x60:
                host.ask(act & 7)
            elif act < 0x80:
                host.ask_queue(act & 7, source.byte())
            elif act < 0xA0:
                host.place(act & 1, source.number(2), source.number(2))
            else:
                size = 1 << (act & 3)
                at = source.number(2) % (MAILBOX_END // size) * size
                host.put((at, size), source.number(size))
            assert not device.status & ~sum(Status)
        assert all(0 <= value for value in host.epf.registers().values())
        device.reset()
        assert not any(queue.enabled for queue in device.queues)
    finally:
        host.close()


def ntb_hardware(data: bytes) -> None:
    """The registers of an NTB on both of its sides: commands, scratchpads, doorbells, windows."""
    source, bridge = Source(data), Bridge()
    try:
        bridge.joined()
        functions = [rc.functions[0] for rc in bridge.rcs]
        while source.left:
            act = source.byte()
            function, bar = functions[act & 1], (0, 2, 4, 0)[act >> 1 & 3]
            end = 0x800 if bar == 0 else 0x200 if bar == 2 else MIB
            _accesses(Source(source.take(24)), end, partial(function.bar_read, bar), partial(function.bar_write, bar))
    finally:
        bridge.close()


SESSION = Offer(5, 0x1AF4, 0x3F, FEATURES, 4 * MIB, (64,) * 4, 30, 64)
WORDS = sorted(Spad)


def ntb_offer(data: bytes) -> None:
    """Scratchpads that both sides of a virtio session read: the offer, the answer to it, commands."""
    source = Source(data)
    honest = {**SESSION.emit(), **Answer(5, Addr(MIB), 64, 1 << 16).emit()}
    spads = honest if source.flag() else {}
    for _ in range(source.byte() & 31):
        spads[source.pick(WORDS)] = source.number(4)

    def read(spad: int) -> int:
        return spads.get(spad, 0)

    sequence, code = parse_command(read(Spad.COMMAND))
    assert 0 <= sequence
    assert 0 <= code
    try:
        offer = Offer.parse(read)
    except NtbRefused:
        return
    try:
        answer = Answer.parse(read, offer)
    except NtbRefused:
        return
    area = RingArea(offer.nums, answer.align)
    assert area.buffer_offset <= answer.buffer_offset < offer.mw_size
    for queue, num in enumerate(offer.nums):
        addrs = area.addrs(answer.mw_addr, queue, num)
        assert answer.mw_addr <= min(attrs.astuple(addrs)) <= max(attrs.astuple(addrs)) < answer.mw_addr + offer.mw_size
