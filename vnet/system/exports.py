"""Devices served to drivers in other processes: each is a vhost-user back end or a PCI function at its own socket."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import attrs
import trio

from drivers.bus.back import VhostBack
from drivers.contracts.events import Reporter, Source
from drivers.errors import TransportLost
from drivers.transports.vhost_user import VhostUserBack
from vnet.ends import DEVICE_TYPES
from vnet.ends.base import End, OpenContext
from vnet.ends.foreign import ForeignEnd
from vnet.host.host import Host
from vnet.linux.background import open_background, start_shielded
from vnet.linux.collector import ignore_existing
from vnet.linux.poller import Poller
from vnet.linux.unix_socket import connect_trusted
from vnet.ports.packet.interface_watch import open_watches
from vnet.system.bring_up import register_device_types, wait_offered
from vnet.system.device import Device
from vnet.system.export_topology import HOST, DeviceExport, export_topology
from vnet.system.function_export import BUS, MEMORY, FunctionExport, make_back
from vnet.system.log import log_events, log_line
from vnet.system.losses import LossWatch
from vnet.system.sessions import DeviceSessions, ExportReport
from vnet.system.world import World
from vnet.vfio_user.server import VfioUserRoot

__all__ = ["DeviceExport", "ExportSystem", "Served", "open_export_system", "open_exports"]

RETRY = 0.5
"""Seconds between two attempts to connect."""


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


@attrs.frozen(eq=False)
class ExportSystem:
    """A running system of served devices."""

    world: World
    served: dict[str, Served]
    """Its devices by name."""


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
    async with open_export_system(exports, allow_unsealed=allow_unsealed, report=report) as system:
        yield system.served


@asynccontextmanager
async def open_export_system(
    exports: Mapping[str, DeviceExport],
    name: str = HOST,
    *,
    allow_unsealed: bool = False,
    report: Callable[[str], None] = log_line,
) -> AsyncIterator[ExportSystem]:
    """Serve these devices during the context, as a system of this name. Arguments and errors as of `open_exports`."""
    world = World(name, export_topology(exports), Poller(moderate=True), allow_unsealed=allow_unsealed)
    async with AsyncExitStack() as stack:
        log = stack.enter_context(log_events(world.events))
        stack.callback(world.poller.close)
        watches = world.watches = await stack.enter_async_context(open_watches(Reporter(world.events, Source())))
        host = Host(HOST, MEMORY, world.events)
        world.hosts[HOST] = host
        stack.callback(host.close)
        served: dict[str, Served] = {}
        starts: list[Callable[[], None]] = []
        for index, (device, spec) in enumerate(world.topology.devices.items()):
            context = OpenContext(name, device, index, spec, ("", ""), world.poller, watches)
            end = await stack.enter_async_context(DEVICE_TYPES[spec.type].open_alone("device", context))
            served[device], start = _place(world, context, exports[device], end, report)
            starts.append(start)
        register_device_types(host.vhost, {one.back.device: one.end.settings for one in served.values()})
        nursery = await stack.enter_async_context(open_background())
        losses = LossWatch(world.events, world.devices, world.ring_looks)
        nursery.start_soon(log.run)
        nursery.start_soon(losses.run)
        # Devices and the poller outlive the last session, also on cancellation.
        scope = trio.CancelScope(shield=True)
        await start_shielded(nursery, _run, scope, world.poller, host)
        stack.callback(scope.cancel)
        for one in served.values():
            host.vhost.register_device(one.back.device)
        await wait_offered((host.vhost, one.back) for one in served.values())
        for one in served.values():
            one.back.bind()
        for link in world.links.values():
            nursery.start_soon(link.run)
        for one in served.values():
            nursery.start_soon(one.back.serve)
        for start in starts:
            start()
        stack.callback(losses.report)
        sessions = await stack.enter_async_context(open_background())
        for one in served.values():
            if one.export.connect:
                await sessions.start(one.dial)
            else:
                await sessions.start(one.listen_or_explain)
        stack.enter_context(ignore_existing())
        yield ExportSystem(world, served)


def _place(
    world: World, context: OpenContext[Any], export: DeviceExport, end: End, report: Callable[[str], None]
) -> tuple[Served, Callable[[], None]]:
    """Make the device half of a served device, and add the device to the system.

    Returns it with the call that lets it appear once it is bound. Raises ConfigError.
    """
    name, spec = context.name, context.spec
    host, lines = world.hosts[HOST], ExportReport(context.name, report, peer=export.peer)
    identity = spec.identity(name, Reporter(world.events, Source(HOST, name, "device")))
    server: FunctionExport | VhostUserBack
    back: VhostBack
    if spec.link is not None:
        root = VfioUserRoot(world.ipc, {0: lines})
        link = world.add_link(spec.link, root.rc)
        world.buses[spec.link] = BUS
        server = FunctionExport(link, host.add_controller(spec.link, link), root)
        back, start = make_back(server, spec, identity)
        memory = server.memory
    else:
        back = server = VhostUserBack(world.ipc, identity, lines)
        memory, start = back.memory, _no_start
    path = str(export.socket)
    driver_end = ForeignEnd(path, export.protocol, lambda: server.connected)
    world.devices[name] = Device(
        name, spec, world.topology.ends(spec), host, host, path, back, driver_end, end, driver_memory=memory
    )
    if world.shuttles is not None:
        world.shuttles.add(world.devices[name])
    return Served(name, export.socket, server, lines, identity.reporter, back, end, export), start


def _no_start() -> None:
    """Do nothing: a back end appears at its socket."""


async def _run(scope: trio.CancelScope, poller: Poller, host: Host, task_status: trio.TaskStatus[None]) -> None:
    with scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(poller.run)
            await nursery.start(host.serve)
            task_status.started()
