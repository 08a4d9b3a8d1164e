"""A running system as plain data for JSON: its PCI tree, devices, features by name, rings and counters.

All functions only read and return copies.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import attrs

from drivers.bus.binding import Binding
from drivers.bus.model import D, R
from drivers.bus.vhost import DeviceQueue
from drivers.bus.virtio import DriverQueue, VirtioDevice
from drivers.carriers.ntb_registers import DB_ENTRY_SIZE, SPAD_OFFSET, Bar
from drivers.registry import TRANSPORTS
from rings.queue import QueueStatistics
from rings.status import Status
from vnet.ends.base import Side
from vnet.system.world import Device, World

__all__ = ["NO_LOSS", "QueueRow", "describe", "drop_total", "queue_rows"]

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
    side: Side
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
            rows += [_driver_row(device, virtio, queue) for queue in virtio.queues]
        if device.back is not None:
            rows += [_device_row(device, queue) for queue in device.vhost.queues]
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


def describe(world: World) -> dict[str, object]:
    """Return the system as plain data. Counters start when the device, port or link is made."""
    return {
        "name": world.name,
        "hosts": {name: _host(world, name) for name in world.hosts},
        "links": {
            name: {
                "root": spec.root,
                "endpoint": spec.endpoint,
                **attrs.asdict(world.links[name].statistics()),
                "trace": attrs.asdict(world.traces[name].statistics()) if name in world.traces else None,
            }
            for name, spec in world.topology.links.items()
        },
        "ntbs": {name: _ntb(world, name) for name in world.ntbs},
        "devices": {name: _device(world, device) for name, device in world.devices.items()},
        "drops": drop_total(world),
    }


def _host(world: World, name: str) -> dict[str, object]:
    host = world.hosts[name]
    return {
        "netns": world.topology.host_netns(world.name, name),
        "pci": host.rc.describe(),
        "interrupts": attrs.asdict(host.rc.statistics()),
        "controllers": [controller.describe() for controller in host.controllers.values()],
        "platform": host.platform.describe(),
        "sockets": [socket.describe() for socket in host.sockets],
    }


def _ntb(world: World, name: str) -> dict[str, object]:
    spec = world.topology.ntbs[name]
    device = world.topology.carried(spec.primary, 0)
    names = TRANSPORTS[device.transport].names if device is not None else lambda bar, offset: None
    description = world.ntbs[name].describe()
    for end in ("primary", "secondary"):
        side = description[end]
        assert isinstance(side, dict)
        side["spads"] = {
            names(Bar.CONFIG, SPAD_OFFSET + 4 * at) or f"spad {at}": value for at, value in enumerate(side["spads"])
        }
        side["rung"] = {
            names(Bar.WINDOWS, DB_ENTRY_SIZE * int(at)) or f"doorbell {at}": count for at, count in side["rung"].items()
        }
    return {"host": spec.host, **description}


def _device(world: World, device: Device) -> dict[str, object]:
    spec = device.spec
    hosts = world.topology.ends(spec)
    return {
        "type": spec.type,
        "transport": spec.transport,
        "link": spec.link,
        "on": spec.link or spec.host or spec.ntb,
        "location": device.location,
        "up": device.up,
        "trouble": "" if device.up else device.trouble(),
        "driver": {
            "host": hosts[0],
            **_driver_end(device),
            "port": device.driver_end.describe(),
        },
        "device": {
            "host": hosts[1],
            **_device_end(device),
            "port": device.device_end.describe(),
        },
    }


def _driver_end(device: Device) -> dict[str, object]:
    virtio = device.virtio
    binding = next((b for b in device.root.virtio.bindings if b.device is virtio), None)
    if virtio is None or binding is None:
        return {"found": False}
    return {
        "found": True,
        "name": virtio.name,
        **_binding(binding),
        "status": _status(virtio.status),
        "features": list(device.spec.virtio.table.describe(virtio.features)),
        "restarts": virtio.restarts,
        "last_reset": {"reason": virtio.last_reset, "in_a_row": virtio.repeats, "pause": virtio.pause},
        "failures": list(virtio.failures),
        "early_interrupts": virtio.early_interrupts,
        "queues": [
            {
                **_queue(_driver_row(device, virtio, queue), queue, virtio.statistics(queue)),
                "ring": attrs.asdict(queue.ring.state()),
                "fault": queue.fault,
            }
            for queue in virtio.queues
        ],
    }


def _device_end(device: Device) -> dict[str, object]:
    if device.back is None:
        return {"found": False, "foreign": True}
    vhost = device.vhost
    return {
        "name": vhost.name,
        "registers": device.back.registers(),
        **_binding(device.endpoint.vhost.binding(vhost)),
        "status": _status(vhost.status),
        "device_features": list(vhost.table.describe(vhost.device_features)),
        "driver_features": list(vhost.table.describe(vhost.driver_features)),
        "features": list(vhost.table.describe(vhost.features)),
        "resets": vhost.resets,
        "failures": list(vhost.failures),
        "queues": [
            {
                **_queue(_device_row(device, queue), queue, queue.statistics()),
                "ring": attrs.asdict(queue.ring.state()) if queue.ring is not None else None,
                "enabled": queue.enabled,
                "max_num": queue.max_num,
                "spurious_kicks": queue.spurious,
            }
            for queue in vhost.queues
        ],
    }


def _binding(binding: Binding[D, R]) -> dict[str, object]:
    driver = binding.driver.name if binding.driver is not None else None
    return {"driver": driver, "state": binding.state.value, "error": binding.error}


def _queue(row: QueueRow, queue: DriverQueue | DeviceQueue, ring: QueueStatistics) -> dict[str, object]:
    return {
        "index": queue.index,
        "name": queue.name,
        "live": queue.live,
        "chains": ring.chains,
        "returned": ring.returned,
        "bad_lengths": ring.bad_lengths,
        "rescues": queue.signal.rescues,
        **attrs.asdict(row, filter=attrs.filters.exclude("device", "side", "queue")),
    }


def _status(status: Status) -> list[str]:
    return [str(bit.name) for bit in Status if status & bit]


def _driver_row(device: Device, virtio: VirtioDevice, queue: DriverQueue) -> QueueRow:
    ring = virtio.statistics(queue)
    return _row(device, "driver", queue, ring.notifications, queue.calls, ring.suppressed)


def _device_row(device: Device, queue: DeviceQueue) -> QueueRow:
    ring = queue.statistics()
    return _row(device, "device", queue, queue.kicks, ring.notifications, ring.suppressed)


def _row(
    device: Device, side: Side, queue: DriverQueue | DeviceQueue, kicks: int, calls: int, suppressed: int
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


def _drops(device: Device) -> Iterator[tuple[Side, str, Mapping[str, int]]]:
    side: Side
    for side, end in (("driver", device.driver_end), ("device", device.device_end)):
        for where, drops in end.drops():
            yield side, where, drops
