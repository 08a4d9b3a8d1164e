"""The interfaces of a system's ports, followed through renames, moves to other namespaces, and deletion.

An interface is known by its descriptor, which tells today's name and namespace.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from typing import Protocol

import attrs
import trio

from vnet.linux.background import open_background
from vnet.linux.ethtool import set_link_mode
from vnet.linux.netlink.link_table import InterfaceState
from vnet.linux.netlink.namespace_watch import NamespaceWatch, open_socket
from vnet.linux.netns import run_in_namespace

__all__ = ["Follower", "Interface", "Watches", "open_watches"]

TUNGETIFF, TUNGETDEVNETNS = 0x800454D2, 0x54E3
SIOCGIFINDEX, SIOCSIFMTU = 0x8933, 0x8922
IFNAME = struct.Struct("16s24x")
IFREQ_NUMBER = struct.Struct("16si20x")
RETRY_SECONDS = 1.0
ATTEMPTS = 10
"""How often an interface is looked for that is renamed or moved meanwhile."""


class Follower(Protocol):
    """What hears of an interface: a port."""

    def interface_changed(self, state: InterfaceState) -> None:
        """The interface is like this now."""

    def interface_gone(self, why: str) -> None:
        """It was deleted."""


class Interface:
    """An interface of /dev/net/tun. Its methods raise OSError once it was deleted, or its descriptor closed."""

    def __init__(self, watches: Watches, fd: int, follower: Follower, netns: str | None) -> None:
        """``fd`` is any descriptor of it, ``netns`` the name of the namespace it was made in."""
        self.state: InterfaceState | None = None
        """As far as messages were read."""
        self.rereads = False
        """Whether what the kernel changes without a message matters now."""
        self._watches = watches
        self._fd = fd
        self._follower = follower
        self._netns = netns
        self._watch: NamespaceWatch | None = None
        """That of its namespace; None while it is looked for, and once it is gone."""
        self._index = 0
        self._link_mode: tuple[int | None, bool | None] | None = None
        self._closed = False

    @property
    def running(self) -> bool:
        return self.state is not None and self.state.running

    def _ask(self, request: int, argument: bytes | int = 0) -> bytes | int:
        """An ioctl of the descriptor, which was perhaps closed in the meantime."""
        if self._closed:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        return fcntl.ioctl(self._fd, request, argument)

    def name(self) -> bytes:
        """Today's. Raises OSError."""
        asked = self._ask(TUNGETIFF, bytes(IFNAME.size))
        assert isinstance(asked, bytes)
        return bytes(IFNAME.unpack(asked)[0])

    def namespace(self) -> int:
        """A new descriptor of today's namespace. Raises OSError."""
        fd = self._ask(TUNGETDEVNETNS)
        assert isinstance(fd, int)
        return fd

    def refresh(self) -> None:
        """Have `state` include everything that was done to the interface before this call."""
        if self._watch is not None:
            self._watch.read()

    def set_mtu(self, mtu: int) -> None:
        """In bytes, without the Ethernet header. Raises OSError."""
        if self._watch is not None and (self.state is None or self.state.mtu != mtu):
            fcntl.ioctl(self._watch.socket, SIOCSIFMTU, IFREQ_NUMBER.pack(self.name(), mtu))

    def set_link_mode(self, speed: int | None, full_duplex: bool | None) -> None:
        """Speed in Mbit/s, and the duplex mode; None: unknown. Raises OSError."""
        if self._watch is not None and (speed, full_duplex) != self._link_mode:
            set_link_mode(self._watch.socket.fileno(), self.name(), speed, full_duplex)
            self._link_mode = speed, full_duplex

    def update(self, state: InterfaceState) -> None:
        """Take in what the watch found."""
        if state != self.state and not self._closed:
            self.state = state
            self._follower.interface_changed(state)

    def join(self, watch: NamespaceWatch) -> None:
        """Be followed by ``watch``. Raises OSError (ENODEV) if it is not in that namespace."""
        asked = IFREQ_NUMBER.pack(self.name(), 0)
        index = int(IFREQ_NUMBER.unpack(fcntl.ioctl(watch.socket, SIOCGIFINDEX, asked))[1])
        self._watch, self._index = watch, index
        watch.add(index, self)

    def missing(self) -> None:
        """It is no longer where it was: it moved, or it was deleted."""
        self._leave()
        if self.state is not None:
            self.state = attrs.evolve(self.state, running=False)
        self._watches.find(self)

    def lose(self) -> None:
        """It was deleted."""
        if not self._closed:
            self._closed = True
            name = self.state.name if self.state is not None else "an interface"
            why = f"{name}{f' in {self._netns}' if self._netns is not None else ''} was deleted"
            self._watches.report(why)
            self._follower.interface_gone(why)

    def _leave(self) -> None:
        if self._watch is not None:
            del self._watch.interfaces[self._index]
            self._watch = None
            self._watches.close_unused()

    def close(self, devices: Iterable[Callable[[], object]] = ()) -> None:
        """Follow it no more, and have its ``devices`` closed when the watches end. Twice is harmless."""
        self._closed = True
        self._leave()
        self._watches.discarded.extend(devices)


