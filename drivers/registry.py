"""The table of device types and the table of transports."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs

from drivers.bus.back import VhostBack
from drivers.bus.vhost import VhostDevice, VhostDriver
from drivers.bus.virtio import VirtioDevice, VirtioDriver
from drivers.devices.blk import VhostBlk, VirtioBlk
from drivers.devices.blk import layout as blk
from drivers.devices.net import VhostNet, VirtioNet
from drivers.devices.net import layout as net
from drivers.devices.rpmsg import VhostRpmsg, VirtioRpmsg
from drivers.devices.rpmsg import layout as rpmsg
from drivers.devices.scsi import VhostScsi, VirtioScsi
from drivers.devices.scsi import layout as scsi
from drivers.transports import epf_mailbox, mmio, ntb, pci, vhost_user
from rings.features import FeatureTable, RingFeature, mask
from rings.ids import DeviceId

__all__ = ["DEVICES", "TRANSPORTS", "DeviceType", "Transport"]


@attrs.frozen
class DeviceType:
    """A device type: its id, its features, and the constructors of its two drivers."""

    device_id: DeviceId
    table: FeatureTable
    supported: int
    """All supported feature bits, including ring features."""

    driver: Callable[[Callable[[VirtioDevice], Any]], VirtioDriver]
    """Makes the virtio driver. Its argument returns a device's settings, or None while they are not known."""
    device: Callable[[Callable[[VhostDevice], Any]], VhostDriver]
    """Makes the vhost driver. Its argument returns a device's plug, or None while it has none."""

    @property
    def switchable(self) -> int:
        """Feature bits that may be switched off one by one: all but VERSION_1, which is mandatory."""
        return self.supported & ~mask((RingFeature.VERSION_1,))


DEVICES: dict[str, DeviceType] = {
    "net": DeviceType(DeviceId.NET, net.TABLE, net.SUPPORTED, VirtioNet, VhostNet),
    "rpmsg": DeviceType(DeviceId.RPMSG, rpmsg.TABLE, rpmsg.SUPPORTED, VirtioRpmsg, VhostRpmsg),
    "blk": DeviceType(DeviceId.BLOCK, blk.TABLE, blk.SUPPORTED, VirtioBlk, VhostBlk),
    "scsi": DeviceType(DeviceId.SCSI, scsi.TABLE, scsi.SUPPORTED, VirtioScsi, VhostScsi),
}


@attrs.frozen
class Transport:
    """A transport: its carrier, its two halves, and its limits."""

    on: str
    """Key of a topology's device that names the carrier, such as "link"."""
    front: object
    """Driver for a bus of the driver's host: for "link" a `drivers.carriers.pci.VirtioPciDriver`, for "host" a
    `drivers.carriers.platform.VirtioPlatformDriver` or a `drivers.carriers.vhost_user.UserClient`, for "ntb" a
    `drivers.carriers.ntb.NtbClient`."""
    back: Callable[..., VhostBack]
    """``back(*carrier, identity)`` makes the device half; ``carrier`` is (epc, function) for "link", (slot,) or
    (ipc,) for "host", and (ntb_bus, name) for "ntb"."""
    names: Callable[[int, int], str | None] = lambda bar, offset: None
    """For "link" and "ntb": maps BAR and offset to a register's name. Names of doorbells begin with "notify["."""
    queues: int | None = None
    """Maximum number of queues of a device; None: unlimited."""
    options: tuple[str, ...] = ()
    """Keys of a topology's device for this transport alone, passed to ``back`` as keyword arguments."""


TRANSPORTS: dict[str, Transport] = {
    "pci": Transport("link", pci.VIRTIO_PCI, pci.VirtioEpf, pci.register_name),
    "epf_mailbox": Transport(
        "link",
        epf_mailbox.EPF_MAILBOX,
        epf_mailbox.MailboxEpf,
        epf_mailbox.register_name,
        epf_mailbox.MAX_QUEUES,
        ("poll",),
    ),
    "mmio": Transport("host", mmio.VIRTIO_MMIO, mmio.MmioDevice),
    "ntb": Transport("ntb", ntb.NTB_VIRTIO, ntb.NtbVhost, ntb.register_name, ntb.MAX_QUEUES),
    "vhost_user": Transport("host", vhost_user.VHOST_USER, vhost_user.VhostUserBack, options=("socket", "peer_uid")),
}
"""Transports by name; extensions add theirs."""
