"""A device's side that ends its turn: how much work it hands out before others have theirs."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from rings.errors import BadRing
from rings.layout import NEXT
from rings.memory import Addr
from rings.observers.dirty import DirtyLog, DirtyObserver, WriteRecorder, dirty_log_size
from rings.observers.meter import SPLIT_COSTS, MeterObserver
from rings.observers.observed import ObservedVringh, Observer
from rings.queue import Vringh, getdesc
from rings.sides import CHAIN_MAX
from rings.split.vringh import SplitVringh
from rings.testing import Desc
from support.rigs.packed import PackedRig
from support.rigs.ring import Rig, RingRig, seg

SPOT = 0x1000


class Meter:
    def read(self, size: int, /) -> None: ...

    def write(self, size: int, /) -> None: ...


def plain(rig: RingRig) -> Vringh:
    return rig.device()  # type: ignore[attr-defined, no-any-return]


def around(rig: RingRig) -> Vringh:
    return ObservedVringh(plain(rig), Observer())


def metered(rig: RingRig) -> Vringh:
    return ObservedVringh(plain(rig), MeterObserver(Meter(), SPLIT_COSTS, indirect=True))


def dirty(rig: RingRig) -> Vringh:
    memory = WriteRecorder(rig.memory)
    ring = rig.device(memory=memory)  # type: ignore[attr-defined]
    log = DirtyLog(memoryview(bytearray(dirty_log_size(1 << 30))))
    return ObservedVringh(ring, DirtyObserver(log, memory, ()))


RIGS: dict[str, Callable[[], RingRig]] = {"split": lambda: Rig(16), "packed": lambda: PackedRig(16)}
SIDES: dict[str, Callable[[RingRig], Vringh]] = {"plain": plain, "around": around, "metered": metered, "dirty": dirty}


@pytest.mark.hostile("R17")
@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("form", RIGS)
def test_a_ring_reads_as_empty_once_its_work_is_done_and_says_that_there_is_more(form: str, side: str) -> None:
    rig = RIGS[form]()
    device = SIDES[side](rig)
    driver = rig.driver()  # type: ignore[attr-defined]
    for token in range(12):
        driver.add((), [seg(SPOT, 8)] * 3, token)
    driver.publish()
    device.pace(7)
    assert len(device.getdescs(5)) == 3, "two chains and the one that uses the turn up"
    assert device.paused
    assert device.getdescs(5) == []
    assert getdesc(device) is None
    assert device.notify_enable()
    device.pace(4)
    device.spend(1)
    assert getdesc(device) is not None
    assert device.getdescs(5) == []
    device.pace(1 << 20)
    taken = 4
    while getdesc(device) is not None:
        taken += 1
    assert taken == 12
    assert not device.paused
    assert not device.notify_enable()


@pytest.mark.parametrize("form", RIGS)
def test_chains_of_one_descriptor_are_free(form: str) -> None:
    rig = RIGS[form]()
    device, driver = plain(rig), rig.driver()  # type: ignore[attr-defined]
    driver.add_each([(Addr(SPOT), 8, token) for token in range(16)], True)
    driver.publish()
    device.pace(1)
    assert len(device.getdescs(16)) == 16


def test_chains_that_another_device_left_are_paced_as_well() -> None:
    rig = Rig(16)
    driver = rig.driver()
    for token in range(4):
        driver.add((), [seg(SPOT, 8)] * 3, token)
    driver.publish()
    device = rig.device()
    device.resume((0, 1, 2))
    device.pace(4)
    assert [head for head, _, _ in device.getdescs(4)] == [0, 1]
    assert device.notify_enable()


@pytest.mark.hostile("R02")
def test_a_chain_is_never_longer_than_can_be_followed_in_a_turn() -> None:
    num = 2 * CHAIN_MAX
    rig = RingRig(num, memory=1 << 22)
    device = SplitVringh(rig.memory, num, rig.addrs, event_idx=False, indirect=True)
    rows = [Desc(Addr(SPOT), 0, NEXT if i < CHAIN_MAX else 0, i + 1) for i in range(CHAIN_MAX + 1)]
    for index, row in enumerate(rows):
        rig.memory.view(Addr(rig.addrs.desc + 16 * index), 16, True)[:] = row.emit()
    rig.memory.view(Addr(rig.addrs.driver + 2), 2, True)[:] = b"\1\0"
    with pytest.raises(BadRing, match=f"longer than {CHAIN_MAX} descriptors"):
        getdesc(device)
