"""The driver's side of a split ring and a device that means well."""

from __future__ import annotations

import itertools
from functools import partial

import pytest

from rings.errors import BadRing, LocalRingError, MemoryFault, QueueFull
from rings.layout import DESC_SIZE, INDIRECT, NEXT, WRITE, RingAddrs
from rings.memory import Addr, MappedMemory
from rings.split.virtqueue import SplitVirtqueue
from rings.testing import Act, Desc
from support.rigs.ring import MakeRig, Rig, get, seg, tokens


def shown(rig: Rig, index: int = 0) -> list[Desc]:
    """The chain that an entry of the available ring leads to, tables resolved, links cut off."""
    table = [rig.raw.read(at) for at in range(rig.num)]
    actual: list[Desc] = []
    at = rig.raw.entry(index)
    while True:
        desc = table[at]
        if desc.flags & INDIRECT and not actual:
            data = rig.bytes(Addr(desc.addr), desc.size)
            table = [Desc.parse(data[i : i + DESC_SIZE]) for i in range(0, desc.size, DESC_SIZE)]
            at = 0
            continue
        actual.append(Desc(desc.addr, desc.size, desc.flags & ~NEXT))
        if not desc.flags & NEXT:
            return actual
        at = desc.next


# ---------------------------------------------------------------- what the driver writes


@pytest.mark.virtio("SPLIT-DRV-3", "SPLIT-DRV-4", "SPLIT-DRV-9", "SPLIT-DRV-11")
@pytest.mark.parametrize("indirect", [False, True])
def test_a_chain_has_one_descriptor_per_segment_readable_ones_first(make_rig: MakeRig, indirect: bool) -> None:
    rig = make_rig(indirect=indirect)
    driver = rig.driver()
    driver.add((seg(0x1000, 1), seg(0x2000, 2)), (seg(0x3000, 3), seg(0x4000, 4)), 7)
    driver.publish()
    assert shown(rig) == [Desc(0x1000, 1), Desc(0x2000, 2), Desc(0x3000, 3, WRITE), Desc(0x4000, 4, WRITE)]
    assert driver.num_free == (7 if indirect else 4)
    head = rig.raw.read(rig.raw.entry(0))
    assert head.flags == (INDIRECT if indirect else NEXT), "never both, and none of them inside a table"


@pytest.mark.virtio("SPLIT-DRV-8")
def test_without_the_feature_no_descriptor_leads_to_a_table(make_rig: MakeRig) -> None:
    rig = make_rig(indirect=False)
    driver = rig.driver()
    for count in (1, 2, 3):
        driver.add((), [seg(0x1000, 8)] * count, count)
    driver.publish()
    assert not any(rig.raw.read(at).flags & INDIRECT for at in range(8))


def test_a_chain_too_long_for_its_table_goes_without(rig: Rig) -> None:
    driver = rig.driver()
    driver.add([seg(0x1000, 1)] * 4, (), 7)
    driver.add([seg(0x1000, 1)] * 5, (), 8)
    assert driver.num_free == 8 - 1 - 5
    driver.publish()
    assert len(shown(rig, 1)) == 5


@pytest.mark.watches_words
@pytest.mark.virtio("SPLIT-DRV-27", "SPLIT-DRV-13")
@pytest.mark.parametrize("indirect", [False, True])
def test_descriptors_then_entry_then_index_are_stored_in_that_order(make_rig: MakeRig, indirect: bool) -> None:
    rig = make_rig(indirect=indirect)
    driver = rig.driver()
    rig.driver_side.log.clear()
    driver.add((seg(0x1000, 1),), (seg(0x2000, 2),), 1)
    driver.add((seg(0x1000, 1),), (), 2)
    driver.publish()
    stores = rig.driver_side.acts(Act.STORE)
    # Offsets tell the parts of the available ring apart: entries from 4 on, its index at 2.
    places = [f"avail+{a.addr - rig.addrs.driver}" if rig.area(a) == "avail" else rig.area(a) for a in stores]
    expected = ["payload", "desc", "avail+4", "desc", "avail+6", "avail+2"]
    assert [place for place, _ in itertools.groupby(places)] == expected[not indirect :]


@pytest.mark.watches_words
@pytest.mark.virtio("SPLIT-DRV-13")
def test_the_available_index_only_ever_grows(make_rig: MakeRig) -> None:
    rig = make_rig(2)
    driver = rig.driver()
    rig.driver_side.log.clear()
    seen = []
    for turn in range(20):
        driver.add((seg(rig.addrs.desc, 1),), (), 1)
        driver.publish()
        seen.append(rig.raw.avail_idx)
        rig.raw.give(rig.raw.entry(turn))
        get(driver)
    assert seen == list(range(1, 21))
    assert sum(a.addr == rig.addrs.driver + 2 for a in rig.driver_side.acts(Act.STORE)) == 20


