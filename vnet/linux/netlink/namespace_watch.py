"""One netlink socket for all watched interfaces of a namespace.

It keeps a table up to date from messages, and dumps all interfaces only after messages were lost.
"""

from __future__ import annotations

import errno
import socket
from collections import deque
from typing import Protocol

import trio

from vnet.linux.netlink.link_table import InterfaceState, LinkTable
from vnet.linux.netlink.rtnetlink import GROUPS, link_request, messages
from vnet.linux.threads import run_in_thread
from vnet.linux.waits import wait_readable

__all__ = ["REREAD_SECONDS", "NamespaceWatch", "open_socket"]

NETLINK_ROUTE = 0
DATAGRAM = 65536
DATAGRAMS_PER_TURN = 8
"""Datagrams read before other tasks run: some 200 links of a dump."""
DATAGRAMS_MAX = 1 << 20
"""Datagrams read without a limit: more than a socket holds."""
REREAD_SECONDS = 0.25
"""Interval at which promiscuity is read, because the kernel raises it for a macvlan without a message."""


class WatchedInterface(Protocol):
    """Receiver of one interface's changes."""

    rereads: bool
    """Whether to poll the interface for changes that the kernel makes without a message."""

    def update(self, state: InterfaceState) -> None:
        """Handle a new state of the interface."""

    def missing(self) -> None:
        """Handle the interface's removal from the namespace."""


class NamespaceWatch:
    """Netlink messages of one namespace, passed on to its watched interfaces."""

    def __init__(self, netlink: socket.socket) -> None:
        """``netlink`` is a netlink socket in that namespace; `close` closes it."""
        self.socket = netlink
        self.interfaces: dict[int, WatchedInterface] = {}
        self._table = LinkTable()
        self._all_read = trio.Event()
        self._unsent: deque[bytes] = deque()
        self._send(self._table.read_all())

    @property
    def dumps(self) -> int:
        """Number of complete dumps of the namespace."""
        return self._table.readings

    async def run(self) -> None:
        """Read messages until closed."""
        while self.socket.fileno() >= 0:
            try:
                await wait_readable(self.socket)
            except trio.ClosedResourceError:
                return
            self.read(DATAGRAMS_PER_TURN)

    async def reread(self) -> None:
        """Ask for changes that the kernel makes without a message, and repeat failed requests."""
        self._send()
        requests = b"".join(link_request(i) for i, interface in self.interfaces.items() if interface.rereads)
        try:
            if requests:
                await run_in_thread(self.socket.send, requests)  # may block in the kernel
        except OSError:
            pass  # the socket was closed, or the kernel lacks memory: the next round tries again

    async def wait_read(self) -> None:
        """Wait for the first complete dump of the namespace."""
        while not self._table.readings:
            await self._all_read.wait()

    def read(self, limit: int = DATAGRAMS_MAX) -> None:
        """Apply up to ``limit`` datagrams that have arrived, and update the interfaces that changed."""
        changed: set[int] = set()
        readings = self._table.readings
        for _ in range(limit):
            try:
                data = self.socket.recv(DATAGRAM)
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    break  # EAGAIN: no more datagrams
                self._send(self._table.read_all())  # ENOBUFS: messages were lost
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
        """Pass its current state to the interface with this index."""
        interface, state = self.interfaces[index], self._table.state(index)
        if state is not None:
            interface.update(state)
        elif not self._table.reading:
            interface.missing()

    def add(self, index: int, interface: WatchedInterface) -> None:
        """Watch the interface with this index, and pass its current state to it."""
        self.interfaces[index] = interface
        self.read()
        if self.interfaces.get(index) is interface:
            self._update(index)

    def _send(self, request: bytes = b"") -> None:
        """Send ``request`` after all requests that could not be sent before."""
        if request:
            self._unsent.append(request)
        try:
            while self._unsent:
                self.socket.send(self._unsent[0])
                self._unsent.popleft()
        except OSError:
            pass  # the kernel lacks memory: `reread` tries again

    def close(self) -> None:
        trio.lowlevel.notify_closing(self.socket)
        self.socket.close()


def open_socket() -> socket.socket:
    """Return a socket that receives the changes of the calling thread's namespace. Raises OSError."""
    opened = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, NETLINK_ROUTE)
    try:
        opened.bind((0, GROUPS))
    except BaseException:
        opened.close()
        raise
    return opened
