"""The test kit of the other transports: the same verbs as for virtio-pci, in other places."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import attrs
import trio

from drivers.contracts.hw import DmaMemory, Handler
from drivers.testing import RegisterAccess
from drivers.transports.epf_mailbox import registers as mb
from drivers.transports.mmio import registers as mm
from rings.layout import RingAddrs
from rings.status import Status
from vnet.host.platform import PlatformRegion
from vnet.testing.hostile import HostileDriver
from vnet.testing.ntb import HostileNtb
from vnet.testing.pair import Pair
from vnet.testing.user import HostileUser

__all__ = ["DRIVERS", "HostileMailbox", "HostileMmio", "TappedRegion", "tapped_region"]

Place = tuple[int, int]
WORDS = range(4)


class HostileMailbox(HostileDriver):
    """At an endpoint that looks at its registers when a doorbell rings, and then at once."""

    sequence = 0

    def reg(self, place: Place) -> int:
        """What stands in a register."""
        parts = (self.function.bar_read(mb.BAR, at, n).to_bytes(n, "little") for at, n in mb.pieces(*place))
        return int.from_bytes(b"".join(parts), "little")

    def put_reg(self, place: Place, value: int) -> None:
        offset, size = place
        for at, n in mb.pieces(offset, size):
            self.function.bar_write(mb.BAR, at, n, value >> 8 * (at - offset) & (1 << 8 * n) - 1)

    def places(self) -> tuple[int, int]:
        bars = {bar.index: bar.address for bar in self.function.bars}
        return bars[mb.BAR], bars[mb.DOORBELL_BAR]

    def ring(self, doorbell: int) -> None:
        self.function.bar_write(mb.DOORBELL_BAR, mb.DOORBELL_SIZE * doorbell, mb.DOORBELL_SIZE, 1)

    def command(self, command: int) -> int:
        """Of the device; its status word, which is 0 while it is not done."""
        self.sequence += 1
        self.put_reg(mb.Ext.SEQUENCE.value, self.sequence)
        self.put_reg(mb.Reg.CMD.value, command)
        self.ring(mb.DEVICE_DOORBELL)
        return self.reg(mb.Reg.CMD_STATUS.value)

    def queue_command(self, queue: int, command: int) -> int:
        self.put_reg(mb.QueueReg.CMD.at(queue), command)
        self.ring(queue)
        return self.reg(mb.QueueReg.CMD_STATUS.at(queue))

    @property
    def status(self) -> Status:
        return Status(self.reg(mb.Reg.DEVICE_STATUS.value))

    @status.setter
    def status(self, value: int) -> None:
        self.put_reg(mb.Reg.DEVICE_STATUS.value, value)
        self.command(mb.DeviceCommand.SET_STATUS if value else mb.DeviceCommand.RESET)

    async def reset(self) -> None:
        self.status = Status(0)
        with trio.fail_after(1):
            while self.reg(mb.Reg.CMD_STATUS.value) != mb.MailboxOutcome.OKAY:  # noqa: ASYNC110  a register tells nobody
                await trio.sleep(0.001)

    @property
    def device_features(self) -> int:
        return self.reg(mb.Ext.DEVICE_FEATURES.value)

    @property
    def driver_features(self) -> int:
        return self.pair.vhost.driver_features

    @driver_features.setter
    def driver_features(self, value: int) -> None:
        self.put_reg(mb.Reg.GUEST_FEATURES.value, value & (1 << 64) - 1)
        self.put_reg(mb.Ext.DRIVER_FEATURES.value, value)
        self.put_reg(mb.Ext.DRIVER_VERSION.value, mb.EXT_VERSION)
        self.command(mb.DeviceCommand.FINALIZE_FEATURES)

    def config(self, offset: int, size: int) -> int:
        return self.function.bar_read(mb.BAR, mb.CONFIG + offset, size)

    def kick(self, queue: int, value: int | None = None) -> None:
        self.queue_command(queue, mb.QueueCommand.NOTIFY)

    def queue_size(self, queue: int, num: int | None) -> int:
        return self.reg(mb.QueueReg.NUM_BUFFERS.at(queue)) if num is None else num

    def place(self, queue: int, num: int, addrs: RingAddrs) -> None:
        self.put_reg(mb.ExtQueue.NUM.at(queue), num)
        fields = mb.ExtQueue.DESC, mb.ExtQueue.DRIVER, mb.ExtQueue.DEVICE
        for field, area in zip(fields, attrs.astuple(addrs), strict=True):
            self.put_reg(field.at(queue), area)

    def enable(self, queue: int) -> None:
        self.queue_command(queue, mb.QueueCommand.ACTIVATE)

    def point(self, queues: int) -> None:
        self.put_reg(mb.Reg.MSIX_CONFIG.value, 0)
        for queue in range(queues):
            self.put_reg(mb.QueueReg.MSIX_VECTOR.at(queue), queue + 1)


class HostileMmio(HostileDriver):
    """At a region of the platform bus. `calls` takes 0 for the configuration and 1 for any queue."""

    region: PlatformRegion

    def look(self, carrier: Any) -> None:
        self.region = carrier

    def places(self) -> tuple[int, int]:
        return self.region.address, self.region.address + mm.Register.QUEUE_NOTIFY

    def reg(self, register: int) -> int:
        return self.region.read(register, 4)

    def put_reg(self, register: int, value: int) -> None:
        self.region.write(register, 4, value)

    @property
    def status(self) -> Status:
        return Status(self.reg(mm.Register.STATUS))

    @status.setter
    def status(self, value: int) -> None:
        self.put_reg(mm.Register.STATUS, value)

    @property
    def device_features(self) -> int:
        value = 0
        for select in WORDS:
            self.put_reg(mm.Register.DEVICE_FEATURES_SEL, select)
            value |= self.reg(mm.Register.DEVICE_FEATURES) << 32 * select
        return value

    @property
    def driver_features(self) -> int:
        return self.pair.vhost.driver_features

    @driver_features.setter
    def driver_features(self, value: int) -> None:
        for select in WORDS:
            self.put_reg(mm.Register.DRIVER_FEATURES_SEL, select)
            self.put_reg(mm.Register.DRIVER_FEATURES, value >> 32 * select & 0xFFFF_FFFF)

    def config(self, offset: int, size: int) -> int:
        return self.region.read(mm.CONFIG + offset, size)

    def kick(self, queue: int, value: int | None = None) -> None:
        self.put_reg(mm.Register.QUEUE_NOTIFY, queue if value is None else value)

    def queue_size(self, queue: int, num: int | None) -> int:
        self.put_reg(mm.Register.QUEUE_SEL, queue)
        return self.reg(mm.Register.QUEUE_SIZE_MAX) if num is None else num

    def place(self, queue: int, num: int, addrs: RingAddrs) -> None:
        self.put_reg(mm.Register.QUEUE_SEL, queue)
        self.put_reg(mm.Register.QUEUE_SIZE, num)
        lows = mm.Register.QUEUE_DESC_LOW, mm.Register.QUEUE_DRIVER_LOW, mm.Register.QUEUE_DEVICE_LOW
        for low, area in zip(lows, attrs.astuple(addrs), strict=True):
            self.put_reg(low, area & 0xFFFF_FFFF)
            self.put_reg(low + 4, area >> 32)

    def enable(self, queue: int) -> None:
        self.put_reg(mm.Register.QUEUE_SEL, queue)
        self.put_reg(mm.Register.QUEUE_READY, 1)

    def map_vectors(self, queues: int = 2) -> None:
        self.region.request_irq(self._interrupt)

    def _interrupt(self) -> None:
        pending = self.reg(mm.Register.INTERRUPT_STATUS)
        for vector, bit in ((1, mm.Interrupt.USED_BUFFER), (0, mm.Interrupt.CONFIG_CHANGE)):
            if pending & bit:
                self.calls.append(vector)
        self.put_reg(mm.Register.INTERRUPT_ACK, pending)

    def let_go(self) -> None:
        self.region.free_irq()


DRIVERS: Mapping[str, type[HostileDriver]] = {
    "pci": HostileDriver,
    "epf_mailbox": HostileMailbox,
    "mmio": HostileMmio,
    "ntb": HostileNtb,
    "vhost_user": HostileUser,
}
"""By transport."""


class TappedRegion:
    """Any `drivers.contracts.hw.MmioRegion`, with a log of its accesses, and lies where a test wants them."""

    def __init__(self, inner: PlatformRegion) -> None:
        self._inner = inner
        self.name, self.size = inner.name, inner.size
        self.vendor_id, self.device_id = inner.vendor_id, inner.device_id
        self.log: list[RegisterAccess] = []
        """All of BAR 0, as there is no other."""
        self.lies: dict[int, Callable[[int], int]] = {}
        """By offset: what the reader is told in place of the value it gets."""
        self.deaf: set[int] = set()
        """Offsets whose writes are ignored."""

    @property
    def dma(self) -> DmaMemory:
        return self._inner.dma

    def read(self, offset: int, size: int) -> int:
        value = self._inner.read(offset, size)
        lie = self.lies.get(offset)
        told = value if lie is None else lie(value) & (1 << 8 * size) - 1
        self.log.append(RegisterAccess(0, offset, size, told, False))
        return told

    def write(self, offset: int, size: int, value: int) -> None:
        self.log.append(RegisterAccess(0, offset, size, value, True))
        if offset not in self.deaf:
            self._inner.write(offset, size, value)

    def request_irq(self, handler: Handler) -> None:
        self._inner.request_irq(handler)

    def free_irq(self) -> None:
        self._inner.free_irq()


@asynccontextmanager
async def tapped_region(pair: Pair) -> AsyncIterator[TappedRegion]:
    """A recorder in the region's place on the bus, not on it yet: register it at `Host.mmio` when it may lie.

    At the end the bare region is bound again, and up.
    """
    bus, region = pair.carrier
    await bus.unregister_device(region)
    tap = TappedRegion(region)
    try:
        yield tap
    finally:
        with trio.CancelScope(shield=True):
            if any(binding.device is tap for binding in bus.bindings):
                await bus.unregister_device(tap)
        bus.register_device(region)
    await pair.world.wait_up()
