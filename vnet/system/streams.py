"""The end of a link in another process, behind a stream."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import cast

import attrs
import trio

from drivers.contracts.events import Events
from vnet.errors import ConfigError
from vnet.host.host import Host
from vnet.link.base import Link
from vnet.pcie.config_space import MemoryBar
from vnet.pcie.epc import EndpointController
from vnet.pcie.function_handle import PciFunctionHandle
from vnet.pcie.rc import RootComplex
from vnet.process_ends import StreamProcess
from vnet.stream.end import StreamEnd
from vnet.stream.far_endpoint import FarEndpoint
from vnet.stream.far_root import FarRoot
from vnet.stream.handshake import Side
from vnet.stream.peer import StreamPeer
from vnet.system.device import Device
from vnet.system.function_export import BUS
from vnet.system.limited import LimitedReport
from vnet.views.link import RemoteView

__all__ = ["StreamRemote"]


@attrs.frozen
class _FarFunction:
    """A function as the other process's root complex has set it up, for names of registers."""

    name: str
    number: int
    bars: tuple[MemoryBar, ...]


class _FarRootComplex(RootComplex):
    """The root complex in another process: this one has no port. The BARs have the addresses that it has given them."""

    def __init__(self, host: Host, controller: Callable[[], EndpointController | None]) -> None:
        super().__init__(host.memory)
        self._controller = controller

    @property
    def functions(self) -> tuple[PciFunctionHandle, ...]:
        controller = self._controller()
        functions = (
            _FarFunction(
                self.function_name(BUS, number),
                number,
                tuple(MemoryBar(bar.bar, bar.address, bar.size) for bar in bars),
            )
            for number, (_, bars) in ({} if controller is None else controller.images()).items()
        )
        return cast("tuple[PciFunctionHandle, ...]", tuple(functions))


class StreamRemote:
    """Implements `vnet.system.remote.Remote`."""

    def __init__(self, name: str, end: StreamProcess, events: Events, report: Callable[[str], None]) -> None:
        self._name = name
        self._end = end
        self._events = events
        self._lines = LimitedReport(name, report)
        self._peer: StreamPeer | None = None

    def attach_root(self, link: Link) -> int:
        """Make the other process the root complex of ``link``; return its bus number."""
        root = FarRoot(link)
        self._join(link, Side.ENDPOINT, root)
        link.attach_root(root)
        return BUS

    def attach_endpoint(self, link: Link, host: Host) -> None:
        """Make the other process the endpoint of ``link``, whose root complex is that of ``host``."""
        endpoint = FarEndpoint(link, host.memory)
        self._join(link, Side.ROOT, endpoint)
        link.attach_endpoint(endpoint)
        link.set_present(True)

    @staticmethod
    def rc(host: Host, name: str) -> RootComplex:
        """Return a stand-in for the other process's root complex, for the names of ``host``'s registers."""
        return _FarRootComplex(host, lambda: host.controllers.get(name))

    def _join(self, link: Link, side: Side, end: StreamEnd) -> None:
        link.set_reachable(False)
        given = self._end
        self._peer = StreamPeer(
            link,
            side,
            end,
            given.identity,
            given.key,
            given.address,
            listens=given.listens,
            report=self._lines.trouble,
            events=self._events,
        )

    async def run(
        self, devices: Iterable[Device], task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Connect or listen until cancelled. Raises ConfigError if the address can't be listened at."""
        assert self._peer is not None
        try:
            await self._peer.run(task_status)
        except OSError as exc:
            why = exc.strerror or str(exc)
            raise ConfigError("command line", "--listen", str(self._end.address), why) from None

    def snapshot(self) -> RemoteView:
        assert self._peer is not None
        return self._peer.snapshot()
