"""Layout of the register block.

Bytes 0x000 to 0x09b are the block of the Linux RFC "Enhance VHOST to enable SoC-to-SoC communication" (2020),
unchanged; device configuration, MSI-X table and pending bits follow as in the RFC. An extension uses the rest of the
BAR, which is zero without it. All fields are little-endian, and accessed in naturally aligned pieces of at most 4
bytes, because some fields are not aligned to their size.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum, IntEnum

__all__ = [
    "BAR",
    "BAR_SIZE",
    "CONFIG",
    "CONFIG_SIZE",
    "DEVICE_DOORBELL",
    "DOORBELL_BAR",
    "DOORBELL_SIZE",
    "EXT_MAGIC",
    "EXT_SIZE",
    "EXT_VERSION",
    "MAX_QUEUES",
    "MSIX",
    "NO_DOORBELL",
    "PCI_IDS",
    "QUEUE_ENABLED",
    "VECTORS",
    "VRING_ALIGN",
    "DeviceCommand",
    "Ext",
    "ExtQueue",
    "MailboxField",
    "MailboxOutcome",
    "QueueCommand",
    "QueueReg",
    "Reg",
    "register_name",
]

PCI_IDS: Mapping[str, tuple[int, int]] = {"104c:b0f0": (0x104C, 0xB0F0), "104c:b500": (0x104C, 0xB500)}
"""Vendor id and device id of a function, by their notation in lspci. Both are ids of Texas Instruments, as in the RFC:
one that TI does not assign, and that of the endpoint in the kernel's documents. The subsystem ids hold virtio ids."""

MAX_QUEUES = 8
BAR, DOORBELL_BAR = 0, 2
QUEUES, QUEUE_STRIDE = 0x1C, 16
CONFIG, CONFIG_SIZE = 0x9C, 1024
MSIX, VECTORS, MSIX_ENTRY = 0x4A0, MAX_QUEUES + 1, 16
EXT, EXT_QUEUES, EXT_QUEUE_STRIDE = 0x540, 0x590, 40
EXT_SIZE = EXT_QUEUES + MAX_QUEUES * EXT_QUEUE_STRIDE - EXT
BAR_SIZE = 0x800
EXT_MAGIC = int.from_bytes(b"VMBX", "little")
EXT_VERSION = 1
"""Version of the extension; later versions only add fields at the end."""
DOORBELL_SIZE = 4
"""Bytes of a doorbell: any 4-byte write rings it. There is one per queue, then one for device commands."""
DEVICE_DOORBELL = MAX_QUEUES
NO_DOORBELL = 0xFF
"""Value of DOORBELL_BAR if the endpoint polls."""
VRING_ALIGN = 4096
"""Alignment of the used ring in a contiguous ring, in bytes."""
QUEUE_ENABLED = 1


class DeviceCommand(IntEnum):
    """Values of the device's command word."""

    NONE = 0
    SET_STATUS = 1
    FINALIZE_FEATURES = 2
    RESET = 3
    WRITE_CONFIG = 4
    """Accept CONFIG_LENGTH bytes written at CONFIG_OFFSET; needs the extension."""


class QueueCommand(IntEnum):
    """Values of a queue's command word. NOTIFY is posted: it has no outcome."""

    NONE = 0
    ACTIVATE = 1
    DEACTIVATE = 2
    NOTIFY = 3


class MailboxOutcome(IntEnum):
    """Values of a command status word: NONE from acceptance to completion."""

    NONE = 0
    OKAY = 1
    ERROR = 2


class MailboxField(Enum):
    """A register, as (offset, bytes)."""

    @property
    def offset(self) -> int:
        return int(self.value[0])

    @property
    def size(self) -> int:
        return int(self.value[1])

    def at(self, index: int) -> tuple[int, int]:
        """Return (offset, bytes) of the field for queue ``index``."""
        raise TypeError(f"{self} is not a field of a queue")


class Reg(MailboxField):
    """Device registers."""

    HOST_FEATURES = (0x00, 8)
    GUEST_FEATURES = (0x08, 8)
    MSIX_CONFIG = (0x10, 2)
    NUM_QUEUES = (0x12, 2)
    DEVICE_STATUS = (0x14, 1)
    CONFIG_GENERATION = (0x15, 1)
    ISR = (0x16, 4)
    CMD = (0x1A, 1)
    CMD_STATUS = (0x1B, 1)


class QueueReg(MailboxField):
    """Queue registers, relative to the queue's block."""

    CMD = (0, 1)
    CMD_STATUS = (1, 1)
    STATUS = (2, 2)
    NUM_BUFFERS = (4, 2)
    MSIX_VECTOR = (6, 2)
    ADDR = (8, 8)

    def at(self, index: int) -> tuple[int, int]:
        return QUEUES + QUEUE_STRIDE * index + self.offset, self.size


class Ext(MailboxField):
    """Device registers of the extension."""

    MAGIC = (EXT, 4)
    VERSION = (EXT + 0x04, 4)
    LENGTH = (EXT + 0x08, 4)
    DRIVER_VERSION = (EXT + 0x0C, 4)
    """Extension version of the driver, written with the features; 0 without the extension."""
    DEVICE_FEATURES = (EXT + 0x10, 16)
    DRIVER_FEATURES = (EXT + 0x20, 16)
    GENERATION = (EXT + 0x30, 4)
    """Configuration generation; odd while the device changes the configuration."""
    SEQUENCE = (EXT + 0x34, 4)
    """Sequence number of the command, written before the command."""
    COMPLETED = (EXT + 0x38, 4)
    """Sequence number of the command that the command status belongs to."""
    DOORBELL_BAR = (EXT + 0x3C, 1)
    DOORBELL_OFFSET = (EXT + 0x40, 4)
    CONFIG_OFFSET = (EXT + 0x44, 2)
    CONFIG_LENGTH = (EXT + 0x46, 2)


class ExtQueue(MailboxField):
    """Queue registers of the extension, relative to the queue's part."""

    SEQUENCE = (0x00, 4)
    COMPLETED = (0x04, 4)
    NUM = (0x08, 4)
    """Descriptors, at most num_buffers."""
    DESC = (0x10, 8)
    DRIVER = (0x18, 8)
    DEVICE = (0x20, 8)

    def at(self, index: int) -> tuple[int, int]:
        return EXT_QUEUES + EXT_QUEUE_STRIDE * index + self.offset, self.size


def register_name(bar: int, offset: int) -> str | None:
    """Return the name of the register at ``offset`` of a BAR, or None."""
    if bar == DOORBELL_BAR:
        doorbell = offset // DOORBELL_SIZE
        return f"notify[{doorbell}]" if doorbell < DEVICE_DOORBELL else "doorbell"
    if bar != BAR:
        return None
    if MSIX <= offset < MSIX + MSIX_ENTRY * VECTORS:
        entry, at = divmod(offset - MSIX, MSIX_ENTRY)
        return f"msix[{entry}]+{at:#x}"
    if CONFIG <= offset < CONFIG + CONFIG_SIZE:
        return f"config+{offset - CONFIG:#x}"
    named = (*((field.name.lower(), field.value) for field in (*Reg, *Ext)),)
    queues = ((f"queue{i}.{field.name.lower()}", field.at(i)) for i in range(MAX_QUEUES) for field in QueueReg)
    parts = ((f"queue{i}.{field.name.lower()}", field.at(i)) for i in range(MAX_QUEUES) for field in ExtQueue)
    return next((name for name, (at, size) in (*named, *queues, *parts) if at <= offset < at + size), None)
