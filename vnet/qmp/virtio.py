"""QEMU's commands about virtio devices, from each side's own copy of what it knows. No access crosses a link."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from drivers.bus.device_queue import DeviceQueue
from drivers.bus.driver_queue import DriverQueue
from drivers.bus.vhost import VhostDevice
from drivers.bus.virtio import VirtioDevice
from rings.features import FeatureTable, RingFeature, bits, mask
from rings.formats import ring_format
from rings.status import Status, status_names
from rings.view import ChainView, DescriptorView, RingView, flag_names
from vnet.names import named
from vnet.qmp.codec import QmpError
from vnet.qmp.events import PERIPHERAL
from vnet.qmp.qapi import Empty
from vnet.qmp.virtio_records import (
    DevicePath,
    Element,
    ElementChoice,
    QueueChoice,
    RingAvail,
    RingDesc,
    RingUsed,
    VhostProtocols,
    VhostQueueStatus,
    VhostStatus,
    VirtioFeatures,
    VirtioInfo,
    VirtioStatus,
    VirtioStatuses,
    VirtQueueStatus,
)
from vnet.system.device import Device
from vnet.system.ring_reports import driver_ring, take_ring_view
from vnet.system.snapshot import queue_sides
from vnet.system.world import World

__all__ = ["devices", "element", "queue_status", "status", "vhost_queue_status"]

PATH = f"{PERIPHERAL}/virtio-backend"
"""Path of a device, as in QEMU."""
RING_PREFIX = frozenset({RingFeature.INDIRECT_DESC, RingFeature.EVENT_IDX})
"""Features that Linux and QEMU name VIRTIO_RING_F_; the other features of rings are VIRTIO_F_."""
NO_FEATURES = VirtioFeatures(())
NO_FD = -1


def devices(world: World, _: Empty) -> list[VirtioInfo]:
    """Return the path and the type of each device."""
    return [VirtioInfo(PATH.format(name), _type(device)) for name, device in world.devices.items()]


def status(world: World, choice: DevicePath) -> VirtioStatus:
    """Return the status of a device. Raises QmpError."""
    device = _device(world, choice)
    vhost = device.vhost if device.back is not None else None
    side: VhostDevice | VirtioDevice | None = vhost if vhost is not None else device.virtio
    now = side.status if side is not None else Status(0)
    accepted = _features(device, side.features if side is not None else 0)
    return VirtioStatus(
        name=_type(device),
        device_id=device.spec.virtio.device_id,
        vhost_started=vhost is not None and vhost.running,
        device_endian="little",
        guest_features=accepted,
        host_features=accepted if vhost is None else _features(device, vhost.device_features),
        backend_features=NO_FEATURES,
        num_vqs=len(side.queues) if side is not None else 0,
        status=VirtioStatuses(tuple(f"VIRTIO_CONFIG_S_{name}" for name in status_names(now))),
        isr=0,
        queue_sel=0,
        vm_running=True,
        broken=bool(now & Status.NEEDS_RESET),
        disabled=False,
        use_started=True,
        started=bool(now & Status.DRIVER_OK),
        start_on_kick=False,
        disable_legacy_check=True,
        bus_name=device.spec.link or device.spec.host or device.spec.ntb or "",
        use_guest_notifier_mask=False,
        vhost_dev=_vhost(device, vhost) if vhost is not None and vhost.running else None,
    )


def queue_status(world: World, choice: QueueChoice) -> VirtQueueStatus:
    """Return the status of a queue. Raises QmpError."""
    device = _device(world, choice)
    mine, other = _queue(device, choice.queue)
    ring, view = driver_ring(mine), take_ring_view(device, mine, other)
    own = None if ring is None else ring.state()
    state = None if other is None or other.ring is None else other.ring.state()
    known = state or own
    return VirtQueueStatus(
        name=_type(device),
        queue_index=choice.queue,
        inuse=known.in_flight if known is not None else 0,
        vring_num=other.num if other is not None else own.num if own is not None else 0,
        vring_num_default=other.max_num if other is not None else own.num if own is not None else 0,
        vring_align=0,
        vring_desc=view.addrs.desc if view is not None else 0,
        vring_avail=view.addrs.driver if view is not None else 0,
        vring_used=view.addrs.device if view is not None else 0,
        last_avail_idx=state.avail if state is not None else None,
        shadow_avail_idx=own.avail if own is not None else None,
        used_idx=known.used if known is not None else 0,
        signalled_used=0,
        signalled_used_valid=False,
    )


def vhost_queue_status(world: World, choice: QueueChoice) -> VhostQueueStatus:
    """Return a queue of a running device, from the device's side. Raises QmpError."""
    device = _device(world, choice)
    _, queue = _queue(device, choice.queue)
    if queue is None:
        raise QmpError(f"{device.name}: the device is in another process")
    if queue.ring is None:
        raise QmpError(f"{device.name}: queue {choice.queue} has no ring: the device does not run")
    addrs, sizes = queue.addrs, ring_format(device.vhost.features).sizes(queue.num)
    return VhostQueueStatus(
        name=_type(device),
        kick=NO_FD,
        call=NO_FD,
        desc=addrs.desc,
        avail=addrs.driver,
        used=addrs.device,
        num=queue.num,
        desc_phys=addrs.desc,
        desc_size=sizes[0],
        avail_phys=addrs.driver,
        avail_size=sizes[1],
        used_phys=addrs.device,
        used_size=sizes[2],
    )


