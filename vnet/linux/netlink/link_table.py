"""Table of a namespace's interfaces and addresses, kept up to date by netlink messages. No I/O."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import attrs

from vnet.linux.netlink.rtnetlink import IFF_RUNNING, AddressInfo, LinkInfo, Message, Type, dump

__all__ = ["InterfaceState", "LinkTable"]


@attrs.frozen
class InterfaceState:
    """State of an interface, as users of its namespace configured it."""

    name: str
    mac: bytes | None = None
    """6 bytes; None for an interface without an Ethernet address, such as a TUN."""
    mtu: int = 0
    running: bool = False
    """Whether the kernel sends through it, which begins some time after its carrier is on."""
    promisc: bool = False
    allmulti: bool = False
    vlans: frozenset[int] = frozenset()
    """Ids of the VLAN interfaces on top of it. Those in other namespaces stay, because no message reports their end."""
    addresses: tuple[bytes, ...] = ()
    """IP addresses of 4 or 16 bytes, in the order in which they were added."""
    networks: tuple[tuple[bytes, int], ...] = ()
    """Networks of these addresses: an address in the network, and its prefix length."""


class LinkTable:
    """The links and addresses of one namespace.

    `read_all` starts a dump of all of them, at first and after messages were lost. The old contents stay until the
    dump is complete.
    """

    def __init__(self) -> None:
        self._known = _Contents()
        self._next: _Contents | None = None
        self._dumped = Type.GET_LINK
        self._serial = 0
        self._inconsistent = False
        self.readings = 0
        """Number of complete dumps so far."""

    @property
    def reading(self) -> bool:
        """Whether a dump is under way, so that the contents may be outdated."""
        return self._next is not None

    def read_all(self) -> bytes:
        """Start a dump, and return the request to send. A dump under way is repeated when it ends."""
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
        """Apply a message; return the indices of the interfaces that it changed, and a request to send.

        A dump reports no changes: see `readings`.
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
        """Return the state of the interface with this index; None if it does not exist."""
        return self._known.state(index)


class _Contents:
    def __init__(self, moved: Mapping[int, set[int]] = MappingProxyType({})) -> None:
        self.links: dict[int, LinkInfo] = {}
        self.addresses: dict[int, dict[AddressInfo, None]] = {}
        self.vlans: dict[int, dict[int, int]] = {}
        """VLAN ids by the index of the VLAN interface, by the index of the interface below."""
        self.moved = {index: set(vlans) for index, vlans in moved.items()}
        """Ids of VLAN interfaces that moved to another namespace, by the index of the interface below."""

    def apply(self, message: Message) -> set[int]:
        """Apply a message; return the indices of the interfaces that it changed."""
        if message.type in (Type.NEW_LINK, Type.DEL_LINK):
            link = LinkInfo.parse(message.body)
            if link is None:
                return set()
            return self._remove(link) if message.type == Type.DEL_LINK else self._add(link)
        if message.type in (Type.NEW_ADDRESS, Type.DEL_ADDRESS):
            address = AddressInfo.parse(message.body)
            return {address.index} if address and self._address(address, message.type == Type.NEW_ADDRESS) else set()
        return set()

    def _add(self, link: LinkInfo) -> set[int]:
        if link == self.links.get(link.index):
            return set()
        self.links[link.index] = link
        if link.vlan is None:
            return {link.index}
        self.vlans.setdefault(link.lower, {})[link.index] = link.vlan
        return {link.index, link.lower}

    def _remove(self, link: LinkInfo) -> set[int]:
        for rest in (self.links, self.addresses, self.vlans, self.moved):
            rest.pop(link.index, None)
        vlan = self.vlans.get(link.lower, {}).pop(link.index, None)
        if vlan is not None and link.moved:
            self.moved.setdefault(link.lower, set()).add(vlan)
        return {link.index, link.lower}

    def _address(self, address: AddressInfo, new: bool) -> bool:
        """Add or remove an address; return whether that is a change."""
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
