"""Notifications that a link loses: the queue's events say so, beside that they were sent."""

from __future__ import annotations

from collections import Counter

import pytest

from drivers.contracts.events import Event, FaultInjected, Notified, Topic
from vnet.spec import FaultSpec, LinkSpec
from vnet.testing import FRAME, Options, open_pair, over, until
from vnet.testing.pair import ENDPOINT, ROOT

LOSSES = {
    "kick": (FaultSpec(seed=1, lost_doorbells=0.5), "doorbell", "driver"),
    "call": (FaultSpec(seed=1, lost_interrupts=0.5), "interrupt", "device"),
}


@pytest.mark.parametrize("transport", ["pci", "epf_mailbox"])
@pytest.mark.parametrize("kind", LOSSES)
async def test_a_lost_notification_is_neither_missing_nor_arrived(transport: str, kind: str) -> None:
    faults, request, side = LOSSES[kind]
    link = LinkSpec(root=ROOT, endpoint=ENDPOINT, faults=faults)
    taken: list[Event] = []
    with over(transport, "split"):
        async with open_pair(Options(link=link)) as pair:
            with pair.world.events.listen(taken.append, (Topic.RINGS, Topic.LINKS)):
                for count in range(1, 41):
                    pair.driver_port.inject(FRAME)
                    await until(lambda count=count: pair.device_port.tx_packets >= count)  # type: ignore[misc]
            assert pair.world.events.rings is None
    notified = [event for event in taken if isinstance(event, Notified) and event.kind == kind]
    outcomes = Counter(event.outcome for event in notified)
    lost = [event for event in notified if event.outcome == "lost"]
    injected = [e for e in taken if isinstance(e, FaultInjected) and (e.request, e.fault) == (request, "lost")]
    assert lost
    assert len(lost) <= len(injected), "a configuration change is no queue's"
    assert outcomes["sent"] == outcomes["lost"] + outcomes["arrived"]
    for event in lost:
        assert (event.source.device, event.source.side, event.source.link) == ("net0", side, "")
        assert event.source.queue in {"receiveq1", "transmitq1"}
        before = notified[notified.index(event) - 1]
        assert (before.outcome, before.source, before.published) == ("sent", event.source, event.published)
