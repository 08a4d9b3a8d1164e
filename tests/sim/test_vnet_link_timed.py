"""A link that takes time: its bills, the tasks that wait, and that nothing is shown before."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from math import ceil

import attrs
import pytest
import trio
from trio.testing import MockClock

from drivers.carriers.ntb_registers import Bar
from rings.observers.meter import MeterObserver
from rings.observers.observed import ObservedVringh
from rings.split.vringh import SplitVringh
from vnet.link.base import Direction
from vnet.link.ideal import IdealLink
from vnet.link.timed import GRAIN, TimedLink, grain_of
from vnet.link.tlp import PcieParameters
from vnet.spec import LinkSpec
from vnet.system.snapshot import take_snapshot
from vnet.system.world import open_world
from vnet.testing import FRAME, NetPair, Options, open_pair, unharmed
from vnet.topology import check
from vnet.views.link import LinkTiming
from vnet.views.plain import to_plain

TIMED = LinkSpec(root="rc", endpoint="ep", generation=3, lanes=8)
SLOW = LinkSpec(root="rc", endpoint="ep", generation=1, lanes=1, max_payload=128, max_read_request=128)
SIZES = (64, 128, 256, 300, 512, 1024, 1500, 2048, 4096)
LATENCY = 500e-9
UP, DOWN = Direction.UPSTREAM, Direction.DOWNSTREAM

# Generation 3, 8 lanes, 256 bytes of payload, computed apart from the code: 8 GT/s in 128b/130b, less an Ack and a
# flow control update of 8 bytes every 203 bytes, less clock compensation.
RATE = 8 * 8e9 * 128 / 130 / 8 * (1 - 16 / 203 - 4 / 1538)


class Ends:
    """Both ends of a link at once: any register reads 7, any write is fine."""

    def mem_read(self, addr: int, size: int, function: int) -> int | None:
        return 7

    def mem_write(self, addr: int, size: int, value: int, function: int) -> bool:
        return True

    def beyond(self, addr: int, size: int) -> tuple[()]:
        return ()

    def regions(self, addr: int, size: int, function: int) -> tuple[()]:
        return ()

    def config_read(self, function: int, offset: int, size: int) -> int | None:
        return 7

    def config_write(self, function: int, offset: int, size: int, value: int) -> bool:
        return True

    def intx(self, function: int, asserted: bool) -> None: ...

    def removed(self) -> None: ...

    def link_up(self) -> None: ...

    def link_down(self) -> None: ...


def timed(**changes: object) -> TimedLink:
    link = TimedLink(IdealLink(), **changes)  # type: ignore[arg-type]
    link.attach_root(Ends())
    link.attach_endpoint(Ends())
    link.set_present(True)
    return link


def timing(link: TimedLink) -> LinkTiming:
    actual = link.statistics().timing
    assert actual is not None
    return actual


@pytest.mark.parametrize("size", SIZES)
async def test_writes_take_what_the_arithmetic_of_tlps_says(size: int) -> None:
    link = timed()
    meter = link.meter(UP)
    assert meter is not None
    began = trio.current_time()
    for _ in range(100):
        meter.write(size)
    await link.settle()
    wire = ceil(size / 256) * 24 + size
    assert trio.current_time() - began == pytest.approx(100 * wire / RATE, rel=1e-6)
    assert 100 * size / (trio.current_time() - began) == pytest.approx(RATE * size / wire, rel=1e-6)
    assert timing(link).upstream.tlps == {"MWr": 100 * ceil(size / 256)}


@pytest.mark.parametrize("size", SIZES)
async def test_reads_take_the_time_of_their_completions_and_the_latency_once(size: int) -> None:
    link = timed(read_latency=LATENCY)
    meter = link.meter(UP)
    assert meter is not None
    began = trio.current_time()
    for _ in range(100):
        meter.read(size)
    await link.settle()
    requests, wire = ceil(size / 512) * 24, ceil(size / 256) * 20 + size
    # A request leads its own completions, and no more than one request is ahead of the first of them.
    least = 100 * wire / RATE + LATENCY
    assert least <= trio.current_time() - began + 1e-12
    assert trio.current_time() - began <= least + (requests + wire) / RATE
    actual = timing(link)
    assert actual.upstream.tlps == {"MRd": 100 * ceil(size / 512)}
    assert actual.downstream.tlps == {"CplD": 100 * ceil(size / 256)}
    assert (actual.upstream.payload, actual.downstream.payload) == (0, 100 * size)


async def test_each_direction_has_a_clock_of_its_own() -> None:
    link = timed()
    began = trio.current_time()
    for direction in Direction:
        meter = link.meter(direction)
        assert meter is not None
        for _ in range(1000):
            meter.write(256)
    await link.settle()
    assert trio.current_time() - began == pytest.approx(1000 * 280 / RATE, rel=1e-6)


async def test_registers_configuration_and_messages_are_counted_by_kind() -> None:
    link = timed()
    link.config_read(0, 0, 4)
    link.config_write(0, 4, 2, 6)
    link.mem_read(DOWN, 0x1000, 4)
    link.mem_write(DOWN, 0x1000, 2, 1)
    link.mem_write(UP, 0xFEE0_0000, 4, 33)
    link.intx(0, True)
    actual = timing(link)
    assert actual.downstream.tlps == {"CfgRd": 1, "CfgWr": 1, "MRd": 1, "MWr": 1}
    assert actual.upstream.tlps == {"CplD": 2, "Cpl": 1, "MWr": 1, "Msg": 1}
    assert actual.downstream.wire == 20 + 24 + 24 + 28
    assert actual.upstream.wire == 2 * 24 + 20 + 28 + 24


async def test_an_idle_link_owes_nothing_and_settling_it_is_no_checkpoint() -> None:
    link = timed()
    with trio.CancelScope() as scope:
        scope.cancel()
        await link.settle()
        reached = True
    assert reached
    assert not scope.cancelled_caught


async def test_transfers_under_way_at_link_down_take_no_time() -> None:
    link = timed()
    meter = link.meter(UP)
    assert meter is not None
    meter.write(1 << 30)
    link.bring_down()
    meter.write(1 << 30)
    began = trio.current_time()
    await link.settle()
    link.bring_up()
    await link.settle()
    assert trio.current_time() == began


def test_only_a_clock_that_is_moved_by_hand_makes_short_sleeps_worth_it() -> None:
    assert grain_of(MockClock()) == 0
    running = MockClock(rate=1.0)
    assert grain_of(running) == GRAIN == 0.002


async def test_in_real_time_small_debts_are_carried_on_and_late_sleeps_made_up_for() -> None:
    link = timed(grain=GRAIN)
    meter = link.meter(UP)
    assert meter is not None
    second = int(RATE * 256 / 280)  # bytes
    began = trio.current_time()
    meter.write(second * 3 // 1000)
    await link.settle()  # 3 ms, of which an idle link had 2 to spare
    assert trio.current_time() == began
    meter.write(second * 2 // 1000)
    await link.settle()
    assert trio.current_time() - began == pytest.approx(0.003, rel=1e-3)
    await trio.sleep(0.001)  # as if that sleep had come back late
    meter.write(second * 4 // 1000)
    await link.settle()
    assert trio.current_time() - began == pytest.approx(0.007, rel=1e-3)


@pytest.mark.parametrize("transport", ["pci", "epf_mailbox"])
@pytest.mark.parametrize("link", [TIMED, SLOW, attrs.evolve(TIMED, read_latency_ns=20_000)])
async def test_traffic_passes_and_costs_time(link: LinkSpec, transport: str) -> None:
    async with open_pair(Options(link=link, transport=transport)) as pair:
        began = trio.current_time()
        await pair.transfer()
        actual = pair.link.statistics().timing
        assert actual is not None
        assert trio.current_time() - began >= (1 << 20) / actual.rate
        assert actual.slept > 0
        assert actual.upstream.payload > 1 << 20 < actual.downstream.payload
        assert rescues(pair) == 0


BOTH_LINKS = {"the driver's": ("link0",), "the device's": ("link1",), "both": ("link0", "link1")}


@asynccontextmanager
async def open_ntb(**links: LinkSpec) -> AsyncIterator[NetPair]:
    """Two hosts, each with a link of its own to an NTB: link0 is that of the driver's host, link1 the other's."""
    topology = Options(transport="ntb").topology()
    specs = {
        name: attrs.evolve(links.get(name, spec), root=spec.root, endpoint=spec.endpoint)
        for name, spec in topology.links.items()
    }
    async with open_world(check(attrs.evolve(topology, links=specs), "test"), "test") as world:
        await world.wait_up()
        yield NetPair(world)


@pytest.mark.parametrize("names", BOTH_LINKS.values(), ids=BOTH_LINKS)
async def test_transfers_across_an_ntb_are_billed_on_every_link_on_their_way(names: tuple[str, ...]) -> None:
    async with open_ntb(**dict.fromkeys(names, SLOW)) as pair:
        before, began = dma(pair, names), trio.current_time()
        await pair.transfer()
        took, carried = trio.current_time() - began, dma(pair, names)
        for link in names:
            # The device reads and writes at the end of its own link, and comes out of the other one's: towards the
            # driver's memory data go down the one and up the other.
            payload = [after - old for after, old in zip(carried[link], before[link], strict=True)]
            assert min(payload) > 1 << 20
            actual = pair.world.links[link].statistics().timing
            assert actual is not None
            assert actual.slept > 0
            assert took >= max(payload) / actual.rate
        # The same but for each host's own registers and interrupts.
        assert carried[names[0]] == pytest.approx(carried[names[-1]], rel=0.01)
        assert rescues(pair) == 0


def dma(pair: NetPair, names: tuple[str, ...]) -> dict[str, tuple[int, int]]:
    """Bytes of data that went to the driver's memory, and that came from it, over each of these links."""
    actual = {}
    for name in names:
        timing = pair.world.links[name].statistics().timing
        assert timing is not None
        ways = (timing.upstream, timing.downstream) if name == "link0" else (timing.downstream, timing.upstream)
        actual[name] = ways[0].payload, ways[1].payload
    return actual


