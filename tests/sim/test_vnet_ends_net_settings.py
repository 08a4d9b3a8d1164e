"""Changes of a running network device, by name, over the control socket; and their reports."""

from __future__ import annotations

import json
from typing import Any

import pytest
import trio
import trio.testing

from drivers.contracts.ports import PortState
from support.commands import command
from support.topologies import TWO_HOSTS
from vnet.cli.tree import tree
from vnet.qmp.codec import QmpError
from vnet.system.snapshot import take_snapshot
from vnet.system.world import World, open_world
from vnet.topology import parse
from vnet.views.plain import to_plain

SEVERAL = (
    TWO_HOSTS
    + """\
[devices.net0]
link = "pcie0"
queue_pairs = 3
queue_size = 32
features_on = ["RSS"]
speed = 25000
duplex = "full"
driver = { kind = "memory" }
device = { kind = "memory" }
"""
)
MEDIATED = SEVERAL.replace("queue_pairs = 3", 'mode = "mediated"')
for key in ("speed = 25000", 'duplex = "full"', 'features_on = ["RSS"]'):
    MEDIATED = MEDIATED.replace(key, "")


async def change(world: World, setting: str, value: str = "", name: str = "net0") -> object:
    """As the control socket does it."""
    actual = await command(world, "device-set", name=name, setting=setting, value=value)
    await trio.testing.wait_all_tasks_blocked()
    return actual


def network(world: World, side: str) -> dict[str, Any]:
    actual = json.loads(json.dumps(to_plain(take_snapshot(world))))["devices"]["net0"][side]["port"]["network"]
    assert isinstance(actual, dict)
    return actual


def shown(packets: int, usecs: int) -> dict[str, int]:
    return {"max_packets": packets, "max_usecs": usecs}


async def test_every_setting_shows_at_both_sides() -> None:
    async with open_world(parse(SEVERAL), "t") as world:
        await world.wait_up()
        await trio.testing.wait_all_tasks_blocked()
        assert {side: network(world, side)["pairs"] for side in ("driver", "device")} == {"driver": 3, "device": 3}
        world.memory_port("net0", "driver").want(PortState(vlans=frozenset({7})))
        await command(world, "device-reset", name="net0")
        await world.wait_up()
        for setting, value, key, seen in (
            ("promisc", "on", "modes", ["promisc", "allmulti"]),
            ("promisc", "off", "modes", ["allmulti"]),
            ("allmulti", "off", "modes", []),
            ("nobcast", "on", "modes", ["nobcast"]),
            ("unicast", "02:00:00:00:00:0A,02:00:00:00:00:09", "unicast", ["02:00:00:00:00:09", "02:00:00:00:00:0a"]),
            ("unicast", "none", "unicast", []),
            ("multicast", "01:00:5e:00:00:01", "multicast", ["01:00:5e:00:00:01"]),
            ("vlans", "5,4095", "vlans", [0, 5, 7, 4095]),
            ("vlans", "none", "vlans", [0, 7]),
            ("ring", "16", "vlans", [0, 7]),
        ):
            assert await change(world, setting, value) == {}
            for side in ("driver", "device"):
                assert network(world, side)["receives"][key] == seen
        for setting, value, wanted in (
            ("mac", "02:00:00:00:00:0A", "02:00:00:00:00:0a"),
            ("pairs", "2", 2),
            ("pairs", "all", 3),
            ("offloads", "none", []),
            ("offloads", "csum,tso4", ["csum", "tso4"]),
            ("offloads", "all", ["csum", "tso4", "tso6", "uso", "ecn"]),
            ("rx_coalesce", "2:16,50", {"receiveq2": shown(16, 50)}),
            ("rx_coalesce", "8,20", {f"receiveq{n}": shown(8, 20) for n in (1, 2, 3)}),
            ("rx_coalesce", "off", {}),
            ("tx_coalesce", "3:1,1000000", {"transmitq3": shown(1, 1_000_000)}),
            ("tx_coalesce", "3:off", {}),
        ):
            await change(world, setting, value)
            key = "coalescing" if setting.endswith("coalesce") else setting
            assert [network(world, side)[key] for side in ("driver", "device")] == [wanted] * 2
        await change(world, "tx_coalesce", "16,50")
        assert "calls after: transmitq1 16 packets 50 us, transmitq2 16" in "\n".join(tree(take_snapshot(world)))
        await change(world, "carrier", "off")
        assert not world.memory_port("net0", "driver").carrier
        assert not world.devices["net0"].up
        assert "carrier off, 25000 Mbit/s, duplex full, pairs of queues 3 of 3" in "\n".join(tree(take_snapshot(world)))
        await change(world, "carrier", "on")
        await change(world, "mtu", "1400")
        await trio.sleep(1)
        assert world.memory_port("net0", "driver").mtu == network(world, "device")["mtu"] == 1400
        while world.memory_port("net0", "device")._outbound:
            world.memory_port("net0", "device").receive_nowait()
        await change(world, "announce")
        assert (await world.memory_port("net0", "device").receive())[1][:6] == b"\xff" * 6
        shown_tree = "\n".join(tree(take_snapshot(world)))
        assert "pair 3: received 0 packets 0 bytes" in shown_tree
        assert "receives: nobcast, multicast 01:00:5e:00:00:01, VLANs 0 7" in shown_tree
        figures = [network(world, side)["commands"] for side in ("driver", "device")]
        assert figures[0] == figures[1]
        assert figures[0]["refused"] == 0


