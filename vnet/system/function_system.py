"""An endpoint function served to vfio-user clients, as a system: a link for each socket, and no devices."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import attrs
import trio

from drivers.contracts.events import SILENT
from vnet.functions import FunctionKind
from vnet.host.host import Host
from vnet.linux.background import open_background
from vnet.linux.poller import Poller
from vnet.spec import HostSpec, LinkSpec
from vnet.system.device import Device
from vnet.system.export_topology import CLIENT, HOST, ExportTopology
from vnet.system.function_export import BUS, MEMORY, FunctionExport
from vnet.system.log import log_events, log_line
from vnet.system.sessions import ExportReport, Sessions
from vnet.system.world import World
from vnet.vfio_user.server import VfioUserRoot
from vnet.views.link import RemoteView

__all__ = ["FunctionSystem", "function_topology", "open_function"]


@attrs.frozen(eq=False)
class FunctionSystem:
    """A running system of one function."""

    world: World
    sessions: tuple[Sessions, ...]
    """Clients, by link."""


@attrs.frozen(eq=False)
class _Client:
    """The client of a link. Implements `vnet.system.remote.Remote`."""

    sessions: Sessions

    async def run(
        self, devices: Iterable[Device], task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Listen at the socket until cancelled. Raises ConfigError."""
        await self.sessions.listen_or_explain(task_status)

    def snapshot(self) -> RemoteView:
        server = self.sessions.server
        return RemoteView(str(self.sessions.path), server.connected, server.statistics.sessions, "", 0.0)


def function_topology(name: str, sockets: Sequence[Path]) -> ExportTopology:
    """Return the topology of the system: its links are called as the function, with a number if there are several."""
    names = [name] if len(sockets) == 1 else [f"{name}-link{number}" for number in range(len(sockets))]
    links = {
        link: LinkSpec(CLIENT if not number else f"{CLIENT}{number + 1}", HOST) for number, link in enumerate(names)
    }
    return ExportTopology({HOST: HostSpec(memory=1)}, links, {}, {}, listens=tuple(sockets))


@asynccontextmanager
async def open_function(
    name: str,
    kind: FunctionKind,
    sockets: Sequence[Path],
    system: str = HOST,
    *,
    allow_unsealed: bool = False,
    report: Callable[[str], None] = log_line,
) -> AsyncIterator[FunctionSystem]:
    """Serve an endpoint function during the context, each of its links at a socket, as a system of this name.

    ``report`` takes lines for the user about connections. Raises ConfigError, and what the function's `bind` raises.
    """
    topology = function_topology(name, sockets)
    world = World(system, topology, Poller(moderate=True), allow_unsealed=allow_unsealed)
    async with AsyncExitStack() as stack:
        log = stack.enter_context(log_events(world.events))
        stack.callback(world.poller.close)
        host = world.hosts[HOST] = Host(HOST, MEMORY, world.events)
        stack.callback(host.close)
        exports, clients = [], []
        for number, (link_name, socket) in enumerate(zip(topology.links, sockets, strict=True)):
            lines = ExportReport(name if len(sockets) == 1 else f"{name} link {number}", report, peer="client")
            root = VfioUserRoot(world.ipc, {0: lines})
            link = world.add_link(link_name, root.rc)
            world.buses[link_name] = BUS
            export = FunctionExport(link, host.add_controller(link_name, link), root)
            stack.callback(export.controller.stop)
            exports.append(export)
            client = world.remotes[link_name] = _Client(Sessions(name, socket, export, lines, SILENT))
            clients.append(client)
        function = kind.make(*(export.controller for export in exports))
        function.bind()
        stack.callback(function.unbind)
        nursery = await stack.enter_async_context(open_background())
        nursery.start_soon(log.run)
        nursery.start_soon(world.poller.run)
        nursery.start_soon(function.run)
        for link in world.links.values():
            nursery.start_soon(link.run)
        for export in exports:
            export.start()
        listening = await stack.enter_async_context(open_background())
        for client in clients:
            await listening.start(client.run, ())
        yield FunctionSystem(world, tuple(client.sessions for client in clients))
