"""A look at a running system, as records: each part's own copy of what it knows.

No access crosses a link, and nothing is counted because it was looked at.
"""

from __future__ import annotations

from collections.abc import Callable

import attrs
import trio

from drivers.bus.binding import Binding
from drivers.bus.model import D, R
from drivers.bus.vhost import DeviceQueue
from drivers.bus.virtio import DriverQueue, VirtioDevice
from rings.queue import QueueStatistics
from rings.status import status_names
from vnet.ends.base import End, SideName
from vnet.system.device import Device
from vnet.system.losses import drop_counts
from vnet.system.ring_looks import RingLooks, all_used
from vnet.system.sandbox import sandbox_view
from vnet.system.verdicts import judge
from vnet.system.world import World
from vnet.topology.plan import unit_name
from vnet.transports import TRANSPORTS
from vnet.views.link import LinkView
from vnet.views.pci import LinkErrorView, NtbView
from vnet.views.plain import INLINE
from vnet.views.system import (
    BindingView,
    DeviceQueueView,
    DeviceSideView,
    DeviceView,
    DriverQueueView,
    DriverSideView,
    HostView,
    QueueCounters,
    QueueView,
    ResetView,
    StatusView,
    SystemView,
)

__all__ = [
    "QueueRow",
    "drop_total",
    "queue_rows",
    "queue_sides",
    "take_device",
    "take_ntb",
    "take_snapshot",
    "take_status",
]


Age = Callable[[DriverQueue | DeviceQueue], float | None]
"""Returns `QueueView.waited` of a queue."""


LONG = 1.0
"""Seconds from which a chain of a driver may be one that is used already: whether it is takes a copy of the ring."""


def _no_age(_: DriverQueue | DeviceQueue) -> float | None:
    return None


@attrs.frozen
class _Ages:
    """The ages of chains at one look."""

    device: Device
    looks: RingLooks
    now: float

    def __call__(self, queue: DriverQueue | DeviceQueue) -> float | None:
        if queue.ring is None or not queue.live or queue not in self.device.asking_queues:
            return None
        counters = queue.ring.statistics()
        waited = self.looks.waited(queue.ring, counters, self.now)
        if isinstance(queue, DriverQueue) and (waited or 0.0) >= LONG:
            waited = self.looks.waited(queue.ring, all_used(counters, queue.ring.view()), self.now)
        return waited


@attrs.frozen
class QueueRow:
    """Counters of a queue on one side, since the device exists."""

    device: str
    """Name of the device."""
    side: SideName
    queue: str
    """Name of the queue, such as receiveq1."""
    counters: QueueCounters = attrs.field(metadata=INLINE)


def queue_rows(world: World) -> list[QueueRow]:
    """Return a row per queue and side, the driver's first; none for a side that was never up."""
    rows: list[QueueRow] = []
    for device in world.devices.values():
        driver, other = _driver_queues(device), _device_queues(device)
        rows += [QueueRow(device.name, "driver", queue.view.name, queue.view.counters) for queue in driver]
        rows += [QueueRow(device.name, "device", queue.view.name, queue.view.counters) for queue in other]
    return rows


def drop_total(world: World) -> dict[str, int]:
    """Return all non-zero drop counters as "device.side.place.cause", such as "net0.driver.port.refused".

    Drops that are not lost traffic are left out, see `drop_counts`.
    """
    return {
        f"{device.name}.{drop.source.side}.{drop.place}.{drop.cause}": drop.count
        for device in world.devices.values()
        for drop in drop_counts(device)
        if drop.count
    }


def take_snapshot(world: World) -> SystemView:
    """Return the system as it is now. Counters start when the device, port or link is made."""
    return SystemView(
        name=world.name,
        hosts={name: _host(world, name) for name in world.hosts},
        links={name: _link(world, name) for name in world.links},
        ntbs={name: take_ntb(world, name) for name in world.ntbs},
        devices=_devices(world),
        drops=drop_total(world),
        sandbox=sandbox_view(),
        processes={process.name: process.view() for process in world.processes},
    )


def take_status(world: World) -> StatusView:
    """Return the names of all parts, and which of them are up."""
    devices = _devices(world)
    return StatusView(
        tuple(world.hosts),
        {name: link.up for name, link in world.links.items()},
        {name: device.up for name, device in devices.items()},
        {name: device.verdict for name, device in devices.items() if device.verdict is not None},
        tuple(world.ntbs),
        tuple(unit_name(name, unit) for name, spec in world.topology.devices.items() for unit in spec.units),
    )


def _devices(world: World) -> dict[str, DeviceView]:
    """Return all devices, each after a look at its rings."""
    now = trio.current_time()
    views = {name: _device(device, world.ring_looks, now) for name, device in world.devices.items()}
    return {name: attrs.evolve(view, verdict=judge(world.name, name, view)) for name, view in views.items()}


def queue_sides(device: Device) -> dict[str, tuple[DriverQueue | None, DeviceQueue | None]]:
    """Return both sides of each queue by name; None for a side without it, or in another process."""
    mine = {queue.name: queue for queue in device.driver_queues}
    others = {queue.name: queue for queue in device.device_queues}
    return {name: (mine.get(name), others.get(name)) for name in mine | others}


def _host(world: World, name: str) -> HostView:
    host = world.hosts[name]
    return HostView(
        netns=world.topology.host_netns(world.name, name),
        pci=host.rc.snapshot(),
        interrupts=host.rc.statistics(),
        controllers=tuple(controller.snapshot() for controller in host.controllers.values()),
        platform=tuple(region.snapshot() for region in host.platform.regions),
        sockets=tuple(socket.snapshot() for socket in host.sockets),
    )


