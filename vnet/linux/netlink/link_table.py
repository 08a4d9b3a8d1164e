"""What is known of a namespace's interfaces, kept up to date by netlink messages. No I/O."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import attrs

from vnet.linux.netlink.rtnetlink import IFF_RUNNING, Address, Link, Message, Type, dump

__all__ = ["InterfaceState", "LinkTable"]


@attrs.frozen
class InterfaceState:
    """An interface as its users have set it up."""

    name: str
    mac: bytes | None = None
    """6 bytes; None for one without an Ethernet address, such as a TUN."""
    mtu: int = 0
    running: bool = False
    """Whether the kernel sends through it, which is some time after its carrier came."""
    promisc: bool = False
    allmulti: bool = False
    vlans: frozenset[int] = frozenset()
    """Ids of the VLAN interfaces on top of it. Those that moved to another namespace stay: nothing tells their end."""
    addresses: tuple[bytes, ...] = ()
    """IP addresses of 4 or 16 bytes, in the order in which they were added."""
    networks: tuple[tuple[bytes, int], ...] = ()
    """The networks of these addresses: an address in it, and the bits of its prefix."""


class LinkTable:
    """The links and addresses of one namespace.

    `read_all` starts to read all of it, at first and after messages were lost; what is known stays until that is done.
    """

    def __init__(self) -> None:
        self._known = _Contents()
        self._next: _Contents | None = None
        self._dumped = Type.GET_LINK
        self._serial = 0
        self._inconsistent = False
        self.readings = 0
        """How often everything was read."""

    @property
    def reading(self) -> bool:
        """Whether everything is being read, so that what is known may be outdated."""
        return self._next is not None

    def read_all(self) -> bytes:
        """Begin to read everything; the request to send. If that is under way, it begins again when it is done."""
        if self._next is not None:
            self._inconsistent = True
            return b""
        self._next, self._inconsistent = _Contents(self._known.moved), False
        return self._dump(Type.GET_LINK)

    def _dump(self, kind: int) -> bytes:
        self._dumped = kind
        self._serial += 1
        return dump(kind, self._serial)

    def apply(self, message: Message) -> tuple[set[int], bytes]:
        """Take in a message: the indices of the interfaces that it changed, and a request to send.

        What was read all at once counts as a change of none: see `readings`.
        """
        if self._next is None:
            return self._known.apply(message), b""
        self._inconsistent |= message.interrupted
        if message.serial != self._serial or message.type not in (Type.DONE, Type.ERROR):
            self._next.apply(message)
            return set(), b""
        if self._dumped == Type.GET_LINK:
            return set(), self._dump(Type.GET_ADDRESS)
        contents, self._next = self._next, None
        if self._inconsistent:
            return set(), self.read_all()
        self._known = contents
        self.readings += 1
        return set(), b""

    def state(self, index: int) -> InterfaceState | None:
        """Of the interface with this index; None if there is none."""
        return self._known.state(index)


class _Contents:
    def __init__(self, moved: Mapping[int, set[int]] = MappingProxyType({})) -> None:
        self.links: dict[int, Link] = {}
        self.addresses: dict[int, dict[Address, None]] = {}
        self.vlans: dict[int, dict[int, int]] = {}
        """By the index of the interface below: VLAN ids by the index of the VLAN interface."""
        self.moved = {index: set(vlans) for index, vlans in moved.items()}
        """By the index of the interface below: ids of VLAN interfaces that moved to another namespace."""

    def apply(self, message: Message) -> set[int]:
        """The indices of the interfaces that it changed."""
        if message.type in (Type.NEW_LINK, Type.DEL_LINK):
            link = Link.parse(message.body)
            if link is None:
                return set()
            return self._remove(link) if message.type == Type.DEL_LINK else self._add(link)
        if message.type in (Type.NEW_ADDRESS, Type.DEL_ADDRESS):
            address = Address.parse(message.body)
            return {address.index} if address and self._address(address, message.type == Type.NEW_ADDRESS) else set()
        return set()

    def _add(self, link: Link) -> set[int]:
        if link == self.links.get(link.index):
            return set()
        self.links[link.index] = link
        if link.vlan is None:
            return {link.index}
        self.vlans.setdefault(link.lower, {})[link.index] = link.vlan
        return {link.index, link.lower}

    def _remove(self, link: Link) -> set[int]:
        for rest in (self.links, self.addresses, self.vlans, self.moved):
            rest.pop(link.index, None)
        vlan = self.vlans.get(link.lower, {}).pop(link.index, None)
        if vlan is not None and link.moved:
            self.moved.setdefault(link.lower, set()).add(vlan)
        return {link.index, link.lower}

    def _address(self, address: Address, new: bool) -> bool:
        """Whether that changed anything."""
        of_interface = self.addresses.setdefault(address.index, {})
        if new == (address in of_interface):
            return False
        if new:
            of_interface[address] = None
        else:
            del of_interface[address]
        return True

    def state(self, index: int) -> InterfaceState | None:
        link = self.links.get(index)
        if link is None:
            return None
        return InterfaceState(
            link.name,
            link.mac,
            link.mtu,
            bool(link.flags & IFF_RUNNING),
            bool(link.promiscuity),
            link.allmulti,
            frozenset(self.vlans.get(index, {}).values()) | self.moved.get(index, set()),
            tuple(dict.fromkeys(address.ip for address in self.addresses.get(index, ()))),
            tuple(dict.fromkeys((address.network, address.prefix) for address in self.addresses.get(index, ()))),
        )
