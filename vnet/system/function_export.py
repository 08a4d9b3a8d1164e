"""A virtio-pci function served to vfio-user clients: an endpoint controller, a link, and the client's root complex."""

from __future__ import annotations

from drivers.bus.back import Identity
from drivers.carriers.framing import SessionStatistics
from drivers.contracts.ipc import FdSocket
from drivers.transports.pci import PCI, VirtioEpf
from vnet.link.ideal import IdealLink
from vnet.linux.ipc import LocalIpc
from vnet.pcie.epc import EndpointController
from vnet.vfio_user.server import ClientReport, VfioUserServer
from vnet.vfio_user.session import Doorbell

__all__ = ["FunctionExport"]


class FunctionExport:
    """Implements `vnet.system.exports.Server` for the device of ``back``, function 0 of its own link."""

    def __init__(self, name: str, ipc: LocalIpc, identity: Identity, report: ClientReport) -> None:
        self._link = IdealLink(name)
        self._controller = EndpointController(self._link, name=name)
        self._report = report
        self._ipc = ipc
        self.back = VirtioEpf(self._controller, 0, identity)
        self.statistics = SessionStatistics()
        self._server: VfioUserServer | None = None

    def start(self) -> None:
        """Appear on the link, once the device is bound."""
        queues = range(len(self.back.device.queues))
        doorbells = [
            Doorbell(bells.bar, at)
            for bells in PCI.doorbells
            for queue in queues
            if (at := bells.start + bells.step * queue) < bells.end
        ]
        self._server = VfioUserServer(self._ipc, self._link, self._report, doorbells, self.statistics)
        self._controller.start()

    @property
    def connected(self) -> bool:
        return self._server is not None and self._server.connected

    async def serve_connection(self, socket: FdSocket) -> None:
        """Serve a client. Raises ProtocolError, TransportLost."""
        assert self._server is not None
        await self._server.serve_connection(socket)
