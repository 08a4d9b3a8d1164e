"""Several devices served by one process, to front ends that come, go, break things, or are connected to."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio

from drivers.devices.blk import BlkPlug
from drivers.devices.net import NetPlug
from drivers.devices.net.layout import LINK_UP
from drivers.devices.net.layout import NetFeature as F
from drivers.errors import TransportLost
from drivers.transports.vhost_user.constants import F_PROTOCOL_FEATURES, BackendRequest, ProtocolFeature
from drivers.transports.vhost_user.messages import emit
from drivers.transports.vhost_user.payloads import U64, Config, VringState
from drivers.transports.vhost_user.session import PROTOCOL_FEATURES
from rings.features import RingFeature, mask
from rings.status import Status
from support.rigs.vhost_user import NUM, FrontEnd, R, request
from vnet.ends.blk import DiskEnd
from vnet.linux.ipc import UnixSocket, connect
from vnet.linux.unix_socket import listen
from vnet.ports.disk.store import MemoryStore
from vnet.system.exports import RETRY, DeviceExport, open_exports
from vnet.system.world import open_world
from vnet.testing import fds, maps, until
from vnet.topology import parse, parse_device

FEATURES = mask((RingFeature.VERSION_1, RingFeature.EVENT_IDX, RingFeature.INDIRECT_DESC))
TOPOLOGY = """\
[hosts.rc]
memory = 96
[devices.net]
transport = "vhost_user"
host = "rc"
socket = "{folder}/net"
driver = {{ kind = "memory" }}
[devices.disk]
type = "blk"
transport = "vhost_user"
host = "rc"
socket = "{folder}/disk"
"""
CONFIG_CHANGE = emit(BackendRequest.CONFIG_CHANGE_MSG)


def disk(path: Path, *, connect: bool = False) -> DeviceExport:
    return DeviceExport(parse_device({"type": "blk", "device": {"size": 1}}, "test"), path, connect)


@asynccontextmanager
async def front_end(path: Path, features: int = FEATURES, **options: Any) -> AsyncIterator[FrontEnd]:
    front = FrontEnd(await connect(path), features, **options)
    try:
        yield front
    finally:
        front.close()


async def works(front: FrontEnd, fill: bytes) -> None:
    """A sector is written and read."""
    [ring] = front.rings
    assert await request(front, ring, 1, 0, fill * 512) == fill * 512 + b"\0"
    assert await request(front, ring, 0, 0, 512) == fill * 512 + b"\0"


async def garbage(front: FrontEnd) -> None:
    await front.bring_up()
    await front.send(b"\xff" * 64)


async def half_a_message(front: FrontEnd) -> None:
    await front.bring_up()
    await front.send(emit(R.GET_FEATURES)[:5])
    assert await front.hung_up()  # it is not waited for for ever


async def broken_ring(front: FrontEnd) -> None:
    await front.bring_up()
    [ring] = front.rings
    ring.offer_first(NUM)  # a head beyond the ring
    while not (await front.ask(R.GET_STATUS)).value & 64:  # noqa: ASYNC110
        await trio.sleep(0.01)


async def nothing_at_all(front: FrontEnd) -> None:
    """Not even one message."""


@pytest.mark.hostile("V15", "V16")
async def test_damage_by_one_front_end_leaves_the_other_devices_alone(tmp_path: Path) -> None:
    before, output = (fds(), maps()), list[str]()
    paths = {name: tmp_path / name for name in ("good", "bad")}
    exports = {name: disk(path) for name, path in paths.items()}
    async with open_exports(exports, report=output.append) as served, front_end(paths["good"]) as good:
        await good.bring_up()
        for number, break_it in enumerate((garbage, half_a_message, broken_ring, nothing_at_all), 1):
            async with front_end(paths["bad"]) as bad:
                await break_it(bad)
                await works(good, b"%d" % number)
            await until(lambda: not served["bad"].server.connected)
            async with front_end(paths["bad"]) as bad:
                await bad.bring_up()
                await works(bad, b"x")
            await until(lambda: not served["bad"].server.connected)
        assert await request(good, good.rings[0], 0, 0, 512) == b"4" * 512 + b"\0"
        assert served["good"].server.statistics.sessions == 1
        assert served["bad"].server.statistics.sessions == 8
        assert served["bad"].server.statistics.broken == 2
    assert any("the connection was closed: " in line for line in output)
    assert "bad: the front end hung up; its queues carried requestq1 2" in output
    assert not any(path.exists() for path in paths.values())
    assert (fds(), maps()) <= before


async def test_a_system_that_is_cancelled_before_it_is_open_ends(tmp_path: Path) -> None:
    with trio.CancelScope() as scope:
        scope.cancel()
        async with open_exports({"disk": disk(tmp_path / "disk")}):
            raise AssertionError("it is open")
    assert scope.cancelled_caught
    assert not (tmp_path / "disk").exists()


async def test_a_front_end_that_comes_while_the_end_of_the_former_one_is_still_unread_is_served(tmp_path: Path) -> None:
    path, output = tmp_path / "disk", list[str]()
    async with open_exports({"disk": disk(path)}, report=output.append) as served:
        for turn in range(20):  # the server may learn of the two in either order
            front = FrontEnd(await connect(path), FEATURES)
            await front.bring_up()
            await works(front, b"%d" % (turn % 10))
            front.close()
        await until(lambda: not served["disk"].server.connected)
        assert served["disk"].server.statistics.sessions == 20
        assert served["disk"].server.statistics.refused == 0
    assert not any("refused" in line for line in output)


async def test_a_front_end_that_listens_is_connected_to_and_again_after_it_was_away(tmp_path: Path) -> None:
    path, output = tmp_path / "front", list[str]()
    async with open_exports({"disk": disk(path, connect=True)}, report=output.append) as served:
        await trio.sleep(3 * RETRY)
        assert served["disk"].server.statistics.sessions == 0
        assert output == []  # no listener yet, which is no error
        for turn in range(3):
            with listen(path, socket.SOCK_STREAM, 1) as listening:
                for _ in range(2):  # it hangs up and is connected to again, and then it is gone as a whole
                    with trio.fail_after(4 * RETRY):
                        await trio.lowlevel.wait_readable(listening)
                    accepted, _ = listening.accept()
                    front = FrontEnd(UnixSocket(accepted), FEATURES)
                    await front.bring_up()
                    await works(front, b"%d" % turn)
                    front.close()
                    await until(lambda: not served["disk"].server.connected)
            await trio.sleep(3 * RETRY)
        assert served["disk"].server.statistics.sessions == 6
        assert served["disk"].server.statistics.broken == 0
    assert len(output) == 2 * 6


# What a device says by itself


@asynccontextmanager
async def events(front: FrontEnd) -> AsyncIterator[UnixSocket]:
    """The front end's end of the channel on which a back end speaks by itself."""
    ours, theirs = socket.socketpair()
    assert await front.tell(R.SET_BACKEND_REQ_FD, None, [theirs.fileno()])
    theirs.close()
    ours.setblocking(False)
    channel = UnixSocket(ours)
    try:
        yield channel
    finally:
        channel.close()


