"""Messages and requests of routing netlink about links and their IP addresses. No I/O."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping

import attrs

__all__ = [
    "GROUPS",
    "IFF_RUNNING",
    "AddressInfo",
    "LinkInfo",
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
    """Serial number of the request that it answers; 0 for a notification."""
    body: bytes

    @property
    def interrupted(self) -> bool:
        """Whether the data changed during the dump, so that the dump may be inconsistent."""
        return bool(self.flags & NLM_F_DUMP_INTR)


def messages(data: bytes) -> Iterator[Message]:
    """Parse the messages of one datagram, up to a truncated one."""
    at = 0
    while at + HEADER.size <= len(data):
        size, kind, flags, serial, _ = HEADER.unpack_from(data, at)
        if not HEADER.size <= size <= len(data) - at:
            return
        yield Message(kind, flags, serial, data[at + HEADER.size : at + size])
        at += (size + 3) & ~3


def attributes(data: bytes, at: int = 0) -> dict[int, bytes]:
    """Parse the attributes from offset ``at`` on, up to a truncated one; return their contents by type."""
    contents = {}
    while at + ATTRIBUTE.size <= len(data):
        size, kind = ATTRIBUTE.unpack_from(data, at)
        if not ATTRIBUTE.size <= size <= len(data) - at:
            break
        contents[kind & NESTED_BITS] = data[at + ATTRIBUTE.size : at + size]
        at += (size + 3) & ~3
    return contents


@attrs.frozen
class LinkInfo:
    """An interface of a namespace, as RTM_NEWLINK and RTM_DELLINK describe it."""

    index: int
    name: str
    flags: int
    mac: bytes | None = None
    mtu: int = 0
    promiscuity: int = 0
    """Number of users in promiscuous mode; IFF_PROMISC leaves out captures and bridges."""
    allmulti: bool = False
    lower: int = 0
    """Index of a VLAN's lower interface in the same namespace; 0 for none."""
    vlan: int | None = None
    """VLAN id; None if it is no VLAN interface."""
    moved: bool = False
    """Whether RTM_DELLINK reports a move to another namespace."""

    @classmethod
    def parse(cls, body: bytes) -> LinkInfo | None:
        """Parse the body; return None for another address family: a bridge reports its ports in such messages.

        Raises struct.error if the body is too short.
        """
        family, _, index, flags, _ = LINK_HEADER.unpack_from(body)
        if family != AF_UNSPEC:
            return None
        contents = attributes(body, LINK_HEADER.size)
        vlan, lower = _vlan(contents.get(LinkAttribute.INFO, b"")), 0
        if vlan is not None and LinkAttribute.LINK_NETNSID not in contents:
            lower = _number(contents, LinkAttribute.LINK)
        return cls(
            index,
            contents.get(LinkAttribute.NAME, b"").rstrip(b"\0").decode(errors="replace"),
            flags,
            contents.get(LinkAttribute.ADDRESS) or None,
            _number(contents, LinkAttribute.MTU),
            _number(contents, LinkAttribute.PROMISCUITY),
            bool(flags & IFF_ALLMULTI or _number(contents, LinkAttribute.ALLMULTI)),
            lower,
            vlan,
            LinkAttribute.NEW_NETNSID in contents,
        )


def _number(contents: Mapping[int, bytes], kind: int) -> int:
    content = contents.get(kind, b"")
    return int(NUMBER.unpack(content)[0]) if len(content) == NUMBER.size else 0


def _vlan(info: bytes) -> int | None:
    """Return the VLAN id in IFLA_LINKINFO; None for another kind of interface."""
    contents = attributes(info) if info else {}
    if contents.get(LinkAttribute.INFO_KIND, b"").rstrip(b"\0") != b"vlan":
        return None
    content = attributes(contents.get(LinkAttribute.INFO_DATA, b"")).get(LinkAttribute.VLAN_ID, b"")
    return int.from_bytes(content, "little") if len(content) == 2 else None


@attrs.frozen
class AddressInfo:
    """An IP address of an interface, as RTM_NEWADDR and RTM_DELADDR describe it."""

    index: int
    """Index of the interface."""
    ip: bytes
    """4 or 16 bytes."""
    prefix: int
    """Prefix length of its network, in bits."""
    network: bytes
    """An address in its network: ``ip``, or the peer's address of a point-to-point link."""

    @classmethod
    def parse(cls, body: bytes) -> AddressInfo | None:
        """Parse the body; return None for an address that is not IP. Raises struct.error if it is too short."""
        _, prefix, _, _, index = ADDRESS_HEADER.unpack_from(body)
        contents = attributes(body, ADDRESS_HEADER.size)
        # A point-to-point link has our address in IFA_LOCAL, and the peer's in IFA_ADDRESS.
        ip = contents.get(AddressAttribute.LOCAL) or contents.get(AddressAttribute.ADDRESS) or b""
        network = contents.get(AddressAttribute.ADDRESS) or ip
        return cls(index, ip, prefix, network) if len(ip) == len(network) and len(ip) in (4, 16) else None


def _request(kind: int, flags: int, serial: int, body: bytes) -> bytes:
    return HEADER.pack(HEADER.size + len(body), kind, NLM_F_REQUEST | flags, serial, 0) + body


def _link_body(index: int) -> bytes:
    mask = ATTRIBUTE.pack(ATTRIBUTE.size + NUMBER.size, LinkAttribute.EXT_MASK) + NUMBER.pack(SKIP_STATISTICS)
    return LINK_HEADER.pack(0, 0, index, 0, 0) + mask


def dump(kind: int, serial: int) -> bytes:
    """Return a request for all links (GET_LINK) or all addresses (GET_ADDRESS) of the namespace."""
    body = _link_body(0) if kind == Type.GET_LINK else ADDRESS_HEADER.pack(0, 0, 0, 0, 0)
    return _request(kind, NLM_F_DUMP, serial, body)


def link_request(index: int) -> bytes:
    """Return a request for one link; its answer looks like a notification."""
    return _request(Type.GET_LINK, 0, 0, _link_body(index))
