"""A running topology: its hosts, links, devices and ports, built and taken down together."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractContextManager, AsyncExitStack, asynccontextmanager, closing
from typing import Any

import attrs
import trio

from drivers.bus.back import VhostBack
from drivers.bus.binding import BindState
from drivers.bus.vhost import VhostDevice
from drivers.bus.virtio import VirtioDevice
from drivers.carriers.options import TransportOptions
from drivers.carriers.vhost_user import OwnConfig
from drivers.errors import ProbeError
from rings.status import Status
from vnet.ends import DEVICE_TYPES, DeviceKind
from vnet.ends.base import End, OpenContext
from vnet.ends.foreign import ForeignEnd
from vnet.ends.mediated import MediatorEnd
from vnet.ends.running import RunningDevice
from vnet.errors import ConfigError
from vnet.host.host import Host
from vnet.host.vhost_user import Junction
from vnet.link.base import Link
from vnet.linux.background import open_background
from vnet.linux.collector import ignore_existing
from vnet.linux.ipc import LocalIpc
from vnet.linux.poller import Poller
from vnet.pcie.ntb import NtbFunction
from vnet.ports.packet.interface_watch import Watches, open_watches
from vnet.ports.packet.memory import MemoryPort
from vnet.spec import MIB, DeviceSpec, PeerSpec
from vnet.system.bring_up import UP_TIMEOUT, bring_up, reason_of, register_device_types, register_drivers
from vnet.system.links import LinkRegisters, build_link
from vnet.system.sites import DeviceSite, Place
from vnet.system.trace_file import TraceFile
from vnet.topology import Topology

__all__ = ["Device", "World", "open_world"]

POLL_INTERVAL = 0.002
"""Seconds between two checks whether all devices are up."""
LOCAL = "-local"
"""Suffix of the local driver's device behind a mediated device."""


@attrs.define(eq=False)
class Device:
    """A device of the topology, with both ends."""

    name: str
    spec: DeviceSpec
    root: Host
    """The driver's host."""
    endpoint: Host
    """The device's host; the driver's host if the device is in another process."""
    location: str
    """Name of the device on the driver's host, such as the name of a PCI function."""
    back: VhostBack | None
    """Device half of the transport; None if the device is in another process."""
    driver_end: End
    """End of the driver."""
    device_end: End
    """End of the device; a `MediatorEnd` in mediated mode."""

    @property
    def vhost(self) -> VhostDevice:
        """The device on the vhost bus; only if it is in this process."""
        assert self.back is not None, f"{self.name} is in another process"
        return self.back.device

    @property
    def virtio(self) -> VirtioDevice | None:
        """The device on the virtio bus, once the driver's host has enumerated it; else None."""
        devices = (binding.device for binding in self.root.virtio.bindings)
        return next((device for device in devices if device.location == self.location), None)

    @property
    def up(self) -> bool:
        """Whether the device carries data: DRIVER_OK on both sides, both ends live."""
        virtio = self.virtio
        return (
            virtio is not None
            and bool(virtio.status & Status.DRIVER_OK)
            and (self.back is None or self.vhost.running)
            and self.driver_end.live
            and self.device_end.live
        )

    def trouble(self) -> str:
        """Return why the device is not up: the errors of both buses."""
        virtio = self.virtio
        errors = [self.endpoint.vhost.binding(self.vhost).error] if self.back is not None else []
        if virtio is not None:
            errors += [self.root.virtio.binding(virtio).error, *virtio.failures]
        else:
            bindings = (binding for bus in self.root.carriers for binding in bus.bindings)
            errors += [binding.error for binding in bindings if binding.device.name == self.location]
        if self.back is not None:
            errors += self.vhost.failures
        return reason_of(errors)


