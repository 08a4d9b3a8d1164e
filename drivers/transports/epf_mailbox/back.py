"""The device's half: a function whose registers are endpoint memory, which it reads when a doorbell rings.

The driver may change registers at any moment, so each is read once, and this side never reads back what it wrote.
The device and each queue accept one command at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import ClassVar

import trio

from drivers.bus.back import VIRTIO_VENDOR, Identity
from drivers.bus.vhost import DeviceQueue
from drivers.carriers.epf import VirtioFunction
from drivers.contracts.hw import NO_VECTOR, DmaBuffer, Epc, PciHeader
from drivers.transports.epf_mailbox.registers import (
    BAR,
    BAR_SIZE,
    CONFIG,
    CONFIG_SIZE,
    DEVICE_DOORBELL,
    DOORBELL_BAR,
    DOORBELL_SIZE,
    EXT_MAGIC,
    EXT_SIZE,
    EXT_VERSION,
    MAX_QUEUES,
    MSIX,
    NO_DOORBELL,
    PCI_IDS,
    QUEUE_ENABLED,
    VECTORS,
    VRING_ALIGN,
    DeviceCommand,
    Ext,
    ExtQueue,
    MailboxOutcome,
    QueueCommand,
    QueueReg,
    Reg,
)
from rings.features import PLATFORM, word
from rings.formats import ring_format
from rings.layout import RingAddrs
from rings.memory import Addr
from rings.status import Status

__all__ = ["MailboxEpf"]

POLL = 0.001
"""Seconds between two polls, for an endpoint without doorbells."""
LOW = (1 << 64) - 1


class MailboxEpf(VirtioFunction):
    """A mailbox device on a function of an endpoint controller.

    With ``poll`` there are no doorbells: `serve` polls every millisecond. Without ``extension`` the device has
    only the RFC's registers: it polls, and offers the first 64 feature bits.
    """

    extra_features = PLATFORM

    def __init__(
        self,
        epc: Epc,
        function: int,
        identity: Identity,
        *,
        poll: bool = False,
        extension: bool = True,
        ids: str = next(iter(PCI_IDS)),
    ) -> None:
        """``ids``: a key of `PCI_IDS`."""
        super().__init__(epc, function, identity)
        self._poll = poll or not extension
        self._extension = extension
        self._ids = PCI_IDS[ids]
        self._buffer: DmaBuffer | None = None
        self._regs = memoryview(b"")
        self._driver_version = 0
        self._generation = 0
        self._resetting: int | None = None
        """Sequence number of the command that completes when the device has reset."""
        self.spurious_doorbells = 0
        """Writes to the doorbells that are no doorbell."""

    def bind(self) -> None:
        """Set up the function. Raises ValueError for a device with too many queues or too much configuration."""
        device, epc, function = self.device, self._epc, self._function
        if len(device.queues) > MAX_QUEUES or len(device.config) > CONFIG_SIZE:
            raise ValueError(
                f"{device.name}: too large for a mailbox: {len(device.queues)} queues, {len(device.config)} bytes"
            )
        self._buffer = epc.dma.alloc(BAR_SIZE, BAR_SIZE)
        self._regs = epc.dma.pin(self._buffer.addr, BAR_SIZE, "B")
        vendor_id, device_id = self._ids
        header = PciHeader(
            vendor_id=vendor_id,
            device_id=device_id,
            revision=1,
            class_code=self._class_code,
            subsystem_vendor_id=VIRTIO_VENDOR,
            subsystem_id=device.device_id,
        )
        epc.set_header(function, header)
        epc.set_bar_ram(function, BAR, self._buffer)
        if not self._poll:
            epc.set_bar(function, DOORBELL_BAR, DOORBELL_SIZE * (MAX_QUEUES + 1), Doorbells(self))
        epc.set_msix(function, VECTORS, BAR, MSIX)
        epc.watch(function, self)
        self._forget_driver()
        self.changed()

    def unbind(self) -> None:
        super().unbind()
        if self._buffer is not None:
            self._epc.dma.unpin(self._regs)
            self._epc.dma.free(self._buffer)
            self._buffer = None

    async def serve(self) -> None:
        while self._poll:
            await trio.sleep(POLL)
            for doorbell in range(DEVICE_DOORBELL + 1):
                self.serve_doorbell(doorbell)

    def link_down(self) -> None:
        """Drop pending commands: the driver is gone."""
        self._resetting = None
        super().link_down()
        if self._buffer is not None:
            self._clear_commands()

    # Registers

    def _get(self, place: tuple[int, int]) -> int:
        offset, size = place
        return int.from_bytes(self._regs[offset : offset + size], "little")

    def _put(self, place: tuple[int, int], value: int) -> None:
        offset, size = place
        self._regs[offset : offset + size] = value.to_bytes(size, "little")

    def changed(self) -> None:
        """Write the registers that the device's half owns."""
        if self._buffer is None:
            return
        device = self.device
        self._put(Reg.HOST_FEATURES.value, device.device_features & LOW)
        self._put(Reg.NUM_QUEUES.value, len(device.queues))
        self._put(Reg.DEVICE_STATUS.value, device.status)
        for index in range(MAX_QUEUES):
            queue = device.queue(index)
            self._put(QueueReg.NUM_BUFFERS.at(index), queue.max_num if queue is not None else 0)
            self._put(QueueReg.STATUS.at(index), QUEUE_ENABLED if queue is not None and queue.enabled else 0)
        if self._extension:
            self._put(Ext.VERSION.value, EXT_VERSION)
            self._put(Ext.LENGTH.value, EXT_SIZE)
            self._put(Ext.DEVICE_FEATURES.value, device.device_features)
            self._put(Ext.DOORBELL_BAR.value, NO_DOORBELL if self._poll else DOORBELL_BAR)
            self._put(Ext.DOORBELL_OFFSET.value, 0)
            self._put(Ext.MAGIC.value, EXT_MAGIC)
        self._publish_config()

    def _publish_config(self) -> None:
        config = self.device.config[:CONFIG_SIZE].ljust(CONFIG_SIZE, b"\0")
        if self._regs[CONFIG : CONFIG + CONFIG_SIZE] != config:
            self._step_generation()
            self._regs[CONFIG : CONFIG + CONFIG_SIZE] = config
            self._step_generation()
        else:
            self._put_generation()  # a driver may have overwritten it

    def _step_generation(self) -> None:
        self._generation = self._generation + 1 & 0xFFFF_FFFF
        self._put_generation()

    def _put_generation(self) -> None:
        self._put(Reg.CONFIG_GENERATION.value, self._generation & 0xFF)
        if self._extension:
            self._put(Ext.GENERATION.value, self._generation)

    def _forget_driver(self) -> None:
        """Reset the registers that the driver writes, except for commands."""
        self._driver_version = 0
        self._put(Reg.GUEST_FEATURES.value, 0)
        self._put(Reg.MSIX_CONFIG.value, NO_VECTOR)
        self._put(Reg.ISR.value, 0)
        for index in range(MAX_QUEUES):
            self._put(QueueReg.MSIX_VECTOR.at(index), NO_VECTOR)
            self._put(QueueReg.ADDR.at(index), 0)
            if self._extension:
                for field in (ExtQueue.NUM, ExtQueue.DESC, ExtQueue.DRIVER, ExtQueue.DEVICE):
                    self._put(field.at(index), 0)
        if self._extension:
            for ext in (Ext.DRIVER_VERSION, Ext.DRIVER_FEATURES, Ext.CONFIG_OFFSET, Ext.CONFIG_LENGTH):
                self._put(ext.value, 0)

    def _clear_commands(self) -> None:
        for command, outcome in (
            (Reg.CMD.value, Reg.CMD_STATUS.value),
            *((QueueReg.CMD.at(i), QueueReg.CMD_STATUS.at(i)) for i in range(MAX_QUEUES)),
        ):
            self._put(command, DeviceCommand.NONE)
            self._put(outcome, MailboxOutcome.NONE)

    def registers(self) -> dict[str, int]:
        """Return the registers by name, for the queues that exist, and the counter of spurious doorbells."""
        if self._buffer is None:
            return {}
        values = {field.name.lower(): self._get(field.value) for field in Reg}
        for index in range(len(self.device.queues)):
            values |= {f"queue{index}.{field.name.lower()}": self._get(field.at(index)) for field in QueueReg}
        if self._extension:
            values |= {f"ext.{field.name.lower()}": self._get(field.value) for field in Ext}
            for index in range(len(self.device.queues)):
                values |= {f"ext.queue{index}.{field.name.lower()}": self._get(field.at(index)) for field in ExtQueue}
        return values | {"spurious_doorbells": self.spurious_doorbells}

    # Commands

    def serve_doorbell(self, doorbell: int) -> None:
        """Handle the command word of a doorbell, if it has a command."""
        if self._buffer is None:
            return
        if doorbell == DEVICE_DOORBELL:
            self._device_command()
        else:
            self._queue_command(doorbell)

    def _device_command(self) -> None:
        if self._resetting is not None:
            return  # `status_changed` continues
        sequence = self._sequence(Ext.SEQUENCE.value)  # read first, because the driver writes it before the command
        command = self._get(Reg.CMD.value)
        if command == DeviceCommand.NONE:
            return
        self._accept(Reg.CMD.value, Reg.CMD_STATUS.value)
        if command == DeviceCommand.RESET or (
            command == DeviceCommand.SET_STATUS and not self._get(Reg.DEVICE_STATUS.value)
        ):
            self._resetting = sequence
            self.device.reset()  # `status_changed` completes the command
            return
        handler = self._COMMANDS.get(command)
        success = handler is not None and handler(self)
        self._put(Reg.DEVICE_STATUS.value, self.device.status)
        self._complete(Reg.CMD_STATUS.value, Ext.COMPLETED.value, sequence, success)

    def _queue_command(self, index: int) -> None:
        place = QueueReg.CMD.at(index)
        if self._regs[place[0]] == QueueCommand.NOTIFY:
            # Cleared before the ring is read, so that a later notification is not lost.
            self._regs[place[0]] = QueueCommand.NONE
            self.device.kick(index)
            return
        sequence = self._sequence(ExtQueue.SEQUENCE.at(index))
        command = self._get(place)
        if command not in (QueueCommand.NONE, QueueCommand.NOTIFY):
            self._accept(place, QueueReg.CMD_STATUS.at(index))
            handler = self._QUEUE_COMMANDS.get(command)
            success = handler is not None and handler(self, index)
            self.changed()
            self._complete(QueueReg.CMD_STATUS.at(index), ExtQueue.COMPLETED.at(index), sequence, success)

    def _sequence(self, place: tuple[int, int]) -> int:
        return self._get(place) if self._extension else 0

    def _accept(self, command: tuple[int, int], outcome: tuple[int, int]) -> None:
        """Accept a command: clear the outcome of an earlier command, then free the command word."""
        self._put(outcome, MailboxOutcome.NONE)
        self._put(command, DeviceCommand.NONE)

    def _complete(self, outcome: tuple[int, int], completed: tuple[int, int], sequence: int, success: bool) -> None:
        if self._extension:
            self._put(completed, sequence)
        self._put(outcome, MailboxOutcome.OKAY if success else MailboxOutcome.ERROR)

    def status_changed(self, status: Status) -> None:
        if status or self._buffer is None:
            return
        self._forget_driver()
        self.changed()
        sequence, self._resetting = self._resetting, None
        if sequence is not None:
            self._complete(Reg.CMD_STATUS.value, Ext.COMPLETED.value, sequence, True)
            self._device_command()  # a command that arrived during the reset

    def _set_status(self) -> bool:
        status = self._get(Reg.DEVICE_STATUS.value)
        self.device.write_status(status)
        return not status & ~self.device.status

    def _finalize_features(self) -> bool:
        if self.device.status & Status.FEATURES_OK:
            return False
        self._driver_version = self._get(Ext.DRIVER_VERSION.value) if self._extension else 0
        place = Ext.DRIVER_FEATURES if self._driver_version else Reg.GUEST_FEATURES
        features = self._get(place.value)
        for select in range(4):
            self.device.write_driver_features(select, word(features, select))
        return self.device.acceptable(features)

    def _write_config(self) -> bool:
        if not self._extension:
            return False
        offset, length = self._get(Ext.CONFIG_OFFSET.value), self._get(Ext.CONFIG_LENGTH.value)
        if not length or offset + length > len(self.device.config):
            return False
        self.device.write_config(offset, bytes(self._regs[CONFIG + offset : CONFIG + offset + length]))
        self._publish_config()  # restores bytes that the device did not accept
        return True

    def _activate(self, index: int) -> bool:
        queue = self.device.idle_queue(index)
        vector = self._get(QueueReg.MSIX_VECTOR.at(index))
        if queue is None or (vector >= VECTORS and vector != NO_VECTOR):
            return False
        if self._driver_version:
            num = self._get(ExtQueue.NUM.at(index))
            fields = (ExtQueue.DESC, ExtQueue.DRIVER, ExtQueue.DEVICE)
            addrs = RingAddrs(*(Addr(self._get(field.at(index))) for field in fields))
        else:
            num = queue.max_num
            start = Addr(self._get(QueueReg.ADDR.at(index)))
            addrs, _ = ring_format(self.device.features).contiguous(num, start, VRING_ALIGN)
        queue.resize(num)
        if queue.num != num:
            return False
        queue.addrs, queue.vector = addrs, vector
        return self.device.enable_queue(index)

    def _deactivate(self, index: int) -> bool:
        queue = self.device.queue(index)
        enabled = queue is not None and queue.enabled
        self.device.disable_queue(index)
        return enabled

    _COMMANDS: ClassVar[Mapping[int, Callable[[MailboxEpf], bool]]] = {
        DeviceCommand.SET_STATUS: _set_status,
        DeviceCommand.FINALIZE_FEATURES: _finalize_features,
        DeviceCommand.WRITE_CONFIG: _write_config,
    }
    _QUEUE_COMMANDS: ClassVar[Mapping[int, Callable[[MailboxEpf, int], bool]]] = {
        QueueCommand.ACTIVATE: _activate,
        QueueCommand.DEACTIVATE: _deactivate,
    }

    # VhostOps

    def call(self, queue: DeviceQueue) -> None:
        if queue.vector != NO_VECTOR:
            self._epc.raise_irq(self._function, queue.vector)

    def config_changed(self) -> None:
        if self._buffer is None:
            return
        vector = self._get(Reg.MSIX_CONFIG.value)
        if vector < VECTORS:
            self._epc.raise_irq(self._function, vector)


class Doorbells:
    """The doorbell BAR: its registers are the only ones whose writes are trapped."""

    def __init__(self, epf: MailboxEpf) -> None:
        self._epf = epf

    def read(self, offset: int, size: int) -> int:
        return 0

    def write(self, offset: int, size: int, value: int) -> None:
        doorbell, odd = divmod(offset, DOORBELL_SIZE)
        if odd or size != DOORBELL_SIZE or doorbell > DEVICE_DOORBELL:
            self._epf.spurious_doorbells += 1
        else:
            self._epf.serve_doorbell(doorbell)
