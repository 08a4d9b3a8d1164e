"""A machine: memory of its own, a virtio bus, a vhost bus, and whatever joins it to a link."""

from __future__ import annotations

import trio

from drivers.bus.vhost import VhostBus
from drivers.bus.virtio import VirtioBus
from drivers.carriers.base import CarrierBus
from drivers.carriers.ntb import NtbBus, NtbClient, NtbEpfDriver
from drivers.carriers.pci import PciBus, VirtioPciDriver
from drivers.carriers.platform import PlatformBus, VirtioPlatformDriver
from drivers.carriers.vhost_user import UserBus, UserClient
from drivers.contracts.hw import MmioRegion, PciFunction
from drivers.registry import TRANSPORTS
from vnet.host.platform import Platform, Region
from vnet.host.vhost_user import SocketEnd
from vnet.link.base import Link
from vnet.linux.memory import HostMemory
from vnet.pcie.epc import EndpointController
from vnet.pcie.function_handle import PciFunctionHandle
from vnet.pcie.rc import RootComplex

__all__ = ["Host"]


class Host:
    """One host. It shares no object with another host but links."""

    def __init__(self, name: str, memory_size: int) -> None:
        """``memory_size`` in bytes, whole pages."""
        self.name = name
        self.memory = HostMemory(memory_size, name=name)
        self.virtio = VirtioBus()
        self.vhost = VhostBus()
        self.pci = PciBus(self.virtio)
        self.mmio = PlatformBus(self.virtio)
        self.ntb = NtbBus(self.virtio)
        self.user = UserBus(self.virtio)
        self.pci.register_driver(NtbEpfDriver(self.ntb))
        for transport in TRANSPORTS.values():
            if isinstance(transport.front, VirtioPciDriver):
                self.pci.register_driver(transport.front)
            elif isinstance(transport.front, VirtioPlatformDriver):
                self.mmio.register_driver(transport.front)
            elif isinstance(transport.front, NtbClient):
                self.ntb.register_driver(transport.front)
            elif isinstance(transport.front, UserClient):
                self.user.register_driver(transport.front)
        self.rc = RootComplex(self.memory)
        self.platform = Platform(self.memory, self.mmio.register_device, self._region_gone)
        self.sockets: list[SocketEnd] = []
        """Its ends of vhost-user sockets."""
        self.controllers: dict[str, EndpointController] = {}
        self._nursery: trio.Nursery | None = None

    @property
    def carriers(self) -> tuple[CarrierBus[PciFunction], CarrierBus[MmioRegion], NtbBus, UserBus]:
        """The buses on which virtio devices are found."""
        return self.pci, self.mmio, self.ntb, self.user

    def add_controller(self, name: str, link: Link) -> EndpointController:
        """Put an endpoint controller at this host's end of ``link``."""
        self.controllers[name] = EndpointController(link, memory=self.memory, name=f"{self.name}.{name}")
        return self.controllers[name]

    def close(self) -> None:
        """Give back memory, and what is shared of it. Twice is harmless."""
        for end in self.sockets:
            end.close()
        self.memory.close()

    async def serve(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Run the buses until cancelled; then everything is unbound and the memory given back."""
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                # From the top down, so that cancelling unbinds from the bottom up.
                for bus in (self.virtio, self.vhost, *self.carriers):
                    await nursery.start(bus.serve)
                self.rc.watch(self)
                task_status.started()
                try:
                    await trio.sleep_forever()
                finally:
                    self.rc.watch(None)
                    self._nursery = None
        finally:
            for controller in self.controllers.values():
                controller.stop()
            self.close()

    # What the platform tells.

    def _region_gone(self, region: Region) -> None:
        if self._nursery is not None:
            self._nursery.start_soon(self.mmio.discard_device, region)

    # What the root complex tells.

    def found(self, function: PciFunctionHandle) -> None:
        self.pci.register_device(function)

    def gone(self, function: PciFunctionHandle) -> None:
        if self._nursery is not None:
            self._nursery.start_soon(self.pci.discard_device, function)
