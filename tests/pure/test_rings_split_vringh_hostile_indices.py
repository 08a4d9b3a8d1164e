"""The device's side of a split ring against a driver that writes arbitrary indices."""

from __future__ import annotations

import pytest

from rings.errors import BadRing
from rings.layout import INDIRECT, NEXT, WRITE
from rings.queue import complete, getdesc
from rings.testing import Desc
from support.rigs.ring import Rig, latch

HOLE = 0x7000_0000


@pytest.mark.hostile("R05", "R06")
@pytest.mark.parametrize("ahead", [9, 100, 0x8000, 65536 - 8, 65535])
def test_an_available_index_too_far_ahead_or_behind_breaks_the_ring(rig: Rig, ahead: int) -> None:
    device = rig.device()
    rig.raw.avail_idx = ahead
    assert device.notify_enable(), "the waiting side is notified"
    latch(rig, device, BadRing, "ahead of 0")


@pytest.mark.hostile("R06")
@pytest.mark.parametrize("back", [1, 2, 8])
def test_an_index_that_moves_back_breaks_the_ring_and_what_was_taken_may_end(rig: Rig, back: int) -> None:
    device = rig.device()
    for head in range(3):
        rig.offer(Desc(rig.buffer(), 8), head=head)
    taken = [getdesc(device) for _ in range(3)]
    rig.raw.avail_idx -= back
    latch(rig, device, BadRing, "ahead of 3", taken=tuple(chain[0] for chain in taken if chain))


@pytest.mark.hostile("R05")
def test_more_than_the_queue_holds_breaks_the_ring_though_half_of_it_was_taken_already(rig: Rig) -> None:
    device = rig.device()
    for head in range(8):
        rig.offer(Desc(rig.buffer(8), 8), head=head)
    taken = tuple(chain[0] for chain in (getdesc(device) for _ in range(8)) if chain)
    rig.raw.offer(0)  # a ninth, while none came back
    latch(rig, device, BadRing, "ahead", taken=taken)


@pytest.mark.hostile("R07")
def test_a_head_that_is_in_flight_is_not_taken_again(rig: Rig) -> None:
    device = rig.device()
    rig.offer(Desc(rig.buffer(), 8), head=4)
    assert getdesc(device) is not None
    rig.raw.offer(4)
    latch(rig, device, BadRing, "while in flight", taken=(4,))


@pytest.mark.hostile("R07")
def test_a_head_is_in_flight_until_it_was_shown_as_used(rig: Rig) -> None:
    """A batch of one head eight times over: the driver can't know that the first of them is done."""
    device = rig.device()
    rig.raw.write(4, Desc(rig.buffer(), 8))
    rig.raw.offer(*[4] * 8)
    assert getdesc(device) is not None
    complete(device, 4, 0)
    with pytest.raises(BadRing, match="while in flight"):
        getdesc(device)
    device.publish()
    assert getdesc(device) is not None, "from now on it is legal"


@pytest.mark.hostile("R18")
def test_driver_writes_to_the_used_ring_are_never_read(rig: Rig) -> None:
    device = rig.device()
    for at in range(20):
        rig.raw.used_idx, rig.raw.used_flags = 0xDEAD, 0xFFFF
        for index in range(8):
            rig.raw.set_elem(index, 0xFFFF_FFFF, 0xFFFF_FFFF)
        rig.offer(Desc(rig.buffer(64), 8), head=at % 8)
        assert getdesc(device) is not None
        complete(device, at % 8, at)
        assert device.publish()
        assert (rig.raw.used_idx, rig.raw.elem(at)) == (at + 1, (at % 8, at))
    assert ("load", "used") not in rig.words(rig.device_side)


@pytest.mark.hostile("R17")
def test_descriptors_that_change_in_flight_count_as_fetched(rig: Rig) -> None:
    device = rig.device()
    back = rig.buffer()
    rig.offer(Desc(back, 16, WRITE), head=2)
    chain = getdesc(device)
    assert chain is not None
    rig.raw.write(2, Desc(HOLE, 0xFFFF_FFFF, NEXT | INDIRECT, 0xFFFF))
    chain[2][0][:] = b"sixteen bytes !!"
    complete(device, 2, 16)
    device.publish()
    assert (rig.bytes(back, 16), rig.raw.elem(0)) == (b"sixteen bytes !!", (2, 16))


@pytest.mark.hostile("R17")
def test_a_ring_that_is_flooded_while_it_is_drained_gives_no_more_than_its_size_at_once(rig: Rig) -> None:
    device = rig.device()
    buffer = rig.buffer()
    for head in range(8):
        rig.offer(Desc(buffer, 8), head=head)
    for head in range(8):
        assert getdesc(device) is not None
        complete(device, head, 0)
        rig.raw.offer(head)  # before it was told that it may
    latch(rig, device, BadRing, "more than 0")
