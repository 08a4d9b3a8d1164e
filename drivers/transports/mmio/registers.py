"""Layout of the registers of virtio-mmio (VIRTIO 1.4 section 4.2.2)."""

from __future__ import annotations

from enum import IntEnum, IntFlag

from rings.features import RingFeature, mask

__all__ = ["CONFIG", "EXTRA_FEATURES", "MAGIC", "READABLE", "VERSION", "WRITABLE", "Interrupt", "Register"]

EXTRA_FEATURES = mask((RingFeature.RING_RESET, RingFeature.NOTIFICATION_DATA))
"""Feature bits that the transport supports besides those of rings."""
MAGIC = int.from_bytes(b"virt", "little")
VERSION = 2
CONFIG = 0x100
"""Offset of the device-specific configuration. Registers before it are accessed as aligned 32-bit words."""


class Interrupt(IntFlag):
    """Bits of InterruptStatus and InterruptACK."""

    USED_BUFFER = 1
    CONFIG_CHANGE = 2


class Register(IntEnum):
    """Offsets of the control registers."""

    MAGIC_VALUE = 0x000
    VERSION = 0x004
    DEVICE_ID = 0x008
    VENDOR_ID = 0x00C
    DEVICE_FEATURES = 0x010
    DEVICE_FEATURES_SEL = 0x014
    DRIVER_FEATURES = 0x020
    DRIVER_FEATURES_SEL = 0x024
    QUEUE_SEL = 0x030
    QUEUE_SIZE_MAX = 0x034
    QUEUE_SIZE = 0x038
    QUEUE_READY = 0x044
    QUEUE_NOTIFY = 0x050
    INTERRUPT_STATUS = 0x060
    INTERRUPT_ACK = 0x064
    STATUS = 0x070
    QUEUE_DESC_LOW = 0x080
    QUEUE_DESC_HIGH = 0x084
    QUEUE_DRIVER_LOW = 0x090
    QUEUE_DRIVER_HIGH = 0x094
    QUEUE_DEVICE_LOW = 0x0A0
    QUEUE_DEVICE_HIGH = 0x0A4
    SHM_SEL = 0x0AC
    SHM_LEN_LOW = 0x0B0
    SHM_LEN_HIGH = 0x0B4
    SHM_BASE_LOW = 0x0B8
    SHM_BASE_HIGH = 0x0BC
    QUEUE_RESET = 0x0C0
    CONFIG_GENERATION = 0x0FC


BOTH = frozenset({Register.QUEUE_READY, Register.STATUS, Register.QUEUE_RESET})
READABLE = BOTH | {
    Register.MAGIC_VALUE,
    Register.VERSION,
    Register.DEVICE_ID,
    Register.VENDOR_ID,
    Register.DEVICE_FEATURES,
    Register.QUEUE_SIZE_MAX,
    Register.INTERRUPT_STATUS,
    Register.SHM_LEN_LOW,
    Register.SHM_LEN_HIGH,
    Register.SHM_BASE_LOW,
    Register.SHM_BASE_HIGH,
    Register.CONFIG_GENERATION,
}
WRITABLE = frozenset(Register) - READABLE | BOTH
