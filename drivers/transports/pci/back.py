"""The device's half: an endpoint function with trapped virtio-pci registers."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

from drivers.bus.back import VIRTIO_VENDOR, Identity
from drivers.bus.registers import SelectedRegisters
from drivers.bus.vhost import DeviceQueue, VhostDevice
from drivers.carriers.epf import VirtioFunction
from drivers.contracts.hw import NO_VECTOR, Epc, PciHeader, RegisterBlock
from drivers.transports.pci.registers import (
    CAP_VENDOR,
    COMMON_SIZE,
    DEVICE_BASE,
    EXTRA_FEATURES,
    ISR_CONFIG,
    ISR_QUEUE,
    SIZES,
    CfgType,
    Common,
    Structure,
)
from rings.features import RingFeature, word
from rings.layout import Area
from rings.status import Status

__all__ = ["VirtioEpf"]

BAR, MSIX_BAR = 0, 2
COMMON_AT, ISR_AT, DEVICE_AT, NOTIFY_AT = 0x0000, 0x1000, 0x2000, 0x3000
DEVICE_SIZE, NOTIFY_SIZE = 0x1000, 0x1000
BAR_SIZE = NOTIFY_AT + NOTIFY_SIZE
MULTIPLIER = 4
CONFIG_DATA = 0x4000
"""Value of queue_notif_config_data of the first queue: no index of a queue, so that a trace shows which is written."""
MAX_VECTORS = 0x800
MSIX_ENTRY = 16

_ADDRESSES = {
    (field + at, size): (area, 8 * at)
    for field, area in zip((Common.QUEUE_DESC, Common.QUEUE_DRIVER, Common.QUEUE_DEVICE), Area, strict=True)
    for at, size in ((0, 8), (0, 4), (4, 4))
}
"""Area and first bit of its address, by offset and size of an access: a whole register, or half of it."""


class VirtioEpf(VirtioFunction):
    """A function of an endpoint controller as a virtio device."""

    extra_features = EXTRA_FEATURES

    def __init__(self, epc: Epc, function: int, identity: Identity) -> None:
        super().__init__(epc, function, identity)
        self._vectors = 0
        self._common = CommonBlock(self)
        self._isr = IsrBlock(self)
        self.config_vector = NO_VECTOR
        self.isr = 0
        self.spurious_notifies = 0
        """Writes to the notification structure that are no notification of a queue."""

    def bind(self) -> None:
        """Set up the function, after the vhost driver offered features. It has one vector per queue and one more."""
        device, epc, function = self.device, self._epc, self._function
        device_id = device.device_id
        self._vectors = min(len(device.queues) + 1, MAX_VECTORS)
        header = PciHeader(
            vendor_id=VIRTIO_VENDOR,
            device_id=DEVICE_BASE + device_id,
            revision=1,
            class_code=self._class_code,
            subsystem_vendor_id=VIRTIO_VENDOR,
            subsystem_id=0x40 + device_id,
        )
        epc.set_header(function, header)
        blocks: list[tuple[Structure, RegisterBlock]] = [
            (Structure(CfgType.COMMON, BAR, COMMON_AT, COMMON_SIZE), self._common),
            (Structure(CfgType.ISR, BAR, ISR_AT, 1), self._isr),
            (Structure(CfgType.DEVICE, BAR, DEVICE_AT, DEVICE_SIZE), DeviceBlock(device)),
            (Structure(CfgType.NOTIFY, BAR, NOTIFY_AT, NOTIFY_SIZE, MULTIPLIER), NotifyBlock(self)),
        ]
        bar = BarBlock(blocks[::-1])  # doorbells are found first
        epc.set_bar(function, BAR, BAR_SIZE, bar)
        epc.set_bar(function, MSIX_BAR, MSIX_ENTRY * self._vectors + -(-self._vectors // 64) * 8, BarBlock([]))
        epc.set_msix(function, self._vectors, MSIX_BAR, 0)
        for structure, _ in blocks:
            epc.add_capability(function, CAP_VENDOR, structure.emit())
        access = Structure(CfgType.PCI, 0, 0, 0)
        epc.add_capability(function, CAP_VENDOR, access.emit(), PciCfgBlock(access.emit(), bar))
        epc.watch(function, self)

    def valid_vector(self, vector: int) -> int:
        """Return ``vector`` if it is in the table, else NO_VECTOR, which tells the driver that mapping failed."""
        return vector if vector < self._vectors else NO_VECTOR

    def registers(self) -> dict[str, int]:
        """Return the common configuration, the registers of every queue, and the counter of spurious notifications."""
        device = self.device
        return {
            "device_status": device.status,
            "config_generation": device.generation,
            "config_msix_vector": self.config_vector,
            "num_queues": len(device.queues),
            "spurious_notifies": self.spurious_notifies,
            **device.queue_registers(),
            **{f"queue{queue.index}.msix_vector": queue.vector for queue in device.queues},
        }

    def queue_at(self, block: RegisterBlock, offset: int) -> DeviceQueue | None:
        """Return the queue that a 16-bit write at ``offset`` of a BAR's registers kicks; None if it kicks none."""
        place = block.block_at(offset, 2) if isinstance(block, BarBlock) else None
        if place is None or not isinstance(place[0], NotifyBlock):
            return None
        index, odd = divmod(place[1], MULTIPLIER)
        queues = self.device.queues
        return queues[index] if not odd and index < len(queues) else None

    # VhostOps

    def call(self, queue: DeviceQueue) -> None:
        if self._epc.msix_enabled(self._function):
            if queue.vector != NO_VECTOR:
                self._epc.raise_irq(self._function, queue.vector)
        else:
            self.isr |= ISR_QUEUE
            self._epc.set_intx(self._function, True)

    def interrupt_of(self, queue: DeviceQueue) -> tuple[int, int]:
        """Return function and vector of the MSI-X interrupt of a queue; the vector may be NO_VECTOR."""
        return self._function, queue.vector

    def config_changed(self) -> None:
        self.isr |= ISR_CONFIG
        if not self._epc.msix_enabled(self._function):
            self._epc.set_intx(self._function, True)
        elif self.config_vector != NO_VECTOR:
            self._epc.raise_irq(self._function, self.config_vector)

    def read_isr(self) -> int:
        """Return the ISR status, clear it, and deassert INTx (section 4.1.4.5)."""
        value, self.isr = self.isr, 0
        if not self._epc.msix_enabled(self._function):
            self._epc.set_intx(self._function, False)
        return value

    def status_changed(self, status: Status) -> None:
        if not status:
            self._common.clear()
            self.config_vector = NO_VECTOR
            self.read_isr()


