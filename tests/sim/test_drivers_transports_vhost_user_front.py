"""Our driver on a vhost-user back end: order of messages, restarts, and back ends that are absent."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path

import pytest
import trio
import trio.testing

from drivers.devices.blk.layout import BlkFeature
from drivers.devices.net.layout import NetFeature as N
from drivers.errors import ProbeError
from drivers.transports.vhost_user.constants import (
    F_PROTOCOL_FEATURES,
    FrontendRequest,
    ProtocolFeature,
)
from drivers.transports.vhost_user.front import ABSENT, VhostUserFront
from drivers.transports.vhost_user.messages import ack, reply
from drivers.transports.vhost_user.payloads import U64, VringState
from rings.features import RingFeature, mask
from support.rigs.scripted_back import front, meeting
from vnet.linux.unix_socket import listen
from vnet.system.snapshot import queue_rows, take_snapshot
from vnet.system.world import open_world
from vnet.testing import fds, until
from vnet.testing.blk import BlkOptions, open_blk_pair
from vnet.testing.scripted import ScriptedBack
from vnet.topology import parse
from vnet.views.plain import to_plain

R, F = FrontendRequest, ProtocolFeature
OF_THE_DISK = 2
"""Buffers that a disk keeps over everything."""
INTRODUCTION = [
    R.GET_FEATURES,
    R.GET_PROTOCOL_FEATURES,
    R.SET_PROTOCOL_FEATURES,
    R.GET_QUEUE_NUM,
    R.SET_BACKEND_REQ_FD,
    R.SET_OWNER,
]
RING = [
    R.SET_VRING_NUM,
    R.SET_VRING_BASE,
    R.SET_VRING_ADDR,
    R.SET_VRING_CALL,
    R.SET_VRING_ERR,
    R.SET_VRING_ENABLE,
    R.SET_VRING_KICK,
]


def without(requests: list[FrontendRequest], *left_out: FrontendRequest) -> list[FrontendRequest]:
    return [request for request in requests if request not in left_out]


@pytest.mark.virtio("RFB-DRV-1")
async def test_messages_come_in_the_order_that_back_ends_expect(tmp_path: Path) -> None:
    back = ScriptedBack()
    async with meeting(back, tmp_path) as (world, device):
        events = without(back.requests, R.GET_CONFIG, R.GET_STATUS)
        assert events[: len(INTRODUCTION)] == INTRODUCTION
        assert events[len(INTRODUCTION) :] == [
            *[R.SET_STATUS] * 3,
            R.GET_FEATURES,
            R.SET_FEATURES,
            R.SET_STATUS,
            R.SET_MEM_TABLE,
            *RING,
            R.SET_STATUS,
        ]
        output = {request: (body, count) for request, body, count in back.log}
        assert output[R.SET_FEATURES] == (U64(1 << RingFeature.VERSION_1 | 1 << F_PROTOCOL_FEATURES), 0)
        assert output[R.SET_STATUS] == (U64(0x0F), 0)
        assert [output[request][1] for request in (R.SET_MEM_TABLE, *RING)] == [1, 0, 0, 0, 1, 1, 0, 1]
        assert output[R.SET_VRING_NUM][0] == VringState(0, 256)
        assert device.virtio is not None
        assert device.virtio.restarts == 0
        assert device.virtio.features == 1 << RingFeature.VERSION_1
        back.log.clear()
        await device.driver_host.virtio.rebind(device.virtio)
        await world.wait_up()
        events = without(back.requests, R.GET_CONFIG, R.GET_STATUS)
        assert events[:2] == [R.GET_VRING_BASE, R.SET_STATUS]
        assert events.count(R.SET_VRING_KICK) == 1


async def test_a_device_is_stopped_before_its_connection_closes(tmp_path: Path) -> None:
    """A driver that is taken away, and the end of a system, give memory back that the device must not touch then."""
    stopping = [R.GET_VRING_BASE, R.SET_STATUS]
    back, path = ScriptedBack(), tmp_path / "socket"
    async with trio.open_nursery() as nursery:
        await nursery.start(back.listen, path)
        async with front(path) as (world, device):
            await world.wait_up()
            back.log.clear()
            [socket] = device.driver_host.sockets
            await device.driver_host.vhost_user.unregister_device(socket)
            assert back.requests == stopping
            await until(lambda: back.ends == ["the front end hung up"])
            assert device.driver_host.virtio.bindings == ()
            device.driver_host.vhost_user.register_device(socket)
            await world.wait_up()
            back.log.clear()
        await until(lambda: len(back.ends) == 2)
        assert back.requests == stopping
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("reset", [True, False])
async def test_a_back_end_without_status_is_reset_by_message_or_by_its_rings_alone(tmp_path: Path, reset: bool) -> None:
    back = ScriptedBack(protocol_features=mask((F.CONFIG, F.RESET_DEVICE) if reset else (F.CONFIG,)))
    async with meeting(back, tmp_path) as (world, device):
        events = without(back.requests, R.GET_CONFIG)
        assert events == [
            *without(INTRODUCTION, R.GET_QUEUE_NUM, R.SET_BACKEND_REQ_FD),
            R.GET_FEATURES,
            R.SET_FEATURES,
            R.SET_MEM_TABLE,
            *RING,
            R.GET_FEATURES,
        ]
        assert device.virtio is not None
        back.log.clear()
        await device.driver_host.virtio.rebind(device.virtio)
        await world.wait_up()
        assert back.requests[: 1 + reset] == [R.GET_VRING_BASE, R.RESET_DEVICE][: 1 + reset]
        assert back.requests.count(R.RESET_DEVICE) == reset


async def test_where_nothing_is_known_of_the_type_of_a_device_the_error_says_what_to_look_at(tmp_path: Path) -> None:
    back = ScriptedBack(features=1 << RingFeature.VERSION_1)  # no protocol features: no configuration space
    async with trio.open_nursery() as nursery:
        await nursery.start(back.listen, tmp_path / "socket")
        async with front(tmp_path / "socket") as (world, device):
            with pytest.raises(ProbeError, match="no configuration space: check its device type"):
                await world.wait_up()
            assert R.SET_VRING_ENABLE not in back.requests
            assert back.requests.count(R.SET_OWNER) == 1, "it stays connected, and unbound"
            assert not device.up
        nursery.cancel_scope.cancel()


REFUSALS: dict[str, tuple[Callable[[ScriptedBack], object], str]] = {
    "legacy": (
        lambda b: setattr(b, "features", 1 << F_PROTOCOL_FEATURES | 1 << BlkFeature.FLUSH),
        "does not offer VERSION_1",
    ),
    "no configuration": (lambda b: setattr(b, "config", b""), "no device configuration of 8 bytes"),
    "no queues": (
        lambda b: b.lies.update({R.GET_QUEUE_NUM: lambda _: reply(R.GET_QUEUE_NUM, U64(0))}),
        "has 0 queues, 1 needed",
    ),
    "refused memory": (lambda b: refuse(b, R.SET_MEM_TABLE), "refused SET_MEM_TABLE"),
    "refused features": (lambda b: refuse(b, R.SET_FEATURES), "refused SET_FEATURES"),
    "refused ring": (lambda b: refuse(b, R.SET_VRING_NUM), "refused SET_VRING_NUM"),
    "refused owner": (lambda b: refuse(b, R.SET_OWNER), "refused SET_OWNER"),
}


def refuse(back: ScriptedBack, request: FrontendRequest) -> None:
    back.lies[request] = lambda _: ack(request, good=False)


@pytest.mark.parametrize(("spoil", "why"), REFUSALS.values(), ids=REFUSALS)
async def test_a_missing_or_refused_feature_is_one_clear_error_and_the_next_back_end_is_taken(
    tmp_path: Path, spoil: Callable[[ScriptedBack], object], why: str
) -> None:
    back, good = ScriptedBack(), ScriptedBack()
    spoil(back)
    path = tmp_path / "socket"
    before = fds()
    async with trio.open_nursery() as nursery:
        await nursery.start(back.listen, path)
        async with front(path) as (world, device):
            with pytest.raises(ProbeError, match=why):
                await world.wait_up()
            await trio.testing.wait_all_tasks_blocked()
            assert device.driver_host.memory.statistics().buffers <= OF_THE_DISK
            nursery.cancel_scope.cancel()
            await until(lambda: not path.exists())
            async with trio.open_nursery() as again:
                await again.start(good.listen, path)
                await world.wait_up()
                again.cancel_scope.cancel()
    assert fds() <= before, "fewer are fine: other objects were collected meanwhile"


NET = """\
[hosts.rc]
memory = 48
[devices.net0]
transport = "vhost_user"
host = "rc"
socket = "{path}"
mtu = 1400
mac = "02:00:00:00:00:07"
driver = {{ kind = "memory" }}
"""


async def test_a_network_device_without_a_configuration_space_has_that_of_the_topology(tmp_path: Path) -> None:
    """Never a control queue either: front ends have always handled these features themselves."""
    path = tmp_path / "socket"
    theirs = mask((N.MTU, N.CTRL_VQ, N.CTRL_RX, N.MQ, N.GUEST_ANNOUNCE, N.MRG_RXBUF, RingFeature.VERSION_1))
    back = ScriptedBack(features=theirs | 1 << F_PROTOCOL_FEATURES, protocol_features=mask((F.MQ, F.REPLY_ACK)))
    async with trio.open_nursery() as nursery:
        await nursery.start(back.listen, path)
        async with open_world(parse(NET.format(path=path)), "test") as world:
            await world.wait_up()
            virtio = world.devices["net0"].virtio
            assert virtio is not None
            ours = mask((N.MAC, N.MTU, N.STATUS))
            agreed = mask((N.MRG_RXBUF, RingFeature.VERSION_1))
            assert virtio.features == ours | agreed
            output = {request: body for request, body, _ in back.log}
            assert output[R.SET_FEATURES] == U64(agreed | 1 << F_PROTOCOL_FEATURES)
            assert R.GET_CONFIG not in output
            assert (await virtio.read_config(0, 6)).hex(":") == "02:00:00:00:00:07"
            assert await virtio.read_config(10, 2) == (1400).to_bytes(2, "little")
            assert [queue.name for queue in virtio.queues] == ["receiveq1", "transmitq1"]
        nursery.cancel_scope.cancel()


# At a path without a listener


async def test_a_socket_without_a_listener_is_waited_for_and_reported(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    async with front(path) as (world, device):
        with pytest.raises(ProbeError, match=rf"{path}: no program listens there; is the back end started"):
            await world.wait_up(3)
        plain = to_plain(take_snapshot(world))["devices"]["disk0"]
        assert (plain["up"], plain["driver"]["enumerated"], plain["device"]["foreign"]) == (False, False, True)
        assert plain["on"] == "rc"
        assert queue_rows(world) == []
        back = ScriptedBack()
        async with trio.open_nursery() as nursery:
            await nursery.start(back.listen, path)
            await world.wait_up()
            plain = to_plain(take_snapshot(world))["devices"]["disk0"]
            assert plain["up"]
            assert [row.side for row in queue_rows(world)] == ["driver"]
            nursery.cancel_scope.cancel()
        await until(lambda: not device.up)


@pytest.mark.parametrize("absence", [0.35, 5.0, 60.0])
async def test_a_back_end_is_found_within_a_tenth_of_a_second(tmp_path: Path, absence: float) -> None:
    async with front(tmp_path / "socket"):
        await trio.sleep(absence)
        began = trio.current_time()
        with listen(tmp_path / "socket", socket.SOCK_STREAM, 1) as listening:
            await trio.lowlevel.wait_readable(listening)
            assert trio.current_time() - began <= ABSENT


# Requests over a back end's restart


@pytest.mark.hostile("V16")
async def test_requests_that_wait_outlive_their_connection_and_are_done_over_the_next() -> None:
    async with open_blk_pair(BlkOptions(transport="vhost_user")) as pair:
        pair.store.at_once = False
        pair.store.gate = gate = trio.Event()
        results: list[bytes] = []

        async def write(block: int) -> None:
            await pair.disk.write(block * 4096, bytes([block + 1]) * 4096)

        async def read() -> None:
            results.append(await pair.disk.read(1 << 20, 4096))

        async with trio.open_nursery() as nursery:
            for block in range(8):
                nursery.start_soon(write, block)
            nursery.start_soon(read)
            await trio.testing.wait_all_tasks_blocked()
            assert pair.store.inside
            front_half = pair.virtio.ops
            assert isinstance(front_half, VhostUserFront)
            assert front_half._connection is not None
            front_half._connection.end("the test says so")
            await until(lambda: not pair.device.up, 10)
            await trio.sleep(2)
            assert not results
            pair.store.gate = None
            gate.set()
            await pair.world.wait_up()
        assert results == [bytes(4096)]
        assert bytes(pair.store.data[: 8 * 4096]) == b"".join(bytes([n + 1]) * 4096 for n in range(8))
        assert pair.virtio.restarts
        await pair.transfer()
