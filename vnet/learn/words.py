"""The words of rings by the names of the specification (VIRTIO 1.4 sections 2.7 and 2.8)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from rings.layout import DESC_SIZE, NO_INTERRUPT, NO_NOTIFY, RingAddrs
from rings.memory import Addr
from rings.view import flag_names
from vnet.learn.machine import Area, Machine, Word

__all__ = ["ring_areas", "table_area"]

Field = tuple[str, int, int, Callable[[bytes], str]]
"""Name, offset, bytes, and how its value is shown."""
EVENT_FLAGS = ("ENABLE", "DISABLE", "DESC", "reserved")


def _number(data: bytes) -> str:
    return str(int.from_bytes(data, "little"))


def _address(data: bytes) -> str:
    return f"{int.from_bytes(data, 'little'):#x}"


def _flags(data: bytes) -> str:
    return flag_names(int.from_bytes(data, "little")) or "0"


def _flag(bit: int, name: str) -> Callable[[bytes], str]:
    return lambda data: name if int.from_bytes(data, "little") & bit else "0"


def _position(data: bytes) -> str:
    value = int.from_bytes(data, "little")
    return f"{value & 0x7FFF} wrap {value >> 15}"


def _event_flags(data: bytes) -> str:
    return EVENT_FLAGS[int.from_bytes(data, "little") & 3]


LAST: dict[str, tuple[Field, Field]] = {
    "split": (("flags", 12, 2, _flags), ("next", 14, 2, _number)),
    "packed": (("id", 12, 2, _number), ("flags", 14, 2, _flags)),
}
"""The last two fields of a descriptor, by format."""


def _slot(machine: Machine, name: str, start: int, fields: tuple[Field, ...]) -> tuple[Word, ...]:
    return tuple(machine.word(f"{name}.{field}", Addr(start + at), size, show) for field, at, size, show in fields)


def _descriptors(machine: Machine, form: str, name: str, start: int, count: int) -> tuple[tuple[Word, ...], ...]:
    fields = (("addr", 0, 8, _address), ("len", 8, 4, _number), *LAST[form])
    return tuple(_slot(machine, f"{name}[{index}]", start + DESC_SIZE * index, fields) for index in range(count))


def ring_areas(machine: Machine, form: Literal["split", "packed"], num: int, addrs: RingAddrs) -> list[Area]:
    """Return the three areas of a ring of ``num`` descriptors."""
    slots = _descriptors(machine, form, "desc", addrs.desc, num)
    if form == "packed":
        fields = (("desc", 0, 2, _position), ("flags", 2, 2, _event_flags))
        return [
            Area("descriptor ring", "both", slots=slots, circle=True),
            Area("driver event suppression", "driver", _slot(machine, "driver_event", addrs.driver, fields)),
            Area("device event suppression", "device", _slot(machine, "device_event", addrs.device, fields)),
        ]
    avail = ("flags", 0, 2, _flag(NO_INTERRUPT, "NO_INTERRUPT")), ("idx", 2, 2, _number)
    used = ("flags", 0, 2, _flag(NO_NOTIFY, "NO_NOTIFY")), ("idx", 2, 2, _number)
    used_event, avail_event = ("used_event", 4 + 2 * num, 2, _number), ("avail_event", 4 + 8 * num, 2, _number)
    heads = tuple((machine.word(f"avail.ring[{i}]", Addr(addrs.driver + 4 + 2 * i), 2, _number),) for i in range(num))
    element: tuple[Field, ...] = (("id", 0, 4, _number), ("len", 4, 4, _number))
    elements = tuple(_slot(machine, f"used.ring[{i}]", addrs.device + 4 + 8 * i, element) for i in range(num))
    return [
        Area("descriptor table", "driver", slots=slots),
        Area("available ring", "driver", _slot(machine, "avail", addrs.driver, (*avail, used_event)), heads, True),
        Area("used ring", "device", _slot(machine, "used", addrs.device, (*used, avail_event)), elements, True),
    ]


def table_area(machine: Machine, form: str, start: Addr, count: int) -> Area:
    """Return the first indirect table."""
    return Area("indirect table", "driver", slots=_descriptors(machine, form, "table", start, count))
