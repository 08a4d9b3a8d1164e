"""Options of ``vnet serve blk``, and QEMU's disk."""

from __future__ import annotations

from vnet.ends.blk.spec import BlkSpec
from vnet.ends.serve import OLDEST, VALUE, QemuDevice, Serve, ServeOption

__all__ = ["SERVE"]

SERVE = Serve[BlkSpec](
    (
        ServeOption(
            "--file",
            {"device.store": "file", "device.path": VALUE},
            "File or block device with the sectors.",
            metavar="IMG",
            required=True,
        ),
        ServeOption("--read-only", {"device.read_only": True}, "Refuse writes.", bool),
        ServeOption(
            "--shared",
            {"device.shared": True},
            "Let other processes with this option open the file, such as the back end of a migrated guest.",
            bool,
        ),
        ServeOption("--size", {"device.size": VALUE}, "Size in MiB; needed to make a new file.", int),
        ServeOption("--serial", {"device.serial": VALUE}, "Serial number of the disk, by default blk0."),
        ServeOption(
            "--secure-erase", {"device.secure_erase": True}, "Offer secure erase: overwrite with zeroes.", bool
        ),
        ServeOption("--queues", {"queues": VALUE}, "Largest number of request queues.", int),
    ),
    qemu=QemuDevice(
        "vhost-user-blk-pci,chardev=c0,disable-legacy=on", queues="num-queues", size="queue-size", returns=OLDEST
    ),
)
