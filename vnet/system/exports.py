"""Devices served to drivers in other processes: each is a vhost-user back end or a PCI function at its own socket."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import attrs
import trio

from drivers.bus.back import VhostBack
from drivers.bus.vhost import VhostBus
from drivers.contracts.events import Reporter, Source
from drivers.errors import TransportLost
from drivers.transports.vhost_user import VhostUserBack
from vnet.ends import DEVICE_TYPES
from vnet.ends.base import OpenContext
from vnet.errors import ConfigError
from vnet.functions import FunctionKind
from vnet.linux.background import open_background
from vnet.linux.collector import ignore_existing
from vnet.linux.ipc import LocalIpc
from vnet.linux.poller import Poller
from vnet.linux.unix_socket import connect_trusted
from vnet.ports.packet.interface_watch import open_watches
from vnet.spec import DeviceSpec
from vnet.system.bring_up import bring_up, register_device_types
from vnet.system.events import EventHub
from vnet.system.function_export import FunctionExport, make_back
from vnet.system.log import log_events, log_line
from vnet.system.sessions import DeviceSessions, ExportReport, Server, Sessions

__all__ = ["DeviceExport", "Served", "open_exports", "open_function"]

RETRY = 0.5
"""Seconds between two attempts to connect."""


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
class Served(DeviceSessions):
    """A served device."""

    export: DeviceExport

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
        starts: list[Callable[[], None]] = []
        for index, (name, export) in enumerate(exports.items()):
            spec = export.spec
            context = OpenContext("serve", name, index, spec, ("", ""), poller, watches)
            end = await stack.enter_async_context(DEVICE_TYPES[spec.type].open_alone("device", context))
            lines = ExportReport(name, report, peer="client" if export.vfio_user else "front end")
            server: Server
            identity = spec.identity(name, Reporter(hub, Source("", name, "device")))
            back: VhostBack
            if export.vfio_user:
                server = function = FunctionExport(name, ipc, lines)
                stack.callback(function.close)
                back, start = make_back(function, spec, identity)
                starts.append(start)
            else:
                server = back = VhostUserBack(ipc, identity, lines)
            served[name] = Served(name, export.socket, server, lines, back, end, export)
        bus = VhostBus()
        register_device_types(bus, {device.back.device: device.end.settings for device in served.values()})
        nursery = await stack.enter_async_context(open_background())
        nursery.start_soon(log.run)
        # Devices and the poller outlive the last session, also on cancellation.
        scope = trio.CancelScope(shield=True)
        await nursery.start(_run, scope, poller, bus)
        stack.callback(scope.cancel)
        await bring_up((bus, device.back) for device in served.values())
        for device in served.values():
            nursery.start_soon(device.back.serve)
        for start in starts:
            start()
        sessions = await stack.enter_async_context(open_background())
        for device in served.values():
            if device.export.connect:
                await sessions.start(device.dial)
            else:
                await _start(sessions, device)
        stack.enter_context(ignore_existing())
        yield served


@asynccontextmanager
async def open_function(
    name: str,
    kind: FunctionKind,
    sockets: Sequence[Path],
    *,
    allow_unsealed: bool = False,
    report: Callable[[str], None] = log_line,
) -> AsyncIterator[tuple[Sessions, ...]]:
    """Serve an endpoint function during the context, each of its links at a socket.

    ``report`` takes lines for the user about connections. Raises ConfigError, and what the function's `bind` raises.
    """
    poller = Poller(moderate=True)
    async with AsyncExitStack() as stack:
        stack.callback(poller.close)
        ipc = LocalIpc(poller, allow_unsealed=allow_unsealed)
        exports, served = [], []
        for number, socket in enumerate(sockets):
            lines = ExportReport(name if len(sockets) == 1 else f"{name} link {number}", report, peer="client")
            export = FunctionExport(name, ipc, lines)
            stack.callback(export.close)
            exports.append(export)
            served.append(Sessions(name, socket, export, lines))
        function = kind.make(*(export.controller for export in exports))
        function.bind()
        stack.callback(function.unbind)
        nursery = await stack.enter_async_context(open_background())
        nursery.start_soon(poller.run)
        nursery.start_soon(function.run)
        for export in exports:
            export.start()
        sessions = await stack.enter_async_context(open_background())
        for each in served:
            await _start(sessions, each)
        yield tuple(served)


async def _start(nursery: trio.Nursery, sessions: Sessions) -> None:
    """Listen at the socket from now on. Raises ConfigError."""
    try:
        await nursery.start(sessions.listen)
    except OSError as exc:
        raise ConfigError("serve", "socket", str(sessions.path), exc.strerror or str(exc)) from None


async def _run(scope: trio.CancelScope, poller: Poller, bus: VhostBus, task_status: trio.TaskStatus[None]) -> None:
    with scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(poller.run)
            await nursery.start(bus.serve)
            task_status.started()
