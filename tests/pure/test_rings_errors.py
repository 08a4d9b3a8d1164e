"""A ring that the device broke stays broken, and what it raises each time is a new exception."""

from __future__ import annotations

import pytest

from rings.errors import BadRing
from rings.packed.virtqueue import PackedVirtqueue
from rings.split.virtqueue import SplitVirtqueue
from support.rigs.packed import PackedRig
from support.rigs.ring import MakeRig, get, seg


def raised(driver: SplitVirtqueue | PackedVirtqueue) -> BadRing:
    with pytest.raises(BadRing) as caught:
        get(driver)
    return caught.value


def check(driver: SplitVirtqueue | PackedVirtqueue) -> None:
    first, second, third = (raised(driver) for _ in range(3))
    assert str(first) == str(second) == str(third)
    assert second is not third, "a traceback grows each time that its exception is raised"


@pytest.mark.hostile("D01")
def test_a_split_ring_keeps_the_reason_and_not_the_exception(make_rig: MakeRig) -> None:
    rig = make_rig()
    driver = rig.driver()
    driver.add((), (seg(0x1000, 8),), 1)
    driver.publish()
    rig.raw.give(99, 8)
    check(driver)


@pytest.mark.hostile("P02")
def test_a_packed_ring_keeps_the_reason_and_not_the_exception() -> None:
    rig = PackedRig()
    driver = rig.driver()
    driver.add((), (seg(0x1000, 8),), 1)
    driver.publish()
    rig.raw.give(99, 8)
    check(driver)
