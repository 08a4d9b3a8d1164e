"""Driver and device over one ring: what crosses, indices that wrap, and nothing left of an old epoch."""

from __future__ import annotations

import pytest

from rings.layout import RingAddrs, split_sizes
from rings.memory import Addr, MappedMemory
from rings.queue import complete, getdesc
from rings.split.virtqueue import SplitVirtqueue
from rings.split.vringh import SplitVringh
from rings.testing import RawRing
from support.rigs.ring import EVENT_IDX, MakeRig, collect, fill, flat, get, seg, serve


def big_ring(num: int) -> tuple[SplitVirtqueue, SplitVringh, RawRing]:
    """A ring of any size in one region, with room for the largest."""
    memory = MappedMemory()
    memory.add(Addr(0), memoryview(bytearray(1 << 20)))
    desc, avail, _ = split_sizes(num)
    driver_area = desc
    device_area = -(-(driver_area + avail) // 4) * 4
    addrs = RingAddrs(Addr(0), Addr(driver_area), Addr(device_area))
    return (
        SplitVirtqueue(memory, num, addrs, event_idx=True),
        SplitVringh(memory, num, addrs, event_idx=True, indirect=False),
        RawRing(memory, num, addrs),
    )


@pytest.mark.virtio("VQ-DEV-2")
@EVENT_IDX
@pytest.mark.parametrize("num", [2, 8, 64])
@pytest.mark.parametrize("indirect", [False, True])
def test_bytes_cross_in_both_directions(make_rig: MakeRig, num: int, event_idx: bool, indirect: bool) -> None:
    rig = make_rig(num, event_idx=event_idx, indirect=indirect)
    there, back = rig.buffer(b"question"), rig.buffer(6)
    driver, device = rig.driver(), rig.device()
    driver.add((seg(there, 8),), (seg(back, 6),), 7)
    assert driver.publish(), "a device that never said otherwise wants to be kicked"
    chain = getdesc(device)
    assert chain is not None
    head, readable, writable = chain
    assert flat(readable) == b"question"
    writable[0][:] = b"answer"
    complete(device, head, 6)
    assert device.publish()
    assert get(driver) == (7, 6)
    assert rig.bytes(back, 6) == b"answer"


def test_chains_may_come_back_in_any_order(make_rig: MakeRig) -> None:
    rig = make_rig()
    driver, device = rig.driver(), rig.device()
    fill(driver, 8)
    driver.publish()
    heads = [chain[0] for chain in (getdesc(device) for _ in range(8)) if chain]
    for head in (*heads[::2], *heads[::-2]):
        complete(device, head, 0)
    device.publish()
    assert [done[0] for done in (get(driver) for _ in range(8)) if done] == [0, 2, 4, 6, 7, 5, 3, 1]


def test_state_and_statistics_agree_on_both_sides(make_rig: MakeRig) -> None:
    rig = make_rig()
    driver, device = rig.driver(), rig.device()
    fill(driver, 5)
    driver.publish()
    serve(device, 3)
    getdesc(device)
    device.publish()
    collect(driver)
    assert (driver.state().avail, driver.state().used, driver.state().in_flight) == (5, 3, 2)
    assert (device.state().avail, device.state().used, device.state().in_flight) == (4, 3, 1)
    assert not driver.state().broken
    mine, theirs = driver.statistics(), device.statistics()
    assert (mine.chains, mine.returned, mine.notifications, mine.suppressed) == (5, 3, 1, 0)
    assert (theirs.chains, theirs.returned, theirs.notifications, theirs.suppressed) == (4, 3, 1, 0)


@pytest.mark.hostile("R20")
@pytest.mark.parametrize("num", [1, 2, 256, 32768])
def test_indices_wrap_three_times_and_more(num: int) -> None:
    """Batches as large as the ring; the tokens show that nothing is lost, doubled or reordered."""
    driver, device, raw = big_ring(num)
    add = driver.add
    buffer = ((Addr(0), 1),)
    token = wraps = last = 0
    while wraps < 3:
        first = token
        for token in range(first, first + num):
            add((), buffer, token)
        token += 1
        assert driver.publish()
        while (chain := getdesc(device)) is not None:
            complete(device, chain[0], 1)
        assert not device.notify_enable()
        assert device.publish()
        returned = [done[0] for done in iter(lambda: get(driver), None)]
        assert returned == list(range(first, token))
        assert not driver.enable_cb()
        wraps += raw.used_idx < last
        last = raw.used_idx
    assert raw.avail_idx == raw.used_idx == token & 0xFFFF
    assert driver.statistics().suppressed == device.statistics().suppressed == 0


@pytest.mark.parametrize("num", [8, 64])
@EVENT_IDX
def test_nothing_of_an_old_ring_is_left_in_a_new_one_over_the_same_memory(
    make_rig: MakeRig, num: int, event_idx: bool
) -> None:
    rig = make_rig(num, event_idx=event_idx)
    rig.recovers(1 << 16)
    rig.raw.clear(b"\xff")
    rig.recovers(1 << 16)
