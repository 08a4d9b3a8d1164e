"""A mailbox endpoint without a link, and its driver's writes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import cast

import pytest

from drivers.bus.back import Identity
from drivers.bus.vhost import OfferedQueue
from drivers.contracts.hw import DmaBuffer, Epc, FunctionEvents, PciHeader, RegisterBlock
from drivers.transports.epf_mailbox import registers as mb
from drivers.transports.epf_mailbox.back import MailboxEpf
from rings.features import FeatureTable, RingFeature, mask
from rings.layout import RingAddrs
from rings.memory import Addr, Memory
from vnet.linux.memory import HostMemory

Reg, QueueReg, Ext, ExtQueue = mb.Reg, mb.QueueReg, mb.Ext, mb.ExtQueue
OKAY, ERROR, NONE = mb.MailboxOutcome.OKAY, mb.MailboxOutcome.ERROR, mb.MailboxOutcome.NONE
ACTIVATE, DEACTIVATE, NOTIFY = mb.QueueCommand.ACTIVATE, mb.QueueCommand.DEACTIVATE, mb.QueueCommand.NOTIFY
TABLE = FeatureTable({0: "ONE", 70: "FAR"})
FEATURES = mask((0, 70, RingFeature.VERSION_1, RingFeature.EVENT_IDX, RingFeature.INDIRECT_DESC))
CONFIG_BYTES = bytes(range(1, 13))
MIB = 1 << 20


class Controller:
    """As much of an endpoint controller as the function uses; ``remote`` is the other host's memory."""

    lossy = False

    def __init__(self) -> None:
        self.dma = HostMemory(MIB, name="ep")
        self.remote = HostMemory(MIB, name="rc")
        self.buffer: DmaBuffer | None = None
        self.doorbells: RegisterBlock | None = None
        self.msix: tuple[int, ...] = ()
        self.header: PciHeader | None = None
        self.events: FunctionEvents | None = None
        self.irqs: list[int] = []

    def set_header(self, function: int, header: PciHeader) -> None:
        self.header = header

    def set_bar(self, function: int, bar: int, size: int, block: RegisterBlock) -> None:
        assert bar == mb.DOORBELL_BAR
        self.doorbells = block

    def set_bar_ram(self, function: int, bar: int, buffer: DmaBuffer) -> None:
        assert bar == mb.BAR
        self.buffer = buffer

    def set_msix(self, function: int, vectors: int, bar: int, offset: int) -> None:
        self.msix = vectors, bar, offset

    def watch(self, function: int, events: FunctionEvents) -> None:
        self.events = events

    def clear(self, function: int) -> None:
        self.buffer = self.doorbells = None

    def window(self, function: int) -> Memory:
        return self.remote

    def meter(self, function: int) -> None:
        return None

    async def settle(self) -> None:
        pass

    def raise_irq(self, function: int, vector: int) -> None:
        self.irqs.append(vector)


class Driver:
    """A host that writes registers and rings doorbells."""

    def __init__(self, *, poll: bool = False, extension: bool = True) -> None:
        self.epc = Controller()
        self.epf = MailboxEpf(cast(Epc, self.epc), 0, Identity(7, "test"), poll=poll, extension=extension)
        self.device = self.epf.device
        self.device.offer(TABLE, FEATURES, [OfferedQueue("first", 16), OfferedQueue("second", 8)], CONFIG_BYTES)
        self.epf.bind()
        self.extension = extension
        self.sequence = 0

    def close(self) -> None:
        self.device.reset()
        self.epc.dma.close()
        self.epc.remote.close()

    def at(self, place: tuple[int, int]) -> memoryview:
        offset, size = place
        assert self.epc.buffer is not None
        return self.epc.dma.view(Addr(self.epc.buffer.addr + offset), size, True)

    def get(self, place: tuple[int, int]) -> int:
        return int.from_bytes(self.at(place), "little")

    def put(self, place: tuple[int, int], value: int) -> None:
        self.at(place)[:] = value.to_bytes(place[1], "little")

    def dump(self) -> bytes:
        return bytes(self.at((0, mb.BAR_SIZE)))

    def ring(self, doorbell: int) -> None:
        if self.epc.doorbells is not None:
            self.epc.doorbells.write(mb.DOORBELL_SIZE * doorbell, mb.DOORBELL_SIZE, 1)
        else:
            self.epf.serve_doorbell(doorbell)

    def ask(self, command: int) -> int:
        self.put(Reg.CMD.value, command)
        if self.extension:
            self.sequence += 1
            self.put(Ext.SEQUENCE.value, self.sequence)
        self.ring(mb.DEVICE_DOORBELL)
        return self.get(Reg.CMD_STATUS.value)

    def ask_queue(self, queue: int, command: int) -> int:
        self.put(QueueReg.CMD.at(queue), command)
        self.ring(queue)
        return self.get(QueueReg.CMD_STATUS.at(queue))

    def set_status(self, status: int) -> int:
        self.put(Reg.DEVICE_STATUS.value, status)
        return self.ask(mb.DeviceCommand.SET_STATUS)

    def negotiate(self, features: int = FEATURES) -> int:
        self.set_status(1)
        self.set_status(3)
        self.put(Reg.GUEST_FEATURES.value, features & (1 << 64) - 1)
        if self.extension:
            self.put(Ext.DRIVER_FEATURES.value, features)
            self.put(Ext.DRIVER_VERSION.value, mb.EXT_VERSION)
        outcome = self.ask(mb.DeviceCommand.FINALIZE_FEATURES)
        self.set_status(11)
        return outcome

    def place(self, queue: int, num: int = 8, at: int = 0) -> RingAddrs:
        """Three areas, a page apart, and the second one first."""
        base = self.epc.remote.base + 0x10000 * queue + at
        addrs = RingAddrs(Addr(base + 0x2000), Addr(base), Addr(base + 0x1000))
        self.put(ExtQueue.NUM.at(queue), num)
        fields = (ExtQueue.DESC, addrs.desc), (ExtQueue.DRIVER, addrs.driver), (ExtQueue.DEVICE, addrs.device)
        for field, addr in fields:
            self.put(field.at(queue), addr)
        return addrs

    def start(self) -> None:
        assert self.negotiate() == OKAY
        for queue in range(2):
            self.place(queue)
            assert self.ask_queue(queue, ACTIVATE) == OKAY
        assert self.set_status(15) == OKAY


@pytest.fixture
def driver() -> Iterator[Driver]:
    actual = Driver()
    yield actual
    actual.close()
