"""QEMU's commands about virtio devices say what both sides know, over each transport, with either ring."""

from __future__ import annotations

import attrs
import pytest
from trio.testing import wait_all_tasks_blocked

from rings.ids import DeviceId
from support.commands import command
from vnet.qmp.codec import QmpError
from vnet.qmp.virtio import PATH
from vnet.system.world import open_world
from vnet.testing import Options, open_pair
from vnet.topology import DEFAULT, parse
from vnet.topology.samples import built_in

NET0 = PATH.format("net0")
STATUSES = [f"VIRTIO_CONFIG_S_{name}" for name in ("ACKNOWLEDGE", "DRIVER", "DRIVER_OK", "FEATURES_OK")]


def topology(ring: str = "split") -> str:
    own = f'[devices.net0]\nqueue_size = 4\nring = "{ring}"\n'
    return DEFAULT.replace('"tun"', '"memory"').replace("[devices.net0]\n", own)


@pytest.mark.every_transport
async def test_the_status_of_a_device_has_both_sides_features(transport: str) -> None:
    async with open_pair(Options(transport=transport)) as pair:
        assert await command(pair.world, "x-query-virtio") == [{"path": NET0, "name": "virtio-net"}]
        actual = await command(pair.world, "x-query-virtio-status", path=NET0)
    assert (actual["name"], actual["device-id"]) == ("virtio-net", DeviceId.NET)
    assert actual["status"] == {"statuses": STATUSES}
    assert (actual["started"], actual["vhost-started"], actual["broken"]) == (True, True, False)
    assert "VIRTIO_F_VERSION_1" in actual["guest-features"]["transports"]
    assert "VIRTIO_NET_F_MAC" in actual["host-features"]["dev-features"]
    assert set(actual["guest-features"]["dev-features"]) <= set(actual["host-features"]["dev-features"])
    assert actual["vhost-dev"]["acked-features"] == actual["guest-features"]
    assert actual["vhost-dev"]["nvqs"] == actual["num-vqs"] >= 2


@pytest.mark.parametrize("ring", ["split", "packed"])
async def test_a_queue_with_four_receive_buffers(ring: str) -> None:
    async with open_world(parse(topology(ring)), "t") as world:
        await world.wait_up()
        actual = await command(world, "x-query-virtio-queue-status", path=NET0, queue=0)
        vhost = await command(world, "x-query-virtio-vhost-queue-status", path=NET0, queue=0)
        element = await command(world, "x-query-virtio-queue-element", path=NET0, queue=0)
        last = await command(world, "x-query-virtio-queue-element", path=NET0, queue=0, index=3)
    assert (actual["vring-num"], actual["vring-num-default"], actual["inuse"]) == (4, 4, 0)
    areas = [actual[f"vring-{area}"] for area in ("desc", "avail", "used")]
    assert areas == [vhost[f"{area}-phys"] for area in ("desc", "avail", "used")]
    assert areas == sorted(areas)
    assert areas[0]
    assert (vhost["num"], vhost["desc-size"], vhost["avail-size"]) == (4, 64, 14 if ring == "split" else 4)
    assert (element["index"], last["index"]) == (0, 3)
    [desc] = element["descs"]
    assert "write" in desc["flags"]
    assert desc["len"] > 1500
    if ring == "split":
        assert (actual["shadow-avail-idx"], actual["last-avail-idx"], actual["used-idx"]) == (4, 0, 0)
        assert element["avail"] == {"flags": 0, "idx": 4, "ring": 0}
        assert element["used"] == {"flags": 0, "idx": 0}


async def test_entries_of_an_indirect_table_stand_in_place_of_it() -> None:
    async with open_world(built_in("blk", "pci")) as world:
        await world.wait_up()
        await wait_all_tasks_blocked()  # the device waits for a kick
        [(name, device)] = world.devices.items()
        assert device.virtio is not None
        queue = device.virtio.queues[0]
        dma = device.virtio.ops.dma
        before = queue.ring.state().in_flight
        memory = dma.alloc(4096)
        queue.ring.add([(memory.addr, 16)], [(memory.addr, 512), (memory.addr, 1)], 0)
        queue.ring.publish()  # without a kick
        actual = await command(
            world, "x-query-virtio-queue-element", path=PATH.format(name), queue=0, index=queue.ring.state().avail - 1
        )
    assert before == 0
    assert [desc["len"] for desc in actual["descs"]] == [16, 512, 1]
    assert [desc["flags"] for desc in actual["descs"]] == [["next"], ["next", "write"], ["write"]]


@pytest.mark.parametrize(
    ("name", "arguments", "why"),
    [
        ("x-query-virtio-status", {"path": "/x"}, f"path '/x': must be one of {NET0}"),
        ("x-query-virtio-queue-status", {"path": NET0, "queue": 9}, "net0: queue 9: must be one of 0, 1, 2"),
        ("x-query-virtio-queue-status", {"path": NET0, "queue": "0"}, "Parameter 'queue': must be a whole number"),
        (
            "x-query-virtio-queue-element",
            {"path": NET0, "queue": 1},
            "net0: queue 1: no chain is outstanding",
        ),
        (
            "x-query-virtio-queue-element",
            {"path": NET0, "queue": 0, "index": None},
            "Parameter 'index': must not be null",
        ),
    ],
)
async def test_a_wrong_argument_is_one_line_with_the_possible_ones(
    name: str, arguments: dict[str, object], why: str
) -> None:
    async with open_world(parse(topology()), "t") as world:
        await world.wait_up()
        with pytest.raises(QmpError) as caught:
            await command(world, name, **arguments)
    assert caught.value.desc == why


async def test_a_device_of_another_process_is_seen_from_its_driver() -> None:
    async with open_pair(Options(transport="vhost_user")) as pair:
        device = pair.world.devices["net0"]
        pair.world.devices["net0"] = attrs.evolve(device, back=None)
        actual = await command(pair.world, "x-query-virtio-status", path=NET0)
        queue = await command(pair.world, "x-query-virtio-queue-status", path=NET0, queue=0)
        with pytest.raises(QmpError, match="net0: the device is in another process"):
            await command(pair.world, "x-query-virtio-vhost-queue-status", path=NET0, queue=0)
        pair.world.devices["net0"] = device
    assert (actual["started"], actual["vhost-started"]) == (True, False)
    assert "vhost-dev" not in actual
    assert "last-avail-idx" not in queue
    assert queue["inuse"] == queue["vring-num"]
