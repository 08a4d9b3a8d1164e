"""Installs the emitters of the data path while sinks listen, in a running system, and removes them afterwards."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from functools import partial
from itertools import count
from typing import Literal, cast

import attrs

from drivers.bus.device_queue import DeviceQueue
from drivers.bus.driver_queue import DriverQueue
from drivers.contracts.events import Event, FaultInjected, Notified, QueueEnabled, Source, Topic
from drivers.contracts.ports import PacketPort
from rings.observers.live import watch_device, watch_driver
from vnet.emitters.chains import QueueChains, Side
from vnet.emitters.ports import PortEnd, watch_port
from vnet.emitters.registers import RegisterPlace, VectorPlace, watch_link, watch_region
from vnet.emitters.rings import DeviceEmitter, DriverEmitter
from vnet.ends.base import End
from vnet.host.host import Host
from vnet.link.base import Link
from vnet.link.faults import Action, LinkRequest
from vnet.ports.packet.base import CountingPort
from vnet.ports.packet.interface_port import InterfacePort
from vnet.system.device import Device
from vnet.system.events import EventHub
from vnet.system.links import LinkRegisters
from vnet.system.places import LinkAddresses, device_links, region_place
from vnet.topology import Topology

__all__ = ["DataPath"]

SIDES: tuple[Side, Side] = ("driver", "device")
QUEUES = ("receiveq", "transmitq")
"""Names of the two virtqueues of a port's queue, without their number."""


_Part = Link | Device | None
_Install = Callable[[_Part, ExitStack], None]


