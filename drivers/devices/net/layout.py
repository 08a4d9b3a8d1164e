"""Constants and structures of virtio-net: features, configuration, header (VIRTIO 1.4 sections 5.1.3, 5.1.4, 5.1.9)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from enum import IntEnum

import attrs

from drivers.bus.config import ConfigField, emit_config
from drivers.contracts.ports import ETH_HLEN, HEADER_SIZE, Offloads
from drivers.devices.net.hashing import HASH_REPORT, HASH_TYPES, KEY_SIZE
from drivers.devices.net.steering import TABLE_LENGTH
from drivers.devices.net.vlan import TAGS_ROOM
from rings.features import COMMON, FeatureTable, mask

__all__ = [
    "ANNOUNCE",
    "CONTROLLED",
    "FRONTED_TABLE",
    "HASHED",
    "LINK_UP",
    "MAX_FRAME",
    "MAX_PAIRS",
    "MIN_MTU",
    "SPEED_MAX",
    "SPEED_UNKNOWN",
    "REQUESTED",
    "SEVERAL",
    "SUPPORTED",
    "TABLE",
    "USUAL",
    "Duplex",
    "NetConfig",
    "NetConfigField",
    "NetFeature",
    "buffer_size",
    "data_queue_name",
    "device_offloads",
    "driver_offloads",
    "hash_room",
    "offload_features",
    "pairs_of",
    "queue_names",
]


class NetFeature(IntEnum):
    CSUM = 0
    GUEST_CSUM = 1
    CTRL_GUEST_OFFLOADS = 2
    MTU = 3
    MAC = 5
    GUEST_TSO4 = 7
    GUEST_TSO6 = 8
    GUEST_ECN = 9
    HOST_TSO4 = 11
    HOST_TSO6 = 12
    HOST_ECN = 13
    MRG_RXBUF = 15
    STATUS = 16
    CTRL_VQ = 17
    CTRL_RX = 18
    CTRL_VLAN = 19
    CTRL_RX_EXTRA = 20
    GUEST_ANNOUNCE = 21
    MQ = 22
    CTRL_MAC_ADDR = 23
    DEVICE_STATS = 50
    VQ_NOTF_COAL = 52
    NOTF_COAL = 53
    GUEST_USO4 = 54
    GUEST_USO6 = 55
    HOST_USO = 56
    HASH_REPORT = 57
    GUEST_HDRLEN = 59
    RSS = 60
    SPEED_DUPLEX = 63


F = NetFeature
COMMANDED = (
    F.CTRL_GUEST_OFFLOADS,
    F.CTRL_RX,
    F.CTRL_VLAN,
    F.CTRL_RX_EXTRA,
    F.GUEST_ANNOUNCE,
    F.MQ,
    F.CTRL_MAC_ADDR,
    F.HASH_REPORT,
    F.RSS,
    F.DEVICE_STATS,
    F.VQ_NOTF_COAL,
    F.NOTF_COAL,
)
"""Features whose commands need CTRL_VQ; section 5.1.3.1 omits four of them."""
TABLE = FeatureTable(
    names={f.value: f.name for f in NetFeature},
    needs={
        **{f: (frozenset({F.GUEST_CSUM}),) for f in (F.GUEST_TSO4, F.GUEST_TSO6, F.GUEST_USO4, F.GUEST_USO6)},
        **{f: (frozenset({F.CSUM}),) for f in (F.HOST_TSO4, F.HOST_TSO6, F.HOST_USO)},
        F.GUEST_ECN: (frozenset({F.GUEST_TSO4, F.GUEST_TSO6}),),
        F.HOST_ECN: (frozenset({F.HOST_TSO4, F.HOST_TSO6}),),
        **{f: (frozenset({F.CTRL_VQ}),) for f in COMMANDED},
    },
)
SUPPORTED = mask(NetFeature) | COMMON
REQUESTED = mask((F.RSS, F.HASH_REPORT, F.GUEST_HDRLEN))
"""Features that a device offers only if its user wants it to: Python moves its frames then."""
USUAL = SUPPORTED & ~REQUESTED
CONTROLLED = mask((F.CTRL_VQ, *COMMANDED))
"""CTRL_VQ, and all features that need it."""
FRONTED_TABLE = FeatureTable(TABLE.names, {f: needs for f, needs in TABLE.needs.items() if f != F.MQ})
"""Features of a device whose front end serves the control queue (vhost-user): MQ works without CTRL_VQ."""

# Features that allow frames with an unfinished checksum or segmentation, per direction.
_TO_DEVICE: Mapping[str, tuple[NetFeature, ...]] = {
    "csum": (F.CSUM,),
    "tso4": (F.HOST_TSO4,),
    "tso6": (F.HOST_TSO6,),
    "uso": (F.HOST_USO,),
    "ecn": (F.HOST_ECN,),
}
_TO_DRIVER = {
    "csum": (F.GUEST_CSUM,),
    "tso4": (F.GUEST_TSO4,),
    "tso6": (F.GUEST_TSO6,),
    "uso": (F.GUEST_USO4, F.GUEST_USO6),
    "ecn": (F.GUEST_ECN,),
}


def _offloads(
    features: int, table: Mapping[str, tuple[NetFeature, ...]], need: Callable[[Iterable[bool]], bool]
) -> Offloads:
    return Offloads(**{name: need(bool(features >> bit & 1) for bit in bits) for name, bits in table.items()})


def driver_offloads(features: int) -> Offloads:
    """Return the offloads of frames from the driver to the device."""
    return _offloads(features, _TO_DEVICE, all)


def device_offloads(features: int, need: Callable[[Iterable[bool]], bool] = all) -> Offloads:
    """Return the offloads of frames from the device to the driver.

    USO has a feature bit per IP version: a sender that does not distinguish them needs ``all``, a receiver ``any``.
    """
    return _offloads(features, _TO_DRIVER, need)


def offload_features(able: Offloads, *, from_driver: bool) -> int:
    """Return the feature bits for the offloads that a port supports, in one direction."""
    table = _TO_DEVICE if from_driver else _TO_DRIVER
    return mask(bit for name, bits in table.items() if getattr(able, name) for bit in bits)


LINK_UP, ANNOUNCE = 1, 2
"""Bits of the status field."""
MIN_MTU = 68
"""Smallest valid MTU, in bytes."""
MAX_PAIRS = 0x8000
"""Maximum number of queue pairs."""
MAX_FRAME = 65550
"""Bytes of the largest frame, including the Ethernet header."""
_GSO_BUFFER = 65601
_PLAIN_BUFFER = 1526
SPEED_MAX, SPEED_UNKNOWN = 0x7FFF_FFFF, 0xFFFF_FFFF
"""Largest valid speed, and the value for an unknown speed, in Mbit/s."""


class Duplex(IntEnum):
    HALF = 0
    FULL = 1
    UNKNOWN = 0xFF

    @property
    def full(self) -> bool | None:
        """True for full duplex, None if unknown."""
        return {Duplex.HALF: False, Duplex.FULL: True}.get(self)


def buffer_size(*, gso: bool, mtu: int | None) -> int:
    """Return the bytes of a buffer that holds any frame with its header (section 5.1.9.3.1)."""
    return _GSO_BUFFER if gso else max(_PLAIN_BUFFER, HEADER_SIZE + ETH_HLEN + TAGS_ROOM + (mtu or 0))


HASHED = mask((F.RSS, F.HASH_REPORT))
"""Features with which a device hashes received frames."""
SEVERAL = mask((F.MQ, F.RSS))
"""Features with which a device has several queue pairs."""


def hash_room(features: int) -> int:
    """Return the bytes of a hash report behind the virtio_net_hdr of each frame (section 5.1.9)."""
    return HASH_REPORT.size if features >> F.HASH_REPORT & 1 else 0


def pairs_of(features: int, most: int) -> int:
    """Return the number of queue pairs before the control queue, if the device has ``most`` (section 5.1.2)."""
    return most if features & SEVERAL else 1


def data_queue_name(index: int) -> str:
    """Return the name of a data queue: receiveq1, transmitq1, receiveq2, and so on (section 5.1.2)."""
    return f"{('receive', 'transmit')[index % 2]}q{index // 2 + 1}"


def queue_names(features: int, most: int) -> list[str]:
    """Return the queues' names, in order, under these features."""
    names = [data_queue_name(index) for index in range(2 * pairs_of(features, most))]
    return [*names, "controlq"] if features >> F.CTRL_VQ & 1 else names


