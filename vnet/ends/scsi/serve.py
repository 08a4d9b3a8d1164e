"""Options of ``vnet serve scsi``, and QEMU's SCSI host."""

from __future__ import annotations

from collections.abc import Sequence

from vnet.ends.scsi.spec import LunSpec, ScsiSpec
from vnet.ends.serve import VALUE, QemuDevice, Serve, ServeOption, table

__all__ = ["SERVE"]


def _luns(given: Sequence[str]) -> list[dict[str, object]]:
    return [{"store": "file", "lun": number, **table(LunSpec, text)} for number, text in enumerate(given)]


SERVE = Serve[ScsiSpec](
    (
        ServeOption(
            "--lun",
            {"device.luns": VALUE},
            "Logical unit, such as path=disk.img,size=256; more keys are target, lun, read_only, shared, block_size, "
            "serial. Repeatable.",
            metavar="KEY=VALUE,...",
            required=True,
            repeatable=True,
            make=_luns,
        ),
        ServeOption("--queues", {"queues": VALUE}, "Largest number of request queues.", int),
    ),
    qemu=QemuDevice(
        "vhost-user-scsi-pci,chardev=c0,disable-legacy=on",
        queues="num_queues",
        size="virtqueue_size",
        returns=(9, 2),
    ),
)
