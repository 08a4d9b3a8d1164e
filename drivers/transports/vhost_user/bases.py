"""Conversion between a ring's positions and the base in SET_VRING_BASE and GET_VRING_BASE, by ring format."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import attrs

from drivers.transports.vhost_user.payloads import MessageRefused
from rings.formats import RingFormat
from rings.layout import DESC_SIZE, RingAddrs
from rings.memory import Memory
from rings.packed.place import used_next
from rings.packed.ring import FIRST_LAP

__all__ = ["BaseFormat", "base_format"]

HALF = 16


@attrs.frozen
class BaseFormat:
    emit: Callable[[int, int], int]
    """Return the base for a ring's next available position and next used position."""
    place: Callable[[int, int, Memory, RingAddrs], int]
    """Return the used position at which a ring of ``num`` descriptors resumes from a base. Chains that another device
    left incomplete are taken again. Raises MessageRefused for an invalid base.

    The ring's contents decide: after a back-end crash, front ends send an old base, 0 or the available index.
    """


def _split_place(base: int, num: int, memory: Memory, addrs: RingAddrs) -> int:
    if base >> HALF:
        raise MessageRefused(f"a split ring's base {base:#x}: must have 16 bits")
    return int.from_bytes(memory.view(addrs.device, 4)[2:], "little")


def _packed_place(base: int, num: int, memory: Memory, addrs: RingAddrs) -> int:
    lower, upper = base & 0xFFFF, base >> HALF
    # Front ends that know only one position leave the upper half 0.
    position = upper if upper or lower < FIRST_LAP else lower
    return used_next(memory.view(addrs.desc, num * DESC_SIZE).cast("Q")[1::2].tolist(), position)


_FORMATS: Mapping[str, BaseFormat] = {
    "split": BaseFormat(lambda avail, used: avail, _split_place),
    "packed": BaseFormat(lambda avail, used: avail | used << HALF, _packed_place),
}


def base_format(form: RingFormat) -> BaseFormat:
    return _FORMATS[form.name]
