"""Two systems, each with its own event loop, whose link is a stream: devices of all types work, and come back."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from support.rigs.two_processes import PATIENCE, apart, clock, devices, disk_works
from support.topologies import TWO_HOSTS
from vnet.ends import DEVICE_TYPES
from vnet.ports.packet.memory import MemoryPort
from vnet.stream.address import Address
from vnet.stream.peer import StreamPeer
from vnet.system.snapshot import take_snapshot
from vnet.system.world import World, open_world
from vnet.testing import FRAME, fds, until
from vnet.topology import Topology, parse, part_of
from vnet.topology.part import Place

__all__ = ["clock"]  # a fixture

FILE = TWO_HOSTS + 'stream = { key = "0123456789abcdef" }\n'


def halves(
    folder: Path, *kinds: str, transport: str = "pci", ring: str = "split", file: str = FILE
) -> tuple[Topology, Topology]:
    """Return the root's and the endpoint's part of a topology with a device of each kind, which are its names."""
    topology, address = (
        parse(file + devices(*kinds, transport=transport, ring=ring)),
        Address(str(folder / "link"), None),
    )
    return (
        part_of(topology, "rc", "test", {"pcie0": Place(address, listens=False)}),
        part_of(topology, "ep", "test", {"pcie0": Place(address, listens=True)}),
    )


async def frames_cross(world: World, other: World, token: trio.lowlevel.TrioToken, count: int = 20) -> None:
    """Frames of many sizes arrive as they were sent, both ways."""
    ours, theirs = world.memory_port("net", "driver"), other.memory_port("net", "device")

    async def there(call: Callable[[], object]) -> None:
        """Call a function in the other loop."""
        done: list[object] = []
        token.run_sync_soon(lambda: done.append(call()))
        await until(lambda: bool(done), PATIENCE)

    def take(port: MemoryPort, into: list[bytes]) -> None:
        into += [port.receive_nowait()[1] for _ in range(count)]

    sent = [FRAME + os.urandom(61 * number) for number in range(count)]
    before, got, back = theirs.statistics().tx_packets, list[bytes](), list[bytes]()
    for frame in sent:
        ours.inject(frame)
    await until(lambda: theirs.statistics().tx_packets == before + count, PATIENCE)
    await there(lambda: take(theirs, got))
    before = ours.statistics().tx_packets
    await there(lambda: [theirs.inject(frame) for frame in sent])
    await until(lambda: ours.statistics().tx_packets == before + count, PATIENCE)
    take(ours, back)
    assert got == back == sent


@pytest.mark.parametrize("transport", ["pci", "epf_mailbox"])
@pytest.mark.parametrize("kind", DEVICE_TYPES)
async def test_a_device_of_any_type_comes_up_over_either_transport(
    kind: str, transport: str, tmp_path: Path, clock: MockClock
) -> None:
    root, endpoint = halves(tmp_path, kind, transport=transport)
    async with apart(endpoint) as other, open_world(root, "test") as world:
        await world.wait_up()
        if kind == "blk":
            await disk_works(world)
        await until(lambda: other.devices[kind].up, PATIENCE)


@pytest.mark.parametrize("ring", ["split", "packed"])
async def test_data_are_the_same_at_the_other_side(ring: str, tmp_path: Path, clock: MockClock) -> None:
    root, endpoint = halves(tmp_path, "net", "blk", ring=ring)
    tokens: list[trio.lowlevel.TrioToken] = []
    async with apart(endpoint, tokens=tokens) as other, open_world(root, "test") as world:
        await world.wait_up()
        await frames_cross(world, other, tokens[0])
        await disk_works(world, 600 << 10)
        view = take_snapshot(world).links["pcie0"]
        assert view.remote is not None
        assert (view.remote.connected, dict(view.remote.errors)) == (True, {})


@pytest.mark.hostile("L11", "T02")
async def test_devices_go_down_with_their_link_and_come_back(tmp_path: Path, clock: MockClock) -> None:
    root, endpoint = halves(tmp_path, "blk", "net")
    before = fds()
    async with open_world(root, "test") as world:
        for turn in range(2):
            tokens: list[trio.lowlevel.TrioToken] = []
            async with apart(endpoint, tokens=tokens) as other:
                await world.wait_up()
                assert world.links["pcie0"].epoch == turn + 1
                await disk_works(world)
                await frames_cross(world, other, tokens[0])
            await until(lambda: not world.devices["blk"].up, PATIENCE)
            view = take_snapshot(world).links["pcie0"]
            assert view.remote is not None
            assert (view.remote.connected, view.remote.connections) == (False, turn + 1)
    assert fds() <= before


async def test_either_side_takes_the_link_down_and_up(tmp_path: Path, clock: MockClock) -> None:
    root, endpoint = halves(tmp_path, "blk")
    async with apart(endpoint) as other, open_world(root, "test") as world:
        await world.wait_up()
        world.links["pcie0"].bring_down()
        await until(lambda: not world.devices["blk"].up, PATIENCE)
        await until(lambda: not other.devices["blk"].up, PATIENCE)
        world.links["pcie0"].bring_up()
        await until(lambda: world.devices["blk"].up, PATIENCE)
        await disk_works(world)


async def test_a_stream_that_leaves_the_machine_is_encrypted(
    tmp_path: Path, clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Address, "stays_here", lambda *_: False)
    root, endpoint = halves(tmp_path, "net", "blk")
    tokens: list[trio.lowlevel.TrioToken] = []
    async with apart(endpoint, tokens=tokens) as other, open_world(root, "test") as world:
        await world.wait_up()
        await frames_cross(world, other, tokens[0])
        await disk_works(world, 300 << 10)
        remote = world.remotes["pcie0"]
        peer = getattr(remote, "_peer", None)
        assert isinstance(peer, StreamPeer)
        assert peer.secure


async def test_faults_of_the_link_are_those_of_the_endpoint_s_process(tmp_path: Path, clock: MockClock) -> None:
    keys = "faults = { lost_doorbells = 0.3, lost_interrupts = 0.3 }\nstream ="
    text = FILE.replace("stream =", keys)
    root, endpoint = halves(tmp_path, "blk", file=text)
    async with apart(endpoint) as other, open_world(root, "test") as world:
        await world.wait_up()
        for _ in range(20):
            await disk_works(world)
        done = take_snapshot(other).links["pcie0"].figures.faults
        assert sum(count for name, count in done.items() if "doorbell" in name) > 0, done


@pytest.mark.hostile("T05")
async def test_other_devices_at_the_other_side_are_refused(tmp_path: Path, clock: MockClock) -> None:
    root, _ = halves(tmp_path, "blk")
    _, endpoint = halves(tmp_path, "net")
    lines: list[str] = []
    async with open_world(endpoint, "other"), open_world(root, "test", lines.append) as world:
        await until(lambda: any("functions: the other side has" in line for line in lines), PATIENCE)
        assert not world.links["pcie0"].up
