"""A hostile or silent vfio-user server: its own link goes down with a reason, and comes up with the next connection."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from support.rigs.two_processes import clock
from support.rigs.vfio_user_server import COMMANDS, HANG_UP, SILENCE, open_scene
from vnet.link.base import all_ones
from vnet.linux.patience import EACH
from vnet.pcie.config_space import COMMAND, PciCommand
from vnet.vfio_user.accesses import DmaAccess, DmaData
from vnet.vfio_user.client import channel
from vnet.vfio_user.constants import DATA_MAX, FDS_MAX, MESSAGE_MAX, Command, HeaderFlag
from vnet.vfio_user.messages import HEADER_SIZE, emit
from vnet.vfio_user.payloads import Payload

__all__ = ["clock"]  # a fixture

C = Command


def patched(at: int, form: str, value: int) -> Callable[[bytes], bytes]:
    """Return a lie that replaces a number of the reply."""
    return lambda right: right[:at] + struct.pack(form, value) + right[at + struct.calcsize(form) :]


def resized(cut: Callable[[bytes], bytes]) -> Callable[[bytes], bytes]:
    def lie(right: bytes) -> bytes:
        body = cut(right[HEADER_SIZE:])
        return right[:4] + struct.pack("<I", HEADER_SIZE + len(body)) + right[8:HEADER_SIZE] + body

    return lie


HEADERS: dict[str, Callable[[bytes], bytes]] = {
    "another number": patched(0, "<H", 0xFFF0),
    "another command": patched(2, "<H", C.REGION_WRITE_MULTI),
    "an unknown command": patched(2, "<H", 99),
    "a size below the header's": patched(4, "<I", HEADER_SIZE - 1),
    "a size beyond the limit": patched(4, "<I", MESSAGE_MAX + 1),
    "a size of 4 GiB": patched(4, "<I", 0xFFFF_FFFF),
    "flags that there are not": patched(8, "<I", 0x41),
    "a type that there is not": patched(8, "<I", 2),
    "an error": patched(8, "<I", HeaderFlag.REPLY | HeaderFlag.ERROR),
    "an error with any errno": lambda right: right[:8] + struct.pack("<II", 0x21, 0xFFFF_FFFF),
    "half a header": lambda right: right[:7],
    "a body too long": resized(lambda body: body + bytes(MESSAGE_MAX - HEADER_SIZE - len(body))),
    "two replies": lambda right: right * 2,
    "the end": lambda _: HANG_UP,
}


@pytest.mark.hostile("W15", "W16", "W19")
@pytest.mark.parametrize("name", HEADERS)
async def test_a_reply_that_is_none_keeps_the_link_down_until_the_next_right_one(
    name: str, tmp_path: Path, clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(channel, "DEADLINE", 0.5)
    # A function may have no doorbells: the refusal of that command is no error.
    commands = [each for each in COMMANDS if "error" not in name or each != C.DEVICE_GET_REGION_IO_FDS]
    async with open_scene(tmp_path, {commands[0]: HEADERS[name]}) as scene:
        for following in (*commands[1:], None):
            await scene.trouble()
            assert not scene.link.up
            scene.server.lies = {} if following is None else {following: HEADERS[name]}
            scene.troubles.clear()
        await scene.up()
        scene.works()


@pytest.mark.hostile("W16")
@pytest.mark.parametrize("command", [C.VERSION, C.DEVICE_GET_INFO, C.DEVICE_GET_REGION_INFO, C.DEVICE_GET_IRQ_INFO])
async def test_a_body_that_is_too_short_keeps_the_link_down(command: C, tmp_path: Path, clock: MockClock) -> None:
    async with open_scene(tmp_path, {command: resized(lambda body: body[:3])}) as scene:
        assert f"reply to {command.name}: 3 bytes" in await scene.trouble()
        assert not scene.link.up


@pytest.mark.hostile("W17")
@pytest.mark.parametrize("count", [1, FDS_MAX + 1])
async def test_file_descriptors_that_no_reply_has_are_closed(count: int, tmp_path: Path, clock: MockClock) -> None:
    given = [os.open("/dev/null", os.O_RDONLY) for _ in range(count)]
    async with open_scene(tmp_path, extra=given) as scene:
        assert "file descriptors" in await scene.trouble()
        await scene.up()
        scene.works()


@pytest.mark.hostile("W18")
async def test_a_server_that_is_silent_in_the_handshake_blocks_nothing(
    tmp_path: Path, clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(channel, "DEADLINE", 2.0)  # a busy machine is in time with all other replies
    async with open_scene(tmp_path, {C.DEVICE_GET_INFO: lambda _: SILENCE}) as scene:
        assert await scene.trouble() == "DEVICE_GET_INFO: the server did not answer for 2 s"
        assert scene.patience.blocked == 0
        scene.server.lies = {}
        await scene.up()


@pytest.mark.hostile("W18")
@pytest.mark.parametrize("piece", [SILENCE, b"\1"])
async def test_a_server_that_is_silent_afterwards_blocks_for_a_bounded_time(
    piece: bytes, tmp_path: Path, clock: MockClock
) -> None:
    async with open_scene(tmp_path) as scene:
        await scene.up()
        scene.server.lies = {C.REGION_READ: lambda right: piece if piece == SILENCE else right[:1]}
        before = scene.patience.blocked
        assert scene.function.bar_read(0, 0, 4) == all_ones(4)
        assert scene.patience.blocked - before < 2 * EACH
        assert scene.function.bar_read(0, 0, 4) == all_ones(4), "at once, because the connection has ended"
        assert await scene.trouble() == "REGION_READ: the server takes too long to answer"
        scene.server.lies = {}
        await scene.up()
        scene.works()


@pytest.mark.hostile("W16")
async def test_a_refused_read_is_all_ones_and_the_connection_goes_on(tmp_path: Path, clock: MockClock) -> None:
    async with open_scene(tmp_path) as scene:
        await scene.up()
        scene.server.lies = {C.REGION_READ: lambda right: right[:4] + struct.pack("<III", 16, 0x21, 5)}
        assert scene.function.bar_read(0, 0, 4) == all_ones(4)
        scene.server.lies = {}
        scene.works()
        assert scene.troubles == []


@pytest.mark.hostile("W15")
async def test_a_message_without_a_request_ends_the_connection(tmp_path: Path, clock: MockClock) -> None:
    async with open_scene(tmp_path) as scene:
        await scene.up()
        scene.server.say(struct.pack("<HHIII", 1, C.DEVICE_RESET, 16, HeaderFlag.REPLY, 0))
        assert await scene.trouble() == "DEVICE_RESET: a reply without a request"
        await scene.up()


def command(number: int, kind: C, payload: Payload | bytes) -> bytes:
    if isinstance(payload, bytes):
        return struct.pack("<HHIII", number, kind, HEADER_SIZE + len(payload), 0, 0) + payload
    return emit(number, kind, payload)


@pytest.mark.hostile("W21")
async def test_the_server_s_own_commands_reach_memory_and_nothing_else(tmp_path: Path, clock: MockClock) -> None:
    async with open_scene(tmp_path) as scene:
        await scene.up()
        buffer = scene.memory.alloc(4096)
        at, end = buffer.addr, scene.memory.base + scene.memory.size
        refused = (
            command(1, C.DMA_READ, struct.pack("<QQ", at, 0)),
            command(2, C.DMA_READ, struct.pack("<QQ", at, DATA_MAX + 1)),
            command(3, C.DMA_READ, struct.pack("<QQ", (1 << 64) - 1, 2)),
            command(4, C.DMA_READ, DmaAccess(end - 1, 2)),
            command(5, C.DMA_WRITE, struct.pack("<QQ", at, 5) + b"four"),
            command(6, C.DMA_WRITE, DmaData(end, b"x")),
            command(7, C.DMA_READ, bytes(15)),
            command(8, C.DEVICE_RESET, b""),
            command(9, C(11), bytes(100)),
        )
        scene.server.before = {C.REGION_READ: b"".join(refused) + command(10, C.DMA_WRITE, DmaData(at, b"data"))}
        scene.works()
        assert bytes(scene.memory.view(at, 4)) == b"data"
        scene.server.before = {}
        scene.function.config_write(COMMAND, 2, PciCommand.MEMORY)
        scene.server.say(command(11, C.DMA_WRITE, DmaData(at, b"none")))
        with trio.move_on_after(0.5):
            await scene.trouble()
        scene.works()
        assert bytes(scene.memory.view(at, 4)) == b"data", "bus mastering is off"


@pytest.mark.hostile("W21")
async def test_a_flood_of_commands_instead_of_a_reply_ends_the_connection(tmp_path: Path, clock: MockClock) -> None:
    async with open_scene(tmp_path) as scene:
        await scene.up()
        posted = struct.pack("<HHIII", 1, C.DMA_READ, 32, HeaderFlag.NO_REPLY, 0) + bytes(16)
        scene.server.before = {C.REGION_READ: posted * 1100}
        assert scene.function.bar_read(0, 0, 4) == all_ones(4)
        assert "instead of a reply" in await scene.trouble()
        scene.server.before = {}
        await scene.up()
        scene.works()