class NetConfigField(ConfigField):
    """Offset and size in bytes of each configuration field; each belongs to a feature."""

    MAC = 0, 6
    STATUS = 6, 2
    MAX_VIRTQUEUE_PAIRS = 8, 2
    MTU = 10, 2
    SPEED = 12, 4
    DUPLEX = 16, 1
    RSS_MAX_KEY_SIZE = 17, 1
    RSS_MAX_TABLE_LENGTH = 18, 2
    SUPPORTED_HASH_TYPES = 20, 4


C = NetConfigField
CONFIG_SIZE, HASHING_SIZE = 17, 24
"""Bytes of the configuration space, without and with the fields about hashes."""


@attrs.frozen
class NetConfig:
    """The device-specific configuration space."""

    mac: bytes
    """6 bytes."""
    status: int
    mtu: int
    """Maximum packet size in bytes, without the Ethernet header."""
    max_virtqueue_pairs: int = 1
    speed: int = SPEED_UNKNOWN
    """Mbit/s."""
    duplex: Duplex = Duplex.UNKNOWN
    hashes: bool = False
    """Whether the device hashes frames."""

    def emit(self) -> bytes:
        fields = {
            C.MAC: int.from_bytes(self.mac, "little"),
            C.STATUS: self.status,
            C.MAX_VIRTQUEUE_PAIRS: self.max_virtqueue_pairs,
            C.MTU: self.mtu,
            C.SPEED: self.speed,
            C.DUPLEX: self.duplex,
        }
        if not self.hashes:
            return emit_config(fields, CONFIG_SIZE)
        limits = {
            C.RSS_MAX_KEY_SIZE: KEY_SIZE,
            C.RSS_MAX_TABLE_LENGTH: TABLE_LENGTH,
            C.SUPPORTED_HASH_TYPES: HASH_TYPES,
        }
        return emit_config(fields | limits, HASHING_SIZE)
