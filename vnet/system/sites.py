"""The sites of a system's devices: each transport asks its device's site for the carrier that it needs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import attrs

from drivers.bus.back import VhostBack
from drivers.bus.model import MatchId
from drivers.carriers.ntb import NtbBus
from drivers.carriers.options import BackEndSocket
from drivers.carriers.vhost_user import OwnConfig, SocketBack
from drivers.contracts.events import Events, Reporter, Source
from drivers.contracts.hw import Epc, PlatformSlot
from drivers.contracts.ipc import Ipc
from vnet.ends.base import End
from vnet.host.host import Host
from vnet.host.vhost_user import Junction, SocketEnd, dial
from vnet.link.base import Link
from vnet.process_ends import ProcessEnd
from vnet.spec import DeviceSpec
from vnet.system.carriers import Carrier, LinkCarrier, NtbCarrier, PlatformCarrier, SocketCarrier
from vnet.system.device import Device
from vnet.system.links import LinkRegisters
from vnet.topology import Topology
from vnet.transports import TRANSPORTS

__all__ = ["DeviceSite"]


@attrs.frozen(eq=False)
class DeviceSite:
    """The site of one device of a topology. Implements `drivers.carriers.transport.Site`."""

    name: str
    spec: DeviceSpec
    topology: Topology
    hosts: Mapping[str, Host]
    links: Mapping[str, Link]
    registers: Mapping[str, LinkRegisters]
    buses: Mapping[str, int]
    """Bus number at the root complex, by link."""
    ipc: Ipc
    events: Events
    ends: tuple[End, End]
    """The driver's end and the device's end."""
    own_config: OwnConfig | None = None
    """Configuration for a back end in another process that has no configuration space."""

    def place(self) -> Device:
        """Make the device half on its carrier. Returns the device."""
        identity = self.spec.identity(self.name, self._reporter)
        return TRANSPORTS[self.spec.transport].place(self, identity, self.spec.options)

    def _device(
        self, driver_host: Host, device_host: Host, location: str, back: VhostBack | None, carrier: Carrier
    ) -> Device:
        driver_host.names[location] = self.name
        hosts = self.topology.ends(self.spec)
        return Device(self.name, self.spec, hosts, driver_host, device_host, location, back, *self.ends, carrier)

    def on_link(self, make: Callable[[Epc, int], VhostBack]) -> Device:
        name, function = self.spec.link, self.spec.function
        assert name is not None
        spec, link, rc = self.topology.links[name], self.links[name], self.registers[name].rc
        root = endpoint = None
        if isinstance(spec.root, ProcessEnd):
            location = spec.root.location(function)
        else:
            root = self.hosts[spec.root]
            location = rc.function_name(self.buses[name], function)
        carrier = LinkCarrier(link, rc, function, location, None if root is None else root.pci)
        if not isinstance(spec.endpoint, ProcessEnd):
            endpoint = self.hosts[spec.endpoint]
            controller = endpoint.controllers[name]
            carrier = attrs.evolve(carrier, controller=controller, back=make(controller, function))
        known = [host for host in (root, endpoint) if host is not None]
        return self._device(known[0], known[-1], location, carrier.back, carrier)

    def on_ntb(self, make: Callable[[NtbBus, str], VhostBack]) -> Device:
        assert self.spec.ntb is not None
        ntb = self.topology.ntbs[self.spec.ntb]
        endpoint, root = (self.hosts[self.topology.links[link].ends[0]] for link in (ntb.primary, ntb.secondary))
        at, location = (
            host.rc.function_name(self.buses[link], 0)
            for host, link in ((endpoint, ntb.primary), (root, ntb.secondary))
        )
        back = make(endpoint.ntb, at)
        return self._device(root, endpoint, location, back, NtbCarrier(endpoint.ntb, root.ntb, location, back))

    def on_platform(self, match_id: MatchId, make: Callable[[PlatformSlot], VhostBack]) -> Device:
        host = self._host
        region = host.platform.add(match_id)
        back = make(region)
        return self._device(host, host, region.name, back, PlatformCarrier(host, region, back))

    def on_socket(self, peer: BackEndSocket | None, make: Callable[[Ipc], SocketBack]) -> Device:
        host, spec = self._host, self.spec
        back = junction = None
        if peer is not None:
            location = peer.path
            connect = partial(dial, Path(peer.path), peer.uid, f"devices.{self.name}.peer_uid = {{}}")
        else:
            location = f"{self.name}.vhost_user"
            back = make(self.ipc)
            junction = Junction(back)
            connect = partial(junction.dial)
        end = SocketEnd(
            location,
            spec.identity(self.name),
            spec.queue_size,
            host.memory,
            self.ipc,
            connect,
            own_config=self.own_config,
        )
        host.sockets.append(end)
        return self._device(host, host, location, back, SocketCarrier(host, end, back, junction))

    @property
    def _reporter(self) -> Reporter:
        """Reporter of the device's side."""
        _, host = self.topology.ends(self.spec)
        return Reporter(self.events, Source(host, self.name, "device"))

    @property
    def _host(self) -> Host:
        assert self.spec.host is not None
        return self.hosts[self.spec.host]
