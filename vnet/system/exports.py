"""Devices served to drivers in other processes: each is a vhost-user back end or a PCI function at its own socket."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Protocol

import attrs
import trio

from drivers.bus.back import VhostBack
from drivers.bus.vhost import VhostBus
from drivers.carriers.framing import SessionStatistics
from drivers.contracts.events import Reporter, Source
from drivers.contracts.ipc import FdSocket
from drivers.errors import DriverError, TransportLost
from drivers.transports.vhost_user import VhostUserBack
from rings.status import Status
from vnet.ends import DEVICE_TYPES
from vnet.ends.base import End, OpenContext
from vnet.errors import ConfigError
from vnet.linux.background import open_background
from vnet.linux.collector import ignore_existing
from vnet.linux.ipc import LocalIpc, UnixSocket
from vnet.linux.poller import Poller
from vnet.linux.unix_socket import accept, connect_trusted, listen
from vnet.ports.packet.interface_watch import open_watches
from vnet.spec import DeviceSpec
from vnet.system.bring_up import bring_up, register_device_types
from vnet.system.events import EventHub
from vnet.system.function_export import FunctionExport
from vnet.system.limited import LimitedReport
from vnet.system.log import log_events, log_line

__all__ = ["DeviceExport", "Served", "open_exports"]

BACKLOG = 16
"""Connections that wait to be accepted."""
RETRY = 0.5
"""Seconds between two attempts to connect."""
CONNECTED = "a {} is connected"
REFUSED = "another {} connected and was refused"


@attrs.frozen
class DeviceExport:
    """A device to serve."""

    spec: DeviceSpec
    socket: Path
    """Path of the unix socket."""
    connect: bool = False
    """Whether the front end listens at the socket and we connect to it, again and again."""
    peer_uid: int | None = None
    """With ``connect``: user id, besides our own and root, whose front end may listen there."""
    vfio_user: bool = False
    """Whether the device is a PCI function for vfio-user clients, instead of a vhost-user back end."""


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

    async def serve_connection(self, socket: FdSocket) -> None:
        """Serve a peer until it disconnects; refuse it at once if another is connected. Raises DriverError."""


@attrs.define(eq=False)
class Served:
    """A served device."""

    name: str
    export: DeviceExport
    back: VhostBack
    server: Server
    end: End
    lines: ExportReport

    async def converse(self, connected: socket.socket) -> None:
        """Serve one front end until it disconnects or fails."""
        first = not self.server.connected
        before = self._carried()
        if first and not self.lines.failed:
            self.lines.say(CONNECTED.format(self.lines.peer))
        try:
            await self.server.serve_connection(UnixSocket(connected))
        except DriverError as exc:
            self.lines.failed = True
            self.lines.trouble(f"the connection was closed: {exc}")
        else:
            if first:
                self.lines.failed = False
                self.lines.say(f"the {self.lines.peer} hung up; {self._carried_since(before)}")
            else:
                self.lines.trouble(REFUSED.format(self.lines.peer))

    def _carried(self) -> list[int]:
        """Return the packets, messages or requests by queue since the device exists."""
        return [self.end.figures(queue.index).packets for queue in self.back.device.queues]

    def _carried_since(self, before: Sequence[int]) -> str:
        """Return how much the queues carried since ``before``, as text."""
        counts = [now - then for now, then in zip(self._carried(), before, strict=True)]
        shown = [f"{queue.name} {count}" for queue, count in zip(self.back.device.queues, counts, strict=True) if count]
        return f"its queues carried {', '.join(shown) or 'nothing'}"

    async def listen(self, task_status: trio.TaskStatus[None]) -> None:
        """Accept front ends at the socket. Raises OSError if another process listens there."""
        with listen(self.export.socket, socket.SOCK_STREAM, BACKLOG) as listening:
            async with trio.open_nursery() as nursery:
                task_status.started()
                while True:
                    client = await accept(listening, self._report_refusal)
                    nursery.start_soon(self.converse, client)

    def _report_refusal(self, why: str) -> None:
        self.lines.trouble(f"cannot accept a {self.lines.peer}: {why}")

    async def dial(self, task_status: trio.TaskStatus[None]) -> None:
        """Connect to the front end at the socket, and again after each session."""
        task_status.started()
        while True:
            try:
                connected = connect_trusted(self.export.socket, self.export.peer_uid, "--peer-uid {}")
            except TransportLost as exc:
                self.lines.trouble(str(exc))
            except OSError:
                pass  # the front end does not listen yet, or its backlog is full
            else:
                await self.converse(connected)
            await trio.sleep(RETRY)


@asynccontextmanager
async def open_exports(
    exports: Mapping[str, DeviceExport],
    *,
    allow_unsealed: bool = False,
    report: Callable[[str], None] = log_line,
) -> AsyncIterator[dict[str, Served]]:
    """Serve these devices, by name, during the context.

    ``report`` takes lines for the user about connections. Raises ConfigError, PrivilegeError, DriverError.
    """
    poller = Poller(moderate=True)
    async with AsyncExitStack() as stack:
        hub = EventHub()
        log = stack.enter_context(log_events(hub))
        stack.callback(poller.close)
        watches = await stack.enter_async_context(open_watches(Reporter(hub, Source())))
        ipc = LocalIpc(poller, allow_unsealed=allow_unsealed)
        served: dict[str, Served] = {}
        functions: list[FunctionExport] = []
        for index, (name, export) in enumerate(exports.items()):
            spec = export.spec
            context = OpenContext("serve", name, index, spec, ("", ""), poller, watches)
            end = await stack.enter_async_context(DEVICE_TYPES[spec.type].open_alone("device", context))
            lines = ExportReport(name, report, peer="client" if export.vfio_user else "front end")
            identity = spec.identity(name, Reporter(hub, Source("", name, "device")))
            if export.vfio_user:
                function = FunctionExport(name, ipc, identity, lines)
                functions.append(function)
                served[name] = Served(name, export, function.back, function, end, lines)
            else:
                back = VhostUserBack(ipc, identity, lines)
                served[name] = Served(name, export, back, back, end, lines)
        bus = VhostBus()
        register_device_types(bus, {device.back.device: device.end.settings for device in served.values()})
        nursery = await stack.enter_async_context(open_background())
        nursery.start_soon(log.run)
        # Devices and the poller outlive the last session, also on cancellation.
        scope = trio.CancelScope(shield=True)
        await nursery.start(_run, scope, poller, bus)
        stack.callback(scope.cancel)
        await bring_up((bus, device.back) for device in served.values())
        for function in functions:
            function.start()
        sessions = await stack.enter_async_context(open_background())
        for device in served.values():
            serve = device.dial if device.export.connect else device.listen
            try:
                await sessions.start(serve)
            except OSError as exc:
                raise ConfigError("serve", "socket", str(device.export.socket), exc.strerror or str(exc)) from None
        stack.enter_context(ignore_existing())
        yield served


async def _run(scope: trio.CancelScope, poller: Poller, bus: VhostBus, task_status: trio.TaskStatus[None]) -> None:
    with scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(poller.run)
            await nursery.start(bus.serve)
            task_status.started()