async def received_messages(channel: UnixSocket) -> bytes:
    """Bytes that arrive within a second, or until it is closed."""
    data = b""
    with trio.move_on_after(1), suppress(TransportLost):
        while more := (await channel.receive(4096))[0]:
            data += more
    return data


async def network(front: FrontEnd) -> tuple[int, int]:
    """Status and MTU that the device shows."""
    data = (await front.ask(R.GET_CONFIG, Config(0, 0, bytes(12)))).data
    return int.from_bytes(data[6:8], "little"), int.from_bytes(data[10:12], "little")


async def test_a_network_says_by_its_channel_that_its_link_or_its_mtu_changed(tmp_path: Path) -> None:
    path = tmp_path / "net"
    export = DeviceExport(parse_device({"type": "net", "device": {"kind": "memory"}}, "test"), path)
    features = FEATURES | mask((F.STATUS, F.MTU))
    async with open_exports({"net": export}) as served, front_end(path, features, rings=2) as front:
        plug = served["net"].end.settings
        assert isinstance(plug, NetPlug)
        await front.bring_up()
        async with events(front) as channel:
            assert await network(front) == (LINK_UP, 1500)
            plug.link_up = False
            plug.changed()
            assert await received_messages(channel) == CONFIG_CHANGE
            assert await network(front) == (0, 1500)
            plug.link_up = True
            plug.changed()
            assert await received_messages(channel) == CONFIG_CHANGE
            assert await network(front) == (LINK_UP, 1500)
            plug.mtu = 9000
            plug.changed()
            assert await received_messages(channel) == CONFIG_CHANGE
            assert (await front.ask(R.GET_STATUS)).value & Status.NEEDS_RESET
            assert await network(front) == (LINK_UP, 1500)  # it may not change under a driver
            for status in (0, 3):
                assert await front.tell(R.SET_STATUS, U64(status))
            assert await network(front) == (LINK_UP, 9000)
            plug.changed()  # without a change there is no report
            assert await received_messages(channel) == b""
        plug.link_up = False
        plug.changed()  # the channel has no reader any more: the connection goes on
        assert await network(front) == (0, 9000)