def test_nothing_is_shown_before_publish_and_an_empty_batch_causes_no_kick(rig: Rig) -> None:
    driver = rig.driver()
    driver.add((seg(0x1000, 1),), (), 1)
    assert rig.raw.avail_idx == 0
    assert driver.publish()
    assert rig.raw.avail_idx == 1
    assert not driver.publish()


@pytest.mark.virtio("SPLIT-DRV-20")
def test_a_new_ring_starts_from_zero_with_any_old_contents_in_its_memory(rig: Rig) -> None:
    rig.raw.clear(b"\xff")
    driver = rig.driver()
    assert (rig.raw.used_flags, rig.raw.used_idx, rig.raw.avail_event) == (0, 0, 0)
    assert (rig.raw.avail_flags, rig.raw.avail_idx, rig.raw.used_event) == (0, 0, 0)
    assert get(driver) is None


# ---------------------------------------------------------------- our own misuse


def test_more_than_is_free_is_refused_and_leaves_the_ring_as_it_was(make_rig: MakeRig) -> None:
    rig = make_rig(4, indirect=False)
    driver = rig.driver()
    driver.add([seg(0x1000, 1)] * 3, (), 1)
    with pytest.raises(QueueFull, match="2 descriptors wanted, 1 free"):
        driver.add([seg(0x1000, 1)] * 2, (), 2)
    driver.add((seg(0x2000, 1),), (), 3)
    with pytest.raises(QueueFull):
        driver.add((seg(0x2000, 1),), (), 4)
    driver.publish()
    assert (rig.raw.avail_idx, shown(rig, 1), driver.num_free) == (2, [Desc(0x2000, 1)], 0)


def test_a_table_needs_a_free_descriptor_too(make_rig: MakeRig) -> None:
    driver = make_rig(1).driver()
    driver.add((seg(0x1000, 1),), (), 1)
    with pytest.raises(QueueFull):
        driver.add((), (seg(0x1000, 1),), 2)


@pytest.mark.virtio("SPLIT-DRV-10")
def test_a_chain_longer_than_the_queue_is_refused(make_rig: MakeRig) -> None:
    driver = make_rig(2).driver()
    with pytest.raises(LocalRingError, match="3 descriptors does not fit a queue of 2"):
        driver.add([seg(0x1000, 1)] * 3, (), 1)


def test_a_chain_of_nothing_is_refused(rig: Rig) -> None:
    with pytest.raises(LocalRingError, match="at least one"):
        rig.driver().add((), (), 1)


@pytest.mark.virtio("SPLIT-DRV-5")
@pytest.mark.parametrize("sizes", [(1 << 32,), (1, 1 << 32), (1 << 31, 1 << 31, 1), (0, 1 << 32)])
@pytest.mark.parametrize("written", [False, True])
@pytest.mark.parametrize("indirect", [False, True])
def test_more_than_a_chain_or_a_length_field_holds_is_refused(
    make_rig: MakeRig, sizes: tuple[int, ...], written: bool, indirect: bool
) -> None:
    rig = make_rig(indirect=indirect)
    driver = rig.driver()
    segs = [seg(0x1000, size) for size in sizes]
    with pytest.raises(LocalRingError, match="bytes"):
        driver.add(() if written else segs, segs if written else (), 1)
    assert driver.num_free == 8
    driver.add((seg(0x1000, (1 << 32) - 1),), (), 2)
    driver.publish()
    assert shown(rig) == [Desc(0x1000, (1 << 32) - 1)]


def test_a_batch_is_added_whole_or_not_at_all(make_rig: MakeRig) -> None:
    rig = make_rig(4)
    driver = rig.driver()
    driver.add_each([(Addr(0x1000), 1, 1), (Addr(0x2000), 2, 2)], True)
    good, huge = (Addr(0x3000), 3, 3), (Addr(0x3000), 1 << 32, 4)
    with pytest.raises(QueueFull, match="3 descriptors wanted, 2 free"):
        driver.add_each([good] * 3, True)
    with pytest.raises(LocalRingError, match="does not fit a descriptor"):
        driver.add_each([good, huge], True)
    with pytest.raises(ValueError, match="format 'Q'"):
        driver.add_each([good, (Addr(1 << 64), 1, 5)], True)
    driver.add_each([], True)
    assert (driver.num_free, driver.state().in_flight) == (2, 2)
    driver.publish()
    assert rig.raw.avail_idx == 2
    assert tokens(driver) == [1, 2]


