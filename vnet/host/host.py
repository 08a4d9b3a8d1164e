"""A machine: its memory, virtio bus, vhost bus, root complex, and endpoint controllers."""

from __future__ import annotations

import logging

import trio

from drivers.built_in_transports import BUILT_IN_TRANSPORTS
from drivers.bus.vhost import VhostBus
from drivers.bus.virtio import VirtioBus
from drivers.carriers.base import CarrierBus
from drivers.carriers.ntb import NtbBus, NtbEpfDriver
from drivers.carriers.pci import PciBus
from drivers.carriers.platform import PlatformBus
from drivers.carriers.vhost_user import VhostUserBus
from drivers.contracts.events import NO_EVENTS, Events, HostEvents
from drivers.contracts.hw import MmioRegion, PciFunction
from vnet.host.platform import Platform, PlatformRegion
from vnet.host.vhost_user import SocketEnd
from vnet.link.base import Link
from vnet.link.wire.errors import ErrorWire
from vnet.linux.memory import HostMemory
from vnet.pcie.epc import EndpointController
from vnet.pcie.function_handle import PciFunctionHandle
from vnet.pcie.rc import RootComplex
from vnet.registry import FAILURES, reason
from vnet.transports import TRANSPORTS

__all__ = ["Host"]

LOG = logging.getLogger(__name__)


class Host:
    """One host. Two hosts share links, and no other object."""

    def __init__(self, name: str, memory_size: int, events: Events = NO_EVENTS) -> None:
        """``memory_size`` is whole pages, in bytes."""
        self.name = name
        self.names: dict[str, str] = {}
        """Name in the topology of each device that the host drives, by its location."""
        self.virtio = VirtioBus(HostEvents(events, name, self.names))
        self.vhost = VhostBus()
        self.pci = PciBus(self.virtio)
        self.platform_bus = PlatformBus(self.virtio)
        self.ntb = NtbBus(self.virtio)
        self.vhost_user = VhostUserBus(self.virtio)
        self.pci.register_driver(NtbEpfDriver(self.ntb))
        self._install_transports()
        self.memory = HostMemory(memory_size, name=name)  # after what can fail: `close` releases it
        self.rc = RootComplex(self.memory)
        self.platform = Platform(self.memory, self.platform_bus.register_device, self._remove_region)
        self.sockets: list[SocketEnd] = []
        """The host's ends of vhost-user sockets."""
        self.controllers: dict[str, EndpointController] = {}
        self._nursery: trio.Nursery | None = None

    def _install_transports(self) -> None:
        """Install all front halves. An added one that fails is reported: the system may not use it."""
        for name, transport in TRANSPORTS.items():
            try:
                transport.install(self)
            except FAILURES as exc:
                if name in BUILT_IN_TRANSPORTS:
                    raise
                LOG.warning("%s: transport %s is left out: %s", self.name, name, reason(exc))

    @property
    def carriers(self) -> tuple[CarrierBus[PciFunction], CarrierBus[MmioRegion], NtbBus, VhostUserBus]:
        """The buses that carry virtio devices."""
        return self.pci, self.platform_bus, self.ntb, self.vhost_user

    def add_controller(self, name: str, link: Link, wire: ErrorWire | None = None) -> EndpointController:
        """Add an endpoint controller at this host's end of ``link``, and return it; ``wire`` reports its errors."""
        self.controllers[name] = EndpointController(link, memory=self.memory, name=f"{self.name}.{name}", wire=wire)
        return self.controllers[name]

    def remove_controller(self, name: str) -> None:
        """Stop and remove the endpoint controller of a link, without which the link is down."""
        self.controllers.pop(name).stop()

    def close(self) -> None:
        """Close vhost-user sockets and memory. Calling it twice is harmless."""
        for end in self.sockets:
            end.close()
        self.memory.close()

    async def serve(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Run the buses until cancelled; then unbind all devices and close the memory."""
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                # Start from the top down, so that cancelling unbinds from the bottom up.
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

    # Called by the platform.

    def _remove_region(self, region: PlatformRegion) -> None:
        if self._nursery is not None:
            self._nursery.start_soon(self.platform_bus.discard_device, region)

    # Called by the root complex.

    def function_added(self, function: PciFunctionHandle) -> None:
        self.pci.register_device(function)

    def function_removed(self, function: PciFunctionHandle) -> None:
        if self._nursery is not None:
            self._nursery.start_soon(self.pci.discard_device, function)
