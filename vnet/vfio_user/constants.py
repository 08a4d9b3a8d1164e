"""Constants of vfio-user: commands, header flags, regions, interrupts, limits (QEMU's vfio-user.rst, linux/vfio.h)."""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum, IntFlag

__all__ = [
    "CAPABILITIES",
    "DATA_MAX",
    "FDS_MAX",
    "IO_EVENT",
    "IO_VALUE",
    "IRQ_TYPES",
    "LINK_EVENTS",
    "MAPS_MAX",
    "MESSAGE_MAX",
    "PAGE",
    "REGIONS",
    "UNMAP_ALL",
    "VERSION",
    "WRITES_MAX",
    "Command",
    "DeviceFlag",
    "DmaFlag",
    "HeaderFlag",
    "IrqFlag",
    "IrqSet",
    "IrqType",
    "Region",
    "RegionFlag",
]

VERSION = 0, 0
"""Major and minor version of the protocol."""
FDS_MAX = 16
"""Most file descriptors that we take with one message; QEMU refuses servers that take more."""
DATA_MAX = 64 << 10
"""Most bytes of one read or write of a region."""
WRITES_MAX = 1024
"""Most writes of one REGION_WRITE_MULTI."""
MESSAGE_MAX = DATA_MAX + 4096
"""Most bytes of a message; a larger one is a protocol error."""
MAPS_MAX = 1024
"""Most DMA mappings at a time."""
PAGE = 4096
"""Addresses and sizes of DMA mappings are multiples of it."""
CAPABILITIES: Mapping[str, object] = {
    "max_msg_fds": FDS_MAX,
    "max_data_xfer_size": DATA_MAX,
    "max_dma_maps": MAPS_MAX,
    "pgsizes": PAGE,
}
"""Our limits in a VERSION message."""
LINK_EVENTS = "vnet_link_events"
"""Our own capability of a client that takes the end of the connection for that of the link, and connects again."""


class Command(IntEnum):
    """Commands of the client, and of the server: DMA_READ and DMA_WRITE."""

    VERSION = 1
    DMA_MAP = 2
    DMA_UNMAP = 3
    DEVICE_GET_INFO = 4
    DEVICE_GET_REGION_INFO = 5
    DEVICE_GET_REGION_IO_FDS = 6
    DEVICE_GET_IRQ_INFO = 7
    DEVICE_SET_IRQS = 8
    REGION_READ = 9
    REGION_WRITE = 10
    DMA_READ = 11
    DMA_WRITE = 12
    DEVICE_RESET = 13
    REGION_WRITE_MULTI = 15


class HeaderFlag(IntFlag):
    """Flags of a header. The four lowest bits are its type: 0 is a command."""

    REPLY = 1
    NO_REPLY = 1 << 4
    ERROR = 1 << 5


class DmaFlag(IntFlag):
    """Flags of DMA_MAP."""

    READABLE = 1
    WRITABLE = 2


UNMAP_ALL = 2
"""Flag of DMA_UNMAP: unmap everything; address and size are 0."""


IO_EVENT = 0
"""Type of a register that notifies an eventfd, in the reply to DEVICE_GET_REGION_IO_FDS."""
IO_VALUE = 1
"""Flag of such a register: only writes of its value notify the eventfd."""


class DeviceFlag(IntFlag):
    """Flags of DEVICE_GET_INFO."""

    RESET = 1
    PCI = 2


class Region(IntEnum):
    """Regions of a PCI device; 0 to 5 are its BARs."""

    ROM = 6
    CONFIG = 7
    VGA = 8


REGIONS = 9
"""Number of regions of a PCI device."""


class RegionFlag(IntFlag):
    """Flags of DEVICE_GET_REGION_INFO."""

    READ = 1
    WRITE = 2


class IrqType(IntEnum):
    """Interrupt types of a PCI device."""

    INTX = 0
    MSI = 1
    MSIX = 2
    ERROR = 3
    REQUEST = 4


IRQ_TYPES = 5
"""Number of interrupt types of a PCI device."""


class IrqFlag(IntFlag):
    """Flags of DEVICE_GET_IRQ_INFO."""

    EVENTFD = 1
    MASKABLE = 2
    AUTOMASKED = 4
    NORESIZE = 8


class IrqSet(IntFlag):
    """Flags of DEVICE_SET_IRQS: one kind of data and one action."""

    NONE = 1
    BOOL = 2
    EVENTFD = 4
    MASK = 8
    UNMASK = 16
    TRIGGER = 32
