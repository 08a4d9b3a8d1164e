"""Indirect tables longer than the ring: accepted as far as the device promised segments, in both formats."""

from __future__ import annotations

from typing import Any

import pytest

from rings.errors import BadRing
from rings.layout import INDIRECT, NEXT, WRITE
from rings.queue import complete, getdesc
from rings.testing import Desc
from rings.testing.packed import PackedDesc
from support.rigs.packed import PackedRig
from support.rigs.ring import Rig, latch

NUM, TABLE_MAX = 8, 128


def offer_table(rig: Any, entries: int) -> bytes:
    """Offer one request as Linux's drivers build it: one readable byte, then writable ones; the bytes to expect."""
    data, spot = rig.buffer(b"h" + bytes(entries - 1)), rig.buffer(16 * entries)
    if isinstance(rig, PackedRig):
        packed = [PackedDesc(data + i, 1, WRITE if i else 0) for i in range(entries)]
        rig.raw.offer(rig.raw.table(spot, *packed))
    else:
        last = entries - 1
        split = [Desc(data + i, 1, (WRITE if i else 0) | (NEXT if i < last else 0), i + 1) for i in range(entries)]
        rig.offer(rig.raw.table(spot, *split))
    return b"h" + bytes(entries - 1)


@pytest.mark.hostile("I04")
@pytest.mark.parametrize("make", [Rig, PackedRig])
@pytest.mark.parametrize("entries", [NUM + 1, TABLE_MAX])
def test_a_table_as_long_as_was_promised_is_taken_by_either_ring(make: Any, entries: int) -> None:
    rig = make(NUM)
    device = rig.device(table_max=TABLE_MAX)
    offer_table(rig, entries)
    chain = getdesc(device)
    assert chain is not None
    assert (len(chain[1]), len(chain[2])) == (1, entries - 1)
    complete(device, chain[0], entries - 1)
    assert device.state().in_flight == 0
    rig.check()


@pytest.mark.hostile("I04")
@pytest.mark.parametrize("make", [Rig, PackedRig])
def test_a_longer_one_breaks_the_ring(make: Any) -> None:
    rig = make(NUM)
    device = rig.device(table_max=TABLE_MAX)
    offer_table(rig, TABLE_MAX + 1)
    with pytest.raises(BadRing, match=f"indirect table of {16 * (TABLE_MAX + 1)} bytes"):
        getdesc(device)


@pytest.mark.hostile("I04")
@pytest.mark.parametrize("make", [Rig, PackedRig])
def test_a_promise_smaller_than_the_ring_takes_nothing_away(make: Any) -> None:
    rig = make(NUM)
    device = rig.device(table_max=2)
    offer_table(rig, NUM)
    assert getdesc(device) is not None


@pytest.mark.hostile("R01", "R02")
def test_descriptors_of_the_ring_itself_are_still_bounded_by_it(rig: Rig) -> None:
    device = rig.device(table_max=TABLE_MAX)
    data = rig.buffer()
    for at in range(rig.num):
        rig.raw.write(at, Desc(data, 1, NEXT, (at + 1) % rig.num))
    rig.raw.offer(0)
    latch(rig, device, BadRing, "loops, or is longer than 8 descriptors")


@pytest.mark.hostile("R02", "I05")
def test_a_loop_in_a_long_table_ends_after_its_length(rig: Rig) -> None:
    device = rig.device(table_max=TABLE_MAX)
    data, spot = rig.buffer(), rig.buffer(16 * 20)
    table = [Desc(data, 1, NEXT, (at + 1) % 20) for at in range(20)]
    rig.offer(Desc(data, 1), rig.raw.table(spot, *table))
    assert rig.raw.read(1).flags & INDIRECT
    latch(rig, device, BadRing, "loops, or is longer than 21 descriptors")