@pytest.mark.parametrize("slow", ["link0", "link1"])
async def test_over_an_ntb_the_slower_link_says_when_the_driver_is_shown_a_frame(slow: str) -> None:
    fast = {"link0": "link1", "link1": "link0"}[slow]
    async with open_ntb(**{slow: SLOW, fast: TIMED}) as pair:
        began = trio.current_time()
        pair.device_port.inject(FRAME + bytes(1400))
        await pair.driver_port.receive()
        assert trio.current_time() - began >= (len(FRAME) + 1400) / PcieParameters(1, 1, 128, 128).rate


async def test_a_word_that_is_read_through_a_window_is_billed_on_both_links() -> None:
    """Like a register: read without a mapping."""
    async with open_ntb(link0=TIMED, link1=TIMED) as pair:
        function = next(f for f in pair.ep.rc.functions if f.bar_size(Bar.WINDOWS))
        offset = pair.world.ntbs["ntb0"].snapshot("mid").primary.windows[0].offset
        before = [tlps(pair, name) for name in ("link0", "link1")]
        function.bar_write(Bar.WINDOWS, offset + (8 << 20), 4, 0x1234_5678)
        assert function.bar_read(Bar.WINDOWS, offset + (8 << 20), 4) == 0x1234_5678
        after = [tlps(pair, name) for name in ("link0", "link1")]
        assert [b - a for a, b in zip(before, after, strict=True)] == [2, 2]


