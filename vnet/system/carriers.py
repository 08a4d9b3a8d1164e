"""Devices on their carriers: each kind of carrier shows a device to the driver's host, and takes it away again."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Protocol

import attrs

from drivers.bus.back import VhostBack
from drivers.carriers.ntb import NtbBus
from drivers.carriers.pci import PciBus
from vnet.host.host import Host
from vnet.host.platform import PlatformRegion
from vnet.host.vhost_user import Junction, SocketEnd
from vnet.link.base import Link
from vnet.pcie.epc import EndpointController
from vnet.pcie.rc import RootComplex

__all__ = ["Carrier", "LinkCarrier", "NtbCarrier", "PlatformCarrier", "SocketCarrier"]


class Carrier(Protocol):
    """The place of one device on its carrier."""

    @property
    def serve(self) -> Callable[[], Awaitable[object]] | None:
        """Runs the carrier's own tasks until cancelled; None if it has none."""

    def show(self) -> None:
        """Show the device to the driver's host, once a device type has offered features."""

    async def hide(self) -> None:
        """Take the device away, and return once no driver of the host uses it. Harmless if it is not shown."""

    def free(self) -> None:
        """Give the place back."""


@attrs.frozen(eq=False)
class LinkCarrier:
    """A function of an endpoint controller."""

    link: Link
    rc: RootComplex
    number: int
    location: str
    pci: PciBus | None
    """Bus of the driver's host; None if the root complex is another process."""
    controller: EndpointController | None = None
    """None if the endpoint is another process."""
    back: VhostBack | None = None
    serve = None

    def show(self) -> None:
        if self.back is not None:
            self.back.bind()
            self.rc.function_added(self.link, self.number)

    async def hide(self) -> None:
        if self.back is not None and self.controller is not None and self.controller.has_function(self.number):
            self.back.unbind()
        self.rc.function_removed(self.link, self.number)
        if self.pci is not None:
            await self.pci.clear(self.location)

    def free(self) -> None:
        """Do nothing: the number of a function is free once it is hidden."""


@attrs.frozen(eq=False)
class NtbCarrier:
    """An NTB, which stays on both hosts without its device."""

    device_bus: NtbBus
    driver_bus: NtbBus
    location: str
    """Name of the NTB at the driver's host."""
    back: VhostBack
    serve = None

    def show(self) -> None:
        self.back.bind()

    async def hide(self) -> None:
        self.back.unbind()
        own: object = self.back
        for client in self.device_bus.drivers:
            if client is own:
                await self.device_bus.unregister_driver(client)
        for binding in self.driver_bus.bindings:
            if binding.device.name == self.location:
                await self.driver_bus.rebind(binding.device)

    def free(self) -> None:
        """Do nothing: the NTB is not part of the device."""


@attrs.frozen(eq=False)
class PlatformCarrier:
    """A slot of a host's platform bus."""

    host: Host
    region: PlatformRegion
    back: VhostBack
    serve = None

    def show(self) -> None:
        self.back.bind()

    async def hide(self) -> None:
        self.back.unbind()
        await self.host.platform_bus.clear(self.region.name)

    def free(self) -> None:
        self.host.platform.discard(self.region)


@attrs.frozen(eq=False)
class SocketCarrier:
    """A host's end of a vhost-user socket."""

    host: Host
    end: SocketEnd
    back: VhostBack | None = None
    """None if the device is in another process."""
    junction: Junction | None = None

    @property
    def serve(self) -> Callable[[], Awaitable[object]] | None:
        return None if self.junction is None else self.junction.serve

    def show(self) -> None:
        if self.back is not None:
            self.back.bind()
        self.host.vhost_user.register_device(self.end)

    async def hide(self) -> None:
        await self.host.vhost_user.clear(self.end.name)
        if self.back is not None:
            self.back.unbind()

    def free(self) -> None:
        self.host.sockets.remove(self.end)
        self.end.close()
