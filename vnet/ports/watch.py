"""The interfaces of a system's ports, followed through renames, moves to other namespaces, and deletion.

Each namespace has one netlink socket for all of its ports. Its messages are parsed; everything is read anew only after
messages were lost. An interface is known by its descriptor, which tells today's name and namespace.
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Protocol

import attrs
import trio

from vnet.background import open_background
from vnet.ports.link_table import InterfaceState, LinkTable
from vnet.ports.netns import run_in_namespace
from vnet.ports.rtnetlink import GROUPS, link_request, messages

__all__ = ["Follower", "Interface", "Watches", "open_watches"]

NETLINK_ROUTE = 0
TUNGETIFF, TUNGETDEVNETNS = 0x800454D2, 0x54E3
SIOCGIFINDEX, SIOCSIFMTU = 0x8933, 0x8922
IFNAME = struct.Struct("16s24x")
IFREQ_NUMBER = struct.Struct("16si20x")
DATAGRAM = 65536
DATAGRAMS_PER_TURN, DATAGRAMS_MAX = 8, 1 << 20
"""Datagrams read before other tasks run: some 200 links of a dump. At most: more than a socket holds."""
REREAD_SECONDS = 0.25
"""Interval at which promiscuity is read: the kernel raises it for a macvlan without a message."""
ATTEMPTS = 10
"""How often an interface is looked for that is renamed or moved meanwhile."""


class Follower(Protocol):
    """What hears of an interface: a port."""

    def interface_changed(self, state: InterfaceState) -> None:
        """The interface is like this now."""

    def interface_gone(self, why: str) -> None:
        """It was deleted."""


class Interface:
    """An interface of /dev/net/tun. Raises OSError once it was deleted, or its descriptor closed."""

    def __init__(self, watches: Watches, fd: int, follower: Follower) -> None:
        """``fd`` is any descriptor of it."""
        self.state: InterfaceState | None = None
        """As far as messages were read."""
        self.rereads = False
        """Whether what the kernel changes without a message matters now."""
        self._watches = watches
        self._fd = fd
        self._follower = follower
        self._watch: NamespaceWatch | None = None
        """That of its namespace; None while it is looked for, and once it is gone."""
        self._index = 0
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

    def lose(self, error: OSError) -> None:
        """It is nowhere."""
        if self._closed:
            return
        self._closed = True
        name = self.state.name if self.state is not None else "an interface"
        deleted = error.errno == errno.EBADFD
        why = f"{name} was deleted" if deleted else f"{name} can't be followed: {error.strerror}"
        self._watches.report(why)
        if deleted:
            self._follower.interface_gone(why)

    def _leave(self) -> None:
        if self._watch is not None:
            del self._watch.interfaces[self._index]
            self._watch = None
            self._watches.close_unused()

    def close(self) -> None:
        """Follow it no more; before its descriptor is closed. Twice is harmless."""
        self._closed = True
        self._leave()


class NamespaceWatch:
    """What netlink tells of one namespace, for all interfaces that are followed there."""

    def __init__(self, found: socket.socket) -> None:
        """``found`` is a netlink socket in that namespace; `close` closes it."""
        self.socket = found
        self.interfaces: dict[int, Interface] = {}
        self._table = LinkTable()
        self._all_read = trio.Event()
        self._send(self._table.read_all())

    async def run(self) -> None:
        """Read messages until closed."""
        while self.socket.fileno() >= 0:
            try:
                await trio.lowlevel.wait_readable(self.socket)
            except trio.ClosedResourceError:
                return
            self.read(DATAGRAMS_PER_TURN)

    async def reread(self) -> None:
        """Read from time to time what the kernel changes without a message, until closed."""
        while self.socket.fileno() >= 0:
            await trio.sleep(REREAD_SECONDS)
            asked = b"".join(link_request(i) for i, interface in self.interfaces.items() if interface.rereads)
            try:
                if asked:
                    await trio.to_thread.run_sync(self.socket.send, asked)  # the kernel may keep it waiting
            except OSError:
                pass  # it was closed meanwhile; or the kernel has no memory now, and is asked again

    async def wait_read(self) -> None:
        """Return once everything in the namespace was read."""
        while not self._table.readings:
            await self._all_read.wait()

    def read(self, limit: int = DATAGRAMS_MAX) -> None:
        """Take in what has arrived, ``limit`` datagrams at most, and tell the interfaces that changed."""
        changed: set[int] = set()
        readings = self._table.readings
        for _ in range(limit):
            try:
                data = self.socket.recv(DATAGRAM)
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    break  # EAGAIN: that was all
                self._send(self._table.read_all())  # messages were lost
                continue
            for message in messages(data):
                indices, request = self._table.apply(message)
                changed |= indices
                self._send(request)
        if self._table.readings > readings:
            self._all_read.set()
            changed = set(self.interfaces)
        for index in changed & self.interfaces.keys():
            self._update(index)

    def _update(self, index: int) -> None:
        """Tell the interface with this index what it is like."""
        interface, state = self.interfaces[index], self._table.state(index)
        if state is not None:
            interface.update(state)
        elif not self._table.reading:
            interface.missing()

    def add(self, index: int, interface: Interface) -> None:
        """Follow the interface with this index, and tell it what it is like."""
        self.interfaces[index] = interface
        self.read()
        if self.interfaces.get(index) is interface:
            self._update(index)

    def _send(self, request: bytes) -> None:
        if request:
            self.socket.send(request)

    def close(self) -> None:
        trio.lowlevel.notify_closing(self.socket)
        self.socket.close()


class Watches:
    """The watches of one system, by namespace. `open_watches` makes them."""

    def __init__(self, nursery: trio.Nursery, report: Callable[[str], None]) -> None:
        self.report = report
        """Takes a line for the user."""
        self._nursery = nursery
        self._by_namespace: dict[tuple[int, int], NamespaceWatch] = {}
        self._lock = trio.Lock()

    async def follow(self, fd: int, follower: Follower) -> Interface:
        """Follow the interface of a descriptor of /dev/net/tun; ``follower`` knows its state at the return.

        Raises OSError.
        """
        interface = Interface(self, fd, follower)
        await self._attach(interface)
        return interface

    def find(self, interface: Interface) -> None:
        """Look for an interface that left its namespace, in a task of its own."""
        self._nursery.start_soon(self._find, interface)

    async def _find(self, interface: Interface) -> None:
        try:
            await self._attach(interface)
        except OSError as error:
            interface.lose(error)

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

    def close(self) -> None:
        for watch in self._by_namespace.values():
            watch.close()
        self._by_namespace.clear()


def open_socket() -> socket.socket:
    """A socket in the calling thread's namespace that gets its changes. Raises OSError."""
    opened = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, NETLINK_ROUTE)
    try:
        opened.bind((0, GROUPS))
    except BaseException:
        opened.close()
        raise
    return opened


@asynccontextmanager
async def open_watches(report: Callable[[str], None] = lambda line: None) -> AsyncIterator[Watches]:
    """Watches for as long as the context lasts; ``report`` takes a line about an interface that is lost."""
    async with open_background() as nursery:
        watches = Watches(nursery, report)
        try:
            yield watches
        finally:
            watches.close()
