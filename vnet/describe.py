"""A running system as plain data: its PCI tree, devices, features by name, rings and counters.

Everything here only reads, and gives copies: what it returns goes to JSON as it is.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Literal

import attrs

from drivers.devices.net import NetPlug
from drivers.devices.net.driver import NetSettings
from drivers.devices.net.flow import Traffic
from drivers.ports import PacketPort
from drivers.vhost import DeviceQueue
from drivers.virtio import DriverQueue
from rings.queue import QueueState, QueueStatistics
from rings.status import Status
from vnet.topology import PortSpec
from vnet.world import Device, World

__all__ = ["NO_LOSS", "QueueRow", "describe", "drop_total", "queue_rows"]

NO_LOSS = frozenset({"stale", "stopped"})
"""Causes of port drops that are no lost traffic: frames of an earlier life of the interface, thrown away when it
starts or stops. Nobody was there to take them, as on a cable that is not plugged in."""

Side = Literal["driver", "device"]


@attrs.frozen
class QueueRow:
    """One queue as one side sees it, since the device exists."""

    device: str
    side: Side
    queue: str
    """The queue's name, such as receiveq1."""
    kicks: int
    """Sent at the driver's side, received at the device's."""
    calls: int
    """Received at the driver's side, sent at the device's."""
    suppressed: int
    """Publications about which the other side did not want to be told: kicks (driver) or calls (device)."""
    packets: int
    bytes: int
    """Of the packets, without their virtio_net_hdr."""
    drops: Mapping[str, int]
    """Frames that were not passed on, by cause; the ports' own drops are not among them."""
    batches: Sequence[int]
    """Batches by size: of 1, 2-3, 4-7, ... packets; the last number counts all larger ones."""


def queue_rows(world: World) -> list[QueueRow]:
    """A row for each queue at each side, driver's first; a side that was never up has none."""
    rows = []
    for device in world.devices.values():
        if device.virtio is not None:
            for sent in device.virtio.queues:
                told = device.virtio.statistics(sent)
                traffic = _traffic(device, "driver", sent.index)
                rows.append(_row(device, "driver", sent, told.notifications, sent.calls, told, traffic))
        for taken in device.vhost.queues:
            told = taken.statistics()
            traffic = _traffic(device, "device", taken.index)
            rows.append(_row(device, "device", taken, taken.kicks, told.notifications, told, traffic))
    return rows


def drop_total(world: World) -> dict[str, int]:
    """Every drop counter of ours that is not zero, as "device.side.where.cause", such as "net0.driver.port.refused".

    What `NO_LOSS` names is left out: it is no traffic that got lost.
    """
    return {
        f"{device.name}.{side}.{where}.{cause}": count
        for device in world.devices.values()
        for side, where, drops in _drops(device)
        for cause, count in drops.items()
        if count and not (where == "port" and cause in NO_LOSS)
    }


def describe(world: World) -> dict[str, object]:
    """The whole system. Figures count since the device, port or link exists."""
    return {
        "name": world.name,
        "hosts": {name: _host(world, name) for name in world.hosts},
        "links": {
            name: {
                "root": spec.root,
                "endpoint": spec.endpoint,
                **attrs.asdict(world.links[name].statistics()),
            }
            for name, spec in world.topology.links.items()
        },
        "devices": {name: _device(world, device) for name, device in world.devices.items()},
        "drops": drop_total(world),
    }


def _host(world: World, name: str) -> dict[str, object]:
    host = world.hosts[name]
    return {
        "netns": world.host_netns(name),
        "pci": host.rc.describe(),
        "interrupts": attrs.asdict(host.rc.statistics()),
        "controllers": [controller.describe() for controller in host.controllers.values()],
    }


def _device(world: World, device: Device) -> dict[str, object]:
    spec, link = device.spec, world.topology.links[device.spec.link]
    return {
        "type": spec.type,
        "transport": spec.transport,
        "link": spec.link,
        "location": device.location,
        "up": device.up,
        "trouble": "" if device.up else device.trouble(),
        "driver": {
            "host": link.root,
            **_driver_end(device),
            "port": _port(world, link.root, spec.driver, device.settings.port),
        },
        "device": {
            "host": link.endpoint,
            **_device_end(device),
            "port": _port(world, link.endpoint, spec.device, device.plug.port),
        },
    }


