"""The places of a system's events on its links and platform buses: device, side, register, queue."""

from __future__ import annotations

from collections.abc import Mapping

import attrs

from drivers.carriers.transport import Transport
from drivers.contracts.events import Source
from vnet.emitters.registers import RegisterPlace, VectorPlace
from vnet.host.host import Host
from vnet.spec import DeviceSpec
from vnet.system.device import Device
from vnet.system.links import LinkRegisters
from vnet.topology import Topology
from vnet.transports import TRANSPORTS

__all__ = ["LinkAddresses", "device_links", "region_place"]


def device_links(topology: Topology, spec: DeviceSpec) -> tuple[str, str]:
    """Return the names of the links at the driver's and at the device's host; empty within one host."""
    if spec.ntb is not None:
        ntb = topology.ntbs[spec.ntb]
        return ntb.secondary, ntb.primary
    return spec.link or "", spec.link or ""


def _queue_name(device: Device | None, index: int | None) -> str:
    """Return the name of a device's queue; empty if it has none with that index."""
    if device is None or index is None:
        return ""
    queues = device.driver_queues if device.back is None else device.device_queues
    return queues[index].name if 0 <= index < len(queues) else ""


@attrs.frozen(eq=False)
class LinkAddresses:
    """The places of one link. Implements `vnet.emitters.registers.LinkPlaces`."""

    link: str
    topology: Topology
    hosts: Mapping[str, Host]
    devices: Mapping[str, Device]
    registers: LinkRegisters

    def register(self, addr: int, value: int) -> RegisterPlace | None:
        register = self.registers.find(addr)
        if register is None:
            return None
        transport, bar, offset = register.transport, register.bar, register.offset
        queue = None if transport is None else transport.notified_queue(bar, offset, value)
        source = attrs.evolve(
            self.root(register.function.number), queue=_queue_name(self.devices.get(register.device), queue)
        )
        return RegisterPlace(source, register.function.number, bar, offset, register.name, queue is not None)

    def vector(self, function: int, addr: int, data: int) -> VectorPlace | None:
        endpoint = self.hosts.get(self.topology.links[self.link].ends[1])
        vector = None if endpoint is None else endpoint.controllers[self.link].vector_of(function, addr, data)
        if vector is None:
            return None
        source = self.endpoint(function)
        device = self.devices.get(source.device) if source.side else None
        known = () if device is None else device.device_queues
        names = [queue.name for queue in known if queue.vector == vector]
        return VectorPlace(attrs.evolve(source, queue=names[0]) if len(names) == 1 else source, vector)

    def root(self, function: int) -> Source:
        carried = self.topology.carried(self.link, function)
        host, _ = self.topology.links[self.link].ends
        if carried is None:
            return Source(host, link=self.link)
        name, spec = carried
        at_driver = device_links(self.topology, spec)[0] == self.link
        return Source(host, name, "driver" if at_driver else "device", link=self.link)

    def endpoint(self, function: int) -> Source:
        carried = self.topology.carried(self.link, function)
        _, host = self.topology.links[self.link].ends
        if carried is None:
            return Source(host, link=self.link)
        name, spec = carried
        return Source(host, name, "" if spec.ntb is not None else "device", link=self.link)  # an NTB has no side


def region_place(device: Device, driver: Source, offset: int, value: int) -> RegisterPlace:
    """Return the register of a platform device at an offset, with a value that is written or was read.

    ``driver`` is the source of its driver.
    """
    transport: Transport = TRANSPORTS[device.spec.transport]
    queue = transport.notified_queue(0, offset, value)
    name = transport.register_name(0, offset) or f"+{offset:#x}"
    return RegisterPlace(attrs.evolve(driver, queue=_queue_name(device, queue)), 0, 0, offset, name, queue is not None)
