"""Events reach each client that asked for them; one that does not read loses events that are counted."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import trio
from trio.testing import MockClock, memory_stream_pair, wait_all_tasks_blocked

from drivers.contracts.events import LinkMoved, Source
from support.rigs.qmp import Client, open_client
from vnet.qmp.event_queue import EVENTS_MAX, EventQueue
from vnet.qmp.events import EVENTS
from vnet.qmp.server import ControlServer
from vnet.system.events import EventHub
from vnet.system.world import World, open_world
from vnet.topology import DEFAULT, parse


@pytest.fixture
async def world() -> AsyncIterator[World]:
    async with open_world(parse(DEFAULT.replace('"tun"', '"memory"')), "t-events") as world:
        await world.wait_up()
        yield world


async def ask_for(client: Client, *names: str) -> None:
    await client.shake_hands()
    arguments = {"events": list(names)} if names else {}
    assert await client.say({"execute": "set-events", "arguments": arguments}) == {"return": {}}


def moved(up: bool, at: float = 0.0) -> LinkMoved:
    return LinkMoved(at, Source(link="pcie0"), up, 1)


async def test_a_client_gets_only_the_events_of_its_choice(world: World) -> None:
    server = ControlServer(world)
    async with open_client(server) as asking, open_client(server) as other:
        await ask_for(asking, "VNET_LINK_DOWN", "VNET_LINK_UP")
        await other.shake_hands()
        for up in (False, True):
            move = {"execute": "set_link", "arguments": {"name": "pcie0", "up": up}}
            assert await other.say(move) == {"return": {}}
        down, again = await asking.read(), await asking.read()
        assert (down["event"], down["data"]) == ("VNET_LINK_DOWN", {"link": "pcie0", "epoch": 1})
        assert (again["event"], again["data"]) == ("VNET_LINK_UP", {"link": "pcie0", "epoch": 2})
        assert await other.say({"execute": "query-status"}) == {"return": {"running": True, "status": "running"}}


async def test_a_choice_replaces_the_one_before(world: World) -> None:
    async with open_client(ControlServer(world)) as client:
        await ask_for(client)
        assert await client.say({"execute": "set-events", "arguments": {"events": []}}) == {"return": {}}
        down = {"execute": "set_link", "arguments": {"name": "pcie0", "up": False}}
        assert await client.say(down) == {"return": {}}
        known = ", ".join(EVENTS)
        assert await client.say({"execute": "set-events", "arguments": {"events": ["MOON"]}}) == {
            "error": {"class": "GenericError", "desc": f"Parameter 'events': event 'MOON': must be one of {known}"}
        }


async def test_nothing_listens_once_the_clients_are_gone(world: World) -> None:
    silent = [world.events.links, world.events.lifecycle]
    async with open_client(ControlServer(world)) as client:
        await ask_for(client)
        assert world.events.links is not None
    await wait_all_tasks_blocked()
    assert [world.events.links, world.events.lifecycle] == silent


async def test_a_reset_is_an_event_with_its_cause(world: World) -> None:
    async with open_client(ControlServer(world)) as client:
        await ask_for(client, "VNET_DEVICE_NEEDS_RESET", "VNET_DEVICE_RESET")
        world.devices["net0"].vhost.fail("a test")
        needs, reset = await client.read(), await client.read()
        assert needs["data"] == {"device": "net0", "host": "ep", "side": "device", "cause": "a test"}
        assert reset["event"] == "VNET_DEVICE_RESET"


async def test_the_end_of_the_system_is_the_last_event(world: World) -> None:
    for quits, reason in ((True, "host-qmp-quit"), (False, "host-signal")):
        server = ControlServer(world)
        ours, theirs = memory_stream_pair()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(server.converse, theirs)
            client = Client(ours)
            await ask_for(client)
            if quits:
                await client.say({"execute": "quit"})
            nursery.cancel_scope.cancel()
        with trio.fail_after(1):
            last = await client.read()
        assert (last["event"], last["data"]) == ("SHUTDOWN", {"guest": False, "reason": reason})


async def test_the_end_comes_after_the_events_on_their_way(world: World) -> None:
    server = ControlServer(world)
    ours, theirs = memory_stream_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(server.converse, theirs)
        client = Client(ours)
        await ask_for(client, "VNET_LINK_UP", "SHUTDOWN")
        emit = world.events.links
        assert emit is not None
        for _ in range(20):
            emit(moved(up=True))
            nursery.cancel_scope.cancel()
    with trio.fail_after(1):
        names = [(await client.read())["event"] for _ in range(21)]
    assert names == ["VNET_LINK_UP"] * 20 + ["SHUTDOWN"]


async def test_a_slow_client_loses_events_and_gets_their_number(world: World, autojump_clock: MockClock) -> None:
    extra = 7
    async with open_client(ControlServer(world)) as client:
        await ask_for(client, "VNET_LINK_UP")
        emit = world.events.links
        assert emit is not None
        for _ in range(EVENTS_MAX + extra):  # the client's task has no turn meanwhile
            emit(moved(up=True))
        for _ in range(EVENTS_MAX):
            assert (await client.read())["event"] == "VNET_LINK_UP"
        lost = await client.read()
        assert (lost["event"], lost["data"]) == ("VNET_EVENTS_LOST", {"count": extra})
        emit(moved(up=True))
        assert (await client.read())["event"] == "VNET_LINK_UP"


async def test_a_slow_client_holds_up_neither_another_nor_the_end(world: World, autojump_clock: MockClock) -> None:
    server = ControlServer(world)
    slow, theirs = trio.testing.lockstep_stream_pair()  # sending waits until the other end reads
    begin = trio.current_time()
    async with trio.open_nursery() as nursery, open_client(server) as other:
        nursery.start_soon(server.converse, theirs)
        client = Client(slow)
        await ask_for(client)
        down = {"execute": "set_link", "arguments": {"name": "pcie0", "up": False}}
        await other.shake_hands()
        assert await other.say(down) == {"return": {}}
        await wait_all_tasks_blocked()
        assert await other.say({"execute": "query-status"}) == {"return": {"running": True, "status": "running"}}
        nursery.cancel_scope.cancel()
    assert trio.current_time() - begin < 1


async def test_an_event_has_the_time_of_day_at_which_it_happened(autojump_clock: MockClock) -> None:
    hub = EventHub()
    queue = EventQueue(hub, wall=lambda: 1_700_000_000.25 + trio.current_time())
    queue.choose(["VNET_LINK_UP"])
    assert hub.links is not None
    begin = trio.current_time()
    hub.links(moved(up=True, at=begin))
    await trio.sleep(3)
    [message] = queue.take()
    expected = 1_700_000_000.25 + begin
    stamp = message["timestamp"]
    assert stamp["seconds"] + stamp["microseconds"] / 1e6 == pytest.approx(expected, abs=1e-5)
    assert list(message) == ["timestamp", "event", "data"]
