"""Parts come and go under traffic: it is not disturbed, nothing is left, and captures follow."""

from __future__ import annotations

import gc
from functools import partial
from typing import Any

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from drivers.contracts.events import Event, FrameSent, PartMoved, RegisterAccessed, Topic
from drivers.devices.blk.driver.disk import DiskError
from vnet.errors import ControlError
from vnet.system.world import World, open_world
from vnet.testing.blk import BlkPair, open_blk_pair
from vnet.testing.footprint import fds, maps
from vnet.topology import parse

FRAME = bytes.fromhex("020000000002020000000001") + b"\x88\xb5" + bytes(50)
STAYS = parse(
    """
    [hosts.rc]
    memory = 256
    [hosts.ep]
    [links.pcie0]
    root = "rc"
    endpoint = "ep"
    [devices.net0]
    link = "pcie0"
    driver.kind = "memory"
    device.kind = "memory"
    """
)
GOES = parse(
    """
    [hosts.card]
    memory = 16
    [links.pcie1]
    root = "rc"
    endpoint = "card"
    [devices.net1]
    link = "pcie0"
    function = 1
    queue_size = 16
    driver.kind = "memory"
    device.kind = "memory"
    [devices.disk0]
    type = "blk"
    link = "pcie1"
    queue_size = 16
    driver.buffers = 1
    device = { store = "memory", size = 1 }
    """,
    running=STAYS,
)
ROUNDS = 1000


def footprint(world: World) -> tuple[Any, ...]:
    memories = [host.memory.statistics() for host in world.hosts.values()]
    statistics = trio.lowlevel.current_statistics()
    return (
        statistics.tasks_living,
        fds(),
        maps(),
        [(memory.buffers, memory.used, memory.peak) for memory in memories],
        [host.memory.pinned for host in world.hosts.values()],
        world.hosts["rc"].rc.interrupts.requested,
        len(world.hosts["rc"].names),
    )


async def exchange(world: World, device: str, frames: int) -> None:
    """Send frames through a device, and receive each."""
    near, far = world.memory_port(device, "driver"), world.memory_port(device, "device")
    for _ in range(frames):
        near.inject(FRAME)
        with trio.fail_after(1):
            await far.receive()
        await trio.sleep(0.001)


@pytest.mark.timeout(600)
async def test_a_thousand_additions_and_removals_under_traffic_leave_nothing_and_disturb_nothing() -> None:
    async with open_world(STAYS, "t") as world:
        await world.wait_up()
        stays = world.devices["net0"]
        assert stays.virtio is not None
        resets, before = stays.vhost.resets, ()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(exchange, world, "net0", 1 << 30)
            for number in range(ROUNDS):
                await world.add(GOES)
                if number % 100 == 0:
                    await exchange(world, "net1", 3)
                    await world.running("disk0").ends[0].disk.write(0, bytes(4096))
                for name in ("net1", "pcie1", "card"):
                    await world.remove(name, surprise=bool(number % 2))
                if number == 9:
                    await trio.sleep(1)
                    gc.collect()
                    before = footprint(world)
            await trio.sleep(1)
            gc.collect()
            assert footprint(world) == before
            nursery.cancel_scope.cancel()
        figures = stays.driver_end.figures(1)
        assert figures.packets > ROUNDS
        assert not any(figures.drops.values())
        assert (stays.vhost.resets, stays.virtio.restarts) == (resets, 0)
        assert world.links["pcie0"].epoch == 1


class Sink(list[Event]):
    """Takes all events."""

    def __call__(self, event: Event) -> None:
        self.append(event)

    def of(self, kind: type[Event], device: str) -> int:
        """Return the number of these events of a device."""
        return sum(isinstance(event, kind) and event.source.device == device for event in self)


@pytest.mark.parametrize("surprise", [False, True])
async def test_a_capture_follows_parts_that_come_and_ends_cleanly_for_those_that_go(surprise: bool) -> None:
    async with open_world(STAYS, "t") as world:
        await world.wait_up()
        sink = Sink()
        with world.events.listen(sink, [topic for topic in Topic if topic is not Topic.CONTROL]):
            for _ in range(2):
                sink.clear()
                await world.add(GOES)
                await exchange(world, "net0", 3)
                await exchange(world, "net1", 3)
                assert sink.of(FrameSent, "net1") == sink.of(FrameSent, "net0") == 3
                assert sink.of(RegisterAccessed, "disk0") > 10
                for name in ("net1", "pcie1", "card"):
                    await world.remove(name, surprise=surprise)
                assert [event.name for event in sink if isinstance(event, PartMoved) and not event.present] == [
                    "net1",
                    "disk0",
                    "pcie1",
                    "card",
                ]
                sink.clear()
                await exchange(world, "net0", 3)
                assert sink.of(FrameSent, "net0") == 3
                assert not [event for event in sink if event.source.device in ("net1", "disk0")]


async def test_an_orderly_removal_finishes_the_requests_under_way() -> None:
    async with open_blk_pair() as pair:
        pair.store.gate = trio.Event()
        flushed: list[str] = []
        later: list[str] = []
        async with trio.open_nursery() as nursery:
            nursery.start_soon(flush, pair, flushed)
            await wait_all_tasks_blocked()
            nursery.start_soon(pair.world.remove, pair.device.name)
            await trio.sleep(1)
            nursery.start_soon(flush, pair, later)  # the device gets no further requests
            await trio.sleep(1)
            assert (flushed, later) == ([], [])
            pair.store.gate.set()
        assert flushed == ["done"]
        assert later == ["an error"]
        assert pair.device.name not in pair.world.devices


async def flush(pair: BlkPair, outcome: list[str]) -> None:
    try:
        await pair.disk.flush()
    except DiskError:
        outcome.append("an error")
    else:
        outcome.append("done")


async def test_a_removal_whose_requests_do_not_end_is_refused_and_the_device_goes_on() -> None:
    async with open_blk_pair() as pair:
        pair.store.gate = trio.Event()
        flushed: list[str] = []
        async with trio.open_nursery() as nursery:
            nursery.start_soon(flush, pair, flushed)
            await wait_all_tasks_blocked()
            with pytest.raises(ControlError, match="requests are still under way after 5 s; try --surprise"):
                await pair.world.remove(pair.device.name)
            pair.store.gate.set()
        assert flushed == ["done"]
        pair.store.gate = None
        await pair.transfer()


async def test_a_card_that_is_pulled_fails_its_requests_and_those_that_come_later() -> None:
    async with open_blk_pair() as pair:
        pair.store.gate = trio.Event()
        outcomes: list[str] = []
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(flush, pair, outcomes)
            await wait_all_tasks_blocked()
            nursery.start_soon(partial(pair.world.remove, pair.device.name, surprise=True))
            await trio.sleep(1)
            pair.store.gate.set()
        assert outcomes == ["an error"] * 3
        await flush(pair, outcomes)
        assert outcomes == ["an error"] * 4
