"""The sink of a capture: interfaces by place, what is selected, and losses that are counted."""

from __future__ import annotations

import pytest

from drivers.contracts.events import DeviceReset, Event, LinkMoved, Source, StatusChanged, TlpSent, Topic
from support.captures import EPOCH, SOURCE, blocks, captured, event, frame, record
from vnet.capture import recorder as recorder_module
from vnet.capture.filters import parse_filter
from vnet.capture.pcapng import EPB_DROPCOUNT, PacketBlock, PcapngInterface, PcapngStatistics
from vnet.capture.recorder import ETHERNET, UPPER_PDU, Recorder, Selection

DISK = Source("rc", "disk0", "device", "requestq1", "pcie1")


def packets(data: bytes) -> list[PacketBlock]:
    return [block for block in blocks(data) if isinstance(block, PacketBlock)]


def kinds(selection: Selection, *events: Event) -> list[str]:
    data = record(events, selection)
    names = [type(each).__name__ for each in events]
    return [names[round((packet.time - EPOCH) / 1e9)] for packet in packets(data)]


def test_ports_queues_links_and_devices_are_interfaces() -> None:
    tlp = event("TlpSent", source=Source(link="pcie0"))
    status = StatusChanged(1.0, Source("rc", "net0", "driver"), 15)
    data = record([frame(), event("ChainAdded"), tlp, event("RegisterAccessed"), status, frame("FrameSent")])
    interfaces = [block for block in blocks(data) if isinstance(block, PcapngInterface)]
    assert [(each.link_type, each.name, each.description) for each in interfaces] == [
        (ETHERNET, "net0.driver", "port vnet0 of net0, the driver's side, on host rc"),
        (UPPER_PDU, "net0.driver.transmitq1", "queue transmitq1 of net0, the driver's side, on host rc"),
        (UPPER_PDU, "pcie0", "link pcie0"),
        (UPPER_PDU, "net0.driver", "net0, the driver's side, on host rc"),
    ]
    assert [packet.interface.number for packet in packets(data)] == [0, 1, 2, 2, 3, 0]


def test_times_are_those_of_the_clock_in_nanoseconds_since_1970() -> None:
    (packet,) = packets(record([event("ChainAdded", 2.000000001)]))
    assert packet.time == EPOCH + 2_000_000_001


def test_events_and_frames_are_read_back_in_their_order() -> None:
    events = [event("ChainAdded", 1.0), event("Notified", 2.0), event("DmaMoved", 3.0, DISK)]
    assert [type(each.event) for each in captured(events)] == [type(each) for each in events]
    assert [each.event.source for each in captured(events)] == [SOURCE, SOURCE, DISK]


def test_a_frame_is_cut_at_the_snap_length() -> None:
    (packet,) = packets(record([frame()], Selection(snap_length=20)))
    assert (packet.data, packet.size, packet.interface.snap_length) == (frame().data()[:20], 114, 20)


@pytest.mark.parametrize(
    ("places", "chosen"),
    [
        (("net0",), ["ChainAdded", "FrameReceived"]),
        (("disk0", "pcie1"), ["ChainTaken", "TlpSent", "LinkMoved"]),
        (("pcie0",), ["ChainAdded", "FrameReceived"]),
        ((), ["ChainAdded", "FrameReceived", "ChainTaken", "TlpSent", "LinkMoved"]),
    ],
)
def test_a_link_stands_for_itself_and_the_devices_on_it(places: tuple[str, ...], chosen: list[str]) -> None:
    link = Source(link="pcie1")
    events = [event("ChainAdded", 0.0), frame(time=1.0), event("ChainTaken", 2.0, DISK), event("TlpSent", 3.0, link)]
    assert kinds(Selection(places=places), *events, LinkMoved(4.0, link, True, 1)) == chosen


def test_all_conditions_must_hold() -> None:
    selection = Selection(filters=[parse_filter("ring.chain > 4"), parse_filter("queue == transmitq1")])
    events = [event("ChainReturned", 0.0, chain=4), event("ChainAdded", 1.0, chain=5)]
    events += [event("ChainTaken", 2.0, DISK, chain=5), event("DmaMoved", 3.0, chain=5)]
    assert kinds(selection, *events) == ["ChainAdded"]


def test_events_above_the_limit_of_the_buffer_are_lost_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recorder_module, "BUFFER", 1000)
    woken = list[None]()
    recorder = Recorder("test", Selection(), EPOCH, lambda: woken.append(None))
    first = bytes(recorder.take())
    for _ in range(100):
        recorder(event("ChainAdded"))
    assert len(woken) == 1
    before = bytes(recorder.take())
    recorder(event("ChainAdded", 2.0))
    after = bytes(recorder.finish(3.0))
    recorded = packets(first + before)
    (late,) = [packet for packet in packets(first + before + after) if packet.time == EPOCH + 2 * 10**9]
    lost = 100 - len(recorded)
    assert 0 < lost < 100
    assert int.from_bytes(late.options[EPB_DROPCOUNT], "little") == lost
    (statistics,) = [block for block in blocks(first + before + after) if isinstance(block, PcapngStatistics)]
    assert (statistics.received, statistics.dropped) == (101, lost)


def test_places_that_come_and_go_do_not_mix(monkeypatch: pytest.MonkeyPatch) -> None:
    """Places are remembered by their identity: one that is gone may leave its own to another."""
    monkeypatch.setattr(recorder_module, "ROUTES", 8)
    recorder = Recorder("test", Selection(), EPOCH, lambda: None)
    for number in range(100):
        recorder(DeviceReset(1.0, Source("rc", f"net{number}", "driver"), "", 0))
    data = bytes(recorder.finish(1.0))
    assert [packet.interface.name for packet in packets(data)] == [f"net{number}.driver" for number in range(100)]


def test_a_capture_of_no_topic_is_still_a_file() -> None:
    assert blocks(record([], Selection(topics=()))) == []


def test_topics_are_all_by_default() -> None:
    assert Selection().topics == tuple(Topic)
    assert TlpSent.topic in Selection().topics
