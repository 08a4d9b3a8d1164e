"""Our driver on a hostile vhost-user back end: bad answers, and misuse of the back-end channel."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
import trio
import trio.testing

from drivers.bus.binding import BindState
from drivers.errors import TransportLost
from drivers.transports.vhost_user.connection import REPLY_TIMEOUT
from drivers.transports.vhost_user.constants import (
    BackendRequest,
    FrontendRequest,
    ProtocolFeature,
)
from drivers.transports.vhost_user.front_rings import STOP_TIMEOUT
from drivers.transports.vhost_user.messages import ack, emit, reply
from drivers.transports.vhost_user.payloads import U64, VringState
from rings.features import mask
from rings.status import Status
from support.rigs.scripted_back import meeting
from vnet.linux.ipc import FileHandle
from vnet.testing import until
from vnet.testing.scripted import HANG_UP, SILENCE, ScriptedBack

R, F = FrontendRequest, ProtocolFeature
PLAIN = mask((F.CONFIG, F.REPLY_ACK))

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
    "an unknown type": patched(0, 0xFFFF_FFFF),
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
REQUESTS = [R.GET_FEATURES, R.GET_PROTOCOL_FEATURES, R.GET_CONFIG, R.SET_MEM_TABLE, R.SET_VRING_KICK, R.GET_STATUS]


@pytest.mark.hostile("V01", "V02", "V20")
@pytest.mark.parametrize("lie", LIES.values(), ids=LIES)
async def test_an_answer_that_is_none_closes_the_connection_and_the_next_one_works(
    tmp_path: Path, lie: Callable[[bytes], bytes]
) -> None:
    for index, request in enumerate(REQUESTS):
        back = ScriptedBack()
        folder = tmp_path / str(index)
        folder.mkdir()
        async with meeting(back, folder) as (world, device):
            virtio = device.virtio
            assert virtio is not None
            back.lies[request] = lie
            await device.driver_host.virtio.rebind(virtio)
            virtio.changed.set()
            assert back.socket is not None
            back.socket.close()  # what is said when a connection begins is asked again as well
            with trio.fail_after(40):
                while len(back.ends) < 3:  # noqa: ASYNC110  a list has no event
                    await trio.sleep(0.1)
            assert not device.up
            assert device.trouble()
            back.lies.clear()
            back.log.clear()
            await world.wait_up()
            assert back.requests.count(R.SET_OWNER) >= 1
            assert device.driver_host.virtio.binding(virtio).state is BindState.BOUND, "it stayed on its driver"


@pytest.mark.hostile("V04", "V20")
async def test_file_descriptors_beside_an_answer_are_closed_with_the_connection(tmp_path: Path) -> None:
    back = ScriptedBack()
    async with meeting(back, tmp_path) as (world, device):
        assert device.virtio is not None
        null = FileHandle(os.open("/dev/null", os.O_RDONLY))
        back.lie_fds.append(null)
        back.lies[R.GET_FEATURES] = lambda right: right
        await device.driver_host.virtio.rebind(device.virtio)
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
        await device.driver_host.virtio.rebind(device.virtio)
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
        await device.driver_host.virtio.rebind(device.virtio)
        await until(lambda: back.ends)
        back.lies.clear()
        await until(lambda: device.up)
        assert "invalid reply to GET_VRING_BASE of ring 0" in " ".join(device.virtio.failures)


@pytest.mark.hostile("V20")
async def test_an_answer_without_a_request_closes_the_connection(tmp_path: Path) -> None:
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
        assert "requestq1: the back end reports an error" in device.virtio.failures[0]
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