def _driver_end(device: Device) -> dict[str, object]:
    virtio, bus = device.virtio, device.root.virtio
    if virtio is None:
        return {"found": False}
    binding = bus.binding(virtio)
    return {
        "found": True,
        "name": virtio.name,
        "driver": binding.driver.name if binding.driver is not None else None,
        "state": binding.state.value,
        "error": binding.error,
        "status": _status(virtio.status),
        "features": device.vhost.table.describe(virtio.features),
        "restarts": virtio.restarts,
        "failures": list(virtio.failures),
        "early_interrupts": virtio.early_interrupts,
        "queues": [
            {
                **_queue(queue, queue.ring.state(), virtio.statistics(queue)),
                "calls_received": queue.calls,
                "fault": queue.fault,
                **_figures(device, "driver", queue.index),
            }
            for queue in virtio.queues
        ],
    }


def _device_end(device: Device) -> dict[str, object]:
    vhost = device.vhost
    binding = device.endpoint.vhost.binding(vhost)
    return {
        "name": vhost.name,
        "driver": binding.driver.name if binding.driver is not None else None,
        "state": binding.state.value,
        "error": binding.error,
        "status": _status(vhost.status),
        "device_features": vhost.table.describe(vhost.device_features),
        "driver_features": vhost.table.describe(vhost.driver_features),
        "features": vhost.table.describe(vhost.features),
        "resets": vhost.resets,
        "failures": list(vhost.failures),
        "queues": [
            {
                **_queue(queue, queue.ring.state() if queue.ring is not None else None, queue.statistics()),
                "enabled": queue.enabled,
                "max_num": queue.max_num,
                "kicks_received": queue.kicks,
                "kicks_spurious": queue.spurious,
                **_figures(device, "device", queue.index),
            }
            for queue in vhost.queues
        ],
    }


def _queue(queue: DriverQueue | DeviceQueue, ring: QueueState | None, told: QueueStatistics) -> dict[str, object]:
    return {
        "index": queue.index,
        "name": queue.name,
        "live": queue.live,
        "ring": attrs.asdict(ring) if ring is not None else None,
        **attrs.asdict(told),
        "batches": list(queue.batches),
    }


def _port(world: World, host: str, spec: PortSpec, port: PacketPort) -> dict[str, object]:
    figures = port.statistics()
    in_memory = spec.kind == "memory"
    return {
        "kind": spec.kind,
        "netns": None if in_memory else spec.netns or world.netns(host),
        "ifname": None if in_memory else spec.ifname,
        "addresses": list(spec.addresses),
        "live": port.live,
        "caps": attrs.asdict(port.caps),
        **attrs.asdict(figures, filter=attrs.filters.exclude("drops")),
        "drops": dict(figures.drops),
    }


def _status(status: Status) -> list[str]:
    return [str(bit.name) for bit in Status if status & bit]


def _traffic(device: Device, side: Side, index: int) -> Traffic:
    """The figures of one queue: even ones are receiveqs, seen from the driver, odd ones transmitqs (5.1.2)."""
    end = device.settings if side == "driver" else device.plug
    return end.received if (side == "driver") != bool(index & 1) else end.sent


def _figures(device: Device, side: Side, index: int) -> dict[str, object]:
    traffic = _traffic(device, side, index)
    return {"packets": traffic.packets, "bytes": traffic.bytes, "drops": dict(traffic.drops)}


def _row(
    device: Device,
    side: Side,
    queue: DriverQueue | DeviceQueue,
    kicks: int,
    calls: int,
    told: QueueStatistics,
    traffic: Traffic,
) -> QueueRow:
    return QueueRow(
        device=device.name,
        side=side,
        queue=queue.name,
        kicks=kicks,
        calls=calls,
        suppressed=told.suppressed,
        packets=traffic.packets,
        bytes=traffic.bytes,
        drops=dict(traffic.drops),
        batches=tuple(queue.batches),
    )


def _drops(device: Device) -> Iterator[tuple[Side, str, Mapping[str, int]]]:
    side: Side
    end: NetSettings | NetPlug
    for side, end in (("driver", device.settings), ("device", device.plug)):
        yield side, "sent", end.sent.drops
        yield side, "received", end.received.drops
        yield side, "port", end.port.statistics().drops
