"""virtio-pci, modern interface: a device that unmodified drivers use over PCI Express (VIRTIO 1.4 section 4.1)."""

from drivers.transports.pci.back import VirtioEpf
from drivers.transports.pci.front import VIRTIO_PCI
from drivers.transports.pci.names import register_name

__all__ = ["VIRTIO_PCI", "VirtioEpf", "register_name"]
