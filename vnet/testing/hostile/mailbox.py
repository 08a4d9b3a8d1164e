"""The hostile driver at the registers of an endpoint mailbox."""

from __future__ import annotations

import attrs
import trio

from drivers.carriers.base import pieces
from drivers.transports.epf_mailbox import registers as mb
from rings.layout import RingAddrs
from rings.status import Status
from vnet.testing.checks import bounded
from vnet.testing.hostile.driver import HostileDriver, P_co

__all__ = ["HostileMailbox"]

Place = tuple[int, int]


class HostileMailbox(HostileDriver[P_co]):
    """At an endpoint that looks at its registers when a doorbell rings, and then at once."""

    sequence = 0

    def reg(self, place: Place) -> int:
        """Read a register, of any size."""
        parts = (self.function.bar_read(mb.BAR, at, n).to_bytes(n, "little") for at, n in pieces(*place))
        return int.from_bytes(b"".join(parts), "little")

    def put_reg(self, place: Place, value: int) -> None:
        offset, size = place
        for at, n in pieces(offset, size):
            self.function.bar_write(mb.BAR, at, n, value >> 8 * (at - offset) & (1 << 8 * n) - 1)

    def places(self) -> tuple[int, int]:
        bars = {bar.index: bar.address for bar in self.function.bars}
        return bars[mb.BAR], bars[mb.DOORBELL_BAR]

    def ring(self, doorbell: int) -> None:
        self.function.bar_write(mb.DOORBELL_BAR, mb.DOORBELL_SIZE * doorbell, mb.DOORBELL_SIZE, 1)

    def command(self, command: int) -> int:
        """Give a command to the device. Returns its status word: 0 until it is complete."""
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
        with bounded():
            while self.reg(mb.Reg.CMD_STATUS.value) != mb.MailboxOutcome.OKAY:  # noqa: ASYNC110  a register wakes no task
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