class Watches:
    """The watches of one system, by namespace. `open_watches` makes them."""

    def __init__(self, nursery: trio.Nursery, report: Callable[[str], None]) -> None:
        self.report = report
        """Takes a line for the user."""
        self.discarded: list[Callable[[], object]] = []
        """Close descriptors of /dev/net/tun. The kernel takes some 20 ms for each interface, or for many at a time."""
        self._nursery = nursery
        self._by_namespace: dict[tuple[int, int], NamespaceWatch] = {}
        self._lock = trio.Lock()

    async def follow(self, fd: int, follower: Follower, netns: str | None) -> Interface:
        """Follow the interface of a descriptor of /dev/net/tun; ``follower`` knows its state at the return.

        ``netns`` is the name of the namespace it was made in, for messages.

        Raises OSError.
        """
        interface = Interface(self, fd, follower, netns)
        await self._attach(interface)
        return interface

    def find(self, interface: Interface) -> None:
        """Look for an interface that left its namespace, in a task of its own."""
        self._nursery.start_soon(self._find, interface)

    async def _find(self, interface: Interface) -> None:
        while True:
            try:
                return await self._attach(interface)
            except OSError as error:
                if error.errno in (errno.EBADFD, errno.EBADF):  # it was deleted, or its descriptor closed
                    return interface.lose()
            await trio.sleep(RETRY_SECONDS)  # there is no descriptor left, say

    async def _attach(self, interface: Interface) -> None:
        try:
            async with self._lock:
                for _ in range(ATTEMPTS):
                    watch = await self._watch(interface)
                    await watch.wait_read()
                    try:
                        interface.join(watch)
                    except OSError as error:
                        if error.errno != errno.ENODEV:
                            raise
                    else:
                        return
                raise OSError(errno.ENODEV, "it is renamed or moved again and again")
        finally:
            self.close_unused()

    async def _watch(self, interface: Interface) -> NamespaceWatch:
        """That of the interface's namespace, opened if need be. Raises OSError."""
        fd = interface.namespace()
        try:
            status = os.fstat(fd)
            key = status.st_dev, status.st_ino
            if key not in self._by_namespace:
                found = await trio.to_thread.run_sync(run_in_namespace, fd, open_socket)
                watch = self._by_namespace[key] = NamespaceWatch(found)
                self._nursery.start_soon(watch.run)
                self._nursery.start_soon(watch.reread)
            return self._by_namespace[key]
        finally:
            os.close(fd)

    def close_unused(self) -> None:
        """Close the watches of namespaces without interfaces, which would keep the namespaces alive."""
        if not self._lock.locked():  # else it is done at the end of that search
            for key in [key for key, watch in self._by_namespace.items() if not watch.interfaces]:
                self._by_namespace.pop(key).close()

    async def close(self) -> None:
        """Return when all descriptors are closed."""
        for watch in self._by_namespace.values():
            watch.close()
        self._by_namespace.clear()
        with trio.CancelScope(shield=True):
            async with trio.open_nursery() as nursery:
                for close in self.discarded:
                    nursery.start_soon(trio.to_thread.run_sync, close)


@asynccontextmanager
async def open_watches(report: Callable[[str], None] = lambda line: None) -> AsyncIterator[Watches]:
    """Watches for as long as the context lasts; ``report`` takes a line about an interface that is lost."""
    async with open_background() as nursery:
        watches = Watches(nursery, report)
        try:
            yield watches
        finally:
            await watches.close()
