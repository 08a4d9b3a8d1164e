"""Control operations on a bus by several tasks at once: one task serves a binding, and all requesters see its end."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from typing import Any

import attrs
import pytest
import trio
import trio.testing

from drivers.bus.binding import Binding, BindState
from drivers.bus.model import Bus, MatchId
from drivers.errors import ProbeDeferred, ProbeError
from rings.ids import DeviceId
from support.commands import command
from vnet.qmp.codec import QmpError
from vnet.testing import NetPair, Options, open_pair, unharmed

settled = trio.testing.wait_all_tasks_blocked
SMALL = Options(queue_size=16)


@attrs.define(eq=False)
class Part:
    """A device that is nothing but its id."""

    name: str
    device_id: int = 1
    vendor_id: int = 0


@attrs.define(eq=False)
class Slow:
    """A driver that takes its time to probe and to remove; with dice some probes are deferred and some fail."""

    dice: random.Random
    name: str = "slow"
    id_table: tuple[MatchId, ...] = (MatchId(1),)
    fails: bool = False
    bound: Counter[str] = attrs.field(factory=Counter)
    """Tasks that serve each device now."""

    async def pause(self) -> None:
        await trio.sleep(self.dice.choice((0, 0, 0.001, 0.002)))


class PartBus(Bus[Part, Slow]):
    async def attach(self, binding: Binding[Part, Slow], device: Part, driver: Slow) -> None:
        driver.bound[device.name] += 1
        try:
            assert driver.bound[device.name] == 1, "two tasks serve one device"
            await driver.pause()
            if driver.fails and driver.dice.random() < 0.3:
                raise driver.dice.choice((ProbeDeferred, ProbeError))("by chance")
            binding.bound()
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True):
                await driver.pause()
            driver.bound[device.name] -= 1


@pytest.fixture
def bus(nursery: trio.Nursery) -> PartBus:
    bus = PartBus()
    nursery.start_soon(bus.serve)
    return bus


async def test_two_resets_at_once_both_succeed(bus: PartBus) -> None:
    part, driver = Part("a"), Slow(random.Random(0))
    bus.register_driver(driver)
    bus.register_device(part)
    for _ in range(20):
        await settled()
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(bus.rebind, part)
        await trio.sleep(1)
        assert (bus.binding(part).state, bus.binding(part).driver) == (BindState.BOUND, driver)


async def test_a_reset_whose_requester_is_cancelled_is_carried_out(bus: PartBus) -> None:
    part, driver = Part("a"), Slow(random.Random(0))
    bus.register_driver(driver)
    bus.register_device(part)
    await settled()
    with trio.CancelScope() as scope:
        scope.cancel()
        await bus.rebind(part)
    await trio.sleep(1)
    assert bus.binding(part).state is BindState.BOUND


async def test_a_device_that_two_tasks_remove_is_gone_for_both(bus: PartBus) -> None:
    part, driver = Part("a"), Slow(random.Random(3))
    bus.register_driver(driver)
    bus.register_device(part)
    await trio.sleep(1)

    async def discard() -> None:
        await bus.discard_device(part)
        assert not driver.bound["a"]

    async with trio.open_nursery() as nursery:
        nursery.start_soon(discard)
        nursery.start_soon(discard)
    assert bus.bindings == ()
    await bus.discard_device(part)  # which is not there any more


async def test_a_device_that_comes_back_while_it_leaves_waits_until_its_driver_let_go(bus: PartBus) -> None:
    part, driver = Part("a"), Slow(random.Random(0))
    bus.register_driver(driver)
    bus.register_device(part)
    await trio.sleep(1)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(bus.unregister_device, part)
        await settled()
        bus.register_device(part)
        with pytest.raises(ValueError, match="on the bus already"):
            bus.register_device(part)
    await trio.sleep(1)
    assert (bus.binding(part).state, driver.bound["a"]) == (BindState.BOUND, 1)


@pytest.mark.parametrize("seed", range(40))
async def test_any_operations_by_several_tasks_end_in_every_device_bound_once(bus: PartBus, seed: int) -> None:
    dice = random.Random(seed)
    parts = [Part(name) for name in "abc"]
    driver = Slow(dice, fails=True)

    async def act(part: Part) -> None:
        operation = dice.randrange(6)
        try:
            if operation == 0:
                bus.register_device(part)
            elif operation == 1:
                await bus.unregister_device(part)
            elif operation == 2:
                await bus.unregister_driver(driver)
            elif operation == 3 and driver not in bus._drivers:
                bus.register_driver(driver)
            elif operation == 4:
                bus.poke()
            else:
                await bus.rebind(part)
        except (KeyError, ValueError):
            pass  # it is not there, or there already

    async def operate() -> None:
        for _ in range(40):
            with trio.move_on_after(dice.choice((0.001, 1))):
                await act(dice.choice(parts))
            await trio.sleep(dice.choice((0, 0, 0.001)))

    async with trio.open_nursery() as nursery:
        for _ in range(4):
            nursery.start_soon(operate)
    driver.fails = False
    if driver not in bus._drivers:
        bus.register_driver(driver)
    there = [binding.device for binding in bus.bindings]
    for part in parts:
        if part not in there:
            bus.register_device(part)
        await bus.rebind(part)
    await trio.sleep(1)
    assert {b.device.name: b.state for b in bus.bindings} == dict.fromkeys("abc", BindState.BOUND)
    assert driver.bound == Counter(dict.fromkeys("abc", 1))


# A whole pair


async def device_reset(pair: NetPair) -> None:
    try:
        await command(pair.world, "device-reset", name="net0")
    except QmpError:
        assert pair.device.virtio is None, "the driver's side has not found it"


async def device_side_reset(pair: NetPair) -> None:
    await pair.device.device_host.vhost.rebind(pair.vhost)


async def link_moves(pair: NetPair) -> None:
    pair.link.bring_down()
    await trio.sleep(0.001)
    pair.link.bring_up()


async def device_asks(pair: NetPair) -> None:
    pair.vhost.fail("of its own accord")


async def driver_leaves(which: int, pair: NetPair) -> None:
    bus: Bus[Any, Any] = (pair.rc.virtio, pair.device.device_host.vhost)[which]
    for driver in (driver for driver in bus._drivers if driver.id_table == (MatchId(DeviceId.NET),)):
        await bus.unregister_driver(driver)
        await trio.sleep(0.001)
        bus.register_driver(driver)
        break


async def virtio_is_removed(pair: NetPair) -> None:
    """The driver's device is taken off its bus by hand; what carries it shows it again once it is bound anew."""
    if pair.device.virtio is not None:
        await pair.rc.virtio.discard_device(pair.device.virtio)
    await carrier_is_rebound(pair)


