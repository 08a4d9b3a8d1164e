"""The SCSI host that a driver is watched on: it serves commands, and judges requests, events and configuration."""

from __future__ import annotations

import struct

import pytest

from drivers.transports.vhost_user.constants import FrontendRequest
from support.rigs.watching import Watch, check_broken, watching
from vnet.check.kinds import Request
from vnet.check.kinds.blk import SECTOR
from vnet.check.kinds.scsi import CDB, CONTROL, EVENT, EVENT_SIZE, INQUIRY, RESPONSES, command, lun, response
from vnet.check.split import Buffer
from vnet.check.verdicts import Verdict, exit_status

WRITE_10 = bytes((0x2A, 0, 0, 0, 0, 7, 0, 0, 1, 0))


async def _do(watch: Watch, cdb: bytes, room: int = 0, data: bytes = b"", address: bytes | None = None) -> bytes:
    """Return the data of a command that succeeds, or its sense data."""
    arena = watch.front.arena
    request, answer = command(watch.front, cdb, room, address)
    buffers = [*request.buffers[:1], *([Buffer(arena.put(data), len(data))] if data else []), *request.buffers[1:]]
    await watch.serve(Request(buffers, request.judge))
    code, status, _ = response(watch.front, answer)
    if code:
        return RESPONSES[code].encode()
    if status:
        return arena.read(answer + 12, 18)
    return arena.read(request.buffers[2].addr, room) if room else b""


async def test_a_host_has_a_disk_that_keeps_what_is_written() -> None:
    async with watching("scsi") as watch:
        assert (await _do(watch, INQUIRY, 36))[8:12] == b"vnet"
        assert await _do(watch, bytes(6)) == b""
        assert struct.unpack(">II", await _do(watch, bytes((0x25,)), 8)) == ((64 << 11) - 1, SECTOR)
        assert (await _do(watch, bytes((0x9E, 0x10)), 32))[:12] == struct.pack(">QI", (64 << 11) - 1, SECTOR)
        assert await _do(watch, bytes((0xA0,)), 16) == struct.pack(">I4xQ", 8, 0)
        data = bytes(range(256)) * 2
        assert await _do(watch, WRITE_10, data=data) == b""
        for cdb in (
            bytes((0x28, *WRITE_10[1:])),
            bytes((0x08, 0, 0, 7, 1, 0)),
            bytes((0xA8, 0, 0, 0, 0, 7, 0, 0, 0, 1)),
            bytes((0x88, 0, *bytes(7), 7, 0, 0, 0, 1)),
        ):
            assert await _do(watch, cdb, SECTOR) == data
        assert (await _do(watch, bytes((0xFF,))))[2:13:10] == bytes((5, 0x20))
        assert (await _do(watch, bytes((0x28, 0, 0xFF, 0, 0, 0, 0, 0, 1)), SECTOR))[12] == 0x21
        assert await _do(watch, INQUIRY, 36, address=lun(3)) == b"BAD_TARGET"
        assert await _do(watch, INQUIRY, 36, address=lun(0, 1)) == b"BAD_TARGET"
        config = await watch.front.config(0, 36)
        assert struct.unpack("<IIIIIIIHHI", config)[5:7] == (96, CDB)
    assert exit_status(watch.results().values(), strict=True) == 0


async def test_functions_are_answered() -> None:
    async with watching("scsi") as watch:
        vring, arena = watch.front.rings[CONTROL], watch.front.arena
        for head, size in ((struct.pack("<II8sQ", 0, 1, lun(), 1), 1), (struct.pack("<I8sI", 1, lun(), 0), 5)):
            answer = arena.put(b"\xff" * size)
            vring.ring.submit([Buffer(arena.put(head), len(head)), Buffer(answer, size, True)])
            vring.kick()
            assert (await watch.front.answer(vring))[1] == size
            assert not any(arena.read(answer, size))


@pytest.mark.parametrize(
    ("ident", "attribute", "address", "verdict"),
    [
        ("SCSI-DRV-8", 0, bytes((2,)) + bytes(7), Verdict.FAIL),
        ("SCSI-DRV-8", 0, lun()[:4] + b"\1\0\0\0", Verdict.FAIL),
        ("SCSI-DRV-9", 1, lun(), Verdict.WARN),
        ("SCSI-DRV-10", 1, lun(), Verdict.WARN),
    ],
)
async def test_a_bad_header_is_a_finding(ident: str, attribute: int, address: bytes, verdict: Verdict) -> None:
    async with watching("scsi") as watch:
        request, _ = command(watch.front, INQUIRY, 36, address)
        watch.front.arena.write(request.buffers[0].addr + 16, bytes((attribute,)))
        await watch.serve(request)
    check_broken(watch, ident, "header ", verdict)


@pytest.mark.parametrize(
    ("ident", "size", "writable", "verdict"),
    [
        ("SCSI-DRV-13", EVENT_SIZE, False, Verdict.FAIL),
        ("SCSI-DRV-14", EVENT_SIZE - 1, True, Verdict.WARN),
        ("SCSI-DRV-15", EVENT_SIZE - 1, True, Verdict.FAIL),
    ],
)
async def test_a_bad_event_buffer_is_a_finding(ident: str, size: int, writable: bool, verdict: Verdict) -> None:
    async with watching("scsi") as watch:
        vring = watch.front.rings[EVENT]
        vring.ring.submit([Buffer(watch.front.arena.alloc(size), size, writable)])
        vring.kick()
    check_broken(watch, ident, "bytes", verdict)


async def test_writes_of_the_configuration_are_judged() -> None:
    def write(offset: int, data: bytes) -> bytes:
        return struct.pack("<III", offset, len(data), 0) + data

    async with watching("scsi") as watch:
        await watch.front.must(FrontendRequest.SET_CONFIG, write(20, struct.pack("<II", 96, 32)))
        await watch.front.must(FrontendRequest.SET_CONFIG, write(16, b"\1"))
    assert watch.results()["SCSI-DRV-3"].seen == "broken 1 of 2 times"
    check_broken(watch, "SCSI-DRV-3", "1 bytes at 16: 01")
