"""The driver's side of a split ring against a device that writes anything."""

from __future__ import annotations

import pytest

from rings.errors import BadRing
from rings.layout import NEXT
from rings.queue import complete, getdesc
from rings.split.virtqueue import SplitVirtqueue
from rings.testing import Act, Changing, Desc
from support.rigs.ring import MakeRig, Rig, flat, get, seg, tokens

# ---------------------------------------------------------------- a device that lies


def broken(rig: Rig, driver: SplitVirtqueue, match: str, in_flight: int) -> None:
    """D01: one typed error, nothing handed up, and a ring made anew works."""
    with pytest.raises(BadRing, match=match):
        get(driver)
    assert driver.state().in_flight == in_flight
    driver.close()
    assert len(tokens(driver)) == in_flight, "each request ends once"
    rig.recovers()


@pytest.mark.hostile("D01")
@pytest.mark.parametrize("head", [8, 0xFFFF, 1 << 16, 0xFFFF_FFFF])
def test_a_used_id_outside_of_the_table_breaks_the_ring(rig: Rig, head: int) -> None:
    driver = rig.driver()
    driver.add((), (seg(0x1000, 8),), 1)
    driver.publish()
    rig.raw.give(head, 8)
    broken(rig, driver, f"names descriptor {head} of 8", 1)


@pytest.mark.hostile("D02")
@pytest.mark.parametrize("head", [1, 2, 7])
def test_a_used_id_that_is_no_head_in_flight_breaks_the_ring(make_rig: MakeRig, head: int) -> None:
    rig = make_rig(indirect=False)
    driver = rig.driver()
    driver.add((), [seg(0x1000, 8)] * 3, 1)  # 0, 1, 2
    driver.publish()
    rig.raw.give(head)
    broken(rig, driver, "not the head of one in flight", 1)


@pytest.mark.hostile("D02")
def test_a_buffer_that_is_returned_twice_is_delivered_once(rig: Rig) -> None:
    driver = rig.driver()
    for token in (1, 2):
        driver.add((), (seg(0x1000, 8),), token)
    driver.publish()
    rig.raw.give(1, 8)
    rig.raw.give(1, 8)
    assert get(driver) == (2, 8)
    broken(rig, driver, "not the head of one in flight", 1)


@pytest.mark.hostile("D03")
@pytest.mark.virtio("SPLIT-DRV-17", "SPLIT-DRV-18")
@pytest.mark.parametrize("indirect", [False, True])
@pytest.mark.parametrize("shape", ["read only", "write only", "both"])
@pytest.mark.parametrize("more", [1, 0xFFFF_0000])
def test_a_used_length_beyond_the_writable_part_is_refused_and_counted(
    make_rig: MakeRig, indirect: bool, shape: str, more: int
) -> None:
    rig = make_rig(indirect=indirect)
    segs = (seg(0x1000, 30), seg(0x2000, 70))
    readable, writable = {"read only": (segs, ()), "write only": ((), segs), "both": (segs, segs)}[shape]
    room = 100 if writable else 0
    driver = rig.driver()
    driver.add(readable, writable, 1)
    driver.publish()
    rig.raw.give(rig.raw.entry(0), room + more)
    assert get(driver) == (1, 0)
    assert (driver.statistics().bad_lengths, driver.num_free) == (1, 8)
    driver.add(readable, writable, 2)
    driver.publish()
    rig.raw.give(rig.raw.entry(1), room)
    assert get(driver) == (2, room), "all of it is not too much"
    assert driver.statistics().bad_lengths == 1


@pytest.mark.hostile("D03")
def test_a_single_buffer_has_its_length_checked_as_well(rig: Rig) -> None:
    driver = rig.driver()
    driver.add((), (seg(0x1000, 100),), 1)
    driver.add((seg(0x1000, 100),), (), 2)
    driver.publish()
    rig.raw.give(0, 101)
    rig.raw.give(1, 1)
    assert [get(driver), get(driver)] == [(1, 0), (2, 0)]
    assert driver.statistics().bad_lengths == 2