async def carrier_is_rebound(pair: NetPair) -> None:
    buses: tuple[Bus[Any, Any], ...] = pair.rc.carriers
    for bus in buses:
        for carrier in [binding.device for binding in bus.bindings]:
            with suppress(KeyError):  # another task removed it meanwhile
                await bus.rebind(carrier)


async def pull_out(pair: NetPair) -> None:
    for controller in pair.world.hosts[pair.world.topology.links["link0"].ends[1]].controllers.values():
        controller.stop()
        await trio.sleep(0.001)
        controller.start()


OPERATIONS: dict[str, Callable[[NetPair], Awaitable[None]]] = {
    "device-reset": device_reset,
    "reset at the device's side": device_side_reset,
    "link": link_moves,
    "NEEDS_RESET": device_asks,
    "virtio driver": partial(driver_leaves, 0),
    "vhost driver": partial(driver_leaves, 1),
    "virtio device": virtio_is_removed,
    "carrier": carrier_is_rebound,
    "endpoint": pull_out,
}


@pytest.mark.every_transport
async def test_two_device_resets_at_once_both_succeed() -> None:
    async with open_pair(SMALL) as pair, unharmed(pair):
        for _ in range(5):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(device_reset, pair)
                nursery.start_soon(device_reset, pair)
            await pair.world.wait_up()


@pytest.mark.hostile("S09")
@pytest.mark.every_transport
@pytest.mark.parametrize("seed", range(15))
async def test_control_operations_by_several_tasks_leave_a_device_that_works(seed: int, transport: str) -> None:
    dice = random.Random(seed)
    none_on_mmio = {"link", "endpoint"} if transport == "mmio" else set()
    operations = [operate for name, operate in OPERATIONS.items() if name not in none_on_mmio]
    async with open_pair(SMALL) as pair, unharmed(pair):

        async def operate() -> None:
            for _ in range(8):
                await dice.choice(operations)(pair)
                await trio.sleep(dice.choice((0, 0, 0.001, 0.02)))

        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(operate)
        await pair.world.wait_up()
