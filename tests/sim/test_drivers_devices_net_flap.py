"""Links that come and go, and resets, while frames are under way: nothing leaks, nothing of an old epoch lives on."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import attrs
import pytest
import trio
import trio.testing

from drivers.bus.model import Bus
from rings.errors import MemoryFault
from rings.memory import Addr
from vnet.errors import LinkDown
from vnet.ports.packet.memory import MemoryPort
from vnet.testing import FRAME, NetPair, Options, open_pair, unharmed, until

SMALL = Options(queue_size=16)
LAYOUTS = {
    "plain": SMALL,
    "merged": Options(queue_size=64, rx_buffer=64),
    "no MRG_RXBUF, no EVENT_IDX": Options(queue_size=16, features_off=("MRG_RXBUF", "EVENT_IDX")),
}


@attrs.define
class Load:
    """Numbered frames that both ends keep sending, and which of them came out at the other end."""

    pair: NetPair
    sent: list[int] = attrs.field(factory=lambda: [0, 0])
    got: list[list[int]] = attrs.field(factory=lambda: [[], []])

    @property
    def ports(self) -> tuple[tuple[MemoryPort, MemoryPort], tuple[MemoryPort, MemoryPort]]:
        ports = self.pair.driver_port, self.pair.device_port
        return ports, ports[::-1]

    async def send(self, way: int, rng: random.Random) -> None:
        source, _ = self.ports[way]
        while True:
            for _ in range(rng.randrange(1, 20)):
                if len(source._inbound) < 200:
                    number = self.sent[way]
                    source.inject(FRAME + number.to_bytes(4, "big") + bytes(rng.randrange(1000)))
                    self.sent[way] += 1
            await trio.sleep(rng.random() * 0.001)

    async def receive(self, way: int) -> None:
        _, sink = self.ports[way]
        while True:
            _, frame = await sink.receive()
            assert frame.startswith(FRAME)
            assert not any(frame[len(FRAME) + 4 :]), "a piece of another frame"
            self.got[way].append(int.from_bytes(frame[len(FRAME) :][:4], "big"))

    def check(self) -> None:
        """Each frame at most once and in order; what is missing was lost with an epoch."""
        for numbers, sent in zip(self.got, self.sent, strict=True):
            assert numbers == sorted(set(numbers))
            assert numbers[-1] < sent


@asynccontextmanager
async def loaded(pair: NetPair, seed: int = 0) -> AsyncIterator[Load]:
    """Frames flow in both directions all the while; at the end all that still waits is taken out."""
    load = Load(pair)
    async with trio.open_nursery() as nursery:
        for way in range(2):
            nursery.start_soon(load.send, way, random.Random(seed * 2 + way))
            nursery.start_soon(load.receive, way)
        yield load
        nursery.cancel_scope.cancel()
    for port in (pair.driver_port, pair.device_port):
        port._inbound.clear()
    await trio.testing.wait_all_tasks_blocked()
    for port in (pair.driver_port, pair.device_port):
        port._outbound.clear()
    load.check()


async def flap(pair: NetPair) -> None:
    """The link goes down and comes up."""
    epoch = pair.link.epoch
    pair.link.bring_down()
    await until(lambda: not pair.device.up)
    await trio.sleep(0.01)
    assert pair.rc.memory.pinned == pair.rc.memory.statistics().buffers == 0, "nothing is held while it is down"
    pair.link.bring_up()
    await pair.world.wait_up()
    assert pair.link.epoch == epoch + 1


async def ask_for_reset(pair: NetPair) -> None:
    """The device wants to be reset."""
    before = pair.virtio.restarts
    pair.vhost.fail("of its own accord")
    await until(lambda: pair.virtio.restarts == before + 1 and pair.device.up, seconds=3)


async def rebind(pair: NetPair) -> None:
    """The driver is unbound and bound again."""
    await pair.reset()


async def pull_out(pair: NetPair) -> None:
    """The endpoint goes away for good, and another comes in its place."""
    controller = pair.ep.controllers["link0"]
    controller.stop()
    await until(lambda: not pair.rc.virtio.bindings)
    assert pair.rc.memory.pinned == pair.rc.memory.statistics().buffers == 0
    controller.start()
    await pair.world.wait_up()


async def function_reset(pair: NetPair) -> None:
    """The function is reset behind the driver's back."""
    before = pair.virtio.restarts
    assert pair.function.reset()
    await until(lambda: pair.vhost.status == 0)
    pair.virtio.interrupt()
    await until(lambda: pair.virtio.restarts == before + 1 and pair.device.up, seconds=3)


