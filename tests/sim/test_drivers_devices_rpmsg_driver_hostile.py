"""The rpmsg driver against a hostile device, and both sides with random messages."""

from __future__ import annotations

import struct
from collections import deque

import pytest
import trio
import trio.testing
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from drivers.bus.binding import BindState
from drivers.devices.rpmsg import Endpoint, RpmsgBus
from drivers.devices.rpmsg.bus import CONGESTION
from drivers.devices.rpmsg.directory import MAX_ENDPOINTS
from drivers.devices.rpmsg.layout import (
    AS_ADDR,
    NS_ADDR,
    AddressMessage,
    AsFlag,
    NameMessage,
    NsFlag,
    RpmsgFeature,
)
from drivers.errors import NoBuffer, NotBound, RpmsgError, SendTimeout
from rings.features import mask
from support.rigs.rpmsg import SMALL, message
from vnet.testing import bounded, hostile_device, unharmed, until
from vnet.testing.rpmsg import RpmsgPair, bound_pair, open_rpmsg_pair

HELLO = b"hello world!"

# A device that sends what it likes

LIES = {
    "no whole header": (message(100)[:15], None, "short"),
    "nothing": (b"", None, "short"),
    "more than it wrote": (message(100), 20, "too_long"),
    "more than the buffer holds": (message(100, length=497), None, "too_long"),
    "a used length beyond the buffer": (message(100), 513, "short"),
    "to no endpoint": (message(4711), None, "no_recipient"),
    "a long announcement": (message(NS_ADDR, bytes(41)), None, "ns_length"),
}


@pytest.mark.hostile("M01")
@pytest.mark.hostile("M02")
@pytest.mark.parametrize(("data", "size", "cause"), LIES.values(), ids=LIES.keys())
async def test_a_bad_message_from_the_device_is_dropped_and_its_buffer_posted_again(
    data: bytes, size: int | None, cause: str
) -> None:
    async with open_rpmsg_pair(SMALL) as pair, unharmed(pair):
        sink = pair.buses[0].create("server", addr=100, announce=False)
        async with hostile_device(pair) as device:
            posted = device.rings[0].avail_idx
            with bounded():
                device.deliver(data, size)
                await until(lambda: device.rings[0].avail_idx == posted + 1 & 0xFFFF)
                assert pair.buses[0].received.drops == {cause: 1}
                device.deliver(message(100))
                assert await sink.receive() == HELLO
            assert pair.virtio.restarts == 0
            sink.close()


@pytest.mark.hostile("M03")
@pytest.mark.parametrize("side", [0, 1])
async def test_a_message_for_an_endpoint_that_was_removed_meanwhile_is_dropped(side: int) -> None:
    async with open_rpmsg_pair(SMALL) as pair, unharmed(pair):
        ends = await bound_pair(*pair.buses, "a")
        await trio.testing.wait_all_tasks_blocked()
        source, sink = ends[1 - side], ends[side]
        source.send_nowait(HELLO)  # under way
        sink.close()
        await trio.testing.wait_all_tasks_blocked()
        assert pair.buses[side].received.drops == {"no_recipient": 1}
        source.close()
        await trio.testing.wait_all_tasks_blocked()


@pytest.mark.hostile("M03")
async def test_a_device_that_returns_no_buffer_makes_senders_time_out() -> None:
    async with open_rpmsg_pair(SMALL) as pair, unharmed(pair):
        source = pair.buses[0].create("a", dst=7)
        await trio.testing.wait_all_tasks_blocked()
        pair.vhost.queues[1].close()  # it stands still
        for _ in range(16):
            source.send_nowait(HELLO)
        with pytest.raises(NoBuffer):
            source.send_nowait(HELLO)
        began = trio.current_time()
        with pytest.raises(SendTimeout):
            await source.send(HELLO)
        assert trio.current_time() - began == pytest.approx(15)
        source.close()


async def test_a_device_that_breaks_a_ring_during_a_send_is_reset() -> None:
    """The sending task meets an unrequested used element, and never returns it."""
    async with open_rpmsg_pair(SMALL) as pair, unharmed(pair):
        source = pair.buses[0].create("a", dst=7)
        async with hostile_device(pair) as device:
            pair.vhost.queues[1].close()
            for _ in range(16):
                source.send_nowait(HELLO)
            device.rings[1].give(999, 0)
            with pytest.raises(NoBuffer):
                source.send_nowait(HELLO)
            await until(lambda: pair.virtio.restarts)
            assert "999" in pair.virtio.failures[0]
        await pair.world.wait_up()
        source.close()


@pytest.mark.hostile("D07")
@pytest.mark.parametrize("sizes", [(0, 512), (512, 0), (59, 512), (512, 65552), (1 << 31, 512)])
async def test_a_device_with_buffers_of_an_impossible_size_is_refused(sizes: tuple[int, int]) -> None:
    async with open_rpmsg_pair(SMALL) as pair:
        config = struct.pack("<II56x", *sizes)
        pair.vhost.set_config(config)
        bus = pair.rc.virtio
        driver = bus.match(pair.virtio)
        assert driver is not None
        await bus.unregister_driver(driver)
        bus.register_driver(driver)
        await until(lambda: bus.binding(pair.virtio).state is BindState.FAILED)
        assert f"{sizes[0]} and {sizes[1]}" in bus.binding(pair.virtio).error


# Both sides at random, over a wire that takes its time


class Wire:
    """Carries what a test says, when it says so."""

    def __init__(self, room: int) -> None:
        self.limit = room
        self.sent: deque[tuple[int, int, bytes]] = deque()

    def room(self) -> int:
        return max(0, self.limit - len(self.sent))

    def push(self) -> None:
        """The machine moves messages."""

    def request_room(self) -> None:
        """No task waits."""


