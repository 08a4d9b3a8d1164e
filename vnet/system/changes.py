"""Changes of a running system: each happens as a whole or not at all, and one follows another."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import trio

from vnet.ends.base import SideName
from vnet.errors import ControlError
from vnet.names import named
from vnet.spec import RemoteEnd
from vnet.system.device import Device
from vnet.system.parts import TABLES, Parts
from vnet.system.tables import System
from vnet.topology import Topology
from vnet.topology.join import join

__all__ = ["Changes", "Record", "no_record"]

Record = Callable[[Topology], None]
"""Takes the topology of a running system when it changes. Raises OSError if it can't record it."""


def no_record(topology: Topology) -> None:
    """Do nothing: nothing outside the process keeps a record of the system."""


class Changes:
    """The operations on one system."""

    def __init__(self, system: System, parts: Parts, record: Record) -> None:
        self._system = system
        self._parts = parts
        self._record = record
        self._lock = trio.Lock()

    async def begin(self, topology: Topology) -> None:
        """Make the first parts, which are not waited for. Raises as `add` does."""
        whole = topology.sized()
        await self._parts.make(whole, whole)

    async def add(self, topology: Topology, *, timeout: float, present: bool) -> None:
        """See `vnet.system.world.World.add`."""
        async with self._lock:
            whole, new = join(self._system.topology, topology)
            try:
                self._record(whole)
                await self._parts.make(new, whole, present=present)
            except BaseException:
                self._record(self._system.topology)
                raise
            made = self._running(new)
        if timeout and present:
            await self._wait_up(new, made, timeout)

    async def _wait_up(self, new: Topology, made: Mapping[tuple[str, str], object], timeout: float) -> None:
        """Wait for the devices of ``new``, or take it away again. ``made`` are its parts as they were made."""
        devices = [part for part in made.values() if isinstance(part, Device)]
        names = [each.name for device in devices for each in (device, device.local) if each is not None]
        try:
            await self._system.readiness.wait_up(timeout, names)
        except BaseException:
            with trio.CancelScope(shield=True):
                async with self._lock:
                    now = self._running(new)
                    gone = {key for key, part in made.items() if now.get(key) is not part}
                    left = [
                        {k: v for k, v in getattr(new, table).items() if (table, k) not in gone} for table in TABLES
                    ]
                    await self._take(Topology(**dict(zip(TABLES, left, strict=True))), surprise=True)
            raise

    def _running(self, parts: Topology) -> dict[tuple[str, str], object]:
        """Return the running parts with the names of ``parts``, by table and name."""
        running = {table: getattr(self._system, table) for table in TABLES}
        return {
            (table, name): running[table][name]
            for table in TABLES
            for name in getattr(parts, table)
            if name in running[table]
        }

    async def remove(self, name: str, *, surprise: bool) -> tuple[str, ...]:
        """See `vnet.system.world.World.remove`."""
        async with self._lock:
            parts = self._carried(*self._find(name))
            with trio.CancelScope(shield=True):
                await self._take(parts, surprise=surprise)
        return tuple(name for table in reversed(TABLES) for name in getattr(parts, table))

    async def _take(self, parts: Topology, *, surprise: bool) -> None:
        await self._parts.take(parts, surprise=surprise)
        self._record(self._system.topology)

    def _find(self, name: str) -> tuple[str, str]:
        """Return the table and the name of a running part. Raises ControlError."""
        topology = self._system.topology
        known = [(table, each) for table in reversed(TABLES) for each in getattr(topology, table)]
        matches = [(table, each) for table, each in known if name in (each, f"{table}.{each}")]
        if len(matches) > 1:
            raise ControlError(f"{name}: must be one of {', '.join(f'{table}.{each}' for table, each in matches)}")
        return (
            matches[0] if matches else named("part", {each: (table, each) for table, each in known}, name, ControlError)
        )

    def _carried(self, table: str, name: str) -> Topology:
        """Return the part with all that it carries. Raises ControlError if the part is needed, or can't be alone."""
        running = self._system.topology
        if table == "hosts":
            users = list(_users(running, name))
            if users:
                raise ControlError(f"host {name}: remove what uses it first: {', '.join(users)}")
            return Topology({name: running.hosts[name]}, {}, {})
        links = {name} if table == "links" else set()
        ntbs = {
            each
            for each, ntb in running.ntbs.items()
            if links & {ntb.primary, ntb.secondary} or (table, name) == ("ntbs", each)
        }
        devices = {
            each: device
            for each, device in running.devices.items()
            if device.link in links or device.ntb in ntbs or (table, name) == ("devices", each)
        }
        for each, device in devices.items():
            link = running.links.get(device.link or "")
            if (
                link is not None
                and not links
                and (isinstance(link.root, RemoteEnd) or isinstance(link.endpoint, RemoteEnd))
            ):
                raise ControlError(
                    f"device {each}: it comes and goes with its link, an end of which is in another process; "
                    f"try: vnet remove {device.link}"
                )
        return Topology(
            {}, {each: running.links[each] for each in links}, devices, {each: running.ntbs[each] for each in ntbs}
        )

    # Drivers and controllers

    async def unbind(self, name: str, side: SideName) -> None:
        """See `vnet.system.world.World.unbind`."""
        async with self._lock:
            device = self._device(name, side)
            if side == "driver":
                await device.driver_host.virtio.unbind(device.location)
            else:
                await device.device_host.vhost.unbind(device.name)

    async def bind(self, name: str, side: SideName, *, timeout: float) -> None:
        """See `vnet.system.world.World.bind`."""
        async with self._lock:
            device = self._device(name, side)
            if side == "driver":
                device.driver_host.virtio.bind(device.location)
            else:
                device.device_host.vhost.bind(device.name)
        if timeout:
            await self._system.readiness.wait_up(timeout, [name])

    def _device(self, name: str, side: SideName) -> Device:
        """Return a device with this side in this process. Raises ControlError."""
        device = named("device", self._system.devices, name, ControlError)
        if not (device.spec.driven if side == "driver" else device.back is not None):
            raise ControlError(f"{name}: its {side} is in another process")
        return device

    async def set_present(self, name: str, *, present: bool) -> None:
        """See `vnet.system.world.World.start` and `stop`."""
        async with self._lock:
            link = named("link", self._system.links, name, ControlError)
            if isinstance(self._system.topology.links[name].endpoint, RemoteEnd):
                raise ControlError(f"{name}: its endpoint is in another process")
            link.set_present(present)
            await trio.lowlevel.checkpoint()


def _users(topology: Topology, host: str) -> Iterator[str]:
    """Yield the names of the links, NTBs and devices of a host."""
    for name, device in topology.devices.items():
        if device.host == host:
            yield name
    yield from (name for name, ntb in topology.ntbs.items() if ntb.host == host)
    yield from (name for name, link in topology.links.items() if host in link.ends)