async def test_a_disk_says_by_its_channel_once_that_its_size_changed(tmp_path: Path) -> None:
    path = tmp_path / "disk"
    async with open_exports({"disk": disk(path)}) as served, front_end(path) as front:
        plug = served["disk"].end.settings
        assert isinstance(plug, BlkPlug)
        store = plug.store
        assert isinstance(store, MemoryStore)
        await front.bring_up()
        async with events(front) as channel, events(front) as newer:
            for size in (2 << 20, 4 << 20):  # at once: it is told of once
                store.data.extend(bytes(size - len(store.data)))
                store.info = attrs.evolve(store.info, size=size)
                plug.resized()
            assert await received_messages(newer) == CONFIG_CHANGE
            assert await received_messages(channel) == b""  # it was replaced, and hung up on
            capacity = (await front.ask(R.GET_CONFIG, Config(0, 0, bytes(8)))).data
            assert int.from_bytes(capacity, "little") * 512 == 4 << 20
            assert (await request(front, front.rings[0], 0, (4 << 20) // 512 - 1, 512))[-1] == 0


async def test_our_own_front_end_follows_a_link_and_a_size(tmp_path: Path) -> None:
    exports = {
        "net": DeviceExport(parse_device({"type": "net", "device": {"kind": "memory"}}, "test"), tmp_path / "net"),
        "disk": disk(tmp_path / "disk"),
    }

    def size() -> int:
        end = world.devices["disk"].driver_end
        assert isinstance(end, DiskEnd)
        return 0 if end.disk.geometry is None else end.disk.geometry.size

    async with open_world(parse(TOPOLOGY.format(folder=tmp_path)), "test") as world, open_exports(exports) as served:
        await world.wait_up()
        plug, store = served["net"].end.settings, served["disk"].end.settings
        assert isinstance(plug, NetPlug)
        assert isinstance(store, BlkPlug)
        for up in (False, True):
            plug.link_up = up
            plug.changed()
            await until(lambda up=up: world.memory_port("net", "driver").carrier == up)  # type: ignore[misc]
        assert isinstance(store.store, MemoryStore)
        store.store.info = attrs.evolve(store.store.info, size=512 << 10)
        store.resized()
        await until(lambda: size() == 512 << 10)
        assert [world.devices[name].virtio.restarts for name in exports] == [0, 0]  # type: ignore[union-attr]


async def test_a_front_end_with_several_pairs_says_everything_of_each_pair(tmp_path: Path) -> None:
    """As QEMU 7.2: one device for each pair, whose memory it would add twice if it could."""
    spec = parse_device({"type": "net", "queue_pairs": 2, "device": {"kind": "memory"}}, "test")
    slots = mask((ProtocolFeature.CONFIGURE_MEM_SLOTS,))
    features = FEATURES | mask((F.MQ,))
    async with open_exports({"net": DeviceExport(spec, tmp_path / "net")}) as served:
        async with front_end(tmp_path / "net", features, rings=4) as front:
            await front.negotiate(mask((ProtocolFeature.MQ, ProtocolFeature.REPLY_ACK)))
            assert (await front.ask(R.GET_QUEUE_NUM)).value == 2
            assert not await front.tell(R.SET_PROTOCOL_FEATURES, U64(PROTOCOL_FEATURES))
        await until(lambda: not served["net"].server.connected)
        async with front_end(tmp_path / "net", features, rings=4) as front:
            await front.negotiate(PROTOCOL_FEATURES & ~slots)
            assert (await front.ask(R.GET_FEATURES)).value >> F.MQ & 1
            assert await front.tell(R.SET_PROTOCOL_FEATURES, U64(PROTOCOL_FEATURES & ~slots))
            assert await front.share()
            for pair in (front.rings[:2], front.rings[2:]):
                assert await front.tell(R.SET_FEATURES, U64(features | 1 << F_PROTOCOL_FEATURES))
                for ring in pair:
                    assert await front.start(ring)
            assert await front.tell(R.SET_STATUS, U64(15))
            plug = served["net"].end.settings
            assert isinstance(plug, NetPlug)
            await until(lambda: plug.bound is not None and plug.bound.pairs == 2)
            for ring in front.rings[2:]:
                assert await front.tell(R.SET_VRING_ENABLE, VringState(ring.index, 0))
            await until(lambda: plug.bound is not None and plug.bound.pairs == 1)
