"""A look at a running system, as records: each part's own copy of what it knows.

No access crosses a link, and nothing is counted because it was looked at.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import attrs

from drivers.bus.binding import Binding
from drivers.bus.model import D, R
from drivers.bus.vhost import DeviceQueue
from drivers.bus.virtio import DriverQueue, VirtioDevice
from rings.queue import QueueStatistics
from rings.status import Status
from vnet.ends.base import SideName
from vnet.system.device import Device
from vnet.system.world import World
from vnet.transports import TRANSPORTS
from vnet.views.link import LinkView
from vnet.views.pci import NtbView
from vnet.views.ring import RingReport
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
    "NO_LOSS",
    "QueueRow",
    "drop_total",
    "queue_rows",
    "queue_sides",
    "take_ring",
    "take_snapshot",
    "take_status",
]

NO_LOSS = frozenset({"stale", "stopped"})
"""Causes of port drops that are not lost traffic: frames from before the interface's start, or after its stop, as on
a cable without a plug."""
FILTERED = "filter_"
"""Prefix of the drop causes that count frames rejected by the receive filter."""


@attrs.frozen
class QueueRow:
    """Counters of a queue on one side, since the device exists."""

    device: str
    """Name of the device."""
    side: SideName
    queue: str
    """Name of the queue, such as receiveq1."""
    kicks: int
    """Kicks sent (driver) or received (device)."""
    calls: int
    """Interrupts (calls) received (driver) or sent (device)."""
    suppressed: int
    """Kicks (driver) or calls (device) suppressed by the other side."""
    packets: int
    """Number of packets, messages or requests."""
    bytes: int
    """Bytes of payload, without virtio_net_hdr."""
    drops: Mapping[str, int]
    """Number of drops by cause, without those of the ports."""
    batches: Sequence[int]
    """Number of batches of 1, 2-3, 4-7, ... packets; the last number counts all larger ones."""


def queue_rows(world: World) -> list[QueueRow]:
    """Return a row per queue and side, the driver's first; none for a side that was never up."""
    rows = []
    for device in world.devices.values():
        virtio = device.virtio
        if virtio is not None:
            rows += [_driver_row(device, queue, virtio.statistics(queue)) for queue in virtio.queues]
        if device.back is not None:
            rows += [_device_row(device, queue, queue.statistics()) for queue in device.vhost.queues]
    return rows


def drop_total(world: World) -> dict[str, int]:
    """Return all non-zero drop counters as "device.side.place.cause", such as "net0.driver.port.refused".

    Causes in `NO_LOSS`, and frames rejected by the receive filter, are left out: they are not lost traffic.
    """
    return {
        f"{device.name}.{side}.{where}.{cause}": count
        for device in world.devices.values()
        for side, where, drops in _drops(device)
        for cause, count in drops.items()
        if count and not (where == "port" and cause in NO_LOSS) and not cause.startswith(FILTERED)
    }


def take_snapshot(world: World) -> SystemView:
    """Return the system as it is now. Counters start when the device, port or link is made."""
    return SystemView(
        name=world.name,
        hosts={name: _host(world, name) for name in world.hosts},
        links={name: _link(world, name) for name in world.links},
        ntbs={name: _ntb(world, name) for name in world.ntbs},
        devices={name: _device(world, device) for name, device in world.devices.items()},
        drops=drop_total(world),
    )


def take_status(world: World) -> StatusView:
    """Return the names of all parts, and which of them are up."""
    return StatusView(
        tuple(world.hosts),
        {name: link.up for name, link in world.links.items()},
        {name: device.up for name, device in world.devices.items()},
    )


def queue_sides(device: Device) -> dict[str, tuple[DriverQueue | None, DeviceQueue | None]]:
    """Return both sides of each queue by name; None for a side without it, or in another process."""
    mine = {queue.name: queue for queue in (device.virtio.queues if device.virtio is not None else ())}
    others = {queue.name: queue for queue in (device.vhost.queues if device.back is not None else ())}
    return {name: (mine.get(name), others.get(name)) for name in mine | others}


def take_ring(mine: DriverQueue | None, other: DeviceQueue | None) -> RingReport:
    """Return the ring of a queue, given by its two sides, as it stands in the driver's own memory."""
    ring = mine.ring if mine is not None and mine.reachable() else None
    return RingReport(
        driver=None if ring is None else ring.state(),
        device=None if other is None or other.ring is None else other.ring.state(),
        ring=None if ring is None else ring.view(),
    )


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
    return LinkView(spec.root, spec.endpoint, statistics, None if trace is None else trace.statistics())


