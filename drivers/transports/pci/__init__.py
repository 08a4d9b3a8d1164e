"""virtio-pci, modern interface: a device that unmodified drivers use over PCI Express (VIRTIO 1.4 section 4.1)."""

from drivers.carriers.transport import DoorbellRange, LinkTransport
from drivers.transports.pci.back import BAR, MULTIPLIER, NOTIFY_AT, NOTIFY_SIZE, VirtioEpf
from drivers.transports.pci.front import VIRTIO_PCI
from drivers.transports.pci.names import register_name

__all__ = ["PCI", "VirtioEpf"]

PCI = LinkTransport(
    VIRTIO_PCI,
    VirtioEpf,
    register_name=register_name,
    doorbells=(DoorbellRange(BAR, NOTIFY_AT, NOTIFY_AT + NOTIFY_SIZE, MULTIPLIER),),
    extra_features=VirtioEpf.extra_features,
)
