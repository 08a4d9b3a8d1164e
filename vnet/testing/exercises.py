"""Exercises, one per device type, that run on every transport, in each mode, and over links of every kind.

    await exercise("blk", "ntb", link="timed")

For a type or a transport of your own, add the line or name the transport.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Awaitable, Callable, Mapping

import attrs
import trio

from drivers.contracts.ports import NO_OFFLOADS
from drivers.devices.scsi import cdb
from vnet.ends.blk import DiskEnd
from vnet.ends.rpmsg import RpmsgEnd
from vnet.ends.scsi import InitiatorEnd
from vnet.system.snapshot import drop_total, queue_rows
from vnet.system.world import World, open_world
from vnet.testing.checks import until
from vnet.testing.net import send_and_compare as send_frames
from vnet.testing.rpmsg import bound_pair
from vnet.testing.rpmsg import send_and_compare as send_messages
from vnet.topology.samples import built_in

__all__ = ["EXERCISES", "LINKS", "Exercise", "exercise"]

SIZE = 256 << 10
"""Bytes that cross, in each direction."""
FLAP = 0.2
"""Seconds that the links are down."""
LIMIT = 60.0
"""Seconds for any of it."""
TURNS = 1 << 30
"""No limit of steps: an exercise moves data while it waits."""

LINKS: Mapping[str, str] = {
    "ideal": "",
    "timed": "generation = 3\nlanes = 4\nread_latency_ns = 500",
    "faulty": "faults = { seed = 1, lost_doorbells = 0.2, lost_interrupts = 0.2, delayed_interrupts = 0.2 }",
}
"""Keys of a topology for a link of each kind."""

Act = Callable[[World, str], Awaitable[None]]


@attrs.frozen
class Exercise:
    """One exercise: ``act`` moves data over a device, and raises AssertionError if it arrives changed."""

    act: Act
    keys: str = ""
    """Lines of TOML for such a device."""
    kept: bool = False
    """Whether the driver repeats requests that a link failure interrupts."""


async def exercise(kind: str, transport: str, mode: str = "direct", link: str = "ideal") -> None:
    """Once as it comes up, once over a flap of all links (or a reset where there are none), and once after that.

    Nothing may be dropped, and both sides have counted the same.
    """
    what, name = EXERCISES[kind], f"{kind}0"
    async with open_world(built_in(kind, transport, what.keys, mode=mode, link=LINKS[link]), "exercise") as world:
        with trio.fail_after(LIMIT):
            await world.wait_up()
            await what.act(world, name)
            if mode == "direct":  # a mediator counts what its own end saw
                await until(lambda: _agree(world, name), LIMIT, TURNS)
            async with trio.open_nursery() as nursery:
                if what.kept:
                    nursery.start_soon(what.act, world, name)
                    await trio.lowlevel.checkpoint()
                await _interrupt(world, name)
            await what.act(world, name)
        lost = drop_total(world)
        assert not lost, f"{kind} over {transport}, {mode}, {link} link: {lost}"


async def _interrupt(world: World, name: str) -> None:
    if world.links:
        for link in world.links.values():
            link.bring_down()
        await trio.sleep(FLAP)
        for link in world.links.values():
            link.bring_up()
        await trio.sleep(FLAP)
    else:
        bus, virtio = world.devices[name].root.virtio, world.devices[name].virtio
        assert virtio is not None
        driver = bus.match(virtio)
        assert driver is not None
        await bus.unregister_driver(driver)
        bus.register_driver(driver)
    await world.wait_up()


def _agree(world: World, name: str) -> bool:
    """Whether both sides of a device have counted the same."""
    rows = [row for row in queue_rows(world) if row.device == name]
    sides = [[(row.queue, row.packets, row.bytes) for row in rows if row.side == side] for side in ("driver", "device")]
    return sides[0] == sides[1] and sum(row.bytes for row in rows) >= SIZE


async def _frames(world: World, name: str) -> None:
    ports = [world.memory_port(name, end) for end in ("driver", "device")]
    large = all(port.offloads != NO_OFFLOADS for port in ports)
    async with trio.open_nursery() as nursery:
        for source, sink in (ports, ports[::-1]):
            nursery.start_soon(send_frames, source, sink, SIZE, large)


async def _messages(world: World, name: str) -> None:
    first, second = world.ends(name)
    assert isinstance(first, RpmsgEnd)
    assert isinstance(second, RpmsgEnd)
    ends = await bound_pair(first.bus, second.bus, "exercise")
    async with trio.open_nursery() as nursery:
        for source, sink in (ends, ends[::-1]):
            nursery.start_soon(send_messages, source, sink, SIZE)
    # One after the other: of two that go at once, each would be told of one that is not there.
    ends[0].close()
    await until(lambda: not ends[1].bound, LIMIT, TURNS)
    ends[1].close()
    await until(lambda: not any("exercise" in bus.services.values() for bus in (first.bus, second.bus)), LIMIT, TURNS)


async def _sectors(world: World, name: str) -> None:
    end = world.devices[name].driver_end
    assert isinstance(end, DiskEnd)
    data = random.Random(SIZE).randbytes(SIZE)
    await end.disk.write(SIZE, data, fua=True)
    _same(await end.disk.read(SIZE, SIZE), data)
    await end.disk.write_zeroes(0, 2 * SIZE, unmap=True)
    _same(await end.disk.read(0, 2 * SIZE), bytes(2 * SIZE))
    assert (await end.disk.get_id()).decode() == name


async def _commands(world: World, name: str) -> None:
    end = world.devices[name].driver_end
    assert isinstance(end, InitiatorEnd)
    data, blocks = random.Random(SIZE).randbytes(SIZE), SIZE // 512
    for command, out, size in (
        (cdb.inquiry(), b"", 96),
        (cdb.read_capacity(), b"", 32),
        (cdb.write(blocks, blocks), data, 0),
        (cdb.synchronize_cache(), b"", 0),
        (cdb.read(blocks, blocks), b"", SIZE),
    ):
        result = await end.initiator.execute(command, data_out=out, data_in=size)
        assert result.good, result
        assert size != SIZE or result.data == data


def _same(read: bytes, data: bytes) -> None:
    assert hashlib.sha256(read).digest() == hashlib.sha256(data).digest(), "what was read is not what was written"


PORTS = 'driver = { kind = "memory" }\ndevice = { kind = "memory" }'
STORE = 'store = "memory", size = 8'
EXERCISES: dict[str, Exercise] = {
    "net": Exercise(_frames, PORTS),
    "rpmsg": Exercise(_messages),
    "blk": Exercise(_sectors, f"driver = {{ buffers = 8 }}\ndevice = {{ {STORE} }}", kept=True),
    "scsi": Exercise(_commands, f"driver = {{ buffers = 8 }}\ndevice = {{ luns = [{{ {STORE} }}] }}", kept=True),
}
"""Exercises by device type."""