def tlps(pair: NetPair, link: str) -> int:
    """Memory requests that went over it towards the driver's memory."""
    timing = pair.world.links[link].statistics().timing
    assert timing is not None
    way = timing.upstream if link == "link0" else timing.downstream
    return way.tlps.get("MRd", 0) + way.tlps.get("MWr", 0)


async def test_a_saturated_link_is_as_fast_as_its_bytes() -> None:
    """From the device's port to the driver's: the time that passes is that of the upstream transfers."""
    async with open_pair(Options(link=SLOW)) as pair:
        before, began = pair.link.statistics().timing, trio.current_time()
        for _ in range(1000):
            pair.device_port.inject(FRAME + bytes(1400))
        for _ in range(1000):
            await pair.driver_port.receive()
        after = pair.link.statistics().timing
        assert before is not None
        assert after is not None
        busy = (after.upstream.wire - before.upstream.wire) / after.rate
        assert 0.99 * busy <= trio.current_time() - began <= 1.05 * busy


async def test_the_driver_is_shown_nothing_before_its_time() -> None:
    async with open_pair(Options(link=SLOW)) as pair:
        began = trio.current_time()
        pair.device_port.inject(FRAME + bytes(1400))
        await pair.driver_port.receive()
        assert trio.current_time() - began >= (len(FRAME) + 1400) / PcieParameters(1, 1, 128, 128).rate


@pytest.mark.hostile("L11")
async def test_a_timed_link_may_go_down_while_the_device_sleeps_out_its_bill() -> None:
    async with open_pair(Options(link=SLOW)) as pair, unharmed(pair):
        for _ in range(500):
            pair.device_port.inject(FRAME + bytes(1400))
        await trio.sleep(0.0001)
        epoch = pair.link.epoch
        pair.link.bring_down()
        pair.link.bring_up()
        await pair.world.wait_up()
        assert pair.link.epoch == epoch + 1
        await trio.sleep(0.1)  # the rest of them crosses


async def test_only_a_link_that_takes_time_has_its_ring_accesses_counted() -> None:
    async with open_pair() as pair:
        assert all(isinstance(queue.ring, SplitVringh) for queue in pair.vhost.queues)
        assert pair.link.statistics().timing is None
    async with open_pair(Options(link=TIMED)) as pair:
        rings = [queue.ring for queue in pair.vhost.queues]
        assert all(isinstance(ring, ObservedVringh) and isinstance(ring.observer, MeterObserver) for ring in rings)


async def test_the_system_says_what_crossed_a_timed_link() -> None:
    async with open_pair(Options(link=TIMED)) as pair:
        shown = json.loads(json.dumps(to_plain(take_snapshot(pair.world))))["links"]["link0"]["timing"]
        assert (shown["generation"], shown["lanes"]) == (3, 8)
        assert shown["downstream"]["tlps"]["CfgRd"] > 0


def rescues(pair: NetPair) -> int:
    signals = [queue.signal for queue in pair.virtio.queues] + [queue.signal for queue in pair.vhost.queues]
    return sum(signal.rescues for signal in signals)
