"""What an interface wants, as the kernel tells it: its address, its receive modes, the VLANs on top of it."""

from __future__ import annotations

import fcntl
import socket
import struct
from collections.abc import Iterable
from functools import partial
from typing import Any

import trio

from drivers.errors import PortGone
from drivers.ports import PortState
from vnet.ports.netns import find, in_netns

__all__ = ["InterfaceWatch", "read_state", "state_of"]

NETLINK_ROUTE, RTMGRP_LINK = 0, 1
IFF_RUNNING, IFF_ALLMULTI = 0x40, 0x200
SIOCGIFFLAGS = 0x8913
IFREQ = struct.Struct("16sH22x")
CHUNK = 65536
SETTLE = 0.01
"""Seconds between two looks: changes come several at a time."""


class InterfaceWatch:
    """Tells of changes to one interface, from a socket in its namespace."""

    def __init__(self, netns: str | None, ifname: str) -> None:
        """In a thread of that namespace. Raises OSError."""
        self._netns = netns
        self._ifname = ifname
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, NETLINK_ROUTE)
        self._socket.bind((0, RTMGRP_LINK))

    @property
    def running(self) -> bool:
        """Whether the kernel sends through it: some time after its carrier is on, and what came before was dropped."""
        try:
            asked = IFREQ.pack(self._ifname.encode(), 0)
            flags: int = IFREQ.unpack(fcntl.ioctl(self._socket, SIOCGIFFLAGS, asked))[1]
        except (OSError, ValueError):
            return False  # it is gone, or this was closed
        return bool(flags & IFF_RUNNING)

    async def next(self, known: PortState) -> PortState:
        """The state, as soon as it is not ``known`` any more. Raises PortGone."""
        while True:
            try:
                state = await in_netns(self._netns, partial(read_state, self._ifname))
            except OSError as error:
                raise PortGone(f"{self._ifname} is gone: {error.strerror}") from error
            if state != known:
                return state
            try:
                await trio.lowlevel.wait_readable(self._socket)
            except trio.ClosedResourceError:
                raise PortGone(f"{self._ifname} was closed") from None
            await trio.sleep(SETTLE)
            self._drain()

    def _drain(self) -> None:
        """What is said in these messages is read anew anyway: so it does not matter either if some were lost."""
        while True:
            try:
                if not self._socket.recv(CHUNK):
                    return
            except BlockingIOError:
                return
            except OSError:  # ENOBUFS: there were more than the socket holds
                continue

    def close(self) -> None:
        if self._socket.fileno() >= 0:
            trio.lowlevel.notify_closing(self._socket)
            self._socket.close()


def read_state(ifname: str) -> PortState:
    """Of an interface in the calling thread's namespace. Raises OSError."""
    from pyroute2 import IPRoute

    with IPRoute() as netlink:
        index = find(netlink, ifname)
        return state_of(netlink.get_links(), index)


def state_of(links: Iterable[Any], index: int) -> PortState:
    """Of the interface with that index, among all of its namespace as netlink lists them."""
    vlans: set[int] = set()
    state = PortState()
    for link in links:
        if link["index"] == index:
            address = link.get("address")
            state = PortState(
                bytes.fromhex(address.replace(":", "")) if address else None,
                bool(link.get("promiscuity")),
                bool(link["flags"] & IFF_ALLMULTI),
            )
        elif link.get("link") == index and (info := link.get("linkinfo")) is not None and info.get("kind") == "vlan":
            vlans.add(info.get("data").get("vlan_id"))
    return PortState(state.mac, state.promisc, state.allmulti, frozenset(vlans))
