"""virtio-mmio version 2: a device and its driver on one host (VIRTIO 1.4 section 4.2)."""

from drivers.transports.mmio.back import MmioDevice
from drivers.transports.mmio.front import VIRTIO_MMIO

__all__ = ["VIRTIO_MMIO", "MmioDevice"]
