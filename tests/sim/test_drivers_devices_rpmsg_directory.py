"""rpmsg name and address services: how endpoints find each other."""

from __future__ import annotations

import itertools
import struct

import pytest
import trio
import trio.testing

from drivers.devices.rpmsg import Endpoint, RpmsgBus
from drivers.devices.rpmsg.directory import MAX_ENDPOINTS
from drivers.devices.rpmsg.layout import ADDR_ANY, FIRST_DYNAMIC
from drivers.errors import RpmsgError
from support.rigs.rpmsg import SERVICES, balance, ping_pong, settled
from vnet.ends.rpmsg import ChannelSpec
from vnet.system.world import open_world
from vnet.testing.checks import until
from vnet.testing.rpmsg import RpmsgOptions, bound_pair, open_rpmsg_pair

SAMPLE = "rpmsg-client-sample"
HELLO = b"hello world!"


@pytest.mark.parametrize("off", SERVICES.values(), ids=SERVICES.keys())
@pytest.mark.parametrize("order", list(itertools.permutations(("driver", "device", "up"))), ids="-".join)
async def test_endpoints_find_each_other_whichever_comes_first(order: tuple[str, ...], off: tuple[str, ...]) -> None:
    async with open_rpmsg_pair(RpmsgOptions(features_off=off)) as pair:
        pair.link.bring_down()
        await until(lambda: not any(bus.online for bus in pair.buses))
        ends: dict[str, Endpoint] = {}
        for step in order:
            if step == "up":
                pair.link.bring_up()
                await pair.world.wait_up()
            else:
                ends[step] = pair.buses[step == "device"].create(SAMPLE)
            await settled()
        await ping_pong(ends["driver"], ends["device"], 3)
        assert (ends["driver"].dst, ends["device"].dst) == (ends["device"].addr, ends["driver"].addr)


@pytest.mark.parametrize("off", SERVICES.values(), ids=SERVICES.keys())
@pytest.mark.parametrize("side", [0, 1])
async def test_one_that_only_binds_finds_one_that_announces(side: int, off: tuple[str, ...]) -> None:
    """Like Linux, the virtio side never announces an endpoint that it did not create."""
    async with open_rpmsg_pair(RpmsgOptions(features_off=off)) as pair:
        quiet = pair.buses[side].create(SAMPLE, announce=False)
        loud = pair.buses[1 - side].create(SAMPLE)
        await ping_pong(quiet, loud, 3)
        assert not pair.buses[1 - side].services


async def test_both_can_announce_at_once() -> None:
    async with open_rpmsg_pair() as pair:
        ends = [bus.create(SAMPLE) for bus in pair.buses]
        await ping_pong(ends[0], ends[1], 3)
        assert not any(bus.received.drops for bus in pair.buses)


@pytest.mark.parametrize("off", SERVICES.values(), ids=SERVICES.keys())
@pytest.mark.parametrize("side", [0, 1])
async def test_an_endpoint_that_is_closed_is_gone_for_the_other_side_and_may_come_again(
    side: int, off: tuple[str, ...]
) -> None:
    async with open_rpmsg_pair(RpmsgOptions(features_off=off)) as pair:
        ends = list(await bound_pair(*pair.buses, SAMPLE))
        for _ in range(3):
            await ping_pong(ends[0], ends[1], 2)
            ends[side].close()
            await until(lambda: not ends[1 - side].bound)
            assert SAMPLE not in pair.buses[1 - side].services.values()
            ends[side] = pair.buses[side].create(SAMPLE)
        await ping_pong(ends[0], ends[1], 2)
        balance(pair)


async def test_a_name_can_be_used_many_times() -> None:
    async with open_rpmsg_pair() as pair:
        first = [pair.buses[0].create("many") for _ in range(20)]
        second = [pair.buses[1].create("many") for _ in range(20)]
        for end in first + second:
            await end.wait_bound()
        by_addr = {end.addr: end for end in second}
        assert sorted(end.dst for end in first) == sorted(by_addr)
        for end in first:
            await ping_pong(end, by_addr[end.dst], 1)


async def test_nothing_is_announced_before_the_device_runs() -> None:
    channels = tuple(ChannelSpec(name) for name in ("a", "b"))
    async with open_world(RpmsgOptions(device=channels).topology(), "test") as world:
        bus: RpmsgBus = world.devices["rpmsg0"].device_end.settings.bus  # type: ignore[attr-defined]
        other: RpmsgBus = world.devices["rpmsg0"].driver_end.settings.bus  # type: ignore[attr-defined]
        assert [end.name for end in bus.endpoints] == ["a", "b"]
        assert (bus.online, bus.sent.packets) == (False, 0)
        await world.wait_up()
        await settled()
        assert list(other.services.values()) == ["a", "b"]
        assert list(other.services) == [FIRST_DYNAMIC, FIRST_DYNAMIC + 1]


async def test_without_name_service_addresses_are_given() -> None:
    async with open_rpmsg_pair(RpmsgOptions(features_off=("NS", "AS"))) as pair:
        server = pair.buses[1].create(SAMPLE, addr=7)
        client = pair.buses[0].create(SAMPLE, dst=7)
        await settled()
        assert not server.bound
        await ping_pong(client, server)
        assert not any(bus.received.drops for bus in pair.buses)


async def test_an_assignment_does_not_move_an_endpoint_that_is_bound() -> None:
    async with open_rpmsg_pair() as pair:
        first, second = await bound_pair(*pair.buses, SAMPLE)
        message = SAMPLE.encode().ljust(32, b"\0") + struct.pack("<III", 2000, second.addr, 1)
        await first.send(message, 54)
        await settled()
        assert second.dst == first.addr
        assert pair.buses[1].received.drops == {"as_busy": 1}


async def test_an_endpoint_has_its_address_for_itself() -> None:
    bus = RpmsgBus()
    bus.create("a", addr=40)
    for addr in (40, 53, 54, -1, ADDR_ANY):
        with pytest.raises(RpmsgError):
            bus.create("b", addr=addr)
    with pytest.raises(RpmsgError):
        bus.create("b", dst=53)
    with pytest.raises(RpmsgError):
        bus.create("b", inbox=0)
    with pytest.raises(RpmsgError):
        bus.create("x" * 32)
    assert bus.create("b").addr == FIRST_DYNAMIC
    bus.endpoints[-1].close()
    assert bus.create("b").addr == FIRST_DYNAMIC + 1, "a message for one that is gone must not find the next one"


async def test_a_thousand_endpoints_talk_and_one_more_than_the_cap_is_refused() -> None:
    async with open_rpmsg_pair() as pair:
        first, second = ([bus.create(f"channel {i}") for i in range(MAX_ENDPOINTS)] for bus in pair.buses)
        for bus in pair.buses:
            with pytest.raises(RpmsgError):
                bus.create("one more")
        with trio.fail_after(5):
            for end in first:
                await end.send(end.name.encode())
            for end in second:
                assert await end.receive() == end.name.encode()
        assert not any(bus.received.drops for bus in pair.buses)
        for end in second:
            end.close()
        await until(lambda: not any(end.bound for end in first))
