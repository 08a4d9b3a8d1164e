"""A packed ring between two sides that mean well: what stands in memory, and in which order it gets there."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest

from rings.chain import copy_in
from rings.errors import BadRing, LocalRingError, QueueFull
from rings.formats import FORMATS
from rings.layout import (
    AVAIL,
    INDIRECT,
    NEXT,
    USED,
    WRITE,
    RingAddrs,
    packed_sizes,
)
from rings.memory import Addr, MappedMemory
from rings.packed.ring import DESC
from rings.packed.virtqueue import PackedVirtqueue
from rings.packed.vringh import PackedVringh
from rings.queue import complete, getdesc
from rings.testing import Access, Act, PackedDesc, Watched
from support.rigs.packed import PackedRig, position
from support.rigs.ring import EVENT_IDX, collect, fill, flat, get, seg, serve, tokens


@pytest.fixture
def rig() -> PackedRig:
    return PackedRig()


def test_a_chain_crosses_and_its_answer_comes_back(rig: PackedRig) -> None:
    there, back = rig.buffer(b"question"), rig.buffer(6)
    driver, device = rig.driver(), rig.device()
    assert getdesc(device) is None
    driver.add((seg(there, 8),), (seg(back, 6),), 7)
    assert getdesc(device) is None, "nothing shows before publish"
    assert driver.publish(), "a device that never said otherwise wants to be kicked"
    chain = getdesc(device)
    assert chain is not None
    head, readable, writable = chain
    assert flat(readable) == b"question"
    writable[0][:] = b"answer"
    complete(device, head, 6)
    assert get(driver) is None, "nothing shows before publish"
    assert device.publish()
    assert get(driver) == (7, 6)
    assert rig.bytes(back, 6) == b"answer"
    rig.check()


@pytest.mark.virtio("PACKED-DRV-3", "PACKED-DRV-4", "PACKED-DRV-5", "PACKED-DRV-14", "PACKED-DRV-18")
def test_a_list_in_memory() -> None:
    """Each descriptor is marked for its own lap, the id is in the last one, readable ones come first."""
    rig = PackedRig(4, indirect=False)
    driver, _ = rig.pair(2)
    fill(driver)
    driver.add((seg(0x1000, 10), seg(0x2000, 20)), (seg(0x3000, 30),), 1)
    driver.publish()
    assert [rig.raw.read(place) for place in (3, 4, 5)] == [
        PackedDesc(0x1000, 10, AVAIL | NEXT),
        PackedDesc(0x2000, 20, USED | NEXT),
        PackedDesc(0x3000, 30, USED | WRITE, 1),
    ]


@pytest.mark.virtio("PACKED-DEV-1", "PACKED-DEV-2", "PACKED-DEV-4", "PACKED-DEV-5", "PACKED-DRV-6")
def test_a_list_is_given_back_by_one_descriptor() -> None:
    rig = PackedRig(4, indirect=False)
    driver, device = rig.pair()
    driver.add((seg(0x1000, 1), seg(0x1000, 1)), (seg(0x1000, 9),), 1)
    driver.add((), (seg(0x1000, 9),), 2)
    driver.publish()
    assert [chain[0] for chain in device.getdescs(9)] == [0, 1]
    device.complete_each([(1, 9), (0, 0)])
    device.publish()
    assert rig.raw.read(0) == PackedDesc(0x1000, 9, AVAIL | USED | WRITE, 1), "in the order of completion"
    assert rig.raw.read(1) == PackedDesc(0x1000, 0, AVAIL | USED, 0)
    rig.raw.write(1, PackedDesc(0, 0, AVAIL | USED | NEXT | INDIRECT, 0))  # other flags mean nothing any more
    assert driver.get_each(9) == [(2, 9), (1, 0)]
    assert (driver.num_free, driver.state().used, device.state().used) == (4, position(4, 4), position(4, 4))


@pytest.mark.watches_words
@pytest.mark.virtio("PACKED-DRV-10", "PACKED-DRV-17", "PACKED-DRV-22")
@pytest.mark.parametrize("indirect", [False, True])
def test_the_first_descriptor_of_a_batch_is_made_available_last(indirect: bool) -> None:
    rig = PackedRig(indirect=indirect)
    driver = rig.driver()
    rig.driver_side.log.clear()
    driver.add((seg(0x1000, 1), seg(0x1000, 1)), (seg(0x1000, 1),), 1)
    driver.add((), (seg(0x1000, 1),), 2)
    driver.publish()
    stores = [a.addr - rig.addrs.desc for a in rig.driver_side.acts(Act.STORE) if rig.area(a) == "desc"]
    assert stores[-1] == 8, "flags of the first one"
    assert len(stores) == len(set(stores)) == 2 * (2 if indirect else 4), "each word once"


@pytest.mark.watches_words
@pytest.mark.virtio("PACKED-DEV-8", "PACKED-DEV-13")
def test_the_first_descriptor_of_a_batch_is_marked_used_last(rig: PackedRig) -> None:
    driver, device = rig.driver(), rig.device()
    fill(driver, 3)
    driver.publish()
    serve(device, 3)
    rig.device_side.log.clear()
    device.publish()
    assert [store.addr for store in rig.device_side.acts(Act.STORE)] == [rig.addrs.desc + 8]


@pytest.mark.virtio("PACKED-DEV-12")
def test_a_descriptor_is_taken_once_it_was_made_available(rig: PackedRig) -> None:
    device = rig.device()
    data = rig.buffer()
    for flags in (0, AVAIL | USED, USED):  # never written, used in this lap, made available in the lap before
        rig.raw.write(0, PackedDesc(data, 8, flags))
        assert getdesc(device) is None
    rig.raw.write(0, PackedDesc(data, 8, AVAIL))
    assert getdesc(device) is not None


@pytest.mark.virtio("PACKED-DEV-14")
def test_a_list_is_consumed_in_its_order_wherever_the_ring_ends() -> None:
    for start in range(6):
        rig = PackedRig(6)
        _, device = rig.pair(start)
        parts = [rig.buffer(text) for text in (b"first", b"2nd", b"third")]
        room = [rig.buffer(8), rig.buffer(4)]
        lists = [PackedDesc(addr, size) for addr, size in zip(parts, (5, 3, 5), strict=True)]
        rig.raw.offer(*lists, PackedDesc(room[0], 8, WRITE), PackedDesc(room[1], 4, WRITE), ident=3)
        chain = getdesc(device)
        assert chain is not None
        assert (chain[0], flat(chain[1])) == (3, b"first2ndthird")
        copy_in(chain[2], b"12345678ABCD")
        assert (rig.bytes(room[0], 8), rig.bytes(room[1], 4)) == (b"12345678", b"ABCD")
        rig.check()


@pytest.mark.virtio("PACKED-DRV-9")
def test_a_descriptor_is_written_again_once_it_was_used() -> None:
    rig = PackedRig(4, indirect=False)
    driver = rig.driver()
    fill(driver, 4)
    driver.publish()
    before = [rig.raw.read(place) for place in range(4)]
    with pytest.raises(QueueFull):
        fill(driver)
    rig.raw.give(2)
    assert driver.get_each(9) == [(2, 0)]
    driver.add((), (seg(0x2000, 5),), 9)
    with pytest.raises(QueueFull):
        fill(driver)
    driver.publish()
    assert [rig.raw.read(place) for place in range(4)] == [PackedDesc(0x2000, 5, USED | WRITE, 2), *before[1:]]


@pytest.mark.virtio("PACKED-DRV-8")
@pytest.mark.parametrize("fill_with", [b"\xff", b"\x80"])
def test_a_new_ring_is_empty_with_any_old_contents_in_its_memory(rig: PackedRig, fill_with: bytes) -> None:
    rig.raw.clear(fill_with)
    driver = rig.driver()
    assert get(driver) is None
    assert getdesc(rig.device()) is None
    assert (rig.raw.driver_event, rig.raw.device_event) == (0, 0)


@pytest.mark.virtio("PACKED-DRV-12", "PACKED-DRV-13", "PACKED-DRV-15", "PACKED-DRV-16")
def test_a_list_that_has_no_room_is_not_begun() -> None:
    rig = PackedRig(4, indirect=False)
    driver, device = rig.driver(), rig.device()
    fill(driver, 2)
    driver.publish()
    with pytest.raises(QueueFull, match="3 descriptors wanted, 2 free"):
        driver.add([seg(0x1000, 1)] * 3, (), 1)
    with pytest.raises(LocalRingError, match="does not fit a queue of 4"):
        driver.add([seg(0x1000, 1)] * 5, (), 1)
    with pytest.raises(LocalRingError, match="at least one"):
        driver.add((), (), 1)
    assert not driver.publish()
    assert len(device.getdescs(9)) == 2
    assert getdesc(device) is None


@pytest.mark.virtio("PACKED-DRV-20")
def test_a_table_has_no_more_descriptors_than_the_queue() -> None:
    rig = PackedRig(2)
    with pytest.raises(LocalRingError, match="3 descriptors does not fit a queue of 2"):
        rig.driver().add([seg(0x1000, 1)] * 3, (), 1)


def test_a_batch_that_can_not_be_added_leaves_nothing_behind(rig: PackedRig) -> None:
    driver, device = rig.driver(), rig.device()
    fill(driver, 1)
    with pytest.raises(LocalRingError, match="does not fit a descriptor"):
        driver.add_each([(Addr(0x1000), 1, 1), (Addr(0x1000), 1, 2), (Addr(0x1000), 1 << 32, 3)], True)
    driver.publish()
    assert [chain[0] for chain in device.getdescs(9)] == [0]
    assert (driver.num_free, driver.state().in_flight) == (7, 1)
    assert tokens(driver) == [0]


@pytest.mark.virtio("PACKED-DEV-6", "PACKED-DRV-19", "PACKED-DRV-21")
def test_of_a_table_only_addresses_lengths_and_write_count(rig: PackedRig) -> None:
    there, back, table = rig.buffer(b"abcd"), rig.buffer(4), rig.buffer()
    device = rig.device()
    everything = 0xFFFF & ~WRITE
    entries = PackedDesc(there, 4, everything, 0xDEAD), PackedDesc(back, 4, 0xFFFF, 0xBEEF)
    outer = rig.raw.table(table, *entries)
    rig.raw.offer(PackedDesc(outer.addr, outer.size, INDIRECT | WRITE), ident=5)
    chain = getdesc(device)
    assert chain is not None
    assert (chain[0], flat(chain[1]), len(chain[2][0])) == (5, b"abcd", 4)
    driver = rig.driver()
    driver.add((seg(there, 4),), (seg(back, 4),), 1)
    driver.publish()
    assert rig.raw.read(0) == PackedDesc(rig.tables or 0, 32, AVAIL | INDIRECT, 0)
    flags = [PackedDesc.parse(rig.bytes(Addr((rig.tables or 0) + at), 16)).flags for at in (0, 16)]
    assert flags == [0, WRITE]


@pytest.mark.virtio("PACKED-DRV-7")
@EVENT_IDX
def test_suppression_uses_the_flags_there_are(event_idx: bool) -> None:
    rig = PackedRig(event_idx=event_idx)
    driver, device = rig.driver(), rig.device()
    seen = set()
    for turn in range(20):
        fill(driver)
        driver.publish()
        serve(device)
        device.publish()
        collect(driver)
        for act in (driver.enable_cb, driver.enable_cb_delayed, driver.disable_cb) if turn % 2 else ():
            act()
            seen.add(rig.raw.driver_event >> 16)
        for act in (device.notify_enable, device.notify_disable):
            act()
            seen.add(rig.raw.device_event >> 16)
    assert seen == ({1, 2} if event_idx else {0, 1})
    rig.check()


@pytest.mark.virtio("PACKED-DEV-9")
@pytest.mark.parametrize("batch", [1, 2, 3])
@pytest.mark.parametrize("start", [0, 6])
def test_with_event_idx_the_device_calls_when_the_event_is_passed(batch: int, start: int) -> None:
    rig = PackedRig(event_idx=True)
    for event in range(start, start + 6):
        driver, device = rig.pair(start)
        fill(driver, 6)
        driver.publish()
        rig.raw.driver_event = position(event, 8) | DESC
        events = []
        for at in range(0, 6, batch):
            serve(device, batch)
            if device.publish():
                events.append(range(start + at, start + at + batch))
        assert [event in covered for covered in events] == [True], (event, events)


@pytest.mark.watches_words
@pytest.mark.virtio("PACKED-DRV-23")
@pytest.mark.hostile("R25")
@EVENT_IDX
@pytest.mark.parametrize("fence", [True, False])
def test_a_fence_stands_between_every_store_and_the_load_that_must_not_pass_it(event_idx: bool, fence: bool) -> None:
    """Over a memory that swallows fences the same check fails, so it can."""

    class Unfenced(Watched):
        def fence(self) -> None:
            pass

    rig = PackedRig(event_idx=event_idx)
    if not fence:
        rig.driver_side, rig.device_side = Unfenced(rig.memory), Unfenced(rig.memory)
    driver, device = rig.driver(), rig.device()
    fill(driver)
    driver.publish()
    serve(device)
    device.publish()
    collect(driver)
    driver.enable_cb()
    device.notify_enable()
    desc = rig.addrs.desc
    for side, stored, size, loaded in (
        (rig.driver_side, desc + 8, 8, rig.addrs.device),
        (rig.driver_side, rig.addrs.driver, 4, desc + 24),
        (rig.device_side, desc + 8, 8, rig.addrs.driver),
        (rig.device_side, rig.addrs.device, 4, desc + 24),
    ):
        at = max(i for i, access in enumerate(side.log) if access == Access(Act.STORE, stored, size))
        behind = side.log[at + 1 :]
        before_load = behind[: next(i for i, a in enumerate(behind) if a.act is Act.LOAD and a.addr == loaded)]
        assert (Access(Act.FENCE) in before_load) == fence


@pytest.mark.virtio("PACKED-DRV-2", "PACKED-DEV-3")
@pytest.mark.hostile("P05", "R20")
@pytest.mark.parametrize("num", [1, 3, 256, 1000])
def test_laps_without_end(num: int) -> None:
    rig = PackedRig(num, event_idx=True, indirect=False)
    driver, device = rig.driver(memory=rig.memory), rig.device(memory=rig.memory)
    token = 0
    for _ in range(5):
        fill(driver, num)
        with pytest.raises(QueueFull):
            fill(driver)
        assert driver.publish()
        chains = device.getdescs(num + 1)
        assert len(chains) == num
        assert not device.notify_enable()
        device.complete_each([(head, 0) for head, _, _ in chains])
        assert device.publish()
        assert [token for token, _ in driver.get_each(num + 1)] == list(range(num))
        assert not driver.enable_cb()
        token += num
    assert driver.statistics().suppressed == device.statistics().suppressed == 0


def test_a_ring_may_start_at_any_position() -> None:
    rig = PackedRig(5)
    driver, device = rig.pair(13)
    assert (device.state().avail, driver.state().avail) == (3 | 1 << 15,) * 2
    fill(driver, 5)
    driver.publish()
    serve(device, 5)
    device.publish()
    assert collect(driver) == 5
    with pytest.raises(BadRing, match="can't start at 5"):
        PackedVringh(rig.memory, 5, rig.addrs, event_idx=False, indirect=False, base=5)


@pytest.mark.virtio("PACKED-DRV-1", "PACKED-DRV-2")
@pytest.mark.hostile("R22", "R23")
@pytest.mark.parametrize(
    ("num", "desc", "driver", "device"),
    [
        (0, 0, 0x1000, 0x2000),
        (32769, 0, 0x90000, 0xA0000),
        (4, 8, 0x1000, 0x2000),
        (4, 0, 0x1002, 0x2000),
        (4, 0, 0x1000, 0x2001),
        (4, 0, 60, 0x2000),
        (4, 0, 0x1000, 0x1000),
    ],
)
@pytest.mark.parametrize("side", [PackedVirtqueue, partial(PackedVringh, indirect=False)], ids=["driver", "device"])
def test_a_ring_that_can_not_be_is_refused(
    side: Callable[..., object], num: int, desc: int, driver: int, device: int
) -> None:
    memory = MappedMemory()
    memory.add(Addr(0), memoryview(bytearray(1 << 20)))
    with pytest.raises(BadRing, match=r"queue size|aligned|overlap"):
        side(memory, num, RingAddrs(Addr(desc), Addr(driver), Addr(device)), event_idx=False)
    assert memory.pinned == 0


def test_a_ring_in_one_piece() -> None:
    addrs, size = FORMATS["packed"].contiguous(3, Addr(0x1000), 64)
    assert (addrs, size) == (RingAddrs(Addr(0x1000), Addr(0x1030), Addr(0x1040)), 68)
    assert packed_sizes(3) == (48, 4, 4)
    for num in range(1, 300):
        assert FORMATS["packed"].contiguous(num, Addr(0), 64)[1] <= FORMATS["split"].contiguous(num, Addr(0), 64)[1]
