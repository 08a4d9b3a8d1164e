"""Configuration of a network device, as its driver reads it."""

from __future__ import annotations

import pytest
import trio
import trio.testing
from scapy.layers.l2 import Dot1Q, Ether

from drivers.contracts.ports import ETH_HLEN
from drivers.devices.net.layout import NetFeature
from support.rigs.net import BIG, PLAIN, cross, ends
from vnet.testing import (
    FRAME,
    Options,
    hostile_driver,
    open_pair,
    unharmed,
    until,
)

F = NetFeature
OUT, IN = "driver to device", "device to driver"
DIRECTIONS = (OUT, IN)


@pytest.mark.every_transport
@pytest.mark.virtio("NET-DRV-12", "NET-DRV-13", "NET-DRV-17")
async def test_the_driver_takes_mac_and_mtu_from_the_device() -> None:
    async with open_pair(Options(queue_size=16, mtu=4321)) as pair:
        assert pair.virtio.has(F.MAC)
        assert pair.virtio.has(F.MTU)
        assert (pair.driver_port.mac, pair.driver_port.mtu) == (pair.plug.mac, 4321)


@pytest.mark.every_transport
@pytest.mark.virtio("NET-DRV-14")
async def test_without_one_the_driver_makes_itself_a_local_unicast_address() -> None:
    async with open_pair(Options(queue_size=16, features_off=("MAC", "MTU"), devices=2)) as pair:
        macs = [pair.world.memory_port(name, "driver").mac for name in pair.world.devices]
        assert len(set(macs)) == 2
        for mac in macs:
            assert mac is not None
            assert mac[0] & 3 == 2
        assert pair.driver_port.mtu is None


@pytest.mark.every_transport
@pytest.mark.virtio("NET-DRV-15", "NET-DRV-16", "CFGCHG-DEV-1")
@pytest.mark.parametrize("off", [(), ("STATUS",)])
async def test_the_carrier_follows_the_status_field_where_there_is_one(off: tuple[str, ...]) -> None:
    async with open_pair(Options(queue_size=16, features_off=off)) as pair, unharmed(pair):
        assert pair.driver_port.carrier
        config = pair.vhost.config
        pair.vhost.set_config(config[:6] + b"\0\0" + config[8:])
        await trio.testing.wait_all_tasks_blocked()
        assert pair.driver_port.carrier == bool(off)
        pair.vhost.set_config(config)
        await trio.testing.wait_all_tasks_blocked()
        assert pair.driver_port.carrier


@pytest.mark.every_transport
@pytest.mark.virtio("NET-DEV-4", "NET-DEV-6")
@pytest.mark.parametrize("mtu", [68, 1280, 1500, 9000, 65521])
async def test_the_mtu_is_reported_and_does_not_change(mtu: int) -> None:
    options = Options(queue_size=4, mtu=mtu)
    async with open_pair(options) as pair, hostile_driver(pair) as driver:
        before = driver.config(10, 2)
        await driver.start()
        pair.vhost.fail("for once")
        await driver.start()
        assert before == driver.config(10, 2) == mtu


@pytest.mark.every_transport
@pytest.mark.virtio("NET-DEV-7", "NET-DEV-8", "NET-DRV-18", "NET-DRV-19")
@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize(("mtu", "rx_buffer"), [(68, None), (1500, None), (1500, 256), (9000, None), (9000, 1000)])
async def test_frames_up_to_the_mtu_cross_and_larger_ones_are_dropped(
    mtu: int, rx_buffer: int | None, direction: str
) -> None:
    options = Options(queue_size=64, mtu=mtu, rx_buffer=rx_buffer)
    async with open_pair(options) as pair:
        tag = bytes(Ether() / Dot1Q(vlan=1, type=0x88B5))
        whole = FRAME[:ETH_HLEN] + BIG[:mtu]
        tagged = tag + BIG[:mtu]
        for frame in (whole, tagged):
            assert await cross(pair, direction, frame) == (PLAIN, frame)
        source, _ = ends(pair, direction)
        source.inject(tagged + b"!")
        await until(lambda: source.statistics().drops == {"too_long": 1})
