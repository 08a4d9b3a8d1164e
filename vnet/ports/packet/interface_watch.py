"""Follows the interfaces of ports through renames, moves to other namespaces, and deletion.

A descriptor of /dev/net/tun identifies an interface: ioctls return its current name and namespace.
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

from drivers.contracts.events import SILENT, PortLost, Reporter
from vnet.linux.background import open_background
from vnet.linux.ethtool import set_link_mode
from vnet.linux.netlink.link_table import InterfaceState
from vnet.linux.netlink.namespace_watch import REREAD_SECONDS, NamespaceWatch, open_socket
from vnet.linux.netns import run_in_namespace
from vnet.linux.threads import run_in_thread, run_in_thread_or_here

__all__ = ["Follower", "Interface", "Watches", "open_watches"]

TUNGETIFF, TUNGETDEVNETNS = 0x800454D2, 0x54E3
SIOCGIFINDEX, SIOCSIFMTU = 0x8933, 0x8922
IFNAME = struct.Struct("16s24x")
IFREQ_NUMBER = struct.Struct("16si20x")
RETRY_SECONDS = 1.0
ATTEMPTS = 10
"""Attempts to find an interface that is renamed or moved at the same time."""


class Follower(Protocol):
    """Receiver of an interface's events: a port."""

    def interface_changed(self, state: InterfaceState) -> None:
        """Handle a new state of the interface."""

    def interface_gone(self, why: str) -> None:
        """Handle the interface's deletion."""


class Interface:
    """An interface of /dev/net/tun. Methods raise OSError after its deletion, or after its descriptor was closed."""

    def __init__(self, watches: Watches, fd: int, follower: Follower, netns: str | None) -> None:
        """``fd`` is any descriptor of the interface, ``netns`` the name of its first namespace."""
        self.state: InterfaceState | None = None
        """State after the last message; None before the first."""
        self.rereads = False
        """Whether to poll for changes that the kernel makes without a message."""
        self._watches = watches
        self._fd = fd
        self._follower = follower
        self._netns = netns
        self._watch: NamespaceWatch | None = None
        """Watch of its namespace; None while the interface is searched, and after its deletion."""
        self._index = 0
        self._link_mode: tuple[int | None, bool | None] | None = None
        self._closed = False

    @property
    def running(self) -> bool:
        return self.state is not None and self.state.running

    def _open_fd(self) -> int:
        """Return the descriptor. Raises OSError if it is closed."""
        if self._closed:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        return self._fd

    def name(self) -> bytes:
        """Return the current name. Raises OSError."""
        ifreq = fcntl.ioctl(self._open_fd(), TUNGETIFF, bytes(IFNAME.size))
        return bytes(IFNAME.unpack(ifreq)[0])

    def namespace(self) -> int:
        """Return a new descriptor of the current namespace. Raises OSError."""
        return fcntl.ioctl(self._open_fd(), TUNGETDEVNETNS)

    def refresh(self) -> None:
        """Update `state` with all changes made before this call."""
        if self._watch is not None:
            self._watch.read()

    def set_mtu(self, mtu: int) -> None:
        """Set the MTU in bytes, without the Ethernet header. Raises OSError."""
        if self._watch is not None and (self.state is None or self.state.mtu != mtu):
            fcntl.ioctl(self._watch.socket, SIOCSIFMTU, IFREQ_NUMBER.pack(self.name(), mtu))

    def set_link_mode(self, speed: int | None, full_duplex: bool | None) -> None:
        """Set speed in Mbit/s and duplex mode; None: unknown. Raises OSError."""
        if self._watch is not None and (speed, full_duplex) != self._link_mode:
            set_link_mode(self._watch.socket.fileno(), self.name(), speed, full_duplex)
            self._link_mode = speed, full_duplex

    def update(self, state: InterfaceState) -> None:
        """Take a state from the watch."""
        if state != self.state and not self._closed:
            self.state = state
            self._follower.interface_changed(state)

    def attach(self, watch: NamespaceWatch) -> None:
        """Attach to ``watch``. Raises OSError (ENODEV) if the interface is not in that namespace."""
        ifreq = IFREQ_NUMBER.pack(self.name(), 0)
        index = int(IFREQ_NUMBER.unpack(fcntl.ioctl(watch.socket, SIOCGIFINDEX, ifreq))[1])
        self._watch, self._index = watch, index
        watch.add(index, self)

    def missing(self) -> None:
        """Search for the interface after it left its namespace by a move or deletion."""
        self._leave()
        if self.state is not None:
            self.update(attrs.evolve(self.state, running=False))
        self._watches.find(self)

    def lose(self) -> None:
        """Report that the interface was deleted."""
        if not self._closed:
            self._closed = True
            name = self.state.name if self.state is not None else "an interface"
            why = f"{name}{f' in {self._netns}' if self._netns is not None else ''} was deleted"
            self._watches.reporter.lifecycle(PortLost, why)
            self._follower.interface_gone(why)

    def _leave(self) -> None:
        if self._watch is not None:
            del self._watch.interfaces[self._index]
            self._watch = None
            self._watches.close_unused()

    def close(self, devices: Iterable[Callable[[], object]] = ()) -> None:
        """Stop following; the watches close ``devices`` later. Calling it twice is harmless."""
        self._closed = True
        self._leave()
        self._watches.discarded.extend(devices)


