from drivers.carriers.transport import PlatformTransport
from drivers.transports.mmio.back import MmioDevice
from drivers.transports.mmio.front import VIRTIO_MMIO

__all__ = ["MMIO"]

MMIO = PlatformTransport(VIRTIO_MMIO, MmioDevice)
