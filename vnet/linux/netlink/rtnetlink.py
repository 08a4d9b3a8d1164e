"""Messages of the kernel's routing netlink: links and their IP addresses, read and asked for. No I/O."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping

import attrs

__all__ = [
    "GROUPS",
    "IFF_RUNNING",
    "Address",
    "Link",
    "Message",
    "Type",
    "attributes",
    "dump",
    "link_request",
    "messages",
]

GROUPS = 1 << 0 | 1 << 4 | 1 << 8
"""Multicast groups of link, IPv4 address and IPv6 address changes (RTMGRP_LINK, _IPV4_IFADDR, _IPV6_IFADDR)."""
IFF_RUNNING, IFF_ALLMULTI = 0x40, 0x200
NLM_F_REQUEST, NLM_F_DUMP, NLM_F_DUMP_INTR = 0x1, 0x300, 0x10
HEADER = struct.Struct("=IHHII")
ATTRIBUTE = struct.Struct("=HH")
LINK_HEADER = struct.Struct("=BxHiII")
AF_UNSPEC = 0
ADDRESS_HEADER = struct.Struct("=BBBBi")
NUMBER = struct.Struct("=I")
NESTED_BITS = 0x3FFF
"""The type of an attribute without its flags NLA_F_NESTED and NLA_F_NET_BYTEORDER."""
SKIP_STATISTICS = 1 << 3
"""RTEXT_FILTER_SKIP_STATS in IFLA_EXT_MASK: leave out the counters, so that equal states give equal bytes."""


class Type:
    """Message types (RTM_*, NLMSG_*)."""

    ERROR, DONE = 2, 3
    NEW_LINK, DEL_LINK, GET_LINK = 16, 17, 18
    NEW_ADDRESS, DEL_ADDRESS, GET_ADDRESS = 20, 21, 22


class LinkAttribute:
    """IFLA_*."""

    ADDRESS, NAME, MTU, LINK, INFO, EXT_MASK = 1, 3, 4, 5, 18, 29
    PROMISCUITY, LINK_NETNSID, NEW_NETNSID, ALLMULTI = 30, 37, 45, 61
    INFO_KIND, INFO_DATA, VLAN_ID = 1, 2, 1


class AddressAttribute:
    """IFA_*."""

    ADDRESS, LOCAL = 1, 2


@attrs.frozen
class Message:
    """One netlink message."""

    type: int
    flags: int
    serial: int
    """Of the request that it answers; 0 for a notification."""
    body: bytes

    @property
    def interrupted(self) -> bool:
        """Whether what is dumped changed meanwhile, so that the dump may be inconsistent."""
        return bool(self.flags & NLM_F_DUMP_INTR)


def messages(data: bytes) -> Iterator[Message]:
    """The messages of one datagram; a truncated one ends it."""
    at = 0
    while at + HEADER.size <= len(data):
        size, kind, flags, serial, _ = HEADER.unpack_from(data, at)
        if not HEADER.size <= size <= len(data) - at:
            return
        yield Message(kind, flags, serial, data[at + HEADER.size : at + size])
        at += (size + 3) & ~3


def attributes(data: bytes, at: int = 0) -> dict[int, bytes]:
    """Type to content of the attributes from offset ``at`` on; a truncated one ends them."""
    found = {}
    while at + ATTRIBUTE.size <= len(data):
        size, kind = ATTRIBUTE.unpack_from(data, at)
        if not ATTRIBUTE.size <= size <= len(data) - at:
            break
        found[kind & NESTED_BITS] = data[at + ATTRIBUTE.size : at + size]
        at += (size + 3) & ~3
    return found


@attrs.frozen
class Link:
    """An interface of a namespace, as RTM_NEWLINK and RTM_DELLINK describe it."""

    index: int
    name: str
    flags: int
    mac: bytes | None = None
    mtu: int = 0
    promiscuity: int = 0
    """How many users want every frame; IFF_PROMISC does not count captures and bridges."""
    allmulti: bool = False
    lower: int = 0
    """Index of the interface below a VLAN, in the same namespace; 0 for none."""
    vlan: int | None = None
    """The VLAN's id."""
    moved: bool = False
    """Whether RTM_DELLINK says that it moved to another namespace."""

    @classmethod
    def parse(cls, body: bytes) -> Link | None:
        """None for what another family says of a link: a bridge tells in such messages which ports it has.

        Raises struct.error for a body that is too short.
        """
        family, _, index, flags, _ = LINK_HEADER.unpack_from(body)
        if family != AF_UNSPEC:
            return None
        found = attributes(body, LINK_HEADER.size)
        vlan, lower = _vlan(found.get(LinkAttribute.INFO, b"")), 0
        if vlan is not None and LinkAttribute.LINK_NETNSID not in found:
            lower = _number(found, LinkAttribute.LINK)
        return cls(
            index,
            found.get(LinkAttribute.NAME, b"").rstrip(b"\0").decode(errors="replace"),
            flags,
            found.get(LinkAttribute.ADDRESS) or None,
            _number(found, LinkAttribute.MTU),
            _number(found, LinkAttribute.PROMISCUITY),
            bool(flags & IFF_ALLMULTI or _number(found, LinkAttribute.ALLMULTI)),
            lower,
            vlan,
            LinkAttribute.NEW_NETNSID in found,
        )