class BarBlock:
    """Several structures in one BAR. An access that is not inside one of them reads 0 or is ignored."""

    def __init__(self, blocks: list[tuple[Structure, RegisterBlock]]) -> None:
        self._blocks = blocks

    def read(self, offset: int, size: int) -> int:
        for at, block in self._blocks:
            if at.offset <= offset and offset + size <= at.offset + at.length:
                return block.read(offset - at.offset, size)
        return 0

    def write(self, offset: int, size: int, value: int) -> None:
        for at, block in self._blocks:
            if at.offset <= offset and offset + size <= at.offset + at.length:
                block.write(offset - at.offset, size, value)
                return

    def block_at(self, offset: int, size: int) -> tuple[RegisterBlock, int] | None:
        """Return the structure that a write goes to, and the offset in it; None if it goes to none."""
        for at, block in self._blocks:
            if at.offset <= offset and offset + size <= at.offset + at.length:
                return block, offset - at.offset
        return None


class CommonBlock(SelectedRegisters):
    """The common configuration structure; ignores writes to read-only fields (section 4.1.4.3)."""

    def __init__(self, epf: VirtioEpf) -> None:
        super().__init__(epf.device)
        self._epf = epf

    def read(self, offset: int, size: int) -> int:
        if (offset, size) in _ADDRESSES:
            return self.queue_field(lambda queue: queue.addrs.bits(*_ADDRESSES[offset, size], 8 * size))
        get = self._READ.get(offset)
        return get(self) if get is not None and SIZES[Common(offset)] == size else 0

    def write(self, offset: int, size: int, value: int) -> None:
        if (offset, size) in _ADDRESSES:
            queue, (area, shift) = self.idle_queue(), _ADDRESSES[offset, size]
            if queue is not None:
                queue.addrs = queue.addrs.with_bits(area, value, shift, 8 * size)
            return
        put = self._WRITE.get(offset)
        if put is not None and SIZES[Common(offset)] == size:
            put(self, value)

    def _set_config_vector(self, value: int) -> None:
        self._epf.config_vector = self._epf.valid_vector(value)

    def _set_vector(self, value: int) -> None:
        queue = self.idle_queue()
        if queue is not None:
            queue.vector = self._epf.valid_vector(value)

    def _set_enable(self, value: int) -> None:
        if value == 1:
            self.enable_queue()

    _READ: ClassVar[dict[int, Callable[[CommonBlock], int]]] = {
        Common.DEVICE_FEATURE_SELECT: lambda self: self._device_select,
        Common.DEVICE_FEATURE: SelectedRegisters.device_features,
        Common.DRIVER_FEATURE_SELECT: lambda self: self._driver_select,
        Common.DRIVER_FEATURE: lambda self: word(self._device.driver_features, self._driver_select),
        Common.CONFIG_MSIX_VECTOR: lambda self: self._epf.config_vector,
        Common.NUM_QUEUES: lambda self: len(self._device.queues),
        Common.DEVICE_STATUS: lambda self: int(self._device.status),
        Common.CONFIG_GENERATION: lambda self: self._device.generation & 0xFF,
        Common.QUEUE_SELECT: lambda self: self._queue_select,
        Common.QUEUE_SIZE: lambda self: self.queue_field(lambda queue: queue.num),
        Common.QUEUE_MSIX_VECTOR: lambda self: self.queue_field(lambda queue: queue.vector, NO_VECTOR),
        Common.QUEUE_ENABLE: lambda self: self.queue_field(lambda queue: queue.enabled),
        Common.QUEUE_NOTIFY_OFF: lambda self: self.queue_field(lambda queue: queue.index),
        Common.QUEUE_NOTIF_CONFIG_DATA: lambda self: self.queue_field(lambda queue: CONFIG_DATA + queue.index),
        Common.QUEUE_RESET: lambda self: 0,
    }
    _WRITE: ClassVar[dict[int, Callable[[CommonBlock, int], None]]] = {
        Common.DEVICE_FEATURE_SELECT: SelectedRegisters.select_device_features,
        Common.DRIVER_FEATURE_SELECT: SelectedRegisters.select_driver_features,
        Common.DRIVER_FEATURE: SelectedRegisters.set_driver_features,
        Common.CONFIG_MSIX_VECTOR: _set_config_vector,
        Common.DEVICE_STATUS: lambda self, value: self._device.write_status(value),
        Common.QUEUE_SELECT: SelectedRegisters.select_queue,
        Common.QUEUE_SIZE: SelectedRegisters.set_size,
        Common.QUEUE_MSIX_VECTOR: _set_vector,
        Common.QUEUE_ENABLE: _set_enable,
        Common.QUEUE_RESET: SelectedRegisters.reset_queue,
    }