def element(world: World, choice: ElementChoice) -> Element:
    """Return an outstanding chain of a queue. Raises QmpError."""
    device = _device(world, choice)
    place = f"{device.name}: queue {choice.queue}"
    mine, other = _queue(device, choice.queue)
    view = take_ring_view(device, mine, other)
    ring = driver_ring(mine) or (None if other is None else other.ring)
    if view is None or ring is None:
        raise QmpError(f"{place} has no ring: the driver has set up none")
    state = ring.state()
    chain = _chain(view, choice.index, place)
    driver, used = view.driver, view.device
    return Element(
        _type(device),
        chain.position,
        tuple(map(_descriptor, _entries(chain))),
        RingAvail(_word(driver, "flags", 0), _word(driver, "idx", state.avail), chain.head),
        RingUsed(_word(used, "flags", 0), _word(used, "idx", state.used)),
    )


def _type(device: Device) -> str:
    return f"virtio-{device.spec.type}"


def _device(world: World, choice: DevicePath) -> Device:
    paths = {PATH.format(name): device for name, device in world.devices.items()}
    return named("path", paths, choice.path, QmpError)


def _queue(device: Device, index: int) -> tuple[DriverQueue | None, DeviceQueue | None]:
    """Return both sides of a queue."""
    sides = {queue.index: (mine, other) for mine, other in queue_sides(device).values() if (queue := mine or other)}
    if index not in sides:
        known = ", ".join(map(str, sorted(sides)))
        why = f"must be one of {known}" if known else "the device has no queues yet"
        raise QmpError(f"{device.name}: queue {index}: {why}")
    return sides[index]


def _features(device: Device, value: int) -> VirtioFeatures:
    table: FeatureTable = device.spec.virtio.table
    ring = mask(RingFeature)
    unknown = value & ~table.known()
    own = (f"VIRTIO_{device.spec.type.upper()}_F_{table.name(bit)}" for bit in bits(value & ~ring & ~unknown))
    return VirtioFeatures(tuple(map(_ring_feature, bits(value & ring))), tuple(own), unknown or None)


def _ring_feature(bit: int) -> str:
    return f"VIRTIO_{'RING_' if bit in RING_PREFIX else ''}F_{RingFeature(bit).name}"


def _vhost(device: Device, vhost: VhostDevice) -> VhostStatus:
    return VhostStatus(
        n_mem_sections=1,
        n_tmp_sections=0,
        nvqs=len(vhost.queues),
        vq_index=0,
        features=_features(device, vhost.device_features),
        acked_features=_features(device, vhost.features),
        backend_features=NO_FEATURES,
        protocol_features=VhostProtocols(()),
        max_queues=len(vhost.queues),
        backend_cap=0,
        log_enabled=False,
        log_size=0,
    )


def _chain(view: RingView, index: int | None, place: str) -> ChainView:
    """Return the outstanding chain at a position of the available ring, or the oldest one. Raises QmpError."""
    if not view.chains:
        raise QmpError(f"{place}: {view.fault or 'no chain is outstanding'}")
    if index is None:
        return view.chains[0]
    for chain in view.chains:
        if chain.position == index % view.num:
            return chain
    first, last = view.chains[0].position, view.chains[-1].position
    raise QmpError(f"{place}: index {index}: outstanding chains are at positions {first} to {last}")


def _entries(chain: ChainView) -> Iterator[DescriptorView]:
    """Yield the descriptors of a chain, with the entries of indirect tables in their place."""
    for desc in chain.descriptors:
        yield from desc.table or (desc,)


def _descriptor(desc: DescriptorView) -> RingDesc:
    return RingDesc(desc.addr, desc.size, tuple(flag_names(desc.flags).lower().split()))


def _word(words: Mapping[str, int | str], name: str, default: int) -> int:
    """Return a word of an area; a packed ring has no indices."""
    value = words.get(name, default)
    return value if isinstance(value, int) else default
