"""A running topology: its hosts, links, devices and ports, built and taken down together, or one by one."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from typing import Any

from drivers.contracts.events import Reporter, Source
from vnet.ends.base import SideName
from vnet.errors import ControlError
from vnet.linux.background import open_background, open_shelter
from vnet.linux.collector import ignore_existing
from vnet.ports.packet.interface_watch import open_watches
from vnet.system.bring_up import UP_TIMEOUT
from vnet.system.changes import Changes, Record, no_record
from vnet.system.log import log_events, log_line
from vnet.system.losses import LossWatch
from vnet.system.parts import Parts
from vnet.system.tables import System
from vnet.topology import Topology
from vnet.topology.plan import Step

__all__ = ["World", "open_world"]


class World(System):
    """A running system, made by `open_world`, whose parts can be added and removed while it runs.

    Each change is atomic: all of it happens, or none. Changes follow one another; a second one waits for the first.
    They raise ControlError for what cannot be done with the system as it is.
    """

    _changes: Changes | None = None
    _why_fixed = ""

    def begin_changes(self, changes: Changes | None, why_fixed: str = "") -> None:
        """Allow changes from now on; None: forbid them, for the reason ``why_fixed`` in later errors."""
        self._changes, self._why_fixed = changes, why_fixed

    @property
    def changes(self) -> Changes:
        """The operations that change the system. Raises ControlError if it does not change."""
        if self._changes is None:
            raise ControlError(f"{self.name} does not change while it runs{self._why_fixed}")
        return self._changes

    async def add(self, topology: Topology, *, timeout: float = UP_TIMEOUT, present: bool = True) -> None:
        """Add the parts of ``topology``, which may refer to running parts, and return once its devices are up.

        Names must be new. ``timeout`` is as of `wait_up`; 0: do not wait. Without ``present``, endpoints of new links
        are absent until `start`, and devices are not waited for. Raises ConfigError, PrivilegeError, DriverError,
        OSError, with everything undone.
        """
        await self.changes.add(topology, timeout=timeout, present=present)

    async def add_unit(self, device: str, record: Any) -> str:
        """Add a unit to a running device, such as a `vnet.ends.scsi.LunSpec`, and return its name, such as scsi0:0:1.

        The device reports it to its driver. Raises ConfigError, with everything as it was.
        """
        return await self.changes.add_unit(device, record)

    async def remove(self, name: str, *, surprise: bool = False) -> tuple[tuple[str, str], ...]:
        """Remove a device, NTB, link, host or LUN. Returns the table and the name of all that was removed, in order.

        A LUN of a running SCSI host is DEVICE:TARGET:LUN, such as scsi0:0:1; its table is luns. With ``surprise``,
        commands under way to it end with the response FAILURE; else they are finished first.

        An NTB or link takes with it what it carries; a host must have no links and devices. Names that two tables have
        are given as table.name. With ``surprise``, drivers notice afterwards, as if a card was pulled; else requests
        under way are finished first, and drivers are unbound.
        """
        return await self.changes.remove(name, surprise=surprise)

    async def apply(
        self, topology: Topology, *, dry_run: bool = False, timeout: float = UP_TIMEOUT
    ) -> tuple[Step, ...]:
        """Make the system what ``topology`` says, by the least removals and additions; return them as steps.

        Parts that are the same in both run on, and notice nothing. With ``dry_run``, nothing is changed. ``timeout`` is
        as of `wait_up`, for new devices. Raises as `add` does; then removed parts are made again.
        """
        return await self.changes.apply(topology, dry_run=dry_run, timeout=timeout)

    async def unbind(self, device: str, side: SideName) -> None:
        """Unbind the driver of a device, or the device type at its own end, until `bind`."""
        await self.changes.unbind(device, side)

    async def bind(self, device: str, side: SideName, *, timeout: float = UP_TIMEOUT) -> None:
        """Bind one side of a device again, and return once the device is up, unless its other side is unbound.

        ``timeout`` is as of `wait_up`; 0: do not wait. Raises ProbeError if it is not up in time.
        """
        await self.changes.bind(device, side, timeout=timeout)

    async def change(self, device: str, **keys: Any) -> None:
        """Change keys of a device whose driver is unbound, such as ``queue_size``; it stays unbound.

        Raises ConfigError for an invalid value, with the device as it was.
        """
        await self.changes.change(device, keys)

    async def start(self, link: str) -> None:
        """Start the endpoint controller of a link: the endpoint is present."""
        await self.changes.set_present(link, present=True)

    async def stop(self, link: str) -> None:
        """Stop the endpoint controller of a link: the endpoint is absent, and its functions are gone from the bus."""
        await self.changes.set_present(link, present=False)


@asynccontextmanager
async def open_world(
    topology: Topology,
    name: str = "vnet",
    report: Callable[[str], None] = log_line,
    record: Record = no_record,
) -> AsyncIterator[World]:
    """Build ``topology``, bring it up, and remove all of it at the end.

    ``name`` prefixes names visible outside, such as namespaces. ``report`` takes lines for the user that are no events,
    such as that a trace file can't be written. ``record`` takes the topology of each change of the running system,
    before what is new is made and after what was removed is gone. Events are logged, see `vnet.system.log`.
    Raises ConfigError, PrivilegeError, DriverError.
    """
    world = World(name, Topology({}, {}, {}, {}))  # it grows with the parts
    async with AsyncExitStack() as stack:
        logged = stack.enter_context(ExitStack())
        log = logged.enter_context(log_events(world.events))
        stack.callback(world.poller.close)
        world.watches = await stack.enter_async_context(open_watches(Reporter(world.events, Source())))
        spaces = await stack.enter_async_context(open_shelter())
        ends = await stack.enter_async_context(open_shelter())
        stack.callback(world.close)
        nursery = await stack.enter_async_context(open_background())
        losses = LossWatch(world.events, world.devices, world.ring_looks)
        nursery.start_soon(log.run)
        nursery.start_soon(losses.run)
        nursery.start_soon(world.poller.run)
        changes = Changes(world, Parts(world, nursery, spaces, ends, losses, report), record)
        await changes.begin(topology)
        world.begin_changes(changes)
        stack.callback(world.begin_changes, None)
        stack.callback(logged.close)  # before the devices: what ends with the system is no news
        stack.callback(losses.report)
        stack.enter_context(ignore_existing())
        yield world
