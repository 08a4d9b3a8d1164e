"""Feature bits as arbitrary-width integers, their names and prerequisites (VIRTIO 1.4 sections 2.2 and 6)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from enum import IntEnum

import attrs

__all__ = ["COMMON", "EMPTY_TABLE", "OF_RINGS", "PLATFORM", "FeatureTable", "RingFeature", "bits", "mask", "word"]


class RingFeature(IntEnum):
    """Feature bits for queues and negotiation, common to all device types."""

    INDIRECT_DESC = 28
    EVENT_IDX = 29
    VERSION_1 = 32
    ACCESS_PLATFORM = 33
    RING_PACKED = 34
    IN_ORDER = 35
    ORDER_PLATFORM = 36
    SR_IOV = 37
    NOTIFICATION_DATA = 38
    NOTIF_CONFIG_DATA = 39
    RING_RESET = 40
    ADMIN_VQ = 41
    SUSPEND = 43


def mask(features: Iterable[int]) -> int:
    """Return the integer with exactly these bits set."""
    value = 0
    for bit in features:
        value |= 1 << bit
    return value


OF_RINGS = mask((RingFeature.VERSION_1, RingFeature.INDIRECT_DESC, RingFeature.EVENT_IDX, RingFeature.IN_ORDER))
"""Feature bits that concern rings of both formats."""
PLATFORM = mask((RingFeature.ACCESS_PLATFORM, RingFeature.ORDER_PLATFORM))
"""Feature bits of a device whose accesses the driver's platform translates and orders, such as an add-in card."""
COMMON = (
    OF_RINGS | PLATFORM | mask((RingFeature.RING_RESET, RingFeature.NOTIFICATION_DATA, RingFeature.NOTIF_CONFIG_DATA))
)
"""Feature bits for queues that every built-in device type supports, if its transport does."""


def bits(value: int) -> Iterator[int]:
    """Yield the set bits of ``value``, ascending."""
    while value:
        low = value & -value
        yield low.bit_length() - 1
        value ^= low


def word(value: int, select: int) -> int:
    """Return the 32 bits of ``value`` that a transport shows for ``select``: bits 32*select and up."""
    return value >> 32 * select & 0xFFFF_FFFF if select < 1 << 16 else 0


@attrs.frozen
class FeatureTable:
    """Names and prerequisites of the feature bits of one device type."""

    names: Mapping[int, str]
    needs: Mapping[int, tuple[frozenset[int], ...]] = attrs.field(factory=dict)
    """Prerequisites by bit: groups of bits, of each of which at least one has to be set too."""

    def known(self) -> int:
        """Return all bits with a name, including ring features."""
        return mask(self.names) | mask(RingFeature)

    def name(self, bit: int) -> str:
        """Return the specification's name of a bit without its prefix, or ``bit N`` if it has none."""
        if bit in self.names:
            return self.names[bit]
        return RingFeature(bit).name if bit in RingFeature.__members__.values() else f"bit {bit}"

    def describe(self, value: int) -> tuple[str, ...]:
        """Return the names of the set bits, ascending."""
        return tuple(self.name(bit) for bit in bits(value))

    def unmet(self, value: int) -> int:
        """Return the set bits that lack a prerequisite in ``value``."""
        return mask(b for b in bits(value) if any(not mask(group) & value for group in self.needs.get(b, ())))

    def prune(self, value: int) -> int:
        """Return ``value`` without the bits that lack a prerequisite, repeated until none does."""
        while lacking := self.unmet(value):
            value &= ~lacking
        return value


EMPTY_TABLE = FeatureTable({})
