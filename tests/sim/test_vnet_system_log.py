"""Events of a running system over each transport, and the log that they become."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

import pytest
import trio

from drivers.bus.virtio import REQUESTED
from drivers.contracts.events import (
    RECORDS,
    BindMoved,
    ControlCommanded,
    DeviceReset,
    Event,
    FaultInjected,
    FaultRuleEnded,
    FeaturesNegotiated,
    MessagePassed,
    NeedsResetSet,
    NotificationsRescued,
    PacketsDropped,
    QueueEnabled,
    QueueStopped,
    Source,
    StatusChanged,
    Topic,
)
from rings.errors import BadRing
from rings.status import Status
from vnet.qmp.server import ControlServer
from vnet.spec import FaultSpec, LinkSpec
from vnet.system.events import EventHub
from vnet.system.limited import AGAIN, LINES, PER, TEXT_MAX
from vnet.system.log import ENTRIES, TOPICS, log_events
from vnet.system.losses import INTERVAL
from vnet.testing import FRAME, NetPair, Options, open_pair, until
from vnet.testing.pair import ENDPOINT, ROOT

E = TypeVar("E", bound=Event)
UP = Status.ACKNOWLEDGE | Status.DRIVER | Status.FEATURES_OK | Status.DRIVER_OK
SIDES = {"driver", "device"}
NET0 = Source("rc", "net0", "driver", "transmitq1")


class Taken(list[Event]):
    """The events of a pair's system."""

    def of(self, kind: type[E]) -> list[E]:
        return [event for event in self if isinstance(event, kind)]


@contextmanager
def taken_from(pair: NetPair) -> Iterator[Taken]:
    taken = Taken()
    with pair.world.events.listen(taken.append):
        yield taken


async def rebind(pair: NetPair) -> None:
    assert pair.device.virtio is not None
    await pair.device.driver_host.virtio.rebind(pair.device.virtio)
    await pair.world.wait_up()


def test_each_kind_of_event_of_a_logged_topic_has_a_line_in_the_log() -> None:
    assert set(ENTRIES) == {kind for kind in RECORDS.values() if kind.topic in TOPICS}
    assert {kind.topic for kind in ENTRIES} == set(TOPICS)


def test_the_end_of_a_rule_has_its_requests_unless_the_link_flapped() -> None:
    def line(fault: str, requests: int) -> str:
        return ENTRIES[FaultRuleEnded](
            FaultRuleEnded(0, Source(link="pcie0"), fault, fault, "expired", requests, 2)
        ).text

    assert line("timeouts", 7) == "rule timeouts expired: 2 faults in 7 requests"
    assert line("flap_every_ms", 0) == "rule flap_every_ms expired: 2 faults"


@pytest.mark.parametrize(("level", "unheard"), [("DEBUG", []), ("INFO", ["vhost_user"]), ("WARNING", ["links"])])
def test_the_log_listens_to_the_topics_that_its_level_prints(level: str, unheard: list[str]) -> None:
    logger, hub = logging.getLogger("vnet"), EventHub()
    former = logger.level
    try:
        logger.setLevel(level)
        with log_events(hub):
            assert hub.lifecycle is not None
            assert (hub.frames, hub.rings, hub.registers, hub.tlps) == (None,) * 4
            assert [getattr(hub, topic) for topic in unheard] == [None] * len(unheard)
            assert (hub.vhost_user is None) == (level != "DEBUG")
    finally:
        logger.setLevel(former)


