"""The test kit itself: pictures of rings, canaries, logs."""

from __future__ import annotations

import pytest

from rings.layout import NO_INTERRUPT
from rings.testing import Desc, dump
from support.rigs.ring import MakeRig, Rig, seg


def test_the_picture_of_a_ring_shows_what_is_available_and_what_was_used(make_rig: MakeRig) -> None:
    rig = make_rig(4)
    driver = rig.driver()
    driver.add((seg(0x100, 1),), (), 1)
    driver.add((seg(0x100, 1), seg(0x200, 2)), (seg(0x300, 3),), 2)
    driver.publish()
    driver.disable_cb()
    rig.raw.give(0, 0)
    tables = rig.tables
    assert tables is not None
    desc, driver_area, device_area = (rig.addrs.desc, rig.addrs.driver, rig.addrs.device)
    assert dump(rig.raw).splitlines() == [
        f"split ring of 4 descriptors at {desc:#x}, driver area {driver_area:#x}, device area {device_area:#x}",
        "driver  flags 1  idx 2  used_event 0",
        "device  flags 0  idx 1  avail_event 0",
        "the device requests kicks",
        "the driver suppresses calls",
        "1 chain outstanding",
        "      1: head 1",
        f"         1: {tables + 64:#x} +48 indirect table",
        "            0: 0x100 +1 device reads -> 1",
        "            1: 0x200 +2 device reads -> 2",
        "            2: 0x300 +3 device writes",
        "      0: used 0, 0 bytes written",
    ]
    assert rig.raw.avail_flags == NO_INTERRUPT


def test_a_picture_can_be_had_of_a_ring_of_any_content(rig: Rig) -> None:
    rig.raw.write(0, Desc(0, 8, 1, 0))
    rig.raw.write(1, Desc(0x7000_0000, 32, 4))
    rig.raw.offer(0, 1, 99)
    text = dump(rig.raw)
    assert "head 0  fault: loops" in text
    assert "head 1  fault: read of 32 bytes at 0x70000000: no memory there" in text
    assert "head 99  fault: names descriptor 99 of 8" in text
    rig.raw.clear(b"\xff")
    assert dump(rig.raw).startswith("split ring of 8")


def test_a_canary_tells_of_a_byte_beyond_a_grant(rig: Rig) -> None:
    """The post-condition of all these tests can fail."""
    rig.memory.check()
    (low, size), (following, _) = rig.memory.ranges[-2:]
    assert following - (low + size) >= 4096
    spot = low + size - rig.memory._origin
    rig.memory._whole[spot] ^= 1
    with pytest.raises(AssertionError, match="outside of every grant"):
        rig.memory.check()
    rig.memory._whole[spot] ^= 1
