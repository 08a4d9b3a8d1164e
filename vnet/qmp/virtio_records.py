"""Arguments and results of QEMU's commands about virtio devices."""

from __future__ import annotations

import attrs

from vnet.qmp.qapi import QapiRecord

__all__ = [
    "DevicePath",
    "Element",
    "ElementChoice",
    "QueueChoice",
    "RingAvail",
    "RingDesc",
    "RingUsed",
    "VhostProtocols",
    "VhostQueueStatus",
    "VhostStatus",
    "VirtQueueStatus",
    "VirtioFeatures",
    "VirtioInfo",
    "VirtioStatus",
    "VirtioStatuses",
]


@attrs.frozen
class DevicePath(QapiRecord):
    """Arguments that name a device."""

    path: str
    """Path of the device, as `x-query-virtio` lists it."""


@attrs.frozen
class QueueChoice(DevicePath):
    """Arguments that name a queue."""

    queue: int
    """Index of the queue."""


@attrs.frozen
class ElementChoice(QueueChoice):
    """Arguments that name an element of a ring."""

    index: int | None = None
    """Position in the available ring; default: the oldest outstanding chain."""


@attrs.frozen
class VirtioInfo(QapiRecord):
    """A virtio device."""

    path: str
    name: str
    """Device type, such as virtio-net."""


@attrs.frozen
class VirtioFeatures(QapiRecord):
    """Feature bits."""

    transports: tuple[str, ...]
    """Names of the bits for queues and negotiation."""
    dev_features: tuple[str, ...] | None = None
    """Names of the bits of the device type."""
    unknown_dev_features: int | None = None
    """Bits without a name."""


@attrs.frozen
class VirtioStatuses(QapiRecord):
    """Bits of the device status (VIRTIO 1.4 section 2.1)."""

    statuses: tuple[str, ...]
    unknown_statuses: int | None = None
    """Bits without a name."""


@attrs.frozen
class VhostProtocols(QapiRecord):
    """Protocol features of vhost-user."""

    protocols: tuple[str, ...]
    unknown_protocols: int | None = None


@attrs.frozen(kw_only=True)
class VhostStatus(QapiRecord):
    """The device's side of a running device."""

    n_mem_sections: int
    """Memories that the device accesses: that of the driver's host."""
    n_tmp_sections: int
    nvqs: int
    """Number of queues."""
    vq_index: int
    """Index of the first queue."""
    features: VirtioFeatures
    """Features that the device offers."""
    acked_features: VirtioFeatures
    """Negotiated features."""
    backend_features: VirtioFeatures
    """None: the port or store has no features of virtio."""
    protocol_features: VhostProtocols
    """None: the bus has no protocol of its own."""
    max_queues: int
    """Number of queues that the device offers."""
    backend_cap: int
    log_enabled: bool
    log_size: int


@attrs.frozen(kw_only=True)
class VirtioStatus(QapiRecord):
    """A device, from the device's side; from the driver's if the device is in another process."""

    name: str
    device_id: int
    """Virtio device id."""
    vhost_started: bool
    """Whether the device's side accesses the rings; false if it is in another process."""
    device_endian: str
    guest_features: VirtioFeatures
    """Features that the driver accepted."""
    host_features: VirtioFeatures
    """Features that the device offers; if it is in another process, those accepted."""
    backend_features: VirtioFeatures
    """None: the port or store has no features of virtio."""
    num_vqs: int
    status: VirtioStatuses
    isr: int
    """0: interrupts are not shared."""
    queue_sel: int
    """0: the transport keeps it."""
    vm_running: bool
    broken: bool
    """Whether the device needs a reset."""
    disabled: bool
    use_started: bool
    started: bool
    """Whether the driver set DRIVER_OK."""
    start_on_kick: bool
    disable_legacy_check: bool
    """Whether legacy drivers are refused: always."""
    bus_name: str
    """Name of the link, host or NTB that carries the device."""
    use_guest_notifier_mask: bool
    vhost_dev: VhostStatus | None = None
    """The device's side while it runs in this process."""


@attrs.frozen(kw_only=True)
class VirtQueueStatus(QapiRecord):
    """A queue of a device."""

    name: str
    queue_index: int
    inuse: int
    """Chains that the device has; if it is in another process, outstanding chains."""
    vring_num: int
    """Size in descriptors."""
    vring_num_default: int
    """Largest size that the device offers."""
    vring_align: int
    """0: only legacy devices have an alignment of their own."""
    vring_desc: int
    """Address of the descriptor area in the driver's memory; 0 without a ring."""
    vring_avail: int
    """Address of the driver area."""
    vring_used: int
    """Address of the device area."""
    last_avail_idx: int | None = None
    """Position of the next chain to take; absent if the device has no ring in this process."""
    shadow_avail_idx: int | None = None
    """Position of the driver's next chain; absent while the driver has no ring."""
    used_idx: int
    """Position of the next used element; 0 without a ring."""
    signalled_used: int
    signalled_used_valid: bool
    """Whether signalled-used is known: never."""


@attrs.frozen(kw_only=True)
class VhostQueueStatus(QapiRecord):
    """A queue of a running device, from the device's side."""

    name: str
    kick: int
    """-1: notifications need no file descriptor."""
    call: int
    """-1: notifications need no file descriptor."""
    desc: int
    """Address by which the device accesses the descriptor area: the driver's."""
    avail: int
    """Address of the driver area."""
    used: int
    """Address of the device area."""
    num: int
    """Size in descriptors."""
    desc_phys: int
    """Address of the descriptor area in the driver's memory."""
    desc_size: int
    """Size in bytes."""
    avail_phys: int
    """Address of the driver area."""
    avail_size: int
    """Size in bytes."""
    used_phys: int
    """Address of the device area."""
    used_size: int
    """Size in bytes."""


@attrs.frozen
class RingDesc(QapiRecord):
    """A descriptor."""

    addr: int
    len: int
    """Size in bytes."""
    flags: tuple[str, ...]
    """Names of the flags: next, write, indirect, avail, used."""


@attrs.frozen
class RingAvail(QapiRecord):
    """Words of the driver area."""

    flags: int
    idx: int
    """Available index; the position of the next chain in a packed ring."""
    ring: int
    """Entry of the available ring; the buffer id in a packed ring."""


@attrs.frozen
class RingUsed(QapiRecord):
    """Words of the device area."""

    flags: int
    idx: int
    """Used index; the position of the next used descriptor in a packed ring."""


@attrs.frozen
class Element(QapiRecord):
    """An outstanding chain, as it stands in the driver's memory."""

    name: str
    index: int
    """Its position in the available ring."""
    descs: tuple[RingDesc, ...]
    """Its descriptors; the entries of an indirect table in place of the descriptor that refers to it."""
    avail: RingAvail
    used: RingUsed
