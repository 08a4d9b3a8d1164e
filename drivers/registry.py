"""Every device type and every transport there is: one line each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs

from drivers.bus.vhost import VhostBack, VhostDevice, VhostDriver
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
    """What has to be known of a device type before any of its code runs."""

    device_id: DeviceId
    table: FeatureTable
    supported: int
    """Every feature bit it has, ring features included."""

    driver: Callable[[Callable[[VirtioDevice], Any]], VirtioDriver]
    """The virtio driver, made of what says how a device is to be driven; None while that is not known."""
    device: Callable[[Callable[[VhostDevice], Any]], VhostDriver]
    """Likewise the vhost driver, of what says what a device is plugged into."""

    @property
    def switchable(self) -> int:
        """The bits that may be switched off one by one: without VERSION_1 there is no device."""
        return self.supported & ~mask((RingFeature.VERSION_1,))


DEVICES: dict[str, DeviceType] = {
    "net": DeviceType(DeviceId.NET, net.TABLE, net.SUPPORTED, VirtioNet, VhostNet),
    "rpmsg": DeviceType(DeviceId.RPMSG, rpmsg.TABLE, rpmsg.SUPPORTED, VirtioRpmsg, VhostRpmsg),
    "blk": DeviceType(DeviceId.BLOCK, blk.TABLE, blk.SUPPORTED, VirtioBlk, VhostBlk),
    "scsi": DeviceType(DeviceId.SCSI, scsi.TABLE, scsi.SUPPORTED, VirtioScsi, VhostScsi),
}


@attrs.frozen
class Transport:
    """One way to carry a device."""

    on: str
    """The key of a topology's device that says what carries it, such as "link"."""
    front: object
    """What the driver's host needs: for "link" a `drivers.carriers.pci.VirtioPciDriver`, for "host" its platform's
    likewise or a `drivers.carriers.vhost_user.UserClient`, for "ntb" a `drivers.carriers.ntb.NtbClient`."""
    back: Callable[..., VhostBack]
    """``back(*carrier, device_id, name)`` makes the device half. ``carrier`` is an endpoint controller and a function
    for "link", a `drivers.contracts.hw.PlatformSlot` or a `drivers.contracts.ipc.Ipc` for "host", the bus and the name
    of an NTB for "ntb"."""
    names: Callable[[int, int], str | None] = lambda bar, offset: None
    """For "link" and "ntb": what the register at an offset of a BAR is called. A doorbell's begins with "notify["."""
    queues: int | None = None
    """Most that it can carry of a device; None where there is no such limit."""
    options: tuple[str, ...] = ()
    """Keys of a topology's device that are for this transport alone; those that are given are arguments of ``back``."""


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