def _ntb(world: World, name: str) -> NtbView:
    spec, ntb = world.topology.ntbs[name], world.ntbs[name]
    device = world.topology.carried(spec.primary, 0)
    if device is None:
        return ntb.snapshot(spec.host)
    return ntb.snapshot(spec.host, TRANSPORTS[device.transport].register_name)


def _device(world: World, device: Device) -> DeviceView:
    spec = device.spec
    hosts = world.topology.ends(spec)
    return DeviceView(
        type=spec.type,
        transport=spec.transport,
        link=spec.link,
        on=spec.link or spec.host or spec.ntb,
        location=device.location,
        up=device.up,
        trouble="" if device.up else device.trouble(),
        driver=_driver_side(device, hosts[0]),
        device=_device_side(device, hosts[1]),
    )


def _driver_side(device: Device, host: str) -> DriverSideView:
    virtio = device.virtio
    port = device.driver_end.snapshot()
    if virtio is None:
        return DriverSideView(host=host, port=port)
    return DriverSideView(
        host=host,
        enumerated=True,
        name=virtio.name,
        binding=_binding(device.driver_host.virtio.binding(virtio)),
        status=_status(virtio.status),
        features=device.spec.virtio.table.describe(virtio.features),
        restarts=virtio.restarts,
        last_reset=ResetView(virtio.last_reset, virtio.repeats, virtio.pause),
        failures=tuple(virtio.failures),
        early_interrupts=virtio.early_interrupts,
        queues=tuple(_driver_queue(device, virtio, queue) for queue in virtio.queues),
        port=port,
    )


def _device_side(device: Device, host: str) -> DeviceSideView:
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
        status=_status(vhost.status),
        device_features=vhost.table.describe(vhost.device_features),
        driver_features=vhost.table.describe(vhost.driver_features),
        features=vhost.table.describe(vhost.features),
        resets=vhost.resets,
        failures=tuple(vhost.failures),
        queues=tuple(_device_queue(device, queue) for queue in vhost.queues),
        port=port,
    )


def _binding(binding: Binding[D, R]) -> BindingView:
    driver = binding.driver.name if binding.driver is not None else None
    return BindingView(driver, binding.state.value, binding.error)


def _driver_queue(device: Device, virtio: VirtioDevice, queue: DriverQueue) -> DriverQueueView:
    ring = virtio.statistics(queue)
    return DriverQueueView(_queue(_driver_row(device, queue, ring), queue, ring), queue.fault)


def _device_queue(device: Device, queue: DeviceQueue) -> DeviceQueueView:
    ring = queue.statistics()
    view = _queue(_device_row(device, queue, ring), queue, ring)
    return DeviceQueueView(view, queue.enabled, queue.max_num, queue.spurious)


def _queue(row: QueueRow, queue: DriverQueue | DeviceQueue, ring: QueueStatistics) -> QueueView:
    return QueueView(
        index=queue.index,
        name=queue.name,
        live=queue.live,
        ring=None if queue.ring is None else queue.ring.state(),
        chains=ring.chains,
        returned=ring.returned,
        bad_lengths=ring.bad_lengths,
        rescues=queue.signal.rescues,
        counters=QueueCounters(
            row.kicks, row.calls, row.suppressed, row.packets, row.bytes, row.drops, tuple(row.batches)
        ),
    )


def _status(status: Status) -> tuple[str, ...]:
    return tuple(str(bit.name) for bit in Status if status & bit)


def _driver_row(device: Device, queue: DriverQueue, ring: QueueStatistics) -> QueueRow:
    return _row(device, "driver", queue, ring.notifications, queue.calls, ring.suppressed)


def _device_row(device: Device, queue: DeviceQueue, ring: QueueStatistics) -> QueueRow:
    return _row(device, "device", queue, queue.kicks, ring.notifications, ring.suppressed)


def _row(
    device: Device, side: SideName, queue: DriverQueue | DeviceQueue, kicks: int, calls: int, suppressed: int
) -> QueueRow:
    figures = (device.driver_end if side == "driver" else device.device_end).figures(queue.index)
    return QueueRow(
        device=device.name,
        side=side,
        queue=queue.name,
        kicks=kicks,
        calls=calls,
        suppressed=suppressed,
        packets=figures.packets,
        bytes=figures.bytes,
        drops=dict(figures.drops),
        batches=tuple(queue.batches),
    )


def _drops(device: Device) -> Iterator[tuple[SideName, str, Mapping[str, int]]]:
    side: SideName
    for side, end in (("driver", device.driver_end), ("device", device.device_end)):
        for where, drops in end.drops():
            yield side, where, drops