@pytest.mark.parametrize(
    ("setting", "value", "why"),
    [
        ("colour", "red", "net0: unknown setting colour; known are mac, promisc, "),
        ("promisc", "yes", "net0: promisc 'yes': must be on or off"),
        ("promisc", "", "net0: promisc '': must be on or off"),
        ("mac", "01:00:5e:00:00:01", "net0: mac '01:00:5e:00:00:01': must be a unicast MAC address"),
        ("mac", "02:0", "net0: mac '02:0': must be a unicast MAC address"),
        ("multicast", "02:00:00:00:00:01", "must be a multicast MAC address"),
        ("vlans", "5,4096", "net0: vlans '5,4096': must be between 0 and 4095"),
        ("vlans", "5", "net0: vlans '5': CTRL_VLAN was not negotiated"),
        ("pairs", "0", "net0: pairs '0': must be between 1 and 32768"),
        ("ring", "1", "net0: ring '1': must be between 2 and 32768"),
        ("pairs", "4", "net0: pairs '4': the device has 3 queue pairs"),
        ("rx_coalesce", "0,5", "net0: rx_coalesce '0,5': must be between 1 and 4294967295"),
        ("rx_coalesce", "5", "net0: rx_coalesce '5': must be between 1 and 4294967295"),
        ("rx_coalesce", "4:5,5", "net0: rx_coalesce '4:5,5': there is no queue pair 4: the device has 3"),
        ("tx_coalesce", "5,1000001", "net0: tx_coalesce '5,1000001': the device refused it"),
        ("offloads", "lro", "net0: offloads 'lro': must be all, none, or some of csum,tso4,tso6,uso,ecn"),
        ("offloads", "tso4", "net0: offloads 'tso4': the device refused it"),
        ("carrier", "1", "net0: carrier '1': must be on or off"),
        ("mtu", "67", "net0: mtu '67': must be between 68 and 65521"),
        ("mtu", "\u0661", "must be between 68 and 65521"),
        ("announce", "loudly", "net0: announce 'loudly': must be now, or absent"),
        ("statistics", "all", "net0: statistics 'all': must be now, or absent"),
        ("rss", "0", "net0: rss '0': must be between 1 and 32768"),
        ("rss", "1,,2", "net0: rss '1,,2': must be between 1 and 32768"),
        ("rss", "1,4", "net0: rss '1,4': queue pair 4 is not in use: only 3 are"),
        ("rss", "1" + ",1" * 128, "must be at most 128 queue pairs"),
        ("unclassified", "none", "net0: unclassified 'none': must be between 1 and 32768"),
        ("hash_types", "tcp", "net0: hash_types 'tcp': must be all, none, or some of ipv4,tcpv4,"),
        ("hash_key", "0f0f", "net0: hash_key '0f0f': must be default, or 80 hexadecimal digits"),
    ],
)
async def test_an_impossible_value_is_refused_in_one_line_and_changes_nothing(
    setting: str, value: str, why: str
) -> None:
    async with open_world(parse(SEVERAL), "t") as world:
        await world.wait_up()
        await trio.testing.wait_all_tasks_blocked()
        before = [network(world, side) for side in ("driver", "device")]
        with pytest.raises(QmpError) as caught:
            await change(world, setting, value)
        assert caught.value.desc.startswith(why) or why in caught.value.desc
        assert "\n" not in caught.value.desc
        for figures in before:
            figures["commands"] = None
        after = [network(world, side) for side in ("driver", "device")]
        for figures in after:
            figures["commands"] = None
        assert after == before


async def test_a_device_without_a_control_queue_says_so_and_a_link_that_is_down_too() -> None:
    async with open_world(parse(MEDIATED), "t") as world:
        await world.wait_up()
        for setting, value, why in (
            ("promisc", "on", "CTRL_RX was not negotiated"),
            ("rss", "1", "RSS was not negotiated"),
            ("statistics", "", "DEVICE_STATS was not negotiated"),
            ("pairs", "2", "net0: pairs '2': the device has one queue pair"),
            ("mtu", "1400", "mtu of a mediated device follows the driver"),
        ):
            with pytest.raises(QmpError, match=why):
                await change(world, setting, value)
    async with open_world(parse(SEVERAL), "t") as world:
        await world.wait_up()
        world.links["pcie0"].bring_down()
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(QmpError, match="the device is not up"):
            await change(world, "promisc", "on")
        with pytest.raises(QmpError, match="the driver cannot announce itself"):
            await change(world, "announce")
        assert "\n".join(tree(take_snapshot(world)))


ABROAD = """
[hosts.rc]
[devices.net0]
transport = "vhost_user"
host = "rc"
socket = "/nowhere/net0.sock"
driver = { kind = "memory" }
"""


async def test_the_device_of_another_program_is_not_called_mediated() -> None:
    async with open_world(parse(ABROAD), "t") as world:
        with pytest.raises(QmpError, match=r"^net0: carrier belongs to another process$"):
            await change(world, "carrier", "off")


async def test_an_mtu_that_takes_the_interfaces_their_ipv6_addresses_is_refused() -> None:
    text = SEVERAL.replace('device = { kind = "memory"', 'device = { kind = "memory", addresses = ["2001:2::2/64"]')
    async with open_world(parse(text), "t") as world:
        await world.wait_up()
        with pytest.raises(QmpError, match=r"^net0: mtu '1279': must be between 1280 and 65521: an interface"):
            await change(world, "mtu", "1279")
        await change(world, "mtu", "1280")


async def test_a_device_without_an_address_for_the_driver_lets_the_drivers_own_in() -> None:
    """Without the feature MAC the driver chooses an address, which the device's filter has to be told of."""
    async with open_world(
        parse(SEVERAL.replace("queue_pairs = 3", "queue_pairs = 3\nfeatures_off = ['MAC']")), "t"
    ) as world:
        await world.wait_up()
        await trio.testing.wait_all_tasks_blocked()
        own = network(world, "driver")["mac"]
        assert network(world, "device")["receives"]["unicast"] == [own]
