"""A running topology: its hosts, links, devices and ports, built and taken down together."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from typing import Any

import attrs
import trio

from drivers.carriers.options import TransportOptions
from drivers.carriers.vhost_user import OwnConfig
from drivers.contracts.events import Reporter, Source
from vnet.ends import DEVICE_TYPES
from vnet.ends.base import End, OpenContext
from vnet.ends.foreign import ForeignEnd
from vnet.ends.mediated import MediatorEnd
from vnet.ends.running import RunningDevice
from vnet.host.host import Host
from vnet.link.base import Link
from vnet.link.faulty import FaultyLink
from vnet.link.timed import TimedLink
from vnet.linux.background import open_all, open_background
from vnet.linux.collector import ignore_existing
from vnet.linux.ipc import LocalIpc
from vnet.linux.netns import open_netns
from vnet.linux.poller import Poller
from vnet.pcie.ntb import NtbFunction
from vnet.pcie.rc import RootComplex
from vnet.ports.packet.interface_watch import Watches, open_watches
from vnet.ports.packet.memory import MemoryPort
from vnet.spec import MIB, DeviceSpec, PeerSpec, RemoteEnd
from vnet.system.bring_up import UP_TIMEOUT, bring_up, register_device_types, register_drivers
from vnet.system.data_path import DataPath
from vnet.system.device import Device
from vnet.system.events import EventHub
from vnet.system.links import LinkRegisters, build_link
from vnet.system.log import log_events, log_line
from vnet.system.losses import LossWatch
from vnet.system.readiness import Readiness
from vnet.system.rechecks import Rechecks
from vnet.system.remote import Remote, RemoteRoot, RemoteServers
from vnet.system.ring_looks import RingLooks
from vnet.system.sites import DeviceSite
from vnet.system.trace_file import TraceFile, open_trace
from vnet.topology import Topology

__all__ = ["World", "open_world"]

LOCAL = "-local"
"""Suffix of the local driver's device behind a mediated device."""


class World:
    """A running system, made by `open_world`."""

    def __init__(
        self, name: str, topology: Topology, poller: Poller | None = None, *, allow_unsealed: bool = False
    ) -> None:
        """``allow_unsealed``: whether other processes may share memory that is not sealed against shrinking."""
        self.name = name
        self.topology = topology
        self.ring_looks = RingLooks()
        self.events = EventHub()
        """All events of the system, for sinks."""
        self.hosts: dict[str, Host] = {}
        """Hosts of this process by name."""
        self.links: dict[str, Link] = {}
        self.faults: dict[str, FaultyLink] = {}
        """Faults of each link."""
        self.timed: dict[str, TimedLink] = {}
        """Timing of each link whose accesses take time."""
        self.registers: dict[str, LinkRegisters] = {}
        """Registers behind each link, with its root complex."""
        self.remotes: dict[str, Remote] = {}
        """The other process at one end of a link, by link."""
        self.buses: dict[str, int] = {}
        """Bus number at the root complex, by link."""
        self.traces: dict[str, TraceFile] = {}
        """Trace file by link."""
        self.ntbs: dict[str, NtbFunction] = {}
        self.devices: dict[str, Device] = {}
        remote = any(isinstance(link.root, RemoteEnd) for link in topology.links.values())
        self.poller = poller or Poller(moderate=remote)
        self.watches: Watches | None = None
        """Watches of the interfaces of all ports."""
        self.ipc = LocalIpc(self.poller, allow_unsealed=allow_unsealed)
        self.readiness = Readiness(self.events, self.devices)
        DataPath(self.events, topology, self.hosts, self.links, self.registers, self.devices)

    def add_link(self, name: str, rc: RootComplex, sink: Callable[[str], object] | None = None) -> Link:
        """Make a link of the topology below a root complex, and return it. ``sink`` takes the lines of its trace."""
        registers = self.registers[name] = LinkRegisters(name, self.topology, rc)
        built = build_link(name, self.topology.links[name], registers, self.events, sink)
        self.links[name], self.faults[name] = built.link, built.faults
        if built.timed is not None:
            self.timed[name] = built.timed
        built.faults.watch_losses(Rechecks(name, self.devices).switch)
        return built.link

    def netns(self, host: str) -> str:
        """Return the namespace of a host's ports that name no other."""
        return f"{self.name}-{host}"

    def ends(self, device: str) -> tuple[End, End]:
        """Return the two ends that programs use; in mediated mode, the second one is the local driver's end."""
        return self.devices[device].ends

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
        """Return when every device is up whose driver is in this process.

        A device has ``timeout`` seconds from the start of its own bring-up.

        Raises ProbeError if a device failed, or is not up in time.
        """
        await self.readiness.wait_up(timeout)


@asynccontextmanager
async def open_world(
    topology: Topology,
    name: str = "vnet",
    report: Callable[[str], None] = log_line,
) -> AsyncIterator[World]:
    """Build ``topology``, bring it up, and remove all of it at the end.

    ``name`` prefixes names visible outside, such as namespaces. ``report`` takes lines for the user that are no events,
    such as that a trace file can't be written. Events are logged, see `vnet.system.log`. Raises ConfigError,
    PrivilegeError, DriverError.
    """
    world = World(name, topology.sized())
    async with AsyncExitStack() as stack:
        logged = stack.enter_context(ExitStack())
        log = logged.enter_context(log_events(world.events))
        stack.callback(world.poller.close)
        world.watches = await stack.enter_async_context(open_watches(Reporter(world.events, Source())))
        await stack.enter_async_context(open_all([open_netns(netns) for netns in topology.own_netns(name)]))
        contexts = [
            OpenContext[Any](name, device, index, spec, topology.ends(spec), world.poller, world.watches)
            for index, (device, spec) in enumerate(topology.devices.items())
        ]
        opened = await stack.enter_async_context(open_all([_open_ends(context) for context in contexts]))
        _add_hosts(world, stack)
        _add_links(world, stack, report)
        _add_ntbs(world)
        for context, ends in zip(contexts, opened, strict=True):
            _add_device(world, context, ends)
        nursery = await stack.enter_async_context(open_background())
        losses = LossWatch(world.events, world.devices, world.ring_looks)
        nursery.start_soon(log.run)
        nursery.start_soon(losses.run)
        await _start(world, nursery)
        stack.callback(logged.close)  # before the devices: what ends with the system is no news
        stack.callback(losses.report)
        stack.enter_context(ignore_existing())
        yield world


