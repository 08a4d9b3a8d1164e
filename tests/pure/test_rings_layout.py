"""Where a split ring may lie and how large it may be: anything else is refused when it is made."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rings.errors import BadRing, MemoryFault
from rings.layout import MAX_NUM, Area, RingAddrs, check_split, split_sizes
from rings.memory import Addr
from rings.split.ring import SplitRing
from rings.split.vringh import SplitVringh
from support.rigs.ring import Rig

TOP = 1 << 64
HOLE = 0x7000_0000


@pytest.mark.parametrize(("num", "sizes"), [(1, (16, 8, 14)), (8, (128, 22, 70)), (32768, (524288, 65542, 262150))])
def test_the_areas_have_the_sizes_of_the_specification(num: int, sizes: tuple[int, int, int]) -> None:
    assert split_sizes(num) == sizes


@pytest.mark.parametrize("num", [1 << bit for bit in range(16)])
def test_areas_may_touch_and_come_in_any_order(num: int) -> None:
    desc, avail, used = split_sizes(num)
    check_split(num, RingAddrs(Addr(0), Addr(desc), Addr(-(-(desc + avail) // 4) * 4)))
    check_split(num, RingAddrs(Addr(-(-(used + avail) // 16) * 16), Addr(used), Addr(0)))


@given(num=st.sampled_from([1, 2, 8, 64]), starts=st.tuples(*[st.integers(0, 200).map(lambda n: 2 * n)] * 3))
def test_check_split_agrees_with_sets_of_bytes(num: int, starts: tuple[int, int, int]) -> None:
    areas = [range(a, a + n) for a, n in zip(starts, split_sizes(num), strict=True)]
    aligned = not starts[0] % 16 and not starts[1] % 2 and not starts[2] % 4
    apart = len({byte for area in areas for byte in area}) == sum(map(len, areas))
    try:
        check_split(num, RingAddrs(*map(Addr, starts)))
    except BadRing:
        assert not (aligned and apart)
    else:
        assert aligned
        assert apart


def test_a_closed_ring_is_not_reachable_and_may_be_closed_twice(rig: Rig) -> None:
    before = rig.memory.pinned
    ring = SplitRing(rig.memory, rig.num, rig.addrs)
    assert ring.reachable()
    ring.close()
    ring.close()
    assert not ring.reachable()
    assert rig.memory.pinned == before


@pytest.mark.virtio("SPLIT-DRV-2")
@pytest.mark.parametrize("num", [1 << bit for bit in range(16)])
def test_every_power_of_two_up_to_the_largest_is_a_queue_size(num: int) -> None:
    assert num <= MAX_NUM
    check_split(num, RingAddrs(Addr(0), Addr(1 << 20), Addr(1 << 21)))


@pytest.mark.hostile("R22")
@pytest.mark.parametrize(
    ("field", "value", "error"),
    [
        ("desc", 8, BadRing),
        ("driver", 1, BadRing),
        ("device", 2, BadRing),
        ("desc", "driver", BadRing),
        ("device", "desc", BadRing),
        ("desc", HOLE, MemoryFault),
        ("driver", HOLE, MemoryFault),
        ("device", HOLE, MemoryFault),
        ("desc", TOP - 16, MemoryFault),
        ("device", TOP - 4, MemoryFault),
    ],
)
def test_a_ring_at_an_impossible_place_is_refused_when_it_is_made(
    rig: Rig, field: str, value: int | str, error: type[Exception]
) -> None:
    addrs = {name: getattr(rig.addrs, name) for name in ("desc", "driver", "device")}
    addrs[field] = addrs[value] if isinstance(value, str) else value if value > 8 else addrs[field] + value
    before = rig.memory.pinned
    with pytest.raises(error):
        SplitVringh(rig.memory, 8, RingAddrs(**addrs), event_idx=False, indirect=False)
    assert rig.memory.pinned == before, "nothing is held"
    rig.recovers()


@pytest.mark.hostile("R22")
def test_a_ring_with_no_addresses_set_is_refused(rig: Rig) -> None:
    with pytest.raises(BadRing):
        SplitVringh(rig.memory, 8, RingAddrs(Addr(0), Addr(0), Addr(0)), event_idx=False, indirect=False)


@pytest.mark.hostile("R22")
def test_an_area_that_ends_beyond_its_memory_is_refused_and_lets_go_of_the_others(rig: Rig) -> None:
    before = rig.memory.pinned
    small = rig.memory.grant(69, 4)  # the used ring takes 70
    with pytest.raises(MemoryFault):
        SplitVringh(rig.memory, 8, RingAddrs(rig.addrs.desc, rig.addrs.driver, small), event_idx=False, indirect=False)
    assert rig.memory.pinned == before


@pytest.mark.hostile("R23")
@pytest.mark.parametrize("num", [-1, 0, 3, 12, 255, 32769, 65536, 1 << 31])
def test_a_queue_size_that_no_split_ring_has_is_refused(rig: Rig, num: int) -> None:
    with pytest.raises(BadRing, match="queue size"):
        SplitVringh(rig.memory, num, rig.addrs, event_idx=False, indirect=False)


@pytest.mark.parametrize("area", Area)
def test_a_register_write_changes_its_bits_of_one_address_and_nothing_else(area: Area) -> None:
    addrs = RingAddrs(Addr(0x1_0000_0001), Addr(0x2_0000_0002), Addr(0x3_0000_0003))
    for shift, width in ((0, 64), (0, 32), (32, 32)):
        after = addrs.with_bits(area, 0x1234_5678, shift, width)
        assert after.bits(area, shift, width) == 0x1234_5678
        others = [other for other in Area if other is not area]
        assert [after.bits(other) for other in others] == [addrs.bits(other) for other in others]
    assert addrs.with_bits(area, 0x1234_5678, 32, 32).bits(area, 0, 32) == addrs.bits(area, 0, 32)
    assert addrs.with_bits(area, 0x1_1234_5678, 0, 32).bits(area) == addrs.bits(area) >> 32 << 32 | 0x1234_5678