class Watches:
    """One system's netlink watches, one per namespace. `open_watches` makes them."""

    def __init__(self, nursery: trio.Nursery, reporter: Reporter = SILENT) -> None:
        self.reporter = reporter
        self.discarded: list[Callable[[], object]] = []
        """Functions that close descriptors. Deleting an interface takes the kernel 20 ms, many at once no longer."""
        self._nursery = nursery
        self._by_namespace: dict[tuple[int, int], NamespaceWatch] = {}
        self._lock = trio.Lock()

    @property
    def dumps(self) -> int:
        """Number of times that all interfaces of a namespace were read: once for each, unless messages were lost."""
        return sum(watch.dumps for watch in self._by_namespace.values())

    async def follow(self, fd: int, follower: Follower, netns: str | None) -> Interface:
        """Follow the interface of a descriptor of /dev/net/tun; pass its state to ``follower`` before returning.

        ``netns`` is the name of its first namespace, for messages. Raises OSError.
        """
        interface = Interface(self, fd, follower, netns)
        await self._attach(interface)
        return interface

    def find(self, interface: Interface) -> None:
        """Search for an interface that left its namespace, in a new task."""
        self._nursery.start_soon(self._find, interface)

    async def _find(self, interface: Interface) -> None:
        while True:
            try:
                return await self._attach(interface)
            except OSError as error:
                if error.errno in (errno.EBADFD, errno.EBADF):  # the interface was deleted, or its descriptor closed
                    return interface.lose()
            await trio.sleep(RETRY_SECONDS)  # a temporary error, such as a lack of descriptors

    async def _attach(self, interface: Interface) -> None:
        try:
            async with self._lock:
                for _ in range(ATTEMPTS):
                    watch = await self._watch(interface)
                    await watch.wait_read()
                    try:
                        interface.attach(watch)
                    except OSError as error:
                        if error.errno != errno.ENODEV:
                            raise
                    else:
                        return
                raise OSError(errno.ENODEV, "the interface is renamed or moved again and again")
        finally:
            self.close_unused()

    async def reread(self) -> None:
        """Poll all namespaces for changes that the kernel makes without a message, until cancelled."""
        while True:
            await trio.sleep(REREAD_SECONDS)
            for watch in tuple(self._by_namespace.values()):
                await watch.reread()

    async def _watch(self, interface: Interface) -> NamespaceWatch:
        """Return the watch of the interface's namespace, opened if necessary. Raises OSError."""
        fd = interface.namespace()
        try:
            status = os.fstat(fd)
            key = status.st_dev, status.st_ino
            if key not in self._by_namespace:
                netlink = await run_in_thread(run_in_namespace, fd, open_socket)
                watch = self._by_namespace[key] = NamespaceWatch(netlink)
                self._nursery.start_soon(watch.run)
            return self._by_namespace[key]
        finally:
            os.close(fd)

    def close_unused(self) -> None:
        """Close watches of namespaces without interfaces, because a watch keeps its namespace alive."""
        if not self._lock.locked():  # otherwise a search is under way, which calls this at its end
            for key in [key for key, watch in self._by_namespace.items() if not watch.interfaces]:
                self._by_namespace.pop(key).close()

    async def close(self) -> None:
        """Close all watches and discarded descriptors."""
        for watch in self._by_namespace.values():
            watch.close()
        self._by_namespace.clear()
        await self.close_discarded()

    async def close_discarded(self) -> None:
        """Close the descriptors of ports that were closed, which deletes their interfaces, and return after that."""
        discarded, self.discarded = self.discarded, []
        with trio.CancelScope(shield=True):
            async with trio.open_nursery() as nursery:
                for close in discarded:
                    nursery.start_soon(run_in_thread_or_here, close)


@asynccontextmanager
async def open_watches(reporter: Reporter = SILENT) -> AsyncIterator[Watches]:
    """Open watches for the time of the context; ``reporter`` emits an event for each deleted interface."""
    async with open_background() as nursery:
        watches = Watches(nursery, reporter)
        nursery.start_soon(watches.reread)
        try:
            yield watches
        finally:
            await watches.close()