class IsrBlock:
    def __init__(self, epf: VirtioEpf) -> None:
        self._epf = epf

    def read(self, offset: int, size: int) -> int:
        return self._epf.read_isr()

    def write(self, offset: int, size: int, value: int) -> None:
        """Ignore the write: the register is read-only."""


class DeviceBlock:
    """The device-specific configuration structure, for accesses of any size. Bytes beyond its end are 0."""

    def __init__(self, device: VhostDevice) -> None:
        self._device = device

    def read(self, offset: int, size: int) -> int:
        return int.from_bytes(self._device.read_config(offset, size), "little")

    def write(self, offset: int, size: int, value: int) -> None:
        self._device.write_config(offset, value.to_bytes(size, "little"))


class NotifyBlock:
    """The notification structure: a write at a queue's address kicks the queue. It ignores the value.

    A write has 16 bits, or 32 if NOTIFICATION_DATA is negotiated (section 4.1.5.2).
    """

    def __init__(self, epf: VirtioEpf) -> None:
        self._epf = epf

    def read(self, offset: int, size: int) -> int:
        return 0

    def write(self, offset: int, size: int, value: int) -> None:
        index, odd = divmod(offset, MULTIPLIER)
        # Plain kicks are not slowed down by a look at the features.
        if odd or (size != 2 and not self._has_data(size)) or index >= len(self._epf.device.queues):
            self._epf.spurious_notifies += 1
        else:
            self._epf.device.kick(index)

    def _has_data(self, size: int) -> bool:
        return size == 4 and self._epf.device.has(RingFeature.NOTIFICATION_DATA)


class PciCfgBlock:
    """The capability that reaches BARs through configuration space (section 4.1.4.9)."""

    BAR_AT, OFFSET_AT, LENGTH_AT, DATA_AT = 2, 6, 10, 14

    def __init__(self, body: bytes, bar: BarBlock) -> None:
        self._body = bytearray(body)
        self._bar = bar

    def _target(self, offset: int, size: int) -> tuple[int, int] | None:
        """Return (offset, length) in the BAR for an access to pci_cfg_data, or None if a field is invalid."""
        at = int.from_bytes(self._body[self.OFFSET_AT : self.OFFSET_AT + 4], "little")
        length = int.from_bytes(self._body[self.LENGTH_AT : self.LENGTH_AT + 4], "little")
        valid = self._body[self.BAR_AT] == BAR and length in (1, 2, 4) and not at % length and at + length <= BAR_SIZE
        return (at, length) if valid and offset == self.DATA_AT and size >= length else None

    def read(self, offset: int, size: int) -> int:
        if offset < self.DATA_AT:
            return int.from_bytes(self._body[offset : offset + size], "little")
        target = self._target(offset, size)
        return self._bar.read(*target) if target is not None else 0

    def write(self, offset: int, size: int, value: int) -> None:
        if offset >= self.DATA_AT:
            target = self._target(offset, size)
            if target is not None:
                at, length = target
                self._bar.write(at, length, value & (1 << 8 * length) - 1)
        elif offset == self.BAR_AT or (self.OFFSET_AT <= offset and offset + size <= self.DATA_AT):
            # The other fields of the capability are read-only.
            count = 1 if offset == self.BAR_AT else size
            self._body[offset : offset + count] = (value & (1 << 8 * count) - 1).to_bytes(count, "little")
