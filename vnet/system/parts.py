"""The parts of a running system: each is made, and taken away again, without the others noticing."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import Any

import attrs
import trio

from drivers.bus.vhost import VhostDevice
from drivers.carriers.options import TransportOptions
from drivers.carriers.vhost_user import OwnConfig
from drivers.storage.submit import Submitter
from vnet.ends import DEVICE_TYPES
from vnet.ends.base import End, OpenContext
from vnet.ends.foreign import ForeignEnd
from vnet.ends.mediated import MediatorEnd
from vnet.errors import ControlError
from vnet.host.host import Host
from vnet.linux.background import Held, Shelter, Task, gather, start, start_soon
from vnet.linux.netns import open_netns
from vnet.pcie.error_service import Reporting
from vnet.pcie.ntb import NtbFunction
from vnet.process_ends import RemoteEnd, StreamProcess
from vnet.spec import MIB, DeviceSpec, LinkSpec, NtbSpec, PeerSpec
from vnet.system.bring_up import register_device_types, register_drivers, wait_offered
from vnet.system.device import Device
from vnet.system.losses import LossWatch
from vnet.system.remote import RemoteRoot, RemoteServers
from vnet.system.sites import DeviceSite
from vnet.system.streams import StreamRemote
from vnet.system.tables import System
from vnet.system.trace_file import open_trace
from vnet.topology import Topology
from vnet.topology.plan import KINDS

__all__ = ["LOCAL", "Parts"]

DRAIN = 5.0
"""Seconds that requests under way may take when their device is removed."""
LOCAL = "-local"
"""Suffix of the local driver's device behind a mediated device."""
Undo = AsyncExitStack
"""Steps that take a part away again, the last one first."""