class World:
    """A running system, made by `open_world`."""

    def __init__(self, name: str, topology: Topology) -> None:
        self.name = name
        self.topology = topology
        self.hosts: dict[str, Host] = {}
        self.links: dict[str, Link] = {}
        self.buses: dict[str, int] = {}
        """Bus number at the root complex, by link."""
        self.traces: dict[str, TraceFile] = {}
        """Trace file by link."""
        self.ntbs: dict[str, NtbFunction] = {}
        self.devices: dict[str, Device] = {}
        self.poller = Poller()
        self.watches: Watches | None = None
        """Watches of the interfaces of all ports."""
        self.ipc = LocalIpc(self.poller)
        self.junctions: list[Junction] = []
        """In-process vhost-user connections between drivers and devices of this system."""

    def netns(self, host: str) -> str:
        """Return the namespace of a host's ports that name no other."""
        return f"{self.name}-{host}"

    def ends(self, device: str) -> tuple[End, End]:
        """Return the two ends that programs use; in mediated mode, the second one is the local driver's end."""
        remote, local = self.devices[device], self.devices.get(f"{device}{LOCAL}")
        return remote.driver_end, remote.device_end if local is None else local.driver_end

    def running(self, device: str) -> RunningDevice[Any, Any]:
        """Return a device of the topology as its demonstration and its exercise use it."""
        spec = self.topology.devices[device]
        return RunningDevice(self.name, device, spec, self.topology.ends(spec), self.ends(device))

    def memory_port(self, device: str, end: str) -> MemoryPort:
        """Return the in-memory port at the ``driver`` or ``device`` end. Raises TypeError for other ports."""
        port = getattr(self.ends(device)[end == "device"].settings, "port", None)
        if not isinstance(port, MemoryPort):
            raise TypeError(f"the port at the {end} end of {device} is no memory port")
        return port

    async def wait_up(self, timeout: float = UP_TIMEOUT) -> None:
        """Return when every device is up.

        Raises ProbeError if a device failed, or if no further device came up for ``timeout`` seconds.
        """
        fewest = len(self.devices) + 1
        with trio.move_on_after(timeout) as scope:
            while down := [device for device in self.devices.values() if not device.up]:
                for device in filter(self._failed, down):
                    raise ProbeError(f"{device.name}: {device.trouble()}")
                if len(down) < fewest:
                    fewest, scope.deadline = len(down), trio.current_time() + timeout
                await trio.sleep(POLL_INTERVAL)
            return
        raise ProbeError(f"{down[0].name} is not up after {timeout:g} s: {down[0].trouble()}")

    def _failed(self, device: Device) -> bool:
        states = [device.endpoint.vhost.binding(device.vhost).state] if device.back is not None else []
        if device.virtio is not None:
            states.append(device.root.virtio.binding(device.virtio).state)
        return BindState.FAILED in states