@pytest.mark.watches_words
@pytest.mark.hostile("D04")
@pytest.mark.parametrize("indirect", [False, True])
def test_a_device_that_rewrites_descriptors_does_not_confuse_the_driver(make_rig: MakeRig, indirect: bool) -> None:
    rig = make_rig(indirect=indirect)
    driver = rig.driver()
    for turn in range(6):
        driver.add((seg(0x1000, 10),), (seg(0x2000, 20), seg(0x3000, 30)), turn)
        driver.publish()
        head = rig.raw.entry(turn)
        for at in range(8):
            rig.raw.write(at, Desc(0xDEAD, 0xFFFF_FFFF, NEXT, 7 - at))
        for index in range(8):
            rig.raw.set_entry(index, 0xFFFF)
        rig.raw.give(head, 50)
        assert get(driver) == (turn, 50)
        assert driver.num_free == 8
    assert {area for act, area in rig.words(rig.driver_side) if act == "load"} == {"used"}


@pytest.mark.watches_words
@pytest.mark.hostile("D05")
@pytest.mark.parametrize("move", [3, 100, 0x8000, -1, -100])
def test_a_used_index_beyond_what_is_in_flight_breaks_the_ring_at_once(rig: Rig, move: int) -> None:
    driver = rig.driver()
    for token in (1, 2):
        driver.add((), (seg(0x1000, 8),), token)
    driver.publish()
    rig.raw.used_idx = move
    assert driver.enable_cb(), "the waiting side is notified"
    rig.driver_side.log.clear()
    with pytest.raises(BadRing, match="ahead, with 2 in flight"):
        get(driver)
    assert len(rig.driver_side.log) == 1, "the index was read, and no element"
    broken(rig, driver, "in flight", 2)


@pytest.mark.hostile("D05")
def test_a_used_index_that_moves_back_breaks_the_ring(rig: Rig) -> None:
    driver = rig.driver()
    for token in (1, 2):
        driver.add((), (seg(0x1000, 8),), token)
    driver.publish()
    rig.raw.give(0)
    assert get(driver) == (1, 0)
    rig.raw.used_idx = 0
    broken(rig, driver, "in flight", 1)


@pytest.mark.hostile("D05")
def test_an_unpublished_chain_is_not_in_flight(rig: Rig) -> None:
    driver = rig.driver()
    driver.add((), (seg(0x1000, 8),), 7)
    driver.publish()
    driver.add((), (seg(0x1000, 8),), 8)
    rig.raw.give(0)
    rig.raw.give(1)
    with pytest.raises(BadRing, match="2 ahead, with 1 in flight"):
        get(driver)


@pytest.mark.hostile("D01", "D02")
@pytest.mark.parametrize(("head", "match"), [(8, "names descriptor 8 of 8"), (0, "not the head of one in flight")])
def test_chains_returned_before_a_bad_element_are_handed_up_first(rig: Rig, head: int, match: str) -> None:
    driver = rig.driver()
    for token in (1, 2, 3):
        driver.add((), (seg(0x1000, 8),), token)
    driver.publish()
    rig.raw.give(0, 8)
    rig.raw.give(1, 8)
    rig.raw.give(head)
    assert driver.get_each(8) == [(1, 8), (2, 8)]
    with pytest.raises(BadRing, match=match):
        driver.get_each(8)
    broken(rig, driver, match, 1)


@pytest.mark.hostile("D10")
def test_a_used_element_is_loaded_once(rig: Rig) -> None:
    """In a memory where no word reads the same twice, id and length are the ones that were written."""
    memory = Changing(rig.memory)
    driver = rig.driver(memory=memory)
    for token in (1, 2):
        driver.add((), (seg(0x1000, 1500),), token)
    driver.publish()
    rig.raw.give(1, 1400)
    rig.raw.give(0, 60)
    memory.log.clear()
    assert [get(driver), get(driver)] == [(2, 1400), (1, 60)]
    loads = memory.acts(Act.LOAD)
    assert len(loads) == len(set(loads)) == 3, "the index and two elements"


@pytest.mark.hostile("D12")
@pytest.mark.parametrize("indirect", [False, True])
def test_a_device_is_shown_not_one_byte_more_than_was_given(make_rig: MakeRig, indirect: bool) -> None:
    """A short chain after a long one: neither the tail of its buffer nor that of its table is seen."""
    rig = make_rig(4, indirect=indirect)
    whole = rig.buffer()
    driver, device = rig.driver(), rig.device()
    for count, size in ((4, 1000), (2, 20), (1, 3), (3, 1)):
        rig.memory.view(whole, 4096, True)[:] = (b"p" * count * size).ljust(4096, b"S")
        driver.add([seg(whole + at * size, size) for at in range(count)], (), count)
        driver.publish()
        chain = getdesc(device)
        assert chain is not None
        assert flat(chain[1]) == b"p" * count * size
        complete(device, chain[0], 0)
        device.publish()
        assert get(driver) == (count, 0)
