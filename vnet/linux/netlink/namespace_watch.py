"""One netlink socket for all interfaces that are followed in a namespace.

Its messages are parsed; everything is read anew only after messages were lost.
"""

from __future__ import annotations

import errno
import socket
from collections import deque
from typing import Protocol

import trio

from vnet.linux.netlink.link_table import InterfaceState, LinkTable
from vnet.linux.netlink.rtnetlink import GROUPS, link_request, messages

__all__ = ["NamespaceWatch", "open_socket"]

NETLINK_ROUTE = 0
DATAGRAM = 65536
DATAGRAMS_PER_TURN, DATAGRAMS_MAX = 8, 1 << 20
"""Datagrams read before other tasks run: some 200 links of a dump. At most: more than a socket holds."""
REREAD_SECONDS = 0.25
"""Interval at which promiscuity is read: the kernel raises it for a macvlan without a message."""


class Watched(Protocol):
    """An interface, as its watch sees it."""

    rereads: bool
    """Whether what the kernel changes without a message matters now."""

    def update(self, state: InterfaceState) -> None:
        """The interface is like this now."""

    def missing(self) -> None:
        """The namespace does not have it any more."""


class NamespaceWatch:
    """What netlink tells of one namespace, for all interfaces that are followed there."""

    def __init__(self, found: socket.socket) -> None:
        """``found`` is a netlink socket in that namespace; `close` closes it."""
        self.socket = found
        self.interfaces: dict[int, Watched] = {}
        self._table = LinkTable()
        self._all_read = trio.Event()
        self._unsent: deque[bytes] = deque()
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
        """Read what the kernel changes without a message, and repeat requests that failed, until closed."""
        while self.socket.fileno() >= 0:
            await trio.sleep(REREAD_SECONDS)
            self._send()
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

    def add(self, index: int, interface: Watched) -> None:
        """Follow the interface with this index, and tell it what it is like."""
        self.interfaces[index] = interface
        self.read()
        if self.interfaces.get(index) is interface:
            self._update(index)

    def _send(self, request: bytes = b"") -> None:
        """Send it, and what could not be sent before."""
        if request:
            self._unsent.append(request)
        try:
            while self._unsent:
                self.socket.send(self._unsent[0])
                self._unsent.popleft()
        except OSError:
            pass  # the kernel has no memory now: `reread` tries again

    def close(self) -> None:
        trio.lowlevel.notify_closing(self.socket)
        self.socket.close()


def open_socket() -> socket.socket:
    """A socket in the calling thread's namespace that gets its changes. Raises OSError."""
    opened = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, NETLINK_ROUTE)
    try:
        opened.bind((0, GROUPS))
    except BaseException:
        opened.close()
        raise
    return opened