EVENTS = (flap, ask_for_reset, rebind, pull_out, function_reset)


@pytest.mark.hostile("S09")
@pytest.mark.virtio("RESET-DEV-1", "RESET-DRV-1")
@pytest.mark.parametrize("options", LAYOUTS.values(), ids=LAYOUTS)
@pytest.mark.parametrize("event", EVENTS, ids=lambda event: event.__name__)
async def test_traffic_stalls_and_resumes_and_nothing_is_doubled_torn_or_leaked(
    event: Callable[[NetPair], Awaitable[None]], options: Options
) -> None:
    async with open_pair(options) as pair, unharmed(pair), loaded(pair) as load:
        for _ in range(5):
            await trio.sleep(0.02)
            before = [len(got) for got in load.got]
            await event(pair)
            await until(lambda: all(len(g) > b + 20 for g, b in zip(load.got, before, strict=True)))  # noqa: B023


async def vhost_leaves(pair: NetPair) -> None:
    """The driver at the device's own end is removed, and probes the device anew."""
    bus, device = pair.device.device_host.vhost, pair.vhost
    driver = bus.match(device)
    assert driver is not None
    await bus.unregister_driver(driver)
    await until(lambda: not pair.device.up)
    bus.register_driver(driver)
    await pair.world.wait_up()


async def both_leave(pair: NetPair) -> None:
    """Neither end has a driver for a while."""
    buses: list[Bus[Any, Any]] = [pair.rc.virtio, pair.device.device_host.vhost]
    drivers = [buses[0].match(pair.virtio), buses[1].match(pair.vhost)]
    for bus, driver in zip(buses, drivers, strict=True):
        await bus.unregister_driver(driver)
    await trio.sleep(0.01)
    for bus, driver in zip(buses, drivers, strict=True):
        bus.register_driver(driver)
    await pair.world.wait_up()


@pytest.mark.every_transport
@pytest.mark.parametrize("event", [ask_for_reset, rebind, vhost_leaves, both_leave], ids=lambda event: event.__name__)
async def test_drivers_are_removed_and_probe_again_under_load(event: Callable[[NetPair], Awaitable[None]]) -> None:
    async with open_pair(SMALL) as pair, unharmed(pair), loaded(pair) as load:
        for _ in range(3):
            await trio.sleep(0.02)
            before = [len(got) for got in load.got]
            await event(pair)
            await until(lambda: all(len(g) > b + 20 for g, b in zip(load.got, before, strict=True)))  # noqa: B023


@attrs.frozen
class State:
    """The state of both ends."""

    status: tuple[int, int]
    features: tuple[int, int]
    nums: tuple[int, ...]
    live: bool
    config: bytes

    @classmethod
    def of(cls, pair: NetPair) -> State:
        virtio, vhost = pair.virtio, pair.vhost
        return cls(
            (virtio.status, vhost.status),
            (virtio.features, vhost.features),
            tuple(queue.num for queue in vhost.queues),
            all(q.live for q in virtio.queues) and all(q.live for q in vhost.queues),
            vhost.config,
        )


@pytest.mark.every_transport
@pytest.mark.parametrize("seed", range(25))
async def test_drivers_and_the_link_come_in_any_order_and_the_end_is_the_same(transport: str, seed: int) -> None:
    """A hundred orders over all transports: each part goes and comes back at times of its own."""
    dice = random.Random(seed)
    async with open_pair(SMALL) as pair, unharmed(pair):
        before = State.of(pair)
        buses: list[Bus[Any, Any]] = [pair.rc.virtio, pair.device.device_host.vhost]
        drivers = [buses[0].match(pair.virtio), buses[1].match(pair.vhost)]
        parts = ["virtio", "vhost"] if transport == "mmio" else ["virtio", "vhost", "link"]
        there = dict.fromkeys(parts, True)

        async def toggle(part: str) -> None:
            there[part] = come = not there[part]
            if part == "link":
                (pair.link.bring_up if come else pair.link.bring_down)()
            elif come:
                buses[parts.index(part)].register_driver(drivers[parts.index(part)])
            else:
                await buses[parts.index(part)].unregister_driver(drivers[parts.index(part)])
            if dice.random() < 0.5:
                await trio.sleep(dice.random() / 20)

        for part in dice.choices(parts, k=8):
            await toggle(part)
        for part in dice.sample(parts, k=len(parts)):
            if not there[part]:
                await toggle(part)
        await pair.world.wait_up()
        assert State.of(pair) == before