@asynccontextmanager
async def _open_ends(context: OpenContext[Any]) -> AsyncIterator[tuple[End, End]]:
    kind = DEVICE_TYPES[context.spec.type]
    spec = context.spec
    if spec.foreign:
        async with kind.open_alone("driver", context) as driver:
            protocol = "vhost-user" if spec.socket is not None else "vfio-user"
            yield driver, ForeignEnd(context.hosts[1], protocol)
    elif not spec.driven:
        async with kind.open_alone("device", context) as device:
            yield ForeignEnd(context.hosts[0], "vfio-user"), device
    else:
        async with kind.open(context) as ends:
            yield ends


def _add_hosts(world: World, stack: AsyncExitStack) -> None:
    for name, spec in world.topology.hosts.items():
        assert spec.memory is not None  # `Topology.sized`
        world.hosts[name] = Host(name, spec.memory * MIB, world.events)
        stack.callback(world.hosts[name].close)


def _add_links(world: World, stack: AsyncExitStack, report: Callable[[str], None]) -> None:
    for name, spec in world.topology.links.items():
        if spec.trace is not None:
            world.traces[name] = stack.enter_context(open_trace(name, spec.trace, report))
        sink = world.traces[name].write if name in world.traces else None
        if isinstance(spec.root, RemoteEnd):
            root = world.remotes[name] = RemoteRoot(world.ipc, name, spec.root, world.topology, report)
            world.buses[name] = root.attach(world.add_link(name, root.rc, sink))
        else:
            rc = world.hosts[spec.root].rc
            world.buses[name] = rc.attach(world.add_link(name, rc, sink))
        link = world.links[name]
        if isinstance(spec.endpoint, RemoteEnd):
            host = world.hosts[spec.ends[0]]
            world.remotes[name] = RemoteServers(world.ipc, name, spec.endpoint, world.topology, host, link, report)
        else:
            world.hosts[spec.endpoint].add_controller(name, link)


def _add_ntbs(world: World) -> None:
    for name, spec in world.topology.ntbs.items():
        controllers = world.hosts[spec.host].controllers
        assert spec.mw is not None  # `Topology.sized`
        ntb = world.ntbs[name] = NtbFunction(
            controllers[spec.primary], controllers[spec.secondary], windows=(spec.mw * MIB,)
        )
        ntb.bind()


def _add_device(world: World, context: OpenContext[Any], ends: tuple[End, End]) -> None:
    """Put a device on its carrier; in mediated mode, also the local driver's device, which is behind it."""
    name, spec, kind = context.name, context.spec, DEVICE_TYPES[context.spec.type]
    own_config = kind.own_config(context) if spec.socket is not None and kind.own_config is not None else None
    device = world.devices[name] = _site(world, name, spec, ends, own_config).place()
    if spec.mode == "mediated":
        assert kind.mediator is not None
        local = f"{name}{LOCAL}"
        mediator = kind.mediator(context, (name, local))
        local_ends = device.device_end, MediatorEnd(mediator, local, name)
        local_device = _site(world, local, _local_spec(spec, device.device_host), local_ends).place()
        device = attrs.evolve(device, device_end=MediatorEnd(mediator, name, local), local=local_device)
        world.devices |= {name: device, local: local_device}


def _site(
    world: World, name: str, spec: DeviceSpec, ends: tuple[End, End], own_config: OwnConfig | None = None
) -> DeviceSite:
    return DeviceSite(name, spec, world.topology, world.hosts, world.buses, world.ipc, world.events, ends, own_config)


def _local_spec(given: PeerSpec, host: Host) -> PeerSpec:
    """Return the record of the local driver's device, which is on the platform bus of ``host``."""
    return attrs.evolve(
        given,
        transport="mmio",
        link=None,
        ntb=None,
        host=host.name,
        function=0,
        mode="direct",
        ring=given.local_ring or given.ring,
        options=TransportOptions(),
    )


async def _start(world: World, nursery: trio.Nursery) -> None:
    """Start the hosts, then the devices, then the links: a device must have its features before a driver sees it."""
    nursery.start_soon(world.poller.run)
    devices = world.devices.values()
    for device in devices:
        world.readiness.follow(device)
    halves = [(device.device_host.vhost, device.back) for device in devices if device.back is not None]
    plugs = {device.vhost: device.device_end.settings for device in devices if device.back is not None}
    for host in world.hosts.values():
        settings = {device.location: device.driver_end.settings for device in devices if device.driver_host is host}
        register_drivers(host.virtio, settings)
        register_device_types(host.vhost, plugs)
        await nursery.start(host.serve)
    for link in world.links.values():
        nursery.start_soon(link.run)
    for _, back in halves:
        nursery.start_soon(back.serve)
    await bring_up(halves)
    for host in world.hosts.values():
        for end in host.sockets:
            host.vhost_user.register_device(end)
        for controller in host.controllers.values():
            controller.start()
    for remote in world.remotes.values():
        await nursery.start(remote.run, devices)
