"""A running system as plain data: everything by name, every counter, also while it is down."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from trio.testing import wait_all_tasks_blocked

from drivers.devices.net import NetPlug
from drivers.devices.net.driver.driver import NetSettings
from rings.native import NATIVE
from vnet.system.snapshot import drop_total, queue_rows, take_snapshot
from vnet.system.world import World, open_world
from vnet.topology import DEFAULT, parse
from vnet.views.parse import from_plain
from vnet.views.plain import to_plain
from vnet.views.system import QueueCounters, SystemView

IN_MEMORY = DEFAULT.replace('"tun"', '"memory"')
FRAME = bytes(60)


@pytest.fixture
async def world() -> AsyncIterator[World]:
    async with open_world(parse(IN_MEMORY), "t") as world:
        await world.wait_up()
        yield world


async def send(world: World, source: str, count: int = 1) -> None:
    """Frames from the port at one end of net0 to the other, one after the other."""
    target = "device" if source == "driver" else "driver"
    for _ in range(count):
        world.memory_port("net0", source).inject(FRAME)
        await world.memory_port("net0", target).receive()


def plain(world: World) -> dict[str, Any]:
    """As it comes out at the other end of a socket."""
    actual = json.loads(json.dumps(to_plain(take_snapshot(world))))
    assert isinstance(actual, dict)
    assert to_plain(from_plain(SystemView, actual)) == actual
    return actual


def rows(world: World) -> dict[tuple[str, str], QueueCounters]:
    return {(row.side, row.queue): row.counters for row in queue_rows(world)}


async def test_everything_is_there_by_its_name(world: World) -> None:
    actual = plain(world)
    assert (actual["name"], list(actual["hosts"]), list(actual["links"])) == ("t", ["rc", "ep"], ["pcie0"])
    sides = actual["devices"]["net0"]["driver"], actual["devices"]["net0"]["device"]
    assert {queue["path"] for side in sides for queue in side["queues"]} == {"native" if NATIVE else "python"}
    [bus] = actual["hosts"]["rc"]["pci"]
    [function] = bus["functions"]
    assert (bus["link"], bus["up"], bus["epoch"]) == ("pcie0", True, 1)
    assert (function["name"], function["vendor"], function["device"]) == ("0000:01:00.0", 0x1AF4, 0x1041)
    assert {"PCI Express", "MSI-X"} <= {capability["name"] for capability in function["capabilities"]}
    assert all(bar["size"] and bar["address"] % bar["size"] == 0 for bar in function["bars"])
    [controller] = actual["hosts"]["ep"]["controllers"]
    assert controller["link"] == "pcie0"
    assert actual["links"]["pcie0"]["root"] == "rc"
    assert actual["links"]["pcie0"]["downstream"]["writes"] > 0

    device = actual["devices"]["net0"]
    assert (device["type"], device["transport"], device["location"]) == ("net", "pci", "0000:01:00.0")
    assert (device["up"], device["trouble"]) == (True, "")
    for side, driver in (("driver", "virtio_net"), ("device", "vhost_net")):
        end = device[side]
        assert (end["driver"], end["state"], end["error"], end["failures"]) == (driver, "bound", "", [])
        assert end["status"] == ["ACKNOWLEDGE", "DRIVER", "DRIVER_OK", "FEATURES_OK"]
        assert {"VERSION_1", "EVENT_IDX", "CSUM", "MRG_RXBUF"} <= set(end["features"])
        assert (end["port"]["kind"], end["port"]["live"], end["port"]["netns"]) == ("memory", True, None)
        assert [queue["name"] for queue in end["queues"]] == ["receiveq1", "transmitq1", "controlq"]
        assert all(queue["live"] and not queue["ring"]["broken"] for queue in end["queues"])
        assert [queue["ring"]["num"] for queue in end["queues"]] == [256, 256, 64]
    assert set(device["device"]["features"]) <= set(device["device"]["device_features"])
    assert actual["drops"] == {}


async def test_features_that_were_switched_off_are_not_there() -> None:
    off = ["EVENT_IDX", "HOST_TSO4"]
    async with open_world(parse(f"{IN_MEMORY}\nfeatures_off = {off}"), "t") as world:
        await world.wait_up()
        device = plain(world)["devices"]["net0"]["device"]
    assert not set(off) & {*device["features"], *device["device_features"]}


async def test_packets_are_counted_at_both_sides_of_both_queues_and_at_both_ports(world: World) -> None:
    await send(world, "driver", 3)
    await send(world, "device", 2)
    actual = rows(world)
    assert {row.device for row in queue_rows(world)} == {"net0"}
    assert list(actual) == [
        ("driver", "receiveq1"),
        ("driver", "transmitq1"),
        ("driver", "controlq"),
        ("device", "receiveq1"),
        ("device", "transmitq1"),
        ("device", "controlq"),
    ]
    for (_, queue), row in actual.items():
        if queue == "controlq":
            continue
        count = 3 if queue == "transmitq1" else 2
        assert (row.packets, row.bytes, row.drops) == (count, count * len(FRAME), {})
        assert sum(row.batches) == count
    device = plain(world)["devices"]["net0"]
    ports = [device[side]["port"] for side in ("driver", "device")]
    assert [(port["rx_packets"], port["tx_packets"]) for port in ports] == [(3, 2), (2, 3)]
    assert [(port["rx_bytes"], port["tx_bytes"]) for port in ports] == [(180, 120), (120, 180)]


async def test_frames_sent_by_one_side_are_received_by_the_other(world: World) -> None:
    await send(world, "driver", 3)
    await send(world, "device", 2)
    actual = rows(world)
    transmit = actual["driver", "transmitq1"], actual["device", "transmitq1"]
    assert transmit[0].kicks == transmit[1].kicks == 3
    assert transmit[0].calls == transmit[1].calls
    assert actual["driver", "receiveq1"].calls == actual["device", "receiveq1"].calls == 2


async def test_rows_and_tree_say_the_same(world: World) -> None:
    await send(world, "driver")
    device = plain(world)["devices"]["net0"]
    for row in queue_rows(world):
        [queue] = [queue for queue in device[row.side]["queues"] if queue["name"] == row.queue]
        figures = to_plain(row.counters)
        assert {key: queue[key] for key in figures} == figures


async def test_drops_are_listed_by_place_and_cause_without_those_of_an_earlier_life(world: World) -> None:
    device = world.devices["net0"]
    settings, plug = device.driver_end.settings, device.device_end.settings
    assert isinstance(settings, NetSettings)
    assert isinstance(plug, NetPlug)
    assert drop_total(world) == {}
    settings.figures.pairs[0].received.drop("bad_csum")
    plug.figures.pairs[0].received.drop("short_frame")
    plug.figures.pairs[0].received.drop("short_frame")
    world.memory_port("net0", "driver").drop("too_long")
    for cause in ("stale", "stopped"):
        world.memory_port("net0", "device").drop(cause)
    expected = {
        "net0.driver.received.bad_csum": 1,
        "net0.driver.port.too_long": 1,
        "net0.device.received.short_frame": 2,
    }
    assert drop_total(world) == expected == plain(world)["drops"]
    assert rows(world)["device", "transmitq1"].drops == {"short_frame": 2}
    assert plain(world)["devices"]["net0"]["device"]["port"]["drops"] == {"stale": 1, "stopped": 1}


async def test_a_link_that_is_down_is_shown_with_the_figures_until_then(world: World) -> None:
    await send(world, "driver", 3)
    before = rows(world)
    world.links["pcie0"].bring_down()
    await wait_all_tasks_blocked()
    actual = plain(world)
    assert not actual["links"]["pcie0"]["up"]
    assert not actual["devices"]["net0"]["up"]
    assert actual["devices"]["net0"]["trouble"]
    assert rows(world) == before
    world.links["pcie0"].bring_up()
    await world.wait_up()
    actual = plain(world)
    assert (actual["links"]["pcie0"]["epoch"], actual["devices"]["net0"]["up"]) == (2, True)
    assert actual["devices"]["net0"]["driver"]["restarts"] == 1
    for side in ("driver", "device"):
        row, earlier = rows(world)[side, "transmitq1"], before[side, "transmitq1"]
        assert (row.packets, row.kicks, row.calls, row.batches) == (3, 3, earlier.calls, earlier.batches)
