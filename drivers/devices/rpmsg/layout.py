"""Constants and structures of rpmsg: features, configuration space, message header, name and address service.

VIRTIO 1.4 has no chapter for virtio device id 7. Header and name service are those of all rpmsg implementations.
Feature bit 2 and its configuration space are those of NuttX and OpenAMP. Feature bit 1 has three meanings: the address
service of the RFC that brought vhost to SoC-to-SoC links, buffer sizes in Linux, acknowledged announcements in NuttX. A
peer cannot tell which is meant, so the bit is offered and accepted only if the user asks for the address service. All
fields are little-endian, because every device here has VERSION_1.
"""

from __future__ import annotations

import struct
from collections.abc import Container
from enum import IntEnum, IntFlag

import attrs

from drivers.errors import RpmsgError
from rings.features import COMMON, FeatureTable, mask

__all__ = [
    "ADDR_ANY",
    "AS_ADDR",
    "CONFIG_SIZES",
    "DEFAULT_BUFFER",
    "DEFAULT_FEATURES",
    "FIRST_DYNAMIC",
    "HEADER",
    "HEADER_SIZE",
    "MAX_BUFFER",
    "MIN_BUFFER",
    "NS_ADDR",
    "SERVICES",
    "SUPPORTED",
    "TABLE",
    "AddressMessage",
    "AsFlag",
    "Malformed",
    "NameMessage",
    "NsFlag",
    "RpmsgConfig",
    "RpmsgFeature",
    "check_name",
    "is_endpoint_addr",
]


class RpmsgFeature(IntEnum):
    NS = 0
    """Name service: announces created and destroyed endpoints."""
    AS = 1
    """Address service: answers an announcement with the address of the endpoint bound to it."""
    BUFSZ = 2
    """The configuration space has the sizes of buffers."""


TABLE = FeatureTable(
    names={f.value: f.name for f in RpmsgFeature},
    needs={RpmsgFeature.AS: (frozenset({RpmsgFeature.NS}),)},
)
SUPPORTED = mask(RpmsgFeature) | COMMON
DEFAULT_FEATURES = SUPPORTED & ~mask((RpmsgFeature.AS,))
"""Feature bits that mean the same in all implementations."""

NS_ADDR, AS_ADDR = 53, 54
"""Addresses of name service and address service, on both sides, if negotiated."""
SERVICES = {NS_ADDR: RpmsgFeature.NS, AS_ADDR: RpmsgFeature.AS}
ADDR_ANY = 0xFFFF_FFFF
"""Wildcard address: the destination is not known yet."""
FIRST_DYNAMIC = 1024
"""First dynamic address."""

HEADER = struct.Struct("<IIIHH")
"""Message header: source, destination, reserved, bytes of payload, flags."""
HEADER_SIZE = HEADER.size
DEFAULT_BUFFER = 512
"""Bytes of a buffer, including the header, without BUFSZ."""
MAX_BUFFER = HEADER_SIZE + 0xFFFF
"""Largest useful buffer, in bytes: the limit of the header's length field."""

NAME_SIZE = 32
NS_MESSAGE = struct.Struct(f"<{NAME_SIZE}sII")
AS_MESSAGE = struct.Struct(f"<{NAME_SIZE}sIII")
MIN_BUFFER = HEADER_SIZE + AS_MESSAGE.size
"""Smallest buffer, in bytes, that holds the messages of both services."""


class NsFlag(IntFlag):
    DESTROY = 1
    """The endpoint was destroyed; if unset, it was created."""
    AS_ANNOUNCE = 2
    """The sender asks for the address of the endpoint bound to the announced one."""


class AsFlag(IntEnum):
    ASSIGN = 1
    FREE = 2


class Malformed(ValueError):
    """An invalid message of the name or address service; it is counted under ``cause``."""

    def __init__(self, cause: str) -> None:
        super().__init__(cause)
        self.cause = cause


def _parse_name(field: bytes) -> str:
    name, end, _ = field.partition(b"\0")
    if not end or not name.isascii() or not (text := name.decode("ascii")).isprintable() or not text:
        raise Malformed("bad_name")
    return text


def check_name(name: str) -> str:
    """Check that an announcement can carry the name, and return it. Raises RpmsgError."""
    if not 0 < len(name) < NAME_SIZE or not name.isascii() or not name.isprintable():
        raise RpmsgError(f"{name!r}: a channel's name must be 1 to {NAME_SIZE - 1} printable ASCII characters")
    return name


def is_endpoint_addr(addr: int, services: Container[int] = SERVICES) -> bool:
    """Return whether an endpoint can have this address, given the addresses of ``services``."""
    return 0 <= addr < ADDR_ANY and addr not in services


@attrs.frozen
class NameMessage:
    """An announcement of the name service: 40 bytes."""

    name: str
    addr: int
    """Address of the announced endpoint."""
    flags: NsFlag = attrs.field(default=NsFlag(0))

    def emit(self) -> bytes:
        return NS_MESSAGE.pack(self.name.encode("ascii"), self.addr, self.flags)

    @classmethod
    def parse(cls, data: bytes, services: Container[int] = SERVICES) -> NameMessage:
        """Parse a message. ``services``: addresses that no endpoint has. Raises Malformed."""
        if len(data) != NS_MESSAGE.size:
            raise Malformed("ns_length")
        name, addr, flags = NS_MESSAGE.unpack(data)
        if flags & ~0b11:
            raise Malformed("ns_flags")
        if not is_endpoint_addr(addr, services):
            raise Malformed("ns_address")
        return cls(_parse_name(name), addr, NsFlag(flags))


@attrs.frozen
class AddressMessage:
    """A message of the address service: 44 bytes."""

    name: str
    dst: int
    """Address of the sender's endpoint, to which the other one shall send."""
    src: int
    """Address of the other endpoint, which was announced before."""
    flag: AsFlag

    def emit(self) -> bytes:
        return AS_MESSAGE.pack(self.name.encode("ascii"), self.dst, self.src, self.flag)

    @classmethod
    def parse(cls, data: bytes) -> AddressMessage:
        """Parse a message. Raises Malformed."""
        if len(data) != AS_MESSAGE.size:
            raise Malformed("as_length")
        name, dst, src, flag = AS_MESSAGE.unpack(data)
        if flag not in (AsFlag.ASSIGN, AsFlag.FREE):
            raise Malformed("as_flags")
        if not is_endpoint_addr(dst):
            raise Malformed("as_address")
        return cls(_parse_name(name), dst, src, AsFlag(flag))


CONFIG_SIZES = struct.Struct("<II")
"""The used part of the configuration space."""
RESERVED = 56
"""Bytes of the configuration space behind it."""


@attrs.frozen
class RpmsgConfig:
    """The configuration space: buffer sizes in bytes per direction, including headers, and 56 reserved bytes."""

    to_driver: int = DEFAULT_BUFFER
    to_device: int = DEFAULT_BUFFER

    def emit(self) -> bytes:
        return CONFIG_SIZES.pack(self.to_driver, self.to_device) + bytes(RESERVED)

    @classmethod
    def parse(cls, data: bytes) -> RpmsgConfig:
        """Parse the 8 bytes of `CONFIG_SIZES`, without a check; see `valid`."""
        return cls(*CONFIG_SIZES.unpack(data))

    @property
    def valid(self) -> bool:
        return all(MIN_BUFFER <= size <= MAX_BUFFER for size in (self.to_driver, self.to_device))
