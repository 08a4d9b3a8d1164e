"""The table of transports."""

from __future__ import annotations

from collections.abc import Callable

import attrs

from drivers.bus.back import VhostBack
from drivers.transports import epf_mailbox, mmio, ntb, pci, vhost_user

__all__ = ["TRANSPORTS", "Transport"]


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
