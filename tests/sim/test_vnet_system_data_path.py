"""Events of the data path of a running system: the whole life of one frame, and sinks that come and go."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

import pytest
import trio
import trio.lowlevel

from drivers.contracts.events import (
    ChainAbandoned,
    ChainAdded,
    ChainCompleted,
    ChainEvent,
    ChainReturned,
    ChainTaken,
    DmaMoved,
    Event,
    FrameEvent,
    FrameReceived,
    FrameSent,
    InterruptSent,
    Notified,
    RegisterAccessed,
    TlpSent,
    Topic,
)
from rings.observers.overlay import ATTRIBUTES
from rings.packed.virtqueue import PackedVirtqueue
from vnet.testing import NetPair, Options, open_pair, over

E = TypeVar("E", bound=Event)
TRAFFIC = (Topic.FRAMES, Topic.RINGS, Topic.REGISTERS, Topic.TLPS)
HEADER = 12
NEVER = -1
ETHERNET = bytes.fromhex("020000000002 020000000001 0800")


def checksum(data: bytes) -> int:
    total: int = sum(struct.unpack(f">{len(data) // 2}H", data))
    return ~(total + (total >> 16)) & 0xFFFF


def echo(kind: int) -> bytes:
    """An Ethernet frame with an ICMP echo request (8) or reply (0)."""
    icmp = struct.pack(">BBHHH", kind, 0, checksum(struct.pack(">BBHHH", kind, 0, 0, 7, 1) + bytes(32)), 7, 1)
    ends = bytes([198, 18, 0, 1, 198, 18, 0, 2]) if kind else bytes([198, 18, 0, 2, 198, 18, 0, 1])
    ip = struct.pack(">BBHHHBBH", 0x45, 0, 60, 1, 0, 64, 1, 0) + ends
    ethernet = ETHERNET if kind else ETHERNET[6:12] + ETHERNET[:6] + ETHERNET[12:]
    return ethernet + ip[:10] + struct.pack(">H", checksum(ip)) + ip[12:] + icmp + bytes(32)


@pytest.fixture(params=["split", "packed"])
def ring(request: pytest.FixtureRequest, transport: str) -> Iterator[str]:
    """Format of the rings of pairs."""
    with over(transport, request.param):
        yield request.param


class Taken(list[Event]):
    """The events of a pair's system."""

    def of(self, kind: type[E]) -> list[E]:
        return [event for event in self if isinstance(event, kind)]


@contextmanager
def taken_from(pair: NetPair, topics: Sequence[Topic] = TRAFFIC) -> Iterator[Taken]:
    taken = Taken()
    with pair.world.events.listen(taken.append, topics):
        yield taken


async def ping(pair: NetPair) -> None:
    """An echo request from the driver's port, and its reply from the device's."""
    pair.driver_port.inject(echo(8))
    assert (await pair.device_port.receive())[1] == echo(8)
    pair.device_port.inject(echo(0))
    assert (await pair.driver_port.receive())[1] == echo(0)


def life(taken: Taken, frame: FrameReceived) -> Taken:
    """The events of one frame, by nothing but ids: of its frame, its chain, and the notifications of that."""
    device, queue = frame.source.device, frame.source.queue
    own = [event for event in taken.of(ChainEvent) if event.frame == frame.frame]
    chain, head = own[0].chain, own[0].head
    mine = [event for event in taken if (event.source.device, event.source.queue) == (device, queue)]
    published_at = dict.fromkeys(("kick", "call"), NEVER)
    for kind, step in (("kick", ChainAdded), ("call", ChainCompleted)):
        if any(isinstance(event, step) and event.chain == chain for event in mine):
            notified = [event for event in mine if isinstance(event, Notified) and event.kind == kind]
            published_at[kind] = next(
                (n.published for n in notified if n.published is not None and n.published > chain), NEVER
            )
    requests = {
        event.request
        for event in mine
        if (isinstance(event, RegisterAccessed) and event.doorbell and event.published == published_at["kick"])
        or (isinstance(event, InterruptSent) and event.published == published_at["call"])
    }
    story = Taken()
    for event in mine:
        match event:
            case FrameEvent():
                belongs = event.frame == frame.frame
            case ChainEvent():
                belongs = (event.chain, event.head) == (chain, head)
            case DmaMoved():
                belongs = event.chain == chain
            case Notified(kind=kind, published=published):
                # That a notification arrived tells no number: it is the next one of its queue.
                belongs = published == published_at[kind] or (published is None and _follows(story, kind))
            case TlpSent() | InterruptSent() | RegisterAccessed():
                belongs = event.request in requests
            case _:
                belongs = False
        if belongs:
            story.append(event)
    return story


def _follows(story: Taken, kind: str) -> bool:
    notified = [event.outcome for event in story.of(Notified) if event.kind == kind]
    return notified == ["sent"]