def _link(world: World, name: str) -> LinkView:
    spec, trace = world.topology.links[name], world.traces.get(name)
    statistics = world.links[name].statistics()
    remote = world.remotes.get(name)
    return LinkView(
        *spec.ends,
        statistics,
        None if trace is None else trace.statistics(),
        None if remote is None else remote.snapshot(),
        _errors(world, name),
    )


def _errors(world: World, name: str) -> LinkErrorView | None:
    spec, rc = world.topology.links[name], world.registers[name].rc
    root = rc.errors(world.links[name])
    host = world.hosts.get(spec.ends[1])
    controller = None if host is None else host.controllers.get(name)
    if root is None or controller is None or controller.errors is None:
        return None
    bus = world.buses[name]
    views = {rc.function_name(bus, number): view for number, view in controller.errors.views().items()}
    return LinkErrorView(root.snapshot(), views)


def take_ntb(world: World, name: str) -> NtbView:
    """Return one NTB as it is now."""
    spec, ntb = world.topology.ntbs[name], world.ntbs[name]
    carried = world.topology.carried(spec.primary, 0)
    if carried is None:
        return ntb.snapshot(spec.host)
    return ntb.snapshot(spec.host, TRANSPORTS[carried[1].transport].register_name)


def take_device(world: World, name: str) -> DeviceView:
    """Return one device as it is now."""
    return _device(world.devices[name], world.ring_looks, trio.current_time())


def _device(device: Device, looks: RingLooks, now: float) -> DeviceView:
    age = _Ages(device, looks, now)
    spec = device.spec
    return DeviceView(
        type=spec.type,
        transport=spec.transport,
        link=spec.link,
        on=spec.link or spec.host or spec.ntb,
        location=device.location,
        up=device.up,
        trouble="" if device.up else device.trouble(),
        driver=_driver_side(device, device.hosts[0], age),
        device=_device_side(device, device.hosts[1], age),
    )


def _driver_side(device: Device, host: str, age: Age) -> DriverSideView:
    virtio = device.virtio
    port = device.driver_end.snapshot()
    if virtio is None:
        return DriverSideView(host=host, foreign=not device.spec.driven, port=port)
    return DriverSideView(
        host=host,
        enumerated=True,
        name=virtio.name,
        binding=_binding(device.driver_host.virtio.binding(virtio)),
        status=status_names(virtio.status),
        features=device.spec.virtio.table.describe(virtio.features),
        restarts=virtio.restarts,
        last_reset=_reset(virtio),
        failures=tuple(virtio.failures),
        early_interrupts=virtio.early_interrupts,
        queues=_driver_queues(device, age),
        port=port,
    )


def _device_side(device: Device, host: str, age: Age) -> DeviceSideView:
    port = device.device_end.snapshot()
    if device.back is None:
        return DeviceSideView(host=host, port=port)
    vhost = device.vhost
    return DeviceSideView(
        host=host,
        foreign=False,
        name=vhost.name,
        registers=device.back.registers(),
        binding=_binding(device.device_host.vhost.binding(vhost)),
        status=status_names(vhost.status),
        device_features=vhost.table.describe(vhost.device_features),
        driver_features=vhost.table.describe(vhost.driver_features),
        features=vhost.table.describe(vhost.features),
        resets=vhost.resets,
        failures=tuple(vhost.failures),
        queues=_device_queues(device, age),
        port=port,
    )


def _reset(virtio: VirtioDevice) -> ResetView:
    if not virtio.last_reset:
        return ResetView()
    return ResetView(virtio.last_reset, virtio.repeats, virtio.pause, trio.current_time() - virtio.restarted)


def _binding(binding: Binding[D, R]) -> BindingView:
    driver = binding.driver.name if binding.driver is not None else None
    return BindingView(driver, binding.state.value, binding.error)


def _driver_queues(device: Device, age: Age = _no_age) -> tuple[DriverQueueView, ...]:
    rings = [(queue, queue.statistics()) for queue in device.driver_queues]
    end = device.driver_end
    return tuple(
        DriverQueueView(_queue(queue, end, ring, age(queue), kicks=ring.notifications, calls=queue.calls), queue.fault)
        for queue, ring in rings
    )


def _device_queues(device: Device, age: Age = _no_age) -> tuple[DeviceQueueView, ...]:
    rings = [(queue, queue.statistics()) for queue in device.device_queues]
    end = device.device_end
    return tuple(
        DeviceQueueView(
            _queue(queue, end, ring, age(queue), kicks=queue.kicks, calls=ring.notifications),
            queue.enabled,
            queue.max_num,
            queue.spurious,
            queue.fault,
        )
        for queue, ring in rings
    )


def _queue(
    queue: DriverQueue | DeviceQueue, end: End, ring: QueueStatistics, waited: float | None, *, kicks: int, calls: int
) -> QueueView:
    figures = end.figures(queue.index)
    return QueueView(
        index=queue.index,
        name=queue.name,
        live=queue.live,
        ring=None if queue.ring is None else queue.ring.state(),
        chains=ring.chains,
        returned=ring.returned,
        bad_lengths=ring.bad_lengths,
        rescues=queue.signal.rescues,
        waited=waited,
        counters=QueueCounters(
            kicks=kicks,
            calls=calls,
            suppressed=ring.suppressed,
            packets=figures.packets,
            bytes=figures.bytes,
            drops=dict(figures.drops),
            batches=tuple(queue.batches),
        ),
        path="" if queue.ring is None else "native" if queue.ring.native else "python",
    )