@asynccontextmanager
async def open_world(
    topology: Topology,
    name: str = "vnet",
    kinds: Mapping[str, DeviceKind[Any, Any]] = DEVICE_TYPES,
    report: Callable[[str], None] = lambda line: None,
) -> AsyncIterator[World]:
    """Build ``topology``, bring it up, and remove all of it at the end.

    ``name`` prefixes names visible outside, such as namespaces; ``kinds`` opens ends by device type. ``report`` takes
    lines for the user, such as that an interface is gone. Raises ConfigError, PrivilegeError, DriverError.
    """
    topology = topology.sized()
    world = World(name, topology)
    async with AsyncExitStack() as stack:
        stack.callback(world.poller.close)
        world.watches = await stack.enter_async_context(open_watches(report))
        ends = {
            name: await stack.enter_async_context(_open_ends(kinds[spec.type], _context(world, name, index, spec)))
            for index, (name, spec) in enumerate(topology.devices.items())
        }
        for host_name, host_spec in topology.hosts.items():
            assert host_spec.memory is not None  # `Topology.sized`
            world.hosts[host_name] = Host(host_name, host_spec.memory * MIB)
            stack.callback(world.hosts[host_name].close)
        for link_name, link_spec in topology.links.items():
            if link_spec.trace is not None:
                world.traces[link_name] = stack.enter_context(_trace(link_name, link_spec.trace, report))
            sink = world.traces[link_name].write if link_name in world.traces else None
            rc = world.hosts[link_spec.root].rc
            link = build_link(link_name, link_spec, LinkRegisters(link_name, topology, rc), sink)
            world.links[link_name] = link
            world.buses[link_name] = rc.attach(link)
            world.hosts[link_spec.endpoint].add_controller(link_name, link)
        for ntb_name, ntb in topology.ntbs.items():
            ends_at = (world.hosts[ntb.host].controllers[link_name] for link_name in (ntb.primary, ntb.secondary))
            assert ntb.mw is not None  # `Topology.sized`
            world.ntbs[ntb_name] = NtbFunction(*ends_at, windows=(ntb.mw * MIB,))
            world.ntbs[ntb_name].bind()
        for index, (device_name, spec) in enumerate(topology.devices.items()):
            own_config = None
            if spec.foreign and (make_config := kinds[spec.type].own_config) is not None:
                own_config = make_config(_context(world, device_name, index, spec))
            place = _place(world, device_name, spec, own_config)
            first, second = ends[device_name]
            if spec.mode == "mediated":
                second = _mediate(world, kinds, _context(world, device_name, index, spec), place.endpoint, second)
            world.devices[device_name] = Device(
                device_name, spec, place.root, place.endpoint, place.location, place.back, first, second
            )
        nursery = await stack.enter_async_context(open_background())
        nursery.start_soon(world.poller.run)
        devices = world.devices.values()
        halves = [(device.endpoint.vhost, device.back) for device in devices if device.back is not None]
        plugs = {device.vhost: device.device_end.settings for device in devices if device.back is not None}
        for host in world.hosts.values():
            settings = {device.location: device.driver_end.settings for device in devices if device.root is host}
            register_drivers(host.virtio, settings)
            register_device_types(host.vhost, plugs)
            await nursery.start(host.serve)
        for link in world.links.values():
            nursery.start_soon(link.run)
        for _, back in halves:
            nursery.start_soon(back.serve)
        for junction in world.junctions:
            nursery.start_soon(junction.serve)
        await bring_up(halves)
        # Links start after the devices: a device must have its features before a driver sees it.
        for host in world.hosts.values():
            for end in host.sockets:
                host.user.register_device(end)
            for controller in host.controllers.values():
                controller.start()
        stack.enter_context(ignore_existing())
        yield world


@asynccontextmanager
async def _open_ends(kind: DeviceKind[Any, Any], context: OpenContext[Any]) -> AsyncIterator[tuple[End, End]]:
    if context.spec.foreign:
        async with kind.driver_alone(context) as driver:
            yield driver, ForeignEnd(context.spec.socket or "")
    else:
        async with kind.open(context) as ends:
            yield ends


def _place(world: World, name: str, spec: DeviceSpec, own_config: OwnConfig | None = None) -> Place:
    """Put a device on its carrier."""
    place = DeviceSite(name, spec, world.topology, world.hosts, world.buses, world.ipc, own_config).place()
    if place.junction is not None:
        world.junctions.append(place.junction)
    return place


def _trace(link: str, path: str, report: Callable[[str], None]) -> AbstractContextManager[TraceFile]:
    """Open the file for the trace of ``link``. Raises ConfigError if it cannot be written."""
    try:
        return closing(TraceFile(path, lambda trouble: report(f"links.{link}.trace: {trouble}")))
    except OSError as exc:
        raise ConfigError("topology", f"links.{link}.trace", path, exc.strerror or str(exc)) from None


def _mediate(
    world: World, kinds: Mapping[str, DeviceKind[Any, Any]], context: OpenContext[Any], host: Host, local_end: End
) -> MediatorEnd:
    """Add the local driver's device to the endpoint's platform bus; return the mediator as the remote device's end."""
    remote, local = context.name, f"{context.name}{LOCAL}"
    make = kinds[context.spec.type].mediator
    assert make is not None
    mediator = make(context, (remote, local))
    assert isinstance(context.spec, PeerSpec)
    ring = context.spec.local_ring or context.spec.ring
    spec = attrs.evolve(context.spec, transport="mmio", link=None, ntb=None, host=host.name, function=0)
    spec = attrs.evolve(spec, mode="direct", ring=ring, options=TransportOptions())
    place = _place(world, local, spec)
    end = MediatorEnd(mediator, local, remote)
    world.devices[local] = Device(local, spec, host, host, place.location, place.back, local_end, end)
    return MediatorEnd(mediator, remote, local)


def _context(world: World, name: str, index: int, spec: DeviceSpec) -> OpenContext[Any]:
    return OpenContext(world.name, name, index, spec, world.topology.ends(spec), world.poller, world.watches)
