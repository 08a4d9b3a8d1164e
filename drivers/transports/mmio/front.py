"""The driver's half: implements the virtio bus's operations on registers, with one interrupt line."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import attrs

from drivers.bus.model import MatchId
from drivers.bus.virtio import DriverQueue, QueueSpec, VirtioDevice
from drivers.carriers.base import notify_with_data, read_field, wait_reset, write_field
from drivers.carriers.platform import RegionTransport, VirtioPlatformDriver
from drivers.contracts.hw import MmioRegion
from drivers.errors import ProbeError, TransportLost
from drivers.transports.mmio.registers import CONFIG, EXTRA_FEATURES, MAGIC, VERSION, Interrupt, Register
from rings.features import RingFeature
from rings.formats import RING_FEATURES
from rings.queue import Virtqueue

__all__ = ["VIRTIO_MMIO", "VirtioMmio", "probe"]

ACPI_VENDOR, ACPI_DEVICE = int.from_bytes(b"LNRO", "big"), 0x0005
ALL_ONES = 0xFFFF_FFFF
WORD = 0xFFFF_FFFF
FEATURE_WORDS = 4
USED_BUFFER, CONFIG_CHANGE = int(Interrupt.USED_BUFFER), int(Interrupt.CONFIG_CHANGE)


class VirtioMmio(RegionTransport):
    """`drivers.bus.virtio.ConfigOps` over a region of the platform bus."""

    features = RING_FEATURES | EXTRA_FEATURES

    def __init__(self, region: MmioRegion, device_id: int, vendor_id: int) -> None:
        super().__init__(region)
        self.device_id = device_id
        self.vendor_id = vendor_id

    # Registers

    def _read(self, register: Register) -> int:
        return self._region.read(register, 4)

    def _write(self, register: Register, value: int) -> None:
        self._region.write(register, 4, value)

    async def get_status(self) -> int:
        return self._status()

    def _status(self) -> int:
        status = self._read(Register.STATUS)
        if status == ALL_ONES:
            raise TransportLost(f"{self._region.name}: the device does not respond")
        return status

    async def set_status(self, status: int) -> None:
        self._write(Register.STATUS, status)

    async def reset(self) -> None:
        self._write(Register.STATUS, 0)
        await wait_reset(self._region.name, self._status, lambda: True)

    async def get_features(self) -> int:
        value = 0
        for select in range(FEATURE_WORDS):
            self._write(Register.DEVICE_FEATURES_SEL, select)
            value |= self._read(Register.DEVICE_FEATURES) << 32 * select
        return value

    async def finalize_features(self, features: int) -> None:
        for select in range(FEATURE_WORDS):
            self._write(Register.DRIVER_FEATURES_SEL, select)
            self._write(Register.DRIVER_FEATURES, features >> 32 * select & WORD)

    async def generation(self) -> int:
        return self._read(Register.CONFIG_GENERATION)

    async def read_config(self, offset: int, size: int) -> bytes:
        self._check_config(offset, size)
        return read_field(self._region.read, CONFIG, offset, size)

    async def write_config(self, offset: int, data: bytes) -> None:
        self._check_config(offset, len(data))
        write_field(self._region.write, CONFIG, offset, data)

    def _check_config(self, offset: int, size: int) -> None:
        if CONFIG + offset + size > self._region.size:
            raise ProbeError(f"{self._region.name}: no device configuration of {offset + size} bytes")

    # Queues

    async def find_vqs(self, device: VirtioDevice, specs: Sequence[QueueSpec]) -> list[DriverQueue]:
        self._queues = []
        self._region.request_irq(self._interrupt)
        for index, spec in enumerate(specs):
            self._set_up(device, index, spec)
        for queue in self._queues:
            self._enable(queue.index, queue.name)
        return self._queues

    async def reset_queue(self, queue: DriverQueue) -> None:
        index = queue.index

        def progress() -> int:
            self._write(Register.QUEUE_SEL, index)
            return self._read(Register.QUEUE_RESET)

        self._write(Register.QUEUE_SEL, index)
        self._write(Register.QUEUE_RESET, 1)
        await wait_reset(f"{self._region.name}, {queue.name}", progress, lambda: True)

    async def enable_queue(self, device: VirtioDevice, queue: DriverQueue, num: int | None) -> None:
        self._rings.free_ring(queue.ring)
        queue.restart(*self._program(device, queue.index, attrs.evolve(queue.spec, num=num)))
        self._enable(queue.index, queue.name)

    def _enable(self, index: int, name: str) -> None:
        self._write(Register.QUEUE_SEL, index)
        self._write(Register.QUEUE_READY, 1)
        if self._read(Register.QUEUE_READY) != 1:
            raise ProbeError(f"{self._region.name}: {name} can't be enabled")

    def _set_up(self, device: VirtioDevice, index: int, spec: QueueSpec) -> None:
        self._queues.append(DriverQueue(index, spec, *self._program(device, index, spec)))

    def _program(self, device: VirtioDevice, index: int, spec: QueueSpec) -> tuple[Virtqueue, Callable[[], None]]:
        """Make a ring and describe it to the device. Returns it, and the function that kicks the device."""
        name = f"{self._region.name}, {spec.name}"
        self._write(Register.QUEUE_SEL, index)
        if self._read(Register.QUEUE_READY):
            raise ProbeError(f"{name}: already in use")
        num_max = self._read(Register.QUEUE_SIZE_MAX)
        if not num_max:
            raise ProbeError(f"{name}: does not exist")
        vring = self._rings.make(device.features, num_max, spec.num, spec.segments, name)
        region = self._region

        def notify(value: int) -> None:
            # Looked up each time: an observer of the region may come or go.
            region.write(Register.QUEUE_NOTIFY, 4, value)

        def kick() -> None:
            region.write(Register.QUEUE_NOTIFY, 4, index)

        if device.has(RingFeature.NOTIFICATION_DATA):
            kick = partial(notify_with_data, notify, index, vring.ring)

        self._write(Register.QUEUE_SIZE, vring.num)
        for low, address in (
            (Register.QUEUE_DESC_LOW, vring.addrs.desc),
            (Register.QUEUE_DRIVER_LOW, vring.addrs.driver),
            (Register.QUEUE_DEVICE_LOW, vring.addrs.device),
        ):
            self._region.write(low, 4, address & WORD)
            self._region.write(low + 4, 4, address >> 32)
        return vring.ring, kick

    def del_vqs(self) -> None:
        """Stop every queue, then free its memory, also if the device did not finish its reset."""
        self._region.free_irq()
        for queue in self._queues:
            queue.close()
            self._write(Register.QUEUE_SEL, queue.index)
            self._write(Register.QUEUE_READY, 0)
            self._read(Register.QUEUE_READY)  # waits until the device has stopped the queue (section 4.2.2.2)
        self._queues = []
        self._rings.free()

    # Interrupts

    def _interrupt(self) -> None:
        pending = self._read(Register.INTERRUPT_STATUS)
        if pending == ALL_ONES:
            return
        causes = pending & (USED_BUFFER | CONFIG_CHANGE)
        if causes & USED_BUFFER:
            for queue in self._queues:
                queue.on_call()
        if causes & CONFIG_CHANGE and self._device is not None:
            self._device.interrupt()
        if causes:
            self._write(Register.INTERRUPT_ACK, causes)


def probe(region: MmioRegion) -> VirtioMmio | None:
    """Return the transport, or None for a region without a virtio-mmio device, which is no error (section 4.2.3.1)."""
    for register, expected in ((Register.MAGIC_VALUE, MAGIC), (Register.VERSION, VERSION)):
        if region.read(register, 4) != expected:
            return None
    device_id = region.read(Register.DEVICE_ID, 4)
    return VirtioMmio(region, device_id, region.read(Register.VENDOR_ID, 4)) if device_id else None


VIRTIO_MMIO = VirtioPlatformDriver("virtio-mmio", (MatchId(ACPI_DEVICE, ACPI_VENDOR),), probe)
