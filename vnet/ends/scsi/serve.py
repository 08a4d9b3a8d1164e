"""Options of ``vnet serve scsi``, and QEMU's SCSI host."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, get_args, get_type_hints

from vnet.ends.scsi.spec import LunSpec, ScsiSpec
from vnet.ends.serve import VALUE, QemuDevice, Serve, ServeOption

__all__ = ["SERVE"]


def _value(kind: Any, text: str) -> object:
    """Return ``text`` as a value of type ``kind``, or unchanged if it is none."""
    kinds = {kind, *get_args(kind)}
    if int in kinds and re.fullmatch(r"-?[0-9]{1,18}", text):
        return int(text)
    return {"true": True, "false": False}.get(text, text) if bool in kinds else text


def _table(text: str) -> dict[str, object]:
    """Return ``key=value,key=value`` as the table of a logical unit. Raises ValueError."""
    kinds = get_type_hints(LunSpec)
    rows = [part.partition("=") for part in text.split(",")]
    keys = [key for key, _, _ in rows]
    if len({*keys}) < len(keys) or not all(equals for _, equals, _ in rows):
        raise ValueError(f"{text!r}: must be KEY=VALUE,..., each key once")
    return {key: _value(kinds.get(key), value) for key, _, value in rows}


def _luns(given: Sequence[str]) -> list[dict[str, object]]:
    return [{"store": "file", "lun": number, **_table(text)} for number, text in enumerate(given)]


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
