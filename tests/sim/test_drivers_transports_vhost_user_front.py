"""Our driver on a vhost-user back end: what it says in which order, and back ends that lie, stall and vanish."""

from __future__ import annotations

import os
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
import trio
import trio.testing

from drivers.bus.model import BindState
from drivers.devices.blk.layout import BlkFeature
from drivers.devices.net.layout import NetFeature as N
from drivers.errors import ProbeError, TransportLost
from drivers.transports.vhost_user.connection import REPLY_TIMEOUT
from drivers.transports.vhost_user.constants import (
    F_PROTOCOL_FEATURES,
    BackendRequest,
    FrontendRequest,
    ProtocolFeature,
)
from drivers.transports.vhost_user.front import VhostUserFront
from drivers.transports.vhost_user.front_rings import STOP_TIMEOUT
from drivers.transports.vhost_user.messages import ack, emit, reply
from drivers.transports.vhost_user.payloads import U64, VringState
from rings.features import RingFeature, mask
from rings.status import Status
from support.topologies import VHOST_USER_DISK
from vnet.linux.ipc import FileHandle
from vnet.system.snapshot import describe, queue_rows
from vnet.system.world import Device, World, open_world
from vnet.testing import fds, until
from vnet.testing.blk import BlkOptions, open_blk_pair
from vnet.testing.scripted import HANG_UP, SILENCE, ScriptedBack
from vnet.topology import parse

R, F = FrontendRequest, ProtocolFeature
PLAIN = mask((F.CONFIG, F.REPLY_ACK))
OF_THE_DISK = 2
"""Buffers that a disk keeps over everything."""


@asynccontextmanager
async def front(path: Path) -> AsyncIterator[tuple[World, Device]]:
    async with open_world(parse(VHOST_USER_DISK.format(path=path)), "test") as world:
        yield world, world.devices["disk0"]


@asynccontextmanager
async def meeting(back: ScriptedBack, path: Path) -> AsyncIterator[tuple[World, Device]]:
    """A front end that is up on ``back``; nothing is left afterwards."""
    before = fds()
    async with trio.open_nursery() as nursery:
        await nursery.start(back.listen, path / "socket")
        async with front(path / "socket") as (world, device):
            await world.wait_up()
            await trio.testing.wait_all_tasks_blocked()
            buffers = device.root.memory.statistics().buffers
            yield world, device
            await world.wait_up()
            await trio.testing.wait_all_tasks_blocked()
            assert device.root.memory.statistics().buffers == buffers
        nursery.cancel_scope.cancel()
    assert fds() <= before, "fewer are fine: somebody else's were collected meanwhile"


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


async def test_messages_come_in_the_order_that_back_ends_expect(tmp_path: Path) -> None:
    back = ScriptedBack()
    async with meeting(back, tmp_path) as (world, device):
        told = without(back.requests, R.GET_CONFIG, R.GET_STATUS)
        assert told[: len(INTRODUCTION)] == INTRODUCTION
        assert told[len(INTRODUCTION) :] == [
            *[R.SET_STATUS] * 3,
            R.GET_FEATURES,
            R.SET_FEATURES,
            R.SET_STATUS,
            R.SET_MEM_TABLE,
            *RING,
            R.SET_STATUS,
        ]
        said = {request: (body, count) for request, body, count in back.log}
        assert said[R.SET_FEATURES] == (U64(1 << RingFeature.VERSION_1 | 1 << F_PROTOCOL_FEATURES), 0)
        assert said[R.SET_STATUS] == (U64(0x0F), 0)
        assert [said[request][1] for request in (R.SET_MEM_TABLE, *RING)] == [1, 0, 0, 0, 1, 1, 0, 1]
        assert said[R.SET_VRING_NUM][0] == VringState(0, 256)
        assert device.virtio is not None
        assert device.virtio.restarts == 0
        assert device.virtio.features == 1 << RingFeature.VERSION_1
        back.log.clear()
        await device.root.virtio.rebind(device.virtio)
        await world.wait_up()
        told = without(back.requests, R.GET_CONFIG, R.GET_STATUS)
        assert told[:2] == [R.GET_VRING_BASE, R.SET_STATUS]
        assert told.count(R.SET_VRING_KICK) == 1


