"""Ends of links in other processes: clients at sockets of ours, and servers that we connect to."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Protocol

import trio

from drivers.contracts.events import SILENT
from vnet.errors import ConfigError
from vnet.host.host import Host
from vnet.link.base import Link
from vnet.linux.ipc import LocalIpc
from vnet.linux.unix_socket import connect_or_explain
from vnet.pcie.rc import RootComplex
from vnet.process_ends import RemoteEnd, function_socket
from vnet.system.device import Device
from vnet.system.function_export import doorbells
from vnet.system.limited import LimitedReport
from vnet.system.sessions import DeviceSessions, ExportReport, Sessions
from vnet.topology import Topology
from vnet.transports import TRANSPORTS
from vnet.vfio_user.client.endpoint import RemoteEndpoint
from vnet.vfio_user.server import VfioUserRoot
from vnet.views.link import RemoteView

__all__ = ["Remote", "RemoteRoot", "RemoteServers"]


class Remote(Protocol):
    """The other process at one end of a link."""

    async def run(self, devices: Iterable[Device], task_status: trio.TaskStatus[None]) -> None:
        """Keep the connections until cancelled; the system's ``devices`` are bound. Raises ConfigError."""

    def snapshot(self) -> RemoteView: ...


class RemoteRoot:
    """The clients that are a link's root complex: one at the socket of each function."""

    def __init__(
        self, ipc: LocalIpc, link: str, end: RemoteEnd, topology: Topology, report: Callable[[str], None]
    ) -> None:
        self._link = link
        self._end = end
        self._numbers = topology.functions(link)
        self._lines = {number: self._report_of(topology, number, report) for number in self._numbers}
        self._root = VfioUserRoot(ipc, self._lines)

    def _report_of(self, topology: Topology, number: int, report: Callable[[str], None]) -> ExportReport:
        carried = topology.carried(self._link, number)
        name = f"{self._link} function {number}" if carried is None else carried[0]
        return ExportReport(name, report, peer="client")

    @property
    def rc(self) -> RootComplex:
        return self._root.rc

    def attach(self, link: Link) -> int:
        """Put ``link`` behind the clients' root complex; return its bus number."""
        return self._root.attach(link)

    async def run(
        self, devices: Iterable[Device], task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Listen at the sockets until cancelled; the system's ``devices`` are bound. Raises ConfigError."""
        ours = {device.spec.function: device for device in devices if device.spec.link == self._link}
        async with trio.open_nursery() as nursery:
            for number in self._numbers:
                server, lines, device = self._root.servers[number], self._lines[number], ours.get(number)
                path = Path(function_socket(self._end.vfio_user, number))
                if device is not None and device.back is not None:
                    server.doorbells = doorbells(TRANSPORTS[device.spec.transport], len(device.back.device.queues))
                    sessions: Sessions = DeviceSessions(
                        lines.name, path, server, lines, device.vhost.reporter, device.back, device.device_end
                    )
                else:
                    sessions = Sessions(lines.name, path, server, lines, SILENT)
                try:
                    await nursery.start(sessions.listen)
                except OSError as exc:
                    why = exc.strerror or str(exc)
                    raise ConfigError("topology", f"links.{self._link}.root.vfio_user", str(path), why) from None
            task_status.started()

    def snapshot(self) -> RemoteView:
        servers = self._root.servers.values()
        sessions = sum(server.statistics.sessions for server in servers)
        return RemoteView(self._end.vfio_user, any(server.connected for server in servers), sessions, "", 0.0)


class RemoteServers:
    """The servers that are a link's endpoint: one at the socket of each function."""

    def __init__(
        self,
        ipc: LocalIpc,
        name: str,
        end: RemoteEnd,
        topology: Topology,
        host: Host,
        link: Link,
        report: Callable[[str], None],
    ) -> None:
        allow = f"links.{name}.endpoint.peer_uid = {{}}"
        servers = {
            number: partial(connect_or_explain, Path(function_socket(end.vfio_user, number)), end.peer_uid, allow)
            for number in topology.functions(name)
        }
        lines = LimitedReport(name, report)
        self._end = end
        self._endpoint = RemoteEndpoint(link, ipc, host.memory, servers, lines.trouble)

    async def run(
        self, devices: Iterable[Device], task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Connect, and connect again, until cancelled."""
        task_status.started()
        await self._endpoint.run()

    def snapshot(self) -> RemoteView:
        return self._endpoint.snapshot(self._end.vfio_user)
