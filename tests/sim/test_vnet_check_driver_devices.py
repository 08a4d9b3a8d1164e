"""The devices that a driver is watched on: they serve it, and judge the contents of its requests."""

from __future__ import annotations

import struct
from collections.abc import Callable

import pytest

from support.rigs.watching import check_broken, watching
from vnet.check.front import Front
from vnet.check.kinds import Request
from vnet.check.kinds.blk import DISCARD, FLUSH, GET_ID, IN, OUT, SECTOR, make
from vnet.check.kinds.net import RECEIVE, frame, transmit
from vnet.check.split import Buffer
from vnet.check.verdicts import Verdict, exit_status


async def test_a_disk_keeps_what_is_written_and_forgets_what_is_discarded() -> None:
    async with watching("blk") as watch:
        front = watch.front
        data = bytes(range(256)) * 8
        assert await watch.serve(make(front, OUT, 5, data)) == ""
        read = make(front, IN, 5, room=len(data))
        assert await watch.serve(read) == ""
        assert front.arena.read(read.buffers[1].addr, len(data)) == data
        assert await watch.serve(make(front, DISCARD, 0, struct.pack("<QII", 5, 4, 0))) == ""
        read = make(front, IN, 5, room=len(data))
        await watch.serve(read)
        assert not any(front.arena.read(read.buffers[1].addr, len(data)))
        config = await front.config(0, 60)
        assert struct.unpack_from("<QII", config) == (64 << 11, 0, 126)
        assert struct.unpack_from("<I", config, 20) == (SECTOR,)
        assert struct.unpack_from("<HIIIIIB", config, 34) == (1, 64 << 11, 1, 1, 64 << 11, 1, 1)


@pytest.mark.parametrize(
    ("ident", "request_", "words"),
    [
        ("BLK-DRV-9", lambda front: make(front, IN, 64 << 11, room=SECTOR), "header 0000000000000000000002"),
        ("BLK-DRV-11", lambda front: make(front, FLUSH, 7), "header 0400000000000000070000"),
        ("BLK-DRV-13", lambda front: make(front, OUT, 0, bytes(100)), "100 bytes to the device"),
        ("BLK-DRV-14", lambda front: make(front, DISCARD, 0, bytes(15)), "15 bytes to the device"),
        ("BLK-DRV-15", lambda front: make(front, GET_ID, room=21), "21 from it"),
        ("BLK-DRV-16", lambda front: make(front, DISCARD, 0, bytes(32)), "32 bytes to the device"),
        ("BLK-DRV-20", lambda front: make(front, DISCARD, 0, struct.pack("<QII", 0, 1, 1)), "000100000001000000"),
    ],
)
async def test_a_bad_disk_request_is_a_finding(ident: str, request_: Callable[[Front], Request], words: str) -> None:
    async with watching("blk") as watch:
        await watch.serve(request_(watch.front))
        assert await watch.serve(watch.kind.request(watch.front)) == ""
    check_broken(watch, ident, words)
    assert exit_status(watch.results().values()) == 1


async def test_a_flush_with_data_breaks_a_should() -> None:
    async with watching("blk") as watch:
        await watch.serve(make(watch.front, FLUSH, 0, bytes(SECTOR)))
    check_broken(watch, "BLK-DRV-12", "512 bytes to the device", Verdict.WARN)


async def test_bad_frames_are_findings() -> None:
    async with watching("net") as watch:
        await watch.serve(transmit(watch.front, frame(), struct.pack("<BBHHHHH", 1, 1, 0, 0, 0, 0, 3)))
        watch.front.rings[RECEIVE].ring.submit([Buffer(watch.front.arena.alloc(100), 100, True)])
        watch.front.rings[RECEIVE].kick()
    for ident in ("NET-DRV-26", "NET-DRV-27", "NET-DRV-46"):
        check_broken(watch, ident, "header 010100000000000000000300")
    check_broken(watch, "NET-DRV-61", "a receive buffer of 100 bytes", Verdict.WARN)
