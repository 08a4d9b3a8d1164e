"""The driver's half: finds the virtio structures, and implements the virtio bus's operations on their registers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import attrs

from drivers.bus.back import VIRTIO_VENDOR
from drivers.bus.model import MatchId
from drivers.bus.virtio import NO_ANSWER, DriverQueue, QueueSpec, VirtioDevice
from drivers.carriers.base import notify_with_data, read_field, wait_reset, write_field
from drivers.carriers.pci import FunctionTransport, VirtioPciDriver
from drivers.contracts.hw import NO_VECTOR, PciFunction
from drivers.errors import ProbeError, TransportLost
from drivers.transports.pci.registers import (
    CAP_VENDOR,
    DEVICE_BASE,
    EXTRA_FEATURES,
    ISR_CONFIG,
    ISR_QUEUE,
    SIZES,
    TRANSITIONAL,
    CfgType,
    Common,
    Structure,
)
from rings.features import RingFeature
from rings.formats import RING_FEATURES
from rings.ids import DeviceId
from rings.queue import Virtqueue

__all__ = ["VIRTIO_PCI", "VirtioPci", "find_structures"]

STATUS, STATUS_CAPS = 0x06, 0x10
CAP_POINTER = 0x34
BARS = 6


def find_structures(function: PciFunction) -> dict[int, Structure]:
    """Return the first usable structure of each kind in the capability list (section 4.1.4.1).

    Raises ProbeError if a structure that every modern device has is missing or lies outside its BAR.
    """
    structures: dict[int, Structure] = {}
    at = function.config_read(CAP_POINTER, 1) & ~3 if function.config_read(STATUS, 2) & STATUS_CAPS else 0
    for _ in range(64):  # bounds a looping list
        if at < 0x40:
            break
        if function.config_read(at, 1) == CAP_VENDOR:
            length = function.config_read(at + 2, 1)
            if length >= 16:
                body = bytes(function.config_read(at + i, 1) for i in range(2, min(length, 20)))
                structure = Structure.parse(body)
                end = structure.offset + structure.length
                usable = structure.bar < BARS and structure.length and end <= function.bar_size(structure.bar)
                if structure.kind in tuple(CfgType) and usable:
                    structures.setdefault(structure.kind, structure)
        at = function.config_read(at + 1, 1) & ~3
    missing = [kind.name for kind in (CfgType.COMMON, CfgType.NOTIFY, CfgType.ISR) if kind not in structures]
    if missing:
        raise ProbeError(f"{function.name}: no usable {', '.join(missing)} structure; not a modern virtio device")
    return structures


class VirtioPci(FunctionTransport):
    """`drivers.bus.virtio.ConfigOps` over one PCI function. Also handles the function's link events."""

    features = RING_FEATURES | EXTRA_FEATURES

    def __init__(self, function: PciFunction) -> None:
        super().__init__(function)
        self.device_id = TRANSITIONAL.get(function.device_id) or function.device_id - DEVICE_BASE
        self.vendor_id = function.vendor_id
        self._structures = find_structures(function)
        self._vectors: list[int] = []

    # Registers

    def _read(self, field: Common) -> int:
        at = self._structures[CfgType.COMMON]
        # No device has status 0xff, so a failed read is recognized by its value.
        read = self._read_twice if field is Common.DEVICE_STATUS else self._read_checked
        return read(at.bar, at.offset + field, SIZES[field])

    def _answers(self) -> bool:
        return self._read(Common.DEVICE_STATUS) != NO_ANSWER

    def _write(self, field: Common, value: int) -> None:
        at = self._structures[CfgType.COMMON]
        if SIZES[field] == 8:  # as two 32-bit accesses (section 4.1.3.1)
            self._function.bar_write(at.bar, at.offset + field, 4, value & 0xFFFF_FFFF)
            self._function.bar_write(at.bar, at.offset + field + 4, 4, value >> 32)
        else:
            self._function.bar_write(at.bar, at.offset + field, SIZES[field], value)

    async def get_status(self) -> int:
        return self._read(Common.DEVICE_STATUS)

    async def set_status(self, status: int) -> None:
        self._write(Common.DEVICE_STATUS, status)

    async def _reset(self) -> None:
        self._write(Common.DEVICE_STATUS, 0)
        await wait_reset(self._function.name, lambda: self._read(Common.DEVICE_STATUS), lambda: self.online)

    async def get_features(self) -> int:
        value = 0
        for select in range(4):
            self._write(Common.DEVICE_FEATURE_SELECT, select)
            value |= self._read(Common.DEVICE_FEATURE) << 32 * select
        if not self.online:
            raise TransportLost(f"{self._function.name}: the link went down")
        return value

    async def finalize_features(self, features: int) -> None:
        for select in range(4):
            self._write(Common.DRIVER_FEATURE_SELECT, select)
            self._write(Common.DRIVER_FEATURE, features >> 32 * select & 0xFFFF_FFFF)

    async def generation(self) -> int:
        return self._read(Common.CONFIG_GENERATION)

    async def read_config(self, offset: int, size: int) -> bytes:
        at = self._config(offset, size)
        return read_field(partial(self._read_checked, at.bar), at.offset, offset, size)

    async def write_config(self, offset: int, data: bytes) -> None:
        at = self._config(offset, len(data))
        write_field(partial(self._function.bar_write, at.bar), at.offset, offset, data)

    def _config(self, offset: int, size: int) -> Structure:
        at = self._structures.get(CfgType.DEVICE)
        if at is None or offset + size > at.length:
            raise ProbeError(f"{self._function.name}: no device configuration of {offset + size} bytes")
        return at

    # Queues

    async def find_vqs(self, device: VirtioDevice, specs: Sequence[QueueSpec]) -> list[DriverQueue]:
        if self._read(Common.NUM_QUEUES) < len(specs):
            raise ProbeError(f"{self._function.name}: {self._read(Common.NUM_QUEUES)} queues, {len(specs)} needed")
        self._queues = []
        config, vectors = self._share_vectors(device, len(specs))
        self._vectors = vectors
        if config == NO_VECTOR:
            self._function.request_intx(self._intx)
        else:
            self._write(Common.CONFIG_MSIX_VECTOR, config)
            self._verify(Common.CONFIG_MSIX_VECTOR, config)
        for index, (spec, vector) in enumerate(zip(specs, vectors, strict=True)):
            self._set_up(device, index, spec, vector)
        for queue in self._queues:
            self._enable(queue.index, queue.name)
        return self._queues

    async def reset_queue(self, queue: DriverQueue) -> None:
        index = queue.index

        def progress() -> int:
            self._write(Common.QUEUE_SELECT, index)
            return self._read(Common.QUEUE_RESET)

        self._write(Common.QUEUE_SELECT, index)
        self._write(Common.QUEUE_RESET, 1)
        await wait_reset(f"{self._function.name}, {queue.name}", progress, lambda: self.online)

    async def enable_queue(self, device: VirtioDevice, queue: DriverQueue, num: int | None) -> None:
        spec = attrs.evolve(queue.spec, num=num)
        self._rings.free_ring(queue.ring)
        queue.restart(*self._program(device, queue.index, spec, self._vectors[queue.index]))
        self._enable(queue.index, queue.name)

    def _enable(self, index: int, name: str) -> None:
        self._write(Common.QUEUE_SELECT, index)
        self._write(Common.QUEUE_ENABLE, 1)
        if self._read(Common.QUEUE_ENABLE) != 1:
            raise ProbeError(f"{self._function.name}: {name} can't be enabled")

    def _set_up(self, device: VirtioDevice, index: int, spec: QueueSpec, vector: int) -> None:
        queue = DriverQueue(index, spec, *self._program(device, index, spec, vector))
        self._add_queue(queue, vector)

    def _program(
        self, device: VirtioDevice, index: int, spec: QueueSpec, vector: int
    ) -> tuple[Virtqueue, Callable[[], None]]:
        """Make a ring and describe it to the device. Returns it, and the function that kicks the device."""
        self._write(Common.QUEUE_SELECT, index)
        name = f"{self._function.name}, {spec.name}"
        vring = self._rings.make(device.features, self._read(Common.QUEUE_SIZE), spec.num, spec.segments, name)
        at = self._structures[CfgType.NOTIFY]
        offset = self._read(Common.QUEUE_NOTIFY_OFF) * at.multiplier
        size = 4 if device.has(RingFeature.NOTIFICATION_DATA) else 2
        if offset + size > at.length:
            raise ProbeError(f"{name}: notification address outside the structure")
        self._write(Common.QUEUE_SIZE, vring.num)
        self._write(Common.QUEUE_DESC, vring.addrs.desc)
        self._write(Common.QUEUE_DRIVER, vring.addrs.driver)
        self._write(Common.QUEUE_DEVICE, vring.addrs.device)
        if vector != NO_VECTOR:
            self._write(Common.QUEUE_MSIX_VECTOR, vector)
            self._verify(Common.QUEUE_MSIX_VECTOR, vector)
        # A device may want another value than the index, although the address names the queue (section 4.1.5.2).
        value = self._read(Common.QUEUE_NOTIF_CONFIG_DATA) if device.has(RingFeature.NOTIF_CONFIG_DATA) else index
        write = partial(self._function.bar_write, at.bar, at.offset + offset)
        if size == 2:
            return vring.ring, partial(write, 2, value)
        return vring.ring, partial(notify_with_data, partial(write, 4), value, vring.ring)

    def _verify(self, field: Common, vector: int) -> None:
        """Raise ProbeError unless the device mapped the vector: then it reads back (section 4.1.5.1.2)."""
        if self._read(field) != vector:
            raise ProbeError(f"{self._function.name}: the device could not map MSI-X vector {vector}")

    def _intx(self) -> None:
        at = self._structures[CfgType.ISR]
        isr = self._function.bar_read(at.bar, at.offset, 1)
        if isr == 0xFF:  # the device does not respond
            return
        if isr & ISR_QUEUE:
            self._queue_interrupt()
        if isr & ISR_CONFIG and self._device is not None:
            self._device.interrupt()


ID_TABLE = tuple(
    MatchId(device, VIRTIO_VENDOR)
    for device in (
        *(DEVICE_BASE + i for i in DeviceId),
        *(device for device, virtio_id in TRANSITIONAL.items() if virtio_id in tuple(DeviceId)),
    )
)
VIRTIO_PCI = VirtioPciDriver("virtio-pci", ID_TABLE, VirtioPci)
