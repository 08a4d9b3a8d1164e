"""The device's half: a virtio device that serves one connected front end at a time."""

from __future__ import annotations

from functools import partial
from typing import Protocol

import trio

from drivers.bus.back import Identity
from drivers.bus.vhost import DeviceQueue
from drivers.carriers.framing import ProtocolError, receive_message, within
from drivers.carriers.server import SessionServer
from drivers.carriers.vhost_user import SocketBack
from drivers.contracts.ipc import FdSocket, Handle, Ipc, Notifier
from drivers.errors import TransportLost
from drivers.transports.vhost_user.constants import BackendRequest, ProtocolFeature
from drivers.transports.vhost_user.messages import FRONTEND_MESSAGES, HEADER_SIZE, Assembler, emit, request_name
from drivers.transports.vhost_user.session import Session
from rings.memory import MappedMemory, Memory
from rings.status import Status

__all__ = ["SessionReport", "VhostUserBack"]

PEER = "front end"
DEADLINE = 5.0
"""Seconds that a front end may take to send its first message, to finish a message, and to receive a reply."""


class SessionReport(Protocol):
    """Takes what the owner of a device reports to the user."""

    def trouble(self, text: str) -> None:
        """Handle one line for each refused message of a session that continues."""

    def status_changed(self, status: Status) -> None:
        """Handle a new device status."""


class VhostUserBack(SessionServer, SocketBack):
    """A device that serves front ends at sockets that the caller accepts."""

    def __init__(self, ipc: Ipc, identity: Identity, report: SessionReport | None = None) -> None:
        SocketBack.__init__(self, identity)
        SessionServer.__init__(self)
        self._report = report
        self._ipc = ipc
        self._session: Session | None = None
        self._bound = False
        self._config_changed = trio.Event()
        self._no_memory = MappedMemory(ipc.fence)

    # VhostBack

    def bind(self) -> None:
        """Serve front ends from now on."""
        self._bound = True

    def unbind(self) -> None:
        """Serve no more front ends, and disconnect the current one."""
        self._bound = False
        self.disconnect()

    # VhostOps

    def memory(self) -> Memory:
        return self._session.rings.ring_memory if self._session is not None else self._no_memory

    def call(self, queue: DeviceQueue) -> None:
        if self._session is not None:
            call = self._session.rings[queue.index].call
            if call is not None:
                call.notify()

    def doorbells(self, queue: DeviceQueue) -> tuple[Handle, Notifier] | None:
        """Return the events of a queue by which the driver kicks and the device calls; None without both."""
        if self._session is None:
            return None
        ring = self._session.rings[queue.index]
        return None if ring.kick is None or ring.call is None else (ring.kick, ring.call)

    def config_changed(self) -> None:
        """Notify the front end of a configuration change; without a channel it sees the change on its next read."""
        self._config_changed.set()
        if self._session is not None and self.device.status & Status.NEEDS_RESET:
            for queue in self.device.queues:
                err = self._session.rings[queue.index].err
                if err is not None and queue.ring is not None and queue.ring.broken:
                    err.notify()

    def status_changed(self, status: Status) -> None:
        if self._report is not None:
            self._report.status_changed(status)

    def changed(self) -> None:
        """Disconnect the front end if the vhost driver is gone."""
        if not self.device.ready.is_set():
            self.disconnect()

    def _tell(self, trouble: str) -> None:
        if self._report is not None:
            self._report.trouble(trouble)

    # Connections

    @property
    def accepts(self) -> bool:
        return self._bound

    async def converse(self, socket: FdSocket) -> None:
        session = self._session = Session(self.device, self._ipc, self._tell)
        assembler = Assembler(FRONTEND_MESSAGES)
        try:
            await self._serve_messages(session, socket, assembler)
        finally:
            assembler.close()

    async def leave(self) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def _serve_messages(self, session: Session, socket: FdSocket, assembler: Assembler) -> None:
        greeted = False
        while (message := await receive_message(socket, assembler, DEADLINE, PEER, first=not greeted)) is not None:
            greeted = True
            self.statistics.messages += 1
            name, reporter = request_name(message.request), self.device.reporter
            reporter.message(False, name, len(message.body), len(message.handles))
            handles_sent: tuple[Handle, ...] = ()
            try:
                await trio.lowlevel.checkpoint_if_cancelled()  # the device may be gone since the message arrived
                answer = await session.serve(message)
                if answer is not None:
                    body, handles_sent = answer[0], tuple(answer[1])
                    await within(DEADLINE, PEER, partial(socket.send, body, handles_sent))
                    reporter.message(True, name, len(body) - HEADER_SIZE, len(handles_sent))
            finally:
                message.close()
                for handle in handles_sent:
                    handle.close()

    async def accompany(self) -> None:
        """Send configuration change messages; changes before a send coalesce."""
        while True:
            await self._config_changed.wait()
            self._config_changed = trio.Event()
            session = self._session
            if session is not None and session.channel is not None and session.negotiated(ProtocolFeature.CONFIG):
                try:
                    await within(DEADLINE, PEER, partial(session.channel.send, emit(BackendRequest.CONFIG_CHANGE_MSG)))
                except (ProtocolError, TransportLost):
                    session.channel.close()  # the front end does not read it
                    session.channel = None
