"""A function behind a link served to vfio-user clients, one at a time: the client is its root complex's processor."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Protocol

import trio

from drivers.carriers.framing import ProtocolError, SessionStatistics, receive_message, within
from drivers.contracts.ipc import FdSocket
from drivers.errors import TransportLost
from rings.memory import ADDRESS_END
from vnet.link.base import Direction, Link
from vnet.linux.ipc import LocalIpc
from vnet.pcie.function_handle import PciFunctionHandle
from vnet.pcie.interrupts import MSI_SIZE
from vnet.pcie.rc import RootComplex
from vnet.vfio_user.function import ClientFunction
from vnet.vfio_user.interrupts import ClientInterrupts
from vnet.vfio_user.memory import ClientMemory
from vnet.vfio_user.messages import Assembler, SessionState
from vnet.vfio_user.session import Doorbell, Session

__all__ = ["ClientReport", "VfioUserServer"]

DEADLINE = 5.0
"""Seconds that a client may take to send its first message, to finish a message, and to receive a reply."""
SETTLE = 1.0
"""Seconds without a message after which changed mappings count, even if more of them could follow."""
PEER = "client"
MSI_AT = ADDRESS_END - MSI_SIZE
"""Address of the interrupt window on the link. Clients have no memory there."""


class ClientReport(Protocol):
    """Takes what the owner of a function reports to the user."""

    def trouble(self, text: str) -> None:
        """Handle one line for each refused message of a session that continues."""

    def agreed(self) -> None:
        """Handle a client that agreed on a version."""


class VfioUserServer:
    """The root complex of ``link``, whose memory, interrupts and accesses are those of a vfio-user client.

    It serves function 0. Implements `vnet.pcie.rc.PciBusEvents`.
    """

    def __init__(
        self,
        ipc: LocalIpc,
        link: Link,
        report: ClientReport,
        doorbells: Sequence[Doorbell] = (),
        statistics: SessionStatistics | None = None,
    ) -> None:
        """``doorbells``: registers that the client may write by eventfds, without a message."""
        self.statistics = statistics or SessionStatistics()
        self._ipc = ipc
        self._link = link
        self._report = report
        self._doorbells = doorbells
        self._handle: PciFunctionHandle | None = None
        self._scope: trio.CancelScope | None = None
        self.memory = ClientMemory(ipc, self._remap, (MSI_AT, ADDRESS_END))
        self.rc = RootComplex(self.memory, msi=MSI_AT)
        self.rc.attach(link)
        self.rc.watch(self)

    def _remap(self, addr: int, size: int) -> None:
        self._link.remap(Direction.UPSTREAM, addr, size)

    # PciBusEvents

    def function_added(self, function: PciFunctionHandle) -> None:
        if function.number == 0:
            self._handle = function

    def function_removed(self, function: PciFunctionHandle) -> None:
        """Disconnect the client."""
        if function is self._handle:
            self._handle = None
            if self._scope is not None:
                self._scope.cancel()

    # Connections

    @property
    def connected(self) -> bool:
        return self._scope is not None

    async def serve_connection(self, socket: FdSocket) -> None:
        """Serve a client until it disconnects; refuse it if another is connected, or if there is no function.

        Takes over the socket. Raises ProtocolError or TransportLost if the connection ends in any other way.
        """
        if self._scope is not None or self._handle is None:
            self.statistics.refused += 1
            socket.close()
            return
        self.statistics.sessions += 1
        handle = self._handle
        interrupts = ClientInterrupts(self._ipc, handle)
        function = ClientFunction(handle, interrupts.program)
        session = Session(self._ipc, self.memory, function, interrupts, self._doorbells)
        function.reset()
        assembler = Assembler()
        error: ProtocolError | TransportLost | None = None
        try:
            with trio.CancelScope() as self._scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._settle)
                    try:
                        await self._serve_messages(session, socket, assembler)
                    except (ProtocolError, TransportLost) as exc:
                        error = exc
                    nursery.cancel_scope.cancel()
        finally:
            self._scope = None
            assembler.close()
            session.close()
            handle.watch(None)
            socket.close()
        if error is not None:
            self.statistics.broken += isinstance(error, ProtocolError)
            raise error

    async def _serve_messages(self, session: Session, socket: FdSocket, assembler: Assembler) -> None:
        first = True
        while (message := await receive_message(socket, assembler, DEADLINE, PEER, first=first)) is not None:
            first = False
            self.statistics.messages += 1
            was_new = session.state is SessionState.NEW
            try:
                data, handles, refusal = session.serve(message)
                await self._link.settle()
                if refusal is None and was_new:
                    self._report.agreed()
                elif refusal is not None and not was_new:
                    self._report.trouble(str(refusal))
                if message.need_reply:
                    await within(DEADLINE, PEER, partial(socket.send, data, handles))
            finally:
                message.close()
            if refusal is not None and was_new:
                raise ProtocolError(str(refusal))

    async def _settle(self) -> None:
        """Settle changed mappings that no message follows."""
        while True:
            await trio.sleep(SETTLE)
            before = self.statistics.messages
            if self.memory.unsettled:
                await trio.sleep(SETTLE)
                if before == self.statistics.messages:
                    self.memory.settle()
