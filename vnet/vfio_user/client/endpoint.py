"""The endpoint of a link in other processes: each function is a vfio-user server at its own socket."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterable, Mapping
from contextlib import AsyncExitStack

import trio

from drivers.carriers.framing import ProtocolError
from drivers.contracts.hw import RegisterBlock
from drivers.contracts.ipc import Unusable
from drivers.errors import TransportLost
from vnet.link.base import Direction, Link, Region
from vnet.linux.ipc import LocalIpc
from vnet.linux.memory import HostMemory
from vnet.linux.patience import Patience
from vnet.vfio_user.client.channel import Channel
from vnet.vfio_user.client.function import RemoteFunction
from vnet.vfio_user.client.layout import negotiate
from vnet.vfio_user.payloads import Refused
from vnet.views.link import RemoteView

__all__ = ["RemoteEndpoint"]

RETRY = 0.25
"""Seconds between two attempts to connect."""
Dial = Callable[[], socket.socket]
"""Returns a non-blocking connection to a server. Raises TransportLost."""


class RemoteEndpoint:
    """Implements `vnet.link.base.EndpointPort`. The link is up while all servers are connected.

    Servers access the memory of the root complex's host as they like: it is mapped in their processes. Everything
    else of a server is checked, and an error ends its connection.
    """

    def __init__(
        self,
        link: Link,
        ipc: LocalIpc,
        memory: HostMemory,
        servers: Mapping[int, Dial],
        report: Callable[[str], None],
        patience: Patience | None = None,
    ) -> None:
        """``servers`` connects to the server of each function. ``report`` takes the reason of each link-down."""
        self._link = link
        self._ipc = ipc
        self._memory = memory
        self._servers = servers
        self._report = report
        self._patience = patience or Patience()
        self._functions: dict[int, RemoteFunction] = {}
        self._connections = 0
        self._trouble = "not connected yet"
        link.set_reachable(False)
        link.attach_endpoint(self)
        link.set_present(True)

    async def run(self) -> None:
        """Connect, and connect again after each end of a connection, until cancelled."""
        while True:
            try:
                await self._serve()
            except (ProtocolError, TransportLost, Refused, Unusable) as exc:
                self._trouble = str(exc)
            self._report(self._trouble)
            await trio.sleep(RETRY)
            while not self._patience.recovered:  # noqa: ASYNC110  it is a clock
                await trio.sleep(RETRY)

    def snapshot(self, socket: str) -> RemoteView:
        """Return the state of the connections; ``socket`` is the name of the first function's."""
        return RemoteView(socket, bool(self._functions), self._connections, self._trouble, self._patience.blocked)

    async def _serve(self) -> None:
        async with AsyncExitStack() as stack:
            functions: dict[int, RemoteFunction] = {}
            channels: list[Channel] = []
            for number, dial in self._servers.items():
                channel = Channel(dial(), self._patience)
                channels.append(channel)
                stack.callback(channel.close)
                layout = await negotiate(channel, self._ipc, self._memory)
                function = RemoteFunction(channel, layout, self._ipc, self._memory, self._link, number)
                stack.callback(function.close)
                await function.start()
                functions[number] = function
            self._connections += 1
            self._functions, self._trouble = functions, ""
            try:
                self._link.set_reachable(True)
                await self._watch(channels)
            finally:
                self._functions = {}
                self._link.set_reachable(False)

    async def _watch(self, channels: Iterable[Channel]) -> None:
        """Return when a connection has ended, with the reason as trouble."""

        async def watch(channel: Channel) -> None:
            self._trouble = str(await channel.watch())
            nursery.cancel_scope.cancel()

        async with trio.open_nursery() as nursery:
            for channel in channels:
                nursery.start_soon(watch, channel)

    # EndpointPort

    def config_read(self, function: int, offset: int, size: int) -> int | None:
        remote = self._functions.get(function)
        return None if remote is None else remote.config_read(offset, size)

    def config_write(self, function: int, offset: int, size: int, value: int) -> bool:
        remote = self._functions.get(function)
        return remote is not None and remote.config_write(offset, size, value)

    def mem_read(self, addr: int, size: int, function: int = 0) -> int | None:
        place = self._place(addr, size)
        return None if place is None else place[0].read(place[1], size)

    def mem_write(self, addr: int, size: int, value: int, function: int = 0) -> bool:
        place = self._place(addr, size)
        if place is not None:
            place[0].write(place[1], size, value)
        return place is not None

    def regions(self, addr: int, size: int, function: int = 0) -> Iterable[Region]:
        return ()

    def beyond(self, addr: int, size: int) -> Iterable[tuple[Link, Direction]]:
        return ()

    def link_up(self) -> None:
        """Do nothing: functions were reset when they were connected, or when the link went down."""

    def link_down(self) -> None:
        """Reset the functions that are still connected."""
        for function in self._functions.values():
            function.reset()

    def _place(self, addr: int, size: int) -> tuple[RegisterBlock, int] | None:
        for function in self._functions.values():
            place = function.place(addr, size)
            if place is not None:
                return place
        return None
