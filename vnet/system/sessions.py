"""Sessions with the peers of what is served at a unix socket: one peer at a time."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Protocol

import attrs
import trio

from drivers.bus.back import VhostBack
from drivers.carriers.framing import SessionStatistics
from drivers.contracts.events import FrontEndMoved, Reporter
from drivers.contracts.ipc import FdSocket
from drivers.errors import DriverError
from rings.status import Status
from vnet.ends.base import End
from vnet.errors import ConfigError
from vnet.linux.ipc import UnixSocket
from vnet.linux.unix_socket import Acceptor, listen
from vnet.system.limited import LimitedReport

__all__ = ["DeviceSessions", "ExportReport", "Server", "Sessions"]

BACKLOG = 16
"""Connections that wait to be accepted."""
PEERS_MAX = 8
"""Accepted connections: one that is served, and others that are refused, or wait until it is let go."""
CONNECTED = "a {} is connected"
REFUSED = "another {} connected and was refused"


@attrs.define(eq=False)
class ExportReport(LimitedReport):
    """The lines for the user about a served device. Implements `drivers.transports.vhost_user.back.SessionReport`."""

    peer: str = "front end"
    """The peer's name in lines."""
    failed: bool = False
    """Whether we closed the last session because of an error. The next one is then reported only at DRIVER_OK, because
    a front end may reconnect at once and fail in the same way."""

    def status_changed(self, status: Status) -> None:
        if self.failed and status & Status.DRIVER_OK:
            self.failed = False
            self.say(CONNECTED.format(self.peer))

    def agreed(self) -> None:
        """Implement `vnet.vfio_user.server.ClientReport`: the client may work."""
        if self.failed:
            self.failed = False
            self.say(CONNECTED.format(self.peer))


class Server(Protocol):
    """Serves one peer at a time."""

    statistics: SessionStatistics

    @property
    def connected(self) -> bool: ...

    async def wait_free(self) -> None:
        """Wait until a peer that has hung up is let go."""

    async def serve_connection(self, socket: FdSocket) -> None:
        """Serve a peer until it disconnects; refuse it at once if another is connected. Raises DriverError."""


@attrs.define(eq=False)
class Sessions:
    """Sessions at one socket."""

    name: str
    path: Path
    """Path of the socket."""
    server: Server
    lines: ExportReport
    reporter: Reporter
    """Reporter of the events of what is served."""

    async def converse(self, connected: socket.socket) -> None:
        """Serve one front end until it disconnects or fails. Takes over ``connected``."""
        with closing(UnixSocket(connected)) as ours:
            await self.server.wait_free()
            await self._serve(ours)

    async def _serve(self, ours: FdSocket) -> None:
        first = not self.server.connected
        before = self.carried()
        if first and not self.lines.failed:
            self.lines.say(CONNECTED.format(self.lines.peer))
        if first:
            self.reporter.lifecycle(FrontEndMoved, True, "", self.server.statistics.sessions + 1)
        why = ""
        try:
            await self.server.serve_connection(ours)
        except DriverError as exc:
            self.lines.failed, why = True, str(exc)
            self.lines.trouble(f"the connection was closed: {exc}")
        else:
            if first:
                self.lines.failed = False
                self.lines.say(f"the {self.lines.peer} hung up{self.carried_since(before)}")
            else:
                self.lines.trouble(REFUSED.format(self.lines.peer))
        if first:
            self.reporter.lifecycle(FrontEndMoved, False, why, self.server.statistics.sessions)

    def carried(self) -> list[int]:
        """Return the packets, messages or requests by queue since the start; here there are no queues."""
        return []

    def carried_since(self, before: Sequence[int]) -> str:
        """Return how much the queues carried since ``before``, as the end of a line."""
        return ""

    async def listen(self, task_status: trio.TaskStatus[None]) -> None:
        """Accept front ends at the socket. Raises OSError if another process listens there."""
        with listen(self.path, socket.SOCK_STREAM, BACKLOG) as listening:
            async with trio.open_nursery() as nursery:
                acceptor, places = Acceptor(listening, self._report_refusal), trio.Semaphore(PEERS_MAX)
                task_status.started()
                while True:
                    await places.acquire()
                    nursery.start_soon(self._admit, await acceptor.accept(), places)

    async def _admit(self, client: socket.socket, places: trio.Semaphore) -> None:
        try:
            await self.converse(client)
        finally:
            places.release()

    async def listen_or_explain(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Accept front ends at the socket. Raises ConfigError if it cannot be listened at."""
        try:
            await self.listen(task_status)
        except OSError as exc:
            raise ConfigError("serve", "socket", str(self.path), exc.strerror or str(exc)) from None

    def _report_refusal(self, why: str) -> None:
        self.lines.trouble(f"cannot accept a {self.lines.peer}: {why}")


@attrs.define(eq=False)
class DeviceSessions(Sessions):
    """Sessions of a virtio device."""

    back: VhostBack
    end: End

    def carried(self) -> list[int]:
        return [self.end.figures(queue.index).packets for queue in self.back.device.queues]

    def carried_since(self, before: Sequence[int]) -> str:
        counts = [now - then for now, then in zip(self.carried(), before, strict=True)]
        shown = [f"{queue.name} {count}" for queue, count in zip(self.back.device.queues, counts, strict=True) if count]
        return f"; its queues carried {', '.join(shown) or 'nothing'}"