@pytest.mark.every_transport
async def test_a_bring_up_is_reported_by_both_sides() -> None:
    async with open_pair() as pair:
        with taken_from(pair) as taken:
            await rebind(pair)
    assert all(event.source.device == "net0" for event in taken if event.topic is Topic.LIFECYCLE)
    assert {event.source.host for event in taken if event.source.side == "driver"} == {"rc"}
    for side in SIDES:
        status = [event.status for event in taken.of(StatusChanged) if event.source.side == side]
        assert (status[0], status[-1]) == (0, UP), side
    features = {event.source.side: event for event in taken.of(FeaturesNegotiated)}
    assert features["driver"].accepted == features["device"].accepted
    assert "VERSION_1" in features["driver"].names
    for kind in (QueueEnabled, QueueStopped):
        queues = {(event.source.side, event.source.queue) for event in taken.of(kind)}
        assert queues == {(side, queue) for side in SIDES for queue in ("receiveq1", "transmitq1")}
    assert [event.cause for event in taken.of(QueueStopped)] == [""] * 4
    assert taken.of(DeviceReset)
    bound = [event.state for event in taken.of(BindMoved) if event.driver == "virtio_net"]
    assert bound[-2:] == ["probing", "bound"]


@pytest.mark.every_transport
async def test_a_queue_that_breaks_is_reported_with_its_rule_and_the_resets_that_follow(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with open_pair() as pair:
        with taken_from(pair) as taken:
            queue = pair.vhost.queues[1]
            queue.fail(BadRing("chain 3: next descriptor 99 of 64", "2.7.5"))
            await until(lambda: bool(taken.of(NeedsResetSet)))
            await pair.world.wait_up()
            await until(lambda: any(event.repeats for event in taken.of(DeviceReset)))
    [broken] = [event for event in taken.of(QueueStopped) if event.cause]
    assert (broken.cause, broken.section) == ("chain 3: next descriptor 99 of 64", "2.7.5")
    assert (broken.source.device, broken.source.side, broken.source.queue) == ("net0", "device", "transmitq1")
    assert [event.cause for event in taken.of(NeedsResetSet)] == ["transmitq1: chain 3: next descriptor 99 of 64"]
    place = f"net0 transmitq1 (device on {broken.source.host})"
    text = f"{place}: broke and is stopped until the driver resets the device: {broken.cause} (VIRTIO 1.4, 2.7.5)"
    assert [record.getMessage() for record in caplog.records if record.name == "vnet.net0.transmitq1"] == [text]


async def test_faults_and_the_notifications_that_they_lose_are_reported(caplog: pytest.LogCaptureFixture) -> None:
    link = LinkSpec(root=ROOT, endpoint=ENDPOINT, faults=FaultSpec(seed=1, lost_doorbells=1.0))
    async with open_pair(Options(link=link)) as pair:
        with taken_from(pair) as taken:
            pair.driver_port.inject(FRAME)
            await until(lambda: bool(taken.of(NotificationsRescued)), INTERVAL + 1)
    assert {(event.request, event.fault) for event in taken.of(FaultInjected)} == {("doorbell", "lost")}
    [*_, rescued] = taken.of(NotificationsRescued)
    assert (rescued.source.side, rescued.source.queue) == ("device", "transmitq1")
    assert "a notification was lost; a re-check found the work" in caplog.text


@pytest.mark.every_transport
async def test_a_new_cause_of_drops_is_reported_once_a_second(caplog: pytest.LogCaptureFixture) -> None:
    async with open_pair() as pair:
        with taken_from(pair) as taken:
            for _ in range(3):
                pair.driver_port.drop("oversized")
            pair.device_port.drop("oversized")
            await until(lambda: bool(taken.of(PacketsDropped)), INTERVAL + 1)
    drop, other = taken.of(PacketsDropped)
    assert (drop.source.side, drop.place, drop.cause, drop.count) == ("driver", "port", "oversized", 3)
    assert (drop.source.host, other.source.host) == pair.device.hosts, "as the events of all other topics name them"
    assert "net0 (driver on rc): port drops packets: oversized (2 more times)" in caplog.messages


async def test_commands_of_the_control_socket_are_reported() -> None:
    async with open_pair() as pair:
        with taken_from(pair) as taken:
            ours, theirs = trio.testing.memory_stream_pair()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(ControlServer(pair.world).converse, theirs)
                for text in (b'{"execute": "qmp_capabilities"}', b'{"execute": "query-commands"}', b'{"execute": "x"}'):
                    await ours.send_all(text)
                await until(lambda: len(taken.of(ControlCommanded)) == 3)
                await ours.aclose()
    assert [(event.command, bool(event.outcome)) for event in taken.of(ControlCommanded)] == [
        ("qmp_capabilities", False),
        ("query-commands", False),
        ("x", True),
    ]


async def test_messages_of_vhost_user_are_reported_by_both_ends() -> None:
    async with open_pair(Options(transport="vhost_user")) as pair:
        with taken_from(pair) as taken:
            await rebind(pair)
    for side, sent in (("driver", True), ("device", False)):
        messages = [event for event in taken.of(MessagePassed) if event.source.side == side]
        assert {"SET_FEATURES", "SET_VRING_ADDR"} <= {event.request for event in messages if event.sent is sent}


# The log


def emit(hub: EventHub, event: Event) -> None:
    assert hub.lifecycle is not None
    hub.lifecycle(event)


async def test_one_place_has_ten_lines_in_five_seconds_and_then_a_number(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "vnet")
    hub = EventHub()
    with log_events(hub) as log:
        for status in range(100):
            emit(hub, StatusChanged(0.0, NET0, status & 1))
        assert len(caplog.messages) == LINES
        emit(hub, QueueStopped(0.0, NET0, "a rule"))
        assert len(caplog.messages) == LINES + 1, "a warning has a limit of its own"
        await trio.sleep(PER)
        log.flush()
        assert caplog.messages[-1] == "net0.transmitq1: 90 more"


async def test_a_device_that_resets_again_and_again_is_logged_at_growing_intervals(
    caplog: pytest.LogCaptureFixture,
) -> None:
    hub = EventHub()
    source = Source("rc", "net0", "driver")
    with log_events(hub):
        for repeats in range(1, 201):
            emit(hub, DeviceReset(0.0, source, "the device asked for a reset", repeats))
            await trio.sleep(1)
    text = "net0 (driver on rc): reset {} times in a row: the device asked for a reset"
    shortest, _ = AGAIN
    assert caplog.messages == [text.format(3 + int(after * shortest)) for after in (0, 1, 3, 7, 15, 27, 39)]


async def test_a_reset_that_the_device_requested_is_logged_with_its_cause_first(
    caplog: pytest.LogCaptureFixture,
) -> None:
    hub = EventHub()
    with log_events(hub):
        emit(hub, NeedsResetSet(0.0, Source("ep", "net0", "device"), "transmitq1: loops"))
        for device, cause in (("net0", REQUESTED), ("net0", "unbound"), ("net1", REQUESTED)):
            emit(hub, DeviceReset(0.0, Source("rc", device, "driver"), cause, 3))
    start = "(driver on rc): reset 3 times in a row"
    assert caplog.messages == [
        f"net0 {start}: transmitq1: loops (the device asked for a reset)",
        f"net0 {start}: unbound",
        f"net1 {start}: the device asked for a reset",
    ]


async def test_drops_that_stop_within_the_pause_of_their_problem_are_logged_after_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    hub = EventHub()
    text = "net0 transmitq1 (driver on rc): a port drops packets: full"
    with log_events(hub) as log:
        for count in (100, 10_000):
            emit(hub, PacketsDropped(0.0, NET0, "a port", "full", count))
        log.flush()
        assert caplog.messages == [f"{text} (99 more times)"]
        await trio.sleep(AGAIN[0])
        log.flush()
        assert caplog.messages[1:] == [f"{text} (10000 more times)"]
        emit(hub, PacketsDropped(0.0, NET0, "a port", "full", 7))
    assert caplog.messages[2:] == [f"{text} (7 more times)"]


@pytest.mark.hostile("V12")
async def test_a_huge_cause_is_cut(caplog: pytest.LogCaptureFixture) -> None:
    hub = EventHub()
    with log_events(hub):
        emit(hub, QueueStopped(0.0, NET0, "a" * 100_000))
    [line] = caplog.messages
    assert line.endswith("aaa...")
    assert len(line) < TEXT_MAX + 100