def steps(story: Taken) -> list[tuple[str, str]]:
    return [(event.source.side, _step(event)) for event in story]


def _step(event: Event) -> str:
    words = [type(event).__name__]
    if isinstance(event, Notified):
        words += [event.kind, event.outcome]
    elif isinstance(event, DmaMoved):
        words.append("write" if event.write else "read")
    return " ".join(words)


async def test_a_ping_is_reported_from_port_to_port_and_back_in_order_and_its_ids_join(ring: str) -> None:
    async with open_pair(Options(queue_size=16)) as pair:
        assert {isinstance(queue.ring, PackedVirtqueue) for queue in pair.virtio.queues} == {ring == "packed"}
        await ping(pair)
        with taken_from(pair) as taken:
            await ping(pair)
            await trio.sleep(0.1)
    request, reply = taken.of(FrameReceived)
    assert (request.data(), reply.data()) != (b"", b"")
    assert steps(life(taken, request)) == [
        ("driver", "FrameReceived"),
        ("driver", "ChainAdded"),
        ("driver", "Notified kick sent"),
        ("driver", "TlpSent"),
        ("driver", "RegisterAccessed"),
        ("device", "Notified kick arrived"),
        ("device", "ChainTaken"),
        ("device", "DmaMoved read"),
        ("device", "FrameSent"),
        ("device", "ChainCompleted"),
        ("device", "Notified call suppressed"),  # the driver takes sent buffers back when it needs them
    ]
    assert steps(life(taken, reply)) == [
        ("device", "ChainTaken"),
        ("device", "FrameReceived"),
        ("device", "DmaMoved write"),
        ("device", "ChainCompleted"),
        ("device", "Notified call sent"),
        ("device", "TlpSent"),
        ("device", "InterruptSent"),
        ("driver", "Notified call arrived"),
        ("driver", "ChainReturned"),
        ("driver", "FrameSent"),
    ]
    times = [event.time for event in taken]
    assert times == sorted(times)
    doorbell = next(event for event in taken.of(RegisterAccessed) if event.doorbell)
    assert (doorbell.register, doorbell.write, doorbell.size) == ("notify[1]", True, 2)
    tlp = next(event for event in taken.of(TlpSent) if event.request == doorbell.request)
    assert (tlp.kind, tlp.posted, tlp.downstream, tlp.bar, tlp.offset) == ("MWr", True, True, 0, doorbell.offset)
    hosts = {event.source.side: event.source.host for event in taken if event.source.side}
    assert hosts == {"driver": "rc", "device": "ep"}


@pytest.mark.every_transport
@pytest.mark.usefixtures("ring")
async def test_each_frame_keeps_its_number_from_port_to_port_over_any_transport() -> None:
    async with open_pair(Options(queue_size=8)) as pair:
        await pair.transfer(1 << 12)
        with taken_from(pair) as taken:
            for _ in range(40):  # several times around the ring
                await ping(pair)
    for received in taken.of(FrameReceived):
        story = life(taken, received)
        [sent] = story.of(FrameSent)
        assert (sent.frame, sent.size, sent.chain) == (received.frame, received.size, story.of(ChainEvent)[0].chain)
        assert sent.source.side != received.source.side
        [moved] = story.of(DmaMoved)
        assert (moved.size, moved.write) == (HEADER + received.size, received.source.side == "device")
        kinds = [type(event) for event in story.of(ChainEvent) if event.source.side == "device"]
        assert (kinds[0], kinds[-1]) == (ChainTaken, ChainCompleted)  # between them it may be abandoned and taken again
    assert len(taken.of(FrameReceived)) == 80


@pytest.mark.every_transport
@pytest.mark.usefixtures("ring")
async def test_both_sides_tell_the_same_chains_with_the_same_descriptors() -> None:
    async with open_pair(Options(queue_size=8)) as pair:
        with taken_from(pair, [Topic.RINGS]) as taken:
            for _ in range(20):
                await ping(pair)
    added = {(event.source.queue, event.chain): event for event in taken.of(ChainAdded)}
    both = [(event, added.get((event.source.queue, event.chain))) for event in taken.of(ChainTaken)]
    assert len([1 for _, other in both if other is not None]) >= 32
    for event, other in both:
        if other is not None:  # else it was added before the sink came
            assert (event.head, event.buffers, event.indirect) == (other.head, other.buffers, other.indirect)


def consistent(events: Sequence[Event]) -> int:
    """Check that each chain takes its steps in order, and return the number of those seen from first to last."""
    after: dict[type[Event], set[type[Event]]] = {
        ChainAdded: {ChainTaken},
        ChainTaken: {ChainAbandoned, ChainCompleted},
        ChainAbandoned: {ChainTaken},
        ChainCompleted: {ChainReturned},
        ChainReturned: set(),
    }
    last: dict[tuple[str, int], ChainEvent] = {}
    whole = 0
    for event in events:
        if not isinstance(event, ChainEvent):
            continue
        key = event.source.queue, event.chain
        if key in last:
            assert type(event) in after[type(last[key])], (last[key], event)
            assert event.head == last[key].head
        whole += isinstance(event, ChainReturned) and key in last
        last[key] = event
    return whole


