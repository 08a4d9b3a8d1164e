"""virtio-mmio, version 2: a device in the driver's host (VIRTIO 1.4 section 4.2)."""

from drivers.carriers.transport import DoorbellRange, PlatformTransport
from drivers.transports.mmio.back import MmioDevice
from drivers.transports.mmio.front import VIRTIO_MMIO
from drivers.transports.mmio.names import register_name
from drivers.transports.mmio.registers import Register

__all__ = ["MMIO"]

MMIO = PlatformTransport(
    VIRTIO_MMIO,
    MmioDevice,
    register_name=register_name,
    doorbells=(DoorbellRange(0, Register.QUEUE_NOTIFY, Register.QUEUE_NOTIFY + 4),),
    extra_features=MmioDevice.extra_features,
)
