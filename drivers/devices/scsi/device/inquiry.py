"""INQUIRY: standard data and vital product data pages of a logical unit (SPC-4, SBC-3)."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from enum import IntEnum

import attrs

from drivers.contracts.ports import StoreInfo

__all__ = ["ABSENT", "DISK", "LIMITS", "PAGES", "WELL_KNOWN_UNIT", "UnitIdentity", "Page", "standard"]

DISK, WELL_KNOWN_UNIT, ABSENT = 0x00, 0x1E, 0x7F
"""Peripheral qualifier and device type: disk, well-known logical unit, no logical unit at this LUN."""
STANDARD_SIZE = 96
SPC4, FORMAT, HISUP, CMDQUE = 0x06, 0x02, 0x10, 0x02
VERSIONS = 0x00A0, 0x0460, 0x04C0
"""Version descriptors of SAM-5, SPC-4 and SBC-3."""
NON_ROTATING, THIN = 1, 2
WSNZ, UGAVALID = 0x01, 0x8000_0000
LBPU, LBPWS, LBPWS10, LBPRZ = 0x80, 0x40, 0x20, 0x04
BINARY, ASCII, T10_VENDOR, NAA = 1, 2, 1, 3
NAA_LOCAL = 0x3
"""NAA 3h, a locally assigned identifier: the rest of its 8 bytes is a hash."""


class Page(IntEnum):
    """Codes of vital product data pages."""

    SUPPORTED = 0x00
    SERIAL_NUMBER = 0x80
    IDENTIFICATION = 0x83
    BLOCK_LIMITS = 0xB0
    BLOCK_CHARACTERISTICS = 0xB1
    PROVISIONING = 0xB2


@attrs.frozen
class UnitIdentity:
    """Identification of a disk, in ASCII."""

    serial: str
    vendor: str = "VNET"
    """8 bytes."""
    product: str = "VIRTIO DISK"
    """16 bytes."""
    revision: str = "0.1"
    """4 bytes."""


@attrs.frozen
class ScsiLimits:
    """Limits of one command."""

    transfer: int = 4 << 20
    """Maximum bytes of data."""
    unmap: int = 1 << 30
    """Maximum total bytes of one UNMAP or WRITE SAME."""
    compare: int = 64 << 10
    """Maximum bytes that one COMPARE AND WRITE compares, and writes."""
    ranges: int = 64
    """Maximum block descriptors of one UNMAP."""


LIMITS = ScsiLimits()
"""Limits of every disk."""


def standard(peripheral: int, identity: UnitIdentity) -> bytes:
    """Return the 96 bytes of standard INQUIRY data."""
    head = bytes((peripheral, 0, SPC4, HISUP | FORMAT, STANDARD_SIZE - 5, 0, 0, CMDQUE))
    names = _ascii(identity.vendor, 8) + _ascii(identity.product, 16) + _ascii(identity.revision, 4)
    versions = b"".join(version.to_bytes(2, "big") for version in VERSIONS)
    return (head + names).ljust(58, b"\0") + versions + bytes(STANDARD_SIZE - 58 - len(versions))


def _ascii(text: str, size: int) -> bytes:
    return text.encode("ascii", "replace")[:size].ljust(size)


def _supported(identity: UnitIdentity, info: StoreInfo) -> bytes:
    return bytes(sorted(PAGES))


def _serial_number(identity: UnitIdentity, info: StoreInfo) -> bytes:
    return identity.serial.encode("ascii", "replace")


def _identification(identity: UnitIdentity, info: StoreInfo) -> bytes:
    name = _ascii(identity.vendor, 8) + _ascii(identity.product, 16) + identity.serial.encode("ascii", "replace")
    digest = hashlib.sha256(name).digest()
    naa = bytes((NAA_LOCAL << 4 | digest[0] & 0xF,)) + digest[1:8]
    return _designator(ASCII, T10_VENDOR, name[:255]) + _designator(BINARY, NAA, naa)


def _designator(code_set: int, kind: int, value: bytes) -> bytes:
    return bytes((code_set, kind, 0, len(value))) + value


def _block_limits(identity: UnitIdentity, info: StoreInfo) -> bytes:
    block = info.block_size
    granularity = max(1, info.physical_block // block)
    whole = LIMITS.unmap // block
    unmap = (whole, LIMITS.ranges, granularity, UGAVALID) if info.unmaps else (0, 0, 0, 0)
    head = bytes((WSNZ, min(0xFF, LIMITS.compare // block))) + min(granularity, 0xFFFF).to_bytes(2, "big")
    words = (LIMITS.transfer // block, 0, 0, *unmap)
    return (head + b"".join(word.to_bytes(4, "big") for word in words) + whole.to_bytes(8, "big")).ljust(60, b"\0")


def _block_characteristics(identity: UnitIdentity, info: StoreInfo) -> bytes:
    return NON_ROTATING.to_bytes(2, "big").ljust(60, b"\0")


def _provisioning(identity: UnitIdentity, info: StoreInfo) -> bytes:
    """Return the page; LBPRZ is set because unmapping writes zeroes."""
    return bytes((0, LBPU | LBPWS | LBPWS10 | LBPRZ, THIN, 0)) if info.unmaps else bytes(4)


PAGES: Mapping[int, Callable[[UnitIdentity, StoreInfo], bytes]] = {
    Page.SUPPORTED: _supported,
    Page.SERIAL_NUMBER: _serial_number,
    Page.IDENTIFICATION: _identification,
    Page.BLOCK_LIMITS: _block_limits,
    Page.BLOCK_CHARACTERISTICS: _block_characteristics,
    Page.PROVISIONING: _provisioning,
}
"""Builder of each page's contents, without its header, per page code."""
