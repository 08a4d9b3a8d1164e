"""The test kit itself: pictures of rings, canaries, logs."""

from __future__ import annotations

import pytest

from rings.layout import NO_INTERRUPT
from rings.testing import Desc, dump
from support.rigs.ring import MakeRig, Rig, seg


def test_the_picture_of_a_ring_shows_what_is_available_and_what_was_used(make_rig: MakeRig) -> None:
    rig = make_rig(4)
    driver = rig.driver()
    driver.add((seg(0x100, 1),), (), "a")
    driver.add((seg(0x100, 1), seg(0x200, 2)), (seg(0x300, 3),), "b")
    driver.publish()
    driver.disable_cb()
    rig.raw.give(0, 0)
    tables = rig.tables
    assert tables is not None
    assert dump(rig.raw).splitlines() == [
        "split ring of 4 descriptors",
        "available  idx 2  flags 1  used_event 0  (1 outstanding)",
        "      1: head 1",
        f"         1: {tables + 64:#x} +48 table",
        "            0: 0x100 +1 r -> 1",
        "            1: 0x200 +2 r -> 2",
        "            2: 0x300 +3 w",
        "used       idx 1  flags 0  avail_event 0",
        "      0: id 0  len 0",
    ]
    assert rig.raw.avail_flags == NO_INTERRUPT


def test_a_picture_can_be_had_of_a_ring_of_any_content(rig: Rig) -> None:
    rig.raw.write(0, Desc(0, 8, 1, 0))
    rig.raw.write(1, Desc(0x7000_0000, 32, 4))
    rig.raw.offer(0, 1, 99)
    text = dump(rig.raw)
    assert "... longer than the queue" in text
    assert "read of 32 bytes at 0x70000000: no memory there" in text
    assert "99: no such descriptor" in text
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
