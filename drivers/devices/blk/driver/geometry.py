"""What a driver believes of the configuration it read: a checked value, or a sentence about what can't be."""

from __future__ import annotations

import attrs

from drivers.bus.virtio import VirtioDevice
from drivers.devices.blk.layout import SECTOR, BlkFeature, ConfigField
from drivers.errors import ProbeError

__all__ = ["Geometry"]

BLOCK_MAX = 1 << 16
CAPACITY_MAX = 1 << 63
"""Bytes that an offset of any program can name."""
GIB = 1 << 30


@attrs.frozen(kw_only=True)
class Geometry:
    """A disk as its driver uses it, in bytes where nothing else is said."""

    size: int
    read_only: bool
    block_size: int
    """What offsets and sizes of requests are multiples of."""
    preferred: int
    """What they had better be multiples of."""
    segment_max: int
    """Of one segment of a request."""
    segments_max: int
    """Data segments of one request."""
    queues: int
    flushes: bool
    """Whether data may wait in a cache, and can be flushed from it."""
    discard_max: int
    """Of one request; 0 where it can't discard."""
    zeroes_max: int
    """Of one request; 0 where it can't write zeroes."""
    unmaps: bool
    """Whether writing zeroes may give blocks up."""

    @classmethod
    async def read(cls, device: VirtioDevice) -> Geometry:
        """From the configuration of a device whose features were agreed on: only fields of these are looked at.

        Raises ProbeError for what no disk can be.
        """
        fields = dict.fromkeys(ConfigField, 0)
        for field in ConfigField:
            if field.feature is None or (device.has(field.feature) and field is not ConfigField.WRITEBACK):
                fields[field] = int.from_bytes(await device.read_config(*field.value), "little")
        return cls.check(device.name, device.features, fields)

    @classmethod
    def check(cls, name: str, features: int, fields: dict[ConfigField, int]) -> Geometry:
        """Raises ProbeError."""

        def has(bit: BlkFeature) -> bool:
            return bool(features >> bit & 1)

        block = fields[ConfigField.BLK_SIZE] if has(BlkFeature.BLK_SIZE) else SECTOR
        if not SECTOR <= block <= BLOCK_MAX or block & block - 1:
            raise ProbeError(f"{name}: the device reports blocks of {block} bytes")
        size = fields[ConfigField.CAPACITY] * SECTOR
        if size > CAPACITY_MAX:
            raise ProbeError(f"{name}: the device reports {size} bytes, more than any offset can name")
        # 0 is what devices report that have the field and say nothing in it (QEMU's storage daemon).
        largest = (has(BlkFeature.SIZE_MAX) and fields[ConfigField.SIZE_MAX]) or GIB
        if largest < block:
            raise ProbeError(f"{name}: the device takes segments of {largest} bytes, less than a block of {block}")
        if has(BlkFeature.MQ) and not fields[ConfigField.NUM_QUEUES]:
            raise ProbeError(f"{name}: the device reports no queues")
        preferred = block * max(1, fields[ConfigField.MIN_IO_SIZE], fields[ConfigField.OPT_IO_SIZE])
        return cls(
            size=size - size % block,
            read_only=has(BlkFeature.RO),
            block_size=block,
            preferred=max(preferred, 1 << (block.bit_length() - 1 + min(fields[ConfigField.PHYSICAL_BLOCK_EXP], 7))),
            segment_max=largest - largest % block,
            segments_max=max(1, fields[ConfigField.SEG_MAX]),
            queues=fields[ConfigField.NUM_QUEUES] if has(BlkFeature.MQ) else 1,
            flushes=has(BlkFeature.FLUSH),
            discard_max=_whole(fields[ConfigField.MAX_DISCARD_SECTORS] * SECTOR, block),
            zeroes_max=_whole(fields[ConfigField.MAX_WRITE_ZEROES_SECTORS] * SECTOR, block),
            unmaps=bool(fields[ConfigField.WRITE_ZEROES_MAY_UNMAP]),
        )


def _whole(size: int, block: int) -> int:
    """As much as one request takes, whole blocks; max_discard_seg and its like are at least 1 where this is not 0."""
    return min(size, GIB) // block * block