def _number(found: Mapping[int, bytes], kind: int) -> int:
    content = found.get(kind, b"")
    return int(NUMBER.unpack(content)[0]) if len(content) == NUMBER.size else 0


def _vlan(info: bytes) -> int | None:
    """The VLAN id in IFLA_LINKINFO; None for an interface of another kind."""
    found = attributes(info) if info else {}
    if found.get(LinkAttribute.INFO_KIND, b"").rstrip(b"\0") != b"vlan":
        return None
    content = attributes(found.get(LinkAttribute.INFO_DATA, b"")).get(LinkAttribute.VLAN_ID, b"")
    return int.from_bytes(content, "little") if len(content) == 2 else None


@attrs.frozen
class Address:
    """An IP address of an interface, as RTM_NEWADDR and RTM_DELADDR describe it."""

    index: int
    """The interface's."""
    ip: bytes
    """4 or 16 bytes."""
    prefix: int
    """Bits of its network's prefix."""
    network: bytes
    """An address in its network: itself, or the other end's if it is a point-to-point address."""

    @classmethod
    def parse(cls, body: bytes) -> Address | None:
        """None for a family without addresses here. Raises struct.error for a body that is too short."""
        _, prefix, _, _, index = ADDRESS_HEADER.unpack_from(body)
        found = attributes(body, ADDRESS_HEADER.size)
        # A point-to-point address has its own end in IFA_LOCAL, and the other's in IFA_ADDRESS.
        ip = found.get(AddressAttribute.LOCAL) or found.get(AddressAttribute.ADDRESS) or b""
        network = found.get(AddressAttribute.ADDRESS) or ip
        return cls(index, ip, prefix, network) if len(ip) == len(network) and len(ip) in (4, 16) else None


def _request(kind: int, flags: int, serial: int, body: bytes) -> bytes:
    return HEADER.pack(HEADER.size + len(body), kind, NLM_F_REQUEST | flags, serial, 0) + body


def _link_body(index: int) -> bytes:
    mask = ATTRIBUTE.pack(ATTRIBUTE.size + NUMBER.size, LinkAttribute.EXT_MASK) + NUMBER.pack(SKIP_STATISTICS)
    return LINK_HEADER.pack(0, 0, index, 0, 0) + mask


def dump(kind: int, serial: int) -> bytes:
    """A request for all links (GET_LINK) or all addresses (GET_ADDRESS) of the namespace."""
    body = _link_body(0) if kind == Type.GET_LINK else ADDRESS_HEADER.pack(0, 0, 0, 0, 0)
    return _request(kind, NLM_F_DUMP, serial, body)


def link_request(index: int) -> bytes:
    """A request for one link; the answer looks like a notification."""
    return _request(Type.GET_LINK, 0, 0, _link_body(index))
