"""A driver's queue reports when it is enabled, breaks and stops, and each stop once."""

from __future__ import annotations

import pytest

from drivers.contracts.events import Event, QueueEnabled, QueueStopped, Topic
from rings.errors import BadRing
from vnet.testing import open_pair, until


@pytest.mark.every_transport
async def test_a_ring_that_the_device_breaks_is_reported_by_the_driver_with_its_section() -> None:
    taken = list[Event]()
    async with open_pair() as pair:
        with pair.world.events.listen(taken.append, [Topic.LIFECYCLE]):
            assert pair.device.virtio is not None
            pair.device.virtio.queues[0].fail(BadRing("used index 9 is 9 ahead, with 0 in flight", "2.7.8"))
            await until(lambda: any(isinstance(event, QueueEnabled) for event in taken))
    mine = [
        (type(event), getattr(event, "section", ""))
        for event in taken
        if (event.source.side, event.source.queue) == ("driver", "receiveq1")
    ]
    assert mine[:2] == [(QueueStopped, "2.7.8"), (QueueStopped, "")]
    assert mine.count((QueueStopped, "")) == 1
