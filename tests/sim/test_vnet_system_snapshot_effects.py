"""A look changes nothing: what is shown of a running system is what each part knows of itself."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from drivers.transports.ntb.registers import Spad, spad_names
from support.commands import command
from vnet.link.faulty import FaultyLink
from vnet.spec import FaultSpec, LinkSpec
from vnet.system.snapshot import queue_sides, take_snapshot
from vnet.system.world import World
from vnet.testing import FRAME, NetPair, Options, open_pair, unharmed
from vnet.views.plain import to_plain


def state(world: World) -> tuple[object, ...]:
    """All that accesses leave behind: counters of the links, lines of traces, and what was counted of any device."""
    return (
        {name: link.statistics() for name, link in world.links.items()},
        {name: trace.statistics() for name, trace in world.traces.items()},
        json.dumps(to_plain(take_snapshot(world)), default=str),
    )


async def looked(pair: NetPair) -> None:
    world = pair.world
    before = {name: (link.statistics(), world.traces.get(name)) for name, link in world.links.items()}
    lines = {name: trace.statistics() for name, trace in world.traces.items()}
    first = to_plain(take_snapshot(world))
    assert {name: (link.statistics(), world.traces.get(name)) for name, link in world.links.items()} == before
    assert {name: trace.statistics() for name, trace in world.traces.items()} == lines
    assert to_plain(take_snapshot(world)) == first
    shown = state(world)
    await command(world, "query-vnet")
    spaces = await command(world, "query-config-space")
    assert await command(world, "query-config-space") == spaces
    assert state(world) == shown
    await rings_looked(world)


async def rings_looked(world: World) -> None:
    """Each ring is the same after a look, as are the pinned views of every host, and what was counted."""
    queues = [(name, queue) for name, device in world.devices.items() for queue in queue_sides(device)]
    rings = [await command(world, "query-ring", name=name, queue=queue) for name, queue in queues]
    before = state(world), pins(world)
    assert [await command(world, "query-ring", name=name, queue=queue) for name, queue in queues] == rings
    assert (state(world), pins(world)) == before


def pins(world: World) -> list[int]:
    return [len(region.pins) for host in world.hosts.values() for region in host.memory._regions]


@pytest.mark.every_transport
async def test_a_look_crosses_no_link(tmp_path: Path) -> None:
    link = LinkSpec("rc", "ep", generation=3, lanes=4, trace=str(tmp_path / "trace"))
    async with open_pair(Options(queue_size=16, link=link)) as pair, unharmed(pair):
        await looked(pair)
        for source, sink in ((pair.driver_port, pair.device_port), (pair.device_port, pair.driver_port)):
            source.inject(FRAME)
            await sink.receive()
        await trio.testing.wait_all_tasks_blocked()
        await looked(pair)
        pair.link.bring_down()
        await looked(pair)
        await trio.sleep(0.1)
        await looked(pair)
        pair.link.bring_up()
        await pair.world.wait_up()
        await looked(pair)
        for bus in (pair.rc.virtio, pair.device.device_host.vhost):
            await bus.rebind(bus.bindings[0].device)  # type: ignore[arg-type]
            await looked(pair)
            await pair.world.wait_up()


@pytest.mark.parametrize("transport", ["pci", "epf_mailbox", "ntb"])
async def test_a_look_provokes_no_fault_and_changes_no_later_one(transport: str) -> None:
    link = LinkSpec("rc", "ep", faults=FaultSpec(seed=5, lost_doorbells=0.3))
    async with open_pair(Options(queue_size=16, link=link, transport=transport)) as pair:
        faulty = pair.link
        assert isinstance(faulty, FaultyLink)
        for _ in range(30):
            pair.driver_port.inject(FRAME)
            await trio.sleep(0.05)
            dice = faulty._rng.getstate()
            await looked(pair)
            assert faulty._rng.getstate() == dice
        assert pair.link.statistics().faults


async def test_enumerated_functions_are_shown_also_while_the_link_is_down() -> None:
    def capabilities(pair: NetPair) -> list[int]:
        actual: Any = to_plain(take_snapshot(pair.world))
        [function] = actual["hosts"]["rc"]["pci"][0]["functions"]
        return [capability["id"] for capability in function["capabilities"]]

    async with open_pair(Options(queue_size=16)) as pair:
        before = capabilities(pair)
        assert {0x09, 0x10, 0x11} <= set(before)
        assert [cap_id for _, cap_id in pair.function.capabilities()] == before
        pair.link.bring_down()
        assert capabilities(pair) == before
        pair.link.bring_up()
        await pair.world.wait_up()
        assert capabilities(pair) == before


@pytest.mark.parametrize("transport", ["ntb"])
async def test_the_scratchpads_that_are_shown_are_those_that_the_device_knows(transport: str) -> None:
    async with open_pair(Options(queue_size=16, transport=transport)) as pair:
        await trio.sleep(1)
        assert pair.device.back is not None
        shown = pair.device.back.registers()
        assert shown["type"]
        assert shown["virtio_session"]
        spads = pair.world.ntbs["ntb0"].primary.spads
        for spad in (Spad.TYPE, Spad.VIRTIO_SESSION, Spad.STATUS, Spad.QUEUE_NUM):
            name = spad_names()[spad].lower()
            if name in shown:
                assert shown[name] == spads[spad]
