"""The register layout of the mailbox."""

from __future__ import annotations

from itertools import pairwise

import pytest

from drivers.carriers.base import pieces
from drivers.transports.epf_mailbox import registers as mb

Reg, QueueReg, Ext, ExtQueue = mb.Reg, mb.QueueReg, mb.Ext, mb.ExtQueue


def test_the_block_is_the_one_of_the_rfc_byte_for_byte() -> None:
    assert {field.name: field.value for field in Reg} == {
        "HOST_FEATURES": (0x00, 8),
        "GUEST_FEATURES": (0x08, 8),
        "MSIX_CONFIG": (0x10, 2),
        "NUM_QUEUES": (0x12, 2),
        "DEVICE_STATUS": (0x14, 1),
        "CONFIG_GENERATION": (0x15, 1),
        "ISR": (0x16, 4),
        "CMD": (0x1A, 1),
        "CMD_STATUS": (0x1B, 1),
    }
    for n in range(8):
        assert [field.at(n) for field in QueueReg] == [
            (0x1C + 16 * n + at, size) for at, size in ((0, 1), (1, 1), (2, 2), (4, 2), (6, 2), (8, 8))
        ]
    assert mb.QueueReg.ADDR.at(7)[0] + 8 == 0x9C == mb.CONFIG
    assert (mb.CONFIG_SIZE, mb.MSIX, mb.VECTORS, mb.BAR_SIZE) == (1024, 0x4A0, 9, 2048)
    assert [c.value for c in mb.DeviceCommand][:4] == [0, 1, 2, 3]
    assert [c.value for c in mb.QueueCommand] == [0, 1, 2, 3]


def test_the_extension_lies_behind_everything_the_rfc_had_and_no_two_fields_overlap() -> None:
    pending = mb.MSIX + 16 * mb.VECTORS + 8
    places = [field.value for field in (*Reg, *Ext)]
    places += [field.at(n) for n in range(mb.MAX_QUEUES) for field in (*QueueReg, *ExtQueue)]
    places += [(mb.CONFIG, mb.CONFIG_SIZE), (mb.MSIX, pending - mb.MSIX)]
    for (start, size), (following, _) in pairwise(sorted(places)):
        assert start + size <= following
    assert min(field.value[0] for field in Ext) >= pending
    assert max(start + size for start, size in places) <= mb.BAR_SIZE


@pytest.mark.parametrize("place", [(0x16, 4), (0x24, 8), (0x00, 8), (0x15, 1), (0x9D, 7)])
def test_pieces_of_an_access_are_aligned_and_add_up(place: tuple[int, int]) -> None:
    """Defect of the RFC: a 4-byte isr at an offset that no 4-byte access may have, and likewise queue addresses."""
    parts = list(pieces(*place))
    assert all(size in (1, 2, 4) and not at % size for at, size in parts)
    assert sum(size for _, size in parts) == place[1]
    assert all(a + n == b for (a, n), (b, _) in pairwise(parts))


@pytest.mark.parametrize(
    ("bar", "offset", "name"),
    [
        (0, 0x14, "device_status"),
        (0, 0x26, "queue0.addr"),
        (0, 0x1C + 16 * 7, "queue7.cmd"),
        (0, 0x9E, "config+0x2"),
        (0, 0x4B4, "msix[1]+0x4"),
        (0, 0x540, "magic"),
        (0, 0x590 + 40 + 0x10, "queue1.desc"),
        (0, 0x7FF, None),
        (2, 4, "notify[1]"),
        (2, 32, "doorbell"),
        (4, 0, None),
    ],
)
def test_registers_have_names(bar: int, offset: int, name: str | None) -> None:
    assert mb.register_name(bar, offset) == name