FEATURES = [mask(bits) for bits in ((), (RpmsgFeature.NS,), (RpmsgFeature.NS, RpmsgFeature.AS))]
SIDES = st.sampled_from((0, 1))


class Exchanges(RuleBasedStateMachine):
    """Endpoints of both sides come, talk and go while messages, announcements among them, are on their way."""

    ends = Bundle("ends")

    def __init__(self) -> None:
        super().__init__()
        self.buses = RpmsgBus(), RpmsgBus()
        self.wires = Wire(8), Wire(8)
        self.features = FEATURES[2]
        self.serial = 0
        self._start()

    def _start(self) -> None:
        for bus, wire in zip(self.buses, self.wires, strict=True):
            bus.start(self.features, 496, wire)

    @rule(features=st.sampled_from(FEATURES))
    def reset(self, features: int) -> None:
        """Messages under way are lost; counting restarts with the contents of the inboxes."""
        self.features = features
        for bus, wire in zip(self.buses, self.wires, strict=True):
            bus.stop()
            wire.sent.clear()
            bus.received.drops.clear()
        for bus, other in zip(self.buses, self.buses[::-1], strict=True):
            bus.sent.packets = other.received.packets
        self._start()

    @rule(target=ends, side=SIDES, name=st.sampled_from("abc"), announce=st.booleans(), lossy=st.booleans())
    def create(self, side: int, name: str, announce: bool, lossy: bool) -> Endpoint:
        return self.buses[side].create(name, inbox=4, announce=announce, lossy=lossy)

    @rule(end=consumes(ends))
    def close(self, end: Endpoint) -> None:
        end.close()

    @rule(end=ends, count=st.integers(1, 12))
    def send(self, end: Endpoint, count: int) -> None:
        for _ in range(count):
            self.serial += 1
            try:
                end.send_nowait(struct.pack("<I", self.serial))
            except (NotBound, NoBuffer):
                break

    @rule(side=SIDES, dst=st.sampled_from((NS_ADDR, AS_ADDR, 1024, 1025, 9)), data=st.binary(max_size=50))
    def lie(self, side: int, dst: int, data: bytes) -> None:
        self.wires[side].sent.append((7, dst, data))
        self.buses[side].sent.packets += 1

    @rule(side=SIDES, flags=st.sampled_from(range(4)), name=st.sampled_from("abcd"), addr=st.integers(1023, 1030))
    def lie_well(self, side: int, flags: int, name: str, addr: int) -> None:
        service = NS_ADDR, NameMessage(name, addr, NsFlag(flags)).emit()
        if flags == 3:
            service = AS_ADDR, AddressMessage(name, addr, addr, AsFlag.ASSIGN).emit()
        self.wires[side].sent.append((7, *service))
        self.buses[side].sent.packets += 1

    @rule(side=SIDES, count=st.integers(1, 20))
    def move(self, side: int, count: int) -> None:
        """From the outbox onto the wire, and from there to the other side, as far as its inboxes allow."""
        bus, wire, other = self.buses[side], self.wires[side], self.buses[1 - side]
        for _ in range(count):
            if bus.outbox and len(wire.sent) < wire.limit:
                wire.sent.append(bus.outbox.popleft())
                bus.sent.packets += 1
            elif wire.sent:
                if not other.deliver(*wire.sent[0]):
                    break
                wire.sent.popleft()

    @rule(end=ends)
    def read(self, end: Endpoint) -> None:
        try:
            while True:
                end.receive_nowait()
        except trio.WouldBlock:
            pass

    @invariant()
    def nothing_is_lost(self) -> None:
        for bus, wire, other in zip(self.buses, self.wires, self.buses[::-1], strict=True):
            taken = other.received.packets + sum(other.received.drops.values())
            assert bus.sent.packets == taken + len(wire.sent)

    @invariant()
    def everything_is_bounded(self) -> None:
        for bus in self.buses:
            assert len(bus.endpoints) <= MAX_ENDPOINTS
            assert len(bus.services) <= MAX_ENDPOINTS
            assert all(end.statistics().unread <= 4 for end in bus.endpoints)

    @invariant()
    def addresses_are_consistent(self) -> None:
        for bus in self.buses:
            assert len({end.addr for end in bus.endpoints}) == len(bus.endpoints)
            assert all(bus.endpoint(end.addr) is end for end in bus.endpoints)

    def teardown(self) -> None:
        """After a reset two new endpoints always find each other."""
        for bus in self.buses:
            for end in bus.endpoints:
                end.close()
        self.reset(FEATURES[2])
        fresh = [bus.create("fresh") for bus in self.buses]
        for _ in range(20):
            for side in (0, 1):
                self.move(side, 20)
        assert [end.dst for end in fresh] == [end.addr for end in fresh[::-1]]


Exchanges.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestExchanges = Exchanges.TestCase


async def test_a_crowded_bus_refuses_new_endpoints_and_recovers() -> None:
    bus = RpmsgBus()
    bus.start(FEATURES[2], 496, Wire(8))
    while len(bus.outbox) < CONGESTION:
        bus.create("a").close()
    with pytest.raises(RpmsgError):
        bus.create("a")
    bus.outbox.clear()
    assert bus.create("a").addr


async def test_the_pair_of_this_file_leaves_nothing_behind() -> None:
    async with open_rpmsg_pair(SMALL) as pair, unharmed(pair):
        assert isinstance(pair, RpmsgPair)
