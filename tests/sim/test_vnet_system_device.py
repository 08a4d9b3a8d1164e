"""A device of a system has the queues of its two sides, and none for a side that is missing."""

from __future__ import annotations

import attrs

from vnet.testing import open_pair


async def test_both_sides_have_the_same_queues() -> None:
    async with open_pair() as pair:
        names = [queue.name for queue in pair.device.driver_queues]
        assert names[:2] == ["receiveq1", "transmitq1"]
        assert [queue.name for queue in pair.device.device_queues] == names


async def test_a_side_that_is_missing_has_no_queues() -> None:
    async with open_pair() as pair:
        unseen = attrs.evolve(pair.device, location="nowhere")
        assert not unseen.driver_queues
        foreign = attrs.evolve(pair.device, back=None)
        assert not foreign.device_queues