class Parts:
    """Makes parts and takes them away. One task at a time may call `make` and `take`."""

    def __init__(
        self,
        world: System,
        nursery: trio.Nursery,
        spaces: Shelter,
        ends: Shelter,
        losses: LossWatch,
        report: Callable[[str], None],
    ) -> None:
        """Tasks run in ``nursery``; ``spaces`` and ``ends`` hold namespaces and ends until their system ends.

        The tables of the world's topology must be dictionaries, which change with the parts.
        """
        self._world = world
        self._nursery = nursery
        self._spaces = spaces
        self._ends = ends
        self._losses = losses
        self._report = report
        self._tables: dict[str, dict[str, Any]] = {table: getattr(world.topology, table) for table in KINDS}
        self._undo: dict[tuple[str, str], Undo] = {}
        """Steps that take each part away, by table and name."""
        self._netns: dict[str, Held[bool]] = {}
        self._indices: dict[str, int] = {}
        """Index of each device, from which default addresses are made."""
        self._settings: dict[str, dict[str, Any]] = {}
        """Settings of drivers, by host and then by the location of the device."""
        self._plugs: dict[str, dict[VhostDevice, Any]] = {}
        """Plugs of devices, by host."""

    async def make(self, new: Topology, whole: Topology, *, present: bool = True) -> None:
        """Make the parts of ``new``, all or none; ``whole`` is the topology of the system with them.

        Without ``present``, the endpoints of new links stay absent until `EndpointController.start`.
        Raises ConfigError, PrivilegeError, DriverError, OSError.
        """
        try:
            opened = await self._open(new, whole)
            self._place(new, opened)
            await self._start(new, present)
        except BaseException:
            with trio.CancelScope(shield=True):
                await self.take(new, surprise=True)
            raise

    async def take(self, parts: Topology, *, surprise: bool = False) -> None:
        """Take the parts of ``parts`` away, of which some may not exist; all that is on them must be among them.

        Unless with ``surprise``, drivers are unbound first. It must not be cancelled. An error of one part is raised
        once all are gone.
        """
        world = self._world
        devices = [device for name in parts.devices if (device := world.devices.get(name)) is not None]
        both = [each for device in devices for each in (device, device.local) if each is not None]
        if not surprise:
            driven = [each for each in both if each.spec.driven]
            await gather([partial(each.driver_host.virtio.unbind, each.location) for each in driven])
        else:
            for link in parts.links:
                if link in world.links:  # the card is pulled: all its functions are gone at once
                    world.links[link].set_present(False)
        errors = [await self._close("remotes", name) for name in parts.links]
        for each in both:
            self._unlist(each)
        for table in reversed(KINDS):
            names = list(getattr(parts, table))
            errors += await gather([partial(self._close, table, name) for name in names])
            for name in names:
                self._tables[table].pop(name, None)
        for each in both:
            if each.spec.driven:
                each.driver_host.virtio.bind(each.location)
            each.device_host.vhost.bind(each.name)
        if world.watches is not None:
            await world.watches.close_discarded()
        await self._leave_netns()
        for error in filter(None, errors):
            raise error

    def replace(self, name: str, spec: DeviceSpec) -> None:
        """Note in the topology that a device which runs on has another record."""
        self._tables["devices"][name] = spec

    @asynccontextmanager
    async def drained(self, parts: Topology) -> AsyncIterator[None]:
        """Hold the requests to devices within the context, after `drain`."""
        await self.drain(parts)
        try:
            yield
        finally:
            for requests in self._requests(parts).values():
                requests.resume()

    def _requests(self, parts: Topology) -> dict[str, Submitter[Any]]:
        known = [device for name in parts.devices if (device := self._world.devices.get(name)) is not None]
        return {each.name: requests for each in known if (requests := each.driver_end.requests) is not None}

    async def drain(self, parts: Topology) -> None:
        """Finish the requests under way to the devices of ``parts``, which begin no others.

        Raises ControlError if that takes longer than `DRAIN` seconds: they begin others again.
        """
        draining = self._requests(parts)
        done: set[str] = set()

        async def drain(name: str, requests: Submitter[Any]) -> None:
            await requests.drain()
            done.add(name)

        try:
            with trio.fail_after(DRAIN):
                await gather([partial(drain, name, requests) for name, requests in draining.items()])
        except BaseException as exc:
            for requests in draining.values():
                requests.resume()
            if not isinstance(exc, trio.TooSlowError):
                raise
            late = ", ".join(name for name in draining if name not in done)
            raise ControlError(f"{late}: requests are still under way after {DRAIN:g} s; try --surprise") from None

    async def _close(self, table: str, name: str) -> Exception | None:
        """Take one part away; do nothing if there is none. Return its error, which must not end the other removals."""
        undo = self._undo.pop((table, name), None)
        if undo is not None:
            try:
                await undo.aclose()
            except Exception as error:  # noqa: BLE001  raised by `take`
                return error
        return None

    def _unlist(self, device: Device) -> None:
        """Take a device out of all looks at the system."""
        self._losses.forget(device.name)
        self._world.data_path.forget(device)
        del self._world.devices[device.name]
        if self._world.shuttles is not None:
            self._world.shuttles.remove(device.name)
        self._world.readiness.leave(device)

    # Namespaces and ends, at the same time

    async def _open(self, new: Topology, whole: Topology) -> dict[str, tuple[OpenContext[Any], tuple[End, End]]]:
        names = [name for name in whole.own_netns(self._world.name) if name not in self._netns]
        await gather([partial(self._enter_netns, name) for name in names])
        contexts = [self._context(name, spec, whole) for name, spec in new.devices.items()]
        ends = await gather([partial(self._enter_ends, context) for context in contexts])
        return {context.name: (context, both) for context, both in zip(contexts, ends, strict=True)}

    def _context(self, name: str, spec: DeviceSpec, whole: Topology) -> OpenContext[Any]:
        world, taken = self._world, set(self._indices.values())
        index = next(index for index in range(len(taken) + 1) if index not in taken)
        self._indices[name] = index
        self._undo["devices", name] = undo = Undo()
        undo.callback(self._indices.pop, name)
        return OpenContext[Any](world.name, name, index, spec, whole.ends(spec), world.poller, world.watches)

    async def _enter_netns(self, name: str) -> None:
        self._netns[name] = await self._spaces.enter(open_netns(name))

    async def _leave_netns(self) -> None:
        """Leave the namespaces that no port uses any more."""
        used = self._world.topology.own_netns(self._world.name)
        held = [self._netns.pop(name) for name in [name for name in self._netns if name not in used]]
        await gather([partial(self._spaces.leave, each) for each in held])

    async def _enter_ends(self, context: OpenContext[Any]) -> tuple[End, End]:
        held = await self._ends.enter(_open_ends(context))
        self._undo["devices", context.name].push_async_callback(self._ends.leave, held)
        assert held.value is not None
        return held.value

    # Objects, at one instant

    def _place(self, new: Topology, opened: Mapping[str, tuple[OpenContext[Any], tuple[End, End]]]) -> None:
        for table in KINDS:
            self._tables[table].update(getattr(new, table))
        for name in new.hosts:
            self._undo["hosts", name] = undo = Undo()
            self._place_host(name, undo)
        for name, link in new.links.items():
            self._undo["links", name] = undo = Undo()
            self._place_link(name, link, undo)
        for name, ntb in new.ntbs.items():
            self._undo["ntbs", name] = undo = Undo()
            self._place_ntb(name, ntb, undo)
        for context, ends in opened.values():
            self._place_device(context, ends, self._undo["devices", context.name])
        self._world.data_path.adapt()

    def _place_host(self, name: str, undo: Undo) -> None:
        world = self._world
        memory = world.topology.hosts[name].memory
        assert memory is not None  # `Topology.sized`
        host = world.hosts[name] = Host(name, memory * MIB, world.events)
        undo.callback(world.hosts.pop, name)
        undo.callback(host.close)
        self._settings[name], self._plugs[name] = {}, {}
        undo.callback(self._settings.pop, name)
        undo.callback(self._plugs.pop, name)
        register_drivers(host.virtio, self._settings[name])
        register_device_types(host.vhost, self._plugs[name])

    def _place_link(self, name: str, spec: LinkSpec, undo: Undo) -> None:
        world = self._world
        if spec.trace is not None:
            trace = world.traces[name] = open_trace(name, spec.trace, self._report)
            undo.callback(world.traces.pop, name)
            undo.callback(trace.close)
        sink = world.traces[name].write if name in world.traces else None
        undo.callback(world.remove_link, name)
        if isinstance(spec.root, StreamProcess):
            remote = world.remotes[name] = StreamRemote(name, spec.root, world.events, self._report)
            link = world.add_link(name, remote.rc(world.hosts[spec.ends[1]], name), sink)
            world.buses[name] = remote.attach_root(link)
        elif isinstance(spec.root, RemoteEnd):
            world.poller.moderate()
            root = world.remotes[name] = RemoteRoot(world.ipc, name, spec.root, world.topology, self._report)
            link = world.add_link(name, root.rc, sink)
            world.buses[name] = root.attach(link)
        else:
            rc = world.hosts[str(spec.root)].rc
            link = world.add_link(name, rc, sink)
            wire = world.error_wire(name)
            ecrc = spec.wire is not None and spec.wire.ecrc
            reporting = None if wire is None else Reporting(wire, ecrc, world.events)
            world.buses[name] = rc.attach(link, reporting)
        if isinstance(spec.endpoint, StreamProcess):
            remote = world.remotes[name] = StreamRemote(name, spec.endpoint, world.events, self._report)
            remote.attach_endpoint(link, world.hosts[spec.ends[0]])
        elif isinstance(spec.endpoint, RemoteEnd):
            host = world.hosts[spec.ends[0]]
            world.remotes[name] = RemoteServers(
                world.ipc, name, spec.endpoint, world.topology, host, link, self._report
            )
        else:
            host = world.hosts[str(spec.endpoint)]
            host.add_controller(name, link, world.error_wire(name))
            undo.callback(host.remove_controller, name)

    def _place_ntb(self, name: str, spec: NtbSpec, undo: Undo) -> None:
        world, controllers = self._world, self._world.hosts[spec.host].controllers
        assert spec.mw is not None  # `Topology.sized`
        ntb = NtbFunction(
            controllers[spec.primary],
            controllers[spec.secondary],
            windows=[size * MIB for size in (spec.mw, *spec.more_mw)],
            spads=spec.spads,
            ids=spec.ids,
        )
        ntb.bind()
        world.ntbs[name] = ntb
        for link in (spec.primary, spec.secondary):
            undo.push_async_callback(self._drop_function, link, ntb.number)
        undo.callback(world.ntbs.pop, name)
        undo.callback(ntb.unbind)
        for link in (spec.primary, spec.secondary):
            world.registers[link].rc.function_added(world.links[link], ntb.number)

    async def _drop_function(self, link: str, number: int) -> None:
        """Have a link's root complex notice that a function is gone, and return once no driver uses it."""
        world, root = self._world, self._world.topology.links[link].root
        rc = world.registers[link].rc
        rc.function_removed(world.links[link], number)
        if isinstance(root, str):
            await world.hosts[root].pci.clear(rc.function_name(world.buses[link], number))

    def _place_device(self, context: OpenContext[Any], ends: tuple[End, End], undo: Undo) -> None:
        """Put a device on its carrier; in mediated mode, also the local driver's device, which is behind it."""
        name, spec, kind = context.name, context.spec, DEVICE_TYPES[context.spec.type]
        own_config = kind.own_config(context) if spec.socket is not None and kind.own_config is not None else None
        device = self._site(name, spec, ends, own_config).place()
        if spec.mode == "mediated":
            assert kind.mediator is not None
            local = f"{name}{LOCAL}"
            mediator = kind.mediator(context, (name, local))
            local_ends = device.device_end, MediatorEnd(mediator, local, name)
            local_device = self._site(local, _local_spec(spec, device.device_host), local_ends).place()
            device = attrs.evolve(device, device_end=MediatorEnd(mediator, name, local), local=local_device)
        for each in (device, device.local):
            if each is not None:
                self._list(each, undo)

    def _site(
        self, name: str, spec: DeviceSpec, ends: tuple[End, End], own_config: OwnConfig | None = None
    ) -> DeviceSite:
        world = self._world
        links, registers, buses = world.links, world.registers, world.buses
        return DeviceSite(
            name, spec, world.topology, world.hosts, links, registers, buses, world.ipc, world.events, ends, own_config
        )

    def _list(self, device: Device, undo: Undo) -> None:
        """Make a device part of the system, before its other side sees it."""
        world, assigned = self._world, self._settings[device.driver_host.name]
        assert device.carrier is not None
        undo.callback(device.carrier.free)
        undo.callback(device.driver_host.names.pop, device.location, None)
        assigned[device.location] = device.driver_end.settings
        undo.callback(assigned.pop, device.location)
        world.devices[device.name] = device
        world.readiness.follow(device)
        if world.shuttles is not None:
            world.shuttles.add(device)
        if device.back is not None:
            vhost, plugs = device.vhost, self._plugs[device.device_host.name]
            plugs[vhost] = device.device_end.settings
            undo.callback(plugs.pop, vhost)
            device.device_host.vhost.register_device(vhost)
            undo.push_async_callback(device.device_host.vhost.discard_device, vhost)

    # Tasks

    async def _start(self, new: Topology, present: bool) -> None:
        """Start hosts, then devices, then links: a device must have its features before a driver sees it."""
        world = self._world
        devices = [world.devices[name] for name in new.devices]
        devices += [device.local for device in devices if device.local is not None]
        for name in new.hosts:
            self._push(("hosts", name), await start(self._nursery, world.hosts[name].serve))
        for name in new.links:
            self._push(("links", name), start_soon(self._nursery, world.links[name].run))
        for device in devices:
            for part in (device.back, device.carrier):
                if part is not None and part.serve is not None:
                    self._push(self._key(device), start_soon(self._nursery, part.serve))
        await wait_offered([(each.device_host.vhost, each.back) for each in devices if each.back is not None])
        for device in devices:  # in order, so that equal systems are equal
            assert device.carrier is not None
            self._undo[self._key(device)].push_async_callback(device.carrier.hide)
            device.carrier.show()
        for name, spec in new.links.items():
            if present and isinstance(spec.endpoint, str):
                world.hosts[spec.endpoint].controllers[name].start()
        for name in new.links:
            if name in world.remotes:
                task = await start(self._nursery, partial(world.remotes[name].run, world.devices.values()))
                self._undo["remotes", name] = Undo()
                self._push(("remotes", name), task)

    def _push(self, part: tuple[str, str], task: Task) -> None:
        self._undo[part].push_async_callback(task.stop)

    def _key(self, device: Device) -> tuple[str, str]:
        """Return the part that a device belongs to: a local driver's device belongs to the mediated one."""
        name = device.name
        return "devices", name if name in self._tables["devices"] else name.removesuffix(LOCAL)


@asynccontextmanager
async def _open_ends(context: OpenContext[Any]) -> AsyncIterator[tuple[End, End]]:
    kind = DEVICE_TYPES[context.spec.type]
    spec = context.spec
    if spec.foreign:
        async with kind.open_alone("driver", context) as driver:
            protocol = "vhost-user" if spec.socket is not None else _protocol(context.hosts[1])
            yield driver, ForeignEnd(context.hosts[1], protocol)
    elif not spec.driven:
        async with kind.open_alone("device", context) as device:
            yield ForeignEnd(context.hosts[0], _protocol(context.hosts[0])), device
    else:
        async with kind.open(context) as ends:
            yield ends


def _protocol(end: str) -> str:
    """Return the protocol of an end of a link in another process, with which its name begins."""
    return end.partition(" ")[0]


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
