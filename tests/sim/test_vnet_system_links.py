"""Links of a system report that they went up and down, and drivers the resets that follow."""

from __future__ import annotations

import pytest

from drivers.contracts.events import DeviceReset, Event, LinkMoved, Topic
from vnet.testing import open_pair, until

NO_LINK = ("mmio", "vhost_user")


@pytest.mark.every_transport(but=NO_LINK)
async def test_links_report_their_epochs_and_drivers_the_reset() -> None:
    taken = list[Event]()
    async with open_pair() as pair:
        with pair.world.events.listen(taken.append, [Topic.LINKS, Topic.LIFECYCLE]):
            pair.link.bring_down()
            pair.link.bring_up()
            await until(lambda: any(isinstance(event, DeviceReset) and event.cause for event in taken))
    moves = [event for event in taken if isinstance(event, LinkMoved)]
    assert [(event.up, event.epoch) for event in moves] == [(False, 1), (True, 2)]
    assert {event.source.link for event in moves} == {"link0"}
