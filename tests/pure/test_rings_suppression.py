"""Must I tell the other side? Notifications exactly when they are due, and the fences that make that hold."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from rings.queue import getdesc
from rings.split.virtqueue import SplitVirtqueue
from rings.split.vringh import SplitVringh
from rings.suppression import need_event
from rings.testing import Access, Act, Watched
from support.rigs.ring import EVENT_IDX, MakeRig, Rig, collect, fill, get, serve

U16 = st.integers(0, 0xFFFF)

# ---------------------------------------------------------------- the predicate


@given(event=U16, old=U16, count=st.integers(0, 300))
@example(event=0, old=0, count=0)
@example(event=0xFFFF, old=0xFFFF, count=1)
@example(event=0, old=0xFFFF, count=2)
def test_need_event_is_true_when_one_of_the_new_entries_is_the_event(event: int, old: int, count: int) -> None:
    entries = [old + at & 0xFFFF for at in range(count)]
    assert need_event(event, old + count & 0xFFFF, old) == (event in entries)


@pytest.mark.parametrize("old", [0, 1, 32768, 65535])
@pytest.mark.parametrize("count", [0, 1, 2, 32768, 65535])
def test_need_event_agrees_with_counting_for_every_event(old: int, count: int) -> None:
    new = old + count & 0xFFFF
    entries = {old + at & 0xFFFF for at in range(count)}
    assert {event for event in range(65536) if need_event(event, new, old)} == entries


# ---------------------------------------------------------------- the ring


@pytest.mark.virtio("SPLIT-DRV-22", "SPLIT-DRV-23", "SPLIT-DRV-21", "SPLIT-DEV-16")
def test_without_event_idx_the_driver_kicks_as_the_flag_says(make_rig: MakeRig) -> None:
    rig = make_rig()
    driver, device = rig.driver(), rig.device()
    kicks = []
    for quiet in (False, True, True, False):
        if quiet:
            device.notify_disable()
        else:
            device.notify_enable()
        assert rig.raw.used_flags == quiet
        rig.raw.avail_event = 0x1234  # means nothing
        fill(driver)
        kicks.append(driver.publish())
    assert kicks == [True, False, False, True]
    assert (driver.statistics().notifications, driver.statistics().suppressed) == (2, 2)


@pytest.mark.virtio("SPLIT-DEV-7", "SPLIT-DEV-8", "SPLIT-DEV-9", "SPLIT-DRV-14")
def test_without_event_idx_the_device_calls_as_the_flag_says(make_rig: MakeRig) -> None:
    rig = make_rig()
    driver, device = rig.driver(), rig.device()
    fill(driver, 4)
    driver.publish()
    calls = []
    for quiet in (False, True, True, False):
        if quiet:
            driver.disable_cb()
        else:
            driver.enable_cb()
        assert rig.raw.avail_flags == quiet
        rig.raw.used_event = 0x1234  # means nothing
        serve(device)
        calls.append(device.publish())
    assert calls == [True, False, False, True]
    assert (device.statistics().notifications, device.statistics().suppressed) == (2, 2)


@pytest.mark.virtio("SPLIT-DRV-15", "SPLIT-DEV-17")
def test_with_event_idx_both_flags_stay_zero(make_rig: MakeRig) -> None:
    rig = make_rig(event_idx=True)
    driver, device = rig.driver(), rig.device()
    for _ in range(10):
        driver.disable_cb()
        device.notify_disable()
        fill(driver)
        driver.publish()
        serve(device)
        device.publish()
        collect(driver)
        driver.enable_cb()
        driver.enable_cb_delayed()
        device.notify_enable()
        assert (rig.raw.avail_flags, rig.raw.used_flags) == (0, 0)


@pytest.mark.virtio("SPLIT-DRV-24", "SPLIT-DRV-25", "SPLIT-DRV-26")
@pytest.mark.parametrize("batch", [1, 2, 3])
@pytest.mark.parametrize("start", [0, 65533])
def test_with_event_idx_the_driver_kicks_when_the_event_is_passed(make_rig: MakeRig, batch: int, start: int) -> None:
    """avail_event names an entry; the one publication that covers it kicks, no other does, flags or not."""
    rig = make_rig(event_idx=True)
    for event in range(start, start + 6):
        driver, _ = rig.pair(start)
        rig.raw.avail_event, rig.raw.used_flags = event, 0xFFFF
        events = []
        for at in range(0, 6, batch):
            fill(driver, batch)
            if driver.publish():
                events.append(range(start + at, start + at + batch))
        assert [event in covered for covered in events] == [True], (event, events)


@pytest.mark.virtio("SPLIT-DEV-10", "SPLIT-DEV-11", "SPLIT-DEV-12")
@pytest.mark.parametrize("batch", [1, 2, 3])
@pytest.mark.parametrize("start", [0, 65533])
def test_with_event_idx_the_device_calls_when_the_event_is_passed(make_rig: MakeRig, batch: int, start: int) -> None:
    rig = make_rig(event_idx=True)
    for event in range(start, start + 6):
        driver, device = rig.pair(start)
        fill(driver, 6)
        driver.publish()
        rig.raw.used_event, rig.raw.avail_flags = event, 0xFFFF
        events = []
        for at in range(0, 6, batch):
            serve(device, batch)
            if device.publish():
                events.append(range(start + at, start + at + batch))
        assert [event in covered for covered in events] == [True], (event, events)


@pytest.mark.hostile("R19")
@pytest.mark.parametrize("event", [0, 1, 7, 0x7FFF, 0x8000, 0xFFFF])
@EVENT_IDX
def test_poisoned_events_and_flags_cost_notifications_and_nothing_else(
    make_rig: MakeRig, event: int, event_idx: bool
) -> None:
    rig = make_rig(event_idx=event_idx)
    driver, device = rig.driver(), rig.device()
    for turn in range(50):
        rig.raw.used_event = rig.raw.avail_event = event
        rig.raw.avail_flags = rig.raw.used_flags = 0xFFFE  # reserved bits
        fill(driver, 3)
        kicked = driver.publish()
        serve(device, 3)
        called = device.publish()
        if event_idx:
            passed = event in range(3 * turn, 3 * turn + 3)
            assert (kicked, called) == (passed, passed)
        else:
            assert kicked
            assert called
        assert collect(driver) == 3


@EVENT_IDX
def test_one_kick_and_one_call_per_batch(make_rig: MakeRig, event_idx: bool) -> None:
    """A batch that is published at once tells the other side once, however many chains it has."""
    rig = make_rig(event_idx=event_idx)
    driver, device = rig.driver(), rig.device()
    kicks = calls = 0
    for _ in range(20):
        assert not device.notify_enable()
        fill(driver, 8)
        kicks += driver.publish()
        device.notify_disable()
        assert not driver.enable_cb()
        serve(device, 8)
        calls += device.publish()
        driver.disable_cb()
        assert collect(driver) == 8
    assert (kicks, calls) == (20, 20)


@EVENT_IDX
def test_a_side_that_does_not_wait_is_not_notified(make_rig: MakeRig, event_idx: bool) -> None:
    rig = make_rig(event_idx=event_idx)
    driver, device = rig.driver(), rig.device()
    fill(driver)
    assert driver.publish()
    device.notify_disable()
    driver.disable_cb()
    events = 0
    for _ in range(5):
        fill(driver)
        events += driver.publish()
    serve(device)
    first = device.publish()
    for _ in range(5):
        serve(device)
        events += device.publish()
    assert events == 0
    # With EVENT_IDX the event still names the first buffer, which no side has passed yet.
    assert first == event_idx


@EVENT_IDX
def test_the_device_checks_again_after_it_enables_kicks(make_rig: MakeRig, event_idx: bool) -> None:
    """A buffer that came between the last look and the request is found, not waited for."""
    rig = make_rig(event_idx=event_idx)
    driver, device = rig.driver(), rig.device()
    device.notify_disable()
    assert getdesc(device) is None
    fill(driver)
    driver.publish()
    assert device.notify_enable()
    device.notify_disable()
    serve(device)
    assert not device.notify_enable()
    fill(driver)
    assert driver.publish(), "from here on a kick is due"


@EVENT_IDX
def test_the_driver_checks_again_after_it_enables_calls(make_rig: MakeRig, event_idx: bool) -> None:
    rig = make_rig(event_idx=event_idx)
    driver, device = rig.driver(), rig.device()
    fill(driver, 2)
    driver.publish()
    driver.disable_cb()
    assert get(driver) is None
    serve(device)
    device.publish()
    assert driver.enable_cb()
    driver.disable_cb()
    assert collect(driver) == 1
    assert not driver.enable_cb()
    serve(device)
    assert device.publish(), "from here on a call is due"


@EVENT_IDX
def test_chains_that_were_given_up_are_not_waited_for_again(make_rig: MakeRig, event_idx: bool) -> None:
    """A device that could not use the chains it saw waits for more than those."""
    rig = make_rig(event_idx=event_idx)
    driver, device = rig.driver(), rig.device()
    fill(driver, 2)
    driver.publish()
    device.abandon(len([chain for chain in (getdesc(device), getdesc(device)) if chain]))
    assert not device.notify_enable()
    fill(driver)
    assert driver.publish()
    assert device.notify_enable()
    serve(device, 3)


@pytest.mark.parametrize(("in_flight", "last_without"), [(0, 0), (1, 0), (2, 1), (3, 2), (4, 3), (5, 3), (8, 6)])
def test_a_delayed_call_comes_when_most_of_what_is_in_flight_was_used(
    make_rig: MakeRig, in_flight: int, last_without: int
) -> None:
    rig = make_rig(event_idx=True)
    driver, device = rig.driver(), rig.device()
    fill(driver, in_flight)
    driver.publish()
    assert not driver.enable_cb_delayed()
    called = []
    for at in range(in_flight):
        serve(device)
        if device.publish():
            called.append(at)
    assert called == ([last_without] if in_flight else [])
    assert in_flight == 0 or last_without + 1 >= in_flight * 3 // 4


def test_a_delayed_call_is_not_waited_for_when_it_would_have_come_already(make_rig: MakeRig) -> None:
    rig = make_rig(event_idx=True)
    driver, device = rig.driver(), rig.device()
    fill(driver, 8)
    driver.publish()
    serve(device, 6)
    device.publish()
    assert not driver.enable_cb_delayed(), "six of eight are not more than three quarters"
    serve(device)
    assert device.publish()
    assert driver.enable_cb_delayed()


def test_without_event_idx_a_delayed_call_comes_with_the_next_buffer(make_rig: MakeRig) -> None:
    rig = make_rig()
    driver, device = rig.driver(), rig.device()
    fill(driver, 8)
    driver.publish()
    driver.disable_cb()
    serve(device, 2)
    assert not device.publish()
    assert not driver.enable_cb_delayed()
    serve(device)
    assert device.publish()


# ---------------------------------------------------------------- fences


def fenced(log: list[Access], stored: Access, loaded: Access) -> bool:
    """Whether a fence stands between a store and the first such load behind it."""
    at = max(i for i, access in enumerate(log) if access == stored)
    behind = log[at + 1 :]
    return Access(Act.FENCE) in behind[: behind.index(loaded)]


def publications(rig: Rig, driver: SplitVirtqueue, device: SplitVringh) -> dict[str, tuple[Watched, int, int]]:
    """Run each of the four moments where a store must be seen before a load; side, store and load address."""
    used_event, avail_event = rig.addrs.driver + 4 + 2 * rig.num, rig.addrs.device + 4 + 8 * rig.num
    avail_idx, used_idx = rig.addrs.driver + 2, rig.addrs.device + 2
    fill(driver)
    driver.publish()
    serve(device)
    device.publish()
    collect(driver)
    driver.enable_cb()
    device.notify_enable()
    flags = rig.addrs.driver, rig.addrs.device
    return {
        "driver publishes": (rig.driver_side, avail_idx, avail_event if rig.event_idx else flags[1]),
        "driver asks to be called": (rig.driver_side, used_event if rig.event_idx else flags[0], used_idx),
        "device publishes": (rig.device_side, used_idx, used_event if rig.event_idx else flags[0]),
        "device asks to be kicked": (rig.device_side, avail_event if rig.event_idx else flags[1], avail_idx),
    }


MOMENTS = ["driver publishes", "driver asks to be called", "device publishes", "device asks to be kicked"]


@pytest.mark.watches_words
@pytest.mark.virtio("SPLIT-DRV-28")
@pytest.mark.hostile("R25")
@pytest.mark.parametrize("moment", MOMENTS)
@EVENT_IDX
def test_a_fence_stands_between_the_store_and_the_load(make_rig: MakeRig, moment: str, event_idx: bool) -> None:
    rig = make_rig(event_idx=event_idx)
    side, stored, loaded = publications(rig, rig.driver(), rig.device())[moment]
    assert fenced(side.log, Access(Act.STORE, stored, 2), Access(Act.LOAD, loaded, 2))


@pytest.mark.parametrize("moment", MOMENTS)
@EVENT_IDX
def test_a_missing_fence_is_noticed(make_rig: MakeRig, moment: str, event_idx: bool) -> None:
    """The test above can fail: over a memory that swallows fences it would."""

    class Unfenced(Watched):
        def fence(self) -> None:
            pass

    rig = make_rig(event_idx=event_idx)
    rig.driver_side, rig.device_side = Unfenced(rig.memory), Unfenced(rig.memory)
    side, stored, loaded = publications(rig, rig.driver(), rig.device())[moment]
    assert not fenced(side.log, Access(Act.STORE, stored, 2), Access(Act.LOAD, loaded, 2))


def test_a_batch_costs_each_side_one_fence(make_rig: MakeRig) -> None:
    rig = make_rig(event_idx=True)
    driver, device = rig.driver(), rig.device()
    fill(driver, 8)
    driver.publish()
    serve(device, 8)
    device.publish()
    collect(driver)
    assert [len(side.acts(Act.FENCE)) for side in (rig.driver_side, rig.device_side)] == [1, 1]


@pytest.mark.watches_words
def test_an_index_is_looked_at_once_per_batch(make_rig: MakeRig) -> None:
    rig = make_rig()
    driver, device = rig.driver(), rig.device()
    fill(driver, 8)
    driver.publish()
    serve(device, 8)
    device.publish()
    assert collect(driver) == 8
    looks = [
        sum(access == Access(Act.LOAD, idx, 2) for access in side.log)
        for side, idx in ((rig.device_side, rig.addrs.driver + 2), (rig.driver_side, rig.addrs.device + 2))
    ]
    assert looks == [1, 2], "the driver's second look found nothing more"
