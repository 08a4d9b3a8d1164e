"""The hostile driver at a virtio-mmio region."""

from __future__ import annotations

from typing import Any

import attrs

from drivers.transports.mmio import registers as mm
from rings.layout import RingAddrs
from rings.status import Status
from vnet.host.platform import PlatformRegion
from vnet.testing.hostile.driver import HostileDriver, P_co

__all__ = ["HostileMmio"]

WORDS = range(4)


class HostileMmio(HostileDriver[P_co]):
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
