"""Functions behind a link served to vfio-user clients: a client of each is its root complex's processor."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import closing
from typing import Protocol

import trio

from drivers.carriers.framing import ProtocolError
from drivers.carriers.server import SessionServer
from drivers.contracts.ipc import FdSocket
from rings.memory import ADDRESS_END
from vnet.link.base import Direction, Link
from vnet.linux.ipc import LocalIpc
from vnet.linux.patience import Patience
from vnet.pcie.function_handle import PciFunctionHandle
from vnet.pcie.interrupts import MSI_SIZE
from vnet.pcie.rc import RootComplex
from vnet.vfio_user.dma import ClientDma
from vnet.vfio_user.function import ClientFunction
from vnet.vfio_user.interrupts import ClientInterrupts
from vnet.vfio_user.memory import ClientMemory
from vnet.vfio_user.messages import Message, SessionState
from vnet.vfio_user.server_channel import ServerChannel
from vnet.vfio_user.session import Doorbell, Session

__all__ = ["ClientReport", "FunctionServer", "VfioUserRoot"]

SETTLE = 1.0
"""Seconds without a message after which changed mappings count, even if more of them could follow."""
MSI_AT = ADDRESS_END - MSI_SIZE
"""Address of the interrupt window on the link. Clients have no memory there."""


class ClientReport(Protocol):
    """Takes what the owner of a function reports to the user."""

    def trouble(self, text: str) -> None:
        """Handle one line for each refused message of a session that continues."""

    def agreed(self) -> None:
        """Handle a client that agreed on a version."""


class FunctionServer(SessionServer):
    """One function for clients: their memory, their interrupts, and their accesses to the function."""

    def __init__(self, root: VfioUserRoot, ipc: LocalIpc, report: ClientReport) -> None:
        super().__init__()
        self._root = root
        self._ipc = ipc
        self._report = report
        self._session: Session | None = None
        self._channel: ServerChannel | None = None
        self.doorbells: Sequence[Doorbell] = ()
        """Registers that the client may write by eventfds, without a message."""
        self.handle: PciFunctionHandle | None = None
        self.memory = ClientMemory(ipc, root.remap, (MSI_AT, ADDRESS_END))

    def replace(self, handle: PciFunctionHandle | None) -> None:
        """Serve another function, or none, to the next client; disconnect the one of the former function."""
        self.handle = handle
        self.disconnect()

    # SessionServer

    @property
    def accepts(self) -> bool:
        return self.handle is not None and self._root.link_is_up

    async def converse(self, socket: FdSocket) -> None:
        assert self.handle is not None  # `accepts`
        interrupts = ClientInterrupts(self._ipc, self.handle, self.memory.flush)
        function = ClientFunction(self.handle, interrupts.program)
        self._session = Session(self._ipc, self.memory, function, interrupts, self.doorbells)
        instant = self._ipc.instant(socket)
        channel = self._channel = ServerChannel(instant, Patience(), self._serve, self._ring, self._root.settle)
        self.memory.dma = ClientDma(channel)
        function.reset()
        with closing(self._ipc.watch_socket(instant, channel.readable.set)):
            await channel.run()

    def _serve(self, message: Message) -> None:
        """Serve a command. Raises ProtocolError if the connection ends after the reply to it."""
        session = self._session
        assert session is not None
        assert self._channel is not None
        self.statistics.messages += 1
        was_new = session.state is SessionState.NEW
        data, handles, refusal = session.serve(message)
        if message.need_reply:
            self._channel.post(data, handles)
        if refusal is None:
            if was_new:
                self._report.agreed()
        elif was_new:
            raise ProtocolError(str(refusal))
        else:
            self._report.trouble(str(refusal))

    def _ring(self, bar: int, offset: int, value: int) -> bool:
        session = self._session
        if session is None or not session.ring(bar, offset, value):
            return False
        self.statistics.messages += 1
        return True

    async def leave(self) -> None:
        session, self._session = self._session, None
        channel, self._channel = self._channel, None
        if channel is not None:
            channel.close()
        if session is not None:
            session.close()
        self.memory.dma = None

    async def accompany(self) -> None:
        assert self.memory.dma is not None  # since `converse` began
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.memory.dma.copies.run)
            nursery.start_soon(self._settle_mappings)

    async def _settle_mappings(self) -> None:
        """Settle changed mappings that no message follows."""
        while True:
            await trio.sleep(SETTLE)
            before = self.statistics.messages
            if self.memory.unsettled:
                await trio.sleep(SETTLE)
                if before == self.statistics.messages:
                    self.memory.settle()

    def link_down(self) -> None:
        """Disconnect a client that takes the end of its connection for that of the link, as ours does."""
        if self._session is not None and self._session.link_events:
            self.disconnect()


class VfioUserRoot:
    """A root complex whose memory, interrupts and accesses are those of vfio-user clients, one for each function.

    Implements `vnet.pcie.rc.PciBusEvents`.
    """

    def __init__(self, ipc: LocalIpc, reports: Mapping[int, ClientReport]) -> None:
        """``reports`` has the report of each function that clients may use."""
        self._link: Link | None = None
        self.servers = {number: FunctionServer(self, ipc, report) for number, report in reports.items()}
        memories = {number: server.memory for number, server in self.servers.items()}
        no_memory = ClientMemory(ipc, self.remap, (MSI_AT, ADDRESS_END))
        self.rc = RootComplex(no_memory, msi=MSI_AT, memories=memories)

    def attach(self, link: Link) -> int:
        """Put ``link`` behind the root complex; return the bus number of its functions."""
        self._link = link
        link.watch(self)
        bus = self.rc.attach(link)
        self.rc.watch(self)
        return bus

    @property
    def link_is_up(self) -> bool:
        return self._link is not None and self._link.up

    def remap(self, addr: int, size: int) -> None:
        """Make the functions' windows show the memory that clients have in that range now."""
        if self._link is not None:
            self._link.remap(Direction.UPSTREAM, addr, size)

    @property
    def settle(self) -> Callable[[], Awaitable[None]] | None:
        """Sleeps until all accesses so far have crossed the link; None if they take no time."""
        link = self._link
        return None if link is None or link.meter(Direction.DOWNSTREAM) is None else link.settle

    # PciBusEvents

    def function_added(self, function: PciFunctionHandle) -> None:
        if function.number in self.servers:
            self.servers[function.number].replace(function)

    def function_removed(self, function: PciFunctionHandle) -> None:
        server = self.servers.get(function.number)
        if server is not None and server.handle is function:
            server.replace(None)

    # LinkEvents

    def link_up(self) -> None:
        """Do nothing: clients connect when they like."""

    def link_down(self) -> None:
        for server in self.servers.values():
            server.link_down()