@pytest.mark.parametrize("writable", [False, True])
def test_a_batch_is_what_its_parts_are(make_rig: MakeRig, writable: bool) -> None:
    one, other = make_rig(), make_rig()
    buffers = [(Addr(0x1000 * at), at, at) for at in range(1, 6)]
    whole, parts = one.driver(), other.driver()
    whole.add_each(buffers, writable)
    for addr, size, token in buffers:
        parts.add(() if writable else ((addr, size),), ((addr, size),) if writable else (), token)
    whole.publish()
    parts.publish()
    assert [shown(one, at) for at in range(5)] == [shown(other, at) for at in range(5)]
    assert whole.state() == parts.state()
    assert whole.statistics() == parts.statistics()


@pytest.mark.virtio("SPLIT-DRV-1", "SPLIT-DRV-2")
@pytest.mark.parametrize(
    ("num", "shift"), [(3, (0, 0, 0)), (65536, (0, 0, 0)), (8, (8, 0, 0)), (8, (0, 1, 0)), (8, (0, 0, 2))]
)
def test_a_driver_makes_no_ring_of_a_wrong_size_or_alignment(num: int, shift: tuple[int, int, int]) -> None:
    memory = MappedMemory()
    memory.add(Addr(0), memoryview(bytearray(4 << 20)))
    addrs = RingAddrs(*(Addr((at << 20) + by) for at, by in enumerate(shift)))
    with pytest.raises(BadRing):
        SplitVirtqueue(memory, num, addrs, event_idx=False)


def test_a_ring_whose_tables_are_nowhere_holds_nothing(rig: Rig) -> None:
    before = rig.memory.pinned
    with pytest.raises(MemoryFault):
        SplitVirtqueue(rig.memory, 8, rig.addrs, event_idx=False, indirect=Addr(0x7000_0000), indirect_max=4)
    assert rig.memory.pinned == before


# ---------------------------------------------------------------- buffers come back


def test_tokens_come_back_in_the_order_of_the_used_ring(rig: Rig) -> None:
    driver = rig.driver()
    for token in (1, 2, 3):
        driver.add((), (seg(0x1000, 10), seg(0x2000, 10)), token)
    driver.publish()
    heads = [rig.raw.entry(at) for at in range(3)]
    for head, size in ((heads[2], 20), (heads[0], 0), (heads[1], 7)):
        rig.raw.give(head, size)
    assert [get(driver) for _ in range(4)] == [(3, 20), (1, 0), (2, 7), None]
    assert driver.num_free == 8


def test_a_batch_comes_back_up_to_its_limit(rig: Rig) -> None:
    driver = rig.driver()
    for token in range(5):
        driver.add((), [seg(0x1000, 10)] * (1 + token % 2), token)
    driver.publish()
    for at in (3, 1, 0, 4):
        rig.raw.give(rig.raw.entry(at), at)
    assert driver.get_each(3) == [(3, 3), (1, 1), (0, 0)]
    assert driver.state().in_flight == 2
    assert driver.get_each(8) == [(4, 4)]
    assert driver.get_each(8) == []
    assert driver.num_free == 7


@pytest.mark.virtio("SPLIT-DRV-16")
def test_calls_without_a_buffer_change_nothing(rig: Rig) -> None:
    driver = rig.driver()
    driver.add((seg(0x1000, 1),), (), 1)
    driver.publish()
    before = driver.state(), driver.statistics()
    for _ in range(100):
        assert get(driver) is None
        assert not driver.enable_cb()
    assert (driver.state(), driver.statistics()) == before


def test_descriptors_of_long_chains_are_all_free_again(make_rig: MakeRig) -> None:
    rig = make_rig(8, indirect=False)
    driver = rig.driver()
    for count in (3, 1, 4, 2, 5, 1, 8, 7, 1):
        driver.add([seg(0x1000 * at, 1) for at in range(count)], (), count)
        driver.publish()
        index = rig.raw.avail_idx - 1
        assert [desc.addr for desc in shown(rig, index)] == [0x1000 * at for at in range(count)]
        rig.raw.give(rig.raw.entry(index))
        assert get(driver) == (count, 0)
        assert driver.num_free == 8


def test_a_closed_ring_touches_nothing(rig: Rig) -> None:
    driver = rig.driver()
    driver.add((seg(0x1000, 1), seg(0x1000, 1)), (), 1)
    driver.close()
    assert not driver.reachable()
    for use in (partial(get, driver), driver.publish, driver.enable_cb):
        with pytest.raises(ValueError, match="released"):
            use()
    assert rig.memory.pinned == 4, "the raw ring's"
