"""Buses: devices and drivers match in any order, and what is bound is released in reverse order."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable

import pytest
import trio
import trio.testing

from drivers.bus.binding import BindState
from drivers.bus.model import MatchId
from drivers.errors import DriverError, ProbeDeferred, ProbeError, TransportLost
from rings.ids import ANY_ID
from support.rigs.bus import Taker, Thing, ThingBus, bus

__all__ = ["bus"]  # a fixture


settled = trio.testing.wait_all_tasks_blocked


def states(bus: ThingBus) -> dict[str, BindState]:
    return {binding.device.name: binding.state for binding in bus.bindings}


@pytest.mark.parametrize(
    ("row", "matches"),
    [
        (MatchId(1), True),
        (MatchId(1, 0x1AF4), True),
        (MatchId(ANY_ID), True),
        (MatchId(ANY_ID, 0x1AF4), True),
        (MatchId(ANY_ID, ANY_ID), True),
        (MatchId(2), False),
        (MatchId(1, 0x8086), False),
        (MatchId(ANY_ID, 0x8086), False),
    ],
)
async def test_a_driver_gets_what_its_id_table_names(bus: ThingBus, row: MatchId, matches: bool) -> None:
    bus.register_driver(Taker(id_table=(MatchId(7), row)))
    bus.register_device(Thing())
    await settled()
    assert states(bus) == {"thing0": BindState.BOUND if matches else BindState.UNBOUND}


@pytest.mark.parametrize("driver_first", [True, False])
async def test_either_side_may_come_first(bus: ThingBus, driver_first: bool) -> None:
    thing, taker = Thing(), Taker()
    if driver_first:
        bus.register_driver(taker)
        await settled()
    bus.register_device(thing)
    await settled()
    if not driver_first:
        bus.register_driver(taker)
        await settled()
    assert taker.log == ["probe thing0"]
    assert bus.binding(thing).driver is taker


async def test_the_first_registered_of_two_drivers_gets_the_device_and_the_other_when_it_leaves(bus: ThingBus) -> None:
    first, second = Taker(), Taker()
    bus.register_driver(first)
    bus.register_driver(second)
    bus.register_device(Thing())
    await settled()
    assert (first.log, second.log) == (["probe thing0"], [])
    await bus.unregister_driver(first)
    await settled()
    assert (first.log, second.log) == (["probe thing0", "remove thing0"], ["probe thing0"])


async def test_names_are_unique_and_used_again_only_once_they_are_free(bus: ThingBus) -> None:
    things = [Thing() for _ in range(4)]
    things[2].name = "mine"
    for thing in things:
        bus.register_device(thing)
    assert [thing.name for thing in things] == ["thing0", "thing1", "mine", "thing2"]
    await bus.unregister_device(things[1])
    late, later = Thing(), Thing()
    bus.register_device(late)
    bus.register_device(later)
    assert (late.name, later.name) == ("thing1", "thing3")


async def test_a_device_that_is_not_on_the_bus_is_a_key_error(bus: ThingBus) -> None:
    with pytest.raises(KeyError):
        await bus.unregister_device(Thing(name="stranger"))


async def test_a_deferred_probe_is_tried_again_at_every_poke_until_it_binds(bus: ThingBus) -> None:
    ready = False

    async def probe(_: Thing) -> None:
        await trio.lowlevel.checkpoint()
        if not ready:
            raise ProbeDeferred("no port yet")

    taker = Taker(probe=probe)
    thing = Thing()
    bus.register_driver(taker)
    bus.register_device(thing)
    await settled()
    assert states(bus) == {"thing0": BindState.DEFERRED}
    assert bus.binding(thing).error == "no port yet"
    bus.poke()
    await settled()
    assert taker.log == ["probe thing0"] * 2
    ready = True
    bus.poke()
    await settled()
    assert states(bus) == {"thing0": BindState.BOUND}
    assert bus.binding(thing).error == ""


async def test_a_poke_while_a_probe_is_about_to_defer_is_not_lost(bus: ThingBus) -> None:
    ready = False
    looked, go = trio.Event(), trio.Event()

    async def probe(_: Thing) -> None:
        missing = not ready  # what is missing comes after this look, and before the probe says so
        looked.set()
        await go.wait()
        if missing:
            raise ProbeDeferred("no port yet")

    bus.register_driver(Taker(probe=probe))
    bus.register_device(Thing())
    await looked.wait()
    ready = True
    bus.poke()
    await settled()
    go.set()
    await settled()
    assert states(bus) == {"thing0": BindState.BOUND}


@pytest.mark.parametrize("error", [ProbeError("no good"), TransportLost("gone")], ids=lambda e: type(e).__name__)
async def test_a_failed_probe_leaves_the_device_alone_until_it_is_bound_anew(bus: ThingBus, error: DriverError) -> None:
    fails = True

    async def probe(_: Thing) -> None:
        await trio.lowlevel.checkpoint()
        if fails:
            raise error

    taker, thing = Taker(probe=probe), Thing()
    bus.register_driver(taker)
    bus.register_device(thing)
    for _ in range(3):
        bus.poke()
        await settled()
    assert taker.log == ["probe thing0"]
    assert (bus.binding(thing).state, bus.binding(thing).error) == (BindState.FAILED, str(error))
    fails = False
    await bus.unregister_driver(taker)
    bus.register_driver(taker)
    await settled()
    assert states(bus) == {"thing0": BindState.BOUND}


async def test_a_device_may_leave_in_the_midst_of_its_probe(bus: ThingBus) -> None:
    async def probe(_: Thing) -> None:
        await trio.sleep_forever()

    thing, taker = Thing(), Taker(probe=probe)
    bus.register_driver(taker)
    bus.register_device(thing)
    await settled()
    assert states(bus) == {"thing0": BindState.PROBING}
    await bus.unregister_device(thing)
    assert bus.bindings == ()


async def test_a_bus_that_is_cancelled_unbinds_everything() -> None:
    bus, taker = ThingBus(), Taker()
    bus.register_driver(taker)
    for _ in range(3):
        bus.register_device(Thing())
    async with trio.open_nursery() as nursery:
        nursery.start_soon(bus.serve)
        await settled()
        nursery.cancel_scope.cancel()
    assert sorted(taker.log[3:]) == ["remove thing0", "remove thing1", "remove thing2"]
    assert set(states(bus).values()) == {BindState.UNBOUND}


@pytest.mark.parametrize("seed", range(100))
async def test_any_order_of_coming_and_going_ends_in_the_same_state(bus: ThingBus, seed: int) -> None:
    """Three kinds of device and their drivers come, go and come back: what is there is bound, once."""
    rng = random.Random(seed)
    things = [Thing(device_id=1 + i % 3, name=f"d{i}") for i in range(6)]
    takers = [Taker(id_table=(MatchId(i),), name=str(i)) for i in (1, 2, 3)]
    items: list[Thing | Taker] = [*things, *takers]
    there: list[object] = []
    for _ in range(30):
        item = rng.choice(items)
        if isinstance(item, Thing):
            await _toggle(there, item, bus.register_device, bus.unregister_device)
        else:
            await _toggle(there, item, bus.register_driver, bus.unregister_driver)
        if rng.random() < 0.5:
            await settled()
    for item in items:
        if item not in there and isinstance(item, Thing):
            bus.register_device(item)
        elif item not in there and isinstance(item, Taker):
            bus.register_driver(item)
    await settled()
    assert states(bus) == dict.fromkeys((thing.name for thing in things), BindState.BOUND)
    for taker in takers:
        for thing in things:
            events = [line.split()[0] for line in taker.log if line.endswith(thing.name)]
            wanted = ["probe", "remove"] * (len(events) // 2) + ["probe"] * (len(events) % 2)
            assert events == wanted, "bound twice at a time, or removed twice"
            assert len(events) % 2 == (thing.device_id == taker.id_table[0].device)


async def _toggle(
    there: list[object],
    item: Thing | Taker,
    come: Callable[..., None],
    go: Callable[..., Awaitable[None]],
) -> None:
    if item in there:
        there.remove(item)
        await go(item)
    else:
        there.append(item)
        come(item)
