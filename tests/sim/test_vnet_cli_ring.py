"""``vnet show DEVICE QUEUE`` shows the ring: its words, both sides' indices, its chains, and its bytes."""

from __future__ import annotations

import json
import random

import attrs
import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from rings.queue import QueueStatistics
from support.commands import command
from vnet.cli.ring import ring_tree
from vnet.qmp.codec import QmpError
from vnet.system.ring_looks import RingLooks
from vnet.system.ring_reports import take_ring
from vnet.system.snapshot import queue_sides
from vnet.system.world import World, open_world
from vnet.topology import DEFAULT, parse
from vnet.topology.samples import built_in
from vnet.views.parse import from_plain
from vnet.views.plain import to_plain
from vnet.views.ring import RingReport


def topology(packed: bool) -> str:
    ring = 'queue_size = 4\nring = "packed"\n' if packed else "queue_size = 4\n"
    return DEFAULT.replace('"tun"', '"memory"').replace("[devices.net0]\n", f"[devices.net0]\n{ring}")


def report(world: World, queue: str) -> RingReport:
    """The report as a client receives it."""
    made = take_ring(world.devices["net0"], queue, world.ring_looks, trio.current_time())
    received = from_plain(RingReport, json.loads(json.dumps(to_plain(made))))
    assert received == made
    return received


@pytest.mark.parametrize("packed", [False, True])
async def test_a_ring_of_receive_buffers(packed: bool) -> None:
    async with open_world(parse(topology(packed)), "t") as world:
        await world.wait_up()
        shown = report(world, "receiveq1")
    lines = list(ring_tree(shown, with_bytes=False))
    assert lines[0].startswith(f"{'packed' if packed else 'split'} ring of 4 descriptors at 0x")
    assert "4 chains outstanding" in lines
    assert sum("device writes" in line for line in lines) == 4
    full = "0 (wrap counter 0)" if packed else "4"
    start = "0 (wrap counter 1)" if packed else "0"
    assert lines[-3:] == [
        f"driver's own indices: avail {full}, used {start}, in flight 4",
        f"device's own indices: avail {start}, used {start}, in flight 0",
        "the oldest chain: outstanding for an unknown time; the next look will tell more",
    ]
    wish = (
        "suppresses calls until descriptor 0 with wrap counter 1"
        if packed
        else "requests a call for the next used entry, 0"
    )
    assert f"the driver {wish}" in lines


async def test_a_later_look_says_how_long_the_oldest_chain_is_outstanding_at_least() -> None:
    async with open_world(parse(topology(packed=False)), "t") as world:
        await world.wait_up()
        assert report(world, "transmitq1").waited is None
        assert report(world, "receiveq1").waited == 0
        await trio.sleep(3.25)
        shown = report(world, "receiveq1")
        assert shown.waited == pytest.approx(3.25)
        assert list(ring_tree(shown, with_bytes=False))[-1] == (
            "the oldest chain has been outstanding for at least 3.2 s: an earlier look saw it"
        )
        world.memory_port("net0", "device").inject(bytes(60))
        await world.memory_port("net0", "driver").receive()
        await trio.sleep(1)
        assert report(world, "receiveq1").waited == pytest.approx(4.25)  # three of the four are still there
        world.links["pcie0"].bring_down()
        await trio.sleep(0.1)
        world.links["pcie0"].bring_up()
        await world.wait_up()
        assert report(world, "receiveq1").waited == 0


class Ring:
    """Stands for a ring as a key."""


@given(st.lists(st.sampled_from(["add", "return", "look"]), max_size=60), st.randoms(use_true_random=False))
def test_no_look_claims_more_than_the_oldest_chain_waited_in_any_order_of_use(
    moves: list[str], random: random.Random
) -> None:
    looks, ring, added, outstanding, returned = RingLooks(), Ring(), 0, dict[int, int](), 0
    for now, move in enumerate(moves):
        if move == "add":
            outstanding[added] = now
            added += 1
        elif move == "return" and outstanding:
            del outstanding[random.choice(list(outstanding))]
            returned += 1
        elif move == "look":
            waited = looks.waited(ring, QueueStatistics(added, returned, 0, 0), float(now))  # type: ignore[arg-type]
            assert (waited is None) is (not outstanding)
            assert waited is None or waited <= now - min(outstanding.values())
            assert len(looks._looks[ring]) <= len(outstanding)  # type: ignore[index]


async def test_the_bytes_of_the_areas_are_shown_on_request() -> None:
    async with open_world(parse(topology(packed=False)), "t") as world:
        await world.wait_up()
        shown = report(world, "transmitq1")
    assert shown.ring is not None
    lines = list(ring_tree(shown, with_bytes=True))
    at = lines.index("descriptor area, 64 bytes")
    assert lines[at + 1] == f"  {shown.ring.addrs.desc:#010x}  {shown.ring.areas[0][:16].hex(' ')}"
    assert "  *" in lines[at:]
    assert "driver area, 14 bytes" in lines[at:]
    assert "device area, 38 bytes" in lines[at:]


async def test_a_device_without_a_ring_says_so() -> None:
    async with open_world(parse(topology(packed=False)), "t") as world:
        await world.wait_up()
        sides = queue_sides(world.devices["net0"])["receiveq1"]
        assert sides[0] is not None
        sides[0].close()
        shown = take_ring(world.devices["net0"], "receiveq1", world.ring_looks, trio.current_time())
    assert (shown.driver, shown.ring) == (None, None)
    assert list(ring_tree(attrs.evolve(shown, device=None), with_bytes=True)) == ["no ring: the driver has set up none"]


@pytest.mark.parametrize(
    ("device", "queue", "line"),
    [
        ("moon", "receiveq1", "device 'moon': must be one of net0"),
        ("net0", "moon", "net0: queue 'moon': must be one of receiveq1, transmitq1, controlq"),
    ],
)
async def test_an_unknown_name_is_one_line_with_the_known_ones(device: str, queue: str, line: str) -> None:
    async with open_world(parse(topology(packed=False)), "t") as world:
        await world.wait_up()
        with pytest.raises(QmpError, match=f"^{line}$"):
            await command(world, "query-ring", name=device, queue=queue)


@pytest.mark.parametrize("kind", ["blk", "scsi", "rpmsg"])
async def test_every_queue_of_every_type_has_a_ring(kind: str) -> None:
    async with open_world(built_in(kind, "pci")) as world:
        await world.wait_up()
        for name, device in world.devices.items():
            for queue in queue_sides(device):
                plain = json.dumps(await command(world, "query-ring", name=name, queue=queue))
                assert from_plain(RingReport, json.loads(plain)).ring is not None
