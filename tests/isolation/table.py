"""The attacks by name, and what each hits."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from inspect import getdoc
from pathlib import Path

import attrs

from drivers.devices.blk.layout import BlkFeature
from isolation import connections as c
from isolation import queues as q
from vnet.check.front import INDIRECT_DESC, Front
from vnet.check.pci import PciFront
from vnet.check.vhost_user import VhostUserFront

__all__ = ["ATTACKS", "DISK", "NOTHING", "Attack", "Device"]


@attrs.frozen
class Device:
    """A device as a driver brings it up."""

    name: str
    """Name of its socket, without suffix."""
    rings: Mapping[int, int]
    """Size of each ring by index."""
    features: tuple[int, ...] = ()
    kind: type[Front] = VhostUserFront


@attrs.frozen
class Attack:
    """An attack. Its function yields the number of its actions since the last time."""

    name: str
    target: str
    on_queues: Callable[[Front], Iterator[int]] | None
    on_sockets: Callable[[Path], Iterator[int]] | None
    """The function takes a front end, or the folder with the sockets of a process."""
    device: Device | None = None
    """Device of that front end."""

    @property
    def text(self) -> str:
        """The sentence that describes it."""
        return (getdoc(self.on_queues or self.on_sockets) or "").rstrip(".")


DISK = Device("blk", {0: 1024}, (INDIRECT_DESC, BlkFeature.FLUSH, BlkFeature.WRITE_ZEROES))
NET = Device("net", {0: 256, 1: 256})
OnQueues = Callable[[Front], Iterator[int]]
QUEUES: Mapping[str, tuple[Device, tuple[OnQueues, ...]]] = {
    "a disk": (DISK, (q.honest_reads, q.empty_kicks, q.refused_kicks, q.long_chains)),
    "a disk's store": (DISK, (q.large_reads, q.flushes, q.write_zeroes)),
    "a network device": (NET, (q.small_frames, q.neighbours)),
    "rpmsg": (Device("rpmsg", {0: 256, 1: 256}), (q.rpmsg_messages,)),
    "a SCSI host": (Device("scsi", {0: 256, 1: 64, 2: 1024}, (INDIRECT_DESC,)), (q.tasks,)),
    "a PCI function": (Device("function", {0: 256}, (), PciFront), (q.doorbells,)),
}
SOCKETS = {
    "a vhost-user socket": (
        *(c.broken_rings, c.memory_tables, c.descriptors, c.unread_replies, c.connections, c.single_bytes),
    ),
    "a vfio-user socket": (c.dma_maps, c.config_reads),
    "an NBD server": (c.nbd_reads, c.nbd_unread, c.nbd_options, c.nbd_connections),
    "the control socket": (c.queries, c.unread_queries, c.endless_line, c.control_connections),
}
ATTACKS: Mapping[str, Attack] = {
    attack.name: attack
    for attack in (
        *(Attack(run.__name__, target, run, None, device) for target, (device, runs) in QUEUES.items() for run in runs),
        *(Attack(run.__name__, target, None, run) for target, runs in SOCKETS.items() for run in runs),
    )
}
NOTHING = Attack(c.nothing.__name__, "", None, c.nothing)
"""A process that uses its processor alone: cores share caches, and threads of one core more than that."""