@pytest.mark.parametrize("seed", range(5))
async def test_any_order_of_events_ends_in_a_device_that_works(seed: int) -> None:
    rng = random.Random(seed)
    async with open_pair(SMALL) as pair, unharmed(pair), loaded(pair, seed):
        for _ in range(15):
            await rng.choice(EVENTS)(pair)
            await trio.sleep(rng.random() * 0.003)


@pytest.mark.hostile("S09")
async def test_a_hundred_resets_in_a_row_leave_nothing_behind() -> None:
    async with open_pair(SMALL) as pair, unharmed(pair), loaded(pair):
        await trio.testing.wait_all_tasks_blocked()
        for turn in range(100):
            await (ask_for_reset, rebind)[turn % 2](pair)
            memory = pair.rc.memory.statistics()
            assert memory.buffers == 8
            assert pair.rc.rc.interrupts.requested == 3


async def test_a_bouncing_link_is_followed_to_its_last_state() -> None:
    """Moves that come faster than either side can follow."""
    async with open_pair(SMALL) as pair, unharmed(pair), loaded(pair):
        for turn in range(200):
            (pair.link.bring_down if turn % 2 else pair.link.bring_up)()
            if turn % 7 == 0:
                await trio.lowlevel.checkpoint()
            if turn % 50 == 0:
                await trio.sleep(0.005)
        pair.link.bring_up()
        await until(lambda: pair.device.up, seconds=5)


async def test_nothing_reaches_into_an_epoch_that_is_over() -> None:
    """Indices start at 0 again on both sides, and what was got in the old epoch raises."""
    async with open_pair(SMALL) as pair, unharmed(pair):
        for _ in range(40):
            pair.driver_port.inject(FRAME)
            await pair.device_port.receive()
        old = pair.vhost.queues[1].ring
        window = pair.epf.memory()
        addr = Addr(pair.vhost.queues[1].addrs.desc)
        pinned = window.pin(addr, 16, "Q")
        assert old is not None
        assert old.state().avail == 40
        await flap(pair)
        with pytest.raises(ValueError, match="released"):
            pinned[0]
        with pytest.raises(LinkDown):
            window.view(addr, 16)
        with pytest.raises(MemoryFault):
            window.pin(addr, 16, "Q")
        assert not old.reachable()
        new = pair.vhost.queues[1].ring
        assert new is not None
        assert new is not old
        assert (new.state().avail, new.state().used) == (0, 0)
        assert pair.virtio.queues[1].ring.state().avail == 0
        pair.driver_port.inject(FRAME)
        assert (await pair.device_port.receive())[1] == FRAME
        assert (new.state().avail, new.state().used) == (1, 1)


@pytest.mark.hostile("D11")
async def test_the_link_goes_in_the_midst_of_bring_up_and_the_device_still_comes_up() -> None:
    """Flaps at any step."""
    async with open_pair(SMALL) as pair, unharmed(pair):
        for turns in range(40):
            pair.link.bring_down()
            await trio.sleep(0.01)
            pair.link.bring_up()
            for _ in range(turns):
                await trio.lowlevel.checkpoint()
            pair.link.bring_down()
            await trio.lowlevel.checkpoint()
            pair.link.bring_up()
            await until(lambda: pair.device.up, seconds=3)


async def test_figures_of_queues_and_ports_go_on_over_resets() -> None:
    async with open_pair(SMALL) as pair:
        for turn in range(1, 4):
            pair.driver_port.inject(FRAME)
            await pair.device_port.receive()
            assert pair.settings.figures.pairs[0].sent.packets == pair.plug.figures.pairs[0].received.packets == turn
            assert pair.vhost.queues[1].statistics().chains == turn
            assert pair.virtio.queues[1].statistics().chains == turn
            await ask_for_reset(pair)