class DataPath:
    """The emitters of one system.

    Those of rings are installed for the topics rings and tlps, those of ports for frames and tlps, those of links and
    platform regions for registers and tlps. So frames alone cost little, and know no chain.
    """

    def __init__(
        self,
        events: EventHub,
        topology: Topology,
        hosts: Mapping[str, Host],
        links: Mapping[str, Link],
        registers: Mapping[str, LinkRegisters],
        devices: Mapping[str, Device],
    ) -> None:
        """Adapt to the sinks of ``events`` from now on. The mappings are complete before one takes these topics."""
        self._events = events
        self._topology = topology
        self._hosts = hosts
        self._links = links
        self._registers = registers
        self._devices = devices
        self._chains: dict[tuple[str, str], QueueChains] = {}
        self._frames = count(1)
        self._requests = count(1)
        self._rings: dict[tuple[str, Side, str], Callable[[], None]] = {}
        self._installed: dict[str, dict[_Part, ExitStack]] = {}
        """Stacks that remove each kind of emitters, by the part that they are at; None: the whole system."""
        events.adapt(self.adapt)

    def adapt(self) -> None:
        """Install the emitters that are wanted now, and remove the others."""
        events = self._events
        tlps = events.tlps is not None
        rings, frames = tlps or events.rings is not None, tlps or events.frames is not None
        wanted: Mapping[str, _Install | None] = {
            "rings": self._watch_rings if rings else None,
            "ports": partial(self._watch_ports, batches=False) if frames and rings else None,
            "batches": partial(self._watch_ports, batches=True) if frames and not rings else None,
            "registers": self._watch_registers if tlps or events.registers is not None else None,
        }
        for kind, install in wanted.items():  # removals first: a port has one of two emitters
            if install is None:
                for stack in self._installed.pop(kind, {}).values():
                    stack.close()
        for kind, install in wanted.items():
            if install is not None:
                installed = self._installed.setdefault(kind, {})
                for part in (None, *self._links.values(), *self._devices.values()):
                    if part not in installed:
                        installed[part] = stack = ExitStack()
                        install(part, stack)

    def forget(self, part: Link | Device) -> None:
        """Remove the emitters of a link or device that leaves the system."""
        for installed in self._installed.values():
            if part in installed:
                installed.pop(part).close()
        if isinstance(part, Device):
            for ring in [key for key in self._rings if key[0] == part.name]:
                self._rings.pop(ring)()
            for queue in [key for key in self._chains if key[0] == part.name]:
                del self._chains[queue]

    # Rings

    def _watch_rings(self, part: _Part, stack: ExitStack) -> None:
        if part is None:
            stack.callback(self._leave_rings)
            stack.enter_context(self._events.listen(self._queue_enabled, (Topic.LIFECYCLE,)))
            stack.enter_context(self._events.listen(self._fault_injected, (Topic.LINKS,)))
        elif isinstance(part, Device):
            for queue in part.driver_queues:
                self._watch_driver(part, queue)
            for own in part.device_queues:
                self._watch_device(part, own)

    def _leave_rings(self) -> None:
        for end in self._rings.values():
            end()
        self._rings.clear()
        for chains in self._chains.values():
            chains.watched = False
            for side in SIDES:
                chains.forget(side)

    def _queue_enabled(self, event: Event) -> None:
        source = event.source
        device = self._devices.get(source.device)
        if not isinstance(event, QueueEnabled) or device is None:
            return
        if source.side == "driver":
            for queue in device.driver_queues:
                if queue.name == source.queue:
                    self._watch_driver(device, queue)
        elif source.side == "device":
            for own in device.device_queues:
                if own.name == source.queue:
                    self._watch_device(device, own)

    def _fault_injected(self, event: Event) -> None:
        """Emit that a notification was lost, if a link lost the one of a known queue."""
        emit = self._events.rings
        if (
            emit is None
            or not isinstance(event, FaultInjected)
            or event.fault != Action.LOSE.value
            or event.addr is None
        ):
            return
        places = self._places(event.source.link)
        place: RegisterPlace | VectorPlace | None
        kind: Literal["kick", "call"]
        if event.request == LinkRequest.DOORBELL.value:
            kind, place = "kick", places.register(event.addr, event.value or 0)
        else:
            kind, place = "call", places.vector(event.function, event.addr, event.value or 0)
        if place is not None and place.source.queue:
            source = attrs.evolve(place.source, link="")
            emit(Notified(event.time, source, kind, "lost", self._published(kind, source)))

    def _watch_driver(self, device: Device, queue: DriverQueue) -> None:
        if queue.live:
            chains = self._enter((device.name, "driver", queue.name))
            source = device.source("driver", queue.name)
            overlay = watch_driver(queue.ring, DriverEmitter(self._events, source, queue.ring, chains))
            self._rings[device.name, "driver", queue.name] = overlay.remove

    def _watch_device(self, device: Device, queue: DeviceQueue) -> None:
        ring = queue.ring
        if ring is not None:
            chains = self._enter((device.name, "device", queue.name))
            source = device.source("device", queue.name)
            make = partial(DeviceEmitter, self._events, source, self._dma(device, queue.name), ring, chains)
            self._rings[device.name, "device", queue.name] = watch_device(ring, make)

    def _enter(self, key: tuple[str, Side, str]) -> QueueChains:
        """Return the chains of a queue, without those of the former ring of this side."""
        if key in self._rings:
            self._rings.pop(key)()
        name, side, queue = key
        chains = self._chains_of(name, queue)
        chains.forget(side)
        chains.watched = True
        return chains

    def _chains_of(self, device: str, queue: str) -> QueueChains:
        return self._chains.setdefault((device, queue), QueueChains())

    def _dma(self, device: Device, queue: str) -> Source:
        """Return the source of a device's accesses to the driver's memory."""
        _, link = device_links(self._topology, device.spec)
        return attrs.evolve(device.source("device", queue), link=link)

    # Ports

    def _watch_ports(self, part: _Part, stack: ExitStack, *, batches: bool) -> None:
        if isinstance(part, Device):
            ends: tuple[tuple[Side, End], ...] = (("driver", part.driver_end), ("device", part.device_end))
            for side, end in ends:
                port = getattr(end.settings, "port", None)
                if isinstance(port, CountingPort):  # the base of all packet ports
                    self._watch_port(stack, part, side, cast("PacketPort", port), batches)

    def _watch_port(self, stack: ExitStack, device: Device, side: Side, port: PacketPort, batches: bool) -> None:
        name = port.ifname if isinstance(port, InterfacePort) else "memory"
        for index, queue in enumerate(port.queues, 1):
            receive, transmit = (self._port_end(device, side, f"{way}{index}", name) for way in QUEUES)
            inward, outward = (transmit, receive) if side == "driver" else (receive, transmit)
            if side == "device":
                outward.chains.has_port = True
                stack.callback(setattr, outward.chains, "has_port", False)
            overlay = watch_port(queue, self._events, inward, outward, self._frames, batches=batches)
            stack.callback(overlay.remove)

    def _port_end(self, device: Device, side: Side, queue: str, port: str) -> PortEnd:
        source = attrs.evolve(device.source(side, queue), port=port)
        return PortEnd(source, self._dma(device, queue), self._chains_of(device.name, queue), side)

    # Links and platform regions

    def _watch_registers(self, part: _Part, stack: ExitStack) -> None:
        if isinstance(part, Device):
            for region in part.driver_host.platform.regions:
                if region.name == part.location:
                    source = part.source("device")
                    locate = partial(region_place, part, part.source("driver"))
                    stack.callback(watch_region(region, self._events, locate, source, self._published).remove)
        elif part is not None:
            places = self._places(part.name)
            stack.callback(watch_link(part, self._events, places, self._published, self._requests).remove)

    def _places(self, link: str) -> LinkAddresses:
        return LinkAddresses(link, self._topology, self._hosts, self._devices, self._registers[link])

    def _published(self, kind: str, source: Source) -> int | None:
        chains = self._chains.get((source.device, source.queue))
        return None if chains is None else chains.published.get(kind)
