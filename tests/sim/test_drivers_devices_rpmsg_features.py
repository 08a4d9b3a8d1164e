"""rpmsg beside other implementations: feature bit 1 is off unless asked for, and address 54 is then free."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import pytest
import trio
import trio.testing

from drivers.devices.rpmsg.layout import AS_ADDR, HEADER, NS_ADDR, SUPPORTED, NameMessage, RpmsgFeature
from drivers.errors import RpmsgError
from rings.testing import Desc
from support.topologies import TWO_HOSTS
from vnet.ends.rpmsg import ChannelSpec
from vnet.errors import ConfigError
from vnet.system.world import open_world
from vnet.testing import hostile_driver, unharmed, until
from vnet.testing.hostile import EXTRA
from vnet.testing.rpmsg import RpmsgOptions, RpmsgPair, bound_pair, open_rpmsg_pair
from vnet.topology import parse

PLAIN = partial(RpmsgOptions, address_service=False)
MODES: Mapping[str, RpmsgOptions] = {"direct": PLAIN(), "mediated": PLAIN(mode="mediated")}
BASE = (
    TWO_HOSTS
    + """\
[devices.rpmsg0]
type = "rpmsg"
link = "pcie0"
"""
)


def offered(pair: RpmsgPair) -> list[int]:
    return [device.vhost.device_features >> RpmsgFeature.AS & 1 for device in pair.world.devices.values()]


@pytest.mark.parametrize(
    ("requests", "bit"), [("", 0), ("address_service = false\n", 0), ("address_service = true\n", 1)]
)
async def test_a_topology_has_bit_1_only_if_it_asks_for_the_address_service(requests: str, bit: int) -> None:
    async with open_world(parse(BASE + requests), "test") as world:
        await world.wait_up()
        device = world.devices["rpmsg0"]
        assert device.virtio is not None
        assert device.vhost.device_features >> 1 & 1 == bit
        assert device.virtio.features >> 1 & 1 == bit
        assert device.virtio.features & ~2 == device.vhost.device_features & ~2


async def test_a_driver_does_not_accept_bit_1_that_another_device_offers(monkeypatch: pytest.MonkeyPatch) -> None:
    """It may be Linux's buffer sizes, or NuttX's acknowledgements."""
    async with open_rpmsg_pair(PLAIN()) as pair, unharmed(pair):
        offer = pair.vhost.offer
        monkeypatch.setattr(pair.vhost, "offer", lambda table, features, *rest: offer(table, features | 2, *rest))
        await pair.device.device_host.vhost.rebind(pair.vhost)
        await pair.world.wait_up()
        assert pair.vhost.device_features >> 1 & 1
        assert not pair.virtio.has(RpmsgFeature.AS)


@pytest.mark.parametrize("options", MODES.values(), ids=MODES)
async def test_without_the_address_service_endpoints_bind_by_announcements(options: RpmsgOptions) -> None:
    async with open_rpmsg_pair(options) as pair:
        assert not any(offered(pair))
        for _ in range(3):
            first, second = await bound_pair(*pair.buses, "sample")
            await first.send(b"there")
            assert await second.receive() == b"there"
            first.close()
            second.close()
            await until(lambda: not pair.buses[0].services and not pair.buses[1].services)


@pytest.mark.parametrize("options", MODES.values(), ids=MODES)
async def test_an_endpoint_may_have_address_54_where_the_service_was_not_agreed_on(options: RpmsgOptions) -> None:
    async with open_rpmsg_pair(options) as pair:
        first = pair.buses[0].create("a", addr=AS_ADDR)
        second = pair.buses[1].create("a", addr=AS_ADDR)
        with trio.fail_after(1):
            await first.wait_bound()
            await second.wait_bound()
        assert (first.dst, second.dst) == (AS_ADDR, AS_ADDR)
        for source, sink in ((first, second), (second, first)):
            await source.send(b"there")
            assert await sink.receive() == b"there"
        assert not pair.buses[0].received.drops
        assert not pair.buses[1].received.drops


@pytest.mark.parametrize(
    ("features", "addr", "bound"),
    [
        ((RpmsgFeature.NS,), AS_ADDR, True),
        ((RpmsgFeature.NS,), NS_ADDR, False),
        ((RpmsgFeature.NS, RpmsgFeature.AS), AS_ADDR, False),
    ],
)
async def test_an_announcement_from_the_address_of_a_service_that_was_agreed_on_is_refused(
    features: tuple[RpmsgFeature, ...], addr: int, bound: bool
) -> None:
    async with open_rpmsg_pair(RpmsgOptions(queue_size=16)) as pair, hostile_driver(pair) as driver:
        services = sum(1 << bit for bit in RpmsgFeature if bit in (RpmsgFeature.NS, RpmsgFeature.AS))
        await driver.start(SUPPORTED & ~EXTRA & ~services | sum(1 << bit for bit in features))
        bus = pair.buses[1]
        await until(lambda: bus.online)
        endpoint = bus.create("a")
        message = NameMessage("a", addr).emit()
        driver.send(Desc(driver.put(HEADER.pack(addr, NS_ADDR, 0, len(message), 0) + message), 16 + len(message)))
        await until(lambda: bus.received.packets + sum(bus.received.drops.values()) == 1)
        assert endpoint.dst == addr if bound else not endpoint.bound
        assert dict(bus.received.drops) == ({} if bound else {"ns_address": 1})


@pytest.mark.parametrize(("features", "addr"), [(0, NS_ADDR), (0, AS_ADDR), (1, AS_ADDR)])
async def test_a_first_message_binds_to_any_address_that_no_service_has(features: int, addr: int) -> None:
    async with open_rpmsg_pair(RpmsgOptions(queue_size=16)) as pair, hostile_driver(pair) as driver:
        await driver.start(SUPPORTED & ~EXTRA & ~0b11 | features)
        bus = pair.buses[1]
        await until(lambda: bus.online)
        endpoint = bus.create("a", addr=2000)
        driver.send(Desc(driver.put(HEADER.pack(addr, 2000, 0, 2, 0) + b"hi"), 18))
        with trio.fail_after(1):
            assert await endpoint.receive_from() == (addr, b"hi")
        assert endpoint.dst == addr


async def test_with_the_address_service_no_channel_may_have_its_address() -> None:
    channel = 'driver = { channels = [{ name = "a", addr = 54 }] }\n'
    parse(BASE + channel)
    with pytest.raises(ConfigError, match=r"channels\[0\].addr = 54: already used by the address service"):
        parse(BASE + channel + "address_service = true\n")
    async with open_rpmsg_pair(RpmsgOptions(driver=(ChannelSpec("a"),))) as pair:
        with pytest.raises(RpmsgError, match="54 is no endpoint address"):
            pair.buses[0].create("b", addr=AS_ADDR)


@pytest.mark.every_transport
async def test_a_device_waits_for_its_link_only_if_that_is_billed(monkeypatch: pytest.MonkeyPatch) -> None:
    async with open_rpmsg_pair(RpmsgOptions()) as pair:
        assert pair.vhost.settle is None
        waits = 0

        async def settle() -> None:
            nonlocal waits
            waits += 1

        monkeypatch.setattr(pair.vhost.ops, "settle", settle)
        await pair.rc.virtio.rebind(pair.virtio)
        await pair.world.wait_up()
        await pair.transfer(1 << 16)
        assert waits == 0