@pytest.mark.every_transport
@pytest.mark.usefixtures("ring")
async def test_a_sink_that_comes_while_traffic_flows_sees_consistent_chains_and_leaves_no_trace() -> None:
    async with open_pair(Options(queue_size=16)) as pair, trio.open_nursery() as nursery:
        ports = pair.driver_port, pair.device_port
        device = pair.device
        assert device.virtio is not None
        objects: list[object] = [
            *ports,
            *pair.world.links.values(),
            *pair.rc.platform.regions,
            *(queue.ring for queue in device.virtio.queues),
            *(queue.ring for queue in device.vhost.queues),
        ]
        before = [set(vars(thing)) for thing in objects]
        whole = 0
        nursery.start_soon(pair.transfer, 1 << 19)
        while nursery.child_tasks:
            with taken_from(pair) as taken:
                for _ in range(20):
                    await trio.sleep(0.0001)
            whole += consistent(taken)
            count = len(taken)
            await trio.sleep(0.0001)
            assert [set(vars(thing)) for thing in objects] == before
            assert len(taken) == count
    assert whole > 100


@pytest.mark.every_transport
async def test_a_system_without_a_sink_of_its_traffic_builds_no_record(monkeypatch: pytest.MonkeyPatch) -> None:
    built: list[str] = []
    for kind in (Notified, ChainAdded, ChainTaken, ChainCompleted, FrameReceived, TlpSent, RegisterAccessed, DmaMoved):
        counted(monkeypatch, kind, built)
    async with open_pair(Options(queue_size=16)) as pair:
        await ping(pair)
        with taken_from(pair, [Topic.LIFECYCLE, Topic.LINKS]):
            await ping(pair)
        assert built == []
        with taken_from(pair):
            await ping(pair)
        assert len(set(built)) >= 6
        built.clear()
        await ping(pair)
    assert built == []


def counted(monkeypatch: pytest.MonkeyPatch, kind: type[Event], built: list[str]) -> None:
    init: Callable[..., None] = kind.__init__

    def count(self: Event, *args: object, **kwargs: object) -> None:
        built.append(kind.__name__)
        init(self, *args, **kwargs)

    monkeypatch.setattr(kind, "__init__", count)


@pytest.mark.every_transport
async def test_rings_of_later_bring_ups_are_watched_too() -> None:
    async with open_pair(Options(queue_size=16)) as pair:
        with taken_from(pair) as taken:
            assert pair.device.virtio is not None
            await pair.device.driver_host.virtio.rebind(pair.device.virtio)
            await pair.world.wait_up()
            taken.clear()
            await ping(pair)
            await trio.sleep(0.1)
            request, reply = taken.of(FrameReceived)
            for frame in (request, reply):
                [sent] = life(taken, frame).of(FrameSent)
                assert sent.frame == frame.frame
        rings = [queue.ring for queue in pair.device.virtio.queues]
        assert not any("publish" in vars(ring) for ring in rings)


async def test_sinks_of_different_topics_share_the_emitters() -> None:
    async with open_pair() as pair:
        with taken_from(pair, [Topic.RINGS]) as chains:
            with taken_from(pair, [Topic.FRAMES]) as frames:
                await ping(pair)
                assert {event.topic for event in frames} == {Topic.FRAMES}
                assert {event.chain is None for event in frames.of(FrameEvent)} == {False, True}
            assert {event.topic for event in chains} == {Topic.RINGS}
            count = len(frames)
            await ping(pair)
            assert len(frames) == count


async def test_watched_objects_have_no_more_attributes_than_are_found_fast(ring: str) -> None:
    """Else frames would cost more after a sink has gone."""
    async with open_pair() as pair:
        with taken_from(pair):
            drivers = [queue.ring for queue in pair.device.driver_queues]
            devices = [queue.ring for queue in pair.device.device_queues]
            for watched in (*drivers, *devices, pair.driver_port, *pair.world.links.values()):
                assert len(vars(watched)) <= ATTRIBUTES


async def test_frames_alone_do_not_touch_the_rings() -> None:
    async with open_pair() as pair:
        with taken_from(pair, [Topic.FRAMES]) as taken:
            assert pair.device.virtio is not None
            assert not any("publish" in vars(queue.ring) for queue in pair.device.virtio.queues)
            await ping(pair)
    assert [event.chain for event in taken.of(FrameEvent)] == [None] * 4
    assert [type(event) for event in taken] == [FrameReceived, FrameSent] * 2