async def test_a_device_is_stopped_before_anybody_hangs_up(tmp_path: Path) -> None:
    """A driver that is taken away, and the end of a system, give memory back that the device must not touch then."""
    stopping = [R.GET_VRING_BASE, R.SET_STATUS]
    back, path = ScriptedBack(), tmp_path / "socket"
    async with trio.open_nursery() as nursery:
        await nursery.start(back.listen, path)
        async with front(path) as (world, device):
            await world.wait_up()
            back.log.clear()
            [socket] = device.root.sockets
            await device.root.user.unregister_device(socket)
            assert back.requests == stopping
            await until(lambda: back.ends == ["the front end hung up"])
            assert device.root.virtio.bindings == ()
            device.root.user.register_device(socket)
            await world.wait_up()
            back.log.clear()
        await until(lambda: len(back.ends) == 2)
        assert back.requests == stopping
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("reset", [True, False])
async def test_a_back_end_without_status_is_reset_by_message_or_by_its_rings_alone(tmp_path: Path, reset: bool) -> None:
    back = ScriptedBack(protocol_features=mask((F.CONFIG, F.RESET_DEVICE) if reset else (F.CONFIG,)))
    async with meeting(back, tmp_path) as (world, device):
        told = without(back.requests, R.GET_CONFIG)
        assert told == [
            *without(INTRODUCTION, R.GET_QUEUE_NUM, R.SET_BACKEND_REQ_FD),
            R.GET_FEATURES,
            R.SET_FEATURES,
            R.SET_MEM_TABLE,
            *RING,
            R.GET_FEATURES,
        ]
        assert device.virtio is not None
        back.log.clear()
        await device.root.virtio.rebind(device.virtio)
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
async def test_what_a_back_end_lacks_or_refuses_is_one_clear_error_and_its_successor_is_taken(
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
            assert device.root.memory.statistics().buffers <= OF_THE_DISK
            nursery.cancel_scope.cancel()
            await until(lambda: not path.exists())
            async with trio.open_nursery() as again:
                await again.start(good.listen, path)
                await world.wait_up()
                again.cancel_scope.cancel()
    assert fds() <= before, "fewer are fine: somebody else's were collected meanwhile"


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
    """And no control queue, whatever it says: these are what front ends have always answered for themselves."""
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
            said = {request: body for request, body, _ in back.log}
            assert said[R.SET_FEATURES] == U64(agreed | 1 << F_PROTOCOL_FEATURES)
            assert R.GET_CONFIG not in said
            assert (await virtio.read_config(0, 6)).hex(":") == "02:00:00:00:00:07"
            assert await virtio.read_config(10, 2) == (1400).to_bytes(2, "little")
            assert [queue.name for queue in virtio.queues] == ["receiveq1", "transmitq1"]
        nursery.cancel_scope.cancel()


# V20: answers that are none


def resized(cut: Callable[[bytes], bytes]) -> Callable[[bytes], bytes]:
    def lie(right: bytes) -> bytes:
        body = cut(right[12:])
        return right[:8] + struct.pack("<I", len(body)) + body

    return lie


def patched(at: int, value: int) -> Callable[[bytes], bytes]:
    return lambda right: right[:at] + value.to_bytes(4, "little") + right[at + 4 :]


LIES: dict[str, Callable[[bytes], bytes]] = {
    "another type": patched(0, 2),
    "a type that nobody knows": patched(0, 0xFFFF_FFFF),
    "no reply flag": patched(4, 1),
    "another version": patched(4, 6),
    "reserved flags": patched(4, 0xFFFF_FFF5),
    "no body": resized(lambda body: b""),
    "a body too short": resized(lambda body: body[:-1]),
    "a body too long": resized(lambda body: body + bytes(400)),
    "a body of 4 GiB": patched(8, 0xFFFF_FFFF),
    "half a header": lambda right: right[:5],
    "half a body": lambda right: right[:-3],
    "two answers": lambda right: right * 2,
    "nothing": lambda _: SILENCE,
    "the end": lambda _: HANG_UP,
}
ASKED = [R.GET_FEATURES, R.GET_PROTOCOL_FEATURES, R.GET_CONFIG, R.SET_MEM_TABLE, R.SET_VRING_KICK, R.GET_STATUS]


@pytest.mark.hostile("V01", "V02", "V20")
@pytest.mark.parametrize("lie", LIES.values(), ids=LIES)
async def test_an_answer_that_is_none_closes_the_connection_and_the_next_one_works(
    tmp_path: Path, lie: Callable[[bytes], bytes]
) -> None:
    for index, request in enumerate(ASKED):
        back = ScriptedBack()
        folder = tmp_path / str(index)
        folder.mkdir()
        async with meeting(back, folder) as (world, device):
            virtio = device.virtio
            assert virtio is not None
            back.lies[request] = lie
            await device.root.virtio.rebind(virtio)
            virtio.changed.set()
            assert back.socket is not None
            back.socket.close()  # what is said when a connection begins is asked again as well
            with trio.fail_after(40):
                while len(back.ends) < 3:  # noqa: ASYNC110  a list tells nobody
                    await trio.sleep(0.1)
            assert not device.up
            assert device.trouble()
            back.lies.clear()
            back.log.clear()
            await world.wait_up()
            assert back.requests.count(R.SET_OWNER) >= 1
            assert device.root.virtio.binding(virtio).state is BindState.BOUND, "it stayed on its driver"


@pytest.mark.hostile("V04", "V20")
async def test_file_descriptors_beside_an_answer_are_closed_with_the_connection(tmp_path: Path) -> None:
    back = ScriptedBack()
    async with meeting(back, tmp_path) as (world, device):
        assert device.virtio is not None
        null = FileHandle(os.open("/dev/null", os.O_RDONLY))
        back.lie_fds.append(null)
        back.lies[R.GET_FEATURES] = lambda right: right
        await device.root.virtio.rebind(device.virtio)
        await until(lambda: back.ends, 10)
        assert any("file descriptors" in failure for failure in device.virtio.failures)
        back.lie_fds.clear()
        await world.wait_up()
        null.close()


@pytest.mark.hostile("V15", "V20")
@pytest.mark.parametrize(("request_", "timeout"), [(R.GET_STATUS, REPLY_TIMEOUT), (R.GET_VRING_BASE, STOP_TIMEOUT)])
async def test_an_answer_that_never_comes_is_waited_for_so_long_and_no_longer(
    request_: FrontendRequest, timeout: float, tmp_path: Path
) -> None:
    back = ScriptedBack()
    async with meeting(back, tmp_path) as (world, device):
        assert device.virtio is not None
        back.lies[request_] = lambda _: SILENCE
        began = trio.current_time()
        await device.root.virtio.rebind(device.virtio)
        await until(lambda: back.ends, 40)
        assert trio.current_time() - began == pytest.approx(timeout, abs=0.1)
        back.lies.clear()
        await world.wait_up()
        assert f"no reply to {request_.name} within {timeout:g} s" in " ".join(device.virtio.failures)


@pytest.mark.hostile("V07", "V20")
async def test_a_ring_that_another_answers_for_was_not_stopped(tmp_path: Path) -> None:
    back = ScriptedBack()
    async with meeting(back, tmp_path) as (_, device):
        assert device.virtio is not None
        back.lies[R.GET_VRING_BASE] = lambda _: reply(R.GET_VRING_BASE, VringState(1, 0))
        await device.root.virtio.rebind(device.virtio)
        await until(lambda: back.ends)
        back.lies.clear()
        await until(lambda: device.up)
        assert "invalid reply to GET_VRING_BASE of ring 0" in " ".join(device.virtio.failures)


@pytest.mark.hostile("V20")
async def test_an_answer_that_nobody_asked_for_closes_the_connection(tmp_path: Path) -> None:
    back = ScriptedBack()
    async with meeting(back, tmp_path) as (_, device):
        assert device.virtio is not None
        assert back.socket is not None
        await back.socket.send(reply(R.GET_FEATURES, U64(0)))
        await until(lambda: device.virtio is not None and device.virtio.restarts and device.up)
        assert "an unexpected reply" in device.virtio.failures[0]


@pytest.mark.hostile("V16", "V20")
async def test_a_back_end_that_hangs_up_after_any_number_of_messages_is_connected_to_again(tmp_path: Path) -> None:
    book = ScriptedBack()
    async with meeting(book, tmp_path):
        count = len(book.log)
    back = ScriptedBack()
    async with meeting(back, tmp_path) as (world, device):
        for patience in range(count):
            back.patience = patience
            back.ends.clear()
            assert back.socket is not None
            back.socket.close()
            await until(lambda: len(back.ends) >= 2, 5)
            back.patience = 1 << 30
            await world.wait_up()
        assert device.virtio is not None
        assert device.virtio.restarts >= count


# The back end's own channel


@pytest.mark.hostile("V03", "V20")
async def test_a_back_end_tells_that_its_configuration_changed_and_nothing_else(tmp_path: Path) -> None:
    back = ScriptedBack()
    async with meeting(back, tmp_path) as (world, device):
        virtio, ipc = device.virtio, world.ipc
        assert virtio is not None

        async def say(data: bytes) -> bytes:
            handle = back.kept[R.SET_BACKEND_REQ_FD, 0]
            assert isinstance(handle, FileHandle)
            channel = ipc.channel(FileHandle.copy(handle.fileno()))
            await channel.send(data)
            answer = b""
            with trio.move_on_after(0.5), suppress(TransportLost):
                answer = (await channel.receive(64))[0]
            channel.close()
            return answer

        disk = device.driver_end.settings.disk  # type: ignore[attr-defined]
        back.config = (4096).to_bytes(8, "little") + back.config[8:]
        assert await say(emit(BackendRequest.CONFIG_CHANGE_MSG)) == b""
        assert disk.geometry.size == 4096 * 512
        assert virtio.restarts == 0
        good = await say(emit(BackendRequest.CONFIG_CHANGE_MSG, need_reply=True))
        assert good == ack(BackendRequest.CONFIG_CHANGE_MSG, good=True)
        for strange in (BackendRequest.VRING_CALL, BackendRequest.SHARED_OBJECT_ADD):
            bad = await say(emit(strange, VringState(0, 0), need_reply=True))
            assert bad == ack(strange, good=False)
        assert virtio.restarts == 0
        refused = [why for why in virtio.failures if why.startswith("refused: ")]
        assert len(refused) == 2, "each of them is noted, since the back end may keep it to itself"
        for garbage in (
            emit(BackendRequest.VRING_CALL, VringState(0, 0)),
            emit(BackendRequest.CONFIG_CHANGE_MSG, U64(0)),
            b"\xff" * 12,
        ):
            before = virtio.restarts
            await say(garbage)
            await until(lambda before=before: virtio.restarts > before and device.up, 5)  # type: ignore[misc]
            assert "on the back end's channel" in virtio.failures[-2] + virtio.failures[-1]


async def test_a_ring_that_the_back_end_gives_up_has_the_device_reset(tmp_path: Path) -> None:
    back = ScriptedBack(protocol_features=PLAIN)
    async with meeting(back, tmp_path) as (_, device):
        handle = back.kept[R.SET_VRING_ERR, 0]
        assert isinstance(handle, FileHandle)
        os.eventfd_write(handle.fileno(), 1)
        await until(lambda: device.virtio is not None and device.virtio.restarts == 1 and device.up)
        assert device.virtio is not None
        assert "queue 0: the back end reports an error" in device.virtio.failures[0]
        assert back.ends == [], "over the same connection"


@pytest.mark.virtio("STATUS-DEV-2")
async def test_a_back_end_that_asks_for_a_reset_in_its_status_is_reset(tmp_path: Path) -> None:
    back = ScriptedBack()
    async with meeting(back, tmp_path) as (world, device):
        assert device.virtio is not None
        back._status |= Status.NEEDS_RESET
        handle = back.kept[R.SET_BACKEND_REQ_FD, 0]
        assert isinstance(handle, FileHandle)
        channel = world.ipc.channel(FileHandle.copy(handle.fileno()))
        await channel.send(emit(BackendRequest.CONFIG_CHANGE_MSG))
        channel.close()
        await until(lambda: device.virtio is not None and device.virtio.restarts == 1 and device.up)
        assert device.virtio.failures[0] == "the device asked for a reset"


# Where nobody is


async def test_a_socket_where_nobody_listens_is_waited_for_and_said(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    async with front(path) as (world, device):
        with pytest.raises(ProbeError, match=rf"{path}: no program listens there; is the back end started"):
            await world.wait_up(3)
        plain = describe(world)["devices"]["disk0"]  # type: ignore[index]
        assert (plain["up"], plain["driver"]["found"], plain["device"]["foreign"]) == (False, False, True)
        assert plain["on"] == "rc"
        assert queue_rows(world) == []
        back = ScriptedBack()
        async with trio.open_nursery() as nursery:
            await nursery.start(back.listen, path)
            await world.wait_up()
            plain = describe(world)["devices"]["disk0"]  # type: ignore[index]
            assert plain["up"]
            assert [row.side for row in queue_rows(world)] == ["driver"]
            nursery.cancel_scope.cancel()
        await until(lambda: not device.up)


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
