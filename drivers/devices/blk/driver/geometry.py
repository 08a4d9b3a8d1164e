"""The geometry of a disk, checked from the configuration that the driver read."""

from __future__ import annotations

import attrs

from drivers.bus.virtio import VirtioDevice
from drivers.devices.blk.layout import SECTOR, BlkConfigField, BlkFeature
from drivers.errors import ProbeError

__all__ = ["Geometry"]

BLOCK_MAX = 1 << 16
"""Bytes of the largest block that the driver accepts."""
CAPACITY_MAX = 1 << 63
"""Maximum bytes of a disk: the range of a signed 64-bit file offset."""
GIB = 1 << 30


@attrs.frozen(kw_only=True)
class Geometry:
    """Geometry and limits of a disk, in bytes unless stated otherwise."""

    size: int
    read_only: bool
    block_size: int
    """Offsets and sizes of requests must be multiples of it."""
    preferred: int
    """Preferred alignment of offsets and sizes."""
    segment_max: int
    """Maximum size of one segment of a request."""
    segments_max: int
    """Maximum number of data segments of one request."""
    queues: int
    """Number of request queues."""
    flushes: bool
    """Whether the device has a write cache to flush."""
    discard_max: int
    """Maximum size of a discard request; 0 if not supported."""
    zeroes_max: int
    """Maximum size of a write-zeroes request; 0 if not supported."""
    unmaps: bool
    """Whether write zeroes may deallocate blocks."""
    erase_max: int
    """Maximum size of a secure-erase request; 0 if not supported."""
    lifetime: bool
    """Whether the device reports its wear."""

    @classmethod
    async def read(cls, device: VirtioDevice) -> Geometry:
        """Read and check a device's configuration; fields of features that were not negotiated are ignored.

        Raises ProbeError for values no disk can have.
        """
        fields = dict.fromkeys(BlkConfigField, 0)
        for field in BlkConfigField:
            if field.feature is None or (device.has(field.feature) and field is not BlkConfigField.WRITEBACK):
                fields[field] = await device.read_field(field)
        return cls.check(device.name, device.features, fields)

    @classmethod
    def check(cls, name: str, features: int, fields: dict[BlkConfigField, int]) -> Geometry:
        """Check the fields and return the geometry. Raises ProbeError. ``name``: for messages."""

        def has(bit: BlkFeature) -> bool:
            return bool(features >> bit & 1)

        block = fields[BlkConfigField.BLK_SIZE] if has(BlkFeature.BLK_SIZE) else SECTOR
        if not SECTOR <= block <= BLOCK_MAX or block & block - 1:
            raise ProbeError(f"{name}: the device reports blocks of {block} bytes")
        size = fields[BlkConfigField.CAPACITY] * SECTOR
        if size > CAPACITY_MAX:
            raise ProbeError(f"{name}: the device reports {size} bytes, more than any offset can name")
        # QEMU's storage daemon offers SIZE_MAX and leaves the field 0.
        largest = (has(BlkFeature.SIZE_MAX) and fields[BlkConfigField.SIZE_MAX]) or GIB
        if largest < block:
            raise ProbeError(f"{name}: the device takes segments of {largest} bytes, less than a block of {block}")
        if has(BlkFeature.MQ) and not fields[BlkConfigField.NUM_QUEUES]:
            raise ProbeError(f"{name}: the device reports no queues")
        preferred = block * max(1, fields[BlkConfigField.MIN_IO_SIZE], fields[BlkConfigField.OPT_IO_SIZE])
        return cls(
            size=size - size % block,
            read_only=has(BlkFeature.RO),
            block_size=block,
            preferred=max(preferred, 1 << (block.bit_length() - 1 + min(fields[BlkConfigField.PHYSICAL_BLOCK_EXP], 7))),
            segment_max=largest - largest % block,
            segments_max=max(1, fields[BlkConfigField.SEG_MAX]),
            queues=fields[BlkConfigField.NUM_QUEUES] if has(BlkFeature.MQ) else 1,
            flushes=has(BlkFeature.FLUSH),
            discard_max=_whole(fields[BlkConfigField.MAX_DISCARD_SECTORS] * SECTOR, block),
            zeroes_max=_whole(fields[BlkConfigField.MAX_WRITE_ZEROES_SECTORS] * SECTOR, block),
            unmaps=bool(fields[BlkConfigField.WRITE_ZEROES_MAY_UNMAP]),
            erase_max=_whole(fields[BlkConfigField.MAX_SECURE_ERASE_SECTORS] * SECTOR, block),
            lifetime=has(BlkFeature.LIFETIME),
        )


def _whole(size: int, block: int) -> int:
    """Return ``size``, at most 1 GiB, in whole blocks. max_discard_seg and its like are at least 1 if it is not 0."""
    return min(size, GIB) // block * block
