"""Events of rings: the bytes that devices really move, requests that complete out of order, chains that break."""

from __future__ import annotations

import struct

import pytest
import trio

from drivers.contracts.events import (
    ChainAdded,
    ChainCompleted,
    ChainEvent,
    ChainReturned,
    ChainTaken,
    DmaMoved,
    Event,
    FrameReceived,
    FrameSent,
    Topic,
)
from drivers.devices.net.header import HEAD
from vnet.testing import FRAME, Options, open_pair
from vnet.testing.blk import open_blk_pair

HEADER, SECTOR = 12, 512
RINGS = (Topic.RINGS, Topic.TLPS)


@pytest.mark.every_transport
async def test_a_disk_request_moves_its_header_data_and_status_and_not_more() -> None:
    async with open_blk_pair() as pair:
        taken: list[Event] = []
        with pair.world.events.listen(taken.append, RINGS):
            await pair.disk.write(0, bytes(2 * SECTOR))
            await pair.disk.read(0, SECTOR)
    moved = [event for event in taken if isinstance(event, DmaMoved)]
    sizes = [(event.write, event.size) for event in moved]
    assert sizes == [(False, 16 + 2 * SECTOR), (True, 1), (False, 16), (True, SECTOR + 1)]
    first, second = [event for event in taken if isinstance(event, ChainAdded)]
    assert [(buffer.size, buffer.writable) for buffer in second.buffers] == [(16, False), (SECTOR, True), (1, True)]
    assert [event.chain for event in moved] == [first.chain] * 2 + [second.chain] * 2
    assert moved[0].addr == first.buffers[0].addr
    kinds = [type(event) for event in taken if isinstance(event, ChainEvent)]
    assert kinds == [ChainAdded, ChainTaken, ChainCompleted, ChainReturned] * 2
    assert {event.frame for event in taken if isinstance(event, ChainEvent)} == {None}


@pytest.mark.every_transport
async def test_of_a_bad_frame_the_device_reads_no_more_than_its_header() -> None:
    checksum_beyond_the_frame = struct.pack("<BBHHHHH", 1, 0, 0, 0, 0xF000, 0, 0)
    async with open_pair() as pair:
        taken: list[Event] = []
        with pair.world.events.listen(taken.append, (*RINGS, Topic.FRAMES)):
            pair.driver_port.inject(FRAME, checksum_beyond_the_frame)
            await trio.sleep(1)
    [moved] = [event for event in taken if isinstance(event, DmaMoved)]
    assert (moved.write, moved.size) == (False, HEAD)
    assert [type(event) for event in taken if isinstance(event, FrameReceived | FrameSent)] == [FrameReceived]


@pytest.mark.every_transport
@pytest.mark.parametrize("size", [HEAD, 200, 4000])
async def test_a_frame_in_several_small_buffers_is_joined_to_the_first_one(size: int) -> None:
    frame = FRAME[:14] + bytes(size - 14)
    async with open_pair(Options(rx_buffer=256, mtu=9000)) as pair:
        for _ in range(3):
            pair.device_port.inject(frame)
            await pair.driver_port.receive()
        taken: list[Event] = []
        with pair.world.events.listen(taken.append, (*RINGS, Topic.FRAMES)):
            pair.device_port.inject(frame)
            assert (await pair.driver_port.receive())[1] == frame
    [received] = [event for event in taken if isinstance(event, FrameReceived)]
    [sent] = [event for event in taken if isinstance(event, FrameSent)]
    assert (received.size, sent.size) == (size, size)
    written = sum(event.size for event in taken if isinstance(event, DmaMoved) and event.write)
    assert written == HEADER + size
    completed = [event for event in taken if isinstance(event, ChainCompleted)]
    assert sum(event.written for event in completed) == written
    assert (received.chain, received.frame) == (completed[0].chain, completed[0].frame)
    assert sent.frame == received.frame
